"""What every optimizer takes beside its own numbers: the options, groups of keys and schedules.

Which numbers a step is made with is found out here, for the compiled class and its twin alike; the
arithmetic on arrays is theirs. What each option means is in the guide "Options".
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import inf, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastopt._checks import (
    bound,
    count,
    dict_of_arrays,
    fraction,
    non_negative,
    one_of,
    optional,
    positive,
    switch,
    whole,
)
from fastopt.optimizers._declared import (
    Coefficients,
    Declared,
    Number,
    OptionalNumber,
    State,
    internal,
    option,
)
from fastopt.optimizers._groups import FROZEN, Groups
from fastopt.optimizers._state import checked_state, state_of
from fastopt.schedules import plateaus

__all__ = ["NEUTRAL", "OptionRow", "Optioned", "Options", "option_row"]

OptionRow = tuple[float, ...]
"""Numbers of a group's options in the order in which kernels and twins read them: scale, limit,
decay, shrink, low, high, 1 - ema."""

Options = tuple[OptionRow | None, ...]
"""Of each row, None where they are neutral; nothing where all rows' are."""

_OPTIONS_OF_A_ROW = {"weight_decay", "low", "high", "clip_value", "ema"}

NEUTRAL: OptionRow = (1.0, inf, 0.0, 1.0, -inf, inf, 0.0)


