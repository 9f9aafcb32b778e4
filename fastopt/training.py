# Batches, evaluation, history, early stopping. What a step computes belongs to the net and the
# optimizer; the command line's trainings side by side go through the same loop.
"""The training loop that users would write around a net and an optimizer, once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastopt._progress import loss_bar
from fastopt.typing import Array, EvaluableNet, Net, SupportsUpdate

if TYPE_CHECKING:
    from typing_extensions import TypeVar
else:
    from typing import TypeVar

__all__ = ["Trainer"]

History = dict[str, list[Any]]


# A trainer's net and optimizer keep their own classes, for what else they have, such as `lr`; one
# that is annotated without them may have any.
if TYPE_CHECKING:
    NetT = TypeVar("NetT", bound=Net, default=Any)
    OptimizerT = TypeVar("OptimizerT", bound=SupportsUpdate, default=Any)
else:
    NetT, OptimizerT = TypeVar("NetT"), TypeVar("OptimizerT")


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
    callbacks : sequence of callables
        Each is called with the trainer after every step and evaluation of it. It may read the
        attributes below, change ``trainer.optimizer.lr``, or call ``trainer.stop()``. What it
        changes acts from the next step on: the first step is taken as the optimizer was given.
    progress : bool, optional
        Show a progress bar with the loss (needs tqdm). By default if standard error is a terminal
        and tqdm is there. A process without a standard error, as under pythonw, shows none.

    Attributes
    ----------
    net : object
        As given.
    optimizer : object
        As given.
    iteration : int
        Steps taken in the current or last `fit`.
    epoch : int
        The pass over the samples that it is in, from 1.
    history : dict of str to list
        What `fit` returns, as far as it has come.
    interrupted : bool
        Whether Ctrl-C ended the last `fit`.

    Raises
    ------
    TypeError
        `net`, `optimizer` or `callbacks` lack what a trainer needs of them, such as a class where
        an instance is wanted; or `batch_size` is no integer.
    ValueError
        `batch_size` is below 1.

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

    def __init__(
        self,
        net: NetT,
        optimizer: OptimizerT,
        *,
        batch_size: int = 128,
        shuffle: bool = True,
        rng: int | np.random.Generator | None = None,
        callbacks: Sequence[Callable[[Trainer[NetT, OptimizerT]], object]] = (),
        progress: bool | None = None,
    ) -> None:
        _require("net", net, "params", "loss_and_gradient")
        _require("optimizer", optimizer, "update")
        self.net, self.optimizer = net, optimizer
        self.batch_size = _count("batch_size", batch_size)
        self.shuffle = shuffle
        self.callbacks = _checked_callbacks(callbacks)
        self.progress = progress
        self._rng = np.random.default_rng(rng)
        self._grads: Mapping[Any, Any] | None = None
        self._begin(None)

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
    ) -> History:
        """Train, and return the history.

        Called again, it goes on with the parameters, the optimizer's state and the random order
        where they are, and with a new history.

        Parameters
        ----------
        x : array (N, …)
            Samples. They are neither copied nor changed; of the net's dtype and C-contiguous, a
            batch is taken from them in the first layer.
        t : array (N,) of int, or (N, C)
            Labels.
        epochs, iterations : int
            How many passes over the samples, or how many steps; one of the two.
        validation : (x, t), optional
            Samples and labels to evaluate on, by the net's ``loss(x, t)`` and, if it has one,
            ``accuracy(x, t)``.
        evaluate_every : int, optional
            Evaluate after every so many steps, and after the last; by default after each epoch.
        patience : int, optional
            Stop when so many evaluations in a row have not lowered the validation loss. However
            training ends, the parameters are then those of the lowest.

        Returns
        -------
        dict of str to list
            ``loss``: of each step on its batch, before its update. ``iteration``: the steps after
            which it was evaluated, and for each of these ``validation_loss`` and
            ``validation_accuracy``, which stays empty if the net has no ``accuracy``.

        Raises
        ------
        ValueError, TypeError
            Arguments that contradict each other or are out of range, or data that don't fit the
            net. The step that meets such data changes nothing, but a label is looked at when its
            batch comes: steps before it have been taken.
        ImportError
            `progress` is True, and tqdm is not installed.

        Notes
        -----
        Ctrl-C ends training after the step it meets; what was trained is kept, and `fit` returns
        as usual, with `interrupted` set. A step that the optimizer has completed is counted and in
        the history, wherever Ctrl-C meets it. An optimizer of your own that is interrupted within
        its ``update`` has not completed the step. What a callback raises ends training, too, and
        comes through.

        Examples
        --------
        A step size that halves after each pass, and an end when five evaluations in a row have not
        lowered the validation loss:

        >>> import fastopt
        >>> (x_train, t_train), test = fastopt.datasets.load_mnist()
        >>> def halve(trainer):
        ...     trainer.optimizer.lr = 0.1 / 2 ** (trainer.epoch - 1)
        >>> trainer = fastopt.Trainer(
        ...     fastopt.MultiLayerNet(784, [30], 10, rng=0), fastopt.SGD(lr=0.1),
        ...     batch_size=100, rng=0, callbacks=[halve],
        ... )
        >>> history = trainer.fit(
        ...     x_train, t_train, epochs=3, validation=test, evaluate_every=20, patience=5
        ... )
        >>> history["iteration"]
        [20, 40, 60, 80, 100, 120, 140, 160, 180]
        >>> trainer.optimizer.lr
        0.025
        """
        if (epochs is None) == (iterations is None):
            raise ValueError("give epochs or iterations, one of the two")
        if validation is None and (evaluate_every is not None or patience is not None):
            raise ValueError("evaluate_every and patience need validation=(x, t)")
        if validation is not None and not (
            isinstance(validation, (tuple, list)) and len(validation) == 2
        ):
            raise TypeError("validation must be a pair of samples and labels, (x, t)")
        if validation is not None:
            _require("net", self.net, "loss", purpose=" for validation")
        x, t = np.asarray(x), np.asarray(t)
        n = len(x) if x.ndim else 0
        if n == 0:
            raise ValueError(f"x of shape {x.shape} holds no samples")
        per_epoch = -(-n // self.batch_size)
        if iterations is None:
            iterations = per_epoch * _count("epochs", epochs)
        every = per_epoch if evaluate_every is None else _count("evaluate_every", evaluate_every)
        self._begin(None if patience is None else _count("patience", patience))
        try:
            with loss_bar(_count("iterations", iterations), self.progress) as show:
                for loss in self.steps(x, t, self._batches(n, iterations)):
                    self.epoch = -(-self.iteration // per_epoch)
                    is_last = self.iteration == iterations
                    if validation is not None and (is_last or self.iteration % every == 0):
                        self._evaluate(*validation)
                    for callback in self.callbacks:
                        callback(self)
                    show({"loss": loss})
                    if self._is_stopped:
                        break
        except KeyboardInterrupt:
            self.interrupted = True
            self._drop_half_an_evaluation()
        finally:
            self.epoch = -(-self.iteration // per_epoch)
            self._restore_best()
        return self.history

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
            has then also been added to `history`, and `iteration` counted on.

        Raises
        ------
        ValueError, TypeError, IndexError
            Data or rows that don't fit the net; the step that meets them changes nothing.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> x, t = np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1])
        >>> trainer = fastopt.Trainer(fastopt.TwoLayerNet(4, 3, 2, rng=0), fastopt.Adam())
        >>> losses = list(trainer.steps(x, t, [[0, 1], [2, 3], [0, 3]]))
        >>> len(losses), trainer.iteration
        (3, 3)
        """
        net, optimizer, losses = self.net, self.optimizer, self.history["loss"]
        counter = getattr(optimizer, "_stepper", _Uncounted)
        for batch in batches:
            loss, self._grads = net.loss_and_gradient(x, t, self._grads, batch=batch)
            before = counter.steps
            # A signal is handled at the end of a call: one that comes during a compiled step
            # interrupts `update` after it, and none comes between count and append.
            try:
                optimizer.update(net.params, self._grads)
            except BaseException:
                if counter.steps != before:
                    self.iteration += 1
                    losses.append(loss)
                raise
            self.iteration += 1
            losses.append(loss)
            yield loss

    def stop(self) -> None:
        """End `fit` after the current step; for callbacks."""
        self._is_stopped = True

    def _begin(self, patience: int | None) -> None:
        self._grads = None  # those of an earlier fit may be of another net
        self.iteration = 0
        self.epoch = 0
        self.interrupted = False
        self.history: History = {
            "loss": [],
            "iteration": [],
            "validation_loss": [],
            "validation_accuracy": [],
        }
        self._is_stopped = False
        self._patience = patience
        self._best: tuple[float, dict[Any, Array]] | None = None
        self._evaluations_since_best = 0

    def _batches(self, n: int, iterations: int) -> Iterator[NDArray[np.intp]]:
        """Yield the row numbers of so many batches, pass after pass over all rows."""
        order = np.arange(n)
        left = iterations
        while True:
            if self.shuffle:
                self._rng.shuffle(order)
            for first in range(0, n, self.batch_size):
                if left == 0:
                    return
                left -= 1
                yield order[first : first + self.batch_size]

    def _evaluate(self, x: ArrayLike, t: ArrayLike) -> None:
        net = cast("EvaluableNet", self.net)
        loss = net.loss(x, t)
        evaluation: dict[str, Any] = {"iteration": self.iteration, "validation_loss": loss}
        if hasattr(net, "accuracy"):
            evaluation["validation_accuracy"] = net.accuracy(x, t)
        for name, value in evaluation.items():
            self.history[name].append(value)
        if self._patience is None:
            return
        if self._is_best(loss):
            self._best = loss, {key: p.copy() for key, p in self.net.params.items()}
            self._evaluations_since_best = 0
        else:
            self._evaluations_since_best += 1
            if self._evaluations_since_best == self._patience:
                self.stop()

    def _drop_half_an_evaluation(self) -> None:
        """Cut the lists of evaluations to one length, if Ctrl-C has come between two of them."""
        lists = [self.history[name] for name in ("iteration", "validation_loss")]
        if hasattr(self.net, "accuracy"):
            lists.append(self.history["validation_accuracy"])
        complete = min(map(len, lists))
        for values in lists:
            del values[complete:]

    def _is_best(self, loss: float) -> bool:
        """Tell whether a loss is the lowest so far; any number is lower than NaN."""
        if self._best is None:
            return True
        best = self._best[0]
        return loss < best or (math.isnan(best) and not math.isnan(loss))

    def _restore_best(self) -> None:
        if self._best is not None:
            for key, p in self._best[1].items():
                np.copyto(self.net.params[key], p)
            self._best = None


class _Uncounted:
    """Stands in for the counter of an optimizer that has none: no step is known to be completed."""

    steps = 0


def _require(name: str, value: object, *attributes: str, purpose: str = "") -> None:
    """Refuse a class where its instance is wanted, and an object without what is needed of it."""
    needed = " and ".join(attributes)
    if isinstance(value, type):
        raise TypeError(
            f"{name} must be an object with {needed}{purpose}, got the class {value.__name__}; "
            f"give an instance, as {value.__name__}(...) makes it"
        )
    if not all(hasattr(value, attribute) for attribute in attributes):
        raise TypeError(f"{name} must be an object with {needed}{purpose}, got {value!r}")


def _checked_callbacks(callbacks: Sequence[Callable[[Trainer], object]]) -> list[Any]:
    if not isinstance(callbacks, Iterable):
        raise TypeError(
            f"callbacks must be a sequence of callables, got {callbacks!r}; one alone is [callback]"
        )
    checked = list(callbacks)
    for i, callback in enumerate(checked):
        if not callable(callback):
            raise TypeError(
                f"callbacks must be a sequence of callables, but item {i} is {callback!r}"
            )
    return checked


def _count(name: str, value: Any) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)
