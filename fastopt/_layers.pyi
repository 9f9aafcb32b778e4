from typing import Any

import numpy as np
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
def activation_gradient(activation: str, dout: ArrayLike, out: Array | None) -> Array: ...
def softmax_loss_forward(x: ArrayLike, t: ArrayLike) -> tuple[float, Array, Array]: ...
def softmax_loss_gradient(
    y: Array | None, labels: Array | None, classes: int, dout: float
) -> Array: ...
def count_correct(scores: ArrayLike, t: ArrayLike) -> int: ...
def sum_of_squares(W: Array) -> float: ...
def count_fork() -> None: ...

class Network:
    sizes: tuple[int, ...]
    activation: str
    dtype: np.dtype[Any]
    shapes: dict[str, tuple[int, ...]]
    def __init__(self, sizes: tuple[int, ...], activation: str, dtype: np.dtype[Any]) -> None: ...
    def predict(self, params: dict[str, Array], x: ArrayLike) -> Array: ...
    def cross_entropy(
        self, params: dict[str, Array], x: ArrayLike, t: ArrayLike, rows: ArrayLike | None = None
    ) -> float: ...
    def gradient(
        self,
        params: dict[str, Array],
        grads: dict[str, Array],
        x: ArrayLike,
        t: ArrayLike,
        weight_decay: float,
        rows: ArrayLike | None = None,
    ) -> float: ...
