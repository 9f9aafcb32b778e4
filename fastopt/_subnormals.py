"""Whether the optimizers flush subnormal numbers: the default, the environment, what a user sets.

Every step is told by its caller (fastopt/optimizers/_base.py); how a processor is told stands in
csrc/fastopt/float_mode.pxd.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping

import numpy as np

from fastopt import _cpu

__all__ = ["get_flush_subnormals", "set_flush_subnormals"]

VARIABLE = "FASTOPT_FLUSH_SUBNORMALS"

flushes = False
"""Whether a step flushes, where its caller has nothing else to say."""


def set_flush_subnormals(flush: bool) -> None:
    """Set whether the optimizers take subnormal numbers for zero.

    Parameters
    ----------
    flush : bool
        False, the default: results are the bits of NumPy. True: within a step of an optimizer,
        every operand and result nearer to zero than the smallest normal number (1.18e-38 in
        float32, 2.23e-308 in float64) becomes zero of its sign.

    Raises
    ------
    TypeError
        If `flush` is no bool.
    NotImplementedError
        If it is True on a processor that can't: only x86 with SSE2 and 64-bit ARM can.

    Notes
    -----
    Moving averages of gradients that have become zero decay into the subnormal range, where a step
    takes longer, on some processors many times as long. With flushing they end at zero.

    The processor's mode is set on the threads of a step while the kernels run, and put back:
    NumPy and all else compute as before. The environment variable FASTOPT_FLUSH_SUBNORMALS, 0 or 1,
    sets it from the beginning. Layers and nets are not concerned.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> params = {"w": np.array([1e-310])}
    >>> fastopt.set_flush_subnormals(True)
    >>> fastopt.SGD().update(params, {"w": np.zeros(1)})
    >>> fastopt.set_flush_subnormals(False)
    >>> params["w"]
    array([0.])
    """
    global flushes  # noqa: PLW0603 (the process's switch)
    if not isinstance(flush, (bool, np.bool_)):
        raise TypeError(f"flush must be True or False, got {flush!r}")
    if flush and not _cpu.can_flush_subnormals:
        raise NotImplementedError(
            f"subnormal numbers can't be flushed on this processor ({platform.machine()}); "
            "x86 with SSE2 and 64-bit ARM can"
        )
    flushes = bool(flush)


def get_flush_subnormals() -> bool:
    """Return whether the optimizers take subnormal numbers for zero.

    Returns
    -------
    bool
        What `set_flush_subnormals` or the environment set last; False to begin with.

    Examples
    --------
    >>> import fastopt
    >>> fastopt.get_flush_subnormals()
    False
    """
    return flushes


def initial_flush_subnormals(environ: Mapping[str, str]) -> bool:
    """Return what the environment asks for.

    Raises
    ------
    ValueError
        If FASTOPT_FLUSH_SUBNORMALS is set to something else than 0 or 1.
    """
    text = environ.get(VARIABLE, "").strip()
    if text not in ("", "0", "1"):
        raise ValueError(f"{VARIABLE}={text} must be 0 or 1")
    return text == "1"


set_flush_subnormals(initial_flush_subnormals(os.environ))
