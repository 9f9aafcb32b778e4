"""The BLAS that scipy's linear algebra calls: how many threads it uses, and how to say so.

Imported only where the kernels that were chosen have no matrix products of their own. The rule: a
product that fastopt asks for runs on the thread that asks, and it is fastopt's own workers that
share out the products of a net. BLAS's workers, which would fight them for the cores, are switched
off for as long as fastopt is in a product and then get their number back. Where BLAS can't be told,
it shares out the products, and fastopt's workers stay away from them. Only the functions are found
here; csrc/fastopt/_products.pyx calls them.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from scipy.linalg import cython_blas

__all__ = ["thread_functions"]

# What builds of OpenBLAS put before and behind the names of their functions
_PREFIXES = ("", "scipy_")
_SUFFIXES = ("", "64_", "_64", "64")


def thread_functions() -> tuple[int, int]:
    """Return the addresses of OpenBLAS's functions that get and set its number of threads.

    Returns
    -------
    get, set : int
        ``int get(void)`` and ``void set(int)``; 0 and 0 if scipy calls another BLAS.
    """
    for library in _libraries():
        for prefix in _PREFIXES:
            for suffix in _SUFFIXES:
                names = (f"{prefix}openblas_{verb}_num_threads{suffix}" for verb in ("get", "set"))
                addresses = [_address(library, name) for name in names]
                if all(addresses):
                    return addresses[0], addresses[1]
    return 0, 0


def _address(library: ctypes.CDLL, name: str) -> int:
    try:
        function = library[name]
    except AttributeError:
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _libraries() -> list[ctypes.CDLL]:
    """Return handles in which the symbols of the BLAS that scipy's module is linked to are found.

    A look-up in a module's own handle goes on in the libraries that it needs. On Windows it does
    not: there BLAS comes in a folder beside the package.
    """
    module = Path(cython_blas.__file__)
    if sys.platform != "win32":
        return [ctypes.CDLL(str(module))]
    folder = module.parents[2] / "scipy.libs"
    return [ctypes.CDLL(str(path)) for path in sorted(folder.glob("*openblas*.dll"))]
