"""The Trainer: what it does with batches, evaluations, callbacks and interruptions.

Its states and checkpoints are in test_checkpoints.py, flushing in test_subnormals.py.
"""

import copy
import io
import itertools
import os
import pickle
import re
import signal
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from math import inf, isnan, nan

import numpy as np
import pytest
from helpers.marks import both
from numpy.testing import assert_array_equal

import fastopt
from fastopt import _progress, schedules


def data(n=50, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(n) % 3
    return (np.eye(3)[t] + 0.5 * rng.standard_normal((n, 3))).astype("f4"), t


def trainer(package=fastopt, rng=0, lr=0.05, **settings):
    net = package.MultiLayerNet(3, [8], 3, rng=1)
    return fastopt.Trainer(net, package.Adam(lr=lr), rng=rng, **settings)


class Scripted:
    """A net whose validation losses are given, and whose parameter counts its steps."""

    def __init__(self, losses):
        self.losses = iter(losses)
        self.params = {"p": np.zeros(1)}

    def loss_and_gradient(self, x, t, out=None, *, batch):
        return 0.0, {"p": np.full(1, -1.0)}

    def loss(self, x, t):
        return next(self.losses)

    def accuracy(self, x, t):
        return 0.5


class Line:
    """A regression: a net without an accuracy."""

    def __init__(self):
        self.params = {"w": np.zeros(2)}

    def loss_and_gradient(self, x, t, out=None, *, batch):
        error = x[batch] @ self.params["w"] - t[batch]
        return float(np.mean(error**2)), {"w": 2 * x[batch].T @ error / len(error)}

    def loss(self, x, t):
        return float(np.mean((x @ self.params["w"] - t) ** 2))


@both
def test_a_fit_is_the_loop_that_one_would_write(package):
    x, t = data()
    ours = trainer(package, batch_size=16)
    history = ours.fit(x, t, epochs=3)
    net, optimizer = package.MultiLayerNet(3, [8], 3, rng=1), package.Adam(lr=0.05)
    rng, losses = np.random.default_rng(0), []
    for _ in range(3):
        order = rng.permutation(50)
        for first in range(0, 50, 16):
            batch = order[first : first + 16]
            losses.append(net.loss(x[batch], t[batch]))
            optimizer.update(net.params, net.gradient(x[batch], t[batch]))
    assert history["loss"] == losses
    assert ours.iteration == len(losses) == 12
    assert ours.epoch == 3
    for key, p in net.params.items():
        assert_array_equal(ours.net.params[key], p)


@pytest.mark.parametrize("shuffle", [False, True])
def test_every_epoch_takes_every_sample_once(shuffle):
    class Notes:
        params = {}

        def __init__(self):
            self.rows = []

        def loss_and_gradient(self, x, t, out=None, *, batch):
            self.rows.append(batch.tolist())
            return 1.0, {}

    net = Notes()
    fastopt.Trainer(net, fastopt.SGD(), batch_size=4, shuffle=shuffle, rng=0).fit(
        np.zeros((10, 1)), np.zeros(10), epochs=2
    )
    assert [len(rows) for rows in net.rows] == [4, 4, 2, 4, 4, 2]
    epochs = [list(itertools.chain(*rows)) for rows in (net.rows[:3], net.rows[3:])]
    for epoch in epochs:
        assert sorted(epoch) == list(range(10))
    in_order = [epoch == list(range(10)) for epoch in epochs]
    assert in_order == [not shuffle] * 2
    assert (epochs[0] == epochs[1]) != shuffle


def test_samples_are_neither_copied_nor_changed():
    x, t = data(2000)
    kept = x.copy(), t.copy()
    x.flags.writeable = t.flags.writeable = False
    trainer().fit(x, t, iterations=3)
    assert_array_equal(x, kept[0])
    assert_array_equal(t, kept[1])


def test_iterations_end_within_an_epoch():
    ours = trainer(batch_size=16)
    assert len(ours.fit(*data(), iterations=6)["loss"]) == 6
    assert (ours.iteration, ours.epoch) == (6, 2)
    assert len(ours.fit(*data(), iterations=2)["loss"]) == 2
    assert (ours.iteration, ours.epoch) == (8, 2)


@pytest.mark.parametrize(
    ("options", "evaluated"),
    [
        ({"epochs": 2}, [4, 8]),
        ({"iterations": 6}, [4, 6]),
        ({"iterations": 7, "evaluate_every": 3}, [3, 6, 7]),
        ({"epochs": 1, "evaluate_every": 100}, [4]),
    ],
)
def test_evaluations(options, evaluated):
    x, t = data()
    validation = data(20, seed=1)
    ours = trainer(batch_size=16)
    history = ours.fit(x, t, validation=validation, **options)
    assert history["iteration"] == evaluated
    assert len(history["validation_loss"]) == len(history["validation_accuracy"]) == len(evaluated)
    assert history["validation_loss"][-1] == ours.net.loss(*validation)
    assert history["validation_accuracy"][-1] == ours.net.accuracy(*validation)
    assert all(type(values) is list for values in history.values())


def test_history_without_validation():
    history = trainer().fit(*data(), epochs=1)
    assert len(history.pop("loss")) == 1
    assert history == {"iteration": [], "validation_loss": [], "validation_accuracy": []}


# --- going on ---


def rng_state(ours):
    return ours.state_dict()["rng"]


def assert_same_place(one, other):
    """Two trainers have the same bits, and would draw the same batches."""
    for key, p in one.net.params.items():
        assert_array_equal(other.net.params[key], p, strict=True)
    for name in ("m", "v"):
        for key, s in getattr(one.optimizer, name).items():
            assert_array_equal(getattr(other.optimizer, name)[key], s, strict=True)
    assert (one.iteration, one.epoch) == (other.iteration, other.epoch)
    assert one.optimizer.iter == other.optimizer.iter
    assert rng_state(one) == rng_state(other)


@both
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("parts", [[7, 18], [18, 7], [24, 1], [4, 21], [1] * 25, [3, 3, 2, 8, 9]])
def test_iterations_in_parts_are_iterations_at_once(package, shuffle, parts):
    whole, ours = (trainer(package, batch_size=16, shuffle=shuffle) for _ in range(2))
    want, losses = whole.fit(*data(), iterations=25), []
    for n in parts:
        history = ours.fit(*data(), iterations=n)
        assert len(history["loss"]) == n
        assert history.began == ours.iteration - n == len(losses)
        losses += history["loss"]
        assert ours.epoch == -(-ours.iteration // 4)
    assert losses == want["loss"]
    assert_same_place(ours, whole)


@both
def test_epochs_in_parts_are_epochs_at_once(package):
    whole, ours = (trainer(package, batch_size=16) for _ in range(2))
    want = whole.fit(*data(), epochs=2)["loss"]
    assert ours.fit(*data(), epochs=1)["loss"] + ours.fit(*data(), epochs=1)["loss"] == want
    assert_same_place(ours, whole)


def test_an_epoch_from_within_a_pass_has_the_steps_of_one():
    whole, ours = (trainer(batch_size=16) for _ in range(2))
    ours.fit(*data(), iterations=2)
    ours.fit(*data(), epochs=2)
    assert (ours.iteration, ours.epoch) == (10, 3)
    whole.fit(*data(), iterations=10)
    assert_same_place(ours, whole)


class Rows:
    """A net that notes the rows of each batch."""

    params = {}

    def __init__(self):
        self.rows = []

    def loss_and_gradient(self, x, t, out=None, *, batch):
        self.rows.append(batch.tolist())
        return 1.0, {}

    def fit(self, ours, n, iterations):
        """Fit to so many samples; return the rows of the batches."""
        self.rows.clear()
        ours.fit(np.zeros((n, 1)), np.zeros(n), iterations=iterations)
        return list(self.rows)


def test_rows_in_their_order_go_on_where_they_were():
    net = Rows()
    ours = fastopt.Trainer(net, fastopt.SGD(), batch_size=4, shuffle=False)
    assert net.fit(ours, 10, 1) == [[0, 1, 2, 3]]
    assert net.fit(ours, 10, 3) == [[4, 5, 6, 7], [8, 9], [0, 1, 2, 3]]
    assert ours.epoch == 2


@pytest.mark.parametrize("shuffle", [True, False])
def test_other_samples_begin_a_new_pass(shuffle):
    net = Rows()
    ours = fastopt.Trainer(net, fastopt.SGD(), batch_size=4, shuffle=shuffle, rng=0)
    net.fit(ours, 10, 4)
    assert ours.epoch == 2
    others = net.fit(ours, 9, 3)
    assert sorted(itertools.chain(*others)) == list(range(9))
    assert ours.epoch == 3
    again = net.fit(ours, 10, 3)
    assert sorted(itertools.chain(*again)) == list(range(10))
    assert (ours.epoch, ours.iteration) == (4, 10)


@pytest.mark.parametrize(("name", "value"), [("batch_size", 5), ("shuffle", False)])
def test_other_settings_begin_a_new_pass(name, value):
    net = Rows()
    ours = fastopt.Trainer(net, fastopt.SGD(), batch_size=4, rng=0)
    net.fit(ours, 10, 2)
    setattr(ours, name, value)
    rows = net.fit(ours, 10, 2 if name == "batch_size" else 3)
    assert sorted(itertools.chain(*rows)) == list(range(10))
    assert ours.epoch == 2
    assert (rows[0] == list(range(4))) == (name == "shuffle")


def test_other_data_of_the_same_number_take_the_rest_of_the_pass():
    x, t = data()
    whole, ours = (trainer(batch_size=16) for _ in range(2))
    want = whole.fit(x, t, iterations=8)["loss"]
    losses = ours.fit(x, t, iterations=3)["loss"]
    assert losses + ours.fit(x.copy(), t.copy(), iterations=5)["loss"] == want


class Raising:
    """A callback that raises at a moment of a step."""

    def __init__(self, moment, iteration, error):
        self.at, self.error = iteration, error
        setattr(self, moment, self.act)

    def act(self, ours, grads=None):
        if ours.iteration == self.at:
            self.at = None
            raise self.error


@both
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), RuntimeError("no more")], ids=["^C", "error"]
)
@pytest.mark.parametrize("moment", ["gradient", "step", "evaluation"])
@pytest.mark.parametrize("iteration", [1, 4, 6])
def test_what_is_broken_off_goes_on_with_the_same_bits(package, error, moment, iteration):
    settings = {"validation": data(9), "evaluate_every": 1}
    whole, ours = (trainer(package, batch_size=16) for _ in range(2))
    want = whole.fit(*data(), iterations=11)["loss"]
    ours.callbacks.append(Raising(moment, iteration, error))
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError, match="no more"):
            ours.fit(*data(), iterations=11, **settings)
    else:
        ours.fit(*data(), iterations=11, **settings)
        assert ours.interrupted
    losses = ours.history["loss"]
    assert ours.iteration == len(losses) == iteration
    assert {len(column) for column in ours.history.steps.values()} == {iteration}
    assert ours.epoch == -(-iteration // 4)
    losses = losses + ours.fit(*data(), iterations=11 - iteration)["loss"]
    assert losses == want
    assert_same_place(ours, whole)


def test_a_pass_without_a_step_has_not_begun():
    x, t = data()
    ours = trainer(batch_size=50)
    before = rng_state(ours)
    for _ in range(2):
        with pytest.raises(ValueError, match="label"):
            ours.fit(x, t + 3, epochs=1)
        assert (ours.iteration, ours.epoch) == (0, 0)
        assert rng_state(ours) == before
    assert ours.fit(x, t, epochs=2)["loss"] == trainer(batch_size=50).fit(x, t, epochs=2)["loss"]


@pytest.mark.parametrize(
    ("every", "evaluated"), [(3, [[3, 6, 7], [9, 12], [13]]), (None, [[4, 7], [8, 12], [13]])]
)
def test_evaluations_over_several_fits_count_all_steps(every, evaluated):
    ours = trainer(batch_size=16)
    found = []
    for n in (7, 5, 1):
        history = ours.fit(*data(), iterations=n, validation=data(9), evaluate_every=every)
        found.append(history["iteration"])
        assert history.evaluations["epoch"] == [-(-i // 4) for i in history["iteration"]]
    assert found == evaluated


# --- callbacks ---


def test_callbacks_see_and_steer():
    seen = []

    def schedule(ours):
        ours.optimizer.lr = 0.01 / ours.iteration
        seen.append((ours.iteration, ours.epoch, len(ours.history["loss"])))

    def stop(ours):
        if ours.iteration == 5:
            ours.stop()

    ours = trainer(batch_size=25, callbacks=[schedule, stop])
    history = ours.fit(*data(), epochs=10)
    assert seen == [(1, 1, 1), (2, 1, 2), (3, 2, 3), (4, 2, 4), (5, 3, 5)]
    assert len(history["loss"]) == 5
    assert ours.optimizer.lr == 0.002
    assert not ours.interrupted
    assert len(ours.fit(*data(), iterations=1)["loss"]) == 1


class Notes:
    """A callback that notes each moment, in a list that several may share."""

    def __init__(self, notes, name):
        self.notes, self.name = notes, name

    def note(self, moment, ours):
        self.notes.append((self.name, moment, ours.iteration, len(ours.history["loss"])))

    def start(self, ours):
        self.note("start", ours)

    def gradient(self, ours, grads):
        assert {*grads} == {*ours.net.params}
        self.note("gradient", ours)

    def step(self, ours):
        self.note("step", ours)

    def evaluation(self, ours):
        assert ours.history["iteration"][-1] == ours.iteration
        self.note("evaluation", ours)

    def end(self, ours):
        self.note("end", ours)


def test_moments_and_their_order():
    notes = []

    def plain(ours):
        notes.append(("plain", "step", ours.iteration, len(ours.history["loss"])))

    callbacks = [Notes(notes, "a"), plain, Notes(notes, "b")]
    ours = trainer(batch_size=25, callbacks=callbacks)
    ours.fit(*data(), epochs=1, validation=data(9))
    assert notes == [
        ("a", "start", 0, 0), ("b", "start", 0, 0),
        ("a", "gradient", 0, 0), ("b", "gradient", 0, 0),
        ("a", "step", 1, 1), ("plain", "step", 1, 1), ("b", "step", 1, 1),
        ("a", "gradient", 1, 1), ("b", "gradient", 1, 1),
        ("a", "evaluation", 2, 2), ("b", "evaluation", 2, 2),
        ("a", "step", 2, 2), ("plain", "step", 2, 2), ("b", "step", 2, 2),
        ("a", "end", 2, 2), ("b", "end", 2, 2),
    ]  # fmt: skip
    notes.clear()
    list(ours.steps(*data(), [[0, 1]]))
    assert notes == [("a", "gradient", 2, 2), ("b", "gradient", 2, 2)]


@pytest.mark.parametrize("moment", ["start", "gradient", "step", "evaluation", "end"])
def test_one_method_is_enough(moment):
    called = []
    callback = types.SimpleNamespace(**{moment: lambda *args: called.append(args)})
    ours = trainer(batch_size=50, callbacks=[callback])
    ours.fit(*data(), epochs=1, validation=data(9))
    (args,) = called
    assert args[0] is ours
    assert len(args) == (2 if moment == "gradient" else 1)


def test_an_attribute_named_like_a_method_is_none():
    class Counting:
        start, step, end = 0.1, 0, None

        def __call__(self, ours):
            self.step += 1

    counting = Counting()
    trainer(batch_size=10, callbacks=[counting]).fit(*data(), epochs=1)
    assert counting.step == 5


def test_a_warm_up_covers_the_first_step():
    class WarmUp:
        def start(self, ours):
            self.step(ours)

        def step(self, ours):
            ours.optimizer.lr = 0.01 * (ours.iteration + 1)

    history = trainer(batch_size=10, callbacks=[WarmUp()]).fit(*data(), epochs=1)
    assert history.steps["lr"] == [0.01 * i for i in range(1, 6)]


def test_a_rate_that_is_set_between_gradient_and_update_is_the_steps():
    class Each:
        def gradient(self, ours, grads):
            ours.optimizer.lr = 0.01 * (ours.iteration + 1)

    history = trainer(batch_size=10, callbacks=[Each()]).fit(*data(), epochs=1)
    assert history.steps["lr"] == [0.01 * i for i in range(1, 6)]


@both
@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"clip_value": 0.01}, lambda g: np.clip(g, -0.01, 0.01, out=g)),
        ({"maximize": True}, lambda g: np.negative(g, out=g)),
        ({"clip_value": 0.01}, lambda g: np.clip(g, -0.01, 0.01)),
    ],
    ids=["clipping", "ascent", "new arrays"],
)
def test_changed_gradients_are_those_of_the_step(package, options, change):
    class Changing:
        def gradient(self, ours, grads):
            grads.update({key: change(g) for key, g in grads.items()})

    def fit(callbacks, **options):
        net = package.MultiLayerNet(3, [8], 3, rng=1)
        optimizer = package.Adam(lr=0.05, **options)
        ours = fastopt.Trainer(net, optimizer, batch_size=16, rng=0, callbacks=callbacks)
        return ours.fit(*data(), epochs=3)["loss"], ours

    (losses, ours), (want, whole) = fit([Changing()]), fit([], **options)
    assert losses == want
    assert losses != fit([])[0]
    assert_same_place(ours, whole)


