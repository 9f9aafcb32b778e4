"""Norms of gradients, clipping by them, and gradients that are not finite.

The order in which squares are added is documented, and so are the bits of a norm: the same for all
threads, addresses and kernels.
"""

from math import inf, nan, sqrt

import numpy as np
import pytest
from helpers.arrays import WRITABLE, assert_same_bits, lay_out, over_many_magnitudes
from helpers.errors import assert_unchanged, contents, snapshot, step_refused
from helpers.marks import both, every_dtype
from helpers.options import Pair, norm_by_hand, threads
from numpy.testing import assert_array_equal
from optimizer_table import TABLE

import fastopt
from fastopt import _pool

BLOCK = 16_384
SIZES = [0, 1, 31, 32, 33, 63, 64, 65, 500, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + 33, 3 * BLOCK + 31]
ROWS = {row.name: row for row in TABLE}
NEVER_REACHED = 1e300


def draw(size, dtype="float64", seed=0):
    return over_many_magnitudes(np.random.default_rng(seed), size, dtype)


def norm_of(package, params, grads, **options):
    """Return the norm of one step that is measured."""
    optimizer = package.SGD(**{"clip_global_norm": NEVER_REACHED, **options})
    optimizer.update(params, grads)
    return optimizer.norm


# --- the order of the sum ---


@both
@every_dtype
@pytest.mark.parametrize("size", SIZES)
def test_norm_is_the_sum_that_is_documented(package, dtype, size):
    g = draw(size, dtype)
    norm = norm_of(package, {"p": np.zeros(size, dtype)}, {"p": g})
    assert type(norm) is float
    assert norm == norm_by_hand(g)
    assert norm == pytest.approx(float(np.linalg.norm(g.astype("float64"))), rel=1e-12)


@both
def test_norms_of_arrays_are_added_in_the_order_of_the_parameters(package):
    grads = {size: draw(size, seed=size) for size in (3, 40, BLOCK + 5, 0, 700)}
    grads["float"], grads["0-d"] = 0.375, np.array(-1e3)
    params = {key: np.zeros(np.shape(g)) for key, g in grads.items()} | {"float": 1.0}
    seen = set()
    for keys in ([*params], [*params][::-1], sorted(params, key=str)):
        norm = norm_of(package, {k: params[k] for k in keys}, dict(reversed(grads.items())))
        assert norm == norm_by_hand(*(np.ravel(grads[k]) for k in keys))
        seen.add(norm)
    assert len(seen) > 1, "the order must matter here"


@both
@pytest.mark.parametrize("layout", WRITABLE)
@pytest.mark.parametrize("grad_layout", ["C", "F", "strided"])
def test_arrays_are_added_in_memory_order_or_in_that_of_c(package, layout, grad_layout):
    """In that of the parameter: F only where it is F-contiguous, whatever the gradient is."""
    g = np.random.default_rng(2).standard_normal((97, 211))
    params = {"p": lay_out(np.zeros(g.shape), layout)}
    want = norm_by_hand(g.ravel(order="F" if params["p"].flags.f_contiguous else "C"))
    assert norm_of(package, params, {"p": lay_out(g, grad_layout)}) == want
    assert norm_by_hand(g.ravel(order="F")) != norm_by_hand(g.ravel()), "layouts must matter here"


@every_dtype
def test_norm_and_step_are_the_same_at_every_address(dtype):
    size = BLOCK + 100
    g = draw(size, dtype)
    seen = set()
    for offset in range(18):
        memory, grads = np.zeros(size + 17, dtype), np.zeros(size + 17, dtype)
        p, view = memory[offset : offset + size], grads[17 - offset : 17 - offset + size]
        view[:] = g
        norm = norm_of(fastopt, {"p": p}, {"p": view}, clip_global_norm=0.5, lr=0.3)
        seen.add((norm, p.tobytes()))
        assert np.all(memory[:offset] == 0)
        assert np.all(memory[offset + size :] == 0)
    assert len(seen) == 1
    assert next(iter(seen))[0] == norm_by_hand(g)


