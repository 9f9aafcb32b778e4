# The types of csrc/fastopt/_step.pyx; stubtest holds the two to each other.

from collections.abc import Mapping, MutableMapping
from typing import Any, final

from typing_extensions import Self

rules: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]

def after_fork() -> None: ...

@final
class Stepper:
    @property
    def rule_name(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def known_steps(self) -> int: ...
    @property
    def checked_entries(self) -> int: ...
    def __new__(cls, rule: str, steps: int = 0) -> Self: ...
    def __reduce__(self) -> tuple[type[Stepper], tuple[str, int]]: ...
    def set_steps(self, steps: int) -> None: ...
    def forget(self) -> None: ...
    def step(
        self,
        params: MutableMapping[Any, Any],
        grads: Mapping[Any, Any],
        states: tuple[dict[Any, Any], ...],
        rows: tuple[tuple[float, ...], ...],
        as_of: int,
        flush: bool,
        owner: object = None,
    ) -> None: ...
