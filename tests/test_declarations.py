"""What a declaration can say: how states begin, scalars that move, rows of coefficients by key.

Declared here, for rules that are there, is what no optimizer of the package uses: each compiled
class equals its twin bit for bit. What the package's own declare is in test_optimizers.py.
"""

import copy
import pickle
from collections import UserDict

import numpy as np
import pytest
from helpers.arrays import WRITABLE, lay_out, over_many_magnitudes
from helpers.errors import assert_same_contents, contents, step_refused
from helpers.marks import every_dtype
from helpers.twins import assert_same
from numpy.testing import assert_array_equal

import fastopt
from fastopt import reference
from fastopt._checks import fraction, non_negative
from fastopt._step import Setup, Stepper, rules
from fastopt.optimizers._base import Optimizer
from fastopt.optimizers._declared import Declared, State, hyper, scalar, state
from fastopt.reference.optimizers import _Twin

# --- declared pairs ---


class FromNumberSettings(Declared):
    lr: float = hyper(non_negative, default=0.1)
    momentum: float = hyper(fraction, default=0.9)
    v: State = state(begins=-0.75)

    _rule_name = "momentum"
    _is_constant = True

    def _coefficients(self, t):
        return self.lr, self.momentum


class FromNumber(FromNumberSettings, Optimizer):
    pass


class FromNumberTwin(FromNumberSettings, _Twin):
    _rule = reference.Momentum._rule


class FromCopySettings(FromNumberSettings):
    v: State = state(begins="p")


class FromCopy(FromCopySettings, Optimizer):
    pass


class FromCopyTwin(FromCopySettings, _Twin):
    _rule = reference.Momentum._rule


class FromHyperSettings(Declared):
    lr: float = hyper(non_negative, default=0.1)
    initial: float = hyper(non_negative, default=0.3)
    h: State = state(begins="initial")

    _rule_name = "adagrad"
    _is_constant = True

    def _coefficients(self, t):
        return self.lr, 1e-7


class FromHyper(FromHyperSettings, Optimizer):
    pass


class FromHyperTwin(FromHyperSettings, _Twin):
    _rule = reference.AdaGrad._rule


class MovingSettings(Declared):
    """Two states that begin unlike each other, and two scalars, one of which follows the other."""

    lr: float = hyper(non_negative, default=0.1)
    decay: float = hyper(fraction, default=0.7)
    start: float = hyper(non_negative, default=0.2)
    m: State = state(begins="p")
    v: State = state(begins="start")
    product: float = scalar(1.0)
    total: float = scalar(0.0)

    _rule_name = "adam"

    def _coefficients(self, t):
        return self.lr * self.product / (t + self.total), 1.0 - self.decay, 0.1, 1e-7

    def _next_scalars(self, t):
        product = self.product * self.decay**t
        return {"product": product, "total": self.total + product}


class Moving(MovingSettings, Optimizer):
    pass


class MovingTwin(MovingSettings, _Twin):
    _rule = reference.Adam._rule


PAIRS = [
    (FromNumber, FromNumberTwin),
    (FromCopy, FromCopyTwin),
    (FromHyper, FromHyperTwin),
    (Moving, MovingTwin),
]
every_pair = pytest.mark.parametrize(("cls", "twin_cls"), PAIRS, ids=[c.__name__ for c, _ in PAIRS])


