"""Moving averages of the parameters, and the context in which parameters hold them."""

import copy
import pickle
from types import MappingProxyType

import numpy as np
import pytest
from helpers.arrays import assert_same_bits
from helpers.errors import Refusing, assert_same_contents, contents, refused, step_refused
from helpers.marks import both, every_dtype
from helpers.options import Pair, draw_grads, draw_params
from numpy.testing import assert_array_equal
from optimizer_table import every_optimizer

import fastopt


def trained(package, steps=3, **options):
    """Return an optimizer with averages, and its parameters, special numbers among them."""
    params = {
        **draw_params("float32"),
        "special": np.array([np.nan, -0.0, 0.0, np.inf, -np.inf, 1e-310]),
        "float64 scalar": np.float64(-0.0),
    }
    optimizer = package.Momentum(lr=0.1, **{"ema": 0.5, **options})
    for _ in range(steps):
        optimizer.update(params, {key: np.full(np.shape(p), 0.25) for key, p in params.items()})
    return optimizer, params


def bits(params):
    """Return keys, types and bytes of a dict's values."""
    return [(key, type(p), np.asarray(p).tobytes()) for key, p in params.items()]


# --- how they move ---


@both
@every_dtype
def test_average_begins_as_a_copy_and_follows_each_step(package, dtype):
    ema = 0.875
    p = np.linspace(-1, 1, 9, dtype=dtype)
    params, want = {"p": p}, p.copy()
    share, lr = np.dtype(dtype).type(1 - ema), np.dtype(dtype).type(0.5)
    optimizer, plain = package.SGD(lr=0.5, ema=ema), p.copy()
    assert optimizer.average == {}
    for g in (1.0, -0.25, 3.0):
        optimizer.update(params, {"p": np.full(9, g)})
        plain = plain - lr * np.dtype(dtype).type(g)
        want = want + share * (plain - want)
        assert_array_equal(params["p"], plain, strict=True)  # which it leaves alone
        assert_array_equal(optimizer.average["p"], want, strict=True)


@both
def test_key_joins_with_its_first_step(package):
    """Not before it has a gradient; and a copy of what it is then."""
    optimizer = package.SGD(lr=1.0, ema=0.5, groups={"held": {"frozen": True}})
    params = {"a": 0.0, "late": np.zeros(2), "held": np.ones(2)}
    optimizer.update(params, {"a": 1.0, "late": None, "held": np.ones(2)})
    assert [*optimizer.average] == ["a"]
    params["late"] += 8.0
    params["new"] = np.full(1, 4.0)
    optimizer.update(params, {"a": 1.0, "late": np.ones(2), "held": None, "new": np.ones(1)})
    assert {key: a.tolist() for key, a in optimizer.average.items()} == {
        "a": -1.25, "late": [7.5, 7.5], "new": [3.5],
    }  # fmt: skip
    optimizer.update(params, {"a": None, "late": None, "held": None, "new": None})
    assert optimizer.average["a"] == -1.25, "no step of its own, no move"


@both
def test_average_sees_steps_and_not_calls(package):
    optimizer, params = package.SGD(lr=1.0, ema=0.5, accumulate=2), {"p": np.zeros(1)}
    optimizer.update(params, {"p": np.ones(1)})
    assert optimizer.average == {}
    params["p"] += 10.0
    optimizer.update(params, {"p": np.ones(1)})
    assert optimizer.average["p"] == 9.5


@both
def test_decay_of_zero_is_the_parameter_itself(package):
    optimizer, params = package.SGD(lr=0.3, ema=0.0), {"p": np.ones(3)}
    for _ in range(3):
        optimizer.update(params, {"p": np.full(3, 0.1)})
        assert_array_equal(optimizer.average["p"], params["p"])