@both
def test_gradients_may_be_replaced_and_left_out(package):
    class Freezing:
        def gradient(self, ours, grads):
            grads["W1"] = grads["b1"] = None
            grads["W2"] = grads["W2"].astype("f8")

    ours = trainer(package, batch_size=16, callbacks=[Freezing()])
    before = copy.deepcopy(ours.net.params)
    ours.fit(*data(), epochs=1)
    for key, p in ours.net.params.items():
        assert np.array_equal(p, before[key]) == (key in {"W1", "b1"})


@pytest.mark.parametrize("moment", ["start", "gradient", "step", "evaluation", "end"])
def test_what_a_callback_raises_comes_through(moment):
    notes = []
    ours = trainer(
        batch_size=50, callbacks=[Notes(notes, "a"), Raising(moment, 0, OSError("full"))]
    )
    if moment in {"step", "evaluation", "end"}:
        ours.callbacks[1].at = 1
    with pytest.raises(OSError, match="full"):
        ours.fit(*data(), epochs=1, validation=data(9))
    taken = 0 if moment in {"start", "gradient"} else 1
    assert ours.iteration == ours.optimizer.iter == len(ours.history["loss"]) == taken
    moments = [moment for _, moment, *_ in notes]
    assert moments.count("end") == 1
    assert len(ours.fit(*data(), epochs=2)["loss"]) == 2


