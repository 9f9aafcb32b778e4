# The types of csrc/_core.pyx; stubtest holds the two to each other.

from collections.abc import Mapping, MutableMapping
from typing import Any

from typing_extensions import Self, disjoint_base

compiler: str

def count_fork() -> None: ...

@disjoint_base
class Stepper:
    @property
    def rule_name(self) -> str: ...
    @property
    def state_names(self) -> tuple[str, ...]: ...
    @property
    def steps(self) -> int: ...
    @property
    def known_steps(self) -> int: ...
    def __new__(cls, rule: str, state_names: tuple[str, ...], steps: int = 0) -> Self: ...
    def __reduce__(self) -> tuple[type[Stepper], tuple[str, tuple[str, ...], int]]: ...
    def set_steps(self, steps: int) -> None: ...
    def step(
        self,
        params: MutableMapping[Any, Any],
        grads: Mapping[Any, Any],
        states: tuple[dict[Any, Any], ...],
        coefficients: tuple[float, ...],
    ) -> None: ...
