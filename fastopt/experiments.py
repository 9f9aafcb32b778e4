# Plain functions of classes and data. Loading data, printing and drawing belong elsewhere.
"""The two experiments: the optimizers side by side in a two-variable valley and on digits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

import fastopt
from fastopt.training import Trainer
from fastopt.typing import Array, SupportsUpdate

__all__ = [
    "OPTIMIZERS",
    "Comparison",
    "Training",
    "compare_optimizers",
    "trajectory",
    "valley",
    "valley_gradient",
    "valley_optimizers",
]

Data = tuple[tuple[ArrayLike, ArrayLike], tuple[ArrayLike, ArrayLike]]

OPTIMIZERS = ("SGD", "Momentum", "AdaGrad", "Adam", "RMSprop")
"""Who takes part in both experiments unless told otherwise."""

FINAL_STEPS = 100  # one batch's loss is too noisy to be called final

# Learning rates that suit the valley; an optimizer that is not here takes its default. As in the
# source's experiment that is so for RMSprop.
_VALLEY_RATES = {"SGD": 0.95, "Momentum": 0.1, "Nesterov": 0.1, "AdaGrad": 1.5, "Adam": 0.3}


def valley(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return f(x, y) = x²/20 + y², steep across and nearly flat along; its minimum is at (0, 0).

    Parameters
    ----------
    x, y : array or float
        Coordinates along and across, of shapes that NumPy can broadcast.

    Returns
    -------
    array or float
        The height at each point.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt.experiments import valley
    >>> valley(np.array([0.0, 10.0]), np.array([0.0, 2.0]))
    array([0., 9.])
    """
    return x * x / 20 + y * y


def valley_gradient(x: float, y: float) -> dict[str, float]:
    """Return the gradient of `valley`, (x/10, 2y).

    Parameters
    ----------
    x, y : float
        Where.

    Returns
    -------
    dict of str to float
        Under the keys 'x' and 'y', as an optimizer takes it.

    Examples
    --------
    >>> from fastopt.experiments import valley_gradient
    >>> valley_gradient(10.0, 2.0)
    {'x': 1.0, 'y': 4.0}
    """
    return {"x": x / 10, "y": 2 * y}