def test_ctrl_c_before_the_first_step():
    notes = []
    callbacks = [Notes(notes, "a"), Raising("start", 0, KeyboardInterrupt())]
    ours = trainer(batch_size=50, callbacks=callbacks)
    assert ours.fit(*data(), epochs=1)["loss"] == []
    assert ours.interrupted
    assert [moment for _, moment, *_ in notes] == ["start", "end"]
    assert (ours.iteration, ours.epoch) == (0, 0)
    assert len(ours.fit(*data(), epochs=1)["loss"]) == 1
    assert not ours.interrupted


def test_start_may_stop_before_the_first_step():
    notes = []
    stopping = types.SimpleNamespace(start=lambda ours: ours.stop())
    ours = trainer(callbacks=[stopping, Notes(notes, "a")])
    history = ours.fit(*data(), epochs=1, validation=data(9))
    assert history == {
        "loss": [],
        "iteration": [],
        "validation_loss": [],
        "validation_accuracy": [],
    }
    assert [moment for _, moment, *_ in notes] == ["start", "end"]
    assert (ours.iteration, ours.epoch) == (0, 0)


def test_end_comes_after_the_best_has_been_put_back():
    def end(ours):
        seen.append(ours.net.params["p"][0])

    seen, net = [], Scripted([5, 1, 3, 4])
    callbacks = [types.SimpleNamespace(end=end)]
    ours = fastopt.Trainer(net, fastopt.SGD(lr=1.0), batch_size=10, callbacks=callbacks)
    ours.fit(np.zeros((10, 1)), np.zeros(10), epochs=4, validation=(0, 0), patience=9)
    assert seen == [2]


def test_what_a_callback_puts_into_the_history_stays():
    def note(ours):
        ours.history.setdefault("own", []).append(ours.iteration)

    ours = trainer(batch_size=25, callbacks=[note])
    history = ours.fit(*data(), epochs=1, validation=data(9))
    assert history["own"] == [1, 2]
    assert [*history.steps] == ["iteration", "epoch", "loss", "lr", "norm", "seconds"]


# --- metrics ---


def r2(net, x, t):
    return 1 - np.mean((x @ net.params["w"] - t) ** 2) / np.var(t)


def test_metrics_are_in_the_history_by_name():
    x = np.random.default_rng(0).standard_normal((40, 2))
    t, line, seen = x @ [1.0, -2.0], Line(), []

    def worst(net, given_x, given_t):
        seen.append((net, given_x, given_t))
        return float(np.max(np.abs(given_x @ net.params["w"] - given_t)))

    metrics = {"r2": r2, "worst error": worst}
    ours = fastopt.Trainer(line, fastopt.Adam(lr=0.1), batch_size=20, rng=0, metrics=metrics)
    history = ours.fit(x, t, epochs=3, validation=(x, t))
    assert [*history.evaluations] == [
        "iteration", "epoch", "seconds", "validation_loss", "validation_r2",
        "validation_worst error",
    ]  # fmt: skip
    for name in ("r2", "worst error"):
        column = history[f"validation_{name}"]
        assert column == history.evaluations[f"validation_{name}"]
        assert len(column) == 3
        assert column[-1] == metrics[name](line, x, t)
    assert history["validation_accuracy"] == []
    for net, given_x, given_t in seen[:3]:
        assert net is line
        assert given_x is x
        assert given_t is t


def test_a_metric_named_accuracy_replaces_the_nets():
    class Reluctant(Scripted):
        def accuracy(self, x, t):
            raise AssertionError("it is not asked")

    metrics = {"accuracy": lambda net, x, t: 0.25}
    ours = fastopt.Trainer(Reluctant([1, 2]), fastopt.SGD(), batch_size=10, metrics=metrics)
    history = ours.fit(np.zeros((10, 1)), np.zeros(10), epochs=2, validation=(0, 0))
    assert history["validation_accuracy"] == [0.25] * 2


def test_metrics_without_validation_are_not_asked():
    def never(net, x, t):
        raise AssertionError

    assert trainer(metrics={"never": never}).fit(*data(), epochs=1).evaluations == {}


@pytest.mark.parametrize("number", [0.5, np.float32(0.5), np.array(0.5), 3, np.int8(3), nan])
def test_metrics_are_plain_numbers_in_the_history(number):
    ours = trainer(metrics={"own": lambda net, x, t: number})
    (value,) = ours.fit(*data(), epochs=1, validation=data(9))["validation_own"]
    assert type(value) is float
    assert str(value) == str(float(number))


@pytest.mark.parametrize("other", [None, "0.5", True, np.ones(2), [0.5], 1j])
def test_a_metric_that_is_no_number_is_named(other):
    ours = trainer(metrics={"own": lambda net, x, t: other})
    message = f"^metric 'own' must return a number, got {re.escape(repr(other))}$"
    with pytest.raises(TypeError, match=message):
        ours.fit(*data(), epochs=1, validation=data(9))


def test_what_a_metric_raises_comes_through():
    def fail(net, x, t):
        raise ZeroDivisionError("no t")

    ours = trainer(metrics={"bad": fail})
    with pytest.raises(ZeroDivisionError, match="no t"):
        ours.fit(*data(), epochs=1, validation=data())
    assert ours.history.evaluations == {}
    assert ours.history["validation_loss"] == ours.history["iteration"] == []
    assert ours.iteration == 1


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        ([r2], TypeError, r"^metrics must be a mapping of names to callables, got \["),
        (r2, TypeError, "^metrics must be a mapping of names to callables, got <function"),
        ("r2", TypeError, "^metrics must be a mapping of names to callables, got 'r2'"),
        ({"r2": 3}, TypeError, "^metrics must be .*, but 'r2' is 3$"),
        ({"r2": float}, TypeError, "^metrics must be .*, but 'r2' is <class 'float'>$"),
        ({3: r2}, TypeError, "^metrics must be .*, but 3 is <function"),
        ({"loss": r2}, ValueError, "^a metric can't be named 'loss'"),
    ],
)
def test_bad_metrics(metrics, error, message):
    with pytest.raises(error, match=message):
        trainer(metrics=metrics)


# --- losses that are no numbers ---


def poisoned(value=nan):
    """Return data whose third batch of 10, in their order, gives a loss of NaN."""
    x, t = data()
    x[25] = value
    return x, t


@both
@pytest.mark.parametrize("value", [nan, inf])
def test_a_loss_that_is_no_number_ends_training_before_the_update(package, value):
    x, t = poisoned(value)
    notes = []
    ours = trainer(package, batch_size=10, shuffle=False, callbacks=[Notes(notes, "a")])
    with (
        pytest.raises(
            FloatingPointError,
            match=r"^the loss is nan at iteration 3, in epoch 1; no update was made",
        ),
        np.errstate(invalid="ignore"),
    ):
        ours.fit(x, t, epochs=2)
    whole = trainer(package, batch_size=10, shuffle=False)
    want = whole.fit(*data(), iterations=2)
    assert ours.history["loss"] == want["loss"]
    assert {len(column) for column in ours.history.steps.values()} == {2}
    assert_same_place(ours, whole)
    assert [moment for _, moment, *_ in notes] == [
        "start", "gradient", "step", "gradient", "step", "end",
    ]  # fmt: skip
    # Mended, it goes on where it was
    losses = ours.fit(*data(), iterations=3)["loss"]
    assert losses == whole.fit(*data(), iterations=3)["loss"]
    assert_same_place(ours, whole)


