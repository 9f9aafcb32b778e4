"""Trainings that are broken off and go on: they end as those do that nobody stopped, bit for bit.

By states and checkpoints, after an error, Ctrl-C or a kill at any moment; and what can't be gone on
from. How often processes are killed: helpers/long.py.
"""

import copy
import itertools
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import trainings
from helpers.long import KILLS_OF_TRAININGS, SEED
from helpers.marks import both
from helpers.trainings import VALIDATION, Notes, Plain, all_of, data, make
from helpers.trees import assert_same_tree

import fastopt
from fastopt import reference, schedules

needs_signals = pytest.mark.skipif(
    sys.platform == "win32", reason="signals are another thing there"
)


class Broken(Exception):  # noqa: N818 - it is no error
    pass


class Break:
    """A callback that breaks a training off, at one of its moments, in a step of a number."""

    def __init__(self, at=None, moment="step", how=None):
        self.at, self.moment, self.how = at, moment, how

    def _come(self, moment, iteration):
        if self.at == iteration and self.moment == moment:
            if self.how is None:
                raise Broken
            self.how()

    def gradient(self, trainer, grads):
        self._come("gradient", trainer.iteration + 1)

    def step(self, trainer):
        self._come("step", trainer.iteration)

    def evaluation(self, trainer):
        self._come("evaluation", trainer.iteration)


def own_schedule(t):
    return 0.1 / (1 + t)


def plateau():
    return schedules.ReduceOnPlateau(0.05, factor=0.5, patience=0)


def norm_and_dropout(seed):
    return fastopt.MultiLayerNet(3, [5], 3, use_batchnorm=True, use_dropout=True, rng=seed)


VALIDATED = {"epochs": 4, "validation": VALIDATION}

# Arguments of `make`, and of `fit`
CASES = {
    "plain": ({}, {"epochs": 4}),
    "by iterations": ({}, {"iterations": 15}),
    "in order": ({"shuffle": False}, {"epochs": 4}),
    "every 3": ({"checkpoint_every": 3}, {"epochs": 4}),
    "every 1": ({"checkpoint_every": 1}, {"epochs": 4}),
    "evaluated": ({}, VALIDATED),
    "evaluated in passes": ({"checkpoint_every": 2}, {**VALIDATED, "evaluate_every": 3}),
    "patience": ({"settings": {"lr": 0.3}}, {**VALIDATED, "evaluate_every": 2, "patience": 2}),
    "metrics": ({"metrics": {"one": lambda net, x, t: np.float32(1.5)}}, VALIDATED),
    "stateful callback": ({"checkpoint_every": 3}, {**VALIDATED, "evaluate_every": 2}),
    "plateau": ({"settings": {"lr": plateau}}, {**VALIDATED, "evaluate_every": 1}),
    "own schedule": ({"settings": {"lr": own_schedule}}, {"epochs": 4}),
    "averages": (
        {"settings": {"lr": 0.2, "ema": 0.7}, "checkpoint_every": 3},
        {**VALIDATED, "evaluate_every": 2, "patience": 2},
    ),
    "sums": ({"settings": {"lr": 0.05, "accumulate": 3}, "checkpoint_every": 1}, {"epochs": 4}),
    "momentum": ({"optimizer": "Nesterov"}, {"epochs": 4}),
    "norm and dropout": (
        {"net": norm_and_dropout, "settings": {"lr": 0.3}, "checkpoint_every": 3},
        {**VALIDATED, "evaluate_every": 2, "patience": 3},
    ),
    "net of its own": ({"net": Plain, "checkpoint_every": 3}, {**VALIDATED, "patience": 2}),
    "all": ({"settings": trainings.everything_at_once, "checkpoint_every": 1}, VALIDATED),
}  # fmt: skip


