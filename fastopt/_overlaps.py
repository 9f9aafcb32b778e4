"""Which of many interleaved views share memory, found by sorting the addresses of their elements.

Two views at a time is what NumPy answers (`shares_memory`); who asks, and what an overlap means, is
decided in csrc/_core.pyx. Imports nothing compiled of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["between", "within"]

Array = NDArray[Any]
Addresses = NDArray[np.intp]


def within(arrays: Sequence[Array]) -> tuple[int, int] | None:
    """Return the numbers of two arrays that share memory, or None; each by itself has no overlap.

    Sorted by where they begin, elements of which any two overlap have two neighbours that do.
    """
    begins, ends, owners = _sorted_elements(arrays)
    shared = np.flatnonzero(begins[1:] < ends[:-1])
    if not shared.size:
        return None
    first, second = sorted(owners[shared[0] : shared[0] + 2].tolist())
    return first, second


def between(disjoint: Sequence[Array], others: Sequence[Array]) -> tuple[int, int] | None:
    """Return the numbers of one of each that share memory, or None.

    Of disjoint elements only the last one that begins before the end of another can reach into it.
    """
    begins, ends, owners = _sorted_elements(disjoint)
    for j, other in enumerate(others):
        starts = _addresses(other)
        last = np.searchsorted(begins, starts + other.itemsize) - 1
        shared = np.flatnonzero((last >= 0) & (ends[last] > starts))
        if shared.size:
            return int(owners[last[shared[0]]]), j
    return None


def _sorted_elements(arrays: Sequence[Array]) -> tuple[Addresses, Addresses, Addresses]:
    """Return where all elements begin and end, and the number of the array of each."""
    starts = [_addresses(array) for array in arrays]
    sizes = [len(each) for each in starts]
    begins = np.concatenate(starts)
    order = np.argsort(begins, kind="stable")
    begins = begins[order]
    items = np.repeat([array.itemsize for array in arrays], sizes)
    return begins, begins + items[order], np.repeat(np.arange(len(arrays)), sizes)[order]


def _addresses(array: Array) -> Addresses:
    """Return the address of each element."""
    addresses = np.array(array.__array_interface__["data"][0], np.intp)
    for length, stride in zip(array.shape, array.strides, strict=True):
        addresses = np.add.outer(addresses, np.arange(length, dtype=np.intp) * stride)
    return addresses.reshape(-1)
