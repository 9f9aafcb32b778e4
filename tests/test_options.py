"""Options: what each does, bit for bit as the twin does it, and that one that is off does nothing.

Norms, sums of gradients, averages, groups and schedules have files of their own.
"""

import inspect
import itertools
from math import inf, nan
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.arrays import assert_same_bits
from helpers.errors import step_refused
from helpers.marks import both, every_dtype
from helpers.options import OPTIONS, Pair, draw_grads, draw_params, pairs_of_options
from numpy.testing import assert_array_equal
from optimizer_table import TABLE, every_optimizer

import fastopt
from fastopt import reference
from fastopt._step import Setup, Stepper

CALLS = 7
ROWS = {row.name: row for row in TABLE}


def settings_of(row, options):
    """Return a row's settings with these options; its learning rate only where they set none."""
    return {**row.settings, **options}


# --- the twin ---


@every_optimizer
@every_dtype
@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_equals_the_twin(row, dtype, option):
    pair = Pair(row, settings_of(row, OPTIONS[option]), lambda: draw_params(dtype))
    refused = [pair.update(draw_grads(pair.ours, call)) for call in range(CALLS)]
    if option == "raise":
        assert refused[3][0] is FloatingPointError
        assert refused[3][1].startswith("gradient of 'backwards' holds NaN or infinity")
        del refused[3]
    assert refused == [None] * len(refused)
    assert pair.compiled.skipped == (option == "skip")
    assert bool(pair.compiled.average) == (option == "ema")


@every_dtype
@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize("options", pairs_of_options().values(), ids=pairs_of_options())
def test_pairs_of_options_equal_the_twin(name, dtype, options):
    row = ROWS[name]
    pair = Pair(row, settings_of(row, options), lambda: draw_params(dtype))
    refused = [pair.update(draw_grads(pair.ours, call)) for call in range(CALLS)]
    assert [i for i, error in enumerate(refused) if error] == (
        [3] if options.get("nonfinite") == "raise" else []
    )


@every_optimizer
@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_of_the_table_makes_a_difference(row, option):
    """Without which the tests above would show nothing."""
    seen = []
    for options in ({"weight_decay": 0.0}, {"weight_decay": 0.0, **OPTIONS[option]}):
        optimizer, params = row.twin(**settings_of(row, options)), draw_params("float64")
        try:
            for call in range(CALLS):
                optimizer.update(params, draw_grads(params, call))
            what = [np.asarray(p).tobytes() for p in params.values()]
        except FloatingPointError:
            what = "refused"
        seen.append((what, [*optimizer.average]))
    assert seen[0] != seen[1]


@every_optimizer
def test_options_may_change_between_steps(row):
    pair = Pair(row, row.settings, lambda: draw_params("float32"))
    changes = [
        {"weight_decay": 0.2, "decoupled": True}, {"clip_norm": 0.1}, {"ema": 0.5},
        {"clip_norm": None, "clip_global_norm": 0.2, "maximize": True}, {"low": -0.1, "high": 0.1},
        {"ema": None, "clip_global_norm": None, "clip_value": 0.3},
        {"ema": 0.9, "weight_decay": 0.0, "maximize": False},
        {"low": -inf, "high": inf, "clip_value": None, "ema": None},
    ]  # fmt: skip
    for call, change in enumerate(changes):
        for name, value in change.items():
            pair.set(name, value)
        for _ in range(3):  # the later ones take the short way, where there is one
            pair.update(draw_grads(pair.ours, call % 3))


# --- formulas ---


def arrays_of(dtype, *seeds):
    return [np.random.default_rng(seed).standard_normal(67).astype(dtype) for seed in seeds]


def after_steps(optimizer, p, gradients):
    """Return the parameter after one call for each gradient, and the optimizer."""
    params = {"p": p.copy()}
    for g in gradients:
        optimizer.update(params, {"p": g})
    return params["p"], optimizer


