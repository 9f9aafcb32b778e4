"""The nets on compiled kernels: a batch goes through all layers in one call.

Parameters and documentation are in `fastopt._net_base`, the call itself in csrc/fastopt/_net.pyx.
"""

from __future__ import annotations

from typing import Any, ClassVar

from fastopt import _layers, _net, _net_base

__all__ = ["MultiLayerNet", "TwoLayerNet"]


class MultiLayerNet(_net_base.MultiLayerNet):
    __doc__ = _net_base.MultiLayerNet.__doc__

    _network_class: ClassVar[Any] = _net.Network
    _kernels: ClassVar[Any] = _layers


class TwoLayerNet(_net_base.TwoLayerNet, MultiLayerNet):
    __doc__ = _net_base.TwoLayerNet.__doc__