class Optioned(Declared):
    """A declaration with the options, and the numbers that they give a step."""

    weight_decay: Number = option(non_negative, default=0.0, kw_only=True)
    decoupled: bool = option(switch, default=False, kw_only=True, may_vary=False)
    low: Number = option(bound, default=-inf, kw_only=True)
    high: Number = option(bound, default=inf, kw_only=True)
    clip_value: OptionalNumber = option(optional(positive), default=None, kw_only=True)
    clip_norm: OptionalNumber = option(optional(positive), default=None, kw_only=True)
    clip_global_norm: OptionalNumber = option(
        optional(positive), default=None, kw_only=True, in_groups=False
    )
    maximize: bool = option(switch, default=False, kw_only=True, may_vary=False)
    nonfinite: str = option(
        one_of("propagate", "skip", "raise"),
        default="propagate", kw_only=True, may_vary=False, in_groups=False,
    )  # fmt: skip
    accumulate: int = option(whole, default=1, kw_only=True, may_vary=False, in_groups=False)
    ema: OptionalNumber = option(optional(fraction), default=None, kw_only=True, in_groups=False)
    groups: Mapping[Any, Mapping[str, Any]] = option(
        lambda name, value: value, default={}, kw_only=True, may_vary=False, in_groups=False
    )

    skipped: int = internal(0, check=count)
    """Calls whose step was not made, with ``nonfinite="skip"``."""

    norm: float | None = internal(check=optional(bound))
    """Euclidean norm of all gradients of the last step, before clipping, if it was measured."""

    average: State = internal(check=dict_of_arrays)
    """Moving averages of the parameters by key, with `ema`."""

    accumulated: State = internal(check=dict_of_arrays)
    """Sums of gradients by key that are yet to be used, with `accumulate`."""

    _is_averaged: bool = internal(False)
    _current: _Numbers | None = internal()  # until a setting is set
    # Of the step under way: its numbers, and how many gradients it is the mean of
    _deciding: tuple[Sequence[Any], int] = internal(((), 1))

    def _made(self) -> None:
        self._numbers()  # which finds settings that contradict one another

    def _begin(self) -> None:
        super()._begin()
        self.skipped = 0
        self._put("norm", None)
        self.average = {}
        self.accumulated = {}

    def _checked(self, name: str, declared: Any, value: Any) -> Any:
        if name == "groups":
            return Groups(type(self), value)
        return super()._checked(name, declared, value)

    def _was_set(self, name: str) -> None:
        self._put("_current", None)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy and a file keep: not what follows from the settings."""
        state = super().__getstate__()
        state["_kept"] |= {"_current": None, "_deciding": ((), 1), "_is_averaged": False}
        # A step uses its sums up, which are not another one's
        sums = {key: copy.copy(array) for key, array in self.accumulated.items()}
        state["_kept"]["accumulated"] = sums
        return state

    def reset(self) -> None:
        """Forget states, averages, sums and counters, as if no step had been taken."""
        self._refuse_averaged()
        self._begin()
        self.iter = 0

    # --- the state ---

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state as plain data and copies of arrays, by the parameters' keys.

        Returns
        -------
        dict
            ``format`` (of this dict, a number), ``class``, ``iter``, ``skipped``, ``calls`` (since
            the last step, with `accumulate`), ``scalars``, ``settings`` and ``arrays``: the states
            by name, then by key. Of the settings, schedules are dicts with their name and
            arguments, ``groups`` a list of pairs, False stands for None, and None for a callable of
            your own, which can't be kept; of one with `schedules.ReduceOnPlateau` in it there is a
            list of their states.

        Raises
        ------
        RuntimeError
            The parameters hold their averages, inside of `averaged`; or another thread is in the
            middle of an update, or has made one meanwhile.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> params, grads = {"W": np.ones(2)}, {"W": np.full(2, 0.5)}
        >>> optimizer, other = fastopt.Momentum(lr=0.5), fastopt.Momentum()
        >>> optimizer.update(params, grads)
        >>> other.load_state_dict(optimizer.state_dict())
        >>> other, other.iter, other.v
        (Momentum(lr=0.5), 1, {'W': array([-0.25, -0.25])})
        """
        self._refuse_averaged()
        return state_of(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put a state in the place of this one: settings, counters and arrays.

        Parameters
        ----------
        state : dict
            What `state_dict` of an optimizer of this class, or of its twin, returned. It is not
            kept. Where it has none of a callable of your own, this optimizer must hold one, and
            keeps it.

        Raises
        ------
        ValueError
            It is another class's, lacks something, or doesn't fit the arrays that this optimizer
            holds; nothing has changed.
        RuntimeError
            The parameters hold their averages, inside of `averaged`; or a step is under way.
        """
        self._checked_state(state, copies=True)()

    def _checked_state(
        self, state: Any, params: Mapping[Any, Any] | None = None, *, copies: bool = False
    ) -> Callable[[], None]:
        """Check a state wholly, and return what puts it in the place of this one."""
        self._refuse_averaged()
        self._refuse_under_way()  # before others write their parts
        return checked_state(self, state, params, copies=copies)

    def _refuse_under_way(self) -> None:
        """Raise a RuntimeError while a step is under way; twins can't tell."""

    def _report(self, metric: float) -> None:
        """Tell a metric, such as the validation loss, to each schedule that follows one."""
        given = (schedule.value for schedule in self._numbers().schedules)
        found = {id(each): each for value in given for each in plateaus(value)}
        for schedule in found.values():
            schedule.report(metric)

    # --- the numbers of a step ---

    def _used(self, name: str) -> Any:
        """Return the number of a setting in the last step, of keys in no group."""
        return getattr(self._numbers().rows[0], name)

    def _numbers(self) -> _Numbers:
        if self._current is None:
            self._put("_current", _Numbers(self))
        return self._current  # type: ignore[return-value]

    def current(self, key: Any = None) -> dict[str, Any]:
        """Return the numbers of the next step, what schedules return among them.

        Parameters
        ----------
        key : optional
            Of a parameter: the numbers are those of its group. By default those of no group.

        Returns
        -------
        dict
            Hyper-parameters and options by name; those of a frozen key say ``frozen``.

        Raises
        ------
        ValueError, TypeError
            What a schedule returns is out of range, or no number.
        """
        row = 0 if key is None else self.groups.row_of(key)  # type: ignore[attr-defined]
        if row == FROZEN:
            return {"frozen": True}
        numbers = self._numbers()
        numbers.at(self.iter)
        return {name: getattr(numbers.rows[row], name) for name in numbers.names[row]}

    def _row_of(self, key: Any) -> int:
        """Return the number of a key's row; FROZEN where its group is."""
        return self.groups.row_of(key)  # type: ignore[attr-defined, no-any-return]

    def _check_groups(self, keys: Sequence[Any]) -> None:
        """Raise a ValueError for a pattern that matches no key, nor did before."""
        self.groups.check_matched(keys)  # type: ignore[attr-defined]

    def _coefficients_of(self, numbers: _Numbers, t: float) -> tuple[Coefficients, ...]:
        """Return each row's coefficients for step t, counted from 1, by the scalars as they are."""
        for name in self._scalars:
            for row in numbers.rows:
                setattr(row, name, getattr(self, name))
        return numbers.coefficients(t)

    def _next_scalars_of(self, row: Any, t: int) -> Mapping[str, float]:
        """Return what the scalars are after step t, of the numbers of a row."""
        return type(self)._next_scalars(row, t)

    def _beginning_of(self, name: str, key: Any) -> float | None:
        """Return the number that a state of a key begins as; None for a copy of the parameter."""
        if name == "average":
            return None
        if name == "accumulated":
            return -0.0  # adding to it is exact, to +0.0 it is not
        return super()._beginning_of(name, key)

    # --- what is measured, and decided ---

    def _decide(
        self, total: float, bad: tuple[Any] | None, squares: Callable[[], list[tuple[int, float]]]
    ) -> float | list[float] | None:
        """Return what gradients are multiplied with, all of them or each; None: make no step.

        Parameters
        ----------
        total : float
            The sum of the squares of all gradients, or of the sums that the step is on.
        bad : None or tuple of a key
            The first key whose gradient is not finite, if there is any.
        squares : callable
            Returns row and sum of squares of each gradient.
        """
        if bad is not None and self.nonfinite == "skip":
            return None
        if bad is not None and self.nonfinite == "raise":
            raise FloatingPointError(
                f"gradient of {bad[0]!r} holds NaN or infinity, in its parameter's dtype; "
                "no step was made"
            )
        rows, n_calls = self._deciding
        if rows[0].clip_global_norm is not None:
            return _factor(rows[0].clip_global_norm, total, n_calls)
        if all(row.clip_norm is None for row in rows):
            return 1.0
        return [_factor(rows[row].clip_norm, square, n_calls) for row, square in squares()]

    # --- averages ---

    @property
    def averaged(self) -> Callable[[MutableMapping[Any, Any]], AbstractContextManager[None]]:
        """A context in which parameters hold their averages.

        ``with optimizer.averaged(params): …`` copies the averages into the parameters, for an
        evaluation; afterwards, also after an error, these have the very bits that they had. A
        parameter without an average stays as it is; a plain float is replaced, and put back.

        Raises
        ------
        AttributeError
            There is no ``ema``.
        RuntimeError
            Within the context: an update, or another one.
        ValueError
            An average no longer fits its parameter.
        """
        if self.ema is None:
            raise AttributeError(
                f"{type(self).__name__} keeps no averages: give it ema=, such as ema=0.999"
            )
        return _Averaged(self)

    def _refuse_averaged(self) -> None:
        if self._is_averaged:
            raise RuntimeError("the parameters hold their averages: first leave `averaged`")


def _factor(limit: float | None, square: float, n_calls: int) -> float:
    """Return what brings a mean of so many gradients down to a limit, from their sum's square.

    A norm that is no number, and no limit, leave it as it is.
    """
    norm = sqrt(square) / n_calls
    return limit / norm if limit is not None and norm > limit else 1.0


def option_row(numbers: Any, n_calls: int) -> OptionRow:
    """Return what a row's options do to a mean of so many gradients."""
    scale = (-1.0 if numbers.maximize else 1.0) / n_calls
    limit, ema = numbers.clip_value, numbers.ema
    decay, shrink = numbers.weight_decay, 1.0
    if numbers.decoupled:
        decay, shrink = 0.0, 1.0 - numbers.lr * decay
    return (
        scale, inf if limit is None else limit, decay, shrink, numbers.low, numbers.high,
        0.0 if ema is None else 1.0 - ema,
    )  # fmt: skip


class _Row:
    """The numbers of one row, by name: of the keys in no group, or of a group's.

    Nobody asks for its ``__dict__``: reading the numbers stays twice as fast.
    """

    def __init__(self, numbers: Mapping[str, Any]) -> None:
        for name, number in numbers.items():
            setattr(self, name, number)


class _Schedule(NamedTuple):
    """A setting that is a schedule, and the rows that it is of."""

    name: str
    value: Callable[[int], Any]
    check: Callable[[str, Any], Any]
    where: str
    rows: list[Any]

    def checked(self, number: Any, t: int) -> float:
        """Return what the schedule returned for t as the setting takes it."""
        try:
            if number is None:
                raise TypeError(f"{self.where} must be a number, got None")
            return self.check(self.where, number)  # type: ignore[no-any-return]
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error}, from its schedule at t = {t}") from None


