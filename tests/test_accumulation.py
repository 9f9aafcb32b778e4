"""Steps on the mean of several gradients: the sums, who is in them, and what an error leaves."""

import copy
import pickle
from collections import UserDict

import numpy as np
import pytest
from helpers.arrays import assert_same_bits, lay_out
from helpers.errors import Refusing, assert_unchanged, contents, snapshot, step_refused
from helpers.marks import both, every_dtype
from helpers.options import Pair, draw_grads, draw_params
from numpy.testing import assert_array_equal
from optimizer_table import TABLE, every_optimizer

import fastopt
from fastopt import reference

ROWS = {row.name: row for row in TABLE}


def sums_of(optimizer):
    return {key: a.tolist() for key, a in optimizer.accumulated.items()}


def ones(params, value=1.0):
    return {key: np.full(np.shape(p), value) for key, p in params.items()}


# --- the sum and the step ---


@both
@every_dtype
@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_step_is_on_the_mean_of_k_gradients(package, dtype, k):
    cast = np.dtype(dtype).type
    optimizer, p = package.SGD(lr=0.5, accumulate=k), np.linspace(-1, 1, 21, dtype=dtype)
    params, want, rng = {"p": p}, p.copy(), np.random.default_rng(0)
    for step in range(3):
        gradients = [rng.standard_normal(21) for _ in range(k)]
        total = None
        for call, g in enumerate(gradients):
            assert_array_equal(p, want, strict=True)
            assert optimizer.iter == step
            optimizer.update(params, {"p": g})
            total = g.astype(dtype) if call == 0 else total + g.astype(dtype)
            if call < k - 1:
                assert_array_equal(optimizer.accumulated["p"], total, strict=True)
        want = want - cast(0.5) * (total * cast(1 / k))
        assert_array_equal(p, want, strict=True)
        assert optimizer.accumulated == {}
        assert optimizer.iter == step + 1


@every_optimizer
@every_dtype
@pytest.mark.parametrize("k", [2, 3])
def test_sums_equal_the_twin(row, dtype, k):
    pair = Pair(row, {**row.settings, "accumulate": k}, lambda: draw_params(dtype))
    for call in range(10):
        pair.update(draw_grads(pair.ours, call))
    assert pair.compiled.iter == 10 // k


@both
def test_rest_of_a_training_stays_for_the_next_call(package):
    optimizer, params = package.SGD(lr=1.0, accumulate=3), {"p": np.zeros(1)}
    for g in (1.0, 2.0):
        optimizer.update(params, {"p": np.array([g])})
    assert sums_of(optimizer) == {"p": [3.0]}
    optimizer.update(params, {"p": np.array([6.0])})
    assert params["p"] == -9.0 * (1 / 3)


@both
@every_dtype
def test_sums_begin_as_copies(package, dtype):
    """So the sign of a zero stays: -0.0 + -0.0 is -0.0, as are sums with None."""
    optimizer, params = package.SGD(lr=1.0, accumulate=3), {"p": np.zeros(2, dtype), "x": 0.0}
    grads = {"p": np.array([-0.0, 0.0], dtype), "x": -0.0}
    for _ in range(3):  # also into the arrays of the step before
        for _ in range(2):
            optimizer.update(params, grads)
            assert_same_bits(optimizer.accumulated["p"], grads["p"], "sum")
            assert_same_bits(optimizer.accumulated["x"][()], np.float64(-0.0), "sum")
        assert optimizer.accumulated["p"] is not grads["p"]
        params["p"][:], params["x"] = -0.0, -0.0
        optimizer.update(params, {"p": None, "x": None})
        assert_same_bits(params["p"], np.array([0.0, -0.0], dtype), "-0.0 less the sum")
        assert_same_bits(np.float64(params["x"]), np.float64(0.0), "number")


