"""States of optimizers and nets: training n + m steps is training n, loading, and training m.

Bit for bit, whatever the optimizer, its options and its parameters; a wrong state is refused and
changes nothing. The Trainer's is in test_checkpoints.py, the file in test_saving.py.
"""

import collections
import copy
import functools
import json
import pickle
import threading
from contextlib import suppress

import numpy as np
import pytest
from helpers.arrays import WRITABLE, lay_out
from helpers.errors import refused
from helpers.marks import both, every_dtype
from helpers.options import OPTIONS, draw_grads, draw_params, same_arrays
from helpers.processes import run
from helpers.trees import assert_same_tree
from optimizer_table import every_optimizer

import fastopt
from fastopt import reference, schedules
from fastopt.optimizers._declared import scalar

BEFORE, AFTER = 5, 4  # steps; the fourth gradients of `draw_grads` are not finite

SCHEDULES = {
    "constant": schedules.constant(0.1),
    "step": schedules.step(0.1, every=2, factor=0.5),
    "exponential": schedules.exponential(0.1, 0.9),
    "linear": schedules.linear(0.0, 0.1, 7),
    "cosine": schedules.cosine(0.1, 8),
    "cosine_restarts": schedules.cosine_restarts(0.1, 9, 3, final=0.01),
    "one_cycle": schedules.one_cycle(0.1, 8),
    "polynomial": schedules.polynomial(0.1, 8, 2.0),
    "inverse_sqrt": schedules.inverse_sqrt(0.1, 3.0),
    "piecewise": schedules.piecewise({0: 0.1, 4: 0.02, 6: 0.05}),
    "warmup": schedules.warmup(6, schedules.cosine(0.1, 4)),
    "join": schedules.join([(3, schedules.linear(0.0, 0.1, 3)), (3, 0.05), 0.01]),
}
assert {*SCHEDULES} == {*schedules._CLASSES} - {"ReduceOnPlateau"}

SETTINGS = OPTIONS | {
    "accumulate 3": {"accumulate": 3, "clip_global_norm": 0.5},
    "sums, averages, skipped": {"accumulate": 4, "ema": 0.6, "nonfinite": "skip"},
    "ema by schedule": {"ema": lambda t: min(0.9, (1 + t) / (10 + t))},
    "groups with schedules": {
        "groups": {
            "f*": {"lr": schedules.linear(0.1, 0.0, 8), "clip_norm": 0.3},
            ("C", "strided"): {"lr_scale": schedules.step(1.0, 2, 0.5), "decoupled": True},
            lambda key: key == 7: {"weight_decay": lambda t: 0.01 * t, "maximize": True},
        }
    },
    "all": {
        "lr": schedules.warmup(4, schedules.cosine(0.1, 8)), "weight_decay": 0.1,
        "low": schedules.constant(-2.0), "high": 1.5, "clip_value": 0.4, "clip_norm": 0.5,
        "nonfinite": "skip", "accumulate": 2, "ema": 0.5, "groups": OPTIONS["groups"]["groups"],
    },
}  # fmt: skip


@functools.cache
def all_grads(dtype, call):
    return draw_grads({**draw_params(dtype), "new": np.ones(3, "f4")}, call)


def make_steps(optimizer, params, first, last):
    """Make some of the calls of a training; the parameters are all of `draw_params`, or some."""
    dtype = params["fortran"].dtype.name
    for call in range(first, last):
        try:
            optimizer.update(params, all_grads(dtype, call))
        except FloatingPointError:
            assert optimizer.nonfinite == "raise"


def callables_alone(settings):
    """Return what a state doesn't hold, and an optimizer must be given: callables of one's own."""

    def is_own(value):
        return callable(value) and not isinstance(value, schedules._Schedule)

    own = {name: value for name, value in settings.items() if is_own(value)}
    groups = settings.get("groups", {})
    if any(map(is_own, [*groups, *(v for each in groups.values() for v in each.values())])):
        own["groups"] = groups
    return own


def through_json(state):
    """Return a state whose settings and counters have been text: a new object, of plain types."""
    text = json.dumps({name: each for name, each in state.items() if name != "arrays"})
    return {**json.loads(text), "arrays": copy.deepcopy(state["arrays"])}


def whole(optimizer):
    """Return all that an optimizer is, to compare: what its state holds, and what else one sees."""
    return [
        optimizer.state_dict(), repr(optimizer), repr(optimizer.norm),
        [*map(id, (getattr(optimizer, name) for name in optimizer._settings))],
        [*map(id, optimizer.groups)], sorted(vars(optimizer)),
    ]  # fmt: skip


def in_order(state):
    """Return a state whose arrays are in one order of their keys, which says nothing."""
    arrays = {
        name: dict(sorted(by_key.items(), key=repr)) for name, by_key in state["arrays"].items()
    }
    return {**state, "arrays": arrays}


def assert_same_states(ours, theirs):
    assert_same_tree(in_order(ours), in_order(theirs))


def assert_equal_optimizers(ours, theirs):
    assert_same_states(ours.state_dict(), theirs.state_dict())
    for key in (None, "C", "fortran", 7):
        assert ours.current(key) == theirs.current(key)


# --- n + m steps ---


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@every_optimizer
def test_steps_go_on_where_they_were(row, settings):
    """Class and twin, from either's state; with `accumulate` between the calls of a step."""
    settings = {**row.settings, **settings}
    for cls, others in (
        (row.compiled, [row.compiled, row.twin]),
        (row.twin, [row.compiled]),
    ):
        whole_way, params = cls(**settings), draw_params("float32")
        make_steps(whole_way, params, 0, BEFORE)
        state, kept = whole_way.state_dict(), copy.deepcopy(params)
        make_steps(whole_way, params, BEFORE, BEFORE + AFTER)
        for other in others:
            optimizer, ours = other(**callables_alone(settings)), copy.deepcopy(kept)
            optimizer.load_state_dict(through_json(state))
            make_steps(optimizer, ours, BEFORE, BEFORE + AFTER)
            same_arrays(ours, params, "parameter")
            assert_equal_optimizers(optimizer, whole_way)
            assert repr(optimizer.norm) == repr(whole_way.norm)


@pytest.mark.parametrize("n", range(9))
@both
def test_any_call_may_be_the_last_before(package, n):
    settings = SETTINGS["sums, averages, skipped"]
    whole_way, params = package.Adam(**settings), draw_params("float64")
    make_steps(whole_way, params, 0, n)
    state, ours = whole_way.state_dict(), copy.deepcopy(params)
    make_steps(whole_way, params, n, 10)
    optimizer = package.Adam()
    optimizer.load_state_dict(state)
    make_steps(optimizer, ours, n, 10)
    same_arrays(ours, params, "parameter")
    assert_equal_optimizers(optimizer, whole_way)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@both
