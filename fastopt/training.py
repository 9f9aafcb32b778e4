"""The training loop that users would write around a net and an optimizer, once.

Batches, evaluation, history, early stopping. What a step computes is the net's and the optimizer's
business; the command line's five trainings side by side go through the same loop.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Trainer"]

Array = NDArray[Any]
History = dict[str, list[Any]]

BAR_SECONDS = 0.05  # between two looks at the progress bar


class Net(Protocol):
    """What a `Trainer` needs of a net: what `fastopt.MultiLayerNet` has."""

    params: dict[str, Array]

    def loss_and_gradient(
        self, x: ArrayLike, t: ArrayLike, out: dict[str, Array] | None = None, *, batch: ArrayLike
    ) -> tuple[float, dict[str, Array]]: ...
    def loss(self, x: ArrayLike, t: ArrayLike, *, batch: ArrayLike | None = None) -> float: ...
    def accuracy(self, x: ArrayLike, t: ArrayLike) -> float: ...


class Optimizer(Protocol):
    """What a `Trainer` needs of an optimizer."""

    def update(self, params: dict[str, Array], grads: dict[str, Array]) -> None: ...


class Trainer:
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
        attributes below, change ``trainer.optimizer.lr``, or call ``trainer.stop()``.
    progress : bool, optional
        Show a progress bar with the loss (needs tqdm). By default if standard error is a terminal
        and tqdm is there.

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
        `batch_size` is no integer.
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
        net: Net,
        optimizer: Optimizer,
        *,
        batch_size: int = 128,
        shuffle: bool = True,
        rng: int | np.random.Generator | None = None,
        callbacks: Sequence[Callable[[Trainer], object]] = (),
        progress: bool | None = None,
    ) -> None:
        self.net, self.optimizer = net, optimizer
        self.batch_size = _count("batch_size", batch_size)
        self.shuffle = shuffle
        self.callbacks = list(callbacks)
        self.progress = progress
        self._rng = np.random.default_rng(rng)
        self._grads: dict[str, Array] | None = None
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
            Samples and labels to evaluate on.
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
            ``validation_accuracy``.

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
        as usual, with `interrupted` set. What a callback raises ends training, too, and comes
        through.

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
            with self._bar(_count("iterations", iterations)) as show:
                for loss in self.steps(x, t, self._batches(n, iterations)):
                    self.epoch = -(-self.iteration // per_epoch)
                    is_last = self.iteration == iterations
                    if validation is not None and (is_last or self.iteration % every == 0):
                        self._evaluate(*validation)
                    for callback in self.callbacks:
                        callback(self)
                    show(loss)
                    if self._is_stopped:
                        break
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
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
        for batch in batches:
            loss, self._grads = net.loss_and_gradient(x, t, self._grads, batch=batch)
            optimizer.update(net.params, self._grads)
            losses.append(loss)
            self.iteration += 1
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
        self._best: tuple[float, dict[str, Array]] | None = None
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
        loss, accuracy = self.net.loss(x, t), self.net.accuracy(x, t)
        self.history["iteration"].append(self.iteration)
        self.history["validation_loss"].append(loss)
        self.history["validation_accuracy"].append(accuracy)
        if self._patience is None:
            return
        if self._is_best(loss):
            self._best = loss, {key: p.copy() for key, p in self.net.params.items()}
            self._evaluations_since_best = 0
        else:
            self._evaluations_since_best += 1
            if self._evaluations_since_best == self._patience:
                self.stop()

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

    @contextmanager
    def _bar(self, iterations: int) -> Iterator[Callable[[float], None]]:
        """Yield what is told each step's loss: it shows the bar, or does nothing."""
        wanted = self.progress
        if wanted is None:
            wanted = sys.stderr.isatty() and find_spec("tqdm") is not None
        if not wanted:
            yield lambda loss: None
            return
        with progress_bar(iterations) as bar:
            yield lambda loss: bar({"loss": loss})


@contextmanager
def progress_bar(iterations: int) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Yield what is called after each iteration with its losses by name, and shows their means.

    Raises
    ------
    ImportError
        tqdm is not installed.
    """
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("a progress bar needs tqdm: pip install tqdm") from error

    smoothed: dict[str, float] = {}
    done = 0
    shown = perf_counter()

    def show(losses: Mapping[str, float]) -> None:
        nonlocal done, shown
        for name, loss in losses.items():
            before = smoothed.get(name, loss)
            smoothed[name] = before + 0.05 * (loss - before)
        done += 1
        if perf_counter() - shown > BAR_SECONDS:
            refresh()

    def refresh() -> None:
        nonlocal done, shown
        text = "  ".join(f"{name} {loss:.3f}" for name, loss in smoothed.items())
        bar.set_postfix_str(text, refresh=False)
        bar.update(done)
        done, shown = 0, perf_counter()

    with tqdm(
        total=iterations,
        bar_format="{percentage:3.0f}% {bar:10} {remaining} left{postfix}",
        mininterval=0,  # `show` sees to it
        smoothing=0.05,
        dynamic_ncols=True,
        leave=False,
    ) as bar:
        yield show
        refresh()


def _count(name: str, value: Any) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)
