"""The nets on the NumPy layers; names, documentation and checks are in `fastopt._net_base`."""

from __future__ import annotations

from typing import Any, ClassVar

from fastopt import _net_base
from fastopt.reference import _net

__all__ = ["MultiLayerNet", "TwoLayerNet"]


class MultiLayerNet(_net_base.MultiLayerNet):
    """Twin of `fastopt.MultiLayerNet`: the same net on the NumPy layers."""

    _network_class: ClassVar[Any] = _net.Network
    _kernels: ClassVar[Any] = _net


class TwoLayerNet(_net_base.TwoLayerNet, MultiLayerNet):
    """Twin of `fastopt.TwoLayerNet`: the same net on the NumPy layers."""
