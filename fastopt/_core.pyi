from collections.abc import Mapping, MutableMapping
from typing import Any

compiler: str

class Stepper:
    rule_name: str
    state_names: tuple[str, ...]
    def __init__(self, rule: str, state_names: tuple[str, ...]) -> None: ...
    def step(
        self,
        params: MutableMapping[Any, Any],
        grads: Mapping[Any, Any],
        states: tuple[dict[Any, Any], ...],
        coefficients: tuple[float, ...],
    ) -> None: ...