def test_every_schedule(package, schedule):
    settings = {"lr": schedule, "groups": {"f*": {"lr": schedule}, "C": {"weight_decay": schedule}}}
    whole_way, params = package.RMSprop(**settings), draw_params("float64")
    make_steps(whole_way, params, 0, BEFORE)
    optimizer, ours = package.RMSprop(), copy.deepcopy(params)
    optimizer.load_state_dict(through_json(whole_way.state_dict()))
    assert repr(optimizer) == repr(whole_way)
    for each, its in ((whole_way, params), (optimizer, ours)):
        make_steps(each, its, BEFORE, BEFORE + AFTER)
    same_arrays(ours, params, "parameter")
    assert_equal_optimizers(optimizer, whole_way)


@pytest.mark.parametrize("layout", WRITABLE)
@every_dtype
@both
def test_layouts(package, dtype, layout):
    """States lie as the parameters do, or not: the bits are the same."""
    rng = np.random.default_rng(0)
    params = {"p": lay_out(rng.standard_normal((6, 5)).astype(dtype), layout)}
    settings = {"ema": 0.5, "accumulate": 2, "clip_norm": 0.1}
    whole_way = package.Adam(**settings)
    grads = [{"p": rng.standard_normal((6, 5))} for _ in range(8)]
    for g in grads[:5]:
        whole_way.update(params, g)
    ours = {"p": lay_out(np.asarray(params["p"], dtype), layout)}
    optimizer, in_c = package.Adam(), package.Adam()
    state = whole_way.state_dict()
    optimizer.load_state_dict(state)
    for by_key in state["arrays"].values():
        by_key.update({key: np.array(a, order="C") for key, a in by_key.items()})
    in_c.load_state_dict(state)
    theirs = {"p": lay_out(np.asarray(params["p"], dtype), layout)}
    for g in grads[5:]:
        whole_way.update(params, g)
        optimizer.update(ours, g)
        in_c.update(theirs, g)
    same_arrays(ours, params, "parameter")
    same_arrays(theirs, params, "parameter")
    assert_same_tree(optimizer.state_dict(), whole_way.state_dict())


@both
def test_keys_that_came_and_went(package):
    """States of keys that the parameters no longer have are kept."""
    params = draw_params("float32")
    optimizer, other = package.Adam(ema=0.5), package.Adam()
    make_steps(optimizer, params, 0, 2)
    del params["C"]
    params["new"] = np.ones(3, "f4")
    make_steps(optimizer, params, 2, 3)
    other.load_state_dict(optimizer.state_dict())
    assert "C" in other.m
    assert "C" in other.average
    assert_same_tree(other.state_dict(), optimizer.state_dict())


@both
def test_options_that_are_set_between(package):
    whole_way, params = package.Momentum(), draw_params("float32")
    make_steps(whole_way, params, 0, 1)
    changes = {"lr": 0.5, "ema": 0.9, "nonfinite": "skip", "accumulate": 3, "clip_norm": 0.1}
    for name, value in changes.items():
        setattr(whole_way, name, value)
    make_steps(whole_way, params, 1, 5)
    whole_way.groups = OPTIONS["groups"]["groups"]
    whole_way.clip_norm, whole_way.ema = None, schedules.linear(0.1, 0.9, 7)
    optimizer, ours = package.Momentum(clip_global_norm=3.0, low=0.0), copy.deepcopy(params)
    optimizer.load_state_dict(whole_way.state_dict())
    for each, its in ((whole_way, params), (optimizer, ours)):
        make_steps(each, its, 5, 9)
    same_arrays(ours, params, "parameter")
    assert_equal_optimizers(optimizer, whole_way)


@both
def test_into_an_optimizer_that_has_trained(package):
    """What it knew of its last step is forgotten: arrays, sums, numbers."""
    settings = SETTINGS["all"] | {"lr": 0.1}
    whole_way, params = package.AdamW(**settings), draw_params("float32")
    make_steps(whole_way, params, 0, 3)
    state, ours = whole_way.state_dict(), copy.deepcopy(params)
    make_steps(whole_way, params, 3, 9)
    optimizer, others = package.AdamW(accumulate=2), draw_params("float32")
    make_steps(optimizer, others, 0, 4)
    for _ in range(2):  # and back once more
        optimizer.load_state_dict(state)
        assert optimizer.norm is None
        again = copy.deepcopy(ours)
        make_steps(optimizer, again, 3, 9)
        same_arrays(again, params, "parameter")
        assert_equal_optimizers(optimizer, whole_way)


IN_A_NEW_PROCESS = """
import pickle, sys
import fastopt
from fastopt import reference
from helpers.options import draw_grads, draw_params
name, is_twin, folder = {name!r}, {is_twin!r}, {folder!r}
optimizer = getattr(reference if is_twin else fastopt, name)()
params = draw_params("float32")
assert fastopt.load(folder + "/state", params=params, optimizer=optimizer) == {{"n": 5}}
for call in range(5, 9):
    optimizer.update(params, draw_grads(params, call))
fastopt.save(folder + "/end", params=params, optimizer=optimizer)
"""


@pytest.mark.parametrize("name", ["AdamW", "Lion"])
@both
def test_in_a_new_process(package, name, tmp_path):
    """By a file, into nothing but the class."""
    cls = getattr(package, name)
    optimizer, params = cls(**SETTINGS["all"]), draw_params("float32")
    make_steps(optimizer, params, 0, 5)
    fastopt.save(tmp_path / "state", params=params, optimizer=optimizer, n=5)
    is_twin = package is not reference  # of the other kind
    done = run(IN_A_NEW_PROCESS.format(name=name, is_twin=is_twin, folder=str(tmp_path)))
    assert done.returncode == 0, done.stderr
    make_steps(optimizer, params, 5, 9)
    ended = fastopt.load(tmp_path / "end")
    same_arrays(ended["params"], params, "parameter")
    assert_same_tree(ended["optimizer"], fastopt_tree(optimizer.state_dict(), tmp_path))


def fastopt_tree(tree, folder):
    """Return a tree as a file holds it."""
    fastopt.save(folder / "tree", tree=tree)
    return fastopt.load(folder / "tree")["tree"]


# --- what a state is ---


def assert_is_plain(tree):
    """Check that there are but dicts, lists, tuples, strings, numbers and arrays of no others."""
    if type(tree) is dict:
        assert all(type(key) in (str, int, tuple) for key in tree)
        for each in tree.values():
            assert_is_plain(each)
    elif type(tree) in (list, tuple):
        for each in tree:
            assert_is_plain(each)
    elif type(tree) is np.ndarray:
        assert tree.dtype in (np.float32, np.float64)
    else:
        assert tree is None or type(tree) in (str, int, float, bool)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@both
def test_a_state_is_plain_data(package, settings):
    optimizer, params = package.Adam(**settings), draw_params("float32")
    params = {key: p for key, p in params.items() if type(key) is str}
    groups = optimizer.groups
    optimizer.groups = {}
    make_steps(optimizer, params, 0, 3)
    optimizer.groups = groups
    state = optimizer.state_dict()
    assert_is_plain(state)
    json.dumps(state, default=np.ndarray.tolist)
    assert [*state] == [
        "format", "class", "iter", "skipped", "calls", "scalars", "settings", "arrays",
    ]  # fmt: skip