# what p, g and the numbers lr = 0.5, decay = 0.25, each of the dtype, become in a step of SGD
FORMULAS = {
    "coupled decay": (
        {"weight_decay": 0.25},
        lambda p, g, h: p - h.lr * (g + h.decay * p),
    ),
    "decoupled decay": (
        {"weight_decay": 0.25, "decoupled": True},
        lambda p, g, h: p * (h.one - h.lr * h.decay) - h.lr * g,
    ),
    "clip_value": ({"clip_value": 0.25}, lambda p, g, h: p - h.lr * np.clip(g, -h.decay, h.decay)),
    "low": ({"low": 0.25}, lambda p, g, h: np.maximum(p - h.lr * g, h.decay)),
    "high": ({"high": -0.25}, lambda p, g, h: np.minimum(p - h.lr * g, -h.decay)),
    "both bounds": (
        {"low": -0.25, "high": 0.25},
        lambda p, g, h: np.clip(p - h.lr * g, -h.decay, h.decay),
    ),
    "maximize": ({"maximize": True}, lambda p, g, h: p + h.lr * g),
    "clipped, then decayed": (
        {"clip_value": 0.25, "weight_decay": 0.25},
        lambda p, g, h: p - h.lr * (np.clip(g, -h.decay, h.decay) + h.decay * p),
    ),
    "ascent decays, too": (
        {"maximize": True, "weight_decay": 0.25},
        lambda p, g, h: p - h.lr * (-g + h.decay * p),
    ),
    "low equal to high": ({"low": 0.25, "high": 0.25}, lambda p, g, h: np.full_like(p, 0.25)),
}


@both
@every_dtype
@pytest.mark.parametrize("case", FORMULAS)
def test_formulas(package, dtype, case):
    options, formula = FORMULAS[case]
    numbers = {"lr": 0.5, "decay": 0.25, "one": 1.0}
    h = SimpleNamespace(**{name: np.dtype(dtype).type(x) for name, x in numbers.items()})
    want, *gradients = arrays_of(dtype, 0, 1, 2, 3)
    got, _ = after_steps(package.SGD(lr=0.5, **options), want, gradients)
    for g in gradients:
        want = formula(want, g, h)
    assert_array_equal(got, want, strict=True)


@both
def test_state_sees_coupled_decay_and_not_the_decoupled(package):
    p, g = arrays_of("float64", 0, 1)
    for decoupled, v in ((False, -0.5 * (g + 0.25 * p)), (True, -0.5 * g)):
        optimizer = package.Momentum(lr=0.5, weight_decay=0.25, decoupled=decoupled)
        got, _ = after_steps(optimizer, p, [g])
        assert_array_equal(optimizer.v["p"], v)
        assert_array_equal(got, (p * 0.875 if decoupled else p) + v)


@both
def test_decoupled_decay_is_in_proportion_to_lr_as_it_is_set(package):
    """Not to what Adam makes of it at the start."""
    p = np.array([2.0, -4.0])
    adam = {"lr": 0.5, "weight_decay": 0.25}
    got, _ = after_steps(package.AdamW(**adam), p, [np.zeros(2)])
    assert_array_equal(got, p * 0.875)


@both
def test_order_of_a_step(package):
    """Sum, norm, one factor, limit, decay, rule, bounds, average; all numbers are exact."""
    optimizer = package.Momentum(
        lr=0.5, momentum=0.5, accumulate=1, maximize=True, clip_global_norm=5.0, clip_value=3.5,
        weight_decay=0.25, low=-4.0, high=6.0, ema=0.75,
    )  # fmt: skip
    p, v, average = np.array([2.0, -4.0, 8.0, 0.0]), np.zeros(4), np.array([2.0, -4.0, 8.0, 0.0])
    params = {"p": p.copy()}
    gradients = [6.0, -8.0, 0.0, 0.0], [0.0, 12.0, -16.0, 0.0], [1.0, 0.0, 0.0, -2.0]
    for g in map(np.array, gradients):  # of norm 10, 20, √5
        optimizer.update(params, {"p": g})
        scaled = -g * min(1.0, 5.0 / np.linalg.norm(g))
        direction = np.clip(scaled, -3.5, 3.5) + 0.25 * p
        v = 0.5 * v - 0.5 * direction
        p = np.clip(p + v, -4.0, 6.0)
        average = average + 0.25 * (p - average)
        assert_array_equal(params["p"], p)
        assert_array_equal(optimizer.v["p"], v)
        assert_array_equal(optimizer.average["p"], average)
        assert optimizer.norm == np.linalg.norm(g)