def draw_params(dtype, size=40):
    """Return parameters in every layout, and plain numbers, one of them not of this dtype."""
    rng = np.random.default_rng(0)
    params = {
        layout: lay_out(over_many_magnitudes(rng, (3, size // 4), dtype), layout)
        for layout in WRITABLE
    }
    zeros = {"empty": np.empty((0, 2), dtype), "0-d": np.array(-2.5, dtype)}
    return {**params, **zeros, "float": 1.25, "scalar": np.float32(-0.3)}


def draw_grads(rng, params, dtype):
    return {key: over_many_magnitudes(rng, np.shape(p), dtype) for key, p in params.items()}


@every_pair
@every_dtype
@pytest.mark.parametrize("threads", [1, 3])
def test_equals_its_twin_over_several_steps(cls, twin_cls, dtype, threads):
    before = fastopt.get_num_threads()
    fastopt.set_num_threads(threads)
    size = 40 if threads == 1 else 300_000  # enough to be shared out
    ours, theirs = draw_params(dtype, size), draw_params(dtype, size)
    optimizer, twin, rng = cls(), twin_cls(), np.random.default_rng(1)
    try:
        for step in range(6 if threads == 1 else 3):
            if step == 2:
                new = over_many_magnitudes(rng, (5, 3), dtype)
                ours["new"], theirs["new"] = new, new.copy()
            grads = draw_grads(rng, ours, dtype)
            if step == 1:
                grads["C"] = None
            optimizer.update(ours, grads)
            twin.update(theirs, grads)
            assert optimizer.iter == twin.iter == step + 1
            assert_same(optimizer, twin, ours, theirs)
    finally:
        fastopt.set_num_threads(before)


@every_pair
@every_dtype
def test_hyperparameters_may_change_between_steps(cls, twin_cls, dtype):
    """Also the one that a state begins as: for keys that come after the change."""
    ours, theirs = ({"p": np.linspace(-1, 1, 17, dtype=dtype)} for _ in range(2))
    optimizer, twin, rng = cls(), twin_cls(), np.random.default_rng(2)
    for step in range(6):
        for name, value in {"lr": 0.01 * step, "initial": 1.5 * step, "start": 0.4 * step}.items():
            for each in (optimizer, twin):
                if name in each._hypers:
                    setattr(each, name, value)
        ours[step], theirs[step] = np.ones(4, dtype), np.ones(4, dtype)
        grads = draw_grads(rng, ours, dtype)
        optimizer.update(ours, grads)
        twin.update(theirs, grads)
        assert_same(optimizer, twin, ours, theirs)


def classes_of(pair):
    return pytest.mark.parametrize("cls", pair, ids=["compiled", "twin"])


@classes_of(PAIRS[0])
@every_dtype
def test_state_that_begins_as_a_number(cls, dtype):
    optimizer, params = cls(momentum=0.5), {"p": np.ones(3, dtype), "x": 1.0}
    optimizer.update(params, {"p": np.zeros(3), "x": 0.0})
    assert_array_equal(optimizer.v["p"], np.full(3, -0.375, dtype), strict=True)
    assert_array_equal(params["p"], np.full(3, 0.625, dtype), strict=True)
    assert (optimizer.v["x"], params["x"]) == (-0.375, 0.625)


@classes_of(PAIRS[1])
@every_dtype
@pytest.mark.parametrize("layout", WRITABLE)
def test_state_that_begins_as_a_copy_of_its_parameter(cls, dtype, layout):
    start = np.arange(12.0, dtype=dtype).reshape(3, 4)
    optimizer, params = cls(momentum=0.5), {"p": lay_out(start, layout), "x": 3.0}
    optimizer.update(params, {"p": np.zeros((3, 4)), "x": 0.0})
    assert_array_equal(optimizer.v["p"], start / 2, strict=True)  # of the native dtype
    assert_array_equal(params["p"], start * 1.5)
    assert not np.shares_memory(optimizer.v["p"], params["p"])
    assert (optimizer.v["x"], params["x"]) == (1.5, 4.5)


@classes_of(PAIRS[2])
def test_state_that_begins_as_a_hyperparameter(cls):
    optimizer, params = cls(initial=4.0), {"p": np.ones(3)}
    optimizer.update(params, {"p": np.full(3, 0.5)})
    optimizer.initial = 9.0
    assert_array_equal(optimizer.h["p"], [4.25] * 3)  # as it was when the key came
    params["q"] = np.ones(2)
    optimizer.update(params, {"p": np.full(3, 0.5), "q": np.full(2, 0.5)})
    assert_array_equal(optimizer.h["p"], [4.5] * 3)
    assert_array_equal(optimizer.h["q"], [9.25] * 2)
    assert repr(optimizer) == f"{cls.__name__}(initial=9.0)"


@classes_of(PAIRS[3])
def test_scalars_move_on_with_each_step_and_are_attributes(cls):
    optimizer, params = cls(decay=0.5), {"p": np.ones(3)}
    assert (optimizer.product, optimizer.total) == (1.0, 0.0)
    seen = []
    for _ in range(3):
        optimizer.update(params, {"p": np.ones(3)})
        seen.append((optimizer.product, optimizer.total))
    products = [0.5, 0.5 * 0.25, 0.5 * 0.25 * 0.125]
    assert seen == [(p, sum(products[: i + 1])) for i, p in enumerate(products)]
    optimizer.product = 1.0  # as after loading it from a file
    optimizer.update(params, {"p": np.ones(3)})
    assert (optimizer.product, optimizer.total) == (0.5**4, sum(products) + 0.5**4)
    with pytest.raises(
        AttributeError,
        match=r"it has lr, decay, start, weight_decay, .*, groups, m, v, product, total, .*, iter",
    ):
        _ = optimizer.learning_rate


@every_pair
@every_dtype
def test_failed_step_moves_nothing(cls, twin_cls, dtype):
    for each in (cls, twin_cls):
        optimizer, params = each(), draw_params(dtype)
        never_failed, expected = twin_cls(), draw_params(dtype)
        rng = np.random.default_rng(3)
        for step in range(4):
            grads = draw_grads(rng, params, dtype)
            params[step], expected[step] = np.ones(3, dtype), np.ones(3, dtype)
            for bad in (np.ones(4), "g", 1j * np.ones(3)):
                spoiled = {**grads, step: bad}
                with step_refused((TypeError, ValueError), f"{step}", optimizer, params, spoiled):
                    optimizer.update(params, spoiled)
            with step_refused(KeyError, f"{step}", optimizer, params, grads):
                optimizer.update(params, grads)
            grads[step] = np.full(3, 0.5)
            optimizer.update(params, grads)
            never_failed.update(expected, grads)
            assert_same(optimizer, never_failed, params, expected)


@every_pair
@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies_keep_states_scalars_and_counters(cls, twin_cls, duplicate):
    twin, theirs, rng = twin_cls(), draw_params("float32"), np.random.default_rng(4)
    optimizer, ours = cls(lr=0.05), draw_params("float32")
    twin.lr = 0.05
    for _ in range(3):
        for _ in range(2):
            grads = draw_grads(rng, ours, "float32")
            optimizer.update(ours, grads)
            twin.update(theirs, grads)
        before, optimizer = optimizer, duplicate(optimizer)
        twin = duplicate(twin)
        assert repr(optimizer) == repr(before)
        assert optimizer.iter == before.iter == twin.iter
        assert_same(optimizer, before, ours, ours)
        for name in cls._states:  # a shallow copy shares its dicts, as it does any attribute
            shares = getattr(optimizer, name) is getattr(before, name)
            assert shares == (duplicate is copy.copy)
    before.update({"other": 1.0}, {"other": 1.0})  # whose count and scalars are its own
    assert optimizer.iter == twin.iter == 6
    for name in cls._states:
        getattr(before, name).pop("other")
    assert_same(optimizer, twin, ours, theirs)


# --- rows of coefficients, at the level of the stepper ---


class Owner:
    """What a stepper asks of a new key: which row is its, and how its states begin."""

    def __init__(self, rows, begins=None):
        self.rows, self.begins = rows, begins or {}

    def _row_of(self, key):
        return self.rows[key]

    def _beginning_of(self, name, key):
        return self.begins.get((name, key), 0.0)


ROW_OF = {"a": 0, "b": 1, "c": 1, "d": 0, "strided": 1, "number": 1, "frozen": 0}
SETTINGS = ({"lr": 0.1, "momentum": 0.9}, {"lr": 0.003, "momentum": 0.5})


def rows_at(step):
    """Return two rows of coefficients of the rule momentum, other ones in each step."""
    return tuple(tuple(value / (step + 1) for value in each.values()) for each in SETTINGS)


class Rows:
    """A stepper with two rows, and a twin for each row over the keys that are its."""

    def __init__(self, dtype, size, begins=None):
        self.stepper, self.owner, self.v = Stepper("momentum"), Owner(dict(ROW_OF), begins), {}
        self.twins = reference.Momentum(), reference.Momentum()
        self.rng, self.dtype = np.random.default_rng(5), dtype
        self.ours, self.theirs = ({**self.draw(size)} for _ in range(2))

    def draw(self, size):
        rng = np.random.default_rng(6)
        return {
            **{key: over_many_magnitudes(rng, size, self.dtype) for key in "abcd"},
            "strided": lay_out(over_many_magnitudes(rng, (5, 3), self.dtype), "strided"),
            "number": 0.75,
            "frozen": over_many_magnitudes(rng, 4, self.dtype),
        }

    def grads(self):
        return {**draw_grads(self.rng, self.ours, self.dtype), "frozen": None}

    def update(self, step, grads, rows=None):
        rows = rows_at(step) if rows is None else rows
        steps = self.stepper.steps
        self.stepper.step(self.ours, grads, Setup((self.v,)), rows, steps, False, self.owner)

    def step(self, step):
        grads = self.grads()
        self.update(step, grads)
        for i, (twin, (lr, momentum)) in enumerate(zip(self.twins, rows_at(step), strict=True)):
            twin.lr, twin.momentum = lr, momentum
            own = {key: p for key, p in self.theirs.items() if self.owner.rows[key] == i}
            twin.update(own, grads)
            self.theirs.update(own)

    def check(self):
        for key, p in self.theirs.items():
            assert_array_equal(self.ours[key], p, err_msg=key)
            for twin in self.twins:
                if key in twin.v:
                    assert_array_equal(self.v[key], twin.v[key], err_msg=key, strict=True)
        assert self.v.keys() == self.twins[0].v.keys() | self.twins[1].v.keys()


@every_dtype
@pytest.mark.parametrize(("size", "threads"), [(7, 1), (70_000, 1), (250_000, 3)])
def test_each_key_is_updated_by_its_row(dtype, size, threads):
    before = fastopt.get_num_threads()
    fastopt.set_num_threads(threads)
    world = Rows(dtype, size)
    try:
        for step in range(5):
            world.step(step)
            world.check()
    finally:
        fastopt.set_num_threads(before)
    assert world.stepper.steps == 5
    assert world.stepper.checked_entries == 5 + 5  # once each, and the plain number every time


@every_dtype
def test_states_of_each_key_begin_as_the_owner_says(dtype):
    begins = {("v", "a"): 0.25, ("v", "b"): None, ("v", "strided"): None, ("v", "number"): -1.5}
    world = Rows(dtype, 7, begins)
    for key, begin in ((key, begin) for (_, key), begin in begins.items()):
        p = np.asarray(world.theirs[key])
        v = p.copy() if begin is None else np.full_like(p, begin)
        world.twins[ROW_OF[key]].v[key] = v
    for step in range(4):
        world.step(step)
        world.check()


@every_dtype
def test_row_of_a_known_key_changes_when_the_stepper_forgets(dtype):
    world = Rows(dtype, 7)
    world.step(0)
    world.step(1)
    world.check()
    world.owner.rows.update(a=1, b=0)
    checked = world.stepper.checked_entries
    world.stepper.forget()
    for key in "ab":  # the velocity goes with the key
        row = world.owner.rows[key]
        world.twins[row].v[key] = world.twins[1 - row].v.pop(key)
    world.step(2)
    world.check()
    assert world.stepper.checked_entries == checked + len(ROW_OF) - 1  # of all but the frozen one
    world.step(3)
    world.check()
    assert world.stepper.checked_entries == checked + len(ROW_OF)  # of the plain number


def test_stepper_that_forgets_checks_all_anew_and_goes_on():
    optimizer, params = fastopt.Adam(), {"p": np.ones(5), "q": np.ones((2, 3), np.float32)}
    twin, theirs = reference.Adam(), copy.deepcopy(params)
    stepper = optimizer._stepper
    for step in range(6):
        if step % 2:
            stepper.forget()
        grads = {key: np.full(p.shape, step - 2.5, p.dtype) for key, p in params.items()}
        optimizer.update(params, grads)
        twin.update(theirs, grads)
        assert_same(optimizer, twin, params, theirs)
    assert (stepper.steps, stepper.known_steps, stepper.checked_entries) == (6, 2, 8)


def test_stepper_that_is_in_a_step_forgets_nothing():
    optimizer = fastopt.SGD(lr=0.5)

    class Meddling(UserDict):
        def __getitem__(self, key):
            optimizer._stepper.forget()
            return super().__getitem__(key)

    params = {"p": np.ones(3)}
    with step_refused(RuntimeError, "middle of another update", optimizer, params, {}):
        optimizer.update(params, Meddling(p=np.ones(3)))
    optimizer.update(params, {"p": np.ones(3)})
    assert_array_equal(params["p"], [0.5] * 3)


@every_dtype
@pytest.mark.parametrize("asked", ["_row_of", "_beginning_of"])
def test_owner_that_raises_changes_nothing(dtype, asked):
    world = Rows(dtype, 7)
    world.step(0)
    new = np.ones(3, dtype)
    world.ours["new"], world.theirs["new"] = new, new.copy()

    def fail(*_):
        raise RuntimeError("not now")

    setattr(world.owner, asked, fail)
    world.owner.rows["new"] = 1
    before, v = contents(world.ours), contents(world.v)
    counts = world.stepper.steps, world.stepper.known_steps
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not now"):
            world.update(1, world.grads())
        assert_same_contents(before, contents(world.ours))
        assert_same_contents(v, contents(world.v))
        assert (world.stepper.steps, world.stepper.known_steps) == counts
    delattr(world.owner, asked)
    world.step(1)
    world.check()


def test_rows_and_states_that_do_not_fit_the_rule_change_nothing():
    world = Rows("float32", 7)
    world.step(0)
    before, v = contents(world.ours), contents(world.v)
    good, bad = rows_at(1), ((0.1, 0.9), (0.1,))
    names = ", ".join(map(repr, rules["momentum"][0]))
    for rows in (bad, bad[::-1], ((0.1, 0.9), (0.1, 0.9, 0.5))):
        with pytest.raises(TypeError, match=f"rule momentum wants \\({names}\\)"):
            world.update(1, world.grads(), rows)
    for rows in (([0.1, 0.9], [0.1, 0.9]), (("a", "b"), ("c", "d"))):
        with pytest.raises(TypeError):
            world.update(1, world.grads(), rows)
    for states in ((), (world.v, {})):
        with pytest.raises(TypeError, match=r"rule momentum has states \('v',\)"):
            world.stepper.step(
                world.ours, world.grads(), Setup(states), good, 1, False, world.owner
            )
    assert_same_contents(before, contents(world.ours))
    assert_same_contents(v, contents(world.v))
    assert world.stepper.steps == 1
    world.step(1)
    world.check()


def test_declaration_must_name_the_states_of_its_rule():
    with pytest.raises(TypeError, match=r"Wrong declares \['w'\] for \('p', 'g', 'v'\)"):

        class Wrong(Optimizer):
            w: State = state()
            _rule_name = "momentum"


@every_dtype
def test_another_number_of_rows_is_noticed(dtype):
    """From two rows to one and back: no key is left with a row that is not there any more."""
    for rows in ((0.0, 0.0), (0.25, 0.5)):
        params, v = {"a": np.ones(3, dtype), "b": np.ones(3, dtype)}, {}
        grads = {"a": np.ones(3, dtype), "b": np.ones(3, dtype)}
        stepper = Stepper("momentum")
        two = ((0.5, 0.5), (0.125, 0.25))
        stepper.step(params, grads, Setup((v,)), two, -1, False, Owner({"a": 0, "b": 1}))
        stepper.step(params, grads, Setup((v,)), (rows,), -1, False, Owner({}))
        stepper.step(params, grads, Setup((v,)), two, -1, False, Owner({"a": 1, "b": 0}))
        for key, order in (("a", (two[0], rows, two[1])), ("b", (two[1], rows, two[0]))):
            twin, alone = reference.Momentum(), {key: np.ones(3, dtype)}
            for twin.lr, twin.momentum in order:
                twin.update(alone, grads)
            assert_array_equal(params[key], alone[key])


@pytest.mark.parametrize("row", [-2, 2, 7])
def test_row_that_is_not_there_changes_nothing(row):
    stepper, params, v = Stepper("momentum"), {"a": np.ones(3), "b": np.ones(3)}, {}
    rows, owner = ((0.1, 0.9), (0.2, 0.9)), Owner({"a": 0, "b": row})
    with pytest.raises(IndexError, match=f"'b' is of row {row}, there are 2"):
        stepper.step(params, {"a": np.ones(3), "b": np.ones(3)}, Setup((v,)), rows, 0, False, owner)
    assert_array_equal(list(params.values()), np.ones((2, 3)))
    assert (v, stepper.steps) == ({}, 0)


def test_without_an_owner_every_key_has_the_first_row():
    stepper, params, v = Stepper("momentum"), {"a": np.ones(3)}, {}
    stepper.step(params, {"a": np.ones(3)}, Setup((v,)), ((0.5, 0.9), (0.25, 0.9)), 0, False)
    assert_array_equal(params["a"], np.full(3, 0.5))


def test_scalars_that_can_not_be_computed_change_nothing():
    for cls in (Moving, MovingTwin):
        optimizer, params = cls(), {"a": np.ones(3)}
        optimizer.update(params, {"a": np.ones(3)})
        kept, product = params["a"].copy(), optimizer.product
        optimizer.decay = lambda t: "not a number"
        with pytest.raises(TypeError):
            optimizer.update(params, {"a": np.ones(3)})
        assert_array_equal(params["a"], kept)
        assert (optimizer.iter, optimizer.product) == (1, product)


@pytest.mark.parametrize("name", fastopt.optimizers.__all__)
def test_instances_have_few_attributes_of_their_own(name):
    """CPython shares the names of some 30; each of more is read three times as slowly."""
    optimizer = getattr(fastopt, name)()
    optimizer.update({"p": np.ones(3)}, {"p": np.ones(3)})
    assert len(vars(optimizer)) <= 20