def make_case(arguments, seed, path=None, package=fastopt, breaks=None):
    """Return the trainer of a case; what stands there as a class or function is made anew."""
    arguments = dict(arguments)
    if "net" in arguments:
        arguments["net"] = arguments["net"](seed)
    settings = arguments.get("settings")
    if settings is not None:
        settings = settings() if callable(settings) else dict(settings)
        settings["lr"] = plateau() if settings["lr"] is plateau else settings["lr"]
        arguments["settings"] = settings
    if path is None:
        arguments.pop("checkpoint_every", None)
    callbacks = [Notes(), breaks or Break()]
    return make(package, seed, checkpoint=path, callbacks=callbacks, **arguments)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@both
def test_broken_off_and_resumed(package, case, tmp_path):
    """Once by an error, once more after that, wherever it comes: between two checkpoints, too."""
    arguments, fit = case
    whole_way = make_case(arguments, 0, package=package)
    whole_way.fit(*data(), **fit)
    want = all_of(whole_way)
    n_steps = whole_way.iteration
    breaks = [1, 2, 3, 4, 5, 8, 9, n_steps] if package is fastopt else [2, 5]
    for i, at in enumerate(breaks):
        path, moment = tmp_path / str(i), ("step", "gradient")[i % 2]
        for seed, each in enumerate([at, min(at + 3, n_steps + 1)]):
            broken = make_case(arguments, seed, path, package, Break(each, moment))
            if each <= n_steps:
                with pytest.raises(Broken):
                    broken.fit(*data(), resume=True, **fit)
            if not path.exists():  # without a checkpoint it begins, with the weights it has
                break
        ours = make_case(arguments, 7 if path.exists() else 0, path, package)
        history = ours.fit(*data(), resume=True, **fit)
        assert history is ours.history
        assert not ours.interrupted
        assert_same_tree(all_of(ours), want)
        assert [each.name for each in tmp_path.iterdir()] == [*{path.name}]
        path.unlink()


def press_ctrl_c():
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
def ctrl_c():
    """Have Ctrl-C do what it does in a process that nobody started in the background."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize("moment", ["step", "gradient", "evaluation"])
@pytest.mark.parametrize("name", ["plain", "evaluated in passes", "averages", "all"])
@needs_signals
def test_ctrl_c_writes_a_checkpoint(name, moment, tmp_path, ctrl_c):
    """Of the step that it came in, and its evaluation; by default, too, in the midst of a pass."""
    arguments, fit = CASES[name]
    arguments = {key: each for key, each in arguments.items() if key != "checkpoint_every"}
    whole_way = make_case(arguments, 0)
    whole_way.fit(*data(), **fit)
    for at in (1, 2, 6, 9):
        path = tmp_path / str(at)
        broken = make_case(arguments, 0, path, breaks=Break(at, moment, press_ctrl_c))
        broken.fit(*data(), **fit)
        is_evaluated = at in whole_way.history["iteration"]
        assert broken.interrupted == (moment != "evaluation" or is_evaluated)
        if broken.interrupted:
            assert broken.iteration == at
            assert fastopt.load(path)["trainer"]["iteration"] == at
        ours = make_case(arguments, 1, path)
        ours.fit(*data(), resume=True, **fit)
        assert_same_tree(all_of(ours), all_of(whole_way))


@needs_signals
def test_ctrl_c_twice_ends_at_once(tmp_path, ctrl_c):
    def twice():
        press_ctrl_c()
        press_ctrl_c()

    path = tmp_path / "checkpoint"
    broken = make_case({}, 0, path, breaks=Break(6, "step", twice))
    broken.fit(*data(), epochs=4)
    assert broken.interrupted
    assert fastopt.load(path)["trainer"]["iteration"] == 4  # that of the first pass
    ours, whole_way = make_case({}, 1, path), make_case({}, 0)
    ours.fit(*data(), epochs=4, resume=True)
    whole_way.fit(*data(), epochs=4)
    assert_same_tree(all_of(ours), all_of(whole_way))


# --- states ---


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("name", ["plain", "in order", "averages", "net of its own", "all"])
def test_states_go_from_one_trainer_to_another(name, n):
    """Class and twin alike; the other one's history is the first one's, as far as it has come."""
    arguments, _ = CASES[name]
    other_package = fastopt if "net" in arguments else reference
    whole_way = make_case(arguments, 0)
    other = make_case(arguments, 1, package=fastopt)
    other.fit(*data(), iterations=3, validation=VALIDATION, patience=9)
    if n:
        whole_way.fit(*data(), iterations=n, validation=VALIDATION)
    state = whole_way.state_dict()
    kept = copy.deepcopy(state)
    other.load_state_dict(state)
    assert_same_tree(all_of(other), all_of(whole_way))
    for trainer in (whole_way, other):
        trainer.fit(*data(), iterations=6, validation=VALIDATION)
    assert_same_tree(all_of(other), all_of(whole_way))
    assert_same_tree(state, kept)
    again = make_case(arguments, 2, package=other_package)
    if other_package is fastopt:
        again.load_state_dict(fastopt_tree(state))
        again.fit(*data(), iterations=6, validation=VALIDATION)
        assert_same_tree(all_of(again), all_of(whole_way))


def fastopt_tree(state):
    """Return a state whose arrays can't be written to."""
    state = copy.deepcopy(state)
    for by_key in state["optimizer"]["arrays"].values():
        for array in by_key.values():
            array.flags.writeable = False
    return state


