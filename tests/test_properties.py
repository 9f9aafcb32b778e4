"""Random trees of arrays through random histories: the compiled optimizers against their twins.

Each history happens to two worlds alike, one with a compiled optimizer and one with its twin. After
every step the worlds are equal to the bit; after every error they are what they were before it.
What is drawn is described here, options and schedules too, and so are the ways to spoil a step;
named cases are in test_input_contract.py. How many examples: conftest.py.
"""

import collections
import copy
import itertools
import operator
import pickle
import types
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers.arrays import PLAIN, WRITABLE, assert_same_bits, lay_out, over_many_magnitudes, root
from helpers.errors import assert_unchanged, counters, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from optimizer_table import every_optimizer

import fastopt

KEYS = ["W", "b", ("a", "tuple"), 7, "γ", ""]
SHAPES = [
    (), (0,), (1,), (2,), (5,), (8,), (17,), (300,), (2, 3), (3, 0), (1, 1), (4, 1), (7, 9),
    (2, 3, 4), (1, 5, 1), (2, 1, 2, 3), (2, 2, 1, 2, 2),
]  # fmt: skip
NUMBERS = {"float": float, "float32": np.float32, "float64": np.float64}
VALUES = ["ordinary", "tiny", "huge", "special", "zero"]
GRAD_DTYPES = ["float32", "float64"] * 4 + ["float16", "longdouble", "int8", "uint64", "bool"]
# of options and hyper-parameters; low is never above high
OPTIONS: dict[str, list[Any]] = {
    "weight_decay": [0.0, 0.01, 0.5, 1e-60],
    "decoupled": [False, True],
    "low": [-np.inf, -1e3, -0.5, -0.0, 0.0],
    "high": [np.inf, 1e3, 0.5, 0.0],
    "clip_value": [None, 1e-60, 0.1, 10.0, np.inf],
    "clip_norm": [None, 1e-3, 1.0, 1e30],
    "clip_global_norm": [None, 1e-3, 1.0, 1e30],
    "maximize": [False, True],
    "nonfinite": ["propagate", "skip", "raise"],
    "accumulate": [1, 2, 3],
    "ema": [None, 0.0, 0.5, 0.99],
}
HYPERS = [0.0, 1e-45, 0.3, 0.5, 0.9, 0.999]
WORDS = ["W", "b", "γ", "", "*", "?", "[!b]*"]  # of patterns
MAPPINGS = [dict] * 6 + [collections.OrderedDict, collections.UserDict, types.MappingProxyType]


class Leaf(NamedTuple):
    """What an array is made of; the same leaf gives equal arrays in memory of their own."""

    shape: tuple[int, ...]
    dtype: str
    layout: str
    values: str
    seed: int

    def make(self):
        values = draw_values(self.shape, self.dtype, self.values, self.seed)
        if self.layout in NUMBERS:
            return values[()].item() if self.layout == "float" else values[()]
        return lay_out(values, self.layout)


def draw_values(shape, dtype, values, seed):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind != "f":
        return rng.integers(0, 100, shape).astype(dtype)
    info = np.finfo(dtype)
    x = over_many_magnitudes(rng, shape, dtype)
    if values == "zero":
        return x * 0
    if values == "tiny":
        return np.asarray(x * info.tiny, dtype)
    if values == "huge":
        return np.asarray(np.clip(x, -1, 1) * info.max, dtype)
    if values == "special":
        choices = [0.0, -0.0, 1.0, np.nan, np.inf, -np.inf, info.max, info.tiny]
        choices += [-info.smallest_subnormal]
        return np.asarray(rng.choice(np.array(choices, dtype), shape))
    return x


any_shape = st.sampled_from(SHAPES)


@st.composite
def leaves(draw, plain, shapes=any_shape):
    """Draw a parameter: an array, or sometimes a plain number unless all are to be plain arrays."""
    shape, dtype = draw(shapes), draw(st.sampled_from(["float32", "float64"]))
    layout = draw(st.sampled_from(PLAIN if plain else WRITABLE))
    if shape == () and not plain and draw(st.booleans()):
        layout = draw(st.sampled_from([*NUMBERS]))
        dtype = "float32" if layout == "float32" else "float64"
    values, seed = draw(st.sampled_from(["ordinary"] * 4 + VALUES)), draw(st.integers(0, 2**32))
    return Leaf(shape, dtype, layout, values, seed)


