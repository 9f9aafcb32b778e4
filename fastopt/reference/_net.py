"""What a net computes, as a list of NumPy layers: the twin of the compiled `fastopt._net`.

Here is how the layers follow each other and whose arrays they have; each computes for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastopt import _contract
from fastopt._targets import checked_targets, checked_weights
from fastopt.reference import layers
from fastopt.reference.losses import (
    MeanLoss,
    as_real,
    predictions,
    sum_of_squares,
)

__all__ = ["Network", "predictions", "sum_of_squares"]

Array = NDArray[Any]

# name → class of the layer; the identity needs none
_ACTIVATIONS: dict[str, Callable[[], Any] | None] = {
    "identity": None,
    "relu": layers.Relu,
    "leaky_relu": layers.LeakyRelu,
    "sigmoid": layers.Sigmoid,
    "tanh": layers.Tanh,
    "gelu": layers.Gelu,
    "silu": layers.Silu,
}


class Network:
    """Twin of the compiled one: Affine, batch normalization, activation, dropout, …, Affine, loss.

    Running averages, steps and seed are its own; parameters come with each call.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        activation: str,
        loss: str,
        dtype: DTypeLike,
        use_batchnorm: bool = False,
        dropout_ratio: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.sizes, self.activation, self.loss = sizes, activation, loss
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.use_batchnorm, self.dropout_ratio = use_batchnorm, dropout_ratio
        self.steps, self.seed = 0, seed
        self.shapes = _contract.parameter_shapes(sizes, use_batchnorm)
        self.running_shapes = _contract.running_shapes(sizes, use_batchnorm)
        self.running = _contract.first_averages(self.running_shapes, self.dtype)

    def predict(self, params: Mapping[str, Array], x: ArrayLike) -> Array:
        """Return the scores (N, C)."""
        return self._forward(self._layers(params), x, train_flg=False)

    def mean_loss(
        self,
        params: Mapping[str, Array],
        x: ArrayLike,
        t: ArrayLike,
        rows: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> float:
        """Return the mean loss, evaluated: with running averages, and without dropout."""
        net = self._layers(params)
        x, t, shares = self._batch(x, t, rows, weights)
        return MeanLoss(self.loss).forward(self._forward(net, x, False), t, shares)

    def gradient(
        self,
        params: Mapping[str, Array],
        grads: dict[str, Array],
        x: ArrayLike,
        t: ArrayLike,
        weight_decay: float,
        rows: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> float:
        """Write the gradients into the arrays of `grads` and return the mean loss, in training."""
        net = self._layers(params)
        _contract.check_outputs(grads, self.running, params, np.asarray(x), self.shapes, self.dtype)
        x, t, shares = self._batch(x, t, rows, weights)
        last = MeanLoss(self.loss)
        loss = last.forward(self._forward(net, x, train_flg=True), t, shares)
        dout = last.backward()
        for i, layer in reversed(net):
            dout = layer.backward(dout)
            for name in layer._params:
                np.copyto(grads[f"{name}{i}"], getattr(layer, f"d{name}"))
                if name == "W" and weight_decay:
                    grads[f"W{i}"] += self.dtype.type(weight_decay) * layer.W
        self.steps += 1
        return loss

    def _layers(self, params: Mapping[str, Array]) -> list[tuple[int, Any]]:
        """Return the layers in their order, each with the number that its parameters have."""
        for key, shape in self.shapes.items():
            _contract.check_parameter(params, key, shape, self.dtype)
        _contract.check_written("running", self.running, self.running_shapes, self.dtype)
        net: list[tuple[int, Any]] = []
        hidden = len(self.sizes) - 2
        for i in range(1, hidden + 1):
            net.append((i, layers.Affine(params[f"W{i}"], params[f"b{i}"])))
            if self.use_batchnorm:
                net.append((i, self._batchnorm(params, i)))
            activation = _ACTIVATIONS[self.activation]
            if activation is not None:
                net.append((i, activation()))
            if self.dropout_ratio:
                net.append((i, self._dropout(i)))
        last = hidden + 1
        net.append((last, layers.Affine(params[f"W{last}"], params[f"b{last}"])))
        return net

    def _batchnorm(self, params: Mapping[str, Array], i: int) -> layers.BatchNormalization:
        mean, var = self.running[f"mean{i}"], self.running[f"var{i}"]
        return layers.BatchNormalization(
            params[f"gamma{i}"], params[f"beta{i}"], running_mean=mean, running_var=var
        )

    def _dropout(self, i: int) -> layers.Dropout:
        layer = layers.Dropout(self.dropout_ratio, rng=0)
        layer.seed, layer.steps, layer._layer = self.seed, self.steps, i - 1
        return layer

    def _forward(self, net: list[tuple[int, Any]], x: ArrayLike, train_flg: bool) -> Array:
        differ = (layers.BatchNormalization, layers.Dropout)  # in training
        for _, layer in net:
            x = layer.forward(x, train_flg) if isinstance(layer, differ) else layer.forward(x)
        return np.asarray(x)

    def _batch(
        self, x: ArrayLike, t: ArrayLike, rows: ArrayLike | None, weights: ArrayLike | None
    ) -> tuple[Array, Array, NDArray[np.float64] | None]:
        """Return samples, targets and weights of a batch, all if it is None; checked."""
        x = as_real("x", x)
        n = len(x) if x.ndim else 0
        batch = None if rows is None else _checked_rows(rows, n)
        x = layers.as_rows(x if batch is None else x[batch], self.sizes[0])
        t = checked_targets(self.loss, t, n, self.sizes[-1], self.dtype, batch)
        return x, t, None if weights is None else checked_weights(weights, n, batch)


def _checked_rows(rows: ArrayLike, n: int) -> NDArray[np.intp]:
    """Return row numbers from 0 to n-1, of which negative ones count from the end."""
    batch = np.asarray(rows)
    if batch.shape == (0,):
        raise ValueError("batch is empty, wants one row number at least")
    if batch.dtype.kind not in "iu":
        raise TypeError(f"batch must be row numbers, got dtype {batch.dtype}")
    if batch.ndim != 1:
        raise ValueError(f"batch has shape {batch.shape}, wants (N,)")
    are_out = (batch < -n) | (batch >= n)
    if are_out.any():
        i = int(np.argmax(are_out))
        raise IndexError(f"batch[{i}] is {batch[i]}, x holds {n} samples")
    batch = batch.astype(np.intp)
    return np.where(batch < 0, batch + n, batch)
