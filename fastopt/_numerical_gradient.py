"""Gradients by central differences, to check any other gradient against.

It works on any function of an array; the nets call it for each of their parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["numerical_gradient"]

H = 1e-4


def numerical_gradient(f: Callable[[NDArray[Any]], float], x: NDArray[Any]) -> NDArray[Any]:
    """Return the gradient of f at x by central differences, (f(x + h) - f(x - h)) / 2h.

    Parameters
    ----------
    f : callable
        Takes `x` and returns a number. It is called twice for each entry of `x`.
    x : array of float32 or float64
        Changed one entry at a time while `f` is called, and as before afterwards, even if `f`
        raises. Use float64: in float32, h = 1e-4 leaves about two digits.

    Returns
    -------
    array
        Of the shape and dtype of `x`.

    Raises
    ------
    TypeError
        If `x` is not an array of floats.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> fastopt.numerical_gradient(lambda x: float(x @ x), np.array([3.0, 4.0])).round(6)
    array([6., 8.])
    """
    if not isinstance(x, np.ndarray) or x.dtype.type not in (np.float32, np.float64):
        raise TypeError(f"x must be a float32 or float64 array, got {x!r}")
    grad = np.empty_like(x, subok=False)
    for index in np.ndindex(x.shape):
        value = x[index]
        try:
            x[index] = float(value) + H
            above = float(f(x))
            x[index] = float(value) - H
            below = float(f(x))
        finally:
            x[index] = value
        grad[index] = (above - below) / (2 * H)
    return grad