@pytest.mark.parametrize("loss", [nan, inf, -inf, np.float32(nan), np.array(inf)])
def test_losses_that_are_no_numbers(loss):
    class Bad(Scripted):
        def loss_and_gradient(self, x, t, out=None, *, batch):
            return loss, {"p": np.ones(1)}

    net, optimizer = Bad([]), fastopt.Momentum()
    ours = fastopt.Trainer(net, optimizer)
    message = f"^the loss is {float(loss)} at iteration 1, in epoch 1; .*on_nonfinite='continue'"
    with pytest.raises(FloatingPointError, match=message):
        ours.fit(np.zeros((4, 1)), np.zeros(4), epochs=1)
    with pytest.raises(FloatingPointError, match=message.replace("epoch 1", "epoch 0")):
        next(ours.steps(np.zeros((4, 1)), np.zeros(4), [[0]]))
    assert (net.params["p"][0], optimizer.v, optimizer.iter) == (0, {}, 0)
    assert (ours.iteration, ours.epoch, ours.history["loss"]) == (0, 0, [])


@both
def test_on_nonfinite_continue_goes_on(package):
    ours = trainer(package, batch_size=10, shuffle=False, on_nonfinite="continue")
    with np.errstate(invalid="ignore"):
        history = ours.fit(*poisoned(), epochs=1)
    assert len(history["loss"]) == ours.optimizer.iter == 5
    assert [isnan(loss) for loss in history["loss"]] == [False, False, True, True, True]


@both
def test_an_optimizer_that_skips_goes_on(package):
    net = package.MultiLayerNet(3, [8], 3, rng=1)
    optimizer = package.Adam(lr=0.05, nonfinite="skip")
    ours = fastopt.Trainer(net, optimizer, batch_size=10, shuffle=False)
    with np.errstate(invalid="ignore"):
        history = ours.fit(*poisoned(), epochs=1)
    assert (ours.iteration, optimizer.iter, optimizer.skipped) == (5, 4, 1)
    for name in ("loss", "norm"):  # that of the step before is not the skipped one's
        column = [isnan(number) for number in history.steps[name]]
        assert column == [False, False, True, False, False], name


def test_an_optimizer_that_raises_is_asked_after_the_loss():
    net = fastopt.MultiLayerNet(3, [8], 3, rng=1)
    optimizer = fastopt.Adam(nonfinite="raise")
    for settings, message in (({}, "^the loss is"), ({"on_nonfinite": "continue"}, "^gradient of")):
        ours = fastopt.Trainer(net, optimizer, batch_size=50, **settings)
        with pytest.raises(FloatingPointError, match=message):
            ours.fit(*poisoned(), epochs=1)
        assert ours.iteration == optimizer.iter == 0


# --- averages ---


@both
@pytest.mark.parametrize("accuracy", [True, False])
def test_evaluations_are_of_the_averages(package, accuracy):
    def by_hand(ours):
        raw = copy.deepcopy(ours.net.params)
        with optimizer.averaged(ours.net.params):
            want.append(
                (ours.net.loss(*test), ours.net.accuracy(*test), ours.net.params["W1"].sum())
            )
        for key, p in raw.items():
            assert_array_equal(ours.net.params[key], p)

    want, test, net = [], data(30, seed=3), package.MultiLayerNet(3, [8], 3, rng=1)
    optimizer = package.Adam(lr=0.05, ema=0.9)
    metrics = {"sum": lambda net, x, t: net.params["W1"].sum()}
    if not accuracy:
        metrics["accuracy"] = lambda net, x, t: net.accuracy(x, t)
    ours = fastopt.Trainer(
        net, optimizer, batch_size=16, rng=0, metrics=metrics,
        callbacks=[types.SimpleNamespace(evaluation=by_hand)],
    )  # fmt: skip
    history = ours.fit(*data(), epochs=4, validation=test)
    columns = ("validation_loss", "validation_accuracy", "validation_sum")
    assert [*zip(*(history[name] for name in columns), strict=True)] == want
    assert len(want) == 4


@both
def test_averages_change_nothing_of_the_training(package):
    def fit(**validation):
        net = package.MultiLayerNet(3, [8], 3, rng=1)
        optimizer = package.Adam(lr=0.05, ema=0.9)
        ours = fastopt.Trainer(net, optimizer, batch_size=16, rng=0)
        return ours.fit(*data(), epochs=3, **validation)["loss"], ours

    (losses, ours), (want, plain) = fit(validation=data(9), evaluate_every=1), fit()
    assert losses == want
    assert_same_place(ours, plain)  # without patience it holds the parameters as they are


@both
def test_the_best_are_the_averages(package):
    def note(ours):
        kept.append(copy.deepcopy(ours.optimizer.average))

    kept, net = [], package.MultiLayerNet(3, [8], 3, rng=1)
    arrays = dict(net.params)
    optimizer = package.SGD(lr=5.0, ema=0.5)
    ours = fastopt.Trainer(
        net, optimizer, batch_size=16, rng=0, callbacks=[types.SimpleNamespace(evaluation=note)]
    )
    history = ours.fit(
        *data(), epochs=50, validation=data(30, seed=3), evaluate_every=1, patience=5
    )
    losses = history["validation_loss"]
    assert len(losses) < 200
    best = int(np.argmin(losses))
    assert best == len(losses) - 6
    for key, p in net.params.items():
        assert p is arrays[key]
        assert_array_equal(p, kept[best][key], strict=True)
    assert net.loss(*data(30, seed=3)) == losses[best]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_breaks_off_an_evaluation_leaves_the_parameters_as_they_are(error):
    def fail(net, x, t):
        raise error

    net, optimizer = fastopt.MultiLayerNet(3, [8], 3, rng=1), fastopt.Adam(lr=0.05, ema=0.9)
    ours = fastopt.Trainer(net, optimizer, batch_size=16, rng=0, metrics={"bad": fail})
    if error is KeyboardInterrupt:
        ours.fit(*data(), epochs=1, validation=data(9))
        assert ours.interrupted
    else:
        with pytest.raises(error):
            ours.fit(*data(), epochs=1, validation=data(9))
    plain = trainer(batch_size=16)
    plain.fit(*data(), epochs=1)
    assert_same_place(ours, plain)
    ours.metrics.clear()
    ours.fit(*data(), epochs=1, validation=data(9))  # and the context has been left


# --- the tables ---


def lengths(table):
    return {len(column) for column in table.values()}


def test_tables_have_columns_of_one_length_and_plain_numbers():
    ours = trainer(batch_size=16)
    ours.fit(*data(), iterations=5)
    history = ours.fit(*data(), iterations=8, validation=data(9), evaluate_every=4)
    steps, evaluations = history.steps, history.evaluations
    assert lengths(steps) == {8}
    assert steps["iteration"] == [*range(6, 14)]
    assert steps["epoch"] == [2, 2, 2, 3, 3, 3, 3, 4]
    assert steps["loss"] == history["loss"]
    assert steps["lr"] == [0.05] * 8
    assert all(map(isnan, steps["norm"]))
    assert [*evaluations] == [
        "iteration", "epoch", "seconds", "validation_loss", "validation_accuracy",
    ]  # fmt: skip
    assert lengths(evaluations) == {3}
    assert evaluations["iteration"] == history["iteration"] == [8, 12, 13]
    assert evaluations["epoch"] == [2, 3, 4]
    for table in (steps, evaluations):
        for name, column in table.items():
            kind = int if name in {"iteration", "epoch"} else float
            assert {type(number) for number in column} == {kind}, name
        assert column_rises(table["seconds"])
    for i, seconds in zip(evaluations["iteration"], evaluations["seconds"], strict=True):
        assert seconds >= steps["seconds"][i - 6]
    steps["loss"].clear()  # a table is the caller's
    assert len(history.steps["loss"]) == 8


def column_rises(seconds):
    return seconds[0] >= 0 and all(a <= b for a, b in itertools.pairwise(seconds))


@both
def test_rates_of_numbers_schedules_and_callbacks(package):
    def fit(lr, callbacks=()):
        net = package.MultiLayerNet(3, [8], 3, rng=1)
        ours = fastopt.Trainer(net, package.Adam(lr=lr), batch_size=25, rng=0, callbacks=callbacks)
        return ours.fit(*data(), epochs=2).steps["lr"]

    def halve(ours):
        ours.optimizer.lr /= 2

    assert fit(0.25) == [0.25] * 4
    assert fit(1) == [1.0] * 4
    assert fit(schedules.piecewise({0: 0.5, 2: 0.25})) == [0.5, 0.5, 0.25, 0.25]
    assert fit(lambda t: 0.5**t) == [1, 0.5, 0.25, 0.125]
    assert fit(schedules.warmup(2, 1.0)) == [schedules.warmup(2, 1.0)(t) for t in range(4)]
    assert fit(1.0, [halve]) == [1, 0.5, 0.25, 0.125]