@both
def test_a_state_holds_copies(package):
    for arguments in ({}, {"net": Plain}):
        ours = make_case(arguments, 0, package=package)
        ours.fit(*data(), iterations=6, validation=VALIDATION, patience=9)
        before = all_of(ours)
        spoil(ours.state_dict())
        assert_same_tree(all_of(ours), before)
        state = ours.state_dict()
        kept = copy.deepcopy(state)
        ours.fit(*data(), iterations=3)
        assert_same_tree(state, kept)
        ours.load_state_dict(state)
        spoil(state)
        assert_same_tree(all_of(ours), before)


def spoil(tree):
    """Overwrite all that a tree holds."""
    for step in [*tree] if isinstance(tree, dict) else range(len(tree)):
        inner = tree[step]
        if isinstance(inner, np.ndarray):
            inner[...] = 77
        elif isinstance(inner, (dict, list)):
            spoil(inner)
        else:
            tree[step] = "spoiled"


def test_a_state_after_an_update_that_was_interrupted():
    """Its step is counted, and not in all columns of the history yet."""

    class Interrupted(fastopt.SGD):
        def update(self, params, grads):
            super().update(params, grads)
            if self.iter == 2:
                raise KeyboardInterrupt

    def make_it(seed):
        net = fastopt.MultiLayerNet(3, [5], 3, rng=seed)
        return fastopt.Trainer(net, Interrupted(), rng=seed)

    ours, other = make_it(0), make_it(1)
    with pytest.raises(KeyboardInterrupt):
        list(ours.steps(*data(), [[0, 1]] * 3))
    other.load_state_dict(ours.state_dict())
    assert other.iteration == 2
    assert_same_tree(all_of(other), all_of(ours))


def test_an_optimizer_without_a_state():
    class Own:
        def update(self, params, grads):
            pass

    ours = fastopt.Trainer(fastopt.MultiLayerNet(3, [5], 3), Own())
    for call in (ours.state_dict, lambda: ours.load_state_dict({})):
        with pytest.raises(TypeError, match="optimizer must be an object with update, state_dict"):
            call()


# --- what a checkpoint is resumed with ---


def test_resume_without_a_file(tmp_path):
    path = tmp_path / "checkpoint"
    ours, other = make(checkpoint=path), make()
    for trainer, resume in ((ours, True), (other, False)):
        trainer.fit(*data(), epochs=2, resume=resume)
    assert_same_tree(all_of(ours), all_of(other))
    assert path.exists()