@every_optimizer
def test_schedule_of_the_decay(row):
    def ema(t):
        return min(0.999, (1 + t) / (10 + t))

    pair = Pair(row, {"ema": ema}, lambda: draw_params("float32"))
    want, seen = None, pair.theirs
    for step in range(4):
        before = np.array(seen["C"])
        pair.update(draw_grads(pair.ours, 0))
        want = before if want is None else want
        want = want + np.float32(1 - ema(step)) * (seen["C"] - want)
        assert_array_equal(pair.compiled.average["C"], want, strict=True)


@every_optimizer
def test_average_may_begin_and_end_between_steps(row):
    """What is there is kept, and goes on."""
    pair = Pair(row, {}, lambda: draw_params("float64"))
    for ema in (None, 0.5, 0.5, None, 0.9):
        pair.set("ema", ema)
        average = {key: a.copy() for key, a in pair.compiled.average.items()}
        pair.update(draw_grads(pair.ours, 0))
        moved = any(np.any(pair.compiled.average[key] != a) for key, a in average.items())
        assert moved == (ema is not None and bool(average))


# --- the context ---


@both
def test_parameters_hold_averages_and_get_back_their_bits(package):
    optimizer, params = trained(package)
    params["no average"], params["none yet"] = np.ones(2), 1.5
    arrays = {key: p for key, p in params.items() if isinstance(p, np.ndarray)}
    before, average = bits(params), contents(optimizer.average)
    with optimizer.averaged(params):
        for key, a in optimizer.average.items():
            assert_same_bits(np.asarray(params[key]).astype(a.dtype), a, key)
            assert params[key] is not a
        assert [type(p) for p in params.values()] == [kind for _, kind, _ in before]
        assert_array_equal(params["no average"], np.ones(2))
        assert params["none yet"] == 1.5
        assert bits(params) != before
    assert bits(params) == before
    for key, array in arrays.items():
        assert params[key] is array
    assert_same_contents(average, contents(optimizer.average))


@both
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_parameters_get_back_their_bits_after_an_error(package, error):
    optimizer, params = trained(package)
    before = bits(params)

    def write_and_raise():
        params["C"][:] = 7.0  # what is written there is lost
        params["float"] = 8.0
        raise error

    with pytest.raises(error), optimizer.averaged(params):
        write_and_raise()
    assert bits(params) == before
    iterations = optimizer.iter
    optimizer.update(params, dict.fromkeys(params))
    assert optimizer.iter == iterations + 1


@both
def test_updates_and_contexts_inside_are_refused(package):
    for options in ({}, {"accumulate": 2}, {"lr": lambda t: 0.1}, {"clip_norm": 1.0}):
        optimizer, params = trained(package)
        for name, value in options.items():
            setattr(optimizer, name, value)
        grads = {key: np.ones(np.shape(p)) for key, p in params.items()}
        optimizer.update(params, grads)
        before = bits(params)
        other, others = trained(package)
        with optimizer.averaged(params):
            for _ in range(2):
                with step_refused(RuntimeError, "hold their averages", optimizer, params, grads):
                    optimizer.update(params, grads)
                with step_refused(RuntimeError, "hold their averages", optimizer, params, grads):
                    optimizer.averaged(params).__enter__()
                with step_refused(RuntimeError, "hold their averages", optimizer, params, grads):
                    optimizer.reset()
                optimizer.lr = 0.2  # which must not let it in
            with other.averaged(others):  # an optimizer of its own
                pass
        assert bits(params) == before
        optimizer.update(params, grads)


@both
def test_context_may_be_entered_again_and_again(package):
    optimizer, params = trained(package)
    for _ in range(3):
        before = bits(params)
        with optimizer.averaged(params):
            inside = bits(params)
        with optimizer.averaged(params):
            assert bits(params) == inside
        assert bits(params) == before
        optimizer.update(params, {key: np.ones(np.shape(p)) for key, p in params.items()})
        with optimizer.averaged(params):
            assert bits(params) != inside


@both
@every_optimizer
def test_without_ema_there_is_no_context(package, row):
    optimizer = getattr(package, row.name)()
    with pytest.raises(AttributeError, match=rf"{row.name} keeps no averages: give it ema="):
        _ = optimizer.averaged
    assert not hasattr(optimizer, "averaged")
    optimizer.ema = 0.5
    assert hasattr(optimizer, "averaged")