@st.composite
def gradients(draw, plain, p, may_be_none=True):
    """Draw a gradient for a parameter: a leaf, of its dtype and layout if plain, or None."""
    if may_be_none and draw(st.integers(0, 9)) == 9:
        return None
    dtype = np.asarray(p).dtype.newbyteorder("=").name
    layout = "C" if not isinstance(p, np.ndarray) or p.flags.c_contiguous else "F"
    if not plain:
        dtype = draw(st.sampled_from([dtype, *GRAD_DTYPES]))
        layout = draw(st.sampled_from(WRITABLE))
        if np.shape(p) == () and dtype == "float64" and draw(st.booleans()):
            layout = "float"
    values, seed = draw(st.sampled_from(["ordinary"] * 6 + VALUES)), draw(st.integers(0, 2**32))
    return Leaf(np.shape(p), dtype, layout, values, seed)


@dataclass(frozen=True)
class Schedule:
    """A schedule that repeats its values: equal by value, and one that can be pickled."""

    values: tuple[Any, ...]

    def __call__(self, t):
        assert type(t) is int
        return self.values[t % len(self.values)]


@dataclass(frozen=True)
class IsOneOf:
    """A predicate that fits these keys: likewise."""

    keys: tuple[Any, ...]

    def __call__(self, key):
        return key in self.keys


def fits(pattern, key):
    if callable(pattern):
        return pattern(key)
    words = [pattern] if isinstance(pattern, str) else pattern
    return any(isinstance(key, str) and (word == key or fnmatchcase(key, word)) for word in words)


