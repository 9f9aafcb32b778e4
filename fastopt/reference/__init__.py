# The oracle of the tests; the compiled package never imports it. Names only.
"""The twins: every class of fastopt in plain NumPy, under the same name and signature.

They are the documentation of the mathematics. Parameters, attributes and errors are documented with
the classes of `fastopt`.
"""

from fastopt._numerical_gradient import numerical_gradient
from fastopt.reference.layers import Affine, Relu, Sigmoid, SoftmaxWithLoss
from fastopt.reference.nets import MultiLayerNet, TwoLayerNet
from fastopt.reference.optimizers import SGD, AdaGrad, Adam, Momentum, Nesterov, RMSprop

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
    "TwoLayerNet",
    "numerical_gradient",
]