@both
def test_gradients_are_not_kept(package):
    """They may be written over as soon as a call is done."""
    optimizer, params, g = package.SGD(lr=1.0, accumulate=2), {"p": np.zeros(3)}, np.ones(3)
    for _ in range(2):
        g[:] = 1.0
        optimizer.update(params, {"p": g})
        g[:] = 99.0
        assert_array_equal(optimizer.accumulated["p"], np.ones(3))
        g[:] = 3.0
        optimizer.update(params, {"p": g})
    assert_array_equal(params["p"], np.full(3, -4.0))


@both
def test_sums_are_of_native_byte_order(package):
    params = {"p": lay_out(np.ones(3), "byte-swapped")}
    optimizer = package.SGD(accumulate=2)
    optimizer.update(params, {"p": lay_out(np.ones(3), "byte-swapped")})
    assert optimizer.accumulated["p"].dtype.isnative


# --- settings count from the k-th call on ---


@every_optimizer
@both
def test_options_see_steps_and_not_calls(row, package):
    """Two calls with one gradient are one step with it: k is a power of two, so all is exact."""
    options = {
        "weight_decay": 0.3, "clip_value": 0.05, "low": -0.5, "high": 0.6, "ema": 0.75,
        "maximize": True, "lr": lambda t: 0.25 / (1 + t),
    }  # fmt: skip
    cls = getattr(package, row.name)
    once, twice = cls(**options), cls(**options, accumulate=2)
    ours, theirs = draw_params("float32"), draw_params("float32")
    for call in range(3):
        grads = draw_grads(ours, 0 if call == 1 else 4)
        once.update(ours, grads)
        for _ in range(2):
            twice.update(theirs, grads)
        for key, p in ours.items():
            assert_same_bits(theirs[key], p, key)
        for name in (*row.states, "average"):
            for key, a in getattr(once, name).items():
                assert_same_bits(getattr(twice, name)[key], a, (name, key))
    assert once.iter == twice.iter == 3


@both
@pytest.mark.parametrize("option", ["clip_norm", "clip_global_norm"])
def test_norm_is_that_of_the_step(package, option):
    """Two calls with one gradient are one step with it, with clipping, too."""
    for accumulate in (1, 2):
        optimizer = package.SGD(lr=1.0, accumulate=accumulate, **{option: 1.0})
        params = {"p": np.zeros(2)}
        for _ in range(accumulate):
            optimizer.update(params, {"p": np.array([3.0, 4.0])})
        assert optimizer.norm == 5.0
        assert_array_equal(params["p"], [-3.0 * 0.2, -4.0 * 0.2])


@both
def test_norm_and_counters_stay_in_calls_that_only_add(package):
    optimizer, params = package.SGD(accumulate=2, clip_norm=9.0), {"p": np.zeros(2)}
    for step, g in enumerate(([3.0, 4.0], [0.0, 0.0])):
        before = optimizer.norm
        optimizer.update(params, {"p": np.array(g)})
        assert (optimizer.iter, optimizer.norm) == (step, before)
        optimizer.update(params, {"p": np.array([0.0, 0.0])})
        assert optimizer.iter == step + 1
        assert (optimizer.norm > 0) == (step == 0)


@both
def test_states_begin_with_the_step(package):
    """Of the parameter as it is then, and with the settings of then."""
    optimizer, params = package.Adam(accumulate=2, lr=9.0, beta1=0.5), {"p": np.zeros(2)}
    optimizer.update(params, {"p": np.ones(2)})
    assert (optimizer.m, optimizer.v, optimizer.average) == ({}, {}, {})
    optimizer.lr, optimizer.beta1, optimizer.maximize = 0.0, 0.75, True
    optimizer.update(params, {"p": np.ones(2)})
    assert_array_equal(params["p"], np.zeros(2))
    assert_array_equal(optimizer.m["p"], np.full(2, -0.25))


