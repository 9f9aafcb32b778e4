# The types of csrc/fastopt/_net.pyx; stubtest holds the two to each other.

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import Self, disjoint_base

Array = NDArray[Any]

activations: dict[str, bool]
losses: tuple[str, ...]

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
    y: Array | None, labels: Array | None, classes: int, dout: float
) -> Array: ...
def predictions(loss: str, scores: ArrayLike) -> Array: ...
def count_correct(scores: ArrayLike, t: ArrayLike) -> int: ...
def sum_of_squares(W: Array) -> float: ...

@disjoint_base
class Workspace:
    def __new__(cls, n_affines: int) -> Self: ...

@disjoint_base
class Network:
    steps: int
    seed: int
    @property
    def sizes(self) -> tuple[int, ...]: ...
    @property
    def activation(self) -> str: ...
    @property
    def loss(self) -> str: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def use_batchnorm(self) -> bool: ...
    @property
    def dropout_ratio(self) -> float: ...
    @property
    def shapes(self) -> dict[str, tuple[int, ...]]: ...
    @property
    def largest_loss(self) -> float: ...
    @property
    def running(self) -> dict[str, Array]: ...
    def __new__(
        cls,
        sizes: tuple[int, ...],
        activation: str,
        loss: str,
        dtype: np.dtype[Any],
        use_batchnorm: bool = False,
        dropout_ratio: float = 0.0,
        seed: int = 0,
    ) -> Self: ...
    def __reduce__(self) -> tuple[Any, ...]: ...
    def predict(self, params: dict[str, Array], x: ArrayLike) -> Array: ...
    def mean_loss(
        self,
        params: dict[str, Array],
        x: ArrayLike,
        t: ArrayLike,
        rows: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> float: ...
    def gradient(
        self,
        params: dict[str, Array],
        grads: dict[str, Array],
        x: ArrayLike,
        t: ArrayLike,
        weight_decay: float,
        rows: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> float: ...