@both
@pytest.mark.parametrize("accumulate", [1, 2])
def test_norms_are_there_where_they_are_measured(package, accumulate):
    class Norm:
        def gradient(self, ours, grads):
            kept.append({key: g.astype("f8") for key, g in grads.items()})

    kept, net = [], package.MultiLayerNet(3, [8], 3, rng=1)
    optimizer = package.Adam(clip_global_norm=inf, accumulate=accumulate)
    ours = fastopt.Trainer(net, optimizer, batch_size=10, rng=0, callbacks=[Norm()])
    norms = ours.fit(*data(), iterations=6).steps["norm"]
    if accumulate == 2:  # a call that only adds has measured none
        assert [isnan(norm) for norm in norms] == [True, False] * 3
        kept = [
            {key: (one[key] + other[key]) / 2 for key in one}
            for one, other in zip(kept[::2], kept[1::2], strict=True)
        ]
        norms = norms[1::2]
    want = [np.sqrt(sum(float(np.sum(g * g)) for g in grads.values())) for grads in kept]
    np.testing.assert_allclose(norms, want, rtol=1e-6)


def test_tables_of_another_optimizer():
    class Plain:
        def update(self, params, grads):
            pass

    def steps_of(optimizer):
        ours = fastopt.Trainer(fastopt.TwoLayerNet(3, 2, 3, rng=0), optimizer, batch_size=25)
        return ours.fit(*data(), epochs=1).steps

    steps = steps_of(Plain())
    assert lengths(steps) == {2}
    assert all(map(isnan, steps["lr"] + steps["norm"]))
    for lr, want in ((0.5, 0.5), (np.float32(0.5), 0.5), (2, 2.0)):
        optimizer = Plain()
        optimizer.lr = lr
        assert steps_of(optimizer)["lr"] == [want] * 2
    for lr in (None, "fast", lambda t: 0.1, [0.1], True):
        optimizer = Plain()
        optimizer.lr = lr
        assert all(map(isnan, steps_of(optimizer)["lr"]))


def test_tables_before_there_is_a_step():
    history = trainer().history
    assert lengths(history.steps) == {0}
    assert history.evaluations == {}


def test_seconds_begin_anew_with_each_fit():
    ours = trainer(batch_size=10)
    first = ours.fit(*data(), epochs=40).steps["seconds"]
    second = ours.fit(*data(), iterations=1).steps["seconds"]
    assert column_rises(first)
    assert 0 <= second[0] < first[-1]


def test_a_history_can_be_copied_and_pickled():
    history = trainer().fit(*data(), epochs=2, validation=data(9))
    for other in (copy.deepcopy(history), pickle.loads(pickle.dumps(history))):
        assert type(other) is fastopt.training.History
        assert other == history
        assert str(other.steps) == str(history.steps)  # NaN is not equal to itself
        assert other.evaluations == history.evaluations


# --- schedules that follow the validation loss ---


@both
@pytest.mark.parametrize("where", ["alone", "warmup", "join", "group", "another setting"])
def test_validation_losses_move_a_plateau_once_each(package, where):
    class Counted(schedules.ReduceOnPlateau):
        def report(self, metric):
            reported.append(metric)
            super().report(metric)

    reported, plateau = [], Counted(0.5, factor=0.5, patience=0)
    settings = {
        "alone": {"lr": plateau},
        "warmup": {"lr": schedules.warmup(1, plateau)},
        "join": {"lr": schedules.join([(1, 0.25), plateau])},
        "group": {"lr": plateau, "groups": {"b*": {"lr": plateau}}},
        "another setting": {"lr": 1.0, "weight_decay": plateau},
    }[where]
    net, losses = Scripted([3, 2, 4, 5, nan]), [3, 2, 4, 5, nan]
    ours = fastopt.Trainer(net, package.SGD(**settings), batch_size=10)
    if where == "group":
        net.params["b"] = np.zeros(1)
        net.loss_and_gradient = lambda x, t, out=None, *, batch: (0.0, dict(net.params))
    rates = []
    ours.callbacks.append(lambda ours: rates.append(plateau(0)))
    history = ours.fit(np.zeros((10, 1)), np.zeros(10), epochs=5, validation=(0, 0))
    assert str(reported) == str(losses)
    assert rates == [0.5, 0.5, 0.25, 0.125, 0.0625]
    if where == "alone":  # what an evaluation moves acts from the next step on
        assert history.steps["lr"] == [0.5, 0.5, 0.5, 0.25, 0.125]


def test_a_plateau_is_told_the_loss_of_the_averages():
    plateau = schedules.ReduceOnPlateau(0.5, patience=0)
    ours = fastopt.Trainer(
        fastopt.MultiLayerNet(3, [8], 3, rng=1), fastopt.SGD(lr=plateau, ema=0.9), rng=0
    )
    history = ours.fit(*data(), epochs=3, validation=data(9))
    assert plateau.state_dict()["best"] == min(history["validation_loss"])
    assert history["validation_loss"][-1] != ours.net.loss(*data(9))


def test_a_plateau_stays_without_validation():
    plateau = schedules.ReduceOnPlateau(0.5, patience=0)
    ours = fastopt.Trainer(fastopt.TwoLayerNet(3, 2, 3), fastopt.SGD(lr=plateau))
    ours.fit(*data(), epochs=5)
    assert plateau == schedules.ReduceOnPlateau(0.5, patience=0)


# --- early stopping ---


@pytest.mark.parametrize(
    ("losses", "patience", "steps", "best"),
    [
        ([5, 4, 3, 4, 3, 2], 2, 5, 3),
        ([5, 4, 3, 4, 2, 3, 3, 1], 2, 7, 5),
        ([5, 4, 3, 2, 1], 1, 5, 5),
        ([1, 2], 1, 2, 1),
        ([float("nan"), 3, 4, 5], 2, 4, 2),
        ([3, float("nan"), float("nan")], 2, 3, 1),
        ([float("nan")] * 5, 2, 3, 1),
    ],
)
def test_early_stopping_restores_the_best(losses, patience, steps, best):
    net = Scripted(losses)
    p = net.params["p"]
    ours = fastopt.Trainer(net, fastopt.SGD(lr=1.0), batch_size=10)
    history = ours.fit(
        np.zeros((10, 1)), np.zeros(10), epochs=len(losses), validation=(0, 0), patience=patience
    )
    assert len(history["loss"]) == steps
    assert net.params["p"] is p
    assert p[0] == best


def test_each_fit_has_its_own_patience_and_best():
    net = Scripted([1, 5, 5, 4, 3, 5])
    ours = fastopt.Trainer(net, fastopt.SGD(lr=1.0), batch_size=10)
    for patience, steps, best in ((2, 3, 1), (5, 3, 3)):
        history = ours.fit(
            np.zeros((10, 1)), np.zeros(10), epochs=3, validation=(0, 0), patience=patience
        )
        assert len(history["loss"]) == steps
        assert net.params["p"][0] == best


def test_without_patience_the_last_parameters_are_kept():
    net = Scripted([1, 2, 3])
    fastopt.Trainer(net, fastopt.SGD(lr=1.0), batch_size=10).fit(
        np.zeros((10, 1)), np.zeros(10), epochs=3, validation=(0, 0)
    )
    assert net.params["p"][0] == 3


def test_ctrl_c_keeps_what_was_trained():
    def interrupt(ours):
        if ours.iteration == 7:
            raise KeyboardInterrupt

    ours = trainer(batch_size=10, callbacks=[interrupt])
    before = {key: p.copy() for key, p in ours.net.params.items()}
    history = ours.fit(*data(), epochs=10)
    assert ours.interrupted
    assert len(history["loss"]) == 7
    assert any(np.any(ours.net.params[key] != p) for key, p in before.items())
    ours.callbacks.clear()
    ours.fit(*data(), epochs=1)
    assert not ours.interrupted