def valley_optimizers(
    classes: ModuleType = fastopt,
    optimizers: Sequence[str] = OPTIMIZERS,
    learning_rates: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return the optimizers by name, each new and with its learning rate for the valley.

    The rates suit the valley, except RMSprop's: as in the source's experiment it has its default,
    0.01, and creeps, so that 30 steps take it only a small part of the way.

    Parameters
    ----------
    classes : module
        `fastopt`, or `fastopt.reference` for the NumPy twins.
    optimizers : sequence of str
        Names of classes in `classes`.
    learning_rates : mapping of str to float, optional
        Other rates, by optimizer.

    Returns
    -------
    dict of str to optimizer
        In the order of `optimizers`.

    Raises
    ------
    ValueError
        `learning_rates` names an optimizer that is not among `optimizers`, or a rate is out of
        range.
    AttributeError
        `classes` has no optimizer of a name.

    Examples
    --------
    >>> from fastopt.experiments import valley_optimizers
    >>> {name: optimizer.lr for name, optimizer in valley_optimizers().items()}
    {'SGD': 0.95, 'Momentum': 0.1, 'AdaGrad': 1.5, 'Adam': 0.3, 'RMSprop': 0.01}
    """
    return _new_optimizers(classes, optimizers, learning_rates or {}, usual=_VALLEY_RATES)


def _new_optimizers(
    classes: ModuleType,
    names: Sequence[str],
    learning_rates: Mapping[str, float],
    usual: Mapping[str, float],
) -> dict[str, Any]:
    """Make the optimizers with the rates asked for, the usual ones, or their defaults."""
    for name in learning_rates:
        if name not in names:
            raise ValueError(
                f"learning_rates names {name!r}, which is not among {', '.join(names)}"
            )
    rates = {**usual, **learning_rates}
    return {
        name: getattr(classes, name)(**({"lr": rates[name]} if name in rates else {}))
        for name in names
    }


def trajectory(
    optimizer: SupportsUpdate, start: tuple[float, float] = (-7.0, 2.0), steps: int = 30
) -> NDArray[np.float64]:
    """Return the path of an optimizer down the valley.

    Parameters
    ----------
    optimizer : object with ``update(params, grads)``
        New, or the path continues with its state; the parameters it gets are Python floats.
    start : (float, float)
        Where the path begins, (x, y).
    steps : int
        How many updates, ≥ 0.

    Returns
    -------
    float64 array (steps + 1, 2)
        The points (x, y); the first is `start`.

    Raises
    ------
    TypeError, ValueError, IndexError
        `start` is no two numbers, or `steps` no integer or negative. What ``update`` raises comes
        through.

    Examples
    --------
    >>> import fastopt
    >>> from fastopt.experiments import trajectory
    >>> trajectory(fastopt.SGD(lr=0.5), start=(-10.0, 2.0), steps=1).tolist()
    [[-10.0, 2.0], [-9.5, 0.0]]
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    position = {"x": float(start[0]), "y": float(start[1])}
    path = [tuple(position.values())]
    for _ in range(steps):
        optimizer.update(position, valley_gradient(**position))
        path.append(tuple(position.values()))
    return np.array(path)


@dataclass(frozen=True)
class Training:
    """How one optimizer did.

    Attributes
    ----------
    losses : list of float
        For each step the loss on its batch, after the update; NaN where training diverged.
    test_accuracy : float
        Share of the test images that are recognized at the end, from 0 to 1.
    ms_per_step : float
        Median time of taking a batch, its gradient and the update, in milliseconds; the loss after
        it is not counted.
    lr : float
        The learning rate.
    """

    losses: list[float]
    test_accuracy: float
    ms_per_step: float
    lr: float

    @property
    def final_loss(self) -> float:
        """Mean loss of the last 100 steps, or of all if there are fewer."""
        return fmean(self.losses[-FINAL_STEPS:])


@dataclass(frozen=True)
class Comparison:
    """What `compare_optimizers` returns.

    Attributes
    ----------
    trainings : dict of str to Training
        By the optimizer's name, in the order they were asked for.
    seconds : float
        Time for all of it, with batches, losses and test.
    """

    trainings: dict[str, Training]
    seconds: float


def compare_optimizers(
    data: Data,
    optimizers: Sequence[str] = OPTIMIZERS,
    *,
    classes: ModuleType = fastopt,
    hidden_size_list: Sequence[int] = (100, 100, 100, 100),
    iterations: int = 2000,
    batch_size: int = 128,
    dtype: DTypeLike = np.float32,
    seed: int = 0,
    learning_rates: Mapping[str, float] | None = None,
    flush_subnormals: bool = True,
    progress: Callable[[Mapping[str, float]], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Comparison:
    """Train one net with each optimizer, all from the same weights and on the same batches.

    Parameters
    ----------
    data : ((x_train, t_train), (x_test, t_test))
        As `fastopt.datasets.load_mnist` returns it: samples (N, …), class numbers (N,) from 0.
    optimizers : sequence of str
        Names of classes in `classes`; each is used with its defaults, except `learning_rates`.
    classes : module
        `fastopt`, or `fastopt.reference` for the NumPy twins.
    hidden_size_list : sequence of int
        Units of each hidden layer; relu between, He initialization.
    iterations : int
        Steps of each optimizer, ≥ 1.
    batch_size : int
        Samples in a step, ≥ 1, drawn with replacement.
    dtype : {float32, float64}
        Of the nets; the samples are converted to it once, before training.
    seed : int
        Of the initial weights and of the batches, ≥ 0.
    learning_rates : mapping of str to float, optional
        By optimizer, instead of its default.
    flush_subnormals : bool
        As for `Trainer`; twins keep them in any case.
    progress : callable, optional
        Called after every iteration with the losses on its batch, by optimizer.
    stop : callable, optional
        Asked after every iteration; when it returns true, training ends early, and the result is
        that of the steps taken.

    Returns
    -------
    Comparison
        A `Training` for each optimizer. One that diverges ends with losses of NaN, not with an
        error.

    Raises
    ------
    ValueError
        `iterations` or `batch_size` is below 1, the data don't fit a net, `learning_rates` names
        an optimizer that is not among `optimizers`, or a rate is out of range.
    TypeError
        `dtype` is neither float32 nor float64.
    AttributeError
        `classes` has no optimizer of a name.

    Examples
    --------
    >>> from fastopt.datasets import load_mnist
    >>> from fastopt.experiments import compare_optimizers
    >>> comparison = compare_optimizers(
    ...     load_mnist(), ["SGD", "Adam"], hidden_size_list=[20], iterations=30, batch_size=50
    ... )
    >>> trainings = comparison.trainings
    >>> trainings["Adam"].final_loss < trainings["SGD"].final_loss
    True
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    begin = perf_counter()
    x_train, x_test = (np.asarray(x, dtype) for x, _ in data)
    t_train, t_test = (np.asarray(t) for _, t in data)
    sizes = (x_train[0].size, hidden_size_list, 1 + int(max(t_train.max(), t_test.max())))
    rng = np.random.default_rng([seed, 1])  # a stream of its own: the weights come from [seed]
    batches = (rng.choice(len(x_train), batch_size) for _ in range(iterations))
    streams = itertools.tee(batches, len(optimizers))
    made = _new_optimizers(classes, optimizers, learning_rates or {}, usual={})
    runs = {
        name: _Run(
            classes.MultiLayerNet(*sizes, dtype=dtype, rng=seed),
            optimizer,
            x_train,
            t_train,
            stream,
            flush_subnormals,
        )
        for (name, optimizer), stream in zip(made.items(), streams, strict=True)
    }
    with np.errstate(all="ignore"):  # a training that diverges is a result
        for _ in range(iterations):
            losses = {name: run.step() for name, run in runs.items()}
            if progress is not None:
                progress(losses)
            if stop is not None and stop():
                break
        trainings = {name: run.result(x_test, t_test) for name, run in runs.items()}
    return Comparison(trainings, perf_counter() - begin)


class _Run:
    """One net and optimizer on their batches, and the notes taken while it trains."""

    def __init__(
        self, net: Any, optimizer: Any, x: Array, t: Array, batches: Iterator[NDArray[np.intp]],
        flush_subnormals: bool,
    ) -> None:  # fmt: skip
        self._net = net
        self._lr = optimizer.lr
        self._x, self._t = x, t
        self._batches, batches = itertools.tee(batches)
        trainer = Trainer(
            net, optimizer, on_nonfinite="continue", flush_subnormals=flush_subnormals
        )
        self._steps = trainer.steps(x, t, batches)
        self._losses: list[float] = []
        self._seconds: list[float] = []

    def step(self) -> float:
        """Train on one batch and return the loss that is left on it."""
        begin = perf_counter()
        next(self._steps)
        self._seconds.append(perf_counter() - begin)
        self._losses.append(self._net.loss(self._x, self._t, batch=next(self._batches)))
        return self._losses[-1]

    def result(self, x_test: Array, t_test: Array) -> Training:
        accuracy = self._net.accuracy(x_test, t_test)
        return Training(self._losses, accuracy, 1e3 * median(self._seconds), self._lr)
