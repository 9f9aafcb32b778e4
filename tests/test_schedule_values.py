"""Hyper-parameters that are schedules: callables of the number of steps completed."""

import copy
from math import inf, nan

import numpy as np
import pytest
from helpers.errors import step_refused
from helpers.marks import both
from helpers.options import Pair, draw_grads, draw_params
from numpy.testing import assert_array_equal
from optimizer_table import TABLE, every_optimizer

import fastopt

ROWS = {row.name: row for row in TABLE}

# Of each setting that may vary, what its values are in three steps; all are exact numbers
VALUES = {
    "lr": [0.5, 0.25, 0.0],
    "weight_decay": [0.0, 0.5, 0.25],
    "low": [-0.5, -1.0, -inf],
    "high": [0.5, 0.25, inf],
    "clip_value": [0.5, 0.25, inf],
    "clip_norm": [inf, 0.5, 0.25],
    "clip_global_norm": [0.25, 0.5, inf],
    "ema": [0.0, 0.5, 0.25],
}


def values_of(row):
    """Return the values of each hyper-parameter of an optimizer that may vary."""
    fractions = {name: [0.5, 0.0, 0.75] for name in row.hypers if name != "lr"}
    return {**fractions, **VALUES}


@every_optimizer
@both
@pytest.mark.parametrize("accumulate", [1, 2])
def test_schedules_are_as_if_each_number_had_been_set(row, package, accumulate):
    cls = getattr(package, row.name)
    for name, values in values_of(row).items():
        scheduled = cls(**{name: values.__getitem__}, accumulate=accumulate)
        by_hand = cls(accumulate=accumulate, ema=0.0 if name == "ema" else None)
        ours, theirs = ({"C": np.linspace(-2, 2, 19), "x": 1.0} for _ in range(2))
        for t, value in enumerate(values):
            setattr(by_hand, name, value)
            for call in range(accumulate):
                grads = {"C": np.cos(np.arange(19.0) + t + call), "x": 0.75}
                scheduled.update(ours, grads)
                by_hand.update(theirs, grads)
            assert_array_equal(ours["C"], theirs["C"], err_msg=f"{name} at {t}", strict=True)
            assert ours["x"] == theirs["x"]
            assert scheduled.norm == by_hand.norm
            for state in (*row.states, "average"):
                assert getattr(scheduled, state).keys() == getattr(by_hand, state).keys()
                for key, array in getattr(by_hand, state).items():
                    assert_array_equal(getattr(scheduled, state)[key], array, strict=True)


@every_optimizer
@pytest.mark.parametrize("decoupled", [False, True])
def test_all_together_equal_the_twin(row, decoupled):
    settings = {name: values.__getitem__ for name, values in values_of(row).items()}
    del settings["clip_norm"]
    groups = {
        "C": {"lr": [0.25, 0.5, 1.0].__getitem__, "clip_value": [0.1, 0.2, inf].__getitem__},
        "f*": {"lr_scale": [1.0, 0.0, 2.0].__getitem__, "weight_decay": lambda t: t / 4},
    }
    pair = Pair(
        row, {**settings, "decoupled": decoupled, "groups": groups}, lambda: draw_params("float32")
    )
    for call in range(3):
        pair.update(draw_grads(pair.ours, 0 if call == 1 else 4))
    assert pair.compiled.iter == 3


@both
def test_schedule_is_called_once_a_step_with_the_number_of_steps(package):
    for options in ({}, {"clip_norm": 1.0}, {"nonfinite": "raise"}, {"weight_decay": 0.1}):
        calls = []

        def schedule(t, calls=calls):
            calls.append(t)
            return 0.5

        optimizer = package.Adam(
            lr=schedule, **options, groups={"a": {"lr": schedule}, "b": {"clip_value": 1.0}}
        )
        assert calls == []
        params = {"a": np.ones(2), "b": np.ones(2), "c": 1.0}
        for _ in range(3):
            optimizer.update(params, {"a": np.ones(2), "b": np.ones(2), "c": 1.0})
        assert calls == [0, 1, 2]
        assert {type(t) for t in calls} == {int}
        optimizer.iter = 41
        optimizer.update(params, dict.fromkeys(params))
        assert calls == [0, 1, 2, 41]