class World:
    """An optimizer and what it has stepped over."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.params: dict[Any, Any] = {}
        self.grads: dict[Any, Any] = {}

    def states(self):
        """Return all dicts of arrays that the optimizer keeps, those of the options too."""
        names = [*self.optimizer._states, "average", "accumulated"]
        return {name: getattr(self.optimizer, name) for name in names}

    def is_frozen(self, key):
        groups = self.optimizer.groups
        first = next((groups[pattern] for pattern in groups if fits(pattern, key)), {})
        return first.get("frozen", False)

    def is_checked(self, name, key):
        """Tell whether the next step looks at a state of a key, which has a gradient."""
        has_one = key in self.states()[name] and not self.is_frozen(key)
        return has_one and (name != "average" or self.optimizer.ema is not None)

    def takes_part(self, key):
        """Tell whether the next call changes something of a key."""
        calls, sums = self.optimizer._calls + 1, self.optimizer.accumulated
        has_gradient = self.grads[key] is not None
        has_sum = calls >= self.optimizer.accumulate and key in sums
        return (has_gradient or has_sum) and not self.is_frozen(key)

    def refusal(self):
        """Return the exception that follows from the options if all else is right, or None."""
        unmatched = self.optimizer.groups._unmatched
        if not all(any(fits(word, key) for key in self.params) for word in unmatched):
            return ValueError
        if self.optimizer.nonfinite != "raise":
            return None
        with np.errstate(all="ignore"):
            are_finite = all(
                np.isfinite(np.asarray(self.grads[key]).astype(np.asarray(p).dtype)).all()
                for key, p in self.params.items()
                if self.grads[key] is not None and not self.is_frozen(key)
            )
        return None if are_finite else FloatingPointError

    def gradient_bytes(self):
        """Return the bytes of all gradients that are not parameters, too."""
        written = {id(p) for p in self.params.values()}
        return {
            key: g.tobytes()
            for key, g in self.grads.items()
            if isinstance(g, np.ndarray) and id(g) not in written
        }

    def update(self, as_params=dict, as_grads=dict):
        """Take a step; return the exception if there was one, after which nothing has changed.

        Nor has it after a step that was skipped.
        """
        params = self.params if as_params is dict else as_params(self.params)
        grads = self.grads if as_grads is dict else as_grads(self.grads)
        before, grads_before = snapshot(self.optimizer, params, grads), self.gradient_bytes()
        error, skipped = None, self.optimizer.skipped
        try:
            self.optimizer.update(params, grads)
        except (KeyError, TypeError, ValueError, FloatingPointError, RuntimeError) as caught:
            error = caught
        skipped = self.optimizer.skipped - skipped
        if error is not None or skipped:
            assert_unchanged(before, self.optimizer, params, grads, skipped)
        if as_params in (collections.OrderedDict, collections.UserDict):
            self.params.update(params)  # plain numbers were replaced in the copy
        assert self.gradient_bytes() == grads_before, "a gradient was written"
        return error


def assert_same_worlds(ours, theirs):
    assert [*ours.params] == [*theirs.params]
    for key, p in theirs.params.items():
        assert_same_bits(ours.params[key], p, f"parameter {key!r}")
        if isinstance(p, np.ndarray) and root(p).dtype == p.dtype:
            assert_same_bits(root(ours.params[key]), root(p), f"what is around {key!r}")
    our_states, their_states = ours.states(), theirs.states()
    for name, states in their_states.items():
        assert our_states[name].keys() == states.keys()
        for key, state in states.items():
            assert_same_bits(our_states[name][key], state, f"{name}[{key!r}]")
    assert counters(ours.optimizer) == counters(theirs.optimizer)
    assert repr(ours.optimizer) == repr(theirs.optimizer)


class History:
    """Two worlds to which the same things happen."""

    def __init__(self, row, data):
        self.row, self.data = row, data
        self.plain = self.draw(st.booleans())
        self.worlds = World(row.compiled()), World(row.twin())
        self.ours, self.theirs = self.worlds

    def draw(self, strategy):
        return self.data.draw(strategy)

    def choose(self, choices):
        return self.draw(st.sampled_from(choices))

    def begin(self):
        """Begin anew, with other settings from the start."""
        settings = self.draw_settings(at_least=3)
        for world in self.worlds:
            world.optimizer = type(world.optimizer)(**settings)
        assert_same_worlds(*self.worlds)

    def draw_settings(self, at_least=1):
        """Draw some settings that don't contradict one another, nor those that stay."""
        optimizer = self.ours.optimizer
        names = [*OPTIONS, "groups", *self.row.hypers]
        some = st.lists(st.sampled_from(names), min_size=at_least, max_size=5, unique=True)
        names = self.draw(some)
        drawn = {name: self.draw_value(name) for name in names if name != "groups"}
        is_global = drawn.get("clip_global_norm", optimizer.clip_global_norm) is not None
        if is_global:
            drawn["clip_norm"] = None
        groups_clip = any("clip_norm" in settings for settings in optimizer.groups.values())
        if "groups" in names or (is_global and groups_clip):
            drawn["groups"] = self.draw_groups(is_global)
        return drawn

    def draw_groups(self, is_global):
        settings = self.row.compiled._settings
        names = [name for name in settings if settings[name].in_groups]
        names = [name for name in names if not (is_global and name == "clip_norm")]
        some = st.lists(st.sampled_from([*names, "lr_scale", "frozen"]), max_size=3, unique=True)
        groups = {}
        for _ in range(self.draw(st.integers(0, 3))):
            drawn = {name: self.draw_value(name) for name in self.draw(some)}
            if "lr_scale" in drawn:
                drawn.pop("lr", None)
            if self.draw(st.integers(0, 3)) == 3:
                drawn["frozen"] = True
            groups[self.draw_pattern()] = drawn
        return groups

    def draw_pattern(self):
        """Draw a pattern whose strings match a key; a callable may be for none."""
        words = [word for word in WORDS if any(fits(word, key) for key in self.ours.params)]
        kind = self.choose(["word", "words", "callable"])
        if kind == "callable" or not words:
            return IsOneOf(tuple(self.draw(st.lists(st.sampled_from(KEYS), max_size=2))))
        if kind == "words":
            return tuple(self.draw(st.lists(st.sampled_from(words), max_size=2)))
        return self.choose(words)

    def draw_value(self, name):
        """Draw what a setting is set to, sometimes a schedule."""
        if name == "frozen":
            return self.draw(st.booleans())
        values = OPTIONS.get(name, HYPERS)
        may_vary = name == "lr_scale" or self.row.compiled._settings[name].may_vary
        if may_vary and self.draw(st.integers(0, 3)) == 3:
            numbers = [value for value in values if value is not None]
            some = st.lists(st.sampled_from(numbers), min_size=1, max_size=3)
            return Schedule(tuple(self.draw(some)))
        return self.choose(values)

    def set(self, settings):
        for world in self.worlds:
            for name, value in settings.items():
                setattr(world.optimizer, name, value)

    def draw_key(self, wanted=lambda p: True):
        """Draw a key whose parameter is of the wanted kind; None if there is none."""
        keys = [key for key, p in self.ours.params.items() if wanted(p)]
        return self.choose(keys) if keys else None

    def bind(self, name, key, leaf):
        """Put equal arrays into both worlds' `params` or `grads`."""
        for world in self.worlds:
            getattr(world, name)[key] = None if leaf is None else leaf.make()

    def step(self, error=None, as_params=dict, as_grads=dict):
        """Take the step in both worlds; it must go well or fail with that exception in both.

        Or with the one that follows from the options. Return whether it has gone well.
        """
        error = error or self.theirs.refusal() or type(None)
        errors = [world.update(as_params, as_grads) for world in self.worlds]
        assert [type(caught) for caught in errors] == [error] * 2, errors
        assert_same_worlds(*self.worlds)
        return error is type(None)

    def step_or_overlap(self, must_refuse):
        """Take a step over memory that overlaps: the twin's result, or an error that says so."""
        error = self.ours.update()
        if type(error) is ValueError:
            assert "overlap in memory" in str(error)
            return
        assert not must_refuse
        expected = self.theirs.refusal() or type(None)
        assert type(error) is type(self.theirs.update()) is expected
        assert_same_worlds(*self.worlds)

    def draw_gradients(self, may_be_none=True):
        for world in self.worlds:
            world.grads = {}
        for key, p in self.ours.params.items():
            self.bind("grads", key, self.draw(gradients(self.plain, p, may_be_none)))

    def forget(self, key):
        """Delete the state of a key in both worlds, so that it starts where states start."""
        for world in self.worlds:
            for states in world.states().values():
                states.pop(key, None)