class _Numbers:
    """The numbers of an optimizer's rows: of the keys in no group, then of each group's.

    Parameters
    ----------
    optimizer : Optioned
        What it is set to now.

    Raises
    ------
    ValueError
        Settings that contradict one another.
    """

    def __init__(self, optimizer: Any) -> None:
        names = [name for name in optimizer._settings if name != "groups"]
        own = {name: getattr(optimizer, name) for name in names}
        groups = optimizer.groups.rows
        settings = [own, *({**own, **settings} for _, settings in groups)]
        self.names = [[*each] for each in settings]
        self.rows: list[Any] = [_Row(each) for each in settings]
        self.compute = type(optimizer)._coefficients
        self._where = ["", *(f"groups[{pattern!r}]: " for pattern, _ in groups)]
        self._scaled = [row for row in self.rows if hasattr(row, "lr_scale")]
        self.schedules = self._found_schedules(optimizer._settings)
        varying = {schedule.name for schedule in self.schedules}
        decays = any(row.decoupled and row.weight_decay != 0 for row in self.rows)
        self.vary = bool(varying)
        self.options_vary = bool(varying & _OPTIONS_OF_A_ROW) or (
            decays and bool(varying & {"lr", "lr_scale"})
        )
        self._bounds_vary = bool(varying & {"low", "high"})
        self.are_finished = not (self._scaled or self._bounds_vary)
        self.are_measured = optimizer.nonfinite != "propagate" or any(
            row.clip_norm is not None or row.clip_global_norm is not None for row in self.rows
        )
        if not varying & {"lr", "lr_scale"}:
            self._scale()
        if not self._bounds_vary:
            self._check_bounds("")
        for row in self.rows:
            if row.clip_norm is not None and row.clip_global_norm is not None:
                raise ValueError("clip_norm and clip_global_norm exclude each other: set one")

    def _found_schedules(self, declared: Mapping[str, Any]) -> list[_Schedule]:
        """Return the settings that are schedules; one that several rows share is called once."""
        checks = {name: each.check for name, each in declared.items()}
        checks["lr_scale"] = non_negative
        found: dict[tuple[int, str], _Schedule] = {}
        for row, names, where in zip(self.rows, self.names, self._where, strict=True):
            for name in names:
                value = getattr(row, name)
                if callable(value):
                    new = _Schedule(name, value, checks[name], where + name, [])
                    found.setdefault((id(value), name), new).rows.append(row)
        return [*found.values()]

    def at(self, t: int) -> list[Any]:
        """Return the rows for the step after t completed ones."""
        for schedule in self.schedules:
            number = schedule.checked(schedule.value(t), t)
            for row in schedule.rows:
                setattr(row, schedule.name, number)
        self.finish(t)
        return self.rows

    def finish(self, t: int) -> None:
        """Make of the rows what follows from their schedules' numbers for t."""
        self._scale()
        if self._bounds_vary:
            self._check_bounds(f" at t = {t}")

    def coefficients(self, t: float) -> tuple[Coefficients, ...]:
        """Return each row's coefficients for step t, counted from 1."""
        return tuple([self.compute(row, t) for row in self.rows])

    def options(self, n_calls: int) -> Options:
        """Return each row's options, of a mean of so many gradients."""
        options = [option_row(row, n_calls) for row in self.rows]
        changing = tuple([None if row == NEUTRAL else row for row in options])
        return changing if any(changing) else ()

    def _scale(self) -> None:
        for row in self._scaled:
            row.lr = self.rows[0].lr * row.lr_scale

    def _check_bounds(self, when: str) -> None:
        for row, where in zip(self.rows, self._where, strict=True):
            if row.low > row.high:
                raise ValueError(
                    f"{where}low must not be above high, got {row.low!r} and {row.high!r}{when}"
                )