@pytest.mark.skipif(sys.platform == "win32", reason="signals are another thing there")
def test_ctrl_c_as_a_signal():
    import gc

    # What is raised in a callback of the garbage collector is lost, and hypothesis has one
    callbacks, gc.callbacks[:] = list(gc.callbacks), []
    # A process that was started in the background may ignore the signal
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    ours = trainer(batch_size=1)
    # From another process, as a terminal sends it: a thread of this one that runs Python while the
    # signal arrives can hide it from CPython 3.11's main thread until that next waits for a lock
    sender = subprocess.Popen(["sh", "-c", f"sleep 0.2; kill -INT {os.getpid()}"])
    try:
        history = ours.fit(*data(), iterations=10**7)
    finally:
        sender.wait()
        signal.signal(signal.SIGINT, handler)
        gc.callbacks[:] = callbacks
    assert ours.interrupted, ours.iteration
    assert 0 < len(history["loss"]) < 10**7
    assert ours.optimizer.iter == ours.iteration == len(history["loss"])


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer that sends signals")
def test_count_and_history_agree_with_the_optimizer_wherever_ctrl_c_comes():
    def interrupt(*_):
        raise KeyboardInterrupt

    def arm(ours):
        if len(ours.history["loss"]) == 1:
            signal.setitimer(signal.ITIMER_REAL, delays.uniform(1e-5, 1e-3))

    delays = np.random.default_rng(0)
    handler = signal.signal(signal.SIGALRM, interrupt)
    ours = trainer(batch_size=8, callbacks=[arm])
    interrupted = 0
    try:
        for _ in range(2000):
            before = ours.iteration
            history = ours.fit(*data(), iterations=2000)
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert ours.optimizer.iter == ours.iteration == before + len(history["loss"])
            assert {len(column) for column in history.steps.values()} == {len(history["loss"])}
            assert ours.epoch == -(-ours.iteration // 7)
            interrupted += ours.interrupted
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert interrupted > 1900  # one that meets a callback of the garbage collector is lost


@pytest.fixture
def usual_handler():
    """Have Ctrl-C handled as usual; a process started in the background may ignore it."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # it was put back
    signal.signal(signal.SIGINT, handler)


class Pressing:
    """A callback that presses Ctrl-C at a moment after so many steps."""

    def __init__(self, moment, iteration, times=1):
        self.iteration, self.times = iteration, times
        setattr(self, moment, self.press)

    def press(self, ours, grads=None):
        if ours.iteration == self.iteration:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("usual_handler")
@pytest.mark.parametrize(("moment", "iteration"), [("gradient", 5), ("evaluation", 6), ("step", 6)])
def test_ctrl_c_ends_after_the_step_and_its_evaluation(moment, iteration):
    notes = []
    callbacks = [Pressing(moment, iteration), Notes(notes, "a")]
    ours = trainer(batch_size=10, callbacks=callbacks)
    history = ours.fit(*data(), epochs=9, validation=data(9), evaluate_every=3)
    assert ours.interrupted
    assert ours.iteration == ours.optimizer.iter == len(history["loss"]) == 6
    assert history["iteration"] == [3, 6]
    assert lengths(history.steps) == {6}
    assert lengths(history.evaluations) == {2}
    assert [moment for _, moment, *_ in notes[-4:]] == ["gradient", "evaluation", "step", "end"]
    whole = trainer(batch_size=10)
    want = whole.fit(*data(), iterations=9)["loss"]
    ours.callbacks.clear()
    assert history["loss"] + ours.fit(*data(), iterations=3)["loss"] == want
    assert not ours.interrupted
    assert_same_place(ours, whole)


@pytest.mark.usefixtures("usual_handler")
@pytest.mark.parametrize(
    ("moment", "iteration", "taken", "evaluated"),
    [("gradient", 5, 5, 1), ("evaluation", 6, 6, 2), ("step", 6, 6, 2)],
)
def test_ctrl_c_twice_ends_at_once(moment, iteration, taken, evaluated):
    notes = []
    callbacks = [Pressing(moment, iteration, times=2), Notes(notes, "a")]
    ours = trainer(batch_size=10, callbacks=callbacks)
    history = ours.fit(*data(), epochs=9, validation=data(9), evaluate_every=3)
    assert ours.interrupted
    assert ours.iteration == ours.optimizer.iter == len(history["loss"]) == taken
    assert lengths(history.steps) == {taken}
    assert lengths(history.evaluations) == {evaluated}
    last = [moment for _, moment, *_ in notes[-2:]]
    assert last == [
        {"gradient": "step", "evaluation": "gradient", "step": "evaluation"}[moment],
        "end",
    ]


@pytest.mark.usefixtures("usual_handler")
def test_ctrl_c_with_patience_restores_the_best():
    net = Scripted([5, 1, 3, 4])
    ours = fastopt.Trainer(
        net, fastopt.SGD(lr=1.0), batch_size=10, callbacks=[Pressing("gradient", 3)]
    )
    history = ours.fit(np.zeros((10, 1)), np.zeros(10), epochs=9, validation=(0, 0), patience=5)
    assert ours.interrupted
    assert history["validation_loss"] == [5, 1, 3, 4]
    assert net.params["p"][0] == 2


@pytest.mark.usefixtures("usual_handler")
def test_ctrl_c_is_handled_as_before_when_fit_is_over():
    ours = trainer(batch_size=10)
    ours.fit(*data(), epochs=1)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    ours.callbacks.append(Raising("step", 6, OSError("full")))
    with pytest.raises(OSError, match="full"):
        ours.fit(*data(), epochs=1)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_handler_of_someone_elses_is_left_alone():
    seen = []

    def mine(*_):
        seen.append(ours.iteration)

    handler = signal.signal(signal.SIGINT, mine)
    try:
        ours = trainer(batch_size=10, callbacks=[Pressing("gradient", 2)])
        history = ours.fit(*data(), epochs=1)
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, handler)
    assert seen == [2]
    assert len(history["loss"]) == 5
    assert not ours.interrupted


@pytest.mark.usefixtures("usual_handler")
def test_in_another_thread_signals_are_left_alone():
    handlers = []
    callbacks = [lambda ours: handlers.append(signal.getsignal(signal.SIGINT))]
    ours = trainer(batch_size=10, callbacks=callbacks)
    with ThreadPoolExecutor(1) as pool:
        history = pool.submit(ours.fit, *data(), epochs=1).result()
    assert len(history["loss"]) == 5
    assert handlers == [signal.default_int_handler] * 5


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer that sends signals")
def test_what_is_interrupted_anywhere_goes_on_with_the_same_bits():
    def interrupt(*_):
        raise KeyboardInterrupt

    def arm(ours):
        if len(ours.history["loss"]) == 1:
            signal.setitimer(signal.ITIMER_REAL, delays.uniform(1e-5, 1e-3))

    def new_trainer(**settings):
        optimizer = fastopt.Adam(lr=0.001, ema=0.9, clip_global_norm=inf)
        net = fastopt.MultiLayerNet(3, [8], 3, rng=1)
        return fastopt.Trainer(net, optimizer, batch_size=8, rng=0, **settings)

    delays, losses = np.random.default_rng(0), []
    handler = signal.signal(signal.SIGALRM, interrupt)
    ours = new_trainer(callbacks=[arm])
    try:
        for _ in range(500):
            history = ours.fit(*data(), iterations=500, validation=data(9), evaluate_every=2)
            signal.setitimer(signal.ITIMER_REAL, 0)
            losses += history["loss"]
            assert lengths(history.steps) == {len(history["loss"])}
            evaluated = len(history["iteration"])
            assert lengths(history.evaluations) <= {evaluated}
            assert (
                len(history["validation_loss"]) == len(history["validation_accuracy"]) == evaluated
            )
            with ours.optimizer.averaged(ours.net.params):  # the evaluation has left it
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    whole = new_trainer()
    assert whole.fit(*data(), iterations=ours.iteration)["loss"] == losses
    assert_same_place(ours, whole)


class Interrupted(fastopt.SGD):
    """Is interrupted in its third step, when the compiled step is over or before it."""

    def __init__(self, after):
        super().__init__(lr=1.0)
        self.after = after
        self.calls = 0

    def update(self, params, grads):
        self.calls += 1
        if self.calls == 3 and not self.after:
            raise KeyboardInterrupt
        super().update(params, grads)
        if self.calls == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [False, True])
def test_a_step_is_counted_if_the_optimizer_has_taken_it(after):
    net = Scripted([])
    ours = fastopt.Trainer(net, Interrupted(after), batch_size=2)
    history = ours.fit(np.zeros((4, 1)), np.zeros(4), epochs=9)
    assert ours.interrupted
    assert ours.iteration == len(history["loss"]) == net.params["p"][0] == 2 + after
    assert ours.epoch == 1 + after


def test_a_step_that_another_optimizer_breaks_off_is_not_counted():
    class Halfway:
        def update(self, params, grads):
            params["p"] += 0.5
            raise KeyboardInterrupt

    ours = fastopt.Trainer(Scripted([]), Halfway())
    assert ours.fit(np.zeros((4, 1)), np.zeros(4), epochs=9)["loss"] == []
    assert ours.iteration == 0


def test_ctrl_c_between_the_lists_of_an_evaluation_leaves_lists_of_one_length():
    class Interrupting(list):
        def append(self, value):
            super().append(value)
            if len(self) == 2:
                raise KeyboardInterrupt

    def replace(ours):
        if ours.iteration == 1:
            losses = ours.history["validation_loss"]
            ours.history["validation_loss"] = Interrupting(losses)

    net = Scripted([2, 1, 3])
    ours = fastopt.Trainer(net, fastopt.SGD(lr=1.0), batch_size=10, callbacks=[replace])
    history = ours.fit(np.zeros((10, 1)), np.zeros(10), epochs=3, validation=(0, 0))
    assert ours.interrupted
    assert {key: len(values) for key, values in history.items()} == {
        "loss": 2, "iteration": 2, "validation_loss": 2, "validation_accuracy": 2,
    }  # fmt: skip


def test_ctrl_c_within_an_evaluation_leaves_lists_of_one_length():
    net = Scripted([2, 1])

    def accuracy(x, t):
        if net.params["p"][0] == 2:
            raise KeyboardInterrupt
        return 0.5

    net.accuracy = accuracy
    ours = fastopt.Trainer(net, fastopt.SGD(lr=1.0), batch_size=10)
    history = ours.fit(np.zeros((10, 1)), np.zeros(10), epochs=2, validation=(0, 0))
    assert ours.interrupted
    lengths = {key: len(values) for key, values in history.items()}
    assert lengths == {
        "loss": 2, "iteration": 1, "validation_loss": 1, "validation_accuracy": 1,
    }  # fmt: skip


def test_an_interrupted_fit_restores_the_best_as_well():
    def interrupt(ours):
        if ours.iteration == 4:
            raise KeyboardInterrupt

    net = Scripted([5, 1, 3, 4])
    ours = fastopt.Trainer(net, fastopt.SGD(lr=1.0), batch_size=10, callbacks=[interrupt])
    ours.fit(np.zeros((10, 1)), np.zeros(10), epochs=9, validation=(0, 0), patience=5)
    assert ours.interrupted
    assert net.params["p"][0] == 2


@pytest.mark.parametrize(
    ("options", "exception", "message"),
    [
        ({}, ValueError, "epochs or iterations"),
        ({"epochs": 1, "iterations": 1}, ValueError, "epochs or iterations"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
        ({"iterations": -1}, ValueError, "iterations must be at least 1, got -1"),
        ({"epochs": 1.5}, TypeError, "epochs must be an integer, got 1.5"),
        ({"epochs": 1, "patience": 3}, ValueError, "validation"),
        ({"epochs": 1, "evaluate_every": 3}, ValueError, "validation"),
        ({"epochs": 1, "evaluate_every": 0, "validation": data()}, ValueError, "evaluate_every"),
        ({"epochs": 1, "patience": 0, "validation": data()}, ValueError, "patience"),
        ({"epochs": 1, "validation": data()[0]}, TypeError, "validation must be a pair"),
        ({"epochs": 1, "validation": (*data(), 1)}, TypeError, "validation must be a pair"),
        ({"epochs": 1, "x": np.zeros((0, 3))}, ValueError, "no samples"),
        ({"epochs": 1, "x": np.zeros(())}, ValueError, "no samples"),
        ({"epochs": 1, "t": np.arange(49) % 3}, ValueError, "labels"),
        ({"epochs": 1, "x": np.zeros((50, 4))}, ValueError, r"\(N, 3\)"),
    ],
)
def test_bad_arguments(options, exception, message):
    x, t = data()
    ours = trainer()
    before = {key: p.copy() for key, p in ours.net.params.items()}
    with pytest.raises(exception, match=message):
        ours.fit(**({"x": x, "t": t} | options))
    for key, p in before.items():
        assert_array_equal(ours.net.params[key], p)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_bad_batch_size(batch_size):
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        trainer(batch_size=batch_size)
    with pytest.raises(TypeError, match="batch_size must be an integer"):
        trainer(batch_size=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"net": fastopt.MultiLayerNet}, "^net must be an object .* the class MultiLayerNet; give"),
        ({"net": "net"}, "^net must be an object with params and loss_and_gradient, got 'net'"),
        ({"net": {"W": np.zeros(1)}}, "^net must be an object with params and loss_and_gradient"),
        ({"optimizer": fastopt.Adam}, "^optimizer must be an object .* the class Adam; give an in"),
        ({"optimizer": "adam"}, "^optimizer must be an object with update, got 'adam'"),
        (
            {"callbacks": print},
            r"^callbacks must be a sequence of callables, got .* is \[callback\]",
        ),
        ({"callbacks": [print, 3]}, "^callbacks must be a .* start, .* end, but item 1 is 3$"),
        ({"callbacks": "stop"}, "^callbacks must be a sequence of callables, .* but item 0 is 's'"),
        ({"callbacks": [Scripted]}, "^callbacks must be .* item 0 is <class"),
    ],
)
def test_wrong_types_are_found_at_once(arguments, message):
    right = {"net": fastopt.TwoLayerNet(3, 2, 3), "optimizer": fastopt.Adam()}
    with pytest.raises(TypeError, match=message):
        fastopt.Trainer(**(right | arguments))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"shuffle": 1}, TypeError, "^shuffle must be True or False, got 1$"),
        ({"progress": "yes"}, TypeError, "^progress must be True or False, got 'yes'$"),
        ({"flush_subnormals": 1}, TypeError, "^flush_subnormals must be True or False, got 1$"),
        (
            {"flush_subnormals": None},
            TypeError,
            "^flush_subnormals must be True or False, got None",
        ),
        (
            {"on_nonfinite": "skip"},
            ValueError,
            "^on_nonfinite must be 'raise' or 'continue', got 's",
        ),
        ({"on_nonfinite": None}, ValueError, "^on_nonfinite must be 'raise' or 'continue', got N"),
        ({"batch_size": True}, TypeError, "^batch_size must be an integer, got True$"),
        ({"callbacks": None}, TypeError, "^callbacks must be a sequence of callables, got None"),
        (
            {"callbacks": [types.SimpleNamespace(begin=print)]},
            TypeError,
            "^callbacks .* item 0 is n",
        ),
        ({"callbacks": [types.SimpleNamespace(start=3)]}, TypeError, "^callbacks .* item 0 is n"),
        ({"learning_rate": 0.1}, TypeError, "learning_rate"),
    ],
)
def test_other_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        trainer(**arguments)


def test_numbers_of_numpy_are_numbers():
    x, t = data()
    ours = trainer(batch_size=np.int64(16), shuffle=np.True_, flush_subnormals=np.True_)
    assert (type(ours.batch_size), ours.shuffle) == (int, True)
    assert len(ours.fit(x, t, epochs=np.int8(1))["loss"]) == 4


def test_a_mistyped_attribute_is_refused():
    ours = trainer()
    for name in ("lr", "callback", "batchsize", "iterations"):
        with pytest.raises(AttributeError, match=name):
            setattr(ours, name, 1)

    class Mine(fastopt.Trainer):
        pass

    mine = Mine(ours.net, ours.optimizer)
    mine.lr = 0.1  # a class of one's own may have more


def test_repr_shows_what_is_not_the_default():
    adam = fastopt.Adam(lr=0.5)
    net = fastopt.TwoLayerNet(3, 2, 3)
    assert repr(fastopt.Trainer(net, adam)) == f"Trainer({net!r}, Adam(lr=0.5))"
    ours = fastopt.Trainer(
        net, adam, batch_size=16, shuffle=False, rng=3, callbacks=[print], progress=False,
        metrics={"n": len}, on_nonfinite="continue", flush_subnormals=False,
    )  # fmt: skip
    assert repr(ours) == (
        f"Trainer({net!r}, Adam(lr=0.5), batch_size=16, shuffle=False, "
        f"callbacks=[{print!r}], progress=False, metrics={{'n': {len!r}}}, "
        "on_nonfinite='continue', flush_subnormals=False)"
    )

    class Mine(fastopt.Trainer):
        pass

    assert repr(Mine(net, adam)).startswith("Mine(")


def test_generators_are_drawn_from_and_seeds_make_one():
    rng = np.random.default_rng(5)
    assert (
        trainer(rng=rng, batch_size=10).fit(*data(), epochs=2)["loss"]
        == (trainer(rng=5, batch_size=10).fit(*data(), epochs=2)["loss"])
    )
    other = np.random.default_rng(5)
    for _ in range(2):
        other.permutation(50)
    assert rng.bit_generator.state == other.bit_generator.state


def test_validation_of_a_net_without_accuracy():
    x = np.random.default_rng(0).standard_normal((40, 2))
    line = Line()
    history = fastopt.Trainer(line, fastopt.Adam(lr=0.1), batch_size=20, rng=0).fit(
        x, x @ [1.0, -2.0], epochs=3, validation=(x, x @ [1.0, -2.0]), patience=5
    )
    assert history["iteration"] == [2, 4, 6]
    assert history["validation_loss"][-1] == line.loss(x, x @ [1.0, -2.0])
    assert history["validation_accuracy"] == []


@both
@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber", "poisson"])
def test_regression_nets_have_no_accuracy(package, loss):
    x, _ = data()
    t = np.abs(x[:, :2])
    net = package.MultiLayerNet(3, [8], 2, loss=loss, rng=1)
    metrics = {"r2": lambda net, x, t: net.score(x, t)}
    ours = fastopt.Trainer(net, package.Adam(lr=0.05), rng=0, batch_size=10, metrics=metrics)
    history = ours.fit(x, t, epochs=20, validation=(x, t))
    assert history["validation_accuracy"] == []
    assert "validation_accuracy" not in history.evaluations
    assert history["validation_loss"][-1] == net.loss(x, t) < history["validation_loss"][0]
    assert history.evaluations["validation_r2"][-1] == net.score(x, t)
    assert f"loss='{loss}'" in repr(ours)


@both
def test_nets_of_several_labels_have_an_accuracy(package):
    x, t = data()
    net = package.MultiLayerNet(3, [8], 3, loss="logistic", use_batchnorm=True, rng=1)
    ours = fastopt.Trainer(net, package.Adam(lr=0.05), rng=0, batch_size=10)
    history = ours.fit(x, np.eye(3)[t], epochs=20, validation=(x, np.eye(3)[t]))
    assert history["validation_accuracy"][-1] > 0.8


@both
def test_the_best_have_their_running_averages(package):
    x, t = data()
    net = package.MultiLayerNet(3, [8], 3, use_batchnorm=True, use_dropout=True, rng=1)
    arrays = {**net.params, **net.running}
    seen = []

    def note(trainer):
        seen.append((trainer.history["validation_loss"][-1], copy.deepcopy(net.running)))

    ours = fastopt.Trainer(
        net, package.SGD(lr=2.0), batch_size=10, rng=0,
        callbacks=[types.SimpleNamespace(evaluation=note)],
    )  # fmt: skip
    history = ours.fit(x, t, epochs=20, validation=data(seed=1), evaluate_every=1, patience=5)
    best, running = min(seen, key=lambda each: each[0])
    assert best < history["validation_loss"][-1]
    assert net.loss(*data(seed=1)) == best
    for key, average in running.items():
        assert_array_equal(net.running[key], average)
    assert all(arrays[key] is array for key, array in {**net.params, **net.running}.items())


def test_validation_of_a_net_without_loss():
    class Blind:
        params = {}

        def loss_and_gradient(self, x, t, out=None, *, batch):
            raise AssertionError("it is found before a step is taken")

    ours = fastopt.Trainer(Blind(), fastopt.SGD())
    with pytest.raises(TypeError, match=r"^net must be an object with loss for validation, got"):
        ours.fit(*data(), epochs=1, validation=data())


def test_another_net_after_a_fit():
    x, t = data()
    ours = trainer()
    ours.fit(x, t, epochs=1)
    ours.net = fastopt.MultiLayerNet(3, [9], 3, rng=0)
    ours.optimizer = fastopt.SGD()
    assert len(ours.fit(x, t, iterations=2)["loss"]) == 2


def test_error_in_the_validation_data_is_told():
    x, t = data()
    with pytest.raises(ValueError, match="label"):
        trainer().fit(x, t, epochs=1, validation=(x, t + 3))


def test_progress_bar(capsys):
    history = trainer(batch_size=5, progress=True).fit(*data(), epochs=3)
    shown = capsys.readouterr().err
    assert re.search(r"100%.*loss [01]\.\d\d", shown)
    assert len(history["loss"]) == 30


def test_progress_bar_shows_small_losses(capsys):
    class Small(Scripted):
        def loss_and_gradient(self, x, t, out=None, *, batch):
            return 1.234e-5, {"p": np.zeros(1)}

    fastopt.Trainer(Small([]), fastopt.SGD(), progress=True).fit(
        np.zeros((4, 1)), np.zeros(4), epochs=1
    )
    assert "loss 1.23e-05" in capsys.readouterr().err


@pytest.mark.parametrize("progress", [None, True, False])
@pytest.mark.parametrize("is_closed", [False, True])
def test_without_a_standard_error_there_is_no_bar(progress, is_closed, monkeypatch):
    stream = None
    if is_closed:
        stream = io.StringIO()
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    assert len(trainer(progress=progress).fit(*data(), epochs=2)["loss"]) == 2


class Bar:
    """What tqdm's bars are to the progress, without showing any."""

    made = []

    def __init__(self, **settings):
        self.settings, self.steps, self.texts = settings, 0, []
        Bar.made.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, n):
        self.steps += n

    def set_postfix_str(self, text, refresh):
        self.texts.append(text)