# --- what may happen between steps; each leaves worlds that can be stepped ---


def add(history):
    keys = [key for key in KEYS if key not in history.ours.params]
    if keys:
        key, leaf = history.choose(keys), history.draw(leaves(history.plain))
        history.forget(key)
        history.bind("params", key, leaf)


def remove(history):
    key = history.draw_key()
    for world in history.worlds:
        world.params.pop(key, None)


def rebind(history):
    key = history.draw_key()
    if key is None:
        return
    p = history.ours.params[key]
    leaf = history.draw(leaves(history.plain, st.just(np.shape(p))))
    dtype = np.asarray(p).dtype.newbyteorder("=").name
    if leaf.layout in NUMBERS and leaf.dtype != dtype:
        leaf = leaf._replace(layout="C")
    history.bind("params", key, leaf._replace(dtype=dtype))


def resize(history):
    """Replace a parameter by one of another shape or dtype, which no longer fits its state."""
    key = history.draw_key()
    if key is None:
        return
    old, leaf = np.asarray(history.ours.params[key]), history.draw(leaves(history.plain))
    fits = leaf.shape == old.shape and leaf.dtype == old.dtype.newbyteorder("=").name
    is_checked = any(history.theirs.is_checked(name, key) for name in history.theirs.states())
    history.bind("params", key, leaf)
    history.draw_gradients(may_be_none=False)
    history.step(ValueError if is_checked and not fits else None)
    if not fits:
        history.forget(key)


def forget_one(history):
    key = history.draw_key()
    if key is not None:
        history.forget(key)