class _Averaged:
    """What `averaged` of an optimizer is: called with parameters, a context."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    def __call__(self, params: MutableMapping[Any, Any]) -> AbstractContextManager[None]:
        """Return the context in which these parameters hold their averages."""
        if not isinstance(params, Mapping):
            raise TypeError(f"params must be a mapping, got {type(params).__name__}")
        return _averaged(self._optimizer, params)

    def __enter__(self) -> None:
        raise TypeError("averaged wants the parameters: with optimizer.averaged(params): …")

    def __exit__(self, *_: object) -> None:
        raise AssertionError("never entered")


@contextmanager
def _averaged(optimizer: Any, params: MutableMapping[Any, Any]) -> Iterator[None]:
    optimizer._refuse_averaged()
    swaps = [
        (key, params[key], _fitting(key, params[key], optimizer.average[key]))
        for key in params
        if key in optimizer.average
    ]
    arrays = [(p, p.copy(), a) for _, p, a in swaps if isinstance(p, np.ndarray)]
    numbers = [(key, p, a) for key, p, a in swaps if not isinstance(p, np.ndarray)]
    rebound: dict[Any, Any] = {}
    try:
        optimizer._is_averaged = True
        for key, number, a in numbers:
            params[key] = a[()] if isinstance(number, np.generic) else float(a)
            rebound[key] = number
        for p, _, a in arrays:
            np.copyto(p, a)
        yield
    finally:
        interrupt = None
        while True:  # Ctrl-C can come in the middle, and half of them is no state to leave
            try:
                optimizer._is_averaged = False
                for p, before, _ in arrays:
                    np.copyto(p, before)
                for key, number in rebound.items():
                    params[key] = number
                break
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt


def _fitting(key: Any, p: Any, average: NDArray[Any]) -> NDArray[Any]:
    """Return the average of a parameter; a ValueError says if it is no longer one."""
    shape, dtype = np.shape(p), np.asarray(p).dtype
    if average.shape != shape or average.dtype.type is not dtype.type:
        raise ValueError(
            f"average[{key!r}] has shape {average.shape} and dtype {average.dtype}, "
            f"the parameter now has shape {shape} and dtype {dtype}"
        )
    if isinstance(p, np.ndarray) and not p.flags.writeable:
        raise ValueError(f"parameter {key!r} is read-only")
    return average