@both
def test_number_of_calls_may_change_in_the_middle(package):
    optimizer, params = package.SGD(lr=1.0, accumulate=4), {"p": np.zeros(1)}

    def call(k):
        optimizer.accumulate = k
        optimizer.update(params, {"p": np.array([6.0])})
        return optimizer.iter, params["p"].item()

    assert call(4) == (0, 0.0)
    assert call(4) == (0, 0.0)
    assert call(1) == (1, -6.0), "the mean of three"
    assert call(1) == (2, -12.0)
    assert call(3) == (2, -12.0)
    assert call(2) == (3, -18.0)
    assert call(2) == (3, -18.0)
    assert call(5) == (3, -18.0)
    optimizer.reset()
    assert call(2) == (0, -18.0)
    assert sums_of(optimizer) == {"p": [6.0]}


# --- None, new and old keys ---


@both
@pytest.mark.parametrize(
    ("calls", "mean"),
    [
        ([6.0, None, None], 2.0),
        ([None, 6.0, None], 2.0),
        ([None, None, 6.0], 2.0),
        ([3.0, None, 3.0], 2.0),
        ([None, None, None], None),
    ],
)
@pytest.mark.parametrize("kind", ["array", "number", "F"])
def test_none_counts_as_zero_where_there_is_another(package, calls, mean, kind):
    """None in all calls is a parameter that is skipped, and its state with it."""
    values = {"array": np.ones(2), "number": 1.0, "F": np.ones((2, 3), order="F")}
    optimizer = package.Momentum(lr=1.0, momentum=0.5, accumulate=3, ema=0.5)
    params, v, want = {"p": values[kind], "other": np.zeros(1)}, 0.0, 1.0
    for _ in range(2):
        for g in calls:
            gradient = None if g is None else np.full(np.shape(params["p"]), g)
            optimizer.update(params, {"p": gradient, "other": np.ones(1)})
        if mean is not None:
            v = 0.5 * v - mean
            want += v
        assert np.all(params["p"] == want)
        assert ("p" in optimizer.v) == ("p" in optimizer.average) == (mean is not None)
        assert optimizer.accumulated == {}
    assert optimizer.iter == 2


def test_keys_that_come_and_have_no_gradient_equal_the_twin():
    """Each in one call of the k, in steps that use the arrays of others again."""
    for name in ("SGD", "Adam"):
        pair = Pair(ROWS[name], {"accumulate": 3, "ema": 0.5}, lambda: draw_params("float32"))
        keys, rng = [*pair.ours], np.random.default_rng(0)
        for call in range(24):
            if call % 5 == 1:
                for params in (pair.ours, pair.theirs):
                    params[f"new {call}"] = np.full(3, 0.5)
            grads = draw_grads(pair.ours, 0)
            for key in keys:
                if rng.random() < 0.6:
                    grads[key] = None
            if call % 4 == 3:  # another order
                grads = dict(reversed(grads.items()))
            pair.update(grads)


@pytest.mark.parametrize("kind", ["removed", "frozen", "replaced"])
def test_sum_that_was_not_used_is_forgotten_with_the_step(kind):
    """Its key has no part in the k-th call; later it begins as all others do."""
    pair = Pair(ROWS["SGD"], {"lr": 1.0, "accumulate": 2}, lambda: {k: np.zeros(2) for k in "abc"})
    pair.update(ones(pair.ours))
    kept = [params["b"] for params in (pair.ours, pair.theirs)]
    if kind == "removed":
        del pair.ours["b"], pair.theirs["b"]
    elif kind == "frozen":
        pair.set("groups", {"b": {"frozen": True}})
    else:
        pair.arrays.pop("b")
        pair.ours["b"], pair.theirs["b"] = np.ones(2), np.ones(2)
    pair.update(ones(pair.ours))
    if kind == "frozen":
        pair.set("groups", {})
    elif kind == "removed":
        pair.ours["b"], pair.theirs["b"] = kept
    for _ in range(2):
        pair.update(ones(pair.ours, 3.0))