@both
def test_settings_of_numpys_types(package, tmp_path):
    optimizer = package.SGD(
        lr=np.float32(0.5), accumulate=np.int64(2), maximize=np.bool_(True),
        weight_decay=schedules.step(np.float32(0.5), np.int8(3), np.array(0.5)),
        groups={np.str_("b*"): {"lr": np.float64(0.5)}, (np.str_("W"), "c"): {}},
    )  # fmt: skip
    assert_is_plain(optimizer.state_dict())
    other = package.SGD()
    fastopt.save(tmp_path / "file", optimizer=optimizer)
    fastopt.load(tmp_path / "file", optimizer=other)
    assert_same_tree(other.state_dict(), optimizer.state_dict())


@both
def test_a_state_holds_copies(package):
    params = draw_params("float32")
    optimizer = package.Adam(ema=0.5, accumulate=2, groups={"f*": {"lr": 0.5}})
    make_steps(optimizer, params, 0, 3)
    state = optimizer.state_dict()
    kept = copy.deepcopy(state)
    make_steps(optimizer, params, 3, 5)
    assert_same_tree(state, kept)
    other = package.Adam()
    other.load_state_dict(state)
    for by_key in state["arrays"].values():
        for array in by_key.values():
            array[...] = 9
        by_key.clear()
    state["settings"]["groups"][0][1]["lr"] = 9.0
    state["settings"].clear()
    assert_same_tree(other.state_dict(), kept)
    again = other.state_dict()
    make_steps(other, draw_params("float32"), 3, 5)
    assert_same_tree(again, kept)
    for by_key in again["arrays"].values():
        assert all(array.flags.writeable and array.flags.owndata for array in by_key.values())


@both
def test_arrays_of_another_machine(package):
    """Read-only ones, and those of the other byte order, are states as others are."""
    params = draw_params("float32")
    optimizer, other = package.Adam(ema=0.5), package.Adam()
    make_steps(optimizer, params, 0, 3)
    state = optimizer.state_dict()
    for by_key in state["arrays"].values():
        for key, a in by_key.items():
            by_key[key] = a.astype(a.dtype.newbyteorder())
            by_key[key].flags.writeable = False
    other.load_state_dict(state)
    assert_same_tree(other.state_dict(), optimizer.state_dict())
    make_steps(other, params, 3, 5)


@both
def test_scalars(package):
    base = package.Momentum

    class Scaled(base):
        product: float = scalar(1.0)

        @staticmethod
        def _next_scalars(row, t):
            return {"product": row.product * 0.5}

    params = draw_params("float64")
    optimizer, other = Scaled(), Scaled()
    make_steps(optimizer, params, 0, 3)
    state = optimizer.state_dict()
    assert state["scalars"] == {"product": 0.125}
    other.load_state_dict(state)
    make_steps(other, params, 3, 4)
    assert other.product == 0.0625
    for wrong, message in (
        ({}, "scalars must have 'product'"),
        ({"product": "1"}, "product must be a number, got '1'"),
        ({"product": float("nan")}, "product must be a number, got nan"),
        ({"product": 1.0, "d": 1.0}, "scalars must not have 'd', which is not known"),
    ):
        with pytest.raises(ValueError, match=message):
            other.load_state_dict({**state, "scalars": wrong})
    assert other.product == 0.0625


@both
def test_subclasses(package):
    class Mine(package.Adam):
        def __init__(self, note):
            super().__init__(lr=0.5)
            self.note = note

    optimizer, other, params = Mine("one"), Mine("two"), draw_params("float32")
    make_steps(optimizer, params, 0, 2)
    state = optimizer.state_dict()
    assert state["class"] == "Mine"
    other.lr = 0.1
    other.load_state_dict(state)
    assert (other.note, other.lr, other.iter) == ("two", 0.5, 2)
    with pytest.raises(ValueError, match="the state is one of 'Mine', not of Adam"):
        package.Adam().load_state_dict(state)
    with pytest.raises(ValueError, match="the state is one of 'Adam', not of Mine"):
        other.load_state_dict(package.Adam().state_dict())


