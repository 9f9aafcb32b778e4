"""Checks of what users set: hyper-parameters, options, standard deviations, counters.

What they are for does not belong here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

Check = TypeVar("Check", bound=Callable[[str, Any], Any])

__all__ = [
    "MAX_COUNT", "any_number", "bound", "count", "dict_of_arrays", "finite", "finite_positive",
    "fraction", "non_negative", "one_of", "optional", "positive", "switch", "takes", "whole",
]  # fmt: skip

MAX_COUNT = 2.0**53 - 1.0
"""The most steps that can be counted: from 2⁵³ on floats skip some whole numbers."""


def _as_float(name: str, value: Any) -> float:
    """Return a number or 0-d array as a Python float; text, bytes and bools are refused."""
    if type(value) is float:
        return value
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


def takes(least: float, below: float) -> Callable[[Check], Check]:
    """Note of a check, as its attribute `takes`, which floats it accepts as they are."""

    def note(check: Check) -> Check:
        check.takes = (least, below)  # type: ignore[attr-defined]
        return check

    return note


def any_number(name: str, value: Any) -> float:
    """Accept any number, NaN too."""
    return _as_float(name, value)


@takes(-sys.float_info.max, math.inf)
def finite(name: str, value: Any) -> float:
    """Accept a finite number."""
    number = _as_float(name, value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return number


@takes(math.ulp(0.0), math.inf)
def finite_positive(name: str, value: Any) -> float:
    """Accept a finite number > 0."""
    number = _as_float(name, value)
    if not 0.0 < number < math.inf:
        raise ValueError(f"{name} must be finite and greater than 0, got {value!r}")
    return number


@takes(0.0, math.inf)
def non_negative(name: str, value: Any) -> float:
    """Accept a finite number ≥ 0."""
    number = _as_float(name, value)
    if not 0.0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}")
    return number


@takes(0.0, 1.0)
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


@takes(math.ulp(0.0), math.inf)
def positive(name: str, value: Any) -> float:
    """Accept a number > 0; infinity is one."""
    number = _as_float(name, value)
    if not number > 0.0:
        raise ValueError(f"{name} must be greater than 0, got {value!r}")
    return number


@takes(-math.inf, math.inf)
def bound(name: str, value: Any) -> float:
    """Accept a number that is not NaN; infinities are numbers."""
    number = _as_float(name, value)
    if math.isnan(number):
        raise ValueError(f"{name} must be a number, got {value!r}")
    return number


def optional(check: Callable[[str, Any], float]) -> Callable[[str, Any], float | None]:
    """Accept None, and what a check accepts."""

    @takes(*check.takes)  # type: ignore[attr-defined]
    def check_unless_none(name: str, value: Any) -> float | None:
        return None if value is None else check(name, value)

    return check_unless_none


def switch(name: str, value: Any) -> bool:
    """Accept True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def whole(name: str, value: Any) -> int:
    """Accept a whole number from 1."""
    if not _is_number(value):
        raise TypeError(f"{name} must be a whole number from 1, got {value!r}")
    number = _as_float(name, value)
    if not (1.0 <= number <= MAX_COUNT and number.is_integer()):
        raise ValueError(f"{name} must be a whole number from 1, got {value!r}")
    return int(number)


def one_of(*words: str) -> Callable[[str, Any], str]:
    """Accept one of the words."""

    def check_word(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError(f"{name} must be {' or '.join(map(repr, words))}, got {value!r}")
        return value

    return check_word


def dict_of_arrays(name: str, value: Any) -> dict[Any, Any]:
    """Accept a dict, as it is."""
    if type(value) is not dict:
        raise TypeError(f"{name} must be a dict of arrays by key, got {value!r}")
    return value
