# Batches, evaluation, history, early stopping, checkpoints. What a step computes belongs to the net
# and the optimizer; the command line's trainings side by side go through the same loop.
"""The training loop that users would write around a net and an optimizer, once."""

from __future__ import annotations

import copy
import errno
import inspect
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastopt import _cpu, saving
from fastopt._checks import any_number, count, one_of, switch, whole
from fastopt._history import History
from fastopt._interrupts import ctrl_c_noted
from fastopt._net_base import MultiLayerNet
from fastopt._progress import loss_bar
from fastopt._states import FORMAT, checked_fields, checked_names
from fastopt.optimizers._options import Optioned
from fastopt.typing import EvaluableNet, Net, SupportsUpdate

if TYPE_CHECKING:
    from typing_extensions import TypeVar
else:
    from typing import TypeVar

__all__ = ["History", "Trainer"]

_ON_NONFINITE = one_of("raise", "continue")

_HOOKS = ("start", "gradient", "step", "evaluation", "end")

# A trainer's net and optimizer keep their own classes, for what else they have, such as `lr`; one
# that is annotated without them may have any.
if TYPE_CHECKING:
    NetT = TypeVar("NetT", bound=Net, default=Any)
    OptimizerT = TypeVar("OptimizerT", bound=SupportsUpdate, default=Any)
else:
    NetT, OptimizerT = TypeVar("NetT"), TypeVar("OptimizerT")


class _Pass(NamedTuple):
    """A pass over the samples, which later fits go on with if it is broken off."""

    n_samples: int
    batch_size: int
    shuffles: bool
    began: int  # steps that the trainer had taken
    rng: Mapping[str, Any]  # state of the generator before the order was drawn
    order: NDArray[np.intp] | None  # None where it comes from a state, and isn't drawn yet

    def is_over(self, iteration: int) -> bool:
        return (iteration - self.began) * self.batch_size >= self.n_samples


class _Best(NamedTuple):
    """The lowest validation loss of a fit, and the parameters and running averages that had it."""

    loss: float
    params: dict[Any, Any]
    running: dict[str, Any]


