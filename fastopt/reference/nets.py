"""The nets on the NumPy layers; parameters, documentation and checks are in `fastopt._net_base`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastopt import _contract, _net_base
from fastopt.reference import layers

__all__ = ["MultiLayerNet", "TwoLayerNet"]

Array = NDArray[Any]


class MultiLayerNet(_net_base.MultiLayerNet):
    """Twin of `fastopt.MultiLayerNet`: the same net on the NumPy layers."""

    def _build(self, sizes: list[int], activation: str) -> None:
        kinds: dict[str, Any] = {"relu": layers.Relu, "sigmoid": layers.Sigmoid}
        params, numbers = self.params, range(1, len(sizes))
        self._affines = [layers.Affine(params[f"W{i}"], params[f"b{i}"]) for i in numbers]
        self._activations = [kinds[activation]() for _ in numbers[:-1]]
        self._last = layers.SoftmaxWithLoss()

    def _predict(self, x: ArrayLike) -> Array:
        self._use_params()
        out = self._affines[0].forward(x)
        for activation, affine in zip(self._activations, self._affines[1:], strict=True):
            out = affine.forward(activation.forward(out))
        return out

    def _cross_entropy(self, x: ArrayLike, t: ArrayLike, batch: ArrayLike | None) -> float:
        x, t = _rows(x, t, batch)
        return self._last.forward(self._predict(x), t)

    def _backpropagate(
        self, grads: dict[str, Array], x: ArrayLike, t: ArrayLike, batch: ArrayLike | None
    ) -> float:
        self._use_params()
        x = np.asarray(x)
        _contract.check_outputs(grads, self.params, x, self._shapes, self.dtype)
        loss = self._cross_entropy(x, t, batch)
        dout = self._last.backward()
        for i in reversed(range(len(self._affines))):
            if i < len(self._activations):
                dout = self._activations[i].backward(dout)
            dW, db = grads[f"W{i + 1}"], grads[f"b{i + 1}"]
            dout = self._affines[i].backward(dout, out=(dW, db))
            if self.weight_decay_lambda:
                layers.add_weight_decay(dW, self._affines[i].W, self.weight_decay_lambda)
        return loss

    def _use_params(self) -> None:
        """Hand the layers what `params` holds now, so that a replaced entry is never ignored."""
        for key, shape in self._shapes.items():
            _contract.check_parameter(self.params, key, shape, self.dtype)
        for i, affine in enumerate(self._affines, start=1):
            affine.W, affine.b = self.params[f"W{i}"], self.params[f"b{i}"]

    def _sum_of_squares(self, W: Array) -> float:
        return layers.sum_of_squares(W)

    def _count_correct(self, scores: Array, t: ArrayLike) -> int:
        return layers.count_correct(scores, t)


class TwoLayerNet(_net_base.TwoLayerNet, MultiLayerNet):
    """Twin of `fastopt.TwoLayerNet`: the same net on the NumPy layers."""


def _rows(x: ArrayLike, t: ArrayLike, batch: ArrayLike | None) -> tuple[ArrayLike, ArrayLike]:
    """Return the rows of a batch, all if it is None."""
    if batch is None:
        return x, t
    x, t, batch = np.asarray(x), np.asarray(t), np.asarray(batch)
    if batch.shape == (0,):
        raise ValueError("batch is empty, wants one row number at least")
    if batch.dtype.kind not in "iu":
        raise TypeError(f"batch must be row numbers, got dtype {batch.dtype}")
    if batch.ndim != 1:
        raise ValueError(f"batch has shape {batch.shape}, wants (N,)")
    if len(t) != len(x):
        raise ValueError(f"labels have shape {t.shape}, want ({len(x)},)")
    return x[batch], t[batch]