@both
def test_order_of_decoupled_decay_rule_and_bounds(package):
    p, g = np.array([8.0, -8.0]), np.array([2.0, 2.0])
    optimizer = package.SGD(lr=0.5, weight_decay=0.5, decoupled=True, low=-5.0, ema=0.5)
    got, _ = after_steps(optimizer, p, [g])
    assert_array_equal(got, [8 * 0.75 - 1, -5.0])  # -8 · 0.75 - 1 = -7
    assert_array_equal(optimizer.average["p"], [8 + 0.5 * (5 - 8), -8 + 0.5 * (-5 + 8)])


@both
@every_dtype
def test_nan_passes_limits_and_infinity_does_not(package, dtype):
    p = np.array([0.0, nan, 5.0, 0.0, 0.0, inf, -inf], dtype)
    g = np.array([nan, 0.0, 1.0, inf, -inf, 0.0, 0.0], dtype)
    optimizer = package.SGD(lr=1.0, low=-0.5, high=2.0, clip_value=3.0)
    got, _ = after_steps(optimizer, p, [g])
    assert_array_equal(got, np.array([nan, nan, 2, -0.5, 2, 2, -0.5], dtype), strict=True)


def test_numbers_are_rounded_once_from_double():
    """The scale of a mean clipped by its norm is a product in double; so is what decay leaves."""
    p, g = np.array([1.0], np.float32), np.array([3.0], np.float32)
    got, _ = after_steps(fastopt.SGD(lr=1.0, clip_norm=0.1, maximize=True), 0 * p, [g])
    assert_array_equal(got, g * np.float32(0.1 / 3.0))
    lr, decay = 0.1, 0.01
    got, _ = after_steps(fastopt.SGD(lr=lr, weight_decay=decay, decoupled=True), p, [0 * g])
    assert_array_equal(got, p * np.float32(1.0 - lr * decay))


# --- neutrality ---

NEUTRAL = (1.0, inf, 0.0, 1.0, -inf, inf, 0.0)


def special(dtype):
    """Return all pairs of numbers that arithmetic treats unlike others, and some plain ones."""
    info = np.finfo(dtype)
    tiny, small, big = info.smallest_subnormal, info.tiny, info.max
    half = [0.0, tiny, small, small / 2, 1.0, 1 / 3, big, inf, nan]
    values = np.array([*half, *(-x for x in half)], dtype)
    return [a.ravel().copy() for a in np.meshgrid(values, values)]


def stepped(row, dtype, options, has_average=False, steps=3):
    """Return parameters, states and averages after bare calls of a stepper with these options."""
    p, g = special(dtype)
    optimizer, params = row.compiled(**row.settings), {"p": p}
    states = tuple({} for _ in row.states)
    average = {"p": np.zeros_like(p)} if has_average else None
    setup = Setup((*states, average) if has_average else states, has_average)
    stepper = Stepper(optimizer._rule_name)
    for t in range(steps):
        rows = (optimizer._coefficients(t + 1.0),)
        grads = {"p": g if t % 2 == 0 else -g[::-1].copy()}
        stepper.step(params, grads, setup, rows, -1, False, None, options)
    return [p, *(state["p"] for state in states)], average


@every_optimizer
@every_dtype
@pytest.mark.parametrize("one_minus_ema", [None, 0.0, 0.25])
def test_neutral_options_change_no_bit(row, dtype, one_minus_ema):
    """Of the variants that have them; the bare one is what an optimizer without options takes."""
    bare, _ = stepped(row, dtype, ())
    options = ((*NEUTRAL[:-1], one_minus_ema or 0.0),)
    got, _ = stepped(row, dtype, options, one_minus_ema is not None)
    for ours, theirs in zip(got, bare, strict=True):
        assert_same_bits(ours, theirs, row.name)


@every_dtype
@pytest.mark.parametrize("place", range(6))
def test_options_that_are_not_neutral_do_change_bits(dtype, place):
    """Each of them, so that the test above has something to find."""
    options = [*NEUTRAL]
    options[place] = (0.5, 0.25, 0.125, 0.5, 0.25, -0.25)[place]
    (bare, *_), _ = stepped(ROWS["SGD"], dtype, ())
    (got, *_), _ = stepped(ROWS["SGD"], dtype, (tuple(options),))
    assert bare.tobytes() != got.tobytes()


