"""The nets on the NumPy layers; everything but the choice of layers is shared."""

from __future__ import annotations

from typing import cast

from fastopt import _net
from fastopt.reference import layers

__all__ = ["MultiLayerNet", "TwoLayerNet"]


class MultiLayerNet(_net.MultiLayerNet):
    """Twin of `fastopt.MultiLayerNet`: the same net on the NumPy layers."""

    _layers = cast(_net.LayerSet, layers)


class TwoLayerNet(_net.TwoLayerNet):
    """Twin of `fastopt.TwoLayerNet`: the same net on the NumPy layers."""

    _layers = cast(_net.LayerSet, layers)