@both
def test_schedule_moves_with_steps_alone(package):
    """Not with calls that add, that are skipped, or that are refused."""
    calls = []
    optimizer = package.SGD(lr=lambda t: calls.append(t) or 1.0, accumulate=2, nonfinite="skip")
    params, grads = {"p": np.zeros(2)}, {"p": np.ones(2)}
    for _ in range(2):
        optimizer.update(params, grads)
        optimizer.update(params, {"p": np.full(2, nan)})
        with pytest.raises(ValueError, match="'p'"):
            optimizer.update(params, {"p": np.ones(3)})
        optimizer.update(params, grads)
    assert sorted({*calls}) == [0, 1]
    assert calls == sorted(calls)
    assert (optimizer.iter, optimizer.skipped) == (2, 2)


BAD = {
    "lr": [(-1.0, ValueError), (nan, ValueError), (inf, ValueError), ("x", TypeError)],
    "beta1": [(1.0, ValueError), (True, TypeError)],
    "eps": [(-1e-9, ValueError), (None, TypeError)],
    "weight_decay": [(-0.1, ValueError)],
    "low": [(nan, ValueError), (None, TypeError)],
    "high": [(nan, ValueError)],
    "clip_value": [(0.0, ValueError), ("x", TypeError), (None, TypeError)],
    "clip_norm": [(-1.0, ValueError), (None, TypeError)],
    "clip_global_norm": [(nan, ValueError)],
    "ema": [(1.0, ValueError), ([], TypeError), (None, TypeError)],
}


@both
@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("since", [0, 2])
def test_value_out_of_range_changes_nothing(package, name, accumulate, since):
    """And the message names the hyper-parameter, the step and the value."""
    good = {**VALUES, "beta1": [0.5], "eps": [1e-7]}[name][0]
    for value, error in BAD[name]:
        ranges = {"at": value}
        optimizer = package.Adam(
            accumulate=accumulate,
            **{name: lambda t, r=ranges: good if t < since else r["at"]},
        )
        params = {"p": np.ones(3), "x": 0.5}
        grads = {"p": np.ones(3), "x": 1.0}
        for _ in range(since * accumulate):
            optimizer.update(params, grads)
        message = rf"^{name} must .* got {value!r}".replace("[]", r"\[\]")
        message += rf", from its schedule at t = {since}$"
        for _ in range(2):
            with step_refused(error, message, optimizer, params, grads):
                optimizer.update(params, grads)
            with step_refused(error, message, optimizer, params, grads):
                optimizer.current()
        ranges["at"] = good
        for _ in range(accumulate):
            optimizer.update(params, grads)
        assert optimizer.iter == since + 1


@both
@pytest.mark.parametrize("name", ["lr", "lr_scale", "clip_norm", "high"])
def test_value_out_of_range_in_a_group(package, name):
    values = {"lr": -1.0, "lr_scale": inf, "clip_norm": 0, "high": nan}
    groups = {"b": {name: lambda t: 1.0 if t == 0 else values[name]}}
    optimizer = package.Adam(groups=groups, ema=0.5)
    params, grads = {"a": np.ones(2), "b": np.ones(2)}, {"a": np.ones(2), "b": np.ones(2)}
    optimizer.update(params, grads)
    message = rf"^groups\['b'\]: {name} must .* got {values[name]!r}, from its schedule at t = 1"
    with step_refused(ValueError, message, optimizer, params, grads):
        optimizer.update(params, grads)
    optimizer.groups = {}
    optimizer.update(params, grads)


@both
def test_bounds_that_cross_change_nothing(package):
    optimizer = package.SGD(low=lambda t: 1.0 * t, high=lambda t: 1.5)
    params, grads = {"p": np.ones(2)}, {"p": np.ones(2)}
    for _ in range(2):
        optimizer.update(params, grads)
    with step_refused(
        ValueError,
        r"low must not be above high, got 2\.0 and 1\.5 at t = 2",
        optimizer,
        params,
        grads,
    ):
        optimizer.update(params, grads)


@both
def test_schedule_that_raises_changes_nothing(package):
    for error in (ZeroDivisionError, KeyboardInterrupt):

        def schedule(t, error=error):
            if t == 1:
                raise error("now")
            return 0.5

        for options in ({"lr": schedule}, {"ema": schedule}, {"accumulate": 2, "lr": schedule}):
            optimizer = package.Momentum(**options)
            params, grads = {"p": np.ones(2), "x": 1.0}, {"p": np.ones(2), "x": 1.0}
            for _ in range(optimizer.accumulate):
                optimizer.update(params, grads)
            for _ in range(2):
                with step_refused(error, "now", optimizer, params, grads):
                    optimizer.update(params, grads)