@every_optimizer
@every_dtype
def test_each_option_leaves_the_others_neutral(row, dtype):
    """One option at a value that reaches nothing here, in the variants with options."""
    p, g = special(dtype)
    keep = np.isfinite(g) & (np.abs(g) < 2)
    p, g = p[keep], g[keep]
    want, _ = after_steps(row.compiled(**row.settings, weight_decay=0.0), p, [g] * 3)
    for options in (
        {"clip_value": 2.0},
        {"ema": 0.5},
        {"ema": 0.0},
        {"ema": 0.5, "clip_value": inf, "low": -inf, "high": inf, "maximize": False},
        {"clip_global_norm": 1e300},
        {"clip_norm": inf, "nonfinite": "skip"},
        {"groups": {"p": {"lr_scale": 1.0, "clip_value": 2.0}}},
        {"groups": {"p": {"weight_decay": lambda t: 0.0}, (): {"maximize": True}}},
    ):
        settings = {**row.settings, "weight_decay": 0.0, **options}
        got, _ = after_steps(row.compiled(**settings), p, [g] * 3)
        assert_same_bits(got, want, options)


@every_optimizer
def test_options_that_are_off_take_the_bare_kernels(row):
    params = {"a": np.ones(5), "b": np.ones(3)}
    grads = {"a": np.ones(5), "b": np.ones(3)}

    def told(**options):
        optimizer = row.compiled(**{"weight_decay": 0.0, **options})
        optimizer.update(params, grads)
        setup, _, options_of_rows = optimizer._told
        return setup, options_of_rows

    neutral = {"clip_value": inf, "low": -inf, "high": inf}
    for options in ({}, neutral, {"groups": {"a": {"lr_scale": 0.5}, "b": neutral}}):
        setup, options_of_rows = told(**options)
        assert options_of_rows == ()
        assert [setup.has_average, setup.has_sums, setup.measures] == [False] * 3
    _, options_of_rows = told(groups={"a": {"clip_value": 0.5}})
    assert options_of_rows == (None, (1.0, 0.5, 0.0, 1.0, -inf, inf, 0.0))
    assert told(ema=0.75)[1] == ((*NEUTRAL[:-1], 0.25),)
    assert told(clip_norm=1.0)[0].measures


# --- how options are given ---


def never(t):
    raise AssertionError("a schedule is called in steps alone")


REFUSED = [
    ({"weight_decay": -0.1}, ValueError, "weight_decay must be finite and at least 0, got -0.1"),
    ({"weight_decay": inf}, ValueError, "weight_decay must be finite"),
    ({"weight_decay": None}, TypeError, "weight_decay must be a number, got None"),
    ({"decoupled": 1}, TypeError, "decoupled must be True or False, got 1"),
    ({"decoupled": never}, TypeError, "decoupled must be True or False"),
    ({"low": nan}, ValueError, "low must be a number, got nan"),
    ({"low": "1"}, TypeError, "low must be a number, got '1'"),
    ({"high": nan}, ValueError, "high must be a number, got nan"),
    ({"high": None}, TypeError, "high must be a number, got None"),
    ({"clip_value": 0}, ValueError, "clip_value must be greater than 0, got 0"),
    ({"clip_value": nan}, ValueError, "clip_value must be greater than 0, got nan"),
    ({"clip_value": True}, TypeError, "clip_value must be a number, got True"),
    ({"clip_norm": -1.0}, ValueError, "clip_norm must be greater than 0, got -1.0"),
    ({"clip_norm": "big"}, TypeError, "clip_norm must be a number, got 'big'"),
    ({"clip_global_norm": 0.0}, ValueError, "clip_global_norm must be greater than 0, got 0.0"),
    ({"clip_global_norm": [1]}, TypeError, r"clip_global_norm must be a number, got \[1\]"),
    ({"maximize": "yes"}, TypeError, "maximize must be True or False, got 'yes'"),
    ({"maximize": never}, TypeError, "maximize must be True or False"),
    ({"nonfinite": "ignore"}, ValueError, "nonfinite must be 'propagate' or 'skip' or 'raise'"),
    ({"nonfinite": None}, ValueError, "nonfinite must be .* got None"),
    ({"nonfinite": never}, ValueError, "nonfinite must be 'propagate'"),
    ({"accumulate": 0}, ValueError, "accumulate must be a whole number from 1, got 0"),
    ({"accumulate": 2.5}, ValueError, "accumulate must be a whole number from 1, got 2.5"),
    ({"accumulate": nan}, ValueError, "accumulate must be a whole number from 1, got nan"),
    ({"accumulate": None}, TypeError, "accumulate must be a whole number from 1, got None"),
    ({"accumulate": never}, TypeError, "accumulate must be a whole number from 1, got <function"),
    ({"ema": 1.0}, ValueError, "ema must be at least 0 and less than 1, got 1.0"),
    ({"ema": -0.1}, ValueError, "ema must be at least 0 and less than 1, got -0.1"),
    ({"ema": True}, TypeError, "ema must be a number, got True"),
    ({"groups": None}, TypeError, "groups must be a mapping of patterns to settings, got NoneType"),
    ({"groups": never}, TypeError, "groups must be a mapping of patterns to settings"),
]