@every_dtype
@pytest.mark.parametrize("option", ["clip_global_norm", "clip_norm"])
def test_norms_are_the_same_on_any_number_of_threads(dtype, option):
    shapes = {"large": 1_300_001, "F": (900, 1001), "small": 40, "rows": (BLOCK, 3)}
    rng, results = np.random.default_rng(0), []
    grads = {key: rng.standard_normal(shape).astype(dtype) for key, shape in shapes.items()}
    grads["F"] = np.asfortranarray(grads["F"])
    for n in (1, 2, 3, None):
        cls = fastopt.reference.Momentum if n is None else fastopt.Momentum
        optimizer = cls(**{option: 0.5, "ema": 0.5})
        params = {key: np.zeros_like(g) for key, g in grads.items()}
        with threads(n or 1):
            for _ in range(2):
                optimizer.update(params, grads)
            if n is not None:
                assert _pool.count_workers() >= n - 1
        what = [params, optimizer.v, optimizer.average]
        arrays = [[array.tobytes() for array in each.values()] for each in what]
        results.append((optimizer.norm, arrays))
    assert all(result == results[0] for result in results)


# --- clipping ---


@both
@every_dtype
def test_each_array_or_all_together_are_scaled_down(package, dtype):
    grads = {"a": draw(50, dtype, 1), "b": draw((4, 9), dtype, 2), "c": np.zeros(3, dtype)}
    cast = np.dtype(dtype).type
    norms = {key: norm_by_hand(g.ravel()) for key, g in grads.items()}
    total = norm_by_hand(*(g.ravel() for g in grads.values()))
    limit = min(norms["a"], norms["b"]) * 2
    assert limit < total
    want_of = {
        "clip_norm": {k: limit / n if n > limit else 1.0 for k, n in norms.items()},
        "clip_global_norm": dict.fromkeys(grads, limit / total),
    }
    for option, factors in want_of.items():
        params = {key: np.zeros_like(g) for key, g in grads.items()}
        optimizer = package.SGD(lr=1.0, **{option: limit})
        optimizer.update(params, grads)
        for key, g in grads.items():
            assert_array_equal(params[key], -(g * cast(factors[key])), strict=True)
        assert optimizer.norm == total, "before clipping, and of all arrays"
    assert sorted(want_of["clip_norm"].values())[0] < 1.0


@both
def test_norm_at_its_limit_is_left_alone(package):
    for limit, want in ((5.0, 3.0), (np.nextafter(5.0, 0), 3.0 * (np.nextafter(5.0, 0) / 5.0))):
        for option in ("clip_norm", "clip_global_norm"):
            params = {"p": np.zeros(2)}
            package.SGD(lr=1.0, **{option: limit}).update(params, {"p": np.array([3.0, 4.0])})
            assert params["p"][0] == -want


@both
@pytest.mark.parametrize("option", ["clip_norm", "clip_global_norm"])
@pytest.mark.parametrize(
    ("gradient", "norm", "step"),
    [
        ([0.0, -0.0], 0.0, [0.0, -0.0]),
        ([nan, 3.0], nan, [nan, 3.0]),
        ([nan, inf], nan, [nan, inf]),
        ([inf, 3.0], inf, [nan, 0.0]),
        ([-inf, -3.0], inf, [nan, -0.0]),
        ([1e200, -3.0], inf, [0.0, -0.0]),  # whose square is beyond all numbers
        ([1e-200, 0.0], 0.0, [1e-200, 0.0]),  # and this one's is zero
    ],
)
def test_norms_that_are_no_limit(package, option, gradient, norm, step):
    """A zero norm and NaN change nothing; an infinite one makes the factor zero."""
    params, g = {"p": np.array([-0.0, -0.0])}, np.array(gradient)
    optimizer = package.SGD(lr=1.0, **{option: 1e-250})
    optimizer.update(params, {"p": g})
    assert_same_bits(optimizer.norm, norm, "norm")
    assert_same_bits(params["p"], np.array([-0.0, -0.0]) - np.array(step), option)


