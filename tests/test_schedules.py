"""The schedules of `fastopt.schedules`: their numbers, and that they are values.

One table drives most of it, with a row or more for each class of the module. What an optimizer does
with any schedule is in test_schedule_values.py.
"""

import copy
import inspect
import itertools
import json
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import cos, inf, isfinite, nan, pi, sqrt
from typing import Any

import numpy as np
import pytest
from helpers.options import Pair, draw_grads, draw_params
from hypothesis import given
from hypothesis import strategies as st
from optimizer_table import TABLE

import fastopt
from fastopt import schedules
from fastopt.schedules import (
    MAX_DEPTH,
    ReduceOnPlateau,
    as_plain,
    constant,
    cosine,
    cosine_restarts,
    exponential,
    from_plain,
    inverse_sqrt,
    join,
    linear,
    one_cycle,
    piecewise,
    polynomial,
    step,
    warmup,
)


@dataclass(frozen=True)
class Row:
    """A schedule.

    ``formula(t)`` returns its numbers as the documentation has them. ``exact`` are numbers without
    any tolerance; ``golden`` are PyTorch 2.13's, where it has the schedule, or worked out by hand.
    """

    text: str  # as `repr` writes it
    formula: Callable[[int], float]
    exact: Mapping[int, float]
    golden: Mapping[int, float]

    @property
    def schedule(self):
        return eval(self.text, {"schedules": schedules})

    @property
    def cls(self):
        return type(self.schedule)


def wave(initial, final, share):
    return final + (initial - final) * (1 + cos(pi * share)) / 2


def one_cycle_of_40(t):
    if t < 12:
        return wave(0.004, 0.1, t / 12)
    return wave(0.1, 4e-7, (t - 12) / 28) if t < 40 else 4e-7