@both
@every_optimizer
@pytest.mark.parametrize(("settings", "error", "message"), REFUSED, ids=lambda x: str(x)[:40])
def test_settings_out_of_range_are_refused(package, row, settings, error, message):
    cls = getattr(package, row.name)
    with pytest.raises(error, match=message):
        cls(**settings)
    optimizer, params = cls(), {"p": np.ones(3)}
    ((name, value),) = settings.items()
    with step_refused(error, message, optimizer, params, {}):
        setattr(optimizer, name, value)


@both
@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("skipped", -1, ValueError, "skipped must be a whole number from 0"),
        ("skipped", "one", TypeError, "skipped must be a number, got 'one'"),
        ("norm", "long", TypeError, "norm must be a number, got 'long'"),
        ("average", None, TypeError, "average must be a dict of arrays by key, got None"),
        ("accumulated", [], TypeError, r"accumulated must be a dict of arrays by key, got \[\]"),
        ("averaged", None, AttributeError, "averaged of Adam can't be set"),
        ("update", None, AttributeError, "update of Adam can't be set"),
        ("current", {}, AttributeError, "current of Adam can't be set"),
        ("reset", None, AttributeError, "reset of Adam can't be set"),
        ("clipnorm", 1.0, AttributeError, r"no 'clipnorm' \(here: clip_norm\)"),
        ("ema_momentum", 0.5, AttributeError, r"no 'ema_momentum' \(here: ema\)"),
        ("weight_decy", 0.5, AttributeError, "no 'weight_decy'; it has .*, weight_decay, "),
    ],
)
def test_other_attributes_are_checked_when_they_are_set(package, name, value, error, message):
    optimizer, params = package.Adam(ema=0.5, nonfinite="skip"), {"p": np.ones(3)}
    optimizer.update(params, {"p": np.ones(3)})
    with step_refused(error, message, optimizer, params, {}):
        setattr(optimizer, name, value)


@both
def test_counters_and_averages_may_be_set(package):
    """As after loading them from a file."""
    optimizer, params = package.SGD(lr=1.0, ema=0.5, nonfinite="skip"), {"p": np.zeros(1)}
    optimizer.skipped, optimizer.norm, optimizer.average = 3, 7.0, {"p": np.full(1, 9.0)}
    optimizer.update(params, {"p": np.array([nan])})
    assert (optimizer.skipped, optimizer.norm) == (4, 7.0)
    optimizer.update(params, {"p": np.ones(1)})
    assert (optimizer.skipped, optimizer.norm, optimizer.average) == (4, 1.0, {"p": 4.0})


@both
@every_optimizer
def test_options_are_by_keyword_alone(package, row):
    cls = getattr(package, row.name)
    with pytest.raises(TypeError, match="by place, and by keyword weight_decay, decoupled"):
        cls(*[0.5] * (len(row.hypers) + 1))
    parameters = inspect.signature(cls).parameters
    kinds = {name: each.kind for name, each in parameters.items()}
    keyword = inspect.Parameter.KEYWORD_ONLY
    assert [name for name, kind in kinds.items() if kind is keyword] == [*cls._options]
    assert {"ema", "groups", "clip_norm", "weight_decay"} <= {*cls._options}


