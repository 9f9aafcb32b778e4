from collections.abc import Mapping, MutableMapping
from typing import Any

compiler: str
can_flush_subnormals: bool

def set_flush_subnormals(flush: bool) -> None: ...
def get_flush_subnormals() -> bool: ...

class Stepper:
    rule_name: str
    state_names: tuple[str, ...]
    @property
    def steps(self) -> int: ...
    @property
    def known_steps(self) -> int: ...
    def __init__(self, rule: str, state_names: tuple[str, ...], steps: int = 0) -> None: ...
    def set_steps(self, steps: int) -> None: ...
    def step(
        self,
        params: MutableMapping[Any, Any],
        grads: Mapping[Any, Any],
        states: tuple[dict[Any, Any], ...],
        coefficients: tuple[float, ...],
        steps: int = -1,
    ) -> None: ...