@both
def test_copies_of_what_was_loaded(package):
    optimizer, params = package.Adam(**SETTINGS["all"]), draw_params("float32")
    make_steps(optimizer, params, 0, 5)
    other = package.Adam()
    other.load_state_dict(optimizer.state_dict())
    for again in (copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
        assert_same_tree(again.state_dict(), optimizer.state_dict())


# --- schedules with a state, and callables of one's own ---


def plateau():
    return schedules.ReduceOnPlateau(0.1, factor=0.5, patience=1)


PLATEAUS = {
    "alone": lambda own: {"lr": own},
    "in a warm-up": lambda own: {"lr": schedules.warmup(3, own)},
    "in a join": lambda own: {"lr": schedules.join([(4, 0.1), (9, own), 0.2])},
    "in a group": lambda own: {"groups": {"C": {"lr": own}}},
    "in both": lambda own: {"lr": own, "groups": {"C": {"lr": schedules.warmup(2, own)}}},
    "of a decay": lambda own: {"weight_decay": own},
}


@pytest.mark.parametrize("settings_of", PLATEAUS.values(), ids=PLATEAUS)
@both
def test_plateaus(package, settings_of):
    """The object that the user holds goes on from the state, and stays the one that moves."""
    own, theirs = plateau(), plateau()
    optimizer, other = package.SGD(**settings_of(own)), package.SGD(**settings_of(theirs))
    params = draw_params("float64")
    for metric in (3.0, 4.0, 5.0, 2.0):
        make_steps(optimizer, params, 0, 2)
        own.report(metric)
    optimizer._report(2.5)
    other.load_state_dict(optimizer.state_dict())
    assert theirs == own
    assert repr(theirs) == repr(own)
    for metric in (3.0, 4.0, 5.0):
        own.report(metric)
        theirs.report(metric)
        for key in (None, "C"):
            assert other.current(key) == optimizer.current(key)
    fresh = package.SGD()
    fresh.load_state_dict(optimizer.state_dict())
    assert repr(fresh) == repr(optimizer)
    for metric in (0.0, 1.0, 1.0, 1.0):
        fresh._report(metric)
        own.report(metric)
    assert_same_tree(fresh.state_dict(), optimizer.state_dict())


@both
def test_a_plateau_of_other_arguments_is_replaced(package):
    own, theirs = plateau(), schedules.ReduceOnPlateau(0.1, factor=0.25, patience=1)
    optimizer, other = package.SGD(lr=own), package.SGD(lr=theirs)
    for metric in (1.0, 1.0, 1.0):
        own.report(metric)
    before = theirs.state_dict()
    other.load_state_dict(optimizer.state_dict())
    assert other.lr == own
    assert other.lr is not theirs
    assert other.lr is not own
    assert theirs.state_dict() == before


@both
def test_a_plateau_does_not_move_where_a_state_is_refused(package):
    own, theirs = plateau(), plateau()
    for metric in (1.0, 1.0, 1.0):
        own.report(metric)
    state = package.SGD(lr=own).state_dict()
    state["arrays"]["average"]["p"] = None
    before = theirs.state_dict()
    with pytest.raises(ValueError, match="average"):
        package.SGD(lr=theirs).load_state_dict(state)
    assert theirs.state_dict() == before


def own_callable(t):
    return 0.5 / (1 + t)


@both
def test_callables_of_ones_own(package):
    def is_c(key):
        return key == "C"

    settings = {
        "lr": schedules.warmup(3, own_callable),
        "weight_decay": own_callable,
        "groups": {"f*": {"lr": own_callable}, is_c: {"lr_scale": 0.5, "low": own_callable}},
    }
    optimizer, params = package.SGD(**settings), draw_params("float64")
    make_steps(optimizer, params, 0, 2)
    state = optimizer.state_dict()
    assert state["settings"]["lr"] is None
    assert state["settings"]["weight_decay"] is None
    assert state["settings"]["groups"] == [
        ["f*", {"lr": None}],
        [None, {"lr_scale": 0.5, "low": None}],
    ]
    other = package.SGD(**settings, maximize=True, high=1.0)
    other.load_state_dict(state)
    assert_equal_optimizers(other, optimizer)
    assert other.lr is settings["lr"]
    assert [*other.groups] == ["f*", is_c]
    for missing, message in (
        ("lr", "^the state of SGD: lr was a callable of your own, .*: set it before loading"),
        ("weight_decay", "weight_decay was a callable of your own"),
        ("groups", r"groups\['f\*'\]: lr was a callable of your own"),
    ):
        lacking = package.SGD(**{name: each for name, each in settings.items() if name != missing})
        with pytest.raises(ValueError, match=message):
            lacking.load_state_dict(state)
    other.groups = {"f*": {"lr": own_callable}}
    with pytest.raises(ValueError, match="pattern 1 of groups was a callable of your own"):
        other.load_state_dict(state)
    other.lr = schedules.linear(0.0, 1.0, 3)  # which a state would hold
    with pytest.raises(ValueError, match="lr was a callable of your own"):
        other.load_state_dict(state)


class Halved(schedules.ReduceOnPlateau):
    """A class of one's own, which a state doesn't hold; it moves by metrics all the same."""

    def __call__(self, t):
        return super().__call__(t) / 2


@pytest.mark.parametrize("in_group", [False, True])
@both
def test_plateaus_within_callables_of_ones_own(package, in_group):
    """The callable isn't held, their states are."""

    def settings():
        moving = [plateau(), Halved(0.1, factor=0.5, patience=1)]
        joined = schedules.join([(2, moving[0]), (2, own_callable), moving[1]])
        return moving, {"groups": {"C": {"lr": joined}}} if in_group else {"lr": joined}

    own, theirs = settings(), settings()
    optimizer, other = package.SGD(**own[1]), package.SGD(**theirs[1])
    for metric in (1.0, 1.0, 1.0, 0.5):
        optimizer._report(metric)
    state = through_json(optimizer.state_dict())
    other.load_state_dict(state)
    assert theirs[0] == own[0]
    assert other.current("C") == optimizer.current("C")
    place = ("settings", "groups", 0, 1, "lr") if in_group else ("settings", "lr")
    states = [each.state_dict() for each in own[0]]
    for wrong, message in (
        (states[:1], "lr had 1 schedules with a state, and has 2"),
        ([states[0], {**states[1], "value": 7.0}], "state: value must be from 0.0 to 0.1"),
        ([states[0], None], "state must have value, best"),
    ):
        other._report(0.1)
        before = [each.state_dict() for each in theirs[0]]
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(replaced(state, place, wrong))
        assert [each.state_dict() for each in theirs[0]] == before
    with pytest.raises(ValueError, match="lr was a callable of your own"):
        package.SGD(groups={"C": {}}).load_state_dict(state)


@both
def test_a_callable_is_found_by_its_pattern(package):
    """Not by its place: groups may stand in another order."""
    state = package.SGD(groups={"b*": {"lr": own_callable}}).state_dict()
    mine = {"W*": {"lr": lambda t: 0.9}, "b*": {"lr": own_callable}}
    optimizer = package.SGD(groups=mine)
    optimizer.load_state_dict(state)
    assert optimizer.groups == {"b*": {"lr": own_callable}}
    optimizer.groups = {"W*": mine["W*"]}
    with pytest.raises(ValueError, match=r"groups\['b\*'\]: lr was a callable of your own"):
        optimizer.load_state_dict(state)


# --- states that are wrong ---

ABSENT = object()


def trained(package, **settings):
    """Return an optimizer with something of everything, and its parameters."""
    optimizer = package.Adam(
        lr=schedules.warmup(3, schedules.join([(5, schedules.linear(0.1, 0.0, 5)), plateau()])),
        ema=0.5, accumulate=2, nonfinite="skip", clip_value=0.5,
        groups={
            "W*": {"lr_scale": schedules.piecewise({0: 1.0, 5: 0.5}), "frozen": False},
            ("b", "c*"): {"weight_decay": 0.1, "clip_norm": 2.0},
        },
        **settings,
    )  # fmt: skip
    params = {"W1": np.ones((2, 3)), "b": np.ones(3, "f4"), "c1": 2.0, 5: 0.5, ("a", 1): np.ones(2)}
    rng = np.random.default_rng(0)
    for _ in range(5):
        grads = {key: rng.standard_normal(np.shape(p)) for key, p in params.items()}
        optimizer.update(params, grads)
    return optimizer, params


SETTING = ("settings",)
JOIN = ("settings", "lr", "then")
GROUP = ("settings", "groups", 0)
M = ("arrays", "m")
STATE_OF_PLATEAU = (*JOIN, "parts", 1, 1, "state")

# Where in the state, what stands there instead, and what the message says
WRONG = [
    ((), None, "the state of Adam must be a dict, got NoneType"),
    ((), [1], "the state of Adam must be a dict, got list"),
    (("format",), 2, "the state of Adam has format 2, not 1"),
    (("format",), True, "the state of Adam has format True, not 1"),
    (("format",), "1", "the state of Adam has format '1', not 1"),
    (("format",), np.array([1, 1]), r"the state of Adam has format array\(\[1, 1\]\), not 1"),
    (("class",), "SGD", "the state is one of 'SGD', not of Adam"),
    (("class",), None, "the state is one of None, not of Adam"),
    (("more",), 1, "the state of Adam must not have 'more', which is not known"),
    ((7,), 1, "the state of Adam must not have 7, which is not known"),
    *[
        ((name,), wrong, f"{name} must be a {kind}")
        for name in ("iter", "skipped", "calls")
        for wrong, kind in (
            (-1, "whole number from 0"), (2**53, "whole number"), (1.5, "whole number"),
            (float("nan"), "whole number"), ("3", "number, got '3'"), (None, "number, got None"),
            (True, "number, got True"), ([1], r"number, got \[1\]"), (np.ones(1), "number, got a"),
        )
    ],
    (("calls",), 0, "there are sums of gradients, and no calls that made them"),
    (("scalars",), None, "scalars must be a dict, got NoneType"),
    (("scalars", "d"), 1.0, "scalars must not have 'd'"),
    ((*SETTING,), [], "settings must be a dict, got list"),
    ((*SETTING, "rate"), 1.0, "settings must not have 'rate', which is not known"),
    *[
        ((*SETTING, name), wrong, f"{name} must be {what}")
        for name, wrong, what in (
            ("beta1", 1.0, "at least 0 and less than 1, got 1.0"),
            ("beta1", "0.5", "a number, got '0.5'"),
            ("beta1", True, "a number, got True"),
            ("beta1", False, "a number, got False"),
            ("eps", -1.0, "finite and at least 0, got -1.0"),
            ("eps", float("inf"), "finite and at least 0, got inf"),
            ("eps", (1.0,), r"a number, got \(1.0,\)"),
            ("eps", np.ones(2), "a number, got array"),
            ("weight_decay", -0.1, "finite and at least 0"),
            ("low", float("nan"), "a number, got nan"),
            ("clip_value", 0.0, "greater than 0, got 0.0"),
            ("clip_value", True, "a number, got True"),
            ("decoupled", 1, "True or False, got 1"),
            ("maximize", "yes", "True or False, got 'yes'"),
            ("nonfinite", "ignore", "'propagate' or 'skip' or 'raise', got 'ignore'"),
            ("nonfinite", False, "'propagate' or 'skip' or 'raise', got False"),
            ("accumulate", 0, "a whole number from 1, got 0"),
            ("accumulate", False, "a whole number from 1, got False"),
            ("ema", 1.0, "at least 0 and less than 1, got 1.0"),
            ("lr", own_callable, "plain data, got <function"),
            ("lr", schedules.constant(1.0), "plain data, got schedules.constant"),
            ("lr", float, "plain data, got <class 'float'>"),
        )
    ],
    ((*SETTING, "eps"), None, "eps was a callable of your own"),
    ((*SETTING, "nonfinite"), None, "nonfinite was a callable of your own"),
    ((*SETTING, "eps"), [1.0], "eps was a callable of your own"),
    ((*SETTING, "nonfinite"), {"schedule": "constant", "value": 1.0}, "nonfinite must be 'prop"),
    ((*SETTING, "low"), 3.0, None),
    # schedules
    ((*SETTING, "lr"), {}, "schedule must be one of .*, got None"),
    ((*SETTING, "lr", "schedule"), "os.system", "schedule must be one of .*, got 'os.system'"),
    ((*SETTING, "lr", "schedule"), [], "schedule must be one of"),
    ((*SETTING, "lr", "schedule"), "constant", "schedule constant must have value, got"),
    ((*SETTING, "lr", "steps"), 0, "steps must be a whole number from 1, got 0"),
    ((*SETTING, "lr", "steps"), "3", "steps must be a whole number from 1, got '3'"),
    ((*SETTING, "lr", "steps"), None, "schedule warmup must have numbers, got None"),
    ((*SETTING, "lr", "more"), 1, "schedule warmup must have steps, then, got"),
    (JOIN, 0.1, "a schedule must be a dict, got float"),
    (JOIN, None, "a schedule must be a dict, got NoneType"),
    ((*JOIN, "parts"), [], "parts must end with a schedule whose steps are None"),
    ((*JOIN, "parts"), 3, "parts must be a list of lists of two, got 3"),
    ((*JOIN, "parts", 0), [5], "parts must be a list of lists of two"),
    ((*JOIN, "parts", 0, 0), -5, "must be a whole number from 1, got -5"),
    ((*JOIN, "parts", 1, 0), 5, "parts must end with a schedule whose steps are None"),
    ((*JOIN, "parts", 0, 1, "final"), float("nan"), "final must be finite, got nan"),
    ((*JOIN, "parts", 1, 1, "factor"), 2.0, "factor must be at least 0 and less than 1"),
    (STATE_OF_PLATEAU, None, "schedule ReduceOnPlateau must have numbers|state must have value"),
    ((*STATE_OF_PLATEAU, "more"), 1, "state must have value, best, waited, cooling"),
    ((*STATE_OF_PLATEAU, "value"), 7.0, "state: value must be from 0.0 to 0.1, got 7.0"),
    ((*STATE_OF_PLATEAU, "waited"), 2, "state: waited must be from 0 to 1, got 2"),
    ((*STATE_OF_PLATEAU, "best"), float("nan"), "best must be a number, got nan"),
    ((*STATE_OF_PLATEAU, "cooling"), "1", "cooling must be a number, got '1'"),
    # groups
    ((*SETTING, "groups"), {}, "groups must be a list, got {}"),
    ((*SETTING, "groups"), None, "groups must be a list, got None"),
    ((*SETTING, "groups"), "W*", "groups must be a list, got 'W"),
    (GROUP, "W*", "a group must be a list, got 'W"),
    (GROUP, ["W*"], "a group must be a pair of pattern and settings"),
    (GROUP, ["W*", 0.1], "a group must be a pair of pattern and settings"),
    (GROUP, ["W*", {}, {}], "a group must be a pair of pattern and settings"),
    ((*GROUP, 0), 7, "a pattern must be a string or several, got 7"),
    ((*GROUP, 0), {}, "a pattern must be a string or several, got {}"),
    ((*GROUP, 0), own_callable, "a pattern must be a string or several, got <function"),
    ((*GROUP, 0), ["a", 1], r"a pattern must be a string or several, got \('a', 1\)"),
    ((*GROUP, 0), ["a", ["b"]], r"a pattern must be a string or several, got \('a', \['b'\]\)"),
    ((*GROUP, 0), ["b", "c*"], r"groups must have each pattern once, got \('b', 'c\*'\) twice"),
    ((*GROUP, 0), None, "pattern 0 of groups was a callable of your own"),
    ((*GROUP, 1, "rate"), 1.0, "'rate' can't be set in a group"),
    ((*GROUP, 1, 3), 1.0, "3 can't be set in a group"),
    ((*GROUP, 1, "ema"), 0.5, "'ema' can't be set in a group"),
    ((*GROUP, 1, "lr"), 0.5, "lr and lr_scale exclude each other"),
    ((*GROUP, 1, "lr_scale"), -1.0, r"groups\['W\*'\]: lr_scale must be finite and at least 0"),
    ((*GROUP, 1, "lr_scale"), None, r"groups\['W\*'\]: lr_scale was a callable of your own"),
    ((*GROUP, 1, "lr_scale"), own_callable, r"groups\['W\*'\]: lr_scale must be plain data"),
    ((*GROUP, 1, "frozen"), 1, r"groups\['W\*'\]: frozen must be True or False, got 1"),
    ((*GROUP, 1, "low"), 2.0, None),
    # arrays
    (("arrays",), None, "arrays must be a dict, got NoneType"),
    (("arrays", "h"), {}, "arrays must not have 'h', which is not known"),
    (M, None, "m must be a dict of arrays, got NoneType"),
    ((*M, "W1"), None, r"m\['W1'\] must be a float32 or float64 array, got NoneType"),
    ((*M, "W1"), [1.0], r"m\['W1'\] must be a float32 or float64 array, got list"),
    ((*M, "W1"), np.zeros((2, 3), int), r"m\['W1'\] must be a float32 or float64 array, got int"),
    ((*M, "W1"), np.zeros((2, 3), "O"), r"m\['W1'\] must be a float32 or float64 array, got obj"),
    ((*M, "W1"), np.zeros((2, 3), "f2"), r"m\['W1'\] must be .* got float16"),
    ((*M, "W1"), np.zeros((2, 3), "c16"), r"m\['W1'\] must be .* got complex128"),
    ((*M, "W1"), np.ma.zeros((2, 3)), r"m\['W1'\] must be .* got MaskedArray"),
    ((*M, "W1"), np.zeros((3, 2)), r"\['W1'\] of the state is float64\(\d, \d\), and"),
    ((*M, "W1"), np.zeros((2, 3), "f4"), r"\['W1'\] of the state is float(32|64)\(2, 3\), and"),
    ((*M, 5), np.float64(1.0), r"m\[5\] must be a float32 or float64 array, got float64"),
    ((*M, 5), np.zeros(1), r"\[5\] of the state is float64\("),
    (("arrays", "v", ("a", 1)), np.zeros(3), r"\[\('a', 1\)\] of the state is float64\("),
    (("arrays", "average", "b"), np.zeros(3), r"average\['b'\] of the state is float64\(3,\), and"),
    (("arrays", "accumulated", "b"), np.zeros((), "f4"), r"accumulated\['b'\] of the state is"),
]  # fmt: skip


def replaced(state, place, value):
    """Return a state with something else in a place, or without it."""
    if not place:
        return value
    state = copy.deepcopy(state)
    inner = state
    for step in place[:-1]:
        inner = inner[step]
    if value is ABSENT:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return state


def assert_refused(optimizer, params, state, message):
    """Check that a state is refused, and changes nothing; by a file, too."""
    before = whole(optimizer)
    with refused(ValueError, message, params, *dicts_of(optimizer)):
        optimizer.load_state_dict(state)
    after = whole(optimizer)
    assert_same_tree(after[0], before[0])
    assert after[1:] == before[1:]


def dicts_of(optimizer):
    return [getattr(optimizer, name) for name in (*optimizer._states, "average", "accumulated")]


@pytest.mark.parametrize("into", ["itself", "a new one"])
@both
def test_wrong_states_are_refused(package, into):
    optimizer, params = trained(package)
    state = optimizer.state_dict()
    target = optimizer if into == "itself" else package.Adam(clip_value=3.0)
    for place, wrong, message in WRONG:
        if message is None:  # right after all: the next test wants it beside something else
            package.Adam().load_state_dict(replaced(state, place, wrong))
            continue
        assert_refused(target, params, replaced(state, place, wrong), message)
    target.load_state_dict(state)
    assert_same_tree(target.state_dict(), state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({("settings", "low"): 3.0, ("settings", "high"): 2.0}, "low must not be above high"),
        (
            {("settings", "groups", 0, 1, "low"): 2.0, ("settings", "high"): 1.0},
            r"groups\['W\*'\]: low must not be above high, got 2.0 and 1.0",
        ),
        (
            {("settings", "clip_norm"): 1.0, ("settings", "clip_global_norm"): 1.0},
            "clip_norm and clip_global_norm exclude each other",
        ),
        ({("settings", "clip_global_norm"): 1.0}, "clip_norm and clip_global_norm exclude"),
    ],
)
@both
def test_settings_that_contradict_one_another(package, changes, message):
    optimizer, params = trained(package)
    state = optimizer.state_dict()
    for place, value in changes.items():
        state = replaced(state, place, value)
    assert_refused(optimizer, params, state, message)
    assert_refused(package.Adam(), params, state, message)