@both
def test_defaults(package):
    neutral = {
        "weight_decay": 0.0, "decoupled": False, "low": -inf, "high": inf, "clip_value": None,
        "clip_norm": None, "clip_global_norm": None, "maximize": False, "nonfinite": "propagate",
        "accumulate": 1, "ema": None, "groups": {},
    }  # fmt: skip
    others = {"AdamW": {"weight_decay": 0.01, "decoupled": True}, "Lion": {"decoupled": True}}
    for row in TABLE:
        optimizer = getattr(package, row.name)()
        got = {name: getattr(optimizer, name) for name in neutral}
        assert got == {**neutral, **others.get(row.name, {})}
        assert (optimizer.skipped, optimizer.norm) == (0, None)
        assert (optimizer.average, optimizer.accumulated) == ({}, {})
    adam, adamw = (inspect.signature(cls).parameters for cls in (package.Adam, package.AdamW))
    assert [adam[name].default for name in ("lr", "beta1", "beta2", "eps")] == [
        adamw[name].default for name in ("lr", "beta1", "beta2", "eps")
    ]


@both
def test_adamw_is_adam_with_decoupled_decay(package):
    p, *gradients = arrays_of("float32", 0, 1, 2, 3)
    want, _ = after_steps(package.Adam(weight_decay=0.01, decoupled=True), p, gradients)
    got, _ = after_steps(package.AdamW(), p, gradients)
    assert_array_equal(got, want)
    assert np.any(got != after_steps(package.Adam(), p, gradients)[0])


CONTRADICTIONS = [
    ({"low": 1.0, "high": 0.5}, r"^low must not be above high, got 1\.0 and 0\.5$"),
    ({"clip_norm": 1.0, "clip_global_norm": 2.0}, "clip_norm and clip_global_norm exclude each"),
    (
        {"high": 1.0, "groups": {"p": {"low": 2.0}}},
        r"^groups\['p'\]: low must not be above high, got 2\.0 and 1\.0$",
    ),
    ({"clip_global_norm": 1.0, "groups": {"p": {"clip_norm": 2.0}}}, "exclude each other"),
]


@both
@pytest.mark.parametrize(("settings", "message"), CONTRADICTIONS)
def test_contradictions_are_refused_by_the_constructor(package, settings, message):
    with pytest.raises(ValueError, match=message):
        package.SGD(**settings)


@both
@pytest.mark.parametrize(("settings", "message"), CONTRADICTIONS)
@pytest.mark.parametrize("order", [1, -1])
def test_contradictions_are_refused_by_the_next_step(package, settings, message, order):
    """And not when they are set, so that two settings can be exchanged for two others."""
    optimizer, params, grads = package.SGD(), {"p": np.ones(3)}, {"p": np.ones(3)}
    optimizer.update(params, grads)
    for name, value in [*settings.items()][::order]:
        setattr(optimizer, name, value)
    with step_refused(ValueError, message, optimizer, params, grads):
        optimizer.update(params, grads)
    with step_refused(ValueError, message, optimizer, params, grads):
        optimizer.current()
    for name in settings:
        setattr(optimizer, name, package.SGD._options[name].default)
    optimizer.update(params, grads)
    assert optimizer.iter == 2


@both
@pytest.mark.parametrize("option", [name for name in OPTIONS if name != "schedule"])
def test_repr_shows_what_differs_and_makes_the_optimizer_again(package, option):
    for cls in (package.SGD, package.AdamW):
        optimizer = cls(**OPTIONS[option])
        text = repr(optimizer)
        again = eval(text, vars(package).copy())
        assert repr(again) == text
        for name in cls._settings:
            assert getattr(again, name) == getattr(optimizer, name)
            differs = getattr(optimizer, name) != cls._settings[name].default
            assert (f"{name}=" in text) == differs
    assert repr(package.AdamW()) == "AdamW()"
    assert repr(package.AdamW(weight_decay=0.0, maximize=True)) == (
        "AdamW(weight_decay=0.0, maximize=True)"
    )


