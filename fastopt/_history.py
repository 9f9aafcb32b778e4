# What a training was like, step by step and evaluation by evaluation. It is measured by `training`,
# and drawn by `plotting`.
"""The history of a training."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, nan
from typing import Any

import numpy as np

from fastopt._checks import count
from fastopt._states import checked_names

__all__ = ["History"]

_COLUMNS = ("epoch", "lr", "norm", "seconds")
"""Of the table of steps, beside iteration and loss."""


class History(dict[str, list[Any]]):
    """The numbers of a `Trainer.fit`: a dict of lists, and two tables.

    As a dict it has ``loss`` (of each step on its batch, before its update), ``iteration`` (the
    steps after which it was evaluated), ``validation_loss``, ``validation_accuracy``, and each
    metric as ``validation_`` and its name. A list of an evaluation stays empty if there is nothing
    to put into it.

    Attributes
    ----------
    began : int
        Steps that the trainer had taken before.

    Examples
    --------
    >>> import fastopt
    >>> (x_train, t_train), test = fastopt.datasets.load_mnist()
    >>> net = fastopt.MultiLayerNet(784, [30], 10, rng=0)
    >>> trainer = fastopt.Trainer(net, fastopt.Adam(), rng=0)
    >>> history = trainer.fit(x_train, t_train, epochs=2, validation=test)
    >>> [*history.steps], len(history.steps["loss"])
    (['iteration', 'epoch', 'loss', 'lr', 'norm', 'seconds'], 94)
    >>> [*history.evaluations], history.evaluations["iteration"]
    (['iteration', 'epoch', 'seconds', 'validation_loss', 'validation_accuracy'], [47, 94])
    """

    def __init__(self, began: int = 0) -> None:
        super().__init__(loss=[], iteration=[], validation_loss=[], validation_accuracy=[])
        self.began = began
        self._steps: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        self._rows: list[dict[str, Any]] = []

    @property
    def steps(self) -> dict[str, list[Any]]:
        """A column of each step's iteration, epoch, loss, learning rate, norm and seconds.

        The norm is that of the gradients, where the optimizer measured it, else NaN; seconds are
        those since the beginning of `fit`. The columns are of one length, as
        ``pandas.DataFrame(history.steps)`` wants them.
        """
        n = min(map(len, self._steps.values()))
        epoch, *others = (self._steps[name][:n] for name in _COLUMNS)
        iteration = [*range(self.began + 1, self.began + n + 1)]
        columns = [iteration, epoch, self["loss"][:n], *others]
        return dict(zip(("iteration", "epoch", "loss", *_COLUMNS[1:]), columns, strict=True))

    @property
    def evaluations(self) -> dict[str, list[Any]]:
        """A column of each evaluation's iteration, epoch, seconds, validation loss and metrics."""
        names = dict.fromkeys(name for row in self._rows for name in row)
        return {name: [row.get(name, nan) for row in self._rows] for name in names}

    @property
    def seconds(self) -> float:
        """Seconds from the beginning of `fit` to the last step, as far as they are known."""
        return next((s for s in reversed(self._steps["seconds"]) if isfinite(s)), 0.0)

    def add_step(self, *numbers: Any) -> None:
        """Add the epoch, learning rate, norm and seconds of a step whose loss has been added."""
        for values, number in zip(self._steps.values(), numbers, strict=True):
            values.append(number)

    def add_evaluation(self, **numbers: Any) -> None:
        """Add the numbers of an evaluation."""
        numbers = {name: _plain(number) for name, number in numbers.items()}
        self._rows.append(numbers)
        for name, number in numbers.items():
            if name not in _COLUMNS:
                self.setdefault(name, []).append(number)

    def level(self, epoch: int) -> None:
        """Bring all columns to the length of their table, if something has come between two."""
        n = len(self["loss"])
        for name, values in self._steps.items():
            values.extend([epoch if name == "epoch" else nan] * (n - len(values)))
        # What a callback has put in of its own stays as it is
        for name in {name for row in self._rows for name in row if name not in _COLUMNS}:
            values = self.setdefault(name, [])
            values[:] = [row[name] for row in self._rows if name in row]

    def state_dict(self) -> dict[str, Any]:
        """Return what it holds, as plain data and arrays."""
        return {
            "began": self.began,
            "steps": {
                name: np.asarray(values, np.float64)
                for name, values in [("loss", self["loss"]), *self._steps.items()]
            },
            "evaluations": [dict(row) for row in self._rows],
        }

    @classmethod
    def of_state(cls, state: Any) -> History:
        """Return the history of a state; a ValueError says if it is none."""
        try:
            fields = checked_names("it", state, ("began", "steps", "evaluations"))
            history = cls(count("began", fields["began"]))
            columns = _checked_columns(fields["steps"])
            history["loss"].extend(columns.pop("loss"))
            for name, values in columns.items():
                history._steps[name].extend(values)
            history._steps["epoch"][:] = map(int, history._steps["epoch"])
            for row in _checked_list("evaluations", fields["evaluations"]):
                history.add_evaluation(**_checked_row(row))
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"the history of a trainer: {error}") from None
        return history


def _checked_columns(data: Any) -> dict[str, list[float]]:
    """Return the columns of steps, all of one length."""
    columns = checked_names("steps", data, ("loss", *_COLUMNS))
    shape = np.shape(columns["loss"])
    for name, values in columns.items():
        is_column = type(values) is np.ndarray and values.dtype.type is np.float64
        if not is_column or values.ndim != 1 or values.shape != shape:
            raise ValueError(f"{name} of steps must be a float64 column, as long as the others")
    return {name: values.tolist() for name, values in columns.items()}


def _checked_list(name: str, data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise ValueError(f"{name} must be a list, got {data!r}")
    return data


def _checked_row(row: Any) -> dict[str, Any]:
    """Return an evaluation's numbers by name."""
    if not isinstance(row, Mapping) or not {"iteration", "epoch", "validation_loss"} <= {*row}:
        raise ValueError(f"an evaluation must have iteration, epoch and loss, got {row!r}")
    for name in row:
        is_metric = isinstance(name, str) and name.startswith("validation_")
        if not is_metric and name not in ("iteration", "epoch", "seconds"):
            raise ValueError(f"an evaluation must not have {name!r}, which is not known")
    return {**row}


def _plain(number: Any) -> Any:
    """Return a Python number for one of NumPy's; the rest as it is."""
    return number.item() if isinstance(number, np.generic) else number
