"""Recognition of known arrays, entry by entry: what costs a check, and that every step is right.

The counts are the stepper's own, so that no test depends on time. What is refused, and why, is in
test_input_contract.py.
"""

import numpy as np
import pytest
from helpers.arrays import lay_out, over_many_magnitudes
from helpers.errors import step_refused
from helpers.twins import assert_same
from numpy.testing import assert_array_equal
from optimizer_table import every_optimizer

import fastopt
from fastopt._step import Setup, Stepper

N = 100
ODD = "k50"  # the entry that is unlike the others
KEYS = [f"k{i}" for i in range(N)]


class Pair:
    """An optimizer and its twin over a hundred float32 arrays each, and the checks of each step."""

    def __init__(self, row):
        self.optimizer, self.twin = row.compiled(**row.settings), row.twin(**row.settings)
        self.rng = np.random.default_rng(0)
        self.ours = {key: self.draw(1 + i % 7) for i, key in enumerate(KEYS)}
        self.theirs = {key: p.copy() for key, p in self.ours.items()}
        self.kept = []  # what was replaced: a gradient in memory that was written costs a check

    def draw(self, shape, dtype="float32"):
        return over_many_magnitudes(self.rng, shape, dtype)

    def grads(self):
        """Return gradients in fresh arrays."""
        return {key: self.draw(np.shape(p)) for key, p in self.ours.items()}

    def step(self, change=lambda grads: grads):
        """Step both, compare them; return how many entries were checked, and if it was known."""
        stepper, grads = self.optimizer._stepper, change(self.grads())
        checked, known = stepper.checked_entries, stepper.known_steps
        self.optimizer.update(self.ours, grads)
        self.twin.update(self.theirs, grads)
        for key, p in self.theirs.items():
            assert_array_equal(self.ours[key], p, err_msg=key)
        for name in self.optimizer._states:
            ours, theirs = getattr(self.optimizer, name), getattr(self.twin, name)
            for key, state in ours.items():
                assert_array_equal(state, theirs[key], err_msg=f"{name}[{key!r}]", strict=True)
        return stepper.checked_entries - checked, stepper.known_steps - known == 1

    def forget(self, key):
        """Let the state of a key begin anew."""
        for optimizer in (self.optimizer, self.twin):
            for name in optimizer._states:
                self.kept.append(getattr(optimizer, name).pop(key, None))

    def bind(self, key, value):
        """Give both a parameter in memory of its own."""
        self.kept.append(self.ours.get(key))
        self.ours[key] = value
        self.theirs[key] = np.array(value) if isinstance(value, np.ndarray) else value
        if isinstance(value, np.ndarray):
            self.theirs[key] = self.theirs[key].astype(value.dtype.newbyteorder("="))


def freeze(grads):
    return {**grads, ODD: None}


def cast(grads):
    return {**grads, ODD: grads[ODD].astype("float64")}


def reverse(grads):
    return dict(reversed(grads.items()))


def layout(name):
    """Return what lays the odd parameter out anew."""

    def change(pair):
        pair.bind(ODD, lay_out(pair.draw((4, 3)), name))
        pair.forget(ODD)

    return change


def number(pair):
    pair.bind(ODD, 1.5)


def nothing(pair):
    pass


def same(grads):
    return grads


# what the odd entry is → what makes it, what is done to the gradients of each step, and how many
# checks it costs when it becomes so and when it ends
KNOWN = {
    "like all others": (nothing, same, 0, 0),
    "a strided view": (layout("strided"), same, 1, 1),
    "backwards": (layout("backwards"), same, 1, 1),
    "unaligned": (layout("unaligned"), same, 1, 1),
    "byte-swapped": (layout("byte-swapped"), same, 1, 1),
    "cast": (nothing, cast, 1, 1),
    "a strided view, cast": (layout("strided"), cast, 1, 1),
    "frozen": (nothing, freeze, 0, 0),
    "frozen strided view": (layout("strided"), freeze, 0, 1),
    "in another order": (nothing, reverse, 0, 0),
    "cast, in another order": (nothing, lambda grads: reverse(cast(grads)), 1, 1),
    "frozen, in another order": (nothing, lambda grads: reverse(freeze(grads)), 0, 0),
}