@both
@every_optimizer
def test_reset_begins_anew(package, row):
    """All but the settings; the next steps are those of a new optimizer."""
    options = {"ema": 0.5, "clip_global_norm": 1.0, "nonfinite": "skip", "accumulate": 2}
    cls = getattr(package, row.name)
    optimizer, new = cls(**options), cls(**options)
    params = draw_params("float64")
    for call in range(6):  # the fourth is skipped: the last step waits for one call more
        optimizer.update(params, draw_grads(params, call))
    assert (optimizer.iter, optimizer.skipped) == (2, 1)
    assert optimizer.average
    assert optimizer.accumulated
    assert optimizer.norm > 0
    optimizer.reset()
    assert repr(optimizer) == repr(new)
    assert (optimizer.iter, optimizer.skipped, optimizer.norm) == (0, 0, None)
    for name in (*row.states, "average", "accumulated"):
        assert getattr(optimizer, name) == {}
    ours, theirs = draw_params("float64"), draw_params("float64")
    for call in range(3):
        optimizer.update(ours, draw_grads(ours, call))
        new.update(theirs, draw_grads(theirs, call))
    for key, p in theirs.items():
        assert_same_bits(ours[key], p, key)
    assert (optimizer.iter, optimizer.norm) == (new.iter, new.norm) == (1, new.norm)


# --- errors ---


@every_optimizer
@both
@pytest.mark.parametrize(
    "options",
    [
        {"ema": 0.5, "weight_decay": 0.1, "clip_value": 0.5},
        {"clip_global_norm": 0.1, "nonfinite": "skip", "ema": 0.5},
        {"accumulate": 2, "ema": 0.5, "clip_norm": 0.3},
        {"groups": {"a": {"lr_scale": 0.5}, ("f", "z"): {"clip_value": 0.1}}, "high": 0.9},
    ],
    ids="+".join,
)
def test_after_an_error_nothing_has_changed(row, package, options):
    """In each of the first calls, whatever the error, wherever it is."""
    cls = getattr(package, row.name)
    optimizer, never_failed = cls(**options), cls(**options)

    def start():
        return {"a": np.ones(4), "f": 0.5, "z": np.ones((2, 3), np.float32, order="F")}

    params, expected = start(), start()
    rng = np.random.default_rng(0)
    for _ in range(5):
        grads = {key: rng.standard_normal(np.shape(p)) for key, p in params.items()}
        for key, bad in itertools.product(params, (np.ones((5, 5)), "text", 1j)):
            spoiled = {**grads, key: bad}
            with step_refused((TypeError, ValueError), f"{key!r}", optimizer, params, spoiled):
                optimizer.update(params, spoiled)
        for key in params:
            missing = {k: g for k, g in grads.items() if k != key}
            with step_refused(KeyError, f"{key!r}", optimizer, params, missing):
                optimizer.update(params, missing)
        spoiled = {**params, "new": np.ones(3), "last": np.arange(3)}
        with step_refused(TypeError, "'last'", optimizer, spoiled, {}):
            optimizer.update(spoiled, {**grads, "new": np.ones(3), "last": np.ones(3)})
        for name in (*row.states, "average"):
            state = getattr(optimizer, name)
            if not state:
                continue
            kept, state["z"] = state["z"], np.zeros(7)
            with step_refused(ValueError, rf"{name}\['z'\]", optimizer, params, grads):
                optimizer.update(params, grads)
            state["z"] = kept
        optimizer.update(params, grads)
        never_failed.update(expected, grads)
        for key, p in expected.items():
            assert_same_bits(params[key], p, key)
        for name in (*row.states, "average", "accumulated"):
            for key, array in getattr(never_failed, name).items():
                assert_same_bits(getattr(optimizer, name)[key], array, (name, key))


@every_optimizer
def test_average_in_memory_of_others_is_refused(row):
    optimizer, params = row.compiled(ema=0.5), {"p": np.ones(6), "q": np.ones(6)}
    grads = {"p": np.ones(6), "q": np.ones(6)}
    optimizer.update(params, grads)
    kept = optimizer.average["p"]
    for other in (params["p"], params["q"], optimizer.average["q"]):
        optimizer.average["p"] = other
        with step_refused(ValueError, r"average.*'p'|'p'.*average", optimizer, params, grads):
            optimizer.update(params, grads)
    optimizer.average["p"] = kept
    optimizer.update(params, grads)
    assert optimizer.iter == 2


def test_twins_of_all_options_are_declared_alike():
    for row in TABLE:
        assert row.compiled._options == row.twin._options
        assert row.compiled._options.keys() == reference.SGD._options.keys()
