"""The nets on the compiled layers; everything but the choice of layers is in `fastopt._net`."""

from __future__ import annotations

from typing import cast

from fastopt import _net, layers

__all__ = ["MultiLayerNet", "TwoLayerNet"]


class MultiLayerNet(_net.MultiLayerNet):
    __doc__ = _net.MultiLayerNet.__doc__
    _layers = cast(_net.LayerSet, layers)


class TwoLayerNet(_net.TwoLayerNet):
    __doc__ = _net.TwoLayerNet.__doc__
    _layers = cast(_net.LayerSet, layers)