def places(tree, place=()):
    """Yield every place in a tree of dicts and lists."""
    if isinstance(tree, dict):
        pairs = tree.items()
    elif isinstance(tree, list):
        pairs = enumerate(tree)
    else:
        pairs = ()
    for step, each in pairs:
        yield (*place, step)
        yield from places(each, (*place, step))


@both
def test_what_is_missing_is_named(package):
    """Wherever it was: but a state may lack a key's arrays, a group its settings."""
    optimizer, params = trained(package)
    state = optimizer.state_dict()
    n_optional = 0
    for place in places(state):
        lacking = replaced(state, place, ABSENT)
        is_of_key = len(place) == 3 and place[0] == "arrays"
        is_of_group = place[:2] == ("settings", "groups") and len(place) in (3, 5)
        is_of_several = place[-2:] in (("parts", 0), ("values", 1))
        if is_of_key or is_of_group or is_of_several:
            package.Adam().load_state_dict(lacking)
            n_optional += 1
            continue
        for target in (optimizer, package.Adam()):
            assert_refused(target, params, lacking, "must|pair|numbers")
    assert n_optional > 10


JUNK = [None, True, -1, 1.5, float("nan"), "x", b"x", (), [], {}, [[]], {"a": 1}, 10**400, object(),
        np.ones(2), np.array(1.0), np.float32(1.0), np.array("x"), len, int, 1j]  # fmt: skip


