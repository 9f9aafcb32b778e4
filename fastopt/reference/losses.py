"""The losses in NumPy: of each sample, and by its scores; and what is computed from a net's scores.

Targets and weights come checked, from `fastopt._targets`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "MeanLoss", "as_real", "loss_and_slopes", "predictions", "sigmoid", "softmax",
    "sum_of_squares",
]  # fmt: skip

Array = NDArray[Any]


def as_real(name: str, x: ArrayLike) -> Array:
    """Return `x` as an array, float32 or float64; other real dtypes become float64."""
    x = np.asarray(x)
    if x.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be real numbers, got dtype {x.dtype}")
    dtype = x.dtype.type if x.dtype.type in (np.float32, np.float64) else np.float64
    return x.astype(dtype, copy=False)


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)); for a large -x that is 1 / (1 + ∞) = 0."""
    one = x.dtype.type(1)
    with np.errstate(over="ignore"):
        return np.asarray(one / (one + np.exp(-x)))


def softmax(h: Array) -> Array:
    """Return exp h / Σ exp h of each row; its largest score is subtracted, so none is too large."""
    with np.errstate(all="ignore"):  # NaN and infinity come unannounced
        e = np.exp(h - h.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))


def _times(t: Array, h: Array) -> Array:
    """Return t·h, where 0·∞ is 0: what has no weight counts for nothing."""
    return np.where((t == 0) & ~np.isnan(h), 0, t * h)


# What a loss is for each score h with its target t, and the derivative by h


def _logistic(h: Array, t: Array) -> tuple[Array, Array]:
    # log(1 + exp h) - t·h, without cancellation: log(1 + exp -h) is log(1 + exp h) - h
    losses = _times(t, np.logaddexp(0, -h)) + _times(1 - t, np.logaddexp(0, h))
    return losses, sigmoid(h) - t


def _squared_error(h: Array, t: Array) -> tuple[Array, Array]:
    return 0.5 * (h - t) ** 2, h - t


def _absolute_error(h: Array, t: Array) -> tuple[Array, Array]:
    return np.abs(h - t), np.sign(h - t)


def _huber(h: Array, t: Array) -> tuple[Array, Array]:
    distance = np.abs(h - t)
    return np.where(distance < 1, 0.5 * (h - t) ** 2, distance - 0.5), np.clip(h - t, -1, 1)


def _poisson(h: Array, t: Array) -> tuple[Array, Array]:
    return np.exp(h) - _times(t, h), np.exp(h) - t


def _softmax(h: Array, t: Array) -> tuple[Array, Array]:
    shifted = h - h.max(axis=1, keepdims=True)
    losses = _times(t, -shifted)
    losses[:, 0] += np.log(np.exp(shifted).sum(axis=1))  # once a row: their sum is the row's loss
    return losses, softmax(h) - t


# name → the function, and whether a sample's loss is the mean over outputs, else their sum
_LOSSES: dict[str, tuple[Callable[[Array, Array], tuple[Array, Array]], bool]] = {
    "softmax": (_softmax, False),
    "logistic": (_logistic, False),
    "squared_error": (_squared_error, True),
    "absolute_error": (_absolute_error, True),
    "huber": (_huber, True),
    "poisson": (_poisson, True),
}


def loss_and_slopes(name: str, h: Array, t: Array) -> tuple[NDArray[np.float64], Array]:
    """Return the loss of each sample, (N,), and its derivatives by the scores, (N, C)."""
    of_pair, is_mean = _LOSSES[name]
    with np.errstate(all="ignore"):
        losses, slopes = of_pair(h.astype(np.float64), t.astype(np.float64))
        share = 1 / h.shape[1] if is_mean else 1.0
        return losses.sum(axis=1) * share, slopes * share


class MeanLoss:
    """The last layer of a net: the mean of the samples' losses, Σw·l / Σw with weights."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._dx: Array | None = None

    def forward(self, h: Array, t: Array, weights: NDArray[np.float64] | None = None) -> float:
        """Return the loss of scores h and targets t, both (N, C), and weights (N,)."""
        losses, slopes = loss_and_slopes(self.name, h, t)
        if weights is None:
            weights = np.ones(len(h))
        counts, shares = weights > 0, weights / weights.sum()
        with np.errstate(all="ignore"):  # what doesn't count may be NaN or infinite
            dx = np.where(counts[:, np.newaxis], shares[:, np.newaxis] * slopes, 0)
            self._dx = dx.astype(h.dtype)
            return float(np.sum(np.where(counts, shares * losses, 0)))

    def backward(self) -> Array:
        """Return the gradient with respect to the scores, (N, C)."""
        assert self._dx is not None, "forward comes first"
        return self._dx


def predictions(name: str, h: Array) -> Array:
    """Return what scores say of the targets: probabilities, rates, or the scores themselves."""
    with np.errstate(all="ignore"):
        if name == "softmax":
            return softmax(h)
        if name == "logistic":
            return sigmoid(h)
        return np.exp(h) if name == "poisson" else h.copy()


def sum_of_squares(W: Array) -> float:
    """Return ΣW², summed in float64."""
    return float(np.sum(np.square(W, dtype=np.float64)))
