"""Products of layers at every size; all are compared in fresh interpreters, which call this."""

import ctypes
import hashlib

import numpy as np
from numpy.testing import assert_array_equal

import fastopt
from fastopt import _blas, _products
from helpers.arrays import lay_out

# Around the widths of tiles and panels of all variants, past the depth that is summed up at once
SIZES = [*range(1, 10), 15, 16, 17, 24, 31, 33, 47, 48, 49, 97, 145, 192, 241, 399, 401, 810]


def shapes():
    """Yield N, D, M of layers: every size in each place, beside small and large ones."""
    for size in SIZES:
        yield from ((size, 7, 11), (3, size, 17), (10, 21, size), (size, size, 5))
    yield from ((70, 401, 193), (250, 130, 401), (17, 49, 200), (241, 410, 150))
    yield 17, 1027, 800  # past the rows that are packed at once; large enough to be fetched ahead


def arrays(n, d, m, dtype, seed=0):
    """Return x, W, b and dout of a layer."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in ((n, d), (d, m), m, (n, m))]


def cut(a):
    """Return an equal array whose rows lie apart, between what must not be read."""
    return lay_out(a, "rows cut", around=np.nan)


def products_of(x, W, b, dout):
    """Return out, dx, dW and db."""
    layer = fastopt.Affine(W, b)
    out = layer.forward(x)
    return out, layer.backward(dout), layer.dW, layer.db


def check_all_sizes():
    """Compare with NumPy in a wider type; print a digest of all bits; called in fresh interpreters.

    A product of k numbers is k roundings off at the most, except for those of summing up.
    """
    digest = hashlib.sha1()
    for dtype in ("f4", "f8"):
        eps = np.finfo(dtype).eps
        for n, d, m in shapes():
            x, W, b, dout = arrays(n, d, m, dtype)
            got = products_of(x, W, b, dout)
            again = products_of(cut(x), np.asfortranarray(W), b, np.asfortranarray(dout))
            again += products_of(np.asfortranarray(x), cut(W), b, cut(dout))
            if not _products.uses_blas:  # the same sums, whatever the layout
                for one, other in zip(got + got, again, strict=True):
                    assert_array_equal(one, other)
            x, W, b, dout = (a.astype("f8" if dtype == "f4" else "g") for a in (x, W, b, dout))
            want = (x @ W + b, dout @ W.T, x.T @ dout, dout.sum(axis=0))
            bound = (abs(x) @ abs(W) + abs(b), abs(dout) @ abs(W.T), abs(x.T) @ abs(dout))
            bound += (abs(dout).sum(axis=0),)
            for ours, exact, scale in zip(got, want, bound, strict=True):
                off = np.max(np.abs(ours - exact) / scale)
                assert off <= 2 * eps * np.sqrt(max(n, d, m)) + eps, (n, d, m, dtype, off / eps)
            for ours in got:
                digest.update(np.ascontiguousarray(ours).tobytes())
    print(_products.uses_blas, digest.hexdigest())


def blas_threads():
    """Return the number of threads of the BLAS that scipy calls, or None if it can't be told."""
    get, _ = _blas.thread_functions()
    return ctypes.CFUNCTYPE(ctypes.c_int)(get)() if get else None