@both
def test_junk_anywhere_is_refused_or_right(package):
    """A ValueError, nothing else, and nothing has changed; or it loads, and comes back."""
    optimizer, params = trained(package)
    state = optimizer.state_dict()
    n_refused = 0
    for place in [(), *places(state)]:
        for junk in JUNK:
            wrong = replaced(state, place, junk)
            before = whole(optimizer)
            try:
                optimizer.load_state_dict(wrong)
            except ValueError as error:
                n_refused += 1
                assert "Adam" in str(error)  # noqa: PT017 - whichever it is
                after = whole(optimizer)
                assert_same_tree(after[0], before[0])
                assert after[1:] == before[1:]
            else:
                optimizer.load_state_dict(optimizer.state_dict())
                optimizer.load_state_dict(state)
    assert n_refused > 1000
    assert_same_tree(optimizer.state_dict(), state)
    assert params


@both
def test_arrays_that_the_optimizer_or_the_parameters_have(package, tmp_path):
    """Arrays that don't fit them are refused; parameters are known to a file's reader alone."""
    optimizer, params = trained(package)
    state = optimizer.state_dict()
    other = package.Adam()
    other.update({"W1": np.ones((4, 3))}, {"W1": np.ones((4, 3))})
    message = r"m\['W1'\] of the state is float64\(2, 3\), and \w\['W1'\] is float64\(4, 3\)"
    assert_refused(other, {}, state, message)
    fastopt.save(tmp_path / "file", optimizer=optimizer, params=params)
    wrong = {**params, "W1": np.ones((4, 3))}
    fresh = package.Adam()
    with refused(ValueError, r"params\['W1'\] has shape \(4, 3\), the file has \(2, 3\)", wrong):
        fastopt.load(tmp_path / "file", params=wrong, optimizer=fresh)
    net = type("Net", (), {"params": wrong})()
    fastopt.save(tmp_path / "two", optimizer=optimizer, net=net)
    net.params = params
    for target in (fresh, optimizer):
        fastopt.save(tmp_path / "two", optimizer=optimizer, params=wrong)
        with refused(ValueError, r"m\['W1'\] of the state is .* and parameter 'W1' is", wrong):
            fastopt.load(tmp_path / "two", params=wrong, optimizer=target)
    assert fresh.iter == 0


