"""What an estimator minimizes: a net's loss as scikit-learn counts it, with the L2 penalty.

Which batches there are, and what becomes of the gradients, belongs in _fitting.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from fastopt import _layers
from fastopt._net import Network
from fastopt._scores import CLASSIFIERS
from fastopt.sklearn._samples import Samples

__all__ = ["Objective", "is_log_loss", "mean_loss", "packed_like"]

Array = NDArray[Any]


class Objective:
    """Loss and gradients of a net on samples.

    The loss is the weighted mean of the net's, plus 0.5·alpha·ΣW² / Σ weights. In three things it
    is scikit-learn's: of several outputs of a regression the gradient is that of their sum, while
    the loss is their mean; except for Poisson, whose loss is the deviance, summed; and the log
    loss is that of probabilities no nearer to 0 and 1 than the dtype's eps.

    Parameters
    ----------
    network : Network
        The net.
    params : dict of str to array
        Its parameters, which are looked at in each call.
    samples : Samples
        What it is to fit.
    alpha : float
        Factor of the penalty.

    Attributes
    ----------
    grads : dict of str to array
        The gradients of the last call.
    packed : array
        The same in one vector, in the order of the parameters.
    """

    def __init__(
        self, network: Network, params: dict[str, Array], samples: Samples, alpha: float
    ) -> None:
        self.network, self.params, self.samples, self.alpha = network, params, samples, alpha
        self.packed, self.grads = packed_like(params)
        self._penalized = [p for key, p in params.items() if key[0] == "W"]
        self._scale = 1 if is_log_loss(network) else samples.outputs
        self._limit = _limit(network)

    def epoch(self, order: Array, size: int, update: Callable[..., object]) -> float:
        """Take a step after each batch of rows in an order, and return the mean of their losses.

        A batch whose samples count for nothing is left out.
        """
        total = 0.0
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            weight = self.samples.weight(rows)
            if weight != 0.0:
                loss = self._gradient(rows, self.alpha / weight)
                total += (loss + self._penalty(weight)) * len(rows)
                update(self.params, self.grads)
        return total / len(order)

    def whole(self) -> tuple[float, Array]:
        """Return loss and gradient, packed, on all samples."""
        total = self.samples.weight(None)
        loss, gradient = 0.0, np.zeros_like(self.packed)
        for rows in self.samples.stretches():
            weight = self.samples.weight(rows)
            if weight != 0.0:
                share = weight / total
                loss += self._gradient(rows, self.alpha / total) * share
                gradient += self.packed * share
        return loss + self._penalty(total), gradient

    def _gradient(self, rows: Array | None, decay: float) -> float:
        """Write the gradients, with decay·W in those of W, and return the loss without penalty."""
        x, t, numbers, weights = self.samples.batch(rows)
        scale = self._scale
        loss = self.network.gradient(self.params, self.grads, x, t, decay / scale, numbers, weights)
        if scale != 1:
            np.multiply(self.packed, scale, out=self.packed)
        if self.network.largest_loss > self._limit:
            return self._clipped(x, t, numbers, weights)
        return _counted(self.network, loss, self.samples, rows)

    def _penalty(self, weight: float) -> float:
        if self.alpha == 0:
            return 0.0
        return 0.5 * self.alpha * sum(map(_layers.sum_of_squares, self._penalized)) / weight

    def _clipped(self, x: Array, t: Array, numbers: Array | None, weights: Array | None) -> float:
        """Return the log loss where one sample's may be beyond what eps allows."""
        if numbers is not None:
            x, t = x[numbers], t[numbers]
            weights = None if weights is None else weights[numbers]
        given = _layers.predictions(self.network.loss, self.network.predict(self.params, x))
        if self.network.loss == "softmax":
            right = np.take_along_axis(given, t[:, np.newaxis], axis=1)
        else:
            right = np.where(t == 1, given, 1 - given)
        eps = np.finfo(given.dtype).eps
        losses = -np.log(np.clip(right, eps, 1 - eps)).sum(axis=1)
        return float(np.average(losses, weights=weights))


def mean_loss(network: Network, params: dict[str, Array], samples: Samples) -> float:
    """Return the loss of a net, without penalty, as `Objective` counts it; nothing is clipped."""
    total, loss = samples.weight(None), 0.0
    for rows in samples.stretches():
        weight = samples.weight(rows)
        if weight != 0.0:
            own = network.mean_loss(params, *samples.batch(rows))
            loss += _counted(network, own, samples, rows) * (weight / total)
    return loss


def packed_like(params: dict[str, Array], dtype: Any = None) -> tuple[Array, dict[str, Array]]:
    """Return a vector for all parameters, in their order, and the views of it by key."""
    packed = np.zeros(sum(p.size for p in params.values()), dtype or params["W1"].dtype)
    views, start = {}, 0
    for key, p in params.items():
        views[key] = packed[start : start + p.size].reshape(p.shape)
        start += p.size
    return packed, views


def is_log_loss(network: Network) -> bool:
    """Tell whether the net's loss is one of classification."""
    return network.loss in CLASSIFIERS


def _counted(network: Network, loss: float, samples: Samples, rows: Array | None) -> float:
    """Return the net's mean loss as scikit-learn counts it."""
    if network.loss != "poisson":
        return loss
    t = samples.t if rows is None else samples.t[rows]
    weights = samples.weights if rows is None or samples.weights is None else samples.weights[rows]
    least = np.average((xlogy(t, t) - t).sum(axis=1), weights=weights)  # of the targets alone
    return loss * samples.outputs + float(least)


def _limit(network: Network) -> float:
    """Return the loss of a sample beyond which scikit-learn's is another; infinity: nowhere.

    With batch normalization or dropout there is nothing of scikit-learn's to be equal to.
    """
    if not is_log_loss(network) or network.running or network.dropout_ratio:
        return np.inf
    return float(-np.log(np.finfo(network.dtype).eps))