ROWS = [
    Row("schedules.constant(0.1)", lambda t: 0.1, {0: 0.1, 10**6: 0.1}, {}),
    Row("schedules.constant(float('-inf'))", lambda t: -inf, {0: -inf, 10**6: -inf}, {}),
    Row(
        "schedules.step(0.1, 7, 0.5)",
        lambda t: 0.1 * 0.5 ** (t // 7),
        {0: 0.1, 6: 0.1, 7: 0.05, 13: 0.05, 14: 0.025},
        {7: 0.05, 39: 0.003125},
    ),
    Row("schedules.step(1.0, 1, 0.0)", lambda t: float(t == 0), {0: 1.0, 1: 0.0, 9: 0.0}, {}),
    Row(
        "schedules.exponential(0.1, 0.95)",
        lambda t: 0.1 * 0.95**t,
        {0: 0.1},
        {1: 0.095, 7: 0.06983372960937498, 39: 0.01352759542790559},
    ),
    Row(
        "schedules.exponential(1.0, 0.25, 100)",
        lambda t: 0.25 ** (t / 100),
        {0: 1.0, 50: 0.5, 100: 0.25, 200: 0.0625},
        {},
    ),
    Row(
        "schedules.linear(0.1, 0.02, 20)",
        lambda t: 0.1 * (1 - t / 20) + 0.02 * t / 20 if t < 20 else 0.02,
        {0: 0.1, 20: 0.02, 21: 0.02, 10**6: 0.02},
        {1: 0.096, 7: 0.072},
    ),
    Row(
        "schedules.linear(-1.0, 1.0, 1)",
        lambda t: 1.0 if t else -1.0,
        {0: -1.0, 1: 1.0, 10**6: 1.0},
        {},
    ),
    Row(
        "schedules.cosine(0.1, 20)",
        lambda t: wave(0.1, 0, min(t / 20, 1)),
        {0: 0.1, 20: 0.0, 21: 0.0, 10**6: 0.0},
        {10: 0.05},
    ),
    Row(
        "schedules.cosine(0.1, 20, 0.001)",
        lambda t: wave(0.1, 0.001, min(t / 20, 1)),
        {0: 0.1, 20: 0.001, 21: 0.001, 10**6: 0.001},
        {1: 0.09939057285945932, 7: 0.07297252973710756},
    ),
    Row(
        "schedules.cosine(0.7, 3, 0.9)",  # upwards
        lambda t: wave(0.7, 0.9, min(t / 3, 1)),
        {0: 0.7, 3: 0.9, 10**6: 0.9},
        {1: 0.75, 2: 0.85},
    ),
    Row(
        "schedules.cosine_restarts(0.1, 60, 3, 0.001)",
        lambda t: wave(0.1, 0.001, t % 20 / 20) if t < 60 else 0.001,
        {0: 0.1, 20: 0.1, 40: 0.1, 60: 0.001, 10**6: 0.001},
        {1: 0.09939057285945932, 27: 0.07297252973710756, 59: 0.001609427140540686},
    ),
    Row(
        "schedules.cosine_restarts(1.0, 10, 4)",  # cycles of two and a half steps
        lambda t: wave(1.0, 0.0, t / 2.5 % 1) if t < 10 else 0.0,
        {0: 1.0, 5: 1.0, 10: 0.0},
        {3: wave(1.0, 0.0, 0.2)},
    ),
    Row(
        "schedules.one_cycle(0.1, 40)",
        one_cycle_of_40,
        {0: 0.1 / 25, 12: 0.1, 40: 0.1 / 250_000, 10**6: 0.1 / 250_000},
        {1: 0.005635560338124734, 7: 0.064423314164921},
    ),
    Row(
        "schedules.one_cycle(1.0, 10, 0.0, end=0.0)",  # downwards from the beginning
        lambda t: wave(1.0, 0.0, min(t / 10, 1)),
        {0: 1.0, 10: 0.0},
        {5: 0.5},
    ),
    Row(
        "schedules.one_cycle(1.0, 4, 0.99, 0.5, 0.25)",  # a step is left for the way down
        lambda t: wave(0.5, 1.0, t / 3) if t < 3 else [1.0, 0.25][min(t - 3, 1)],
        {0: 0.5, 3: 1.0, 4: 0.25},
        {1: 0.625, 2: 0.875},
    ),
    Row("schedules.one_cycle(1.0, 1)", lambda t: 4e-6 if t else 1.0, {0: 1.0, 1: 4e-6}, {}),
    Row(
        "schedules.polynomial(0.1, 20, 2.0)",
        lambda t: 0.1 * max(0, 1 - t / 20) ** 2,
        {0: 0.1, 20: 0.0, 10**6: 0.0},
        {1: 0.09025, 7: 0.04225},
    ),
    Row(
        "schedules.polynomial(0.7, 3, 0.5, 0.9)",
        lambda t: 0.9 - 0.2 * sqrt(max(0, 1 - t / 3)),
        {0: 0.7, 3: 0.9, 4: 0.9},
        {},
    ),
    Row(
        "schedules.inverse_sqrt(0.1, 100.0)",
        lambda t: 0.1 * sqrt(100 / (t + 100)),
        {0: 0.1, 300: 0.05},
        {100: 0.1 / sqrt(2), 9900: 0.01},
    ),
    Row(
        "schedules.piecewise({0: 0.1, 5: 0.05, 9: 0.025})",
        lambda t: 0.1 if t < 5 else 0.05 if t < 9 else 0.025,
        {0: 0.1, 4: 0.1, 5: 0.05, 8: 0.05, 9: 0.025, 10**6: 0.025},
        {},
    ),
    Row(
        "schedules.piecewise({0: -1.0, 3: float('inf')})",
        lambda t: -1.0 if t < 3 else inf,
        {0: -1.0, 2: -1.0, 3: inf},
        {},
    ),
    Row(
        "schedules.warmup(10, schedules.cosine(0.1, 20, 0.02))",
        lambda t: 0.1 * t / 10 if t < 10 else wave(0.1, 0.02, min((t - 10) / 20, 1)),
        {0: 0.0, 5: 0.05, 10: 0.1, 30: 0.02, 10**6: 0.02},
        {3: 0.03, 20: 0.06},
    ),
    Row("schedules.warmup(1, schedules.constant(0.3))", lambda t: 0.3 if t else 0.0, {0: 0.0}, {}),
    Row(
        "schedules.join([(4, schedules.linear(0.0, 1.0, 2)), (3, schedules.constant(0.5)), "
        "schedules.step(0.25, 2, 0.5)])",
        lambda t: min(t / 2, 1.0) if t < 4 else 0.5 if t < 7 else 0.25 * 0.5 ** ((t - 7) // 2),
        {0: 0.0, 1: 0.5, 3: 1.0, 4: 0.5, 6: 0.5, 7: 0.25, 8: 0.25, 9: 0.125},
        {},
    ),
    Row(
        "schedules.join([schedules.warmup(2, schedules.piecewise({0: 1.0, 3: 2.0}))])",
        lambda t: t / 2 if t < 2 else 1.0 if t < 5 else 2.0,
        {0: 0.0, 2: 1.0, 4: 1.0, 5: 2.0},
        {},
    ),
    Row("schedules.ReduceOnPlateau(0.1)", lambda t: 0.1, {0: 0.1, 10**6: 0.1}, {}),
    Row(
        "schedules.ReduceOnPlateau(0.1, 0.5, 2, minimum=0.01)",
        lambda t: 0.1,
        {0: 0.1},
        {},
    ),
]

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.text)


def classes():
    things = (getattr(schedules, name) for name in schedules.__all__)
    return {thing for thing in things if inspect.isclass(thing)}


def test_table_has_a_row_for_every_schedule():
    assert {row.cls for row in ROWS} == classes()
    assert {name for name in schedules.__all__ if name != "plot"} == {c.__name__ for c in classes()}


def test_module_needs_nothing_compiled_and_is_cheap():
    """So that whatever stores schedules may import it, and importing it takes no time."""
    code = (
        "import sys, types;"
        "package = sys.modules['fastopt'] = types.ModuleType('fastopt');"
        f"package.__path__ = {[*fastopt.__path__]!r};"
        "import fastopt.schedules;"
        "print(*(name for name in sys.modules if name.split('.')[0] in "
        "('fastopt', 'matplotlib', 'scipy')))"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert {*out.split()} == {"fastopt", "fastopt._checks", "fastopt.schedules"}


# --- numbers ---


@every_row
def test_numbers_are_those_of_the_formula(row):
    schedule = row.schedule
    for t in [*range(130), 1000, 10**6, 2**53 - 1]:
        number = schedule(t)
        assert type(number) is float
        assert number == pytest.approx(row.formula(t), rel=1e-13, abs=1e-17), t
        assert schedule(t) == number  # again


@every_row
def test_ends_are_exact_and_golden_values_hold(row):
    schedule = row.schedule
    for t, number in row.exact.items():
        assert schedule(t) == number, t
    for t, number in row.golden.items():
        assert schedule(t) == pytest.approx(number, rel=1e-14), t


@given(
    st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.integers(1, 10**6), st.floats(0.1, 5), st.data()
)
def test_ends_are_exact_and_nothing_lies_beyond_them(initial, final, steps, power, data):
    slack = 1e-15 * max(abs(initial), abs(final))
    low, high = min(initial, final) - slack, max(initial, final) + slack
    for schedule in (
        linear(initial, final, steps),
        cosine(initial, steps, final),
        polynomial(initial, steps, power, final),
        cosine_restarts(initial, steps, data.draw(st.integers(1, steps)), final),
    ):
        assert (schedule(0), schedule(steps), schedule(steps + 1)) == (initial, final, final)
        assert low <= schedule(data.draw(st.integers(0, steps))) <= high
    share = data.draw(st.floats(0, 1, exclude_max=True))
    cycle = one_cycle(initial, steps, share, final, final)
    assert cycle(min(round(share * steps), steps - 1)) == initial
    assert cycle(steps) == final
    assert low <= cycle(data.draw(st.integers(0, steps))) <= high


@given(st.floats(0, 1), st.integers(1, 1000))
def test_what_falls_to_zero_is_never_below_it(initial, steps):
    """Of a learning rate that would be an error in the last steps."""
    for schedule in (
        linear(initial, 0, steps),
        cosine(initial, steps),
        cosine_restarts(initial, steps, 1),
        polynomial(initial, steps, 0.5),
        one_cycle(initial, steps, end=0),
        one_cycle(initial, steps, start=0),
    ):
        assert all(0 <= schedule(t) <= initial * (1 + 1e-15) for t in range(steps + 2))


def test_growth_beyond_all_floats_is_infinite():
    assert exponential(0.1, 1.5)(10**6) == inf
    assert exponential(-0.1, 1.5)(10**6) == -inf
    assert exponential(0, 1.5)(10**6) == 0.0
    assert step(0.1, 1, 2)(10**6) == inf
    assert exponential(0.1, 0)(1) == 0.0


def test_plateaus_may_stand_in_others():
    plateau = ReduceOnPlateau(1.0, factor=0.5, patience=0)
    schedule = join([(2, 0.1), warmup(4, plateau)])
    assert [schedule(t) for t in (1, 2, 4, 6, 7)] == [0.1, 0.0, 0.5, 1.0, 1.0]
    for _ in range(2):
        plateau.report(1.0)
    assert [schedule(t) for t in (1, 2, 4, 6, 7)] == [0.1, 0.0, 0.25, 0.5, 0.5]


def test_own_callables_may_stand_in_others():
    calls = []

    def own(t):
        calls.append(t)
        return np.float32(0.5) if t else 1

    for schedule in (warmup(2, own), join([(2, linear(0, 1, 2)), own])):
        numbers = [schedule(t) for t in range(4)]
        assert numbers == [0.0, 0.5, 1.0, 0.5]
        assert {type(number) for number in numbers} == {float}
    assert {type(t) for t in calls} == {int}
    with pytest.raises(TypeError, match=r"^parts\[1\] must be a number, got '1'$"):
        join([(2, 0), lambda t: "1"])(2)


# --- values ---


@every_row
def test_repr_makes_it_again(row):
    assert repr(row.schedule) == row.text
    names: dict[str, Any] = {}
    exec("from fastopt import *", names)
    assert eval(row.text, names) == row.schedule


@every_row
@pytest.mark.parametrize(
    "again",
    [
        copy.copy,
        copy.deepcopy,
        lambda s: pickle.loads(pickle.dumps(s)),
        lambda s: pickle.loads(pickle.dumps(s, 0)),
        lambda s: from_plain(as_plain(s)),
        lambda s: from_plain(json.loads(json.dumps(as_plain(s)))),
    ],
    ids=["copy", "deepcopy", "pickle", "old pickle", "plain", "json"],
)
def test_copies_are_equal(row, again):
    schedule = row.schedule
    other = again(schedule)
    assert other == schedule
    assert type(other) is row.cls
    assert repr(other) == row.text
    assert [other(t) for t in range(50)] == [schedule(t) for t in range(50)]


def test_equality_is_by_type_and_arguments():
    made = [(row.schedule, row.schedule) for row in ROWS]
    for (i, (one, _)), (j, (_, other)) in itertools.product(enumerate(made), repeat=2):
        assert (one == other) == (i == j)
        assert (one != other) == (i != j)
        if not isinstance(one, ReduceOnPlateau):
            assert i != j or hash(one) == hash(other)
    assert constant(0.1) != 0.1
    assert cosine(1, 10) == cosine(np.float64(1), 10.0, final=0) != cosine(1, 11)
    assert warmup(3, 0.1) == warmup(3, constant(0.1)) != warmup(3, lambda t: 0.1)
    assert piecewise({5: 1, 0: 2}) == piecewise({0: 2, 5: 1})
    assert one_cycle(1, 10) == one_cycle(1, 10, 0.3, 1 / 25, None)
    assert join(((3, 1), 2)) == join([[3, 1], 2])


def test_they_are_keys_unless_they_have_a_state():
    plateau = ReduceOnPlateau(0.1)
    keys = {row.schedule for row in ROWS if row.cls is not ReduceOnPlateau}
    assert len(keys) == len([row for row in ROWS if row.cls is not ReduceOnPlateau])
    for schedule in (plateau, warmup(3, plateau), join([plateau])):
        with pytest.raises(TypeError, match="unhashable"):
            hash(schedule)


@every_row
def test_attributes_are_the_arguments_and_read_only(row):
    schedule = row.schedule
    names = [*inspect.signature(row.cls).parameters]
    assert row.cls(**{name: getattr(schedule, name) for name in names}) == schedule
    for name in [*names, "other", "_half"]:
        with pytest.raises(AttributeError, match=f"^{name} of schedules.* can't be set"):
            setattr(schedule, name, 1)
        with pytest.raises(AttributeError, match=f"^{name} of schedules.* can't be deleted"):
            delattr(schedule, name)
    assert not hasattr(schedule, "__dict__")
    assert repr(schedule) == row.text


def test_boundaries_may_come_in_any_order():
    one, other = piecewise({10: 1, 0: 2, 5: 3}), piecewise({0: 2, 5: 3, 10: 1})
    assert one == other
    assert hash(one) == hash(other)
    assert repr(one) == repr(other)
    assert [one(t) for t in (0, 4, 5, 9, 10)] == [2.0, 2.0, 3.0, 3.0, 1.0]


def test_containers_among_the_attributes_are_read_only():
    given_to, pairs = {0: 1.0, 3: 2.0}, [(3, 0.1), 0.2]
    schedule, joined = piecewise(given_to), join(pairs)
    given_to[3], pairs[0] = 5.0, (9, 0.9)
    assert (schedule(3), joined(3)) == (2.0, 0.2)
    with pytest.raises(TypeError):
        schedule.values[3] = 5.0
    assert type(joined.parts) is tuple


def test_a_class_of_ones_own():
    class Halved(cosine):
        def __call__(self, t):
            return super().__call__(t) / 2

    schedule = Halved(0.1, 20)
    assert schedule(0) == 0.05
    assert schedule != cosine(0.1, 20)
    assert copy.deepcopy(schedule) == schedule
    assert as_plain(schedule) is as_plain(warmup(3, schedule)) is None
    assert repr(schedule) == "test_schedules.Halved(0.1, 20)"


# --- errors ---

REFUSED = [
    (lambda: constant("0.1"), TypeError, "value must be a number, got '0.1'"),
    (lambda: constant(True), TypeError, "value must be a number, got True"),
    (lambda: constant(nan), ValueError, "value must be a number, got nan"),
    (constant, TypeError, "schedules.constant: missing a required argument: 'value'"),
    (lambda: constant(1, 2), TypeError, "schedules.constant: too many positional arguments"),
    (lambda: cosine(0.1, 9, last=1), TypeError, "schedules.cosine: got an unexpected .* 'last'"),
    (lambda: cosine(0.1, 0), ValueError, "steps must be a whole number from 1, got 0"),
    (lambda: cosine(0.1, 2.5), ValueError, "steps must be a whole number from 1, got 2.5"),
    (lambda: cosine(0.1, "9"), TypeError, "steps must be a whole number from 1, got '9'"),
    (lambda: cosine(0.1, None), TypeError, "steps must be a whole number from 1, got None"),
    (lambda: cosine(inf, 9), ValueError, "initial must be finite, got inf"),
    (lambda: cosine(0.1, 9, nan), ValueError, "final must be finite, got nan"),
    (lambda: cosine(0.1, 9, None), TypeError, "final must be a number, got None"),
    (lambda: linear(0.1, 10**400, 9), ValueError, "final must be finite, got 1000"),
    (lambda: step(0.1, 0, 0.5), ValueError, "every must be a whole number from 1, got 0"),
    (lambda: step(0.1, 5, -0.5), ValueError, "factor must be finite and at least 0, got -0.5"),
    (lambda: exponential(0.1, -1), ValueError, "rate must be finite and at least 0, got -1"),
    (lambda: exponential(0.1, 0.5, 0), ValueError, "every must be a whole number from 1, got 0"),
    (lambda: cosine_restarts(1, 5, 6), ValueError, "cycles must not be more than steps, got 6 and"),
    (lambda: cosine_restarts(1, 5, 0), ValueError, "cycles must be a whole number from 1, got 0"),
    (lambda: one_cycle(1, 5, 1.0), ValueError, "warmup must be at least 0 and less than 1, got 1"),
    (lambda: one_cycle(1, 5, start=inf), ValueError, "start must be finite, got inf"),
    (lambda: one_cycle(1, 5, end="0"), TypeError, "end must be a number, got '0'"),
    (lambda: one_cycle(None, 5), TypeError, "peak must be a number, got None"),
    (lambda: polynomial(1, 5, 0), ValueError, "power must be finite and greater than 0, got 0"),
    (lambda: polynomial(1, 5, inf), ValueError, "power must be finite and greater than 0, got inf"),
    (lambda: inverse_sqrt(1, 0), ValueError, "timescale must be finite and greater than 0, got 0"),
    (lambda: piecewise([(0, 1)]), TypeError, r"values must be a mapping .* got \[\(0, 1\)\]"),
    (lambda: piecewise({}), ValueError, "values must have the boundary 0, got {}"),
    (lambda: piecewise({1: 0.1}), ValueError, "values must have the boundary 0, got {1: 0.1}"),
    (lambda: piecewise({0: 1, -1: 1}), ValueError, "boundary of values must be a whole .* got -1"),
    (lambda: piecewise({0: 1, 1.5: 1}), ValueError, "boundary of values must be .* got 1.5"),
    (lambda: piecewise({0: 1, "a": 1}), TypeError, "boundary of values must be .* got 'a'"),
    (lambda: piecewise({0: 1, 7: nan}), ValueError, r"values\[7\] must be a number, got nan"),
    (lambda: piecewise({0: 1, 7: None}), TypeError, r"values\[7\] must be a number, got None"),
    (lambda: warmup(0, 0.1), ValueError, "steps must be a whole number from 1, got 0"),
    (lambda: warmup(5, None), TypeError, "then must be a schedule or a number, got None"),
    (lambda: warmup(5, cosine), TypeError, "then must be a schedule or a number, got <class"),
    (lambda: warmup(5, nan), ValueError, "then must be a number, got nan"),
    (lambda: join(0.1), TypeError, r"parts must be a list of \(steps, schedule\).* got 0.1"),
    (lambda: join("ab"), TypeError, "parts must be a list .* got 'ab'"),
    (lambda: join([]), ValueError, r"parts must end with a schedule alone, .* got \[\]"),
    (lambda: join([(5, 0.1)]), ValueError, "parts must end with a schedule alone"),
    (lambda: join([0.1, 0.2]), TypeError, r"parts\[0\] must be a pair \(steps, schedule\), got 0"),
    (lambda: join([(1, 2, 3), 0.2]), TypeError, r"parts\[0\] must be a pair"),
    (lambda: join([(2, 1), (0, 1), 1]), ValueError, r"steps of parts\[1\] must be .* got 0"),
    (lambda: join([(2, []), 1]), TypeError, r"parts\[0\] must be a schedule or a number, got \[\]"),
    (lambda: join([(2, 1), {}]), TypeError, r"parts\[1\] must be a schedule or a number, got {}"),
    (lambda: ReduceOnPlateau(-1), ValueError, "initial must be finite and at least 0, got -1"),
    (lambda: ReduceOnPlateau(1, 1), ValueError, "factor must be at least 0 and less than 1, got 1"),
    (lambda: ReduceOnPlateau(1, patience=-1), ValueError, "patience must be a whole .* got -1"),
    (lambda: ReduceOnPlateau(1, threshold=-1), ValueError, "threshold must be finite .* got -1"),
    (lambda: ReduceOnPlateau(1, cooldown=0.5), ValueError, "cooldown must be a whole .* got 0.5"),
    (lambda: ReduceOnPlateau(1, minimum=2), ValueError, "minimum must not be above initial"),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSED)
def test_arguments_are_refused_by_name(make, error, message):
    with pytest.raises(error, match=f"^{message}"):
        make()


def test_nesting_has_an_end():
    deep: Any = cosine(0.1, 10)
    for _ in range(MAX_DEPTH):
        deep = warmup(1, deep)
    assert from_plain(as_plain(deep)) == deep == pickle.loads(pickle.dumps(deep))
    assert (deep(0), deep(MAX_DEPTH)) == (0.0, 0.1)
    for make in (lambda: warmup(1, deep), lambda: join([(1, 0.1), deep])):
        with pytest.raises(
            ValueError, match=r"^schedules may stand in one another 50 deep, got 51"
        ):
            make()
    too_deep = {"schedule": "warmup", "steps": 1, "then": as_plain(deep)}
    with pytest.raises(ValueError, match="50 deep"):
        from_plain(too_deep)


# --- ReduceOnPlateau ---


def reported(schedule, metrics):
    """Return what the number is after each metric."""
    numbers = []
    for metric in metrics:
        assert schedule.report(metric) is None
        numbers.append(schedule(len(numbers)))
    return numbers


@pytest.mark.parametrize(
    ("settings", "metrics", "numbers"),
    [
        ({"patience": 1}, [3, 2, 2, 2, 2, 2], [1, 1, 1, 0.5, 0.5, 0.25]),
        ({"patience": 0}, [3, 3, 2, 2], [1, 0.5, 0.5, 0.25]),
        ({"patience": 1}, [3, 3, 2, 3, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0.5]),
        ({"patience": 0, "cooldown": 2}, [3, 3, 3, 3, 3, 3], [1, 0.5, 0.5, 0.5, 0.25, 0.25]),
        # In the cooldown the best goes on
        ({"patience": 0, "cooldown": 1}, [3, 3, 1, 2], [1, 0.5, 0.5, 0.25]),
        ({"patience": 0, "minimum": 0.4}, [3, 3, 3, 3], [1, 0.5, 0.4, 0.4]),
        ({"patience": 0, "threshold": 0.25}, [4, 3, 2.9, 2.9], [1, 0.5, 0.5, 0.25]),
        ({"patience": 0, "threshold": 0}, [4, 3.9999, 3.9999], [1, 1, 0.5]),
        # Of negative metrics, too, a better one is below the best
        ({"patience": 0, "threshold": 0.25}, [-4, -3.5, -5, -5.1], [1, 0.5, 0.25, 0.25]),
        ({"patience": 0, "threshold": 0.25}, [-4, -5.1, -6.5], [1, 1, 1]),
        ({"patience": 0}, [0, -1e-9, 0], [1, 1, 0.5]),
        # Neither NaN nor infinity is a best one
        ({"patience": 0}, [nan, nan, 1, nan], [0.5, 0.25, 0.25, 0.125]),
        ({"patience": 0}, [inf, 5, inf], [0.5, 0.5, 0.25]),
        ({"patience": 0}, [-inf, -inf, 0], [1, 0.5, 0.25]),
    ],
)
def test_plateau_reduces(settings, metrics, numbers):
    assert reported(ReduceOnPlateau(1.0, 0.5, **settings), metrics) == numbers


def test_plateau_equals_pytorchs():
    """Whose state after each report, with eps=0, is that of these lines; metrics are ≥ 0."""
    for seed, (patience, cooldown) in enumerate([(0, 0), (2, 0), (1, 3), (10, 1)]):
        rng = random.Random(seed)
        schedule = ReduceOnPlateau(0.1, 0.5, patience, 0.01, cooldown, 1e-3)
        lr, best, bad, cooling = 0.1, inf, 0, 0
        for _ in range(200):
            metric = rng.choice([rng.random(), rng.random() / 100, nan, inf])
            if metric < best * (1 - 0.01):
                best, bad = metric, 0
            else:
                bad += 1
            if cooling > 0:
                cooling, bad = cooling - 1, 0
            if bad > patience:
                lr, cooling, bad = max(lr * 0.5, 1e-3), cooldown, 0
            schedule.report(metric)
            assert schedule(0) == lr
            wanted = {"value": lr, "best": best, "waited": bad, "cooling": cooling}
            assert schedule.state_dict() == wanted


def test_plateaus_state():
    schedule = ReduceOnPlateau(1.0, 0.5, patience=1, cooldown=1)
    fresh = copy.deepcopy(schedule)
    reported(schedule, [np.float32(3), 2, 2, 2])
    assert schedule != fresh
    state = schedule.state_dict()
    assert state == {"value": 0.5, "best": 2.0, "waited": 0, "cooling": 1}
    state["value"] = 9.0  # of a copy
    for other in (
        copy.copy(schedule),
        copy.deepcopy(warmup(3, schedule)).then,
        pickle.loads(pickle.dumps(schedule)),
        from_plain(json.loads(json.dumps(as_plain(schedule)))),
        from_plain(as_plain(join([schedule]))).parts[0],
    ):
        assert other == schedule
        other.report(5)
        assert other != schedule
    fresh.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    assert fresh == schedule
    assert reported(fresh, [3, 3, 3]) == reported(schedule, [3, 3, 3]) == [0.5, 0.5, 0.25]
    for metric in (None, "1", [1.0], True):
        with pytest.raises(TypeError, match=r"^metric must be a number, got"):
            schedule.report(metric)
    assert fresh == schedule


GOOD = {"value": 0.5, "best": 2.0, "waited": 1, "cooling": 1}


@pytest.mark.parametrize(
    "bad",
    [
        None, [], {}, {**GOOD, "more": 1}, {k: v for k, v in GOOD.items() if k != "best"},
        *({**GOOD, "value": value} for value in (0.1, 1.5, nan, inf, "0.5", None, True)),
        *({**GOOD, "best": best} for best in (nan, None, "x", [])),
        *({**GOOD, "waited": waited} for waited in (-1, 2, 0.5, None)),
        *({**GOOD, "cooling": cooling} for cooling in (-1, 2, "1")),
    ],
)  # fmt: skip
def test_plateau_refuses_a_state_that_is_none_of_its_own(bad):
    schedule = ReduceOnPlateau(1.0, 0.5, patience=1, cooldown=1, minimum=0.25)
    schedule.load_state_dict(GOOD)
    with pytest.raises(ValueError, match=r"^state"):
        schedule.load_state_dict(bad)
    assert schedule.state_dict() == GOOD
    with pytest.raises(ValueError, match=r"^state"):
        from_plain({**as_plain(schedule), "state": bad})


# --- plain data ---


def test_plain_data_are_what_json_holds():
    schedule = join([(3, warmup(2, piecewise({0: 1, 5: 2}))), ReduceOnPlateau(0.1)])
    assert as_plain(schedule) == {
        "schedule": "join",
        "parts": [
            [
                3,
                {
                    "schedule": "warmup",
                    "steps": 2,
                    "then": {"schedule": "piecewise", "values": [[0, 1.0], [5, 2.0]]},
                },
            ],
            [
                None,
                {
                    "schedule": "ReduceOnPlateau",
                    "initial": 0.1,
                    "factor": 0.1,
                    "patience": 10,
                    "threshold": 1e-4,
                    "cooldown": 0,
                    "minimum": 0.0,
                    "state": {"value": 0.1, "best": inf, "waited": 0, "cooling": 0},
                },
            ],
        ],
    }
    assert as_plain(one_cycle(1, 4)) == {
        "schedule": "one_cycle", "peak": 1.0, "steps": 4, "warmup": 0.3, "start": 0.04, "end": 4e-6,
    }  # fmt: skip


def test_own_callables_are_no_plain_data():
    for schedule in (
        lambda t: 0.1,
        0.1,
        None,
        cosine,
        warmup(3, lambda t: 0.1),
        join([(3, abs), 0.1]),
        join([(3, 0.1), join([warmup(2, abs)])]),
    ):
        assert as_plain(schedule) is None


PLAIN = [as_plain(row.schedule) for row in ROWS]
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from([10**400, -1, 0, 2**53, "cosine", "schedule", *PLAIN]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["schedule", "steps", "x"]), inner, max_size=3),
    max_leaves=8,
).map(copy.deepcopy)  # fmt: skip