class Trainer(Generic[NetT, OptimizerT]):
    """Trains a net with an optimizer, batch by batch.

    Parameters
    ----------
    net : MultiLayerNet, TwoLayerNet, a twin, or an object with the same methods
        Its parameters are updated in place.
    optimizer : SGD, Momentum, …, or any object with ``update(params, grads)``
    batch_size : int
        Samples in a step, ≥ 1; the last batch of an epoch may be smaller.
    shuffle : bool
        Take the samples of each epoch in a new random order; else in their own.
    rng : None, int or numpy.random.Generator
        Source of the random order.
    callbacks : sequence of callables and objects
        A callable is called with the trainer after every step and evaluation of it. An object has
        any of the methods ``start(trainer)``, before the first step; ``gradient(trainer, grads)``,
        between gradient and update; ``step(trainer)``; ``evaluation(trainer)``, after one;
        ``end(trainer)``. They may read the attributes below, change what is in `grads` or
        ``trainer.optimizer.lr``, or call ``trainer.stop()``. What is changed after a step acts from
        the next one on.
    progress : bool, optional
        Show a progress bar with the loss (needs tqdm). By default if standard error is a terminal,
        or in a notebook, and tqdm is there. A process without a standard error, as under pythonw,
        shows none.
    metrics : mapping of str to callables, optional
        Called as ``f(net, x, t)`` with the validation data in each evaluation; each returns a
        number. In the history their names begin with ``validation_``.
    on_nonfinite : {'raise', 'continue'}
        What happens when the loss of a batch is NaN or infinite: a FloatingPointError, or nothing.
        An optimizer with ``nonfinite="skip"`` goes on, too.
    checkpoint : path, optional
        File that `fit` writes the trainer's whole state to, by `fastopt.save`: after every so many
        steps, after Ctrl-C, and at its end.
    checkpoint_every : int, optional
        Steps between checkpoints; by default each epoch has one.
    flush_subnormals : bool
        Take subnormal numbers for zero in the optimizer's steps, where the processor can, whatever
        `set_flush_subnormals` says: they arise where gradients stay zero, and are slow.

    Attributes
    ----------
    net, optimizer, and each parameter but `rng`
        As given; they may be set anew between two fits.
    iteration : int
        Calls of the optimizer's ``update``, in all fits. Its own `iter` is less if it makes a step
        of several, with ``accumulate``, or skips one.
    epoch : int
        The pass over the samples that it is in, from 1; 0 before the first.
    history : History
        What `fit` returns, as far as it has come.
    interrupted : bool
        Whether Ctrl-C ended the last `fit`.

    Raises
    ------
    TypeError
        `net`, `optimizer`, `callbacks` or `metrics` lack what a trainer needs of them, such as a
        class where an instance is wanted; or another argument is of a wrong type.
    ValueError
        An argument is out of its range.

    Examples
    --------
    >>> import fastopt
    >>> (x_train, t_train), test = fastopt.datasets.load_mnist()
    >>> net = fastopt.MultiLayerNet(784, [50], 10, rng=0)
    >>> trainer = fastopt.Trainer(net, fastopt.Adam(), rng=0)
    >>> history = trainer.fit(x_train, t_train, epochs=2, validation=test)
    >>> len(history["loss"]), history["iteration"], trainer.epoch
    (94, [47, 94], 2)
    >>> history["validation_accuracy"][-1] > 0.8
    True
    """

    # Beside what is public: a name that is not among them is a typo
    __slots__ = (
        "__weakref__", "_began", "_best", "_evaluations_since_best", "_grads", "_is_stopped",
        "_pass", "_patience", "_rng", "_started", "batch_size", "callbacks",
        "checkpoint", "checkpoint_every", "epoch", "flush_subnormals", "history", "interrupted",
        "iteration", "metrics", "net", "on_nonfinite", "optimizer", "progress", "shuffle",
    )  # fmt: skip

    def __init__(
        self,
        net: NetT,
        optimizer: OptimizerT,
        *,
        batch_size: int = 128,
        shuffle: bool = True,
        rng: int | np.random.Generator | None = None,
        callbacks: Sequence[Any] = (),
        progress: bool | None = None,
        metrics: Mapping[str, Callable[[Any, Any, Any], Any]] | None = None,
        on_nonfinite: Literal["raise", "continue"] = "raise",
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        flush_subnormals: bool = True,
    ) -> None:
        self.net, self.optimizer = net, optimizer
        self.batch_size, self.shuffle = batch_size, shuffle
        self.callbacks = _checked_callbacks(callbacks)
        self.progress, self.metrics = progress, _checked_metrics(metrics)
        self.on_nonfinite: str = on_nonfinite
        self.checkpoint, self.checkpoint_every = checkpoint, checkpoint_every
        self.flush_subnormals = flush_subnormals
        self._check()
        self._rng = _generator("rng", rng)
        self.iteration = self.epoch = 0
        self.interrupted = False
        self._pass: _Pass | None = None
        self._patience: int | None = None
        self._best: _Best | None = None
        self._grads: Mapping[Any, Any] | None = None
        self._begin()

    def _check(self) -> None:
        """Check what was given, or set since."""
        _require("net", self.net, "params", "loss_and_gradient")
        _require("optimizer", self.optimizer, "update")
        _checked_callbacks(self.callbacks)
        self.batch_size = _count("batch_size", self.batch_size)
        self.shuffle = switch("shuffle", self.shuffle)
        self.progress = None if self.progress is None else switch("progress", self.progress)
        self.metrics = _checked_metrics(self.metrics)
        self.on_nonfinite = _ON_NONFINITE("on_nonfinite", self.on_nonfinite)
        self.flush_subnormals = switch("flush_subnormals", self.flush_subnormals)
        if self.checkpoint_every is not None:
            self.checkpoint_every = _count("checkpoint_every", self.checkpoint_every)
        if self.checkpoint is not None:
            self.checkpoint = _path("checkpoint", self.checkpoint)
            self._require_states()
        elif self.checkpoint_every is not None:
            raise ValueError("checkpoint_every needs checkpoint=, the file to write")

    def fit(
        self,
        x: ArrayLike,
        t: ArrayLike,
        *,
        epochs: int | None = None,
        iterations: int | None = None,
        validation: tuple[ArrayLike, ArrayLike] | None = None,
        evaluate_every: int | None = None,
        patience: int | None = None,
        resume: bool = False,
    ) -> History:
        """Train, and return the history.

        Called again, it goes on where it is, in the middle of a pass over the samples, too: one
        epoch twice is two epochs, bit for bit. The history is a new one. Samples of another number,
        or another batch size, begin a new pass.

        Parameters
        ----------
        x : array (N, …)
            Samples. They are neither copied nor changed; of the net's dtype and C-contiguous, a
            batch is taken from them in the first layer.
        t : array (N,) or (N, C)
            Labels or other targets, whatever the net wants.
        epochs, iterations : int
            How many passes over the samples, of ⌈N / batch_size⌉ steps each, or how many steps; one
            of the two.
        validation : (x, t), optional
            Samples and targets to evaluate on, by the net's ``loss(x, t)``, its ``accuracy(x, t)``
            if it has one and its loss is none of regression, and `metrics`. Where the optimizer has
            averages, with ``ema``, the net has them meanwhile, and so do the parameters that are
            kept as the best. Running averages of batch normalization stay those of training.
        evaluate_every : int, optional
            Evaluate after every so many steps, and after the last; by default after each epoch.
        patience : int, optional
            Stop when so many evaluations in a row have not lowered the validation loss. However
            training ends, the parameters, and the net's running averages, are then those of the
            lowest.
        resume : bool
            Go on where the file `checkpoint` was written, to the same number of steps as if
            training had not been broken off, and with the same bits; without such a file begin.
            Everything else must be as it was: data, net, optimizer, arguments.

        Returns
        -------
        History
            A dict of lists. ``loss``: of each step on its batch, before its update. ``iteration``:
            the steps after which it was evaluated, and for each of these ``validation_loss``,
            ``validation_accuracy``, which stays empty if there is none, and the metrics. Its
            attributes ``steps`` and ``evaluations`` are tables, with learning rate and time.

        Raises
        ------
        ValueError, TypeError
            Arguments that contradict each other or are out of range, or data that don't fit the
            net. The step that meets such data changes nothing, but a label is looked at when its
            batch comes: steps before it have been taken. A checkpoint that can't be resumed: it is
            damaged, or another training's.
        FloatingPointError
            The loss of a batch is NaN or infinite, and nobody has said to go on; the step is not
            taken. `history` has the steps before it.
        ImportError
            `progress` is True, and tqdm is not installed.
        OSError
            The checkpoint can't be written; FileNotFoundError, before the first step, if it has no
            folder.

        Notes
        -----
        Ctrl-C ends training after the step under way and its evaluation; what was trained is kept,
        a checkpoint is written, and `fit` returns as usual, with `interrupted` set. Pressed once
        more, it ends training at once, without a checkpoint. A step that the optimizer has
        completed is counted and in the history, wherever it is met. An optimizer of your own that
        is interrupted within its ``update`` has not completed the step. What a callback raises
        ends training, too, and comes through.

        Schedules of the optimizer that follow a metric, `schedules.ReduceOnPlateau`, are told each
        validation loss.

        Examples
        --------
        A step size that halves after each pass, and an end when five evaluations in a row have not
        lowered the validation loss:

        >>> import fastopt
        >>> (x_train, t_train), test = fastopt.datasets.load_mnist()
        >>> steps_of_a_pass = len(x_train) // 100
        >>> trainer = fastopt.Trainer(
        ...     fastopt.MultiLayerNet(784, [30], 10, rng=0),
        ...     fastopt.SGD(lr=fastopt.schedules.step(0.1, every=steps_of_a_pass, factor=0.5)),
        ...     batch_size=100, rng=0,
        ... )
        >>> history = trainer.fit(
        ...     x_train, t_train, epochs=3, validation=test, evaluate_every=20, patience=5
        ... )
        >>> history["iteration"]
        [20, 40, 60, 80, 100, 120, 140, 160, 180]
        >>> history.steps["lr"][-1]
        0.025
        """
        self._check()
        if (epochs is None) == (iterations is None):
            raise ValueError("give epochs or iterations, one of the two")
        if validation is None and (evaluate_every is not None or patience is not None):
            raise ValueError("evaluate_every and patience need validation=(x, t)")
        if validation is not None:
            _require("net", self.net, "loss", purpose=" for validation")
            validation = _checked_pair(validation)
        if switch("resume", resume) and self.checkpoint is None:
            raise ValueError("resume=True needs Trainer(checkpoint=…), the file to resume from")
        x, t = np.asarray(x), np.asarray(t)
        n = len(x) if x.ndim else 0
        if n == 0:
            raise ValueError(f"x of shape {x.shape} holds no samples")
        steps = (
            -(-n // self.batch_size) * _count("epochs", epochs)
            if iterations is None
            else _count("iterations", iterations)
        )
        every = None if evaluate_every is None else _count("evaluate_every", evaluate_every)
        self._patience = None if patience is None else _count("patience", patience)
        if self.checkpoint is not None and not Path(self.checkpoint).parent.is_dir():
            raise FileNotFoundError(
                errno.ENOENT, "there is no such folder for checkpoints", str(self.checkpoint)
            )
        if not (resume and self._resume(n)):
            self._begin()
        self._train(x, t, self._began + steps, validation, every)
        return self.history

    def _train(
        self, x: Any, t: Any, target: int, validation: tuple[Any, Any] | None, every: int | None
    ) -> None:
        """Train until so many steps have been taken, or somebody stops it."""
        self._grads = None  # those of an earlier fit may be of another net
        self.interrupted = False
        self._started = perf_counter() - self.history.seconds
        callbacks = _Hooks(self.callbacks)
        try:
            for hook in callbacks.start:
                hook(self)
            began = self.iteration
            n_left = 0 if self._is_stopped else max(target - began, 0)
            with loss_bar(n_left, self.progress) as show, ctrl_c_noted() as is_interrupted:
                for loss in self.steps(x, t, self._batches(len(x), began + n_left)):
                    is_due = (
                        self._is_at_end_of_pass() if every is None else not self.iteration % every
                    )
                    if validation is not None and (is_due or self.iteration == target):
                        self._evaluate(*validation, callbacks.evaluation)
                    for hook in callbacks.step:
                        hook(self)
                    show({"loss": loss})
                    self.interrupted = is_interrupted()
                    if self._is_stopped or self.interrupted:
                        break
                    self._save_if_due(target)
                if self.iteration != began:
                    self._save()
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            self._end()
            for hook in callbacks.end:
                hook(self)

    def steps(self, x: ArrayLike, t: ArrayLike, batches: Iterable[ArrayLike]) -> Iterator[float]:
        """Take a step for each batch, and yield its loss on the batch before the update.

        The loop that `fit` runs, for those who want to write what happens around it themselves.

        Parameters
        ----------
        x, t : arrays
            As for `fit`.
        batches : iterable of arrays of int
            The rows of x and t of each batch, as for `MultiLayerNet.gradient`. It may be endless:
            each is asked for when its step is.

        Yields
        ------
        float
            The loss on the batch with the parameters before the step, when the step is taken. It
            has then also been added to `history`, and `iteration` counted on. Of the callbacks
            only ``gradient`` is called.

        Raises
        ------
        ValueError, TypeError, IndexError, FloatingPointError
            As from `fit`; the step that meets them changes nothing.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> x, t = np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1])
        >>> trainer = fastopt.Trainer(fastopt.TwoLayerNet(4, 3, 2, rng=0), fastopt.Adam())
        >>> losses = list(trainer.steps(x, t, [[0, 1], [2, 3], [0, 3]]))
        >>> len(losses), trainer.iteration
        (3, 3)
        """
        net, optimizer, history = self.net, self.optimizer, self.history
        losses = history["loss"]
        stepper = getattr(optimizer, "_stepper", None) or _NoStepper()
        flushes = self.flush_subnormals and _cpu.can_flush_subnormals
        hooks, lr_and_norm = _Hooks(self.callbacks).gradient, _reader(optimizer)
        for batch in batches:
            loss, grads = net.loss_and_gradient(x, t, self._grads, batch=batch)
            self._grads = grads
            if not _is_finite(loss):
                self._refuse(loss)
            if hooks:  # which may replace entries; the arrays are the net's for the next batch
                grads = dict(grads)
            for hook in hooks:
                hook(self, grads)
            before = stepper.steps
            stepper.flushes = flushes
            # A signal is handled at the end of a call: one that comes during a compiled step
            # interrupts `update` after it, and none comes between count and append.
            try:
                optimizer.update(net.params, grads)
            except BaseException:
                if stepper.steps != before:
                    self.iteration += 1
                    losses.append(loss)
                raise
            finally:
                stepper.flushes = False
            self.iteration += 1
            losses.append(loss)
            history.add_step(self.epoch, *lr_and_norm(), perf_counter() - self._started)
            yield loss

    def stop(self) -> None:
        """End `fit` after the current step; for callbacks."""
        self._is_stopped = True

    def state_dict(self) -> dict[str, Any]:
        """Return where it is, as plain data and copies of arrays.

        Returns
        -------
        dict
            The counters, the random order, the fit under way with its history, and the states of
            net, optimizer and of those callbacks that have a ``state_dict``.
        """
        self._require_states()
        self.history.level(self.epoch)  # something may have come between two of its lists
        net, best = saving.state_of("net", self.net), None
        if self._best is not None:
            best = {"loss": float(self._best.loss), "params": _copied(self._best.params)}
            if self._best.running:
                best["running"] = _copied(self._best.running)
        return {
            "format": FORMAT,
            "class": type(self).__name__,
            "iteration": self.iteration,
            "epoch": self.epoch,
            "pass": None
            if self._pass is None
            else copy.deepcopy(dict(zip(_FIELDS_OF_A_PASS, self._pass, strict=False))),
            "rng": saving.state_of("rng", self._rng),
            "fit": {
                "began": self._began,
                "is_stopped": self._is_stopped,
                "best": best,
                "evaluations_since_best": self._evaluations_since_best,
                "history": self.history.state_dict(),
            },
            "net": net if saving.has_state(self.net) else {"params": _copied(net["params"])},
            "optimizer": saving.state_of("optimizer", self.optimizer),
            "callbacks": [
                saving.state_of("callbacks", callback) if saving.has_state(callback) else None
                for callback in self.callbacks
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go where a state is: net, optimizer, random order and callbacks are changed, too.

        Parameters
        ----------
        state : dict
            What `state_dict` of a trainer made like this one returned. It is not kept.

        Raises
        ------
        ValueError
            It is another's, or does not fit; nothing has changed.
        """
        self._checked_state(copy.deepcopy(state))()

    def _checked_state(
        self, state: Any, params: Mapping[Any, Any] | None = None
    ) -> Callable[[], None]:
        """Check a state wholly, and return what puts it in the place of this one."""
        self._require_states()
        name = type(self).__name__
        fields = checked_fields(name, state, name, _FIELDS)
        try:
            counters = {each: count(each, fields[each]) for each in ("iteration", "epoch")}
            fit = checked_names("fit", fields["fit"], _FIELDS_OF_A_FIT)
            began, waited = (count(each, fit[each]) for each in ("began", "evaluations_since_best"))
            is_stopped = switch("is_stopped", fit["is_stopped"])
            history = History.of_state(fit["history"])
            best = _best_of_state(fit["best"], self.net)
            current = _pass_of_state(fields["pass"], self._rng)
            if max(began, 0 if current is None else current.began) > counters["iteration"]:
                raise ValueError("a fit or a pass began after the steps that were taken")
            if history.began != began:
                raise ValueError(f"history began at {history.began}, and its fit at {began}")
            callbacks = self._stateful_callbacks(fields["callbacks"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"the state of {name}: {error}") from None
        parts = {"net": self.net, "optimizer": self.optimizer, "rng": self._rng}
        states = {each: fields[each] for each in parts}
        for i, callback in enumerate(callbacks):
            if callback is not None:
                parts[f"callbacks[{i}]"] = callback
                states[f"callbacks[{i}]"] = fields["callbacks"][i]
        try:
            load_parts = saving.checked(parts, states)
        except KeyError as error:
            raise ValueError(f"the state of {name}: {error.args[0]}") from None

        def load() -> None:
            load_parts()
            self.iteration, self.epoch = counters["iteration"], counters["epoch"]
            self._pass, self._best, self._evaluations_since_best = current, best, waited
            self._began, self._is_stopped, self.history = began, is_stopped, history

        return load

    def _require_states(self) -> None:
        methods = ("update", "state_dict", "load_state_dict")
        _require("optimizer", self.optimizer, *methods, purpose=" for checkpoints and states")

    # --- one fit ---

    def _begin(self) -> None:
        """Begin a fit: with its own history, and as good as none before."""
        self._began = self.iteration
        self._started = perf_counter()
        self._is_stopped = False
        self._best = None
        self._evaluations_since_best = 0
        self.history = History(self.iteration)

    def _end(self) -> None:
        """Leave everything at the end of a step."""
        self.history.level(self.epoch)
        if self._pass is not None and self._pass.began == self.iteration:
            self._take_back(self._pass)
        if self._best is not None:
            _put(self.net.params, self._best.params)
            _put(_running(self.net), self._best.running)

    def _batches(self, n: int, target: int) -> Iterator[NDArray[np.intp]]:
        """Yield the row numbers of each batch, pass after pass over all rows."""
        while self.iteration < target:
            current, order = self._pass_over(n)
            done = (self.iteration - current.began) * current.batch_size
            for first in range(done, n, current.batch_size):
                if self.iteration == target:
                    return
                yield order[first : first + current.batch_size]

    def _pass_over(self, n: int) -> tuple[_Pass, NDArray[np.intp]]:
        """Return the pass that is broken off and goes on, or a new one, and the order of rows."""
        current, kind = self._pass, (n, self.batch_size, self.shuffle)
        if current is None or current[:3] != kind or current.is_over(self.iteration):
            before = self._rng.bit_generator.state
            try:
                current = _Pass(*kind, self.iteration, before, _order(n, self._rng, self.shuffle))
                self._pass = current
            except BaseException:  # Ctrl-C can come between drawing and keeping
                self._rng.bit_generator.state = before
                raise
            self.epoch += 1
        if current.order is None:  # it comes from a state, which has what draws it
            again = type(self._rng.bit_generator)(0)
            again.state = current.rng
            order = _order(n, np.random.Generator(again), self.shuffle)
            self._pass = current = current._replace(order=order)
        return current, cast("NDArray[np.intp]", current.order)

    def _take_back(self, current: _Pass) -> None:
        """Leave a pass that no step was taken in as if it had not begun."""
        self._rng.bit_generator.state = current.rng
        self._pass = None
        self.epoch -= 1

    def _is_at_end_of_pass(self) -> bool:
        return self._pass is not None and self._pass.is_over(self.iteration)

    def _refuse(self, loss: float) -> None:
        """Raise the error of a loss that is no number, unless somebody has said to go on."""
        skips = getattr(self.optimizer, "nonfinite", None) == "skip"
        if self.on_nonfinite == "raise" and not skips:
            raise FloatingPointError(
                f"the loss is {loss} at iteration {self.iteration + 1}, in epoch {self.epoch}; no "
                "update was made with its gradient (on_nonfinite='continue' goes on)"
            )

    # --- evaluation ---

    def _evaluate(self, x: ArrayLike, t: ArrayLike, hooks: Iterable[Callable[..., Any]]) -> None:
        net = cast("EvaluableNet", self.net)
        numbers: dict[str, Any] = {"iteration": self.iteration, "epoch": self.epoch}
        with self._averaged():
            loss = net.loss(x, t)
            numbers["seconds"] = perf_counter() - self._started
            numbers["validation_loss"] = loss
            accuracy = getattr(net, "accuracy", None)
            has_classes = getattr(net, "is_classifier", True)
            if accuracy is not None and has_classes and "accuracy" not in self.metrics:
                numbers["validation_accuracy"] = accuracy(x, t)
            for name, metric in self.metrics.items():
                numbers[f"validation_{name}"] = _checked_metric(name, metric(net, x, t))
            if self._patience is not None:
                self._look_for_best(loss, self._patience)
        self.history.add_evaluation(**numbers)
        if isinstance(self.optimizer, Optioned):
            self.optimizer._report(loss)
        for hook in hooks:
            hook(self)

    def _averaged(self) -> AbstractContextManager[None]:
        """Return the context in which the net has the averages, where there are any."""
        if isinstance(self.optimizer, Optioned) and hasattr(self.optimizer, "averaged"):
            return self.optimizer.averaged(self.net.params)
        return nullcontext()

    def _look_for_best(self, loss: float, patience: int) -> None:
        """Keep the parameters of the lowest loss, and stop if there was none for a while."""
        if self._is_best(loss):
            self._best = _Best(loss, _copied(self.net.params), _copied(_running(self.net)))
            self._evaluations_since_best = 0
        else:
            self._evaluations_since_best += 1
            if self._evaluations_since_best >= patience:
                self.stop()

    def _is_best(self, loss: float) -> bool:
        """Tell whether a loss is the lowest so far; any number is lower than NaN."""
        if self._best is None:
            return True
        best = self._best.loss
        return loss < best or (math.isnan(best) and not math.isnan(loss))

    # --- checkpoints ---

    def _save(self) -> None:
        if self.checkpoint is not None:
            saving.save(self.checkpoint, trainer=self)

    def _save_if_due(self, target: int) -> None:
        """Save where that is due, but at the end of a fit, which saves in any case."""
        every = self.checkpoint_every
        is_due = self._is_at_end_of_pass() if every is None else self.iteration % every == 0
        if is_due and self.iteration != target:
            self._save()

    def _resume(self, n: int) -> bool:
        """Go where the checkpoint is, if there is one; tell whether there is.

        A pass that is broken off there must be over as many samples, in batches of the same size.
        """
        path = cast("str", self.checkpoint)
        if not Path(path).exists():
            return False
        tree = saving.load(path)
        with saving.naming(path):
            put = saving.checked({"trainer": self}, tree)
            kinds = {"samples": n, "batch_size": self.batch_size, "shuffle": self.shuffle}
            broken_off = _broken_off_pass(tree["trainer"])
            for (name, now), then in zip(kinds.items(), broken_off, strict=False):
                if now != then:
                    raise ValueError(f"its training has {name} {then!r}, this one {now!r}")
            put()
        return True

    def _stateful_callbacks(self, states: Any) -> list[Any]:
        """Return the callbacks that states are for, None in the place of others."""
        if not isinstance(states, list) or len(states) != len(self.callbacks):
            raise ValueError(f"callbacks must be {len(self.callbacks)} states, got {states!r}")
        found = []
        for i, (callback, state) in enumerate(zip(self.callbacks, states, strict=True)):
            if saving.has_state(callback) != (state is not None):
                raise ValueError(f"callbacks[{i}] is another one: one has a state, one has none")
            found.append(None if state is None else callback)
        return found

    def __repr__(self) -> str:
        shown = [repr(self.net), repr(self.optimizer)]
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = getattr(self, name, parameter.default)
            if parameter.default is not parameter.empty and value not in (
                parameter.default,
                [],
                {},
            ):
                shown.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


class _Hooks:
    """The methods of callbacks that are called at each of the moments."""

    start: list[Callable[..., Any]]
    gradient: list[Callable[..., Any]]
    step: list[Callable[..., Any]]
    evaluation: list[Callable[..., Any]]
    end: list[Callable[..., Any]]

    def __init__(self, callbacks: Iterable[Any]) -> None:
        for name in _HOOKS:
            setattr(self, name, [hook for each in callbacks if (hook := _hook(each, name))])


class _NoStepper:
    """Stands in for the stepper of an optimizer that has none: no step is known to be completed."""

    steps = 0
    flushes = False


def _hook(callback: Any, name: str) -> Callable[..., Any] | None:
    """Return a callback's method for a moment; a callable alone is one for each step."""
    hook = getattr(callback, name, None)
    if callable(hook):
        return cast("Callable[..., Any]", hook)
    return callback if name == "step" and callable(callback) else None


def _reader(optimizer: Any) -> Callable[[], tuple[float, float]]:
    """Return what reads learning rate and norm of a step; NaN where there is none.

    A call that makes no step has no norm: the one that the optimizer has is an earlier step's.
    """
    if not isinstance(optimizer, Optioned):
        return lambda: (_as_number(getattr(optimizer, "lr", math.nan)), math.nan)

    t = optimizer.iter

    def read() -> tuple[float, float]:
        nonlocal t
        lr, norm = optimizer.lr, optimizer.norm  # type: ignore[attr-defined]
        before, t = t, optimizer.iter
        if callable(lr):
            lr = _as_number(optimizer._used("lr"))
        # A call that was skipped, or only added its gradients, leaves the norm of the step before
        return lr, math.nan if norm is None or t == before else norm

    return read


def _is_finite(loss: Any) -> bool:
    try:
        return math.isfinite(loss)
    except TypeError:
        raise TypeError(f"the net's loss_and_gradient must return a number, got {loss!r}") from None


def _as_number(value: Any) -> float:
    """Return a number of any type, NaN for what is none, such as another library's schedule."""
    try:
        return any_number("lr", value)
    except TypeError:
        return math.nan


def _order(n: int, rng: np.random.Generator, shuffles: bool) -> NDArray[np.intp]:
    return rng.permutation(n) if shuffles else np.arange(n)


def _copied(params: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: p.copy() if isinstance(p, np.ndarray) else p for key, p in params.items()}


def _running(net: Any) -> dict[str, Any]:
    """Return what training changes of a net beside its parameters, and evaluation uses."""
    return net.running if isinstance(net, MultiLayerNet) else {}


def _put(params: Any, values: Mapping[Any, Any]) -> None:
    """Write values into parameters: into arrays in place, numbers are replaced."""
    for key, value in values.items():
        if isinstance(params[key], np.ndarray):
            np.copyto(params[key], value)
        else:
            params[key] = value


# --- states ---

_FIELDS = ("iteration", "epoch", "pass", "rng", "fit", "net", "optimizer", "callbacks")
_FIELDS_OF_A_FIT = ("began", "is_stopped", "best", "evaluations_since_best", "history")
_FIELDS_OF_A_PASS = ("n_samples", "batch_size", "shuffles", "began", "rng")


def _best_of_state(state: Any, net: Any) -> _Best | None:
    if state is None:
        return None
    own = {"params": net.params}
    if _running(net):
        own["running"] = _running(net)
    fields = checked_names("best", state, ("loss", *own))
    for name, arrays in own.items():
        if not isinstance(fields[name], dict):
            raise ValueError(f"best {name} must be a dict, got {fields[name]!r}")
        try:
            saving.checked_params(arrays, fields[name], f"best {name}")
        except KeyError as error:
            raise ValueError(error.args[0]) from None
    loss = any_number("loss", fields["loss"])
    return _Best(loss, fields["params"], fields.get("running", {}))


def _broken_off_pass(state: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return number of samples, batch size and shuffling of a pass that is broken off in a state.

    Nothing if there is none.
    """
    if state["pass"] is None:
        return ()
    *kind, began = (state["pass"][name] for name in _FIELDS_OF_A_PASS[:-1])
    return tuple(kind) if (state["iteration"] - began) * kind[1] < kind[0] else ()


def _pass_of_state(state: Any, rng: np.random.Generator) -> _Pass | None:
    if state is None:
        return None
    fields = checked_names("pass", state, _FIELDS_OF_A_PASS)
    saving.checked({"rng": rng}, {"rng": fields["rng"]})
    n_samples, batch_size = (whole(name, fields[name]) for name in ("n_samples", "batch_size"))
    shuffles, began = switch("shuffles", fields["shuffles"]), count("began", fields["began"])
    return _Pass(n_samples, batch_size, shuffles, began, fields["rng"], None)


# --- arguments ---


def _require(name: str, value: object, *attributes: str, purpose: str = "") -> None:
    """Refuse a class where its instance is wanted, and an object without what is needed of it."""
    needed = ", ".join(attributes[:-1]) + " and " * (len(attributes) > 1) + attributes[-1]
    if isinstance(value, type):
        raise TypeError(
            f"{name} must be an object with {needed}{purpose}, got the class {value.__name__}; "
            f"give an instance, as {value.__name__}(...) makes it"
        )
    if not all(hasattr(value, attribute) for attribute in attributes):
        raise TypeError(f"{name} must be an object with {needed}{purpose}, got {value!r}")


def _checked_callbacks(callbacks: Any) -> list[Any]:
    if not isinstance(callbacks, Iterable):
        raise TypeError(
            f"callbacks must be a sequence of callables, got {callbacks!r}; one alone is [callback]"
        )
    checked = list(callbacks)
    for i, callback in enumerate(checked):
        if isinstance(callback, type) or not any(_hook(callback, name) for name in _HOOKS):
            raise TypeError(
                f"callbacks must be a sequence of callables, or of objects with any of "
                f"{', '.join(_HOOKS)}, but item {i} is {callback!r}"
            )
    return checked


def _checked_metrics(metrics: Any) -> dict[str, Callable[[Any, Any, Any], Any]]:
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping):
        raise TypeError(f"metrics must be a mapping of names to callables, got {metrics!r}")
    for name, metric in metrics.items():
        if not isinstance(name, str) or not callable(metric) or isinstance(metric, type):
            raise TypeError(
                f"metrics must be a mapping of names to callables, but {name!r} is {metric!r}"
            )
        if name == "loss":
            raise ValueError("a metric can't be named 'loss': that is the net's own")
    return dict(metrics)


def _checked_metric(name: str, value: Any) -> float:
    try:
        return any_number(f"metric {name!r}", value)
    except TypeError:
        raise TypeError(f"metric {name!r} must return a number, got {value!r}") from None


def _checked_pair(validation: Any) -> tuple[Any, Any]:
    if not isinstance(validation, (tuple, list)) or len(validation) != 2:
        raise TypeError("validation must be a pair of samples and labels, (x, t)")
    return validation[0], validation[1]


def _path(name: str, value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise TypeError(f"{name} must be a path, got {value!r}")
    return os.fspath(value)


def _generator(name: str, value: Any) -> np.random.Generator:
    try:
        return np.random.default_rng(value)
    except (TypeError, ValueError) as error:
        wanted = "None, a whole number ≥ 0 or a numpy.random.Generator"
        raise type(error)(f"{name} must be {wanted}, got {value!r}") from None


def _count(name: str, value: Any) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)
