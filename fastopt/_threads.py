"""How many threads fastopt uses: the default, the environment, and what a user sets.

The threads themselves are in csrc/fastopt/_pool.pyx.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping

from fastopt import _pool
from fastopt._cores import usable_cores
from fastopt._threadpoolctl import register_when_imported

__all__ = ["get_num_threads", "set_num_threads"]

VARIABLE = "FASTOPT_NUM_THREADS"
OPENMP_VARIABLE = "OMP_NUM_THREADS"


def set_num_threads(n: int) -> None:
    """Set how many threads a step of an optimizer, and a batch in a net or a layer, may use.

    Parameters
    ----------
    n : int
        From 1, the calling thread alone, to 64. Workers are started when there is first enough to
        do for them, and sleep when there is not. The optimizers' results are the same bits
        whatever the number. So are those of layers and nets where the products are fastopt's own;
        where BLAS does them, they are the same in every run for one number, and differ by rounding
        between two.

    Raises
    ------
    TypeError
        `n` is no integer.
    ValueError
        `n` is a bool or out of range.

    Notes
    -----
    The default is the environment variable FASTOPT_NUM_THREADS; or else OMP_NUM_THREADS, at most
    64, of a list the first number, as for OpenMP's own threads (joblib sets it in its workers); or
    else the number of cores that this process may use, by its affinity mask and the CPU quota of
    its container.

    Where threadpoolctl 3.2 or later is installed, it knows these threads by the user_api
    ``"fastopt"``: ``threadpool_limits(1)`` limits them with all others.

    The matrix products of `Affine` and the nets count: a product is done by the thread that asks
    for it, and fastopt's workers share out the pieces of a batch. Products are fastopt's own with
    AVX2 and AVX-512, but for builds by Visual C++; else BLAS does them: the OpenBLAS that SciPy
    brings is set to one thread for as long as fastopt is in such a call, and then given its number
    back; no setting of BLAS is needed, and OPENBLAS_NUM_THREADS changes nothing here. Where SciPy
    calls another BLAS, that one's own threads and settings apply to the products, and this number
    to the optimizers alone.

    Examples
    --------
    >>> import fastopt
    >>> before = fastopt.get_num_threads()
    >>> fastopt.set_num_threads(1)
    >>> fastopt.get_num_threads()
    1
    >>> fastopt.set_num_threads(before)
    """
    try:
        number = operator.index(n)
    except TypeError:
        raise TypeError(f"the number of threads must be an integer, got {n!r}") from None
    if isinstance(n, bool) or not 1 <= number <= _pool.max_threads:
        raise ValueError(f"the number of threads must be from 1 to {_pool.max_threads}, got {n!r}")
    _pool.set_num_threads(number)


def get_num_threads() -> int:
    """Return how many threads a step, or a batch in a net, may use, the calling one included.

    Returns
    -------
    int
        From 1 to 64.

    Examples
    --------
    >>> import fastopt
    >>> 1 <= fastopt.get_num_threads() <= 64
    True
    """
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
        wanted = _openmp_num_threads(environ) or usable_cores()
        return min(wanted, _pool.max_threads)
    if not text.isdecimal() or not 1 <= int(text) <= _pool.max_threads:
        raise ValueError(f"{VARIABLE}={text} must be a number from 1 to {_pool.max_threads}")
    return int(text)


def _openmp_num_threads(environ: Mapping[str, str]) -> int:
    """Return OMP_NUM_THREADS, of a list for nested regions the first; 0 if it is no such number.

    OpenMP's runtimes ignore what is not a positive number, too.
    """
    first = environ.get(OPENMP_VARIABLE, "").partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0


set_num_threads(initial_num_threads(os.environ))
register_when_imported()