def test_resume_needs_a_checkpoint():
    with pytest.raises(ValueError, match=r"resume=True needs Trainer\(checkpoint=…\)"):
        make().fit(*data(), epochs=1, resume=True)
    with pytest.raises(TypeError, match="resume must be True or False, got 1"):
        make().fit(*data(), epochs=1, resume=1)


@pytest.mark.parametrize("name", ["evaluated", "patience", "averages"])
def test_resume_of_a_finished_fit(name, tmp_path):
    """Nothing is left to do; the parameters are the last, or the best."""
    arguments, fit = CASES[name]
    ours = make_case(arguments, 0, tmp_path / "checkpoint")
    ours.fit(*data(), **fit)
    other = make_case(arguments, 1, tmp_path / "checkpoint")
    written = (tmp_path / "checkpoint").read_bytes()
    for trainer in (other, ours):
        history = trainer.fit(*data(), resume=True, **fit)
        assert history["loss"] == ours.history["loss"]
        assert_same_tree(all_of(trainer), all_of(ours))
    assert (tmp_path / "checkpoint").read_bytes() == written


@both
def test_resume_with_more_epochs(package, tmp_path):
    ours, whole_way = make(package, checkpoint=tmp_path / "checkpoint"), make(package)
    ours.fit(*data(), epochs=2, validation=VALIDATION)
    other = make(package, seed=1, checkpoint=tmp_path / "checkpoint")
    other.fit(*data(), epochs=5, validation=VALIDATION, resume=True)
    whole_way.fit(*data(), epochs=5, validation=VALIDATION)
    assert_same_tree(all_of(other), all_of(whole_way))
    fewer = make(package, seed=2, checkpoint=tmp_path / "checkpoint")
    fewer.fit(*data(), epochs=3, validation=VALIDATION, resume=True)
    assert_same_tree(all_of(fewer), all_of(whole_way))


@pytest.mark.parametrize("change", ["batch_size", "shuffle", "samples"])
def test_another_kind_of_pass_is_refused(change, tmp_path):
    """Where one is broken off; otherwise a new one begins."""
    path = tmp_path / "checkpoint"
    make(checkpoint=path).fit(*data(), iterations=6)
    samples = data(21 if change == "samples" else 30)
    changed = {"batch_size": 7} if change == "batch_size" else {}
    changed |= {"shuffle": False} if change == "shuffle" else {}
    other = make(seed=1, checkpoint=path, **changed)
    before = all_of(other)
    with pytest.raises(ValueError, match=rf"checkpoint.*: its training has {change} .*, this one "):
        other.fit(*samples, iterations=10, resume=True)
    assert_same_tree(all_of(other), before)
    ours = make(checkpoint=path)
    ours.fit(*data(), epochs=2)
    other.fit(*samples, epochs=3, resume=True)
    assert other.iteration > ours.iteration


@both
def test_resume_goes_on_with_a_fit_of_several(package, tmp_path):
    """The one that was broken off, after others: with its history, and to its own end."""
    ours, whole_way = make(package, checkpoint=tmp_path / "checkpoint"), make(package)
    for trainer in (ours, whole_way):
        trainer.fit(*data(), iterations=6, validation=VALIDATION)
    ours.callbacks.append(Break(9))
    ours.checkpoint_every = 2
    with pytest.raises(Broken):
        ours.fit(*data(), iterations=7)
    other = make(package, seed=1, checkpoint=tmp_path / "checkpoint", callbacks=[Break()])
    other.fit(*data(), iterations=7, resume=True)
    whole_way.fit(*data(), iterations=7)
    got, want = all_of(other), all_of(whole_way)
    assert got["state"].pop("callbacks") == [None]
    assert want["state"].pop("callbacks") == []
    assert_same_tree(got, want)


