"""Groups of keys: which settings a key has, what may be set there, and when that is found out."""

import copy
import operator
import pickle
from math import inf

import numpy as np
import pytest
from helpers.arrays import assert_same_bits
from helpers.errors import step_refused
from helpers.marks import both
from helpers.options import Pair, draw_grads, draw_params
from numpy.testing import assert_array_equal
from optimizer_table import every_optimizer

import fastopt

KEYS = ["W1", "W2", "b1", "b2", "norm.b", ("b", 1), 7]


def steps_of(package, groups, keys=KEYS, **settings):
    """Return how far each key goes with a gradient of 1, at a learning rate of 1."""
    optimizer = package.SGD(lr=1.0, groups=groups, **settings)
    params = {key: np.zeros(2) for key in keys}
    optimizer.update(params, dict.fromkeys(keys, np.ones(2)))
    assert all(p[0] == p[1] for p in params.values())
    return {key: -p[0].item() for key, p in params.items()}


# --- which group a key is in ---


@both
@pytest.mark.parametrize(
    ("pattern", "members"),
    [
        ("W1", ["W1"]),
        ("b*", ["b1", "b2"]),
        ("*b*", ["b1", "b2", "norm.b"]),
        ("[bW]?", ["W1", "W2", "b1", "b2"]),
        ("[!b]*", ["W1", "W2", "norm.b"]),
        ("*", ["W1", "W2", "b1", "b2", "norm.b"]),
        (("W1", "norm.*"), ["W1", "norm.b"]),
        ((), []),
        (lambda key: key == 7, [7]),
        (lambda key: not isinstance(key, str), [("b", 1), 7]),
        (lambda key: isinstance(key, tuple) and key[0] == "b", [("b", 1)]),
        (lambda key: [], []),
    ],
    ids=range(12),
)
def test_patterns(package, pattern, members):
    got = steps_of(package, {pattern: {"lr": 0.25}})
    assert got == {key: 0.25 if key in members else 1.0 for key in KEYS}


@both
def test_strings_are_equal_or_wildcards_with_case(package):
    keys = ["w[1]", "w1", "W1"]
    assert steps_of(package, {"w[1]": {"lr": 0.5}}, keys) == {"w[1]": 0.5, "w1": 0.5, "W1": 1.0}
    assert steps_of(package, {"w*": {"lr": 0.5}}, keys) == {"w[1]": 0.5, "w1": 0.5, "W1": 1.0}


@both
def test_first_group_that_fits_wins_whole(package):
    """Nothing of a later one is added to it; the optimizer's own settings fill the rest."""
    groups = {
        "b1": {"lr": 0.5},
        "b*": {"lr": 0.25, "maximize": True},
        ("W1", "b2"): {"lr": 0.125},
        lambda key: True: {"clip_value": 0.75},
    }
    assert steps_of(package, groups) == {
        "W1": 0.125, "W2": 0.75, "b1": 0.5, "b2": -0.25, "norm.b": 0.75, ("b", 1): 0.75, 7: 0.75,
    }  # fmt: skip
    assert steps_of(package, dict(reversed(groups.items()))) == dict.fromkeys(KEYS, 0.75)


@both
def test_group_without_settings_is_one(package):
    assert steps_of(package, {"b1": {}, "b*": {"lr": 0.5}}) == {
        key: 0.5 if key == "b2" else 1.0 for key in KEYS
    }


@both
def test_key_of_a_subclass_of_str_is_a_string(package):
    class Name(str):
        __slots__ = ()

    assert steps_of(package, {"b*": {"lr": 0.5}}, [Name("b1"), Name("W")]) == {"b1": 0.5, "W": 1.0}