def shell(**attributes):
    """Return a module like IPython, whose shell has these attributes."""
    module = types.ModuleType("IPython")
    module.get_ipython = lambda: types.SimpleNamespace(**attributes)
    return module


@pytest.mark.parametrize("progress", [None, True, False])
@pytest.mark.parametrize("has_stream", [True, False])
def test_a_notebook_has_its_bar(progress, has_stream, monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", shell(kernel=object()))
    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=Bar))
    monkeypatch.setattr(Bar, "made", [])
    if not has_stream:
        monkeypatch.setattr(sys, "stderr", None)
    trainer(batch_size=10, progress=progress).fit(*data(), epochs=3)
    assert len(Bar.made) == (progress is not False)
    for bar in Bar.made:
        assert bar.settings["total"] == bar.steps == 15
        assert re.fullmatch(r"loss [01]\.\d+", bar.texts[-1])


@pytest.mark.parametrize("ipython", [shell(), types.ModuleType("IPython")])
def test_a_terminals_ipython_is_no_notebook(ipython, monkeypatch):
    if not hasattr(ipython, "get_ipython"):  # nobody is in a shell
        ipython.get_ipython = lambda: None
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=Bar))
    monkeypatch.setattr(Bar, "made", [])
    trainer().fit(*data(), epochs=1)
    assert Bar.made == []


