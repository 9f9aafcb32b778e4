# The optimizers' names, from the modules of their families. Nothing is declared here.
"""Optimizers that update a dict of NumPy arrays in place, in compiled steps.

Each equals its twin of the same name in `fastopt.reference` bit for bit.
"""

from typing import TYPE_CHECKING

from fastopt.optimizers import adam as _adam
from fastopt.optimizers import adaptive as _adaptive
from fastopt.optimizers import descent as _descent
from fastopt.optimizers.adam import *
from fastopt.optimizers.adaptive import *
from fastopt.optimizers.descent import *

if not TYPE_CHECKING:  # a type checker would want them written out
    __all__ = [*_descent.__all__, *_adaptive.__all__, *_adam.__all__]