@both
def test_schedule_stays_what_it_is_until_it_is_replaced(package):
    schedules = {name: lambda t: 0.25 for name in ("lr", "ema", "clip_norm")}
    optimizer, params = package.SGD(**schedules), {"p": np.zeros(1)}
    for _ in range(2):
        optimizer.update(params, {"p": np.ones(1)})
        assert all(getattr(optimizer, name) is each for name, each in schedules.items())
    optimizer.lr, optimizer.clip_norm = 1.0, None
    optimizer.update(params, {"p": np.ones(1)})
    assert params["p"] == -2 * 0.25 * 0.25 - 1.0
    optimizer.lr = lambda t: t / 4.0
    optimizer.update(params, {"p": np.ones(1)})
    assert params["p"] == -2 * 0.25 * 0.25 - 1.0 - 0.75
    assert copy.copy(optimizer).lr is optimizer.lr


@both
def test_current_gives_the_numbers_of_the_next_step(package):
    groups = {
        "scaled": {"lr_scale": lambda t: 10.0**t},
        "b": {"lr": lambda t: t + 3.0, "weight_decay": 0.5, "clip_norm": 2.0},
        "held": {"frozen": True},
    }
    optimizer = package.Adam(
        lr=lambda t: 0.5 / (t + 1), beta1=lambda t: 0.5 if t else 0.25, ema=0.5, groups=groups
    )
    params = {key: np.ones(1) for key in ("a", "scaled", "b", "held")}
    for t in range(3):
        now = optimizer.current()
        assert now == optimizer.current("a") == optimizer.current(("no", "string"))
        assert (now["lr"], now["beta1"], now["beta2"]) == (0.5 / (t + 1), 0.5 if t else 0.25, 0.999)
        assert (now["weight_decay"], now["clip_norm"], now["ema"]) == (0.0, None, 0.5)
        assert {*now} == {*optimizer._settings} - {"groups"}
        of_b = optimizer.current("b")
        assert of_b == {**now, "lr": t + 3.0, "weight_decay": 0.5, "clip_norm": 2.0}
        of_scaled = optimizer.current("scaled")
        assert (of_scaled["lr"], of_scaled["lr_scale"]) == (now["lr"] * 10.0**t, 10.0**t)
        assert optimizer.current("held") == {"frozen": True}
        now["lr"] = 99.0  # of a copy
        assert optimizer.iter == t
        optimizer.update(params, dict.fromkeys(params, np.ones(1)))
    optimizer.lr = 2.0
    assert optimizer.current()["lr"] == 2.0
    assert optimizer.current("scaled")["lr"] == 2000.0


@every_optimizer
def test_looking_at_current_numbers_changes_no_step(row):
    """Whether before, between or after steps; the twin is not looked at."""
    settings = {"lr": lambda t: 0.1 / (t + 1), "ema": lambda t: t / (t + 1)}
    pair = Pair(row, settings, lambda: draw_params("float64"))
    for call in range(4):
        pair.compiled.current()
        pair.compiled.iter += 5
        pair.compiled.current("C")
        pair.compiled.iter -= 5
        pair.update(draw_grads(pair.ours, 0 if call % 2 else 4))


def test_steps_with_schedules_check_no_array_again():
    settings = {"lr": lambda t: 0.1 / (t + 1), "groups": {"b": {"clip_value": lambda t: 1.0 + t}}}
    for options in ({}, {"clip_global_norm": lambda t: 1.0}, {"ema": lambda t: 0.5}):
        optimizer = fastopt.Adam(**settings, **options)
        params = {"a": np.ones(9), "b": np.ones((3, 2), np.float32)}
        for _ in range(5):
            optimizer.update(params, {key: np.ones(p.shape, p.dtype) for key, p in params.items()})
        assert optimizer._stepper.known_steps == 4
        assert optimizer._stepper.checked_entries == 2


@both
@pytest.mark.parametrize("value", [float, np.float64, "0.1", [0.1]])
def test_what_is_no_schedule_is_refused_when_it_is_set(package, value):
    """A class can be called, too; it is somebody's mistake."""
    optimizer, params = package.SGD(), {"p": np.ones(2)}
    with step_refused(TypeError, "lr must be a number", optimizer, params, {}):
        optimizer.lr = value
    with pytest.raises(TypeError, match="ema must be a number"):
        package.SGD(ema=value)


@both
def test_schedule_may_be_any_callable(package):
    class Falling:
        def __call__(self, t):
            return np.float32(1.0 / (t + 1))

    optimizer, params = package.SGD(lr=Falling()), {"p": np.zeros(1)}
    for _ in range(2):
        optimizer.update(params, {"p": np.ones(1)})
    assert params["p"] == -1.5
    assert type(optimizer.current()["lr"]) is float