def set_something(history):
    history.set(history.draw_settings())


def set_iter(history):
    history.set({"iter": history.choose([0, 1, 300, 999])})


def reset(history):
    for world in history.worlds:
        world.optimizer.reset()
    assert_same_worlds(*history.worlds)


def look_at_numbers(history):
    key = history.draw_key()
    ours, theirs = (world.optimizer.current(key) for world in history.worlds)
    assert ours == theirs
    assert (ours == {"frozen": True}) == history.theirs.is_frozen(key)


def look_at_averages(history):
    """Swap the averages in, try what must not be done meanwhile, and swap them out again."""
    if history.ours.optimizer.ema is None and history.draw(st.booleans()):
        history.set({"ema": 0.5})
        step(history)
    if history.ours.optimizer.ema is None:
        for world in history.worlds:
            with pytest.raises(AttributeError, match="ema="):
                world.optimizer.averaged(world.params)
        return
    history.draw_gradients()
    before = [snapshot(world.optimizer, world.params) for world in history.worlds]
    with suppress(InterruptedError), ExitStack() as stack:
        for world in history.worlds:
            stack.enter_context(world.optimizer.averaged(world.params))
        for world in history.worlds:
            for key, average in world.optimizer.average.items():
                if key in world.params:
                    assert_array_equal(world.params[key], average, err_msg=repr(key))
            assert type(world.update()) is RuntimeError
            for forbidden in (
                world.optimizer.reset,
                world.optimizer.averaged(world.params).__enter__,
            ):
                with pytest.raises(RuntimeError, match="averages"):
                    forbidden()
        assert_same_worlds(*history.worlds)
        if history.draw(st.booleans()):
            raise InterruptedError
    for world, old in zip(history.worlds, before, strict=True):
        assert_unchanged(old, world.optimizer, world.params)
    assert_same_worlds(*history.worlds)