@both
@pytest.mark.parametrize("pattern", ["c*", ("b1", "c"), "B1", "b"])
def test_string_that_matches_no_key_changes_nothing(package, pattern):
    optimizer = package.Momentum(groups={"W*": {"lr": 0.5}, pattern: {"lr": 0.1}}, ema=0.5)
    word = pattern if isinstance(pattern, str) else pattern[1]
    params, grads = {key: np.ones(2) for key in KEYS}, dict.fromkeys(KEYS, np.ones(2))
    message = rf"groups: '{word.replace('*', '.')}' matches no parameter; there are 'W1', 'W2', "
    for _ in range(2):
        with step_refused(ValueError, message, optimizer, params, grads):
            optimizer.update(params, grads)
    optimizer.groups = {}
    optimizer.update(params, grads)
    with step_refused(ValueError, "matches no parameter", optimizer, params, grads):
        optimizer.groups = {pattern: {"lr": 0.1}}
        try:
            optimizer.update(params, grads)
        finally:
            optimizer.groups = {}
    with pytest.raises(ValueError, match="matches no parameter; there are none"):
        package.SGD(groups={"b": {}}).update({}, {})


@both
def test_string_needs_to_match_once(package):
    """A key of this call or of an earlier one; a key without a gradient is one."""
    optimizer, p = package.SGD(lr=1.0, groups={"b*": {"lr": 0.5}}), np.zeros(1)
    optimizer.update({"b1": p}, {"b1": None})
    optimizer.update({"W": p}, {"W": np.ones(1)})
    assert p == -1.0
    optimizer.update({"b2": p}, {"b2": np.ones(1)})
    assert p == -1.5


@both
def test_callables_and_empty_tuples_need_no_key(package):
    groups = {lambda key: False: {"lr": 0.5}, (): {"lr": 0.25}}
    assert steps_of(package, groups) == dict.fromkeys(KEYS, 1.0)


@both
def test_callable_that_raises_changes_nothing(package):
    def first_letter(key):
        return key[0] == "b"  # of a number there is none

    optimizer = package.Momentum(groups={first_letter: {"lr": 0.5}}, ema=0.5)
    params, grads = {key: np.ones(2) for key in KEYS}, dict.fromkeys(KEYS, np.ones(2))
    with step_refused(TypeError, "not subscriptable", optimizer, params, grads):
        optimizer.update(params, grads)
    del params[7]
    optimizer.update(params, grads)
    assert optimizer.iter == 1


# --- what a group sets ---


@every_optimizer
def test_each_hyperparameter_may_be_a_group_s(row):
    """As if its keys had an optimizer of their own."""
    settings = {"weight_decay": 0.0, "clip_value": 0.3, "low": -0.7, "high": 0.9}
    plain = row.compiled(**settings)
    ours = draw_params("float32")
    groups = {("C", "strided", "float"): row.settings, "byte*": {**row.settings, "maximize": True}}
    grouped, alone = row.compiled(**settings, groups=groups), row.compiled(**row.settings)
    upwards = row.compiled(**row.settings, maximize=True)
    for each in (alone, upwards):
        for name, value in settings.items():
            setattr(each, name, value)
    theirs = draw_params("float32")
    parts = {
        alone: ["C", "strided", "float"],
        upwards: ["byte-swapped"],
    }
    parts[plain] = [key for key in theirs if not any(key in part for part in parts.values())]
    for call in range(5):
        grads = draw_grads(ours, call)
        grouped.update(ours, grads)
        for optimizer, keys in parts.items():
            some = {key: theirs[key] for key in keys}
            optimizer.update(some, grads)
            theirs |= some
    for key, p in theirs.items():
        assert_same_bits(ours[key], p, key)


