"""The Trainer: what it does with batches, evaluations, callbacks and interruptions."""

import io
import itertools
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastopt
from fastopt import _progress, reference

both = pytest.mark.parametrize("package", [fastopt, reference], ids=["compiled", "twin"])


def data(n=50, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(n) % 3
    return (np.eye(3)[t] + 0.5 * rng.standard_normal((n, 3))).astype("f4"), t


def trainer(package=fastopt, rng=0, lr=0.05, **settings):
    net = package.MultiLayerNet(3, [8], 3, rng=1)
    return fastopt.Trainer(net, package.Adam(lr=lr), rng=rng, **settings)


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


class Line:
    """A regression: a net without an accuracy."""

    def __init__(self):
        self.params = {"w": np.zeros(2)}

    def loss_and_gradient(self, x, t, out=None, *, batch):
        error = x[batch] @ self.params["w"] - t[batch]
        return float(np.mean(error**2)), {"w": 2 * x[batch].T @ error / len(error)}

    def loss(self, x, t):
        return float(np.mean((x @ self.params["w"] - t) ** 2))


def test_validation_of_a_net_without_accuracy():
    x = np.random.default_rng(0).standard_normal((40, 2))
    line = Line()
    history = fastopt.Trainer(line, fastopt.Adam(lr=0.1), batch_size=20, rng=0).fit(
        x, x @ [1.0, -2.0], epochs=3, validation=(x, x @ [1.0, -2.0]), patience=5
    )
    assert history["iteration"] == [2, 4, 6]
    assert history["validation_loss"][-1] == line.loss(x, x @ [1.0, -2.0])
    assert history["validation_accuracy"] == []


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