@both
@pytest.mark.parametrize("option", ["clip_norm", "clip_global_norm"])
def test_limit_of_infinity_measures_alone(package, option):
    """No norm is above it, not even an infinite one."""
    optimizer, params = package.SGD(lr=1.0, **{option: inf}), {"p": np.zeros(2)}
    optimizer.update(params, {"p": np.array([inf, 3.0])})
    assert_array_equal(params["p"], [-inf, -3.0])
    assert optimizer.norm == inf


@both
def test_float32_is_squared_in_double(package):
    params, g = {"p": np.zeros(4, np.float32)}, np.full(4, 1e38, np.float32)
    optimizer = package.SGD(lr=1.0, clip_norm=1.0)
    optimizer.update(params, {"p": g})
    assert optimizer.norm == 2 * float(g[0])
    assert_array_equal(params["p"], -(g * np.float32(1.0 / optimizer.norm)))


@both
def test_what_is_left_out_of_a_norm(package):
    """No gradient, a frozen group, no parameter; and it is of the gradient as it was cast."""
    params = {"p": np.zeros(2, np.float32), "none": np.ones(2), "held": np.ones(2), "f": 0.0}
    grads = {
        "p": np.array([1 / 3, 0.0]),
        "none": None,
        "held": np.full(2, 9.0),
        "f": 2.0,
        "more": nan,
    }
    norm = norm_of(package, params, grads, groups={"held": {"frozen": True}}, weight_decay=3.0)
    assert norm == sqrt(float(np.float32(1 / 3)) ** 2 + 4.0)
    assert norm != sqrt((1 / 3) ** 2 + 4.0)
    for empty in ({}, {"none": np.ones(2)}, {"e": np.empty((0, 3))}):
        norm = norm_of(package, empty, {"none": None, "e": np.empty((0, 3))})
        assert_same_bits(norm, 0.0, empty)


@both
def test_norm_is_none_where_it_was_not_measured(package):
    optimizer, params, grads = package.SGD(), {"p": np.ones(2)}, {"p": np.array([3.0, 4.0])}
    optimizer.update(params, grads)
    assert optimizer.norm is None
    for name, value in (("clip_norm", 1.0), ("clip_global_norm", inf), ("nonfinite", "raise")):
        before = getattr(optimizer, name)
        setattr(optimizer, name, value)
        for _ in range(2):
            optimizer.update(params, grads)
            assert optimizer.norm == 5.0
        setattr(optimizer, name, before)
        optimizer.update(params, grads)
        assert optimizer.norm is None
    optimizer.groups = {"p": {"clip_norm": 1.0}}
    optimizer.update(params, grads)
    assert optimizer.norm == 5.0


@both
def test_group_may_have_a_limit_of_its_own_or_none(package):
    g = np.array([3.0, 4.0])
    optimizer = package.SGD(
        lr=1.0, clip_norm=1.0, groups={"b": {"clip_norm": 2.5}, "c": {"clip_norm": None}}
    )
    params = {key: np.zeros(2) for key in "abc"}
    optimizer.update(params, dict.fromkeys("abc", g))
    for key, factor in {"a": 0.2, "b": 0.5, "c": 1.0}.items():
        assert_array_equal(params[key], -(g * factor))


# --- gradients that are not finite ---


def bad_gradients(params, key, value):
    grads = {k: np.full(np.shape(p), 0.5) for k, p in params.items()}
    if np.ndim(params[key]):
        grads[key].flat[-1] = value
    else:
        grads[key] = value
    return grads


def start():
    return {
        "a": np.ones(40),
        "large": np.ones(BLOCK + 7, np.float32),
        "F": lay_out(np.ones((5, 6)), "F"),
        "strided": lay_out(np.ones(9, np.float32), "strided"),
        "f": 1.0,
    }