@every_optimizer
@pytest.mark.parametrize("case", KNOWN)
def test_odd_entry_costs_no_check_once_it_is_known(row, case):
    make, change, *_ = KNOWN[case]
    pair = Pair(row)
    make(pair)
    checked, known = pair.step(change)
    assert checked == N - ("frozen" in case)
    assert not known
    for _ in range(4):
        assert pair.step(change) == (0, True)


@every_optimizer
@pytest.mark.parametrize("change", [same, reverse], ids=["in order", "reversed"])
def test_plain_number_costs_its_own_check_each_step_and_no_other(row, change):
    pair = Pair(row)
    number(pair)
    assert pair.step(change) == (N, False)
    for _ in range(4):
        assert pair.step(change) == (1, False)
    assert type(pair.ours[ODD]) is float


@every_optimizer
@pytest.mark.parametrize("case", KNOWN)
def test_switching_costs_the_odd_entrys_check_alone(row, case):
    """From all alike to a case and back, twice over, a step known in between."""
    make, change, begin, end = KNOWN[case]
    pair = Pair(row)
    pair.bind(ODD, pair.draw((4, 3)))
    pair.step()
    for _ in range(2):
        make(pair)
        assert pair.step(change) == (begin, begin == 0)
        assert pair.step(change) == (0, True)
        if make is not nothing:
            layout("C")(pair)
        assert pair.step() == (end, end == 0)
        assert pair.step() == (0, True)


@every_optimizer
def test_switching_between_all_cases(row):
    pair = Pair(row)
    pair.bind(ODD, pair.draw((4, 3)))
    pair.step()
    order = [*KNOWN.values()] * 3
    pair.rng.shuffle(order)
    for make, change, *_ in order:
        make(pair)
        checked, _ = pair.step(change)
        assert checked <= 1
        assert pair.step(change) == (0, True)


@every_optimizer
def test_a_number_becomes_an_array_and_a_number_again(row):
    pair = Pair(row)
    pair.bind(ODD, np.array(0.5))  # a number's state is of its dtype, float64
    for _ in range(3):
        pair.step()
        assert pair.step() == (0, True)
        pair.bind(ODD, 1.5)
        assert [pair.step() for _ in range(3)] == [(1, False)] * 3
        pair.bind(ODD, np.array(0.25))
        assert pair.step() == (1, False)


@every_optimizer
def test_swapped_arrays_cost_their_two_checks(row):
    pair = Pair(row)
    pair.step()
    pair.step()
    for arrays in (pair.ours, pair.theirs):
        arrays["k1"], arrays["k8"] = arrays["k8"], arrays["k1"]  # of one shape
    assert pair.step() == (2, False)
    assert pair.step() == (0, True)


@every_optimizer
def test_swapped_keys_cost_their_two_checks(row):
    pair = Pair(row)
    pair.step()
    order = [*KEYS]
    order[3], order[60] = order[60], order[3]
    pair.ours = {key: pair.ours[key] for key in order}
    assert pair.step() == (2, False)
    assert pair.step() == (0, True)


@every_optimizer
def test_replaced_array_costs_its_own_check(row):
    pair = Pair(row)
    pair.step()
    for _ in range(2):
        pair.bind(ODD, pair.draw(pair.ours[ODD].shape))
        assert pair.step() == (1, False)
        assert pair.step() == (0, True)


@every_optimizer
def test_replaced_state_costs_its_own_check(row):
    if not row.states:
        return
    pair = Pair(row)
    pair.step()
    states = getattr(pair.optimizer, row.states[-1])
    pair.kept.append(states[ODD])
    states[ODD] = states[ODD].copy()
    assert pair.step() == (1, False)
    assert pair.step() == (0, True)


