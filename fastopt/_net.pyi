# The types of csrc/fastopt/_net.pyx; stubtest holds the two to each other.

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import Self, disjoint_base

Array = NDArray[Any]

activations: dict[str, bool]
losses: tuple[str, ...]

@disjoint_base
class Workspace:
    def __new__(cls, n_ops: int, n_known: int, n_stages: int) -> Self: ...

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
    @property
    def running_shapes(self) -> dict[str, tuple[int, ...]]: ...
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
    def __setstate__(self, state: tuple[dict[str, Array], int]) -> None: ...
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