@pytest.mark.parametrize("other", [np.ones(3), np.ones(2, np.float32), 1.0], ids=repr)
def test_parameter_may_change_its_shape_between_steps(other):
    """Where no state keeps it from it: sums are empty then."""
    pair = Pair(ROWS["SGD"], {"accumulate": 2}, lambda: {"p": np.zeros(2), "q": np.zeros(2)})
    for _ in range(2):
        pair.update(ones(pair.ours))
    pair.arrays.pop("p")
    pair.ours["p"], pair.theirs["p"] = copy.copy(other), copy.copy(other)
    for _ in range(2):
        pair.update(ones(pair.ours))


@both
def test_sum_that_no_longer_fits_changes_nothing(package):
    optimizer, params = package.SGD(accumulate=2), {"p": np.zeros(2), "q": np.zeros(2)}
    optimizer.update(params, ones(params))
    params["q"] = np.zeros(3)
    with step_refused(ValueError, r"accumulated\['q'\]", optimizer, params, ones(params)):
        optimizer.update(params, ones(params))
    params["q"] = np.zeros(2)
    optimizer.update(params, ones(params))
    assert optimizer.iter == 1


@both
def test_any_mapping_of_gradients_will_do(package):
    optimizer = package.SGD(lr=1.0, accumulate=2)
    params = UserDict({"a": np.zeros(2), "b": np.zeros(2)})
    for _ in range(3):
        optimizer.update(params, UserDict({"a": np.ones(2), "b": np.ones(2)}))
        optimizer.update(params, UserDict({"a": np.ones(2), "b": None}))
    assert_array_equal(params["a"], np.full(2, -3.0))
    assert_array_equal(params["b"], np.full(2, -1.5))


# --- errors ---


class Interrupting(dict):
    """Gradients during whose look-up somebody presses Ctrl-C."""

    at = None

    def __getitem__(self, key):
        if key == self.at:
            raise KeyboardInterrupt
        return super().__getitem__(key)


def start():
    params = {"a": np.ones(4), "f": 0.5, "F": np.ones((2, 3), np.float32, order="F"), "g": -1.5}
    return Refusing(params)


@both
@pytest.mark.parametrize("new_key", [False, True])
def test_errors_in_any_call_change_nothing(package, new_key):
    """A bad gradient, Ctrl-C, and a mapping that refuses a number in the last call of the k."""
    options = {"accumulate": 3, "ema": 0.5, "clip_global_norm": 1e3}
    optimizer, never_failed = package.Adam(**options), package.Adam(**options)
    params, expected, rng = start(), start(), np.random.default_rng(0)
    for call in range(7):
        if new_key:
            for each in (params, expected):
                each[call] = np.ones(3)
        grads = {key: rng.standard_normal(np.shape(p)) for key, p in params.items()}
        if call == 4:
            grads["a"] = None
        for key in params:
            spoiled = {**grads, key: np.ones((9, 9))}
            with step_refused(ValueError, f"{key!r}", optimizer, params, spoiled):
                optimizer.update(params, spoiled)
            interrupting = Interrupting(grads)
            before, interrupting.at = snapshot(optimizer, params, grads), key
            with pytest.raises(KeyboardInterrupt):
                optimizer.update(params, interrupting)
            assert_unchanged(before, optimizer, params, grads)
        for most in range(2):
            params.most = most
            if call % 3 == 2:
                with step_refused(TypeError, "stays as it is", optimizer, params, grads):
                    optimizer.update(params, grads)
        params.most = 99
        optimizer.update(params, grads)
        never_failed.update(expected, grads)
        for key, p in expected.items():
            assert_same_bits(params[key], p, key)
        for name in ("m", "v", "average", "accumulated"):
            ours, theirs = getattr(optimizer, name), getattr(never_failed, name)
            assert ours.keys() == theirs.keys()
            for key, a in theirs.items():
                assert_same_bits(ours[key], a, (name, key))
        assert (optimizer.iter, optimizer.norm) == (never_failed.iter, never_failed.norm)


@both
def test_calls_that_only_add_replace_no_number(package):
    optimizer, params = package.SGD(accumulate=2), start()
    params.most = 0
    optimizer.update(params, ones(params))
    assert params.most == 0
    assert params["f"] == 0.5