# --- nets, and files of several parts ---


def net_and_state(package):
    net = package.MultiLayerNet(3, [4], 2, weight_decay_lambda=0.1, rng=0)
    return net, net.state_dict()


NET_WRONG = [
    ((), None, "the state of MultiLayerNet must be a dict, got NoneType"),
    (("format",), 2, "the state of MultiLayerNet has format 2, not 1"),
    (("class",), "TwoLayerNet", "the state is one of 'TwoLayerNet', not of MultiLayerNet"),
    (("more",), 1, "the state of MultiLayerNet must not have 'more'"),
    (("architecture",), None, "architecture must be a dict, got NoneType"),
    (("architecture", "bias"), 1, "architecture must not have 'bias'"),
    (("architecture", "sizes"), [3, 5, 2], r"is of sizes \[3, 5, 2\], this net of \[3, 4, 2\]"),
    (("architecture", "sizes"), "342", r"is of sizes '342', this net of"),
    (("architecture", "sizes"), (3, 4, 2), r"is of sizes \(3, 4, 2\), this net of \[3, 4, 2\]"),
    (("architecture", "activation"), "sigmoid", "is of activation 'sigmoid', this net of 'relu'"),
    (("architecture", "dtype"), "float64", "is of dtype 'float64', this net of 'float32'"),
    (("weight_decay_lambda",), -1.0, "weight_decay_lambda must be finite and at least 0"),
    (("weight_decay_lambda",), "0", "weight_decay_lambda must be a number, got '0'"),
    (("params",), [], "params must be a dict of arrays, got list"),
    (("params", "W3"), np.zeros(2, "f4"), "params must not have 'W3'"),
    (("params", "W1"), None, r"params\['W1'\] must be a float32 or float64 array, got NoneType"),
    (("params", "W1"), np.zeros((4, 3), "f4"), r"'W1'.*\(3, 4\)"),
    (("params", "b2"), np.zeros(2), "'b2'.*float64"),
    (("architecture", "loss"), "huber", "is of loss 'huber', this net of 'softmax'"),
    (("architecture", "use_batchnorm"), True, "is of use_batchnorm True, this net of False"),
    (("architecture", "dropout_ratio"), 0.5, r"is of dropout_ratio 0\.5, this net of 0\.0"),
    (("running", "mean1"), np.zeros(4, "f4"), "running must not have 'mean1'"),
    (("running",), None, "running must be a dict of arrays, got NoneType"),
    (("steps",), -1, "steps must be a whole number"),
    (("steps",), None, "steps must be a number, got None"),
    (("seed",), 3, "seed must be None for a net without dropout, got 3"),
]

# of a net with batch normalization and dropout
TRAINED_NET_WRONG = [
    (("architecture", "use_batchnorm"), False, "is of use_batchnorm False, this net of True"),
    (("architecture", "use_batchnorm"), 1, "is of use_batchnorm 1, this net of True"),
    (("architecture", "dropout_ratio"), 0.25, r"is of dropout_ratio 0\.25, this net of 0\.5"),
    (("running", "mean1"), np.zeros(5, "f4"), r"running\['mean1'\] must be float32\(4,\), got"),
    (("running", "var1"), np.zeros(4), r"running\['var1'\] must be .* got float64\(4,\)"),
    (("running", "var2"), np.zeros(4, "f4"), "running must not have 'var2'"),
    (("running",), {}, "running must have 'mean1'"),
    (("seed",), None, "seed must be a whole number from 0 to"),
    (("seed",), -1, "seed must be a whole number from 0 to .* got -1"),
    (("seed",), 2**63, "seed must be a whole number from 0 to"),
    (("seed",), 1.0, "seed must be a whole number from 0 to"),
    (("steps",), 0.5, "steps must be a whole number"),
]


@both
def test_wrong_states_of_nets_are_refused(package):
    net, state = net_and_state(package)
    absent = [(place, ABSENT, f"must have '{place[-1]}'") for place in places(state)]
    absent = [each for each in absent if "sizes" not in each[0][:-1]]
    for place, wrong, message in [*NET_WRONG, *absent]:
        with refused(ValueError, message, net.params):
            net.load_state_dict(replaced(state, place, wrong))
        assert net.weight_decay_lambda == 0.1


def trained_net(package, rng=0):
    return package.MultiLayerNet(
        3, [4], 2, "silu", loss="huber", use_batchnorm=True, use_dropout=True, rng=rng
    )


