"""The nets on compiled kernels: a batch goes through all layers in one call.

Parameters and documentation are in `fastopt._net_base`, the call itself in csrc/fastopt/_net.pyx.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike, NDArray

from fastopt import _net, _net_base

__all__ = ["MultiLayerNet", "TwoLayerNet"]

Array = NDArray[Any]


class MultiLayerNet(_net_base.MultiLayerNet):
    __doc__ = _net_base.MultiLayerNet.__doc__

    def _build(self, sizes: list[int], activation: str) -> None:
        self._network = _net.Network(tuple(sizes), str(activation), self.dtype)

    def _predict(self, x: ArrayLike) -> Array:
        return self._network.predict(self.params, x)

    def _cross_entropy(self, x: ArrayLike, t: ArrayLike, batch: ArrayLike | None) -> float:
        return self._network.cross_entropy(self.params, x, t, batch)

    def _backpropagate(
        self, grads: dict[str, Array], x: ArrayLike, t: ArrayLike, batch: ArrayLike | None
    ) -> float:
        return self._network.gradient(self.params, grads, x, t, self.weight_decay_lambda, batch)

    def _sum_of_squares(self, W: Array) -> float:
        return _net.sum_of_squares(W)

    def _count_correct(self, scores: Array, t: ArrayLike) -> int:
        return _net.count_correct(scores, t)


class TwoLayerNet(_net_base.TwoLayerNet, MultiLayerNet):
    __doc__ = _net_base.TwoLayerNet.__doc__
