# The types of csrc/fastopt/_layers.pyx; stubtest holds the two to each other.

from typing import Any

from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

def affine_forward(x: ArrayLike, W: Array, b: Array) -> tuple[Array, Array]: ...
def affine_gradient(
    dout: ArrayLike,
    x: Array | None,
    W: Array,
    b: Array,
    dW: Array | None = None,
    db: Array | None = None,
) -> tuple[Array, Array, Array]: ...
def activation_forward(activation: str, x: ArrayLike) -> tuple[Array, Array]: ...
def activation_gradient(activation: str, dout: ArrayLike, kept: Array | None) -> Array: ...
def batchnorm_forward(
    x: ArrayLike,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    train: bool,
) -> tuple[Array, tuple[Array, Array, Array]]: ...
def batchnorm_gradient(
    dout: ArrayLike, kept: tuple[Array, Array, Array] | None, gamma: Array
) -> tuple[Array, Array, Array]: ...
def dropout(x: ArrayLike, ratio: float, seed: int, step: int) -> Array: ...
def softmax_loss_forward(x: ArrayLike, t: ArrayLike) -> tuple[float, Array, Array]: ...
def softmax_loss_gradient(
    y: Array | None, kept: Array | None, classes: int, dout: float
) -> Array: ...
def predictions(loss: str, scores: ArrayLike) -> Array: ...
def sum_of_squares(W: Array) -> float: ...
