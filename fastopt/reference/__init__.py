# The oracle of the tests; the compiled package never imports it. Names only.
"""The twins: every class of fastopt in plain NumPy, under the same name and signature.

They are the documentation of the mathematics. Parameters, attributes and errors are documented with
the classes of `fastopt`.
"""

from typing import TYPE_CHECKING

from fastopt._numerical_gradient import numerical_gradient as numerical_gradient
from fastopt.reference import layers as _layers
from fastopt.reference import nets as _nets
from fastopt.reference import optimizers as _optimizers
from fastopt.reference.layers import *
from fastopt.reference.nets import *
from fastopt.reference.optimizers import *

if not TYPE_CHECKING:  # a type checker would want them written out
    __all__ = [*_optimizers.__all__, *_layers.__all__, *_nets.__all__, "numerical_gradient"]
