"""Hyper-parameters as plain attributes that are checked when set, for optimizers and their twins.

What a rule does with them does not belong here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

__all__ = ["EPS", "MAX_COUNT", "Hyperparameters", "count", "fraction", "non_negative"]

EPS = 1e-7
"""Added to a root before dividing by it, in AdaGrad, RMSprop and Adam."""

MAX_COUNT = 2.0**53 - 1.0
"""The most steps that can be counted: from 2⁵³ on floats skip some whole numbers."""


def _as_float(name: str, value: Any) -> float:
    """Return a number or 0-d array as a Python float; text, bytes and bools are refused."""
    if _is_number(value):
        try:
            return float(value)
        except OverflowError:
            return math.inf  # an integer beyond all floats
        except (TypeError, ValueError):
            pass
    raise TypeError(f"{name} must be a number, got {value!r}")


def _is_number(value: Any) -> bool:
    """Return whether a value is a number by its type; `float` would also read text and buffers."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.ndim == 0 and value.dtype.kind in "fiu"
    if isinstance(value, bool):
        return False
    return hasattr(type(value), "__float__") or hasattr(type(value), "__index__")


def non_negative(name: str, value: Any) -> float:
    """Accept a finite number ≥ 0."""
    number = _as_float(name, value)
    if not 0.0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}")
    return number


def fraction(name: str, value: Any) -> float:
    """Accept a number in [0, 1)."""
    number = _as_float(name, value)
    if not 0.0 <= number < 1.0:
        raise ValueError(f"{name} must be at least 0 and less than 1, got {value!r}")
    return number


def count(name: str, value: Any) -> int:
    """Accept a whole number from 0 to `MAX_COUNT`."""
    number = _as_float(name, value)
    if not (0.0 <= number <= MAX_COUNT and number.is_integer()):
        raise ValueError(f"{name} must be a whole number from 0 to 2**53 - 1, got {value!r}")
    return int(number)


class Hyperparameters:
    """Base of a class whose attributes named in `_checks` are validated whenever they are set.

    Checking in ``__setattr__`` leaves reading them as cheap as any attribute, which an optimizer
    step on a small array would otherwise feel.
    """

    _checks: ClassVar[dict[str, Callable[[str, Any], float]]] = {}
    _state_names: ClassVar[tuple[str, ...]] = ()

    if not TYPE_CHECKING:  # to a type checker every name could then be set

        def __setattr__(self, name: str, value: Any) -> None:
            check = self._checks.get(name)
            if check is not None:
                value = check(name, value)
            elif not self._may_have(name):
                has = ", ".join((*self._checks, *self._state_names))
                raise AttributeError(f"{type(self).__name__} has no {name!r}; it has {has}")
            object.__setattr__(self, name, value)

    def _may_have(self, name: str) -> bool:
        """Tell whether an attribute is no slip of the pen; a user's own class may have any."""
        is_own_class = type(self).__module__.partition(".")[0] == "fastopt"
        return not is_own_class or name.startswith("_") or name in self._state_names

    def __repr__(self) -> str:
        values = (f"{name}={getattr(self, name)!r}" for name in self._checks if name != "iter")
        return f"{type(self).__name__}({', '.join(values)})"