@both
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("key", start())
@pytest.mark.parametrize("value", [nan, inf, -inf, 1e300])
def test_skipped_step_changes_nothing_but_a_counter(package, accumulate, key, value):
    optimizer = package.Adam(
        lr=lambda t: seen.append(t) or 0.1, nonfinite="skip", ema=0.5, accumulate=accumulate,
        weight_decay=0.1,
    )  # fmt: skip
    seen, params = [], start()
    is_finite = np.isfinite(value) and np.asarray(params[key]).dtype == np.float64
    grads = bad_gradients(params, key, value)
    for call in range(5):
        before = snapshot(optimizer, params, grads)
        if not is_finite:
            optimizer.update(params, grads)
            assert_unchanged(before, optimizer, params, grads, skipped=1)
        optimizer.update(params, bad_gradients(params, "a", 0.25))
        assert optimizer.skipped == (0 if is_finite else call + 1)
        assert optimizer.iter == (call + 1) // accumulate
    assert {*seen} == {*range((4 // accumulate) + 1)}
    if is_finite:
        optimizer.update(params, grads)
        assert optimizer.skipped == 0


@both
def test_skipped_calls_are_left_out_of_their_sum(package):
    """With which a run has the bits of one that never saw them."""
    runs = []
    for with_bad in (True, False):
        optimizer = package.Adam(nonfinite="skip", accumulate=3, ema=0.9, clip_norm=0.4)
        params, rng = start(), np.random.default_rng(0)
        for call in range(8):
            if with_bad and call % 2:
                bad = bad_gradients(params, "F", nan)
                optimizer.update(params, bad)
            grads = {k: rng.standard_normal(np.shape(p)) for k, p in params.items()}
            optimizer.update(params, grads)
        assert optimizer.skipped == (4 if with_bad else 0)
        dicts = params, optimizer.m, optimizer.v, optimizer.average, optimizer.accumulated
        runs.append([[c[::2] for c in contents(each)] for each in dicts] + [optimizer.norm])
    assert runs[0] == runs[1]


@both
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("value", [nan, -inf, 1e300])
def test_error_names_the_first_key_that_is_not_finite(package, accumulate, value):
    optimizer = package.Adam(nonfinite="raise", accumulate=accumulate, ema=0.5)
    params = start()
    for _ in range(4):
        for key in ("large", "strided"):
            grads = bad_gradients(params, key, value)
            grads["f"] = nan  # a later one
            message = f"^gradient of '{key}' holds NaN or infinity, .* no step was made$"
            with step_refused(FloatingPointError, message, optimizer, params, grads):
                optimizer.update(params, dict(reversed(grads.items())))
        optimizer.update(params, {**bad_gradients(params, "a", 1.0), "large": None})
        assert optimizer.skipped == 0


@both
@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
def test_finite_gradients_whose_squares_overflow_are_finite(package, nonfinite):
    optimizer, params = package.SGD(lr=1.0, nonfinite=nonfinite), {"p": np.zeros(BLOCK + 2)}
    optimizer.update(params, {"p": np.full(BLOCK + 2, 1e300), "no parameter": nan})
    assert (optimizer.norm, optimizer.iter, optimizer.skipped) == (inf, 1, 0)
    assert np.all(params["p"] == -1e300)


@both
def test_finite_gradients_whose_sum_is_not_are_finite(package):
    optimizer, params = package.SGD(lr=1.0, nonfinite="raise", accumulate=2), {"p": np.zeros(2)}
    for _ in range(2):
        optimizer.update(params, {"p": np.array([1e308, 1.0])})
    assert (optimizer.iter, optimizer.norm) == (1, inf)
    assert_array_equal(params["p"], [-inf, -1.0])


@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
@pytest.mark.parametrize("where", [0, 31, BLOCK - 1, BLOCK, 2 * BLOCK])
@every_dtype
def test_one_element_is_enough_anywhere(nonfinite, where, dtype):
    pair = Pair(ROWS["SGD"], {"nonfinite": nonfinite}, lambda: {"p": np.ones(2 * BLOCK + 1, dtype)})
    for value in (nan, inf, -inf):
        g = np.ones(2 * BLOCK + 1, dtype)
        g[where] = value
        assert bool(pair.update({"p": g})) == (nonfinite == "raise")
        pair.update({"p": np.ones(2 * BLOCK + 1, dtype)})
    assert pair.compiled.iter == 3
