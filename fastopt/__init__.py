# Names only: what they do is in the modules they come from.
"""fastopt: optimizers, layers and nets on plain NumPy arrays, compiled.

The optimizers update a dict of arrays in place and equal their NumPy twins in `fastopt.reference`
bit for bit.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

try:
    from fastopt.optimizers import *
except ImportError:
    from fastopt._compiled import require_compiled

    require_compiled(__path__)
    raise

from fastopt import optimizers as _optimizers
from fastopt._config import show_config as show_config
from fastopt._numerical_gradient import numerical_gradient as numerical_gradient
from fastopt._subnormals import get_flush_subnormals as get_flush_subnormals
from fastopt._subnormals import set_flush_subnormals as set_flush_subnormals
from fastopt._threads import get_num_threads as get_num_threads
from fastopt._threads import set_num_threads as set_num_threads
from fastopt._version import __version__ as __version__

if TYPE_CHECKING:  # a type checker takes what follows, and what is imported above as itself
    from fastopt import datasets as datasets
    from fastopt import experiments as experiments
    from fastopt import plotting as plotting
    from fastopt import reference as reference
    from fastopt import schedules as schedules
    from fastopt import typing as typing
    from fastopt.layers import Affine as Affine
    from fastopt.layers import BatchNormalization as BatchNormalization
    from fastopt.layers import Dropout as Dropout
    from fastopt.layers import Gelu as Gelu
    from fastopt.layers import LeakyRelu as LeakyRelu
    from fastopt.layers import Relu as Relu
    from fastopt.layers import Sigmoid as Sigmoid
    from fastopt.layers import Silu as Silu
    from fastopt.layers import SoftmaxWithLoss as SoftmaxWithLoss
    from fastopt.layers import Tanh as Tanh
    from fastopt.nets import MultiLayerNet as MultiLayerNet
    from fastopt.nets import TwoLayerNet as TwoLayerNet
    from fastopt.saving import load as load
    from fastopt.saving import save as save
    from fastopt.training import Trainer as Trainer

# What is not needed to take a step is imported when first used; layers may load scipy.
_LAZY = {
    "Affine": "fastopt.layers",
    "BatchNormalization": "fastopt.layers",
    "Dropout": "fastopt.layers",
    "Gelu": "fastopt.layers",
    "LeakyRelu": "fastopt.layers",
    "Relu": "fastopt.layers",
    "Sigmoid": "fastopt.layers",
    "Silu": "fastopt.layers",
    "SoftmaxWithLoss": "fastopt.layers",
    "Tanh": "fastopt.layers",
    "MultiLayerNet": "fastopt.nets",
    "TwoLayerNet": "fastopt.nets",
    "Trainer": "fastopt.training",
    "load": "fastopt.saving",
    "save": "fastopt.saving",
}
_LAZY_MODULES = ("datasets", "experiments", "plotting", "reference", "schedules", "typing")

if not TYPE_CHECKING:
    __all__ = [
        *_optimizers.__all__,
        *_LAZY,
        *_LAZY_MODULES,
        "__version__",
        "get_flush_subnormals",
        "get_num_threads",
        "numerical_gradient",
        "set_flush_subnormals",
        "set_num_threads",
        "show_config",
    ]

    def __getattr__(name: str) -> Any:  # to a type checker every name would be there
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
