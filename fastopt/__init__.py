# Names only: what they do is in the modules they come from.
"""fastopt: optimizers, layers and nets on plain NumPy arrays, compiled.

The optimizers update a dict of arrays in place and equal their NumPy twins in `fastopt.reference`
bit for bit.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

try:
    from fastopt import _core as _core
except ImportError:
    from fastopt._compiled import require_compiled

    require_compiled(__path__)
    raise

from fastopt._config import show_config
from fastopt._numerical_gradient import numerical_gradient
from fastopt._subnormals import get_flush_subnormals, set_flush_subnormals
from fastopt._threads import get_num_threads, set_num_threads
from fastopt._version import __version__
from fastopt.optimizers import SGD, AdaGrad, Adam, Momentum, Nesterov, RMSprop

if TYPE_CHECKING:
    from fastopt import datasets, experiments, plotting, reference, typing
    from fastopt.layers import Affine, Relu, Sigmoid, SoftmaxWithLoss
    from fastopt.nets import MultiLayerNet, TwoLayerNet
    from fastopt.training import Trainer

__all__ = [
    "SGD",
    "AdaGrad",
    "Adam",
    "Affine",
    "Momentum",
    "MultiLayerNet",
    "Nesterov",
    "RMSprop",
    "Relu",
    "Sigmoid",
    "SoftmaxWithLoss",
    "Trainer",
    "TwoLayerNet",
    "__version__",
    "datasets",
    "experiments",
    "get_flush_subnormals",
    "get_num_threads",
    "numerical_gradient",
    "plotting",
    "reference",
    "set_flush_subnormals",
    "set_num_threads",
    "show_config",
    "typing",
]

# What is not needed to take a step is imported when first used; layers may load scipy.
_LAZY = {
    "Affine": "fastopt.layers",
    "Relu": "fastopt.layers",
    "Sigmoid": "fastopt.layers",
    "SoftmaxWithLoss": "fastopt.layers",
    "MultiLayerNet": "fastopt.nets",
    "TwoLayerNet": "fastopt.nets",
    "Trainer": "fastopt.training",
}
_LAZY_MODULES = ("datasets", "experiments", "plotting", "reference", "typing")


if not TYPE_CHECKING:  # to a type checker every name would be there

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            value = getattr(importlib.import_module(_LAZY[name]), name)
        elif name in _LAZY_MODULES:
            value = importlib.import_module(f"fastopt.{name}")
        else:
            raise AttributeError(f"module 'fastopt' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