def test_checkpoints_are_written_when_they_are_due(tmp_path, monkeypatch):
    written = []

    def save(path, trainer):
        written.append(trainer.iteration)

    monkeypatch.setattr("fastopt.saving.save", save)
    path = tmp_path / "checkpoint"
    for settings, fit, due in (
        ({}, {"epochs": 3}, [4, 8, 12]),
        ({}, {"iterations": 6}, [4, 6]),
        ({"checkpoint_every": 3}, {"epochs": 2}, [3, 6, 8]),
        ({"checkpoint_every": 4}, {"epochs": 2}, [4, 8]),
        ({"checkpoint_every": 99}, {"epochs": 1}, [4]),
    ):
        written.clear()
        make(checkpoint=path, **settings).fit(*data(), **fit)
        assert written == due


def refused_to_resume(ours, message, exception=ValueError, **fit):
    """Check that a trainer doesn't resume, and is what it was."""
    before, history = all_of(ours), ours.history
    with pytest.raises(exception, match=message) as caught:
        ours.fit(*data(), **{"epochs": 4, **fit}, resume=True)
    assert_same_tree(all_of(ours), before)
    assert ours.history is history
    assert str(ours.checkpoint) in str(caught.value).replace("\\\\", "\\")


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    path = tmp_path / "checkpoint"
    make(checkpoint=path, callbacks=[Notes(), Break()]).fit(*data(), epochs=1)
    callbacks = {"callbacks": [Notes(), Break()]}
    two_layers = fastopt.TwoLayerNet(3, 5, 3)
    for arguments, message in (
        ({"optimizer": "SGD"}, "the state is one of 'Adam', not of SGD"),
        ({"net": two_layers}, "the state is one of 'MultiLayerNet', not of TwoLayerNet"),
        ({"net": fastopt.MultiLayerNet(3, [6], 3)}, r"is of sizes \[3, 5, 3\], this net of"),
        ({"net": fastopt.MultiLayerNet(3, [5], 3, dtype="f8")}, "is of dtype 'float32', this net"),
        ({"net": Plain()}, "net has params alone, and the file has the state of another one"),
        ({"rng": np.random.Generator(np.random.MT19937(0))}, "rng has a MT19937, the file has"),
        ({"callbacks": []}, "callbacks must be 0 states"),
        ({"callbacks": [Break(), Notes()]}, r"callbacks\[0\] is another one"),
    ):
        refused_to_resume(make(seed=1, checkpoint=path, **{**callbacks, **arguments}), message)
    make(checkpoint=path, net=Plain()).fit(*data(), epochs=1)
    other = Plain()
    other.params["more"] = np.zeros(3)
    refused_to_resume(make(checkpoint=path, net=other), r"the file has no net.params\['more'\]")
    other = Plain()
    del other.params["w"]
    refused_to_resume(make(checkpoint=path, net=other), r"the file has net.params\['w'\], too")


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "checkpoint"
    ours = make(checkpoint=path)
    fastopt.save(path, optimizer=fastopt.Adam())
    refused_to_resume(ours, "the file has no trainer", KeyError)
    for content in (b"", b"PK", b"text" * 99):
        path.write_bytes(content)
        refused_to_resume(ours, "checkpoint' can't be loaded")
    other = make(checkpoint=tmp_path / "other")
    other.fit(*data(), epochs=1)
    written = (tmp_path / "other").read_bytes()
    for n in (len(written) // 2, len(written) - 1):
        path.write_bytes(written[:n])
        refused_to_resume(ours, "checkpoint' can't be loaded")
    spoiled = bytearray(written)
    spoiled[len(spoiled) // 3] ^= 64
    path.write_bytes(spoiled)
    refused_to_resume(ours, "checkpoint' can't be loaded")
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError):  # noqa: PT011 - of whatever kind the system has
        ours.fit(*data(), epochs=1, resume=True)


def test_a_callback_that_refuses_its_state_leaves_all_as_it_was(tmp_path):
    class Refusing(Notes):
        def load_state_dict(self, state):
            if state["value"] != 1.0:
                raise ValueError("not mine")

    path = tmp_path / "checkpoint"
    make(checkpoint=path, callbacks=[Notes(), Notes()]).fit(*data(), epochs=1)
    refused_to_resume(make(seed=1, checkpoint=path, callbacks=[Notes(), Refusing()]), "not mine")


# --- histories ---


@both
def test_a_call_without_a_step_has_no_norm(package):
    """What the optimizer has is an earlier step's, which a state doesn't hold."""
    ours = make(package, settings={"accumulate": 2, "clip_norm": 1.0})
    norms = ours.fit(*data(), iterations=6).steps["norm"]
    assert [*map(np.isnan, norms)] == [True, False] * 3
    assert norms[5] == ours.optimizer.norm
    ours = make(package, settings={"nonfinite": "skip"})
    ours.callbacks.append(Break(3, "gradient", lambda: ours._grads["b1"].fill(np.inf)))
    norms = ours.fit(*data(), iterations=4).steps["norm"]
    assert [*map(np.isnan, norms)] == [False, False, True, False]


def test_numbers_of_metrics_are_kept_as_pythons():
    ours = make(metrics={"one": lambda *_: np.float32(0.1), "two": lambda *_: np.array(2)})
    history = ours.fit(*data(), epochs=1, validation=VALIDATION)
    assert type(history["validation_one"][0]) is float
    assert history.evaluations["validation_one"] == history["validation_one"]
    assert history["validation_two"] == [2.0]
    ours = make(metrics={"many": lambda *_: "many"})
    with pytest.raises(TypeError, match=r"^metric 'many' must return a number, got 'many'"):
        ours.fit(*data(), epochs=1, validation=VALIDATION)


# --- states that are wrong ---

FIT, HISTORY = ("fit",), ("fit", "history")
NAN = float("nan")

WRONG = [
    ((), None, "the state of Trainer must be a dict, got NoneType"),
    (("format",), 2, "the state of Trainer has format 2, not 1"),
    (("class",), "Adam", "the state is one of 'Adam', not of Trainer"),
    (("more",), 1, "the state of Trainer must not have 'more'"),
    (("iteration",), -1, "iteration must be a whole number from 0"),
    (("iteration",), "6", "iteration must be a number, got '6'"),
    (("iteration",), 0, "began after the steps that were taken"),
    (("epoch",), 1.5, "epoch must be a whole number from 0"),
    (("pass",), [], "pass must be a dict, got list"),
    (("pass", "order"), 1, "pass must not have 'order'"),
    (("pass", "n_samples"), 0, "n_samples must be a whole number from 1, got 0"),
    (("pass", "batch_size"), "8", "batch_size must be a whole number from 1, got '8'"),
    (("pass", "shuffles"), 1, "shuffles must be True or False, got 1"),
    (("pass", "began"), 7, "a fit or a pass began after the steps that were taken"),
    (("pass", "rng"), None, "rng has a PCG64, the file has the state of something else"),
    (("pass", "rng", "bit_generator"), "MT19937", "rng has a PCG64, the file has .* 'MT19937'"),
    (("rng",), {}, "rng has a PCG64, the file has the state of something else"),
    (("rng", "state", "inc"), "1", r"rng\['state'\]\['inc'\] is of type int, .*file.* str"),
    (FIT, None, "fit must be a dict, got NoneType"),
    ((*FIT, "seconds"), 1.0, "fit must not have 'seconds'"),
    ((*FIT, "began"), 7, "a fit or a pass began after the steps that were taken"),
    ((*FIT, "is_stopped"), None, "is_stopped must be True or False, got None"),
    ((*FIT, "evaluations_since_best"), -1, "evaluations_since_best must be a whole number"),
    ((*FIT, "best"), 1.0, "best must be a dict, got float"),
    ((*FIT, "best", "more"), 1, "best must not have 'more'"),
    ((*FIT, "best", "loss"), None, "loss must be a number, got None"),
    ((*FIT, "best", "params"), None, "best params must be a dict, got None"),
    ((*FIT, "best", "params"), {}, r"no best params\['W1'\]"),
    ((*FIT, "best", "params", "W3"), np.zeros(1), r"best params\['W3'\]"),
    ((*FIT, "best", "params", "W1"), np.zeros((3, 5)), r"best params\['W1'\] has dtype float32"),
    ((*FIT, "best", "params", "W1"), np.zeros(3, "f4"), r"best params\['W1'\] has shape \(3, 5\)"),
    ((*FIT, "best", "params", "W1"), 1.0, r"best params\['W1'\] is of type ndarray"),
    (HISTORY, [], "the history of a trainer: it must be a dict, got list"),
    ((*HISTORY, "more"), 1, "the history of a trainer: it must not have 'more'"),
    ((*HISTORY, "began"), None, "began must be a number, got None"),
    ((*HISTORY, "began"), 3, "history began at 3, and its fit at 0"),
    ((*HISTORY, "steps"), None, "steps must be a dict, got NoneType"),
    ((*HISTORY, "steps", "more"), np.zeros(6), "steps must not have 'more'"),
    ((*HISTORY, "steps", "lr"), [0.0] * 6, "lr of steps must be a float64 column"),
    ((*HISTORY, "steps", "lr"), np.zeros(5), "lr of steps must be a float64 column"),
    ((*HISTORY, "steps", "lr"), np.zeros((6, 1)), "lr of steps must be a float64 column"),
    ((*HISTORY, "steps", "lr"), np.zeros(6, "c16"), "lr of steps must be a float64 column"),
    ((*HISTORY, "steps", "lr"), np.array(["1"] * 6), "lr of steps must be a float64 column"),
    ((*HISTORY, "steps", "loss"), np.zeros(()), "loss of steps must be a float64 column"),
    ((*HISTORY, "steps", "loss"), 3, "loss of steps must be a float64 column"),
    ((*HISTORY, "steps", "epoch"), np.full(6, NAN), "the history of a trainer: .*NaN"),
    ((*HISTORY, "evaluations"), None, "evaluations must be a list, got None"),
    ((*HISTORY, "evaluations"), [None], "an evaluation must have iteration, epoch and loss"),
    ((*HISTORY, "evaluations", 0, "loss"), 1.0, "an evaluation must not have 'loss'"),
    ((*HISTORY, "evaluations", 0, 3), 1.0, "an evaluation must not have 3"),
    (("net",), None, "the state of MultiLayerNet must be a dict, got NoneType"),
    (("net", "params", "W1"), np.zeros((3, 5)), "the state of MultiLayerNet: .*'W1'"),
    (("optimizer",), None, "the state of Adam must be a dict, got NoneType"),
    (("optimizer", "settings", "lr"), -1.0, "the state of Adam: lr must be finite"),
    (("optimizer", "arrays", "m", "W1"), np.zeros((5, 3), "f4"), r"m\['W1'\] of the state is"),
    (("callbacks",), None, "callbacks must be 2 states, got None"),
    (("callbacks",), {}, "callbacks must be 2 states, got {}"),
    (("callbacks", 0), None, r"callbacks\[0\] is another one"),
    (("callbacks", 1), {}, r"callbacks\[1\] is another one"),
]


def trained():
    ours = make_case({}, 0)
    ours.fit(*data(), iterations=6, validation=VALIDATION, patience=5)
    return ours


def replaced(state, place, value=None, is_absent=False):
    """Return a state with something else in a place, or without it."""
    if not place:
        return value
    state = copy.deepcopy(state)
    inner = state
    for step in place[:-1]:
        inner = inner[step]
    if is_absent:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return state


def test_wrong_states_are_refused():
    ours = trained()
    state, before, history = ours.state_dict(), all_of(ours), ours.history
    absent = [
        ((*place, name), f"must have '{name}'|an evaluation must have")
        for place in ((), ("pass",), FIT, (*FIT, "best"), HISTORY, (*HISTORY, "steps"))
        for name in at(state, place)
    ]
    wrong = [
        *((replaced(state, place, value), message) for place, value, message in WRONG),
        *((replaced(state, place, is_absent=True), message) for place, message in absent),
    ]
    for each, message in wrong:
        with pytest.raises(ValueError, match=message):
            ours.load_state_dict(each)
        assert_same_tree(all_of(ours), before)
        assert ours.history is history
    ours.load_state_dict(state)
    assert_same_tree(all_of(ours), before)


def at(tree, place):
    for step in place:
        tree = tree[step]
    return tree


JUNK = [None, True, -1, 1.5, NAN, "x", b"x", (), [], {}, {"a": 1}, 10**400, np.ones(2), len, 1j]


def test_junk_anywhere_is_refused_or_right():
    """A ValueError, nothing else, and nothing has changed; or it loads, and comes back."""
    ours = trained()
    state, before = ours.state_dict(), all_of(ours)

    def places(tree, place=()):
        for step, each in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield (*place, step)
            if isinstance(each, (dict, list)) and step != "callbacks":
                yield from places(each, (*place, step))

    n_refused = 0
    for place, junk in itertools.product(places(state), JUNK):
        if place[0] in ("net", "optimizer") and len(place) > 1:
            continue  # they are tested by themselves
        try:
            ours.load_state_dict(replaced(state, place, junk))
        except ValueError:
            n_refused += 1
            assert_same_tree(all_of(ours), before)
        else:
            ours.load_state_dict(ours.state_dict())
            ours.load_state_dict(state)
    assert n_refused > 500
    assert_same_tree(all_of(ours), before)


# --- kills ---


def start(folder, seed):
    """Start a process that trains; return it once it is about to."""
    command = [sys.executable, "-W", "error", "-c", trainings.CHILD, str(folder), str(seed)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, cwd=Path(__file__).parent, stdout=pipe, stderr=pipe, text=True
    )
    ready = process.stdout.readline()
    assert ready == "ready\n", process.communicate()
    return process


def end_of(process):
    """Wait for a process; return its exit status and what it said."""
    _, error = process.communicate(timeout=60)
    return process.returncode, error


@pytest.mark.parametrize("number", ["SIGKILL", "SIGINT"])
@pytest.mark.parametrize("seed", [SEED])
@needs_signals
def test_killed_at_any_moment_and_resumed(number, seed, tmp_path):
    """Again and again, until the training is over: it ends with the bits of one that nobody killed.

    One that is over before all kills are used up is begun anew.
    """
    number, chance = getattr(signal, number), random.Random(seed)
    whole_way = trainings.make_killed(tmp_path / "whole", 0)
    began = time.perf_counter()
    whole_way.fit(*data(), **trainings.FIT)
    span = time.perf_counter() - began
    fastopt.save(tmp_path / "want", **all_of(whole_way))
    want = fastopt.load(tmp_path / "want")
    killed = trainings_over = 0
    while killed < KILLS_OF_TRAININGS or trainings_over == 0:
        folder = tmp_path / f"{trainings_over}"
        folder.mkdir(exist_ok=True)
        is_begun = (folder / "checkpoint").exists()
        process = start(folder, 1 if is_begun else 0)  # what is loaded is not what it began with
        if killed < KILLS_OF_TRAININGS:
            time.sleep(chance.random() * span * 0.6)
            process.send_signal(number)
        status, error = end_of(process)
        names = {each.name for each in folder.iterdir()}
        assert names <= {"checkpoint", "checkpoint.tmp", "end", "end.tmp"}, names
        if status == 0:
            assert error == ""
            assert_same_tree(fastopt.load(folder / "end"), want)
            shutil.rmtree(folder)
            trainings_over += 1
            continue
        killed += 1
        if number == signal.SIGKILL:
            assert status == -number
        else:
            assert error == "" or error.rstrip().endswith("KeyboardInterrupt"), (status, error)
            assert status in (3, -number)  # after Ctrl-C Python ends by the signal
