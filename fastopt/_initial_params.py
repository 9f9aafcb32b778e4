"""How a net begins: its sizes checked, its parameters drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from fastopt._checks import non_negative
from fastopt._contract import parameter_shapes
from fastopt.typing import Array

__all__ = ["checked_sizes", "checked_std", "initial_params"]

# Variance of a weight times its fan-in: He et al. 2015 for relu, Glorot & Bengio 2010 for sigmoid
_VARIANCE_TIMES_FAN_IN = {"relu": 2.0, "he": 2.0, "sigmoid": 1.0, "xavier": 1.0}


def checked_sizes(sizes: Iterable[Any]) -> list[int]:
    """Return sizes of layers as a list of ints ≥ 1."""
    checked = []
    for size in sizes:
        if not isinstance(size, (int, np.integer)) or isinstance(size, bool):
            raise TypeError(f"sizes of layers must be integers, got {size!r}")
        if size < 1:
            raise ValueError(f"sizes of layers must be at least 1, got {size}")
        checked.append(int(size))
    return checked


def checked_std(weight_init_std: Any) -> str | float:
    """Return a standard deviation of initial weights, or the name of one in lower case."""
    if not isinstance(weight_init_std, str):
        return non_negative("weight_init_std", weight_init_std)
    name = str(weight_init_std.lower())
    if name not in _VARIANCE_TIMES_FAN_IN:
        choices = ", ".join(map(repr, _VARIANCE_TIMES_FAN_IN))
        raise ValueError(
            f"weight_init_std must be a number or one of {choices}, got {weight_init_std!r}"
        )
    return name


def initial_params(
    sizes: list[int],
    use_batchnorm: bool,
    std: str | float,
    dtype: np.dtype[Any],
    rng: np.random.Generator,
) -> dict[str, Array]:
    """Return the parameters of a new net: weights are drawn, gammas 1, all others 0."""
    params: dict[str, Array] = {}
    for key, shape in parameter_shapes(sizes, use_batchnorm).items():
        if key.startswith("W"):
            W = rng.standard_normal(shape)
            W *= _initial_std(std, fan_in=shape[0])
            params[key] = W.astype(dtype, copy=False)
        else:
            params[key] = np.full(shape, float(key.startswith("gamma")), dtype)
    return params


def _initial_std(std: str | float, fan_in: int) -> float:
    return math.sqrt(_VARIANCE_TIMES_FAN_IN[std] / fan_in) if isinstance(std, str) else std