@both
@pytest.mark.parametrize(
    ("settings", "own", "step"),
    [
        ({}, {"lr_scale": 0.5}, 0.5),
        ({}, {"lr_scale": 0}, 0.0),
        ({}, {"lr_scale": lambda t: 0.25 * (t + 1)}, 0.25),
        ({"lr": lambda t: 2.0 / (t + 1)}, {"lr_scale": 0.25}, 0.5),
        ({"lr": lambda t: 2.0}, {"lr": 0.25}, 0.25),
        ({}, {"lr": lambda t: 0.125}, 0.125),
        ({"maximize": True}, {"maximize": False}, 1.0),
        ({}, {"maximize": True}, -1.0),
        ({"clip_value": 0.5}, {"clip_value": None}, 1.0),
        ({}, {"clip_value": 0.5}, 0.5),
        ({"low": -0.5}, {"low": -inf}, 1.0),
        ({}, {"low": -0.25}, 0.25),
        ({}, {"high": -2.0}, 2.0),
        ({"clip_norm": 0.1}, {"clip_norm": None}, 1.0),
        ({}, {"frozen": True}, 0.0),
        ({}, {"frozen": False}, 1.0),
        ({}, {"frozen": True, "lr": 5.0}, 0.0),
        ({}, {"frozen": False, "lr": 0.5}, 0.5),
    ],
    ids=range(18),
)
def test_settings_of_a_group(package, settings, own, step):
    settings = {"lr": 1.0, **settings}
    params, others = ({"a": np.zeros(1), "b": np.zeros(1), "n": 0.0} for _ in range(2))
    grads = {"a": np.ones(1), "b": np.ones(1), "n": 1.0}
    without = package.SGD(**settings)
    optimizer = package.SGD(**settings, groups={("b", "n"): own})
    optimizer.update(params, grads)
    without.update(others, grads)
    assert -params["b"].item() == -params["n"] == step
    assert_same_bits(params["a"], others["a"], "a key in no group")


@both
def test_decays_of_groups(package):
    optimizer = package.SGD(
        lr=0.5, weight_decay=0.5,
        groups={"none": {"weight_decay": 0}, "apart": {"decoupled": True, "lr_scale": 0.5}},
    )  # fmt: skip
    params = {key: np.full(1, 8.0) for key in ("own", "none", "apart")}
    optimizer.update(params, dict.fromkeys(params, np.ones(1)))
    assert {key: p.item() for key, p in params.items()} == {
        "own": 8 - 0.5 * (1 + 4), "none": 7.5, "apart": 8 * (1 - 0.25 * 0.5) - 0.25,
    }  # fmt: skip


@both
@every_optimizer
def test_frozen_keys_are_left_alone(package, row):
    """No state, no average, no sum; what is bad about their gradients is not looked at."""
    optimizer = getattr(package, row.name)(
        groups={"held*": {"frozen": True}}, ema=0.5, accumulate=2, nonfinite="raise"
    )
    params = {
        "a": np.ones(3),
        "held": np.ones(3),
        "held number": -0.0,
        "held integers": np.arange(3),
    }
    grads = {"a": np.ones(3), "held": np.full(3, np.nan), "held number": "text"}
    grads["held integers"] = np.ones((4, 4))
    kept = {key: copy.deepcopy(p) for key, p in params.items() if key != "a"}
    for _ in range(4):
        optimizer.update(params, grads)
    for key, p in kept.items():
        assert_same_bits(params[key], p, key)
    for name in (*row.states, "average", "accumulated"):
        assert {*getattr(optimizer, name)} <= {"a"}
    assert np.all(params["a"] < 1)
    with pytest.raises(KeyError, match="'held'"):
        optimizer.update(params, {k: g for k, g in grads.items() if k != "held"})


@both
def test_frozen_key_thaws_where_it_was(package):
    optimizer, params = package.Momentum(lr=1.0, momentum=0.5), {"a": np.zeros(1), "b": np.zeros(1)}
    grads = {"a": np.ones(1), "b": np.ones(1)}
    for groups in ({}, {"b": {"frozen": True}}, {}):
        optimizer.groups = groups
        optimizer.update(params, grads)
    assert (params["a"], params["b"]) == (-1 - 1.5 - 1.75, -1 - 1.5)
    assert optimizer.v["b"] == -1.5


# --- what is refused ---

NOT_SETTABLE = ["clip_global_norm", "nonfinite", "accumulate", "ema", "groups"]


