from collections.abc import Mapping, MutableMapping
from typing import Any

compiler: str

class Stepper:
    rule_name: str
    state_names: tuple[str, ...]
    steps: int
    known_steps: int
    def __init__(self, rule: str, state_names: tuple[str, ...], steps: int = 0) -> None: ...
    def set_steps(self, steps: int) -> None: ...
    def step(
        self,
        params: MutableMapping[Any, Any],
        grads: Mapping[Any, Any],
        states: tuple[dict[Any, Any], ...],
        coefficients: tuple[float, ...],
    ) -> None: ...