def places(data):
    """Yield every container in the data with each key or index."""
    if isinstance(data, (dict, list)):
        for key in list(data) if isinstance(data, dict) else range(len(data)):
            yield data, key
            yield from places(data[key])


def refused_or_made(data):
    """Make the schedule, and see that it is one, if a ValueError doesn't refuse the data."""
    try:
        schedule = from_plain(data)
    except ValueError:
        return
    assert from_plain(as_plain(schedule)) == schedule
    number = schedule(0)
    assert type(number) is float


@given(st.data())
def test_malformed_data_are_value_errors(data):
    plain = copy.deepcopy(data.draw(st.sampled_from(PLAIN)))
    for _ in range(data.draw(st.integers(1, 3))):
        found = [*places(plain)]
        if not found:
            break
        container, key = found[data.draw(st.integers(0, len(found) - 1))]
        how = data.draw(st.sampled_from(["junk", "delete", "add"]))
        if how == "delete":
            del container[key]
        elif how == "junk":
            container[key] = data.draw(JUNK)
        elif isinstance(container, dict):
            container[data.draw(st.text(max_size=5))] = data.draw(JUNK)
        else:
            container.insert(key, data.draw(JUNK))
    refused_or_made(plain)


@given(JUNK)
def test_data_that_are_none_are_value_errors(data):
    refused_or_made(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "a schedule must be a dict, got NoneType"),
        ({}, "schedule must be one of .*cosine.* got None"),
        ({"schedule": "plot"}, "schedule must be one of .* got 'plot'"),
        ({"schedule": ["cosine"]}, r"schedule must be one of .* got \['cosine'\]"),
        ({"schedule": "constant"}, "schedule constant must have value, got"),
        ({"schedule": "constant", "value": 1, "x": 2}, "schedule constant must have value, got"),
        ({"schedule": "constant", "value": "1"}, "schedule: value must be a number, got '1'"),
        ({"schedule": "constant", "value": None}, "schedule constant must have numbers, got None"),
        ({"schedule": "constant", "value": nan}, "value must be a number, got nan"),
        ({"schedule": "warmup", "steps": 3, "then": 0.1}, "a schedule must be a dict, got float"),
        ({"schedule": "piecewise", "values": {"0": 1}}, "values must be a list of lists of two"),
        ({"schedule": "piecewise", "values": [[0, 1], [0, 2]]}, "values must have each boundary"),
        ({"schedule": "piecewise", "values": [[1, 1]]}, "values must have the boundary 0"),
        ({"schedule": "join", "parts": []}, "parts must end with a schedule whose steps are None"),
        ({"schedule": "join", "parts": [[3, PLAIN[0]]]}, "parts must end with a schedule whose"),
        ({"schedule": "join", "parts": [[None, PLAIN[0]], [None, PLAIN[0]]]}, "schedule: steps of"),
    ],
)
def test_what_is_wrong_with_data_is_said(data, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        from_plain(data)


def test_data_that_are_too_deep_are_a_value_error():
    nested: Any = PLAIN[0]
    value: Any = 1.0
    for _ in range(100_000):
        nested = {"schedule": "warmup", "steps": 1, "then": nested}
        value = [value]
    for data in (nested, {"schedule": "constant", "value": value}, value):
        with pytest.raises(ValueError, match=r"deep|dict"):
            from_plain(data)
    while isinstance(nested, dict):  # else taking it down could exhaust the stack
        nested = nested.get("then")
    while isinstance(value, list):
        value = value[0]


# --- in optimizers ---


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_optimizers_follow_them_as_their_twins_do(name, dtype):
    row = next(row for row in TABLE if row.name == name)
    settings = {
        "lr": warmup(5, cosine(0.1, 20, 0.001)),
        "weight_decay": linear(0.0, 0.1, 25),
        "ema": piecewise({0: 0.5, 10: 0.9}),
        "high": constant(inf),
        "groups": {
            "f*": {"lr": one_cycle(0.05, 30), "weight_decay": exponential(0.1, 0.5, 10)},
            "C": {"lr_scale": join([(10, 1.0), step(0.5, 5, 0.5)])},
        },
    }
    pair = Pair(row, settings, lambda: draw_params(dtype))
    for t in range(30):
        now = pair.compiled.current()
        for each in ("lr", "weight_decay", "ema", "high"):
            assert now[each] == settings[each](t)
        assert pair.compiled.current("float")["lr"] == settings["groups"]["f*"]["lr"](t)
        scale = settings["groups"]["C"]["lr_scale"](t)
        assert pair.compiled.current("C")["lr"] == now["lr"] * scale
        assert pair.update(draw_grads(pair.ours, 4)) is None
    assert pair.compiled.iter == 30


@every_row
def test_optimizers_show_copy_and_pickle_them(row):
    optimizer = fastopt.SGD(high=row.schedule, groups={"b": {"high": row.schedule}})
    assert repr(optimizer) == f"SGD(high={row.text}, groups={{'b': {{'high': {row.text}}}}})"
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert other.high == row.schedule
        assert other.groups["b"]["high"] == row.schedule
        assert other.current()["high"] == row.schedule(0)


def test_a_plateau_moves_the_optimizer():
    optimizer = fastopt.SGD(lr=ReduceOnPlateau(0.5, 0.5, patience=0))
    params = {"p": np.zeros(1)}
    for metric in (1.0, 1.0, 0.5, 0.5):
        optimizer.update(params, {"p": np.ones(1)})
        optimizer.lr.report(metric)
    assert params["p"] == -0.5 - 0.5 - 0.25 - 0.25
    assert optimizer.current()["lr"] == 0.125
    other = copy.deepcopy(optimizer)
    other.lr.report(9)
    assert optimizer.current()["lr"] == 2 * other.current()["lr"]


# --- pictures ---


def drawn(figure):
    return {line.get_label(): line.get_ydata().tolist() for line in figure.axes[0].lines}


def test_plot_draws_every_schedule_over_the_steps():
    one, other = cosine(0.1, 20), step(0.1, 5, 0.5)
    numbers = {repr(each): [each(t) for t in range(31)] for each in (one, other)}
    assert drawn(schedules.plot(one, 30)) == {repr(one): numbers[repr(one)]}
    assert drawn(schedules.plot([one, other], 30)) == numbers
    assert drawn(schedules.plot((one, other), 30, ["a", "b"])).keys() == {"a", "b"}
    assert drawn(schedules.plot({"a": one, 7: lambda t: t}, 2)).keys() == {"a", "7"}
    assert drawn(schedules.plot(0.1, 2)) == {"schedules.constant(0.1)": [0.1] * 3}
    figure = schedules.plot([row.schedule for row in ROWS], 30)
    texts = [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()]
    assert texts == [row.text for row in ROWS]
    assert isfinite(figure.get_size_inches().sum())


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (([], 9), ValueError, "schedules must be at least one, with a label each, got 0"),
        (({}, 9), ValueError, "schedules must be at least one"),
        (([0.1, 0.2], 9, ["a"]), ValueError, r"schedules must be .* got 2 and \['a'\]"),
        (([0.1], 9, "a"), ValueError, "schedules must be .* got 1 and 'a'"),
        (([0.1], 0), ValueError, "steps must be a whole number from 1, got 0"),
        (([0.1, None], 9), TypeError, r"schedules\[1\] must be a schedule or a number, got None"),
        ((None, 9), TypeError, r"schedules\[0\] must be a schedule or a number, got None"),
    ],
)
def test_plot_refuses(args, error, message):
    with pytest.raises(error, match=f"^{message}"):
        schedules.plot(*args)