def replace_optimizer(history):
    how = history.choose([copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
    for world in history.worlds:
        world.optimizer = how(world.optimizer)


def load_state(history):
    """Put the state of one into a new optimizer of the other, which is given callables alone.

    What a state doesn't hold is made equal: the last norm, and which patterns have matched a key.
    """
    source, target = history.choose([history.worlds, history.worlds[::-1]])
    state, old = source.optimizer.state_dict(), target.optimizer
    given = {name: getattr(old, name) for name, each in state["settings"].items() if each is None}
    groups = state["settings"]["groups"]
    if any(None in (pattern, *settings.values()) for pattern, settings in groups):
        given["groups"] = old.groups
    target.optimizer = type(old)(**given)
    target.optimizer.load_state_dict(state)
    target.optimizer._put("norm", source.optimizer.norm)
    source.optimizer.groups = source.optimizer.groups
    assert_same_worlds(*history.worlds)


def lay_states_out(history):
    """Put a state into memory of another layout, as one that was loaded may be."""
    key, layout = history.draw_key(), history.choose(WRITABLE)
    for world in history.worlds:
        for states in world.states().values():
            if key in states:
                states[key] = lay_out(np.array(states[key]), layout)


def reorder(history):
    for world in history.worlds:
        world.params = dict(reversed(world.params.items()))


def change_threads(history):
    fastopt.set_num_threads(history.draw(st.integers(1, 3)))


EVENTS = [
    add, remove, rebind, resize, forget_one, set_something, set_something, set_iter, reset,
    look_at_numbers, look_at_averages, replace_optimizer, load_state, lay_states_out, reorder,
    change_threads,
]  # fmt: skip


# --- ways to step ---


def step(history):
    history.draw_gradients()
    history.step()


def step_again(history):
    """Step over known memory."""
    history.draw_gradients()
    for _ in range(history.draw(st.integers(1, 3))):
        history.step()


def step_over_mappings(history):
    history.draw_gradients()
    as_params, as_grads = (history.choose(MAPPINGS) for _ in range(2))
    numbers = any(
        not isinstance(p, np.ndarray) and history.theirs.takes_part(key)
        for key, p in history.ours.params.items()
    )
    refuses = as_params is types.MappingProxyType and numbers
    history.step(TypeError if refuses else None, as_params, as_grads)


def step_over_shared_gradients(history):
    """Gradients may share memory, and a parameter may be its own."""
    history.draw_gradients()
    key = history.draw_key(lambda p: isinstance(p, np.ndarray))
    for world in history.worlds:
        if key is not None:
            world.grads[key] = world.params[key]
        others = [k for k, g in world.grads.items() if isinstance(g, np.ndarray) and k != key]
        for first, second in itertools.pairwise(others):
            if np.shape(world.params[second]) == world.grads[first].shape:
                world.grads[second] = world.grads[first]
    history.step()


def step_over_a_bad_gradient(history):
    """Step over a gradient that is not finite in one place, or not in the parameter's dtype."""
    history.draw_gradients()
    history.set({"nonfinite": history.choose(OPTIONS["nonfinite"])})
    key = history.draw_key(np.size)
    if key is not None:
        value, place = history.choose([np.nan, -np.inf, 1e300]), history.draw(st.integers(0, 2**32))
        for world in history.worlds:
            g = np.ones(np.shape(world.params[key]))
            g.flat[place % g.size] = value
            world.grads[key] = g
    history.step()


# --- ways to spoil a step: each returns the exception that must follow, or None to let it be ---


def spoil_gradient(history, change, error, wanted=lambda p: True):
    key = history.draw_key(wanted)
    if key is None or (history.theirs.is_frozen(key) and error is not KeyError):
        return None
    for world in history.worlds:
        change(world.grads, key, np.asarray(world.params[key]))
    return error


def no_gradient(history):
    return spoil_gradient(history, lambda grads, key, p: grads.pop(key), KeyError)


def gradient_of_another_shape(history):
    extra = history.draw(st.integers(1, 2))

    def change(grads, key, p):
        grads[key] = np.ones((extra, *p.shape)) if extra == 1 else np.ones((*p.shape, 2))

    return spoil_gradient(history, change, ValueError)


def gradient_cut_short(history):
    def change(grads, key, p):
        grads[key] = np.ones((len(p) - 1, *p.shape[1:]), p.dtype.newbyteorder("="))

    return spoil_gradient(history, change, ValueError, lambda p: np.ndim(p) and len(p))


def gradient_that_would_broadcast(history):
    def change(grads, key, p):
        grads[key] = np.ones((1,) * p.ndim)

    return spoil_gradient(history, change, ValueError, lambda p: np.size(p) != 1)


def gradient_of_another_kind(history):
    dtype = history.choose(["complex64", "object", "U3", "M8[s]", "f8,f8", "V4"])
    return spoil_gradient(
        history, lambda grads, key, p: grads.update({key: np.zeros(p.shape, dtype)}), TypeError
    )


def gradient_that_is_no_array(history):
    value = history.choose([[1.0], "g", 1j, {}, (0.0,)])
    return spoil_gradient(history, lambda grads, key, p: grads.update({key: value}), TypeError)


def parameter_of_another_kind(history):
    dtype = history.choose(["i8", "?", "c16", "O", "U3", "f2", "f8,f8", "g", "M8[s]"])
    as_number = history.choose([None, 1, True, 1j, "p", [1.0], np.int8(1)])
    key = history.draw_key()
    if key is None or history.theirs.is_frozen(key):
        return None
    for world in history.worlds:
        shape = np.shape(world.params[key])
        # object arrays of one object, which compares by what it is
        world.params[key] = np.zeros(shape, dtype) if as_number is None else as_number
    return TypeError


def read_only_parameter(history):
    key = history.draw_key(lambda p: isinstance(p, np.ndarray))
    if key is None or history.theirs.is_frozen(key):
        return None
    for world in history.worlds:
        world.params[key] = world.params[key].view()
        world.params[key].flags.writeable = False
    return ValueError


def spoil_state(history, change, error):
    world = history.theirs
    keys = itertools.product(world.states(), world.params)
    states = [(name, key) for name, key in keys if world.is_checked(name, key)]
    if not states:
        return None
    name, key = history.choose(states)
    for world in history.worlds:
        world.states()[name][key] = change(world.states()[name][key])
    return error


def state_of_another_shape(history):
    return spoil_state(history, lambda state: np.zeros((2, *state.shape), state.dtype), ValueError)


def state_of_another_dtype(history):
    def change(state):
        return np.zeros(state.shape, "f4" if state.dtype.itemsize == 8 else "f8")

    return spoil_state(history, change, ValueError)


def read_only_state(history):
    def change(state):
        state = state.copy()
        state.flags.writeable = False
        return state

    return spoil_state(history, change, ValueError)


def state_that_is_no_array(history):
    return spoil_state(history, operator.methodcaller("tolist"), TypeError)


def settings_that_exclude_each_other(history):
    pairs = [{"clip_norm": 1.0, "clip_global_norm": 2.0}, {"low": 1.0, "high": -1.0}]
    history.set(history.choose(pairs))
    return ValueError


def schedule_out_of_range(history):
    value, error = history.choose([(-1.0, ValueError), (np.nan, ValueError), ("x", TypeError)])
    history.set({history.choose(["lr", "weight_decay"]): Schedule((value,))})
    return error


def pattern_without_a_key(history):
    pattern = history.choose(["c", ("c*", "*"), "part"])
    history.set({"groups": {pattern: {"weight_decay": 0.5}}})
    return ValueError


SPOILS = [
    no_gradient, gradient_of_another_shape, gradient_cut_short, gradient_that_would_broadcast,
    gradient_of_another_kind, gradient_that_is_no_array, parameter_of_another_kind,
    read_only_parameter, state_of_another_shape, state_of_another_dtype, read_only_state,
    state_that_is_no_array, settings_that_exclude_each_other, schedule_out_of_range,
    pattern_without_a_key,
]  # fmt: skip


def take_and_give_back(history, spoil_and_step):
    """Let a spoiled step happen, then put back what the dicts and settings were."""
    history.draw_gradients(may_be_none=False)
    history.step()  # what is spoiled is known
    optimizer = history.ours.optimizer
    was_set = {name: getattr(optimizer, name) for name in optimizer._settings}
    kept = [
        (dict(world.params), {name: dict(s) for name, s in world.states().items()})
        for world in history.worlds
    ]
    spoil_and_step()
    changed = {name for name in was_set if getattr(optimizer, name) is not was_set[name]}
    history.set({name: was_set[name] for name in changed})
    for world, (params, states) in zip(history.worlds, kept, strict=True):
        world.params.clear()
        world.params.update(params)
        for name, own in world.states().items():
            own.clear()
            own.update(states[name])
    assert_same_worlds(*history.worlds)


def spoiled_step(history):
    def spoil_and_step():
        error = history.choose(SPOILS)(history)
        if error is not None:
            history.step(error)
            history.step(error)  # and again: it must not be taken for known

    take_and_give_back(history, spoil_and_step)


# --- overlaps: each changes both worlds alike, and tells whether they can't be let pass ---


def can_overlap(p):
    return isinstance(p, np.ndarray) and p.ndim > 0 and p.shape[0] > 1 and p.size > 0


def parameter_in_another(history):
    key = history.draw_key(can_overlap)
    if key is None:
        return False
    for world in history.worlds:
        part = world.params[key][1:]
        world.params["part"], world.grads["part"] = part, np.ones(part.shape)
    return not (history.theirs.is_frozen(key) or history.theirs.is_frozen("part"))


def gradient_backwards(history):
    key = history.draw_key(can_overlap)
    if key is None:
        return False
    for world in history.worlds:
        world.grads[key] = world.params[key][::-1]
    return not history.theirs.is_frozen(key)


def gradient_in_another_parameter(history):
    key = history.draw_key(can_overlap)
    if key is None:
        return False
    for world in history.worlds:
        p = world.params[key]
        world.params["fresh"], world.grads["fresh"] = np.ones(p.shape, p.dtype), p
    return False  # the reference's result is as good


def gradients_exchanged_with_parameters(history):
    keys = [key for key, p in history.ours.params.items() if can_overlap(p)]
    for first, second in itertools.pairwise(keys):
        for world in history.worlds:
            p, other = world.params[first], world.params[second]
            if (p.shape, p.dtype) == (other.shape, other.dtype):
                world.grads[first], world.grads[second] = other, p
    return False


def gradient_shifted_in_memory(history):
    key = history.draw_key(lambda p: can_overlap(p) and p.flags.c_contiguous and p.dtype.isnative)
    if key is None:
        return False
    for world in history.worlds:
        old = world.params[key]
        memory = np.ones(old.size + 1, old.dtype)
        world.params[key] = memory[1:].reshape(old.shape)
        world.grads[key] = np.ones_like(memory)[1:].reshape(old.shape)
    history.step()  # the next gradient differs from this one in nothing but its memory
    for world in history.worlds:
        p = world.params[key]
        world.grads[key] = root(p)[:-1].reshape(p.shape)
    return not history.theirs.is_frozen(key)


def state_in_a_parameter(history):
    key = history.draw_key(can_overlap)
    if key is None or not history.row.states:
        return False
    for world in history.worlds:
        name = history.row.states[0]
        world.states()[name]["p"] = world.params[key]
        fresh = np.ones_like(world.params[key])
        world.params["p"], world.grads["p"] = fresh, np.ones(fresh.shape)
        for other in history.row.states[1:]:
            world.states()[other]["p"] = np.zeros_like(fresh)
    return not (history.theirs.is_frozen(key) or history.theirs.is_frozen("p"))


OVERLAPS = [
    parameter_in_another, gradient_backwards, gradient_in_another_parameter, state_in_a_parameter,
    gradients_exchanged_with_parameters, gradient_shifted_in_memory,
]  # fmt: skip


def step_over_overlaps(history):
    history.draw_gradients(may_be_none=False)
    if not history.step():
        return
    overlap = history.choose(OVERLAPS)
    must_refuse = overlap(history)
    history.step_or_overlap(must_refuse)
    for key in ("part", "fresh", "p"):
        history.forget(key)
        for world in history.worlds:
            world.params.pop(key, None)


STEPS = [
    step, step_again, step_over_mappings, step_over_shared_gradients, step_over_a_bad_gradient,
]  # fmt: skip
REFUSED_STEPS = [spoiled_step, spoiled_step, step_over_overlaps]


def test_every_option_is_drawn():
    assert [*OPTIONS, "groups"] == [*fastopt.SGD._options]


@every_optimizer
@given(data=st.data())
def test_histories_of_compiled_and_twin_are_the_same(row, data):
    threads = fastopt.get_num_threads()
    history = History(row, data)
    try:
        for _ in range(history.draw(st.integers(1, 5))):
            add(history)
        history.begin()
        for _ in range(history.draw(st.integers(1, 6))):
            history.choose(STEPS)(history)
            happening = history.choose([EVENTS, REFUSED_STEPS])
            history.choose(happening)(history)
        step(history)
    finally:
        fastopt.set_num_threads(threads)


@every_optimizer
@settings(max_examples=max(2, settings().max_examples // 30))
@given(data=st.data())
def test_histories_of_large_arrays_are_the_same_on_any_number_of_threads(row, data):
    threads = fastopt.get_num_threads()
    history = History(row, data)
    per_float = 4 * (3 + 2 * len(row.states))  # bytes that a step moves for each float32
    try:
        n = history.draw(st.integers(1, 3))
        for key in KEYS[:n]:
            columns = history.choose([1, 7, 64])
            rows = 8_400_000 // per_float // n // columns + history.draw(st.integers(1, 999))
            history.bind(
                "params", key, history.draw(leaves(history.plain, st.just((rows, columns))))
            )
        history.begin()
        for _ in range(3):
            change_threads(history)
            history.choose([step_again, rebind, add, reorder])(history)
            history.draw_gradients(may_be_none=False)
            history.step()
    finally:
        fastopt.set_num_threads(threads)