@both
def test_average_that_no_longer_fits_changes_nothing(package):
    for spoil in (
        lambda params: params.update(C=np.ones(3, np.float32)),
        lambda params: params.update(C=np.ones((7, 5))),
        lambda params: params.update(float=np.float32(1.0)),
        lambda params: setattr(params["C"].flags, "writeable", False),
    ):
        optimizer, params = trained(package)
        params = dict(reversed(params.items()))  # the odd one comes after others
        spoil(params)
        with (
            refused(ValueError, "'C'|'float'", params, optimizer.average),
            optimizer.averaged(params),
        ):
            raise AssertionError("it must not be entered")
        del params["C"], params["float"]
        with optimizer.averaged(params):
            pass


@both
def test_context_wants_the_parameters(package):
    optimizer, params = trained(package)
    before = bits(params)
    with pytest.raises(TypeError, match=r"with optimizer.averaged\(params\)"), optimizer.averaged:
        raise AssertionError("it must not be entered")
    with pytest.raises(TypeError, match="params must be a mapping, got list"):
        optimizer.averaged([1.0])
    assert bits(params) == before
    optimizer.update(params, dict.fromkeys(params))


@both
@pytest.mark.parametrize("most", [0, 1])
def test_mapping_that_refuses_a_number_once_changes_nothing(package, most):
    optimizer, params = trained(package)
    params = Refusing(params)
    before, params.most = bits(params), most
    with pytest.raises(TypeError, match="stays as it is"), optimizer.averaged(params):
        raise AssertionError("it must not be entered")
    assert bits(params) == before
    with optimizer.averaged(params):
        assert bits(params) != before
    assert bits(params) == before


@both
def test_mapping_that_never_takes_a_number_leaves_the_optimizer_working(package):
    optimizer, params = trained(package)
    before = bits(params)
    with pytest.raises(TypeError), optimizer.averaged(MappingProxyType(params)):
        raise AssertionError("it must not be entered")
    assert bits(params) == before
    with optimizer.averaged(params):
        pass


@both
def test_ctrl_c_while_they_are_put_back_leaves_all_parameters_as_they_were(package):
    class Interrupting(dict):
        times = 0

        def __setitem__(self, key, value):
            if self.times:
                self.times -= 1
                raise KeyboardInterrupt
            super().__setitem__(key, value)

    optimizer, params = trained(package)
    params = Interrupting(params)
    before = bits(params)
    for times in (1, 3):
        with pytest.raises(KeyboardInterrupt), optimizer.averaged(params):
            params.times = times
        assert bits(params) == before
    optimizer.update(params, {key: np.zeros(np.shape(p)) for key, p in params.items()})


@both
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, None], ids=str)
def test_copies_go_on_with_averages_of_their_own(package, duplicate):
    """Those made inside the context, too; a shallow copy shares them, as any attribute."""
    optimizer, params = trained(package)
    expected, want = trained(package)
    duplicate = duplicate or (lambda o: pickle.loads(pickle.dumps(o)))
    with optimizer.averaged(params):
        other = duplicate(optimizer)
    assert (other.average is optimizer.average) == (duplicate is copy.copy)
    grads = {key: np.full(np.shape(p), 0.5) for key, p in params.items()}
    other.update(params, grads)
    expected.update(want, grads)
    for key, p in want.items():
        assert_same_bits(np.asarray(params[key]), np.asarray(p), key)
        assert_array_equal(other.average[key], expected.average[key], strict=True)
    assert other.iter == optimizer.iter + 1


def test_average_is_known_from_step_to_step():
    optimizer, params = fastopt.Adam(ema=0.5), {"a": np.ones(9), "b": np.ones((3, 2), np.float32)}
    for _ in range(5):
        optimizer.update(params, {key: np.ones(p.shape, p.dtype) for key, p in params.items()})
    assert optimizer._stepper.known_steps == 4