def test_a_bar_counts_the_steps_that_are_left(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=Bar))
    monkeypatch.setattr(Bar, "made", [])
    ours = trainer(batch_size=10, progress=True)
    ours.fit(*data(), iterations=3)
    ours.callbacks.append(lambda ours: ours.stop())
    ours.fit(*data(), iterations=4)
    assert [(bar.settings["total"], bar.steps) for bar in Bar.made] == [(3, 3), (4, 1)]


@pytest.mark.parametrize("progress", [False, None])
def test_no_progress_bar(progress, capsys):
    trainer(progress=progress).fit(*data(), epochs=1)
    assert capsys.readouterr() == ("", "")


def test_progress_bar_is_closed_after_an_error(capsys):
    def fail(_):
        raise RuntimeError("no more")

    ours = trainer(progress=True, callbacks=[fail])
    with pytest.raises(RuntimeError, match="no more"):
        ours.fit(*data(), epochs=1)
    assert capsys.readouterr().err.endswith("\r")


def test_progress_without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match="pip install tqdm"):
        trainer(progress=True).fit(*data(), epochs=1)
    monkeypatch.setattr(_progress, "find_spec", lambda name: None)
    assert trainer().fit(*data(), epochs=1)["loss"]


def test_one_hot_labels_and_images():
    x, t = data()
    want = trainer().fit(x, t, epochs=2)["loss"]
    images = x.reshape(50, 3, 1).astype("f8")
    assert trainer().fit(images, np.eye(3)[t], epochs=2)["loss"] == want


@pytest.mark.parametrize(
    ("name", "value", "exception"),
    [
        ("batch_size", 0, ValueError),
        ("batch_size", 2.5, TypeError),
        ("shuffle", 1, TypeError),
        ("callbacks", [3], TypeError),
        ("progress", "yes", TypeError),
        ("metrics", [max], TypeError),
        ("on_nonfinite", "ignore", ValueError),
        ("checkpoint", 3, TypeError),
        ("checkpoint_every", 3, ValueError),
        ("flush_subnormals", None, TypeError),
        ("net", fastopt.MultiLayerNet, TypeError),
        ("optimizer", "adam", TypeError),
    ],
)
def test_what_is_set_later_is_checked_where_a_fit_begins(name, value, exception):
    ours = trainer()
    before = ours.iteration
    setattr(ours, name, value)
    with pytest.raises(exception, match=rf"^{name}\b"):
        ours.fit(*data(), epochs=1)
    assert ours.iteration == before


@pytest.mark.parametrize("loss", [None, "1.0", np.zeros(2)])
def test_a_loss_that_is_no_number_is_named(loss):
    net = Scripted([])
    net.loss_and_gradient = lambda x, t, out=None, *, batch: (loss, {"p": np.ones(1)})
    with pytest.raises(TypeError, match="loss_and_gradient must return a number, got"):
        fastopt.Trainer(net, fastopt.SGD()).fit(np.zeros((4, 1)), np.zeros(4), epochs=1)
    assert net.params["p"] == 0
