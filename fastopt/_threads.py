"""How many threads fastopt uses: the default, the environment, and what a user sets.

The threads themselves are in csrc/_pool.pyx.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping

from fastopt import _pool
from fastopt._cores import usable_cores

__all__ = ["get_num_threads", "set_num_threads"]

VARIABLE = "FASTOPT_NUM_THREADS"


def set_num_threads(n: int) -> None:
    """Set how many threads one step of an optimizer may use.

    Parameters
    ----------
    n : int
        From 1, the calling thread alone, to 64. Workers are started when a step is first large
        enough to gain from them, and sleep when there is no work. The results are the same bits
        whatever the number.

    Raises
    ------
    TypeError, ValueError
        If `n` is no integer, or out of range.

    Notes
    -----
    The default is the environment variable FASTOPT_NUM_THREADS, or else the number of cores that
    this process may use, by its affinity mask and the CPU quota of its container. The matrix
    products of layers and nets run on BLAS's own threads, which its own variable sets
    (OPENBLAS_NUM_THREADS, before the first layer is made).
    """
    try:
        number = operator.index(n)
    except TypeError:
        raise TypeError(f"the number of threads must be an integer, got {n!r}") from None
    if isinstance(n, bool) or not 1 <= number <= _pool.max_threads:
        raise ValueError(f"the number of threads must be from 1 to {_pool.max_threads}, got {n!r}")
    _pool.set_num_threads(number)


def get_num_threads() -> int:
    """Return how many threads one step of an optimizer may use, the calling one included."""
    return _pool.get_num_threads()


def initial_num_threads(environ: Mapping[str, str]) -> int:
    """Return the number of threads to begin with.

    Raises
    ------
    ValueError
        If FASTOPT_NUM_THREADS is set to something else than a number in range.
    """
    text = environ.get(VARIABLE, "").strip()
    if not text:
        return min(usable_cores(), _pool.max_threads)
    if not text.isdecimal() or not 1 <= int(text) <= _pool.max_threads:
        raise ValueError(f"{VARIABLE}={text} must be a number from 1 to {_pool.max_threads}")
    return int(text)


set_num_threads(initial_num_threads(os.environ))