@both
def test_key_that_is_missing_in_the_first_call_leaves_no_sum(package):
    for steps in (0, 1):
        optimizer, params = package.SGD(accumulate=2), start()
        for _ in range(2 * steps):
            optimizer.update(params, ones(params))
        with step_refused(KeyError, "'g'", optimizer, params, {}):
            optimizer.update(params, {k: g for k, g in ones(params).items() if k != "g"})
        assert optimizer.accumulated == {}
        optimizer.update(params, ones(params))
        assert {key: a.tolist() for key, a in optimizer.accumulated.items()} == {
            key: g.tolist() for key, g in ones(params).items()
        }


# --- copies ---


@both
@pytest.mark.parametrize("at", range(1, 6))
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["copy", "pickle"]
)
def test_copies_in_the_middle_go_on_alike(package, at, duplicate):
    """With sums of their own: of two that go on from there, neither sees the other."""
    options = {"accumulate": 3, "ema": 0.5, "nonfinite": "skip"}
    optimizer, whole = package.Adam(**options), package.Adam(**options)
    params, expected = draw_params("float32"), draw_params("float32")
    for call in range(7):
        if call == at:
            left, left_params = optimizer, copy.deepcopy(params)
            optimizer = duplicate(optimizer)
            assert sums_of(optimizer) == sums_of(left)
            for later in range(call, call + 4):
                left.update(left_params, draw_grads(left_params, later % 3))
        grads = draw_grads(params, call)
        optimizer.update(params, grads)
        whole.update(expected, grads)
    for key, p in expected.items():
        assert_same_bits(params[key], p, key)
    for name in ("m", "v", "average", "accumulated"):
        ours, theirs = getattr(optimizer, name), getattr(whole, name)
        assert [c[::2] for c in contents(ours)] == [c[::2] for c in contents(theirs)]
    assert (optimizer.iter, optimizer.skipped, optimizer.norm) == (2, 1, whole.norm)


def test_shallow_copy_in_the_middle_keeps_its_sum():
    """It shares the arrays with the optimizer, whose step is none of its own."""
    for other_first in (False, True):
        optimizer = fastopt.SGD(lr=1.0, accumulate=2)
        params, others = {"p": np.zeros(2)}, {"p": np.zeros(2)}
        optimizer.update(params, ones(params))
        other = copy.copy(optimizer)
        steps = [(optimizer, params), (other, others)]
        for each, its_params in reversed(steps) if other_first else steps:
            each.update(its_params, ones(its_params, 3.0))
        assert_array_equal(params["p"], np.full(2, -2.0))
        assert_array_equal(others["p"], np.full(2, -2.0))


def test_arrays_of_sums_are_used_again():
    """With nothing left in them."""
    optimizer, params = fastopt.SGD(lr=1.0, accumulate=2), {"p": np.zeros(9), "q": np.zeros(3)}
    optimizer.update(params, ones(params))
    first = [*optimizer.accumulated.values()]
    for step in range(4):
        optimizer.update(params, ones(params, 2.0))
        optimizer.update(params, ones(params, 4.0))
        for old, new in zip(first, optimizer.accumulated.values(), strict=True):
            assert new is old
            assert np.all(new == 4.0)
        assert optimizer.iter == step + 1


def test_sum_in_another_byte_order_is_not_used_again():
    """As the twin's, the next sum is native whatever array was put in place of the last one."""
    for package in (fastopt, reference):
        optimizer, params = package.SGD(lr=1.0, accumulate=2), {"a": np.ones(3)}
        optimizer.update(params, {"a": np.ones(3)})
        optimizer.accumulated["a"] = optimizer.accumulated["a"].astype(">f8")
        for _ in range(2):
            optimizer.update(params, {"a": np.ones(3)})
        assert optimizer.accumulated["a"].dtype.isnative
        assert_array_equal(optimizer.accumulated["a"], np.ones(3))
        assert_array_equal(params["a"], np.zeros(3))