@both
@pytest.mark.parametrize("name", [*NOT_SETTABLE, "momentum", "learning_rate", "iter", "v", "m", ""])
def test_unknown_and_not_settable_names_are_refused(package, name):
    message = rf"groups\['b'\]: {name} can't be set there( .here: .*)?; these can: lr, beta1, "
    optimizer = package.Adam()
    value = {"groups": {}, "nonfinite": "skip"}.get(name, 1)
    for give in (
        lambda groups: package.Adam(groups=groups),
        lambda groups: setattr(optimizer, "groups", groups),
    ):
        with pytest.raises(ValueError, match=message):
            give({"a": {"lr": 0.1}, "b": {name: value}})
    assert optimizer.groups == {}


@both
@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ([("b", {})], TypeError, "groups must be a mapping of patterns to settings, got list"),
        ({1: {}}, TypeError, "a pattern is a string, a tuple of strings or a callable .* got 1"),
        ({None: {}}, TypeError, "a pattern is .* got None"),
        ({("a", 1): {}}, TypeError, r"a pattern is .* got \('a', 1\)"),
        ({b"a": {}}, TypeError, "a pattern is .* got b'a'"),
        ({"b": 0.1}, TypeError, "the settings of 'b' must be a mapping .* got 0.1"),
        ({"b": [("lr", 1)]}, TypeError, "the settings of 'b' must be a mapping"),
        ({"b": {"lr": -1}}, ValueError, r"groups\['b'\]: lr must be finite and at least 0, got -1"),
        ({"b": {"lr": "x"}}, TypeError, r"groups\['b'\]: lr must be a number, got 'x'"),
        ({"b": {"beta1": 1}}, ValueError, r"groups\['b'\]: beta1 must be at least 0"),
        ({"b": {"clip_norm": 0}}, ValueError, r"groups\['b'\]: clip_norm must be greater than 0"),
        ({"b": {"decoupled": abs}}, TypeError, r"groups\['b'\]: decoupled must be True or False"),
        ({"b": {"maximize": 1}}, TypeError, r"groups\['b'\]: maximize must be True or False"),
        ({"b": {"lr_scale": -1}}, ValueError, r"groups\['b'\]: lr_scale must be finite"),
        ({"b": {"frozen": 1}}, TypeError, r"groups\['b'\]: frozen must be True or False, got 1"),
        ({"b": {"frozen": abs}}, TypeError, r"groups\['b'\]: frozen must be True or False"),
        ({"b": {"lr": 1, "lr_scale": 1}}, ValueError, "lr and lr_scale exclude each other"),
        ({"b": {1: 1}}, ValueError, r"groups\['b'\]: 1 can't be set there"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_groups_are_checked_when_they_are_set(package, groups, error, message):
    with pytest.raises(error, match=message):
        package.Adam(groups=groups)
    kept = {"b": {"lr": 0.5}}
    optimizer, params = package.Adam(groups=kept), {"b": np.ones(2)}
    with step_refused(error, message, optimizer, params, {}):
        optimizer.groups = groups
    assert optimizer.groups == kept
    optimizer.update(params, {"b": np.ones(2)})


# --- the mapping ---


@both
def test_groups_are_copied_and_read_only(package):
    mine = {"b": {"lr": 0.5}}
    optimizer = package.SGD(lr=1.0, groups=mine)
    mine["b"]["lr"], mine["W"] = 9.0, {"lr": 9.0}
    assert optimizer.groups == {"b": {"lr": 0.5}}
    optimizer.groups["b"]["lr"] = 9.0  # of a copy
    assert optimizer.groups["b"] == {"lr": 0.5}
    assert (len(optimizer.groups), [*optimizer.groups], "b" in optimizer.groups) == (1, ["b"], True)
    for change in (
        lambda groups: groups.update(W={}),
        lambda groups: operator.setitem(groups, "W", {}),
        lambda groups: operator.delitem(groups, "b"),
        lambda groups: groups.clear(),
    ):
        with pytest.raises((AttributeError, TypeError)):
            change(optimizer.groups)
    params = {"b": np.zeros(1), "W": np.zeros(1)}
    optimizer.update(params, {"b": np.ones(1), "W": np.ones(1)})
    assert (params["b"], params["W"]) == (-0.5, -1.0)
    assert repr(optimizer) == "SGD(lr=1.0, groups={'b': {'lr': 0.5}})"
    assert package.SGD(groups=optimizer.groups).groups == optimizer.groups


@every_optimizer
def test_groups_may_be_assigned_between_steps(row):
    """To more rows, to fewer, to as many, to other keys; also in the middle of a sum."""
    for options in ({}, {"accumulate": 2, "ema": 0.5}):
        pair = Pair(row, options, lambda: draw_params("float64"))
        everything = {"*": {"lr_scale": 0.25}}
        for groups in (
            {"C": {"lr": 0.3}},
            {"strided": {"lr": 0.3}},
            {"C": {"lr": 0.1}, "f*": {"lr_scale": 2.0, "maximize": True}},
            {"f*": {"lr": 0.1}, "C": {"weight_decay": 0.5}},
            {},
            {"C": {"lr": lambda t: 0.1 * t}},
            everything,
        ):
            pair.set("groups", groups)
            for call in (0, 4):
                pair.update(draw_grads(pair.ours, call))
        pair.set("lr", 0.5)
        before = np.array(pair.ours["C"])
        for _ in range(2):
            pair.update(draw_grads(pair.ours, 0))
        assert np.any(pair.ours["C"] != before)


@both
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))]
)
def test_copies_keep_groups(package, accumulate, duplicate):
    groups = {"C": {"lr": 0.3}, ("f*", "strided"): {"lr_scale": 0.5}, "frozen": {"frozen": True}}
    optimizer = package.Adam(groups=groups, accumulate=accumulate, clip_norm=0.5)
    params = draw_params("float32")
    for call in range(2):
        optimizer.update(params, draw_grads(params, call))
    other, others = duplicate(optimizer), copy.deepcopy(params)
    if duplicate is copy.copy:
        other = copy.deepcopy(other)  # with arrays of its own
    assert other.groups == groups
    assert repr(other) == repr(optimizer)
    optimizer_s_own = {**groups, "C": {"lr": 0.1}}
    for call in range(3):
        for each, its_params in ((optimizer, params), (other, others)):
            each.update(its_params, draw_grads(params, call))
    for key, p in params.items():
        assert_same_bits(others[key], p, key)
    optimizer.groups = optimizer_s_own
    assert other.groups == groups


def test_rows_are_found_once():
    """A callable is asked of a key when that is new, or the groups are."""
    asked = []
    optimizer = fastopt.SGD(lr=1.0, groups={asked.append: {"lr": 0.5}})
    params = {"a": np.zeros(2), "b": np.zeros((2, 2), np.float32)}
    for _ in range(3):
        optimizer.update(params, {key: np.ones(p.shape, p.dtype) for key, p in params.items()})
    assert asked == ["a", "b"]
    params["c"] = np.zeros(1)
    optimizer.update(params, {key: np.ones(p.shape, p.dtype) for key, p in params.items()})
    assert {*asked[2:]} == {"c"}
    assert optimizer._stepper.known_steps == 2


@both
def test_key_that_changes_places_keeps_its_group(package):
    optimizer = package.SGD(lr=1.0, groups={"b": {"lr": 0.5}})
    params = {key: np.zeros(1) for key in "abc"}
    grads = dict.fromkeys(params, np.ones(1))
    for keys in ("abc", "cba", "bac", "b", "ab", "acb"):
        optimizer.update({key: params[key] for key in keys}, grads)
    assert [params[key].item() for key in "abc"] == [-5.0, -3.0, -4.0]
    assert_array_equal(optimizer.current("b")["lr"], 0.5)