@every_optimizer
def test_entries_that_come_and_go(row):
    pair = Pair(row)
    pair.step()
    pair.bind("new", pair.draw(5))
    assert pair.step() == (1, False)
    assert pair.step() == (0, True)
    for arrays in (pair.ours, pair.theirs):
        pair.kept.append(arrays.pop("new"))
    assert pair.step() == (0, True)
    for arrays in (pair.ours, pair.theirs):
        pair.kept.append(arrays.pop(ODD))
    assert pair.step() == (N - 1 - KEYS.index(ODD), False)  # those that moved up
    assert pair.step() == (0, True)
    pair.bind(ODD, pair.draw(pair.kept[-1].shape))
    assert pair.step() == (1, False)  # at the end
    assert pair.step() == (0, True)


@every_optimizer
@pytest.mark.parametrize("has_stepped", [True, False])
def test_thawed_parameter_whose_memory_now_overlaps_is_refused(row, has_stepped):
    """Nothing writes to it as long as it is frozen, so that another may lie there."""
    optimizer, memory = row.compiled(), np.arange(20.0)
    params = {"a": memory[:8], "b": np.ones(8), "c": np.ones(3)}
    grads = {key: np.ones_like(p) for key, p in params.items()}
    if has_stepped:
        optimizer.update(params, grads)
    frozen = {**grads, "a": None}
    for _ in range(2):
        optimizer.update(params, frozen)
    params["b"] = memory[4:12]
    for _ in range(2):
        optimizer.update(params, frozen)
    message = "parameter 'a' and parameter 'b' overlap in memory"
    for _ in range(2):
        with step_refused(ValueError, message, optimizer, params, grads):
            optimizer.update(params, grads)
    optimizer.update(params, frozen)  # and it goes on
    params["b"] = memory[8:16]
    optimizer.update(params, grads)


@every_optimizer
def test_thawed_parameter_in_which_a_known_gradient_lies_is_refused(row):
    optimizer, memory = row.compiled(), np.arange(20.0)
    params = {"a": memory[:8], "b": np.ones(8)}
    grads = {"a": np.ones(8), "b": memory[2:10]}
    frozen = {**grads, "a": None}
    for _ in range(3):
        optimizer.update(params, frozen)
    message = "parameter 'a' and the gradient of 'b' overlap in memory"
    for _ in range(2):
        with step_refused(ValueError, message, optimizer, params, grads):
            optimizer.update(params, grads)
    optimizer.update(params, frozen)


@every_optimizer
def test_frozen_parameter_may_change_without_a_check_until_it_thaws(row):
    pair = Pair(row)
    pair.step()
    pair.step(freeze)
    for _ in range(3):
        pair.bind(ODD, pair.draw(pair.ours[ODD].shape))
        assert pair.step(freeze) == (0, True)
    assert pair.step() == (1, False)
    assert pair.step() == (0, True)
    assert_same(pair.optimizer, pair.twin, pair.ours, pair.theirs)


@every_optimizer
def test_what_was_refused_is_not_known(row):
    pair = Pair(row)
    pair.step()
    good = pair.ours[ODD]
    pair.ours[ODD] = good.astype("int32")
    for _ in range(2):
        grads = pair.grads()
        with step_refused(TypeError, f"'{ODD}'", pair.optimizer, pair.ours, grads):
            pair.optimizer.update(pair.ours, grads)
    pair.ours[ODD] = good
    assert pair.step() == (1, False)
    assert pair.step() == (0, True)


def test_forgotten_arrays_are_not_stepped_over():
    """Large enough for a plan of jobs, which must not outlive what it was made for."""
    before = fastopt.get_num_threads()
    fastopt.set_num_threads(2)
    try:
        for forget in (lambda stepper: stepper.forget(), lambda stepper: None):
            optimizer, p = fastopt.SGD(), np.ones(1_500_000)
            optimizer.update({"p": p}, {"p": np.ones(1_500_000)})
            kept = p.copy()
            forget(optimizer._stepper)
            optimizer.update({}, {})
            assert_array_equal(p, kept)
            assert optimizer.iter == 2
    finally:
        fastopt.set_num_threads(before)


def test_step_without_rows_is_refused():
    stepper, params = Stepper("sgd"), {"p": np.ones(3)}
    with pytest.raises(TypeError, match="one row of coefficients"):
        stepper.step(params, {"p": np.ones(3)}, Setup(()), (), 0, False)
    assert_array_equal(params["p"], np.ones(3))