def net_batch(seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((9, 3)), rng.standard_normal((9, 2))


@both
def test_wrong_states_of_nets_with_running_averages_are_refused(package):
    net = trained_net(package)
    net.gradient(*net_batch())
    state = net.state_dict()
    absent = [(place, ABSENT, f"must have '{place[-1]}'") for place in places(state)]
    absent = [each for each in absent if "sizes" not in each[0][:-1]]
    for place, wrong, message in [*TRAINED_NET_WRONG, *absent]:
        with refused(ValueError, message, net.params, net.running):
            net.load_state_dict(replaced(state, place, wrong))
        assert (net.steps, net.seed) == (1, state["seed"])


@both
@pytest.mark.parametrize("in_file", [True, False])
def test_nets_go_on_from_their_states_with_the_same_bits(package, in_file, tmp_path):
    net, other = trained_net(package), trained_net(package, rng=1)
    for seed in range(3):
        net.gradient(*net_batch(seed))
    assert_is_plain(net.state_dict())
    arrays = {**other.params, **other.running}
    if in_file:
        fastopt.save(tmp_path / "net", net=net)
        assert fastopt.load(tmp_path / "net", net=other) == {}
        assert_same_tree(fastopt.load(tmp_path / "net"), {"net": net.state_dict()})
    else:
        other.load_state_dict(net.state_dict())
    assert all(arrays[key] is array for key, array in {**other.params, **other.running}.items())
    for seed in range(3, 5):
        want = net.loss_and_gradient(*net_batch(seed))
        got = other.loss_and_gradient(*net_batch(seed))
        assert got[0] == want[0]
        assert_same_tree(got[1], want[1])
    assert_same_tree(other.state_dict(), net.state_dict())


@both
def test_states_of_nets_from_before_there_was_more_than_softmax(package):
    net = package.MultiLayerNet(3, [4], 2, rng=0)
    net.gradient(np.ones((2, 3)), [0, 1])
    old, want = net.state_dict(), net.state_dict()
    for name in ("running", "steps", "seed"):
        del old[name]
    for name in ("loss", "use_batchnorm", "dropout_ratio"):
        del old["architecture"][name]
    other = package.MultiLayerNet(3, [4], 2, rng=1)
    other.load_state_dict(old)
    assert_same_tree(other.state_dict(), {**want, "steps": 0})
    for settings in ({"loss": "huber"}, {"use_batchnorm": True}, {"use_dropout": True}):
        with pytest.raises(ValueError, match="the state of MultiLayerNet is of"):
            package.MultiLayerNet(3, [4], 2, **settings).load_state_dict(old)


@both
def test_states_of_nets(package):
    """They are plain, copies, the twin's, and written into the arrays that are there."""
    net, state = net_and_state(package)
    assert_is_plain(state)
    other_package = reference if package is fastopt else fastopt
    other = other_package.MultiLayerNet(3, [4], 2, rng=1)
    other.params["W1"] = np.asfortranarray(other.params["W1"])
    arrays = dict(other.params)
    kept = copy.deepcopy(state)
    state["params"]["W2"] = state["params"]["W2"].astype(">f4")
    state["params"]["b1"].flags.writeable = False
    other.load_state_dict(state)
    assert all(other.params[key] is array for key, array in arrays.items())
    assert_same_tree(other.state_dict(), kept)
    for array in state["params"].values():
        array.flags.writeable = True
        array[...] = 9
    state["architecture"]["sizes"].append(3)
    for each in (net, other):
        assert_same_tree(each.state_dict(), kept)
    again = net.state_dict()
    net.params["W1"][...] = 0
    assert_same_tree(again, kept)


@pytest.mark.parametrize("name", ["params", "optimizer", "net", "rng"])
@both
def test_all_or_nothing(package, name, tmp_path):
    """Whichever part of a file doesn't fit, the others are as they were."""
    optimizer, params = trained(package)
    net, rng = package.TwoLayerNet(3, 4, 2, rng=0), np.random.default_rng(0)
    fits = {"params": params, "optimizer": optimizer, "net": net, "rng": rng}
    fastopt.save(tmp_path / "file", **fits)
    ours = {
        "params": {key: 0 * p for key, p in params.items()},
        "optimizer": package.Adam(lr=0.5),
        "net": package.TwoLayerNet(3, 4, 2, rng=1),
        "rng": np.random.default_rng(1),
    }
    wrong, message = {
        "params": ({**ours["params"], "W1": np.zeros(6)}, r"params\['W1'\] has shape \(6,\)"),
        "optimizer": (package.AdamW(), "the state is one of 'Adam', not of AdamW"),
        "net": (package.TwoLayerNet(3, 5, 2), "is of sizes"),
        "rng": (np.random.Generator(np.random.MT19937(0)), "rng has a MT19937"),
    }[name]
    given = {**ours, name: wrong}
    before = copy.deepcopy(all_of(given))
    with pytest.raises(ValueError, match=message):
        fastopt.load(tmp_path / "file", **given)
    assert_same_tree(all_of(given), before)
    assert fastopt.load(tmp_path / "file", **ours) == {}
    assert_same_tree(all_of(ours), all_of(fits))


def all_of(given):
    """Return what `fastopt.save` would be given to save."""
    state, net = given["optimizer"].state_dict(), given["net"].state_dict()
    return [dict(given["params"]), in_order(state), net, given["rng"].bit_generator.state]


# --- when it is not the time ---


@both
def test_not_within_averaged(package):
    optimizer, params = trained(package)
    state = optimizer.state_dict()
    with optimizer.averaged(params):
        for call in (optimizer.state_dict, lambda: optimizer.load_state_dict(state)):
            with pytest.raises(RuntimeError, match="averages"):
                call()
    assert_same_tree(optimizer.state_dict(), state)


class Loading(collections.UserDict):
    """Parameters that load a state while a step looks at them."""

    def __getitem__(self, key):
        if self.load:
            load, self.load = self.load, None
            with pytest.raises(RuntimeError) as caught:
                load(self)
            self.error = caught.value
        return super().__getitem__(key)

    load = error = None


def test_not_within_a_step(tmp_path):
    """The step is made as if nobody had tried."""
    optimizer, params = trained(fastopt)
    state = optimizer.state_dict()
    others = fastopt.Adam()
    others.load_state_dict(state)
    zeros = {key: 0 * p for key, p in params.items()}
    fastopt.save(tmp_path / "file", params=zeros, optimizer=optimizer, rng=np.random.default_rng())
    rng = np.random.default_rng(1)
    grads = {key: rng.standard_normal(np.shape(p)) for key, p in params.items()}
    ours, theirs = copy.deepcopy(params), copy.deepcopy(params)
    others.update(theirs, grads)
    rng_state = rng.bit_generator.state
    for load in (
        lambda _: optimizer.load_state_dict(state),
        lambda _: optimizer.state_dict(),
        lambda params: fastopt.load(tmp_path / "file", params=params, optimizer=optimizer, rng=rng),
    ):
        optimizer.load_state_dict(state)
        mapping = Loading(copy.deepcopy(ours))
        mapping.load = load
        optimizer.update(mapping, grads)
        assert "update" in str(mapping.error) or "step" in str(mapping.error)
        same_arrays(dict(mapping), theirs, "parameter")
        assert_same_tree(optimizer.state_dict(), others.state_dict())
        assert rng.bit_generator.state == rng_state


def test_a_step_while_the_state_is_copied(monkeypatch):
    """Another thread's, as it may come between two arrays: the copy is of no one moment."""
    optimizer, params = trained(fastopt)

    def states(optimizer):
        optimizer.update(params, params)
        return []

    monkeypatch.setattr("fastopt.optimizers._state._states", states)
    with pytest.raises(RuntimeError, match="another thread has made an update while the state"):
        optimizer.state_dict()


def test_beside_steps_of_another_thread():
    """It loads between two steps, or says that one is under way."""
    params = {i: np.ones(50_000) for i in range(4)}
    grads = {i: np.full(50_000, 1e-3) for i in range(4)}
    optimizer = fastopt.Adam()
    optimizer.update(params, grads)
    state, errors, done = optimizer.state_dict(), [], threading.Event()

    def step():
        try:
            while not done.is_set():
                optimizer.update(params, grads)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=step)
    thread.start()
    try:
        for _ in range(10):
            with suppress(RuntimeError):  # a step is under way, or was
                optimizer.load_state_dict(state)
            with suppress(RuntimeError):
                copied = optimizer.state_dict()
                assert all(len({*m.tolist()}) == 1 for m in copied["arrays"]["m"].values())
    finally:
        done.set()
        thread.join()
    assert not errors
    assert all(len({*optimizer.m[key].tolist()}) == 1 for key in params)
    optimizer.load_state_dict(state)
    assert_same_tree(optimizer.state_dict(), state)
