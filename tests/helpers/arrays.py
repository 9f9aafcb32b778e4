"""Arrays to test with: their values, how they lie in memory, and how two of them are compared.

What concerns optimizers, layers or nets does not belong here.
"""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}  # relative to the largest entry


def over_many_magnitudes(rng, shape, dtype):
    """Return values over many magnitudes, so that rounding shows."""
    x = rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 3, shape)
    return np.asarray(x, dtype)


# --- layouts: the one vocabulary of how an array may lie in memory ---


def _reversed_axes(array):
    return array.transpose(range(array.ndim)[::-1])


def _strided(shape, dtype, around):
    """Return every second or third element of a larger array, along each axis."""
    steps = [2 + axis % 2 for axis in range(len(shape))]
    wide = np.full([1 + n * step for n, step in zip(shape, steps, strict=True)], around, dtype)
    return wide[(..., *(slice(1, None, step) for step in steps))]


def _rows_cut(shape, dtype, around):
    """Return the middle of a larger array: rows are contiguous and lie apart."""
    wide = np.full([n + 3 for n in shape], around, dtype)
    return wide[(..., *(slice(1, n + 1) for n in shape))]


def _transposed(shape, dtype, around):
    """Return an array whose last axis comes first in memory: of three axes neither C nor F."""
    array = np.empty((*shape[-1:], *shape[:-1]), dtype)
    return array.transpose(*range(1, array.ndim), 0) if shape else array


def _backwards(shape, dtype, around):
    return np.empty(shape, dtype)[(..., *(slice(None, None, -1) for _ in shape))]


def _unaligned(shape, dtype, around):
    """Return an array that begins one byte into its memory."""
    memory = np.full(1 + int(np.prod(shape)) * dtype.itemsize, 7, np.uint8)
    return memory[1:].view(dtype).reshape(shape)


# name → what makes an array for given shape, dtype and surroundings
LAYOUTS = {
    "C": lambda shape, dtype, around: np.empty(shape, dtype),
    "F": lambda shape, dtype, around: np.empty(shape, dtype, order="F"),
    "strided": _strided,
    "rows cut": _rows_cut,
    "columns cut": lambda shape, *rest: _reversed_axes(_rows_cut(shape[::-1], *rest)),
    "transposed": _transposed,
    "backwards": _backwards,
    "unaligned": _unaligned,
    "byte-swapped": lambda shape, dtype, around: np.empty(shape, dtype.newbyteorder()),
    "read-only": lambda shape, dtype, around: np.empty(shape, dtype),
}
WRITABLE = [layout for layout in LAYOUTS if layout != "read-only"]
PLAIN = ["C", "F"]  # what kernels take as it is


def lay_out(values, layout, around=7):
    """Return an array of equal values in memory of its own; what lies around them is `around`."""
    array = LAYOUTS[layout](values.shape, values.dtype, around)
    array[...] = values
    return read_only(array) if layout == "read-only" else array


def read_only(array):
    array.flags.writeable = False
    return array


def root(array):
    """Return the array that owns the memory."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


class NoArithmetic(np.ndarray):
    """An array on which NumPy refuses to compute: only compiled code gets anything done."""

    def __array_ufunc__(self, *args, **kwargs):
        raise AssertionError("NumPy was asked to compute")

    def __array_function__(self, *args, **kwargs):
        raise AssertionError("NumPy was asked to compute")


# --- comparisons ---


def assert_close(got, want, dtype):
    assert got.dtype == want.dtype == dtype
    assert got.shape == want.shape
    assert_allclose(got, want, rtol=0, atol=TOLERANCE[dtype] * (np.abs(want).max() or 1))


def assert_same_bits(ours, theirs, what):
    """Check equality of type, shape, dtype, values and signs of zeros; NaN is NaN."""
    assert type(ours) is type(theirs), what
    if ours is None:
        return
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert_array_equal(ours, theirs, err_msg=str(what), strict=True)
    if ours.dtype.kind == "f":
        signs = [np.signbit(a) & ~np.isnan(a) for a in (ours, theirs)]
        assert_array_equal(*signs, err_msg=f"signs of zeros of {what}")
