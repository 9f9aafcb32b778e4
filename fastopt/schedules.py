# Each schedule is declared once: its arguments with defaults and checks, and its formula. What
# compares, copies, prints and stores schedules follows from that, in the base class. Who asks them
# for numbers is no concern of this module, and it imports nothing compiled.
"""Schedules: learning rates, and any other number of an optimizer, that change with the steps.

A schedule is a callable of the number of steps completed, t = 0, 1, 2, …, that returns a float:
warm-up, step decay, exponential, linear, polynomial and cosine decay, cosine annealing with
restarts, one cycle, or several after one another. An optimizer takes it in place of a number::

    optimizer = fastopt.AdamW(lr=fastopt.schedules.cosine(0.1, steps=1000))

Schedules are immutable, and equal by type and arguments; they can be copied, pickled and be keys
of a dict, and their `repr` makes them again. Only `ReduceOnPlateau` has a state.
"""

from __future__ import annotations

import inspect
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from math import cos, inf, isinf, pi, sqrt
from textwrap import fill
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from fastopt._checks import (
    any_number,
    bound,
    count,
    finite,
    finite_positive,
    fraction,
    non_negative,
    optional,
    whole,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[type], type]:
        return lambda cls: cls


__all__ = [
    "ReduceOnPlateau", "constant", "cosine", "cosine_restarts", "exponential", "inverse_sqrt",
    "join", "linear", "one_cycle", "piecewise", "plot", "polynomial", "step", "warmup",
]  # fmt: skip

MAX_DEPTH = 50
"""How deep schedules may stand in one another, so that none exhausts the interpreter's stack."""

Schedule = Callable[[int], float]


# --- how a schedule is declared ---


class _Argument(NamedTuple):
    """An argument of a schedule, which is also an attribute."""

    check: Callable[[str, Any], Any]
    default: Any
    derived: Callable[[Any], float] | None  # what None stands for
    given: Callable[[Any], Any]  # from the attribute, the argument that makes it
    to_plain: Callable[[Any], Any]
    from_plain: Callable[[str, Any, int], Any]

    def default_of(self, schedule: _Schedule) -> Any:
        """Return the value that needn't be given."""
        return self.derived(schedule) if self.derived else self.default


def _as_it_is(value: Any) -> Any:
    return value


def _plain_as_it_is(name: str, value: Any, depth: int) -> Any:
    return value


def argument(
    check: Callable[[str, Any], Any], *, default: Any = ...,
    derived: Callable[[Any], float] | None = None, given: Callable[[Any], Any] = _as_it_is,
    to_plain: Callable[[Any], Any] = _as_it_is,
    from_plain: Callable[[str, Any, int], Any] = _plain_as_it_is,
) -> Any:  # fmt: skip
    """Declare an argument, which must be given unless it has a default.

    `derived` returns the value that None stands for; `to_plain` returns None for what isn't plain.
    """
    return _Argument(check, default, derived, given, to_plain, from_plain)


class _Internal(NamedTuple):
    """An attribute of the class's own, which follows from the arguments or is a state."""


def internal(*, init: Literal[False] = False) -> Any:
    """Declare an attribute that is no argument."""
    return _Internal()


class _Declaring(type):
    """The type of schedules: makes slots, and an ``__init__``, of what a class declares."""

    _arguments: dict[str, _Argument]

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> _Declaring:
        """Return the class, whose instances have the declared attributes and no others."""
        own = {key: each for key, each in namespace.items() if isinstance(each, _Argument)}
        internals = [key for key, each in namespace.items() if isinstance(each, _Internal)]
        rest = {k: each for k, each in namespace.items() if k not in own and k not in internals}
        made = super().__new__(cls, name, bases, {**rest, "__slots__": (*own, *internals)})
        if own:
            made._arguments = own
            made.__init__ = _initializer(own)  # type: ignore[misc]
        return made


def _initializer(arguments: Mapping[str, _Argument]) -> Callable[..., None]:
    """Return an ``__init__`` that shows the arguments by name."""
    by_place = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("self", by_place)]
    for name, each in arguments.items():
        default = inspect.Parameter.empty if each.default is ... else each.default
        parameters.append(inspect.Parameter(name, by_place, default=default))
    shown = inspect.Signature(parameters, return_annotation=None)

    def __init__(self: _Schedule, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        try:
            values = shown.bind(self, *args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"schedules.{type(self).__name__}: {error}") from None
        for name, each in arguments.items():
            value = each.check(name, values.get(name, each.default))
            self._put(name, each.default_of(self) if value is None else value)
        self._made()

    vars(__init__).update(__signature__=shown)
    return __init__


@dataclass_transform(field_specifiers=(argument, internal), frozen_default=True, eq_default=False)
class _Schedule(metaclass=_Declaring):
    """Base of schedules: what follows from their arguments."""

    _arguments: ClassVar[dict[str, _Argument]]
    _depth: ClassVar[int] = 0  # how deep others stand in it

    def _made(self) -> None:
        """Look at the arguments together, and set what follows from them."""

    def __call__(self, t: int) -> float:
        """Return the number of the step after t completed ones."""
        raise NotImplementedError

    def _put(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    if not TYPE_CHECKING:  # a checker knows from the declaration that it is frozen

        def __setattr__(self, name: str, value: Any) -> None:
            raise AttributeError(f"{name} of {_path(self)} can't be set: make another schedule")

        def __delattr__(self, name: str) -> None:
            raise AttributeError(f"{name} of {_path(self)} can't be deleted")

    def _given(self) -> tuple[Any, ...]:
        """Return the arguments that make it again."""
        return tuple(each.given(getattr(self, name)) for name, each in self._arguments.items())

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or not isinstance(other, _Schedule):
            return NotImplemented
        return self._given() == other._given()

    def __hash__(self) -> int:
        values = (getattr(self, name) for name in self._arguments)
        return hash(
            (type(self), *(tuple(v.items()) if isinstance(v, Mapping) else v for v in values))
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._given()

    def __repr__(self) -> str:
        shown = []
        is_one_left_out = False
        for (name, each), value in zip(self._arguments.items(), self._given(), strict=True):
            if value == each.default_of(self):
                is_one_left_out = True
            else:
                shown.append(f"{name}={_shown(value)}" if is_one_left_out else _shown(value))
        return f"{_path(self)}({', '.join(shown)})"


def _path(schedule: _Schedule) -> str:
    """Return the name of a schedule's class as users write it."""
    return f"{type(schedule).__module__.rpartition('.')[2]}.{type(schedule).__name__}"


def _shown(value: Any) -> str:
    """Return the text of an argument from which Python makes it again."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_shown(each)}' for key, each in value.items())}}}"
    return f"float('{value}')" if isinstance(value, float) and isinf(value) else repr(value)


# --- schedules in schedules ---


def _part(name: str, value: Any) -> Any:
    """Accept a schedule, a callable of one's own, and a number, which is a constant."""
    if isinstance(value, _Schedule) or (callable(value) and not isinstance(value, type)):
        return value
    try:
        return constant(bound(name, value))
    except TypeError:
        raise TypeError(f"{name} must be a schedule or a number, got {value!r}") from None


def caller(schedule: Callable[[int], Any]) -> Callable[[int], Any]:
    """Return what gives a schedule's numbers: of ours the method, which is quicker to call."""
    if isinstance(schedule, _Schedule):
        return schedule.__call__
    return schedule


def _asked(name: str, part: Any) -> Schedule:
    """Return what gives a part's numbers as floats; those of one's own callable are checked."""
    if isinstance(part, _Schedule):
        return caller(part)
    return partial(_ask, name, part)


def _ask(name: str, part: Callable[[int], Any], t: int) -> float:
    return any_number(name, part(t))


def _depth_over(parts: Sequence[Any]) -> int:
    """Return the depth of what holds these parts; a ValueError says if it is too deep."""
    depth = 1 + max(part._depth if isinstance(part, _Schedule) else 0 for part in parts)
    if depth > MAX_DEPTH:
        raise ValueError(f"schedules may stand in one another {MAX_DEPTH} deep, got {depth}")
    return depth


# --- the schedules ---


class constant(_Schedule):
    """The same number in every step.

    Parameters
    ----------
    value : float
        Any number but NaN; infinity is one, for bounds and for limits of clipping.

    Raises
    ------
    TypeError
        `value` is no number.
    ValueError
        It is NaN.

    Examples
    --------
    >>> from fastopt import schedules
    >>> schedules.constant(0.1)(1000)
    0.1
    """

    value: float = argument(bound)

    def __call__(self, t: int) -> float:
        """Return the number of the step after t completed ones."""
        return self.value


class step(_Schedule):
    """Multiplied by a factor every so many steps: step decay.

    ::

        initial * factor ** (t // every)

    Parameters
    ----------
    initial : float
        The first number, finite.
    every : int
        Steps between changes, ≥ 1.
    factor : float
        What each multiplies by, finite and ≥ 0.

    Raises
    ------
    TypeError
        An argument is no number.
    ValueError
        An argument is out of its range.

    Examples
    --------
    >>> from fastopt import schedules
    >>> lr = schedules.step(1.0, every=100, factor=0.5)
    >>> lr(99), lr(100), lr(250)
    (1.0, 0.5, 0.25)
    """

    initial: float = argument(finite)
    every: int = argument(whole)
    factor: float = argument(non_negative)

    def __call__(self, t: int) -> float:
        """Return the number of the step after t completed ones."""
        return _times_power(self.initial, self.factor, t // self.every)


class exponential(_Schedule):
    """Multiplied by a rate in the course of so many steps: exponential decay.

    ::

        initial * rate ** (t / every)

    Parameters
    ----------
    initial : float
        The number at t = 0, finite.
    rate : float
        What `every` steps multiply by, finite and ≥ 0; above 1 it grows, to look for the largest
        learning rate that works.
    every : int
        Steps, ≥ 1. The exponent is no whole number in between; `step` has that.

    Raises
    ------
    TypeError
        An argument is no number.
    ValueError
        An argument is out of its range.

    Examples
    --------
    >>> from fastopt import schedules
    >>> lr = schedules.exponential(1.0, 0.25, every=100)
    >>> lr(0), lr(50), lr(100)
    (1.0, 0.5, 0.25)
    """

    initial: float = argument(finite)
    rate: float = argument(non_negative)
    every: int = argument(whole, default=1)

    def __call__(self, t: int) -> float:
        """Return the number of the step after t completed ones."""
        return _times_power(self.initial, self.rate, t / self.every)


def _times_power(initial: float, base: float, exponent: float) -> float:
    """Return initial·base^exponent, infinite beyond all floats."""
    try:
        return float(initial * base**exponent)
    except OverflowError:
        return initial * inf if initial else initial


class linear(_Schedule):
    """From one number to another in equal parts: linear decay, or growth.

    ::

        initial + (final - initial) * t / steps

    and `final` from t = `steps` on.

    Parameters
    ----------
    initial : float
        The number at t = 0, finite.
    final : float
        The number from t = `steps` on, finite.
    steps : int
        Steps between the two, ≥ 1.

    Raises
    ------
    TypeError
        An argument is no number.
    ValueError
        An argument is out of its range.

    Examples
    --------
    >>> from fastopt import schedules
    >>> lr = schedules.linear(1.0, 0.0, steps=100)
    >>> lr(0), lr(25), lr(100), lr(1000)
    (1.0, 0.75, 0.0, 0.0)
    """

    initial: float = argument(finite)
    final: float = argument(finite)
    steps: int = argument(whole)

    def __call__(self, t: int) -> float:
        """Return the number of the step after t completed ones."""
        if t < self.steps:
            return self.initial + (self.final - self.initial) * t / self.steps
        return self.final


class cosine(_Schedule):
    """From one number to another along half a cosine: cosine decay, cosine annealing.

    ::

        final + (initial - final) * (1 + cos(pi * t / steps)) / 2

    and `final` from t = `steps` on.

    Parameters
    ----------
    initial : float
        The number at t = 0, finite.
    steps : int
        Steps between the two, ≥ 1.
    final : float
        The number from t = `steps` on, finite.

    Raises
    ------
    TypeError
        An argument is no number.
    ValueError
        An argument is out of its range.

    References
    ----------
    Loshchilov and Hutter (2017), "SGDR: Stochastic gradient descent with warm restarts",
    https://arxiv.org/abs/1608.03983, equation 5.

    Examples
    --------
    >>> from fastopt import schedules
    >>> lr = schedules.cosine(0.1, steps=100)
    >>> lr(0), round(lr(50), 12), lr(100), lr(1000)
    (0.1, 0.05, 0.0, 0.0)
    """

    initial: float = argument(finite)
    steps: int = argument(whole)
    final: float = argument(finite, default=0.0)

    _half: float = internal()
    _angle: float = internal()

    def _made(self) -> None:
        self._put("_half", self.initial / 2 - self.final / 2)
        self._put("_angle", pi / self.steps)

    def __call__(self, t: int) -> float:
        """Return the number of the step after t completed ones."""
        if 0 < t < self.steps:  # else rounding could miss the ends
            return self.final + self._half * (1.0 + cos(self._angle * t))
        return self.final if t else self.initial


class cosine_restarts(_Schedule):
    """Several equal cosines after one another: cosine annealing with warm restarts.

    ::

        final + (initial - final) * (1 + cos(pi * (t * cycles % steps) / steps)) / 2

    and `final` from t = `steps` on. A cycle lasts steps / cycles steps; where that is no whole
    number, it begins between two steps, and the first step in it is on its way already.

    Parameters
    ----------
    initial : float
        The number at the beginning of each cycle, finite.
    steps : int
        Steps of all cycles together, ≥ 1.
    cycles : int
        Number of cycles, from 1 to `steps`.
    final : float
        The number at the end of each cycle, finite; that of the last one is kept.

    Raises
    ------
    TypeError
        An argument is no number.
    ValueError
        An argument is out of its range.

    References
    ----------
    Loshchilov and Hutter (2017), "SGDR: Stochastic gradient descent with warm restarts",
    https://arxiv.org/abs/1608.03983. Cycles of different lengths: `join`.

    Examples
    --------
    >>> from fastopt import schedules
    >>> lr = schedules.cosine_restarts(0.1, steps=200, cycles=2)
    >>> lr(0), round(lr(50), 12), lr(100), lr(200)
    (0.1, 0.05, 0.1, 0.0)
    """

    initial: float = argument(finite)
    steps: int = argument(whole)
    cycles: int = argument(whole)
    final: float = argument(finite, default=0.0)

    _cycle: Schedule = internal()

    def _made(self) -> None:
        if self.cycles > self.steps:
            raise ValueError(
                f"cycles must not be more than steps, got {self.cycles} and {self.steps}"
            )
        self._put("_cycle", caller(cosine(self.initial, self.steps, self.final)))

    def __call__(self, t: int) -> float:
        """Return the number of the step after t completed ones."""
        return self._cycle(t * self.cycles % self.steps) if t < self.steps else self.final


class one_cycle(_Schedule):
    """Up to a peak along half a cosine, and down along another: one-cycle policy.

    A `cosine` from `start` to `peak`, which is reached at t = round(`warmup` · `steps`), then one
    from `peak` to `end`, which is kept from t = `steps` on.

    Parameters
    ----------
    peak : float
        The largest number, finite.
    steps : int
        Steps up and down together, ≥ 1.
    warmup : float
        Share of the steps that go up, in [0, 1); at least one step goes down.
    start : float, optional
        The number at t = 0, finite; `peak` / 25 by default.
    end : float, optional
        The number from t = `steps` on, finite; `peak` / 250,000 by default.

    Raises
    ------
    TypeError
        An argument is no number.
    ValueError
        An argument is out of its range.

    References
    ----------
    Smith and Topin (2019), "Super-convergence: Very fast training of neural networks using large
    learning rates", https://arxiv.org/abs/1708.07120, with the cosines and the defaults of fast.ai.

    Examples
    --------
    >>> from fastopt import schedules
    >>> lr = schedules.one_cycle(0.5, steps=100)
    >>> lr(0), lr(30), lr(100)
    (0.02, 0.5, 2e-06)
    """

    peak: float = argument(finite)
    steps: int = argument(whole)
    warmup: float = argument(fraction, default=0.3)
    start: float | None = argument(
        optional(finite), default=None, derived=lambda self: self.peak / 25
    )
    end: float | None = argument(
        optional(finite), default=None, derived=lambda self: self.peak / 250_000
    )

    _top: int = internal()
    _up: Schedule = internal()
    _down: Schedule = internal()

    def _made(self) -> None:
        top = min(round(self.warmup * self.steps), self.steps - 1)
        self._put("_top", top)
        # Nones have become numbers
        self._put("_up", cosine(self.start, top or 1, self.peak))  # type: ignore[arg-type]
        self._put("_down", cosine(self.peak, self.steps - top, self.end))  # type: ignore[arg-type]

    def __call__(self, t: int) -> float:
        """Return the number of the step after t completed ones."""
        return self._up(t) if t < self._top else self._down(t - self._top)


class polynomial(_Schedule):
    """From one number to another along a power: polynomial decay.

    ::

        final + (initial - final) * (1 - t / steps) ** power

    and `final` from t = `steps` on.

    Parameters
    ----------
    initial : float
        The number at t = 0, finite.
    steps : int
        Steps between the two, ≥ 1.
    power : float
        Finite and > 0; 1 is `linear`.
    final : float
        The number from t = `steps` on, finite.

    Raises
    ------
    TypeError
        An argument is no number.
    ValueError
        An argument is out of its range.

    Examples
    --------
    >>> from fastopt import schedules
    >>> lr = schedules.polynomial(1.0, steps=100, power=2)
    >>> lr(0), lr(50), lr(100)
    (1.0, 0.25, 0.0)
    """

    initial: float = argument(finite)
    steps: int = argument(whole)
    power: float = argument(finite_positive)
    final: float = argument(finite, default=0.0)

    def __call__(self, t: int) -> float:
        """Return the number of the step after t completed ones."""
        if 0 < t < self.steps:  # else rounding could miss the ends
            share: float = (1.0 - t / self.steps) ** self.power
            return self.final + (self.initial - self.final) * share
        return self.final if t else self.initial


class inverse_sqrt(_Schedule):
    """Falling with the square root of the steps.

    ::

        initial * sqrt(timescale / (t + timescale))

    Parameters
    ----------
    initial : float
        The number at t = 0, finite.
    timescale : float
        Steps until it is divided by √2, finite and > 0.

    Raises
    ------
    TypeError
        An argument is no number.
    ValueError
        An argument is out of its range.

    Examples
    --------
    >>> from fastopt import schedules
    >>> lr = schedules.inverse_sqrt(1.0, timescale=100)
    >>> lr(0), lr(300), lr(9900)
    (1.0, 0.5, 0.1)
    """

    initial: float = argument(finite)
    timescale: float = argument(finite_positive)

    def __call__(self, t: int) -> float:
        """Return the number of the step after t completed ones."""
        return self.initial * sqrt(self.timescale / (t + self.timescale))


def _by_boundary(name: str, value: Any) -> Mapping[int, float]:
    """Accept a mapping of boundaries, 0 among them, to numbers; return it in their order."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping of boundaries to numbers, got {value!r}")
    numbers = {
        count(f"boundary of {name}", t): bound(f"{name}[{t!r}]", each) for t, each in value.items()
    }
    if 0 not in numbers:
        raise ValueError(f"{name} must have the boundary 0, got {value!r}")
    return MappingProxyType(dict(sorted(numbers.items())))


def _pairs_of(numbers: Mapping[int, float]) -> list[list[float]]:
    return [[t, each] for t, each in numbers.items()]


def _mapping_of(name: str, pairs: Any, depth: int) -> dict[Any, Any]:
    """Return a mapping from a list of [boundary, number]."""
    boundaries = [count(f"boundary of {name}", t) for t, _ in _checked_pairs(name, pairs)]
    if len({*boundaries}) < len(boundaries):
        raise ValueError(f"{name} must have each boundary once, got {boundaries!r}")
    return dict(zip(boundaries, (each for _, each in pairs), strict=True))


def _checked_pairs(name: str, value: Any) -> list[list[Any]]:
    """Accept a list of lists of two."""
    if type(value) is not list or any(type(pair) is not list or len(pair) != 2 for pair in value):
        raise ValueError(f"{name} must be a list of lists of two, got {value!r}")
    return value


class piecewise(_Schedule):
    """A number from each boundary on: piecewise constant, multi-step decay.

    That of the largest boundary ≤ t.

    Parameters
    ----------
    values : mapping of int to float
        Numbers by the t from which on they hold; 0 must be among these. Any numbers but NaN;
        infinity is one.

    Raises
    ------
    TypeError
        `values` is no mapping, or a boundary or a number in it is none.
    ValueError
        A boundary is no whole number ≥ 0, there is no boundary 0, or a number is NaN.

    Examples
    --------
    >>> from fastopt import schedules
    >>> lr = schedules.piecewise({0: 0.1, 100: 0.01, 150: 0.001})
    >>> lr(99), lr(100), lr(1000)
    (0.1, 0.01, 0.001)
    """

    values: Mapping[int, float] = argument(
        _by_boundary, given=dict, to_plain=_pairs_of, from_plain=_mapping_of
    )

    _boundaries: tuple[int, ...] = internal()
    _numbers: tuple[float, ...] = internal()

    def _made(self) -> None:
        self._put("_boundaries", tuple(self.values))
        self._put("_numbers", tuple(self.values.values()))

    def __call__(self, t: int) -> float:
        """Return the number of the step after t completed ones."""
        return self._numbers[bisect_right(self._boundaries, t) - 1]


def _plain_part(part: Any) -> dict[str, Any] | None:
    return as_plain(part)


def _part_of_plain(name: str, plain: Any, depth: int) -> _Schedule:
    return _from_plain(plain, depth + 1)


class warmup(_Schedule):
    """Linear warm-up: from 0 in equal parts to what another schedule begins with; then that one.

    ::

        then(0) * t / steps  # t < steps
        then(t - steps)  # from there on

    So the first step has the number 0.

    Parameters
    ----------
    steps : int
        Steps of the warm-up, ≥ 1.
    then : schedule or float
        What follows: a schedule, a callable of one's own, or a number, which is a `constant`.

    Raises
    ------
    TypeError
        `steps` is no number, or `then` neither schedule nor number.
    ValueError
        `steps` is no whole number ≥ 1, `then` is NaN, or schedules stand in one another more than
        50 deep.

    Examples
    --------
    >>> from fastopt import schedules
    >>> lr = schedules.warmup(10, schedules.cosine(0.1, steps=90))
    >>> lr(0), lr(5), lr(10), lr(100)
    (0.0, 0.05, 0.1, 0.0)
    """

    steps: int = argument(whole)
    then: Schedule | float = argument(_part, to_plain=_plain_part, from_plain=_part_of_plain)

    _depth: int = internal()  # type: ignore[misc]
    _then: Schedule = internal()

    def _made(self) -> None:
        self._put("_depth", _depth_over([self.then]))
        self._put("_then", _asked("then", self.then))

    def __call__(self, t: int) -> float:
        """Return the number of the step after t completed ones."""
        if t < self.steps:
            return self._then(0) * t / self.steps
        return self._then(t - self.steps)


def _parts(name: str, value: Any) -> tuple[Any, ...]:
    """Accept a sequence of (steps, schedule) that ends with a schedule alone."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise TypeError(
            f"{name} must be a list of (steps, schedule), the last a schedule alone, got {value!r}"
        )
    if not value or isinstance(value[-1], Sequence):
        raise ValueError(f"{name} must end with a schedule alone, without steps, got {value!r}")
    *pairs, last = value
    return (
        *(_timed_part(f"{name}[{i}]", pair) for i, pair in enumerate(pairs)),
        _part(f"{name}[{len(pairs)}]", last),
    )


def _timed_part(name: str, value: Any) -> tuple[int, Any]:
    """Accept a pair of steps and a schedule."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or len(value) != 2:
        raise TypeError(f"{name} must be a pair (steps, schedule), got {value!r}")
    steps, part = value
    return whole(f"steps of {name}", steps), _part(name, part)


def _plain_parts(parts: tuple[Any, ...]) -> list[Any] | None:
    *pairs, last = parts
    plain = [[steps, as_plain(part)] for steps, part in [*pairs, (None, last)]]
    return None if any(part is None for _, part in plain) else plain


def _parts_of_plain(name: str, plain: Any, depth: int) -> list[Any]:
    """Return the parts from a list of [steps, plain data], whose last has None for steps."""
    parts = [(steps, _from_plain(part, depth + 1)) for steps, part in _checked_pairs(name, plain)]
    if not parts or parts[-1][0] is not None:
        raise ValueError(f"{name} must end with a schedule whose steps are None, got {plain!r}")
    return [*parts[:-1], parts[-1][1]]


class join(_Schedule):
    """Several schedules after one another.

    Each is given the steps since its own beginning: t counts from 0 in each.

    Parameters
    ----------
    parts : sequence of (int, schedule), and a schedule at its end
        How many steps each schedule has, ≥ 1, and the schedule: one of this module, a callable of
        one's own, or a number, which is a `constant`. The last, without steps, holds for ever.

    Raises
    ------
    TypeError
        `parts` is no such sequence, or a part neither schedule nor number.
    ValueError
        The last part has steps, a number of steps is no whole number ≥ 1, a number is NaN, or
        schedules stand in one another more than 50 deep.

    Examples
    --------
    >>> from fastopt import schedules
    >>> lr = schedules.join([(10, schedules.linear(0.0, 0.1, 10)), (50, 0.1), 0.01])
    >>> lr(5), lr(10), lr(59), lr(60)
    (0.05, 0.1, 0.1, 0.01)
    """

    parts: Sequence[Any] = argument(
        _parts, given=list, to_plain=_plain_parts, from_plain=_parts_of_plain
    )

    _depth: int = internal()  # type: ignore[misc]
    _begins: list[int] = internal()
    _schedules: list[Schedule] = internal()

    def _made(self) -> None:
        *pairs, last = self.parts
        begins = [0]
        for steps, _ in pairs:
            begins.append(begins[-1] + steps)
        schedules = [*(part for _, part in pairs), last]
        self._put("_depth", _depth_over(schedules))
        self._put("_begins", begins)
        self._put("_schedules", [_asked(f"parts[{i}]", each) for i, each in enumerate(schedules)])

    def __call__(self, t: int) -> float:
        """Return the number of the step after t completed ones."""
        i = bisect_right(self._begins, t) - 1
        return self._schedules[i](t - self._begins[i])


# --- the one with a state ---


class ReduceOnPlateau(_Schedule):
    """Reduced when a metric, such as the validation loss, has stopped falling.

    The number stays the same from step to step until `report` moves it. A metric is better than the
    best one so far if it is below it by more than a share of its size,

    ::

        metric < best - threshold * abs(best)

    which, unlike best·(1 - threshold), asks for a fall also where metrics are negative. The first
    finite metric is the best; NaN is never better. After more than `patience` reports in a row
    without a better one the number is multiplied by `factor`, but not below `minimum`.

    Parameters
    ----------
    initial : float
        The number before the first reduction, finite and ≥ 0.
    factor : float
        What a reduction multiplies by, in [0, 1).
    patience : int
        Reports without a better metric that are borne; the next one reduces.
    threshold : float
        Share of the best metric, finite and ≥ 0, by which a better one must be below it.
    cooldown : int
        Reports after a reduction that don't count as being without a better metric.
    minimum : float
        The number is never reduced below it; from 0 to `initial`.

    Raises
    ------
    TypeError
        An argument is no number.
    ValueError
        An argument is out of its range.

    Notes
    -----
    Two are equal if arguments and state are, so it can't be a key of a dict; a copy has a state of
    its own, a `repr` doesn't show it. PyTorch's class of that name, with ``mode="min"`` and
    ``threshold_mode="rel"``, makes the same reductions of metrics ≥ 0; its ``eps`` leaves out those
    that are smaller than 1e-8.

    Examples
    --------
    >>> from fastopt import schedules
    >>> lr = schedules.ReduceOnPlateau(0.1, factor=0.5, patience=1)
    >>> for loss in [2.0, 1.0, 1.0, 1.0]:
    ...     lr.report(loss)
    >>> lr(4)
    0.05
    """

    initial: float = argument(non_negative)
    factor: float = argument(fraction, default=0.1)
    patience: int = argument(count, default=10)
    threshold: float = argument(non_negative, default=1e-4)
    cooldown: int = argument(count, default=0)
    minimum: float = argument(non_negative, default=0.0)

    _state: dict[str, Any] = internal()

    __hash__ = None  # type: ignore[assignment]

    def _made(self) -> None:
        if self.minimum > self.initial:
            raise ValueError(
                f"minimum must not be above initial, got {self.minimum!r} and {self.initial!r}"
            )
        self._put("_state", {"value": self.initial, "best": inf, "waited": 0, "cooling": 0})

    def __call__(self, t: int) -> float:
        """Return the number as the reports so far have left it, whatever t is."""
        return self._state["value"]  # type: ignore[no-any-return]

    def report(self, metric: float) -> None:
        """Take a metric into account; lower is better.

        Parameters
        ----------
        metric : float
            Such as the loss on validation data; NaN is never better.

        Raises
        ------
        TypeError
            It is no number.
        """
        metric = any_number("metric", metric)
        value, best, waited, cooling = self._state.values()
        if metric < (best if isinf(best) else best - self.threshold * abs(best)):
            best, waited = metric, 0
        else:
            waited += 1
        if cooling:
            cooling, waited = cooling - 1, 0
        if waited > self.patience:
            value = max(value * self.factor, self.minimum)
            cooling, waited = self.cooldown, 0
        state = {"value": value, "best": best, "waited": waited, "cooling": cooling}
        self._put("_state", state)

    def state_dict(self) -> dict[str, float]:
        """Return what the reports have left, as numbers by name.

        Returns
        -------
        dict
            ``value``, the number now; ``best``, the best metric; ``waited``, reports since then;
            ``cooling``, reports that are yet not to be counted.
        """
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from a state that `state_dict` returned.

        Parameters
        ----------
        state : mapping
            Numbers by name.

        Raises
        ------
        ValueError
            It is not the state of a schedule with these arguments; nothing has changed.
        """
        if not isinstance(state, Mapping) or {*state} != {*self._state}:
            raise ValueError(f"state must have {', '.join(self._state)}, got {state!r}")
        checks = {"value": non_negative, "best": bound, "waited": count, "cooling": count}
        try:
            loaded = {name: check(f"state: {name}", state[name]) for name, check in checks.items()}
        except TypeError as error:
            raise ValueError(str(error)) from None
        highest = {"value": self.initial, "waited": self.patience, "cooling": self.cooldown}
        for name, limit in highest.items():
            lowest = self.minimum if name == "value" else 0
            if not lowest <= loaded[name] <= limit:
                raise ValueError(
                    f"state: {name} must be from {lowest!r} to {limit!r}, got {loaded[name]!r}"
                )
        self._put("_state", loaded)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ReduceOnPlateau):
            return NotImplemented
        return super().__eq__(other) and self._state == other._state

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._given(), self.state_dict()

    def __setstate__(self, state: Mapping[str, float]) -> None:
        self.load_state_dict(state)


# --- pictures ---


def plot(
    schedules: Schedule | float | Sequence[Any] | Mapping[str, Any],
    steps: int,
    labels: Sequence[str] | None = None,
) -> Figure:
    """Draw schedules over the steps.

    Parameters
    ----------
    schedules : schedule, or sequence of them, or mapping of labels to them
        At least one; callables of one's own and numbers, too.
    steps : int
        Drawn are the numbers at t = 0, 1, …, `steps`; ≥ 1.
    labels : sequence of str, optional
        Of each schedule; by default what a mapping says, or the schedules' text.

    Returns
    -------
    matplotlib.figure.Figure
        10 in wide, for `fastopt.plotting.save`; it belongs to no window.

    Raises
    ------
    TypeError
        What is to be drawn is neither schedule nor number.
    ValueError
        There is no schedule, `steps` is no whole number ≥ 1, or there are not as many labels as
        schedules.
    ImportError
        matplotlib is not installed.

    Examples
    --------
    >>> from fastopt import schedules
    >>> figure = schedules.plot([schedules.cosine(0.1, 200), schedules.step(0.1, 50, 0.5)], 200)
    >>> [line.get_label() for line in figure.axes[0].lines]
    ['schedules.cosine(0.1, 200)', 'schedules.step(0.1, 50, 0.5)']
    """
    from fastopt.plotting import LINES, count_along_x, new_figure

    steps = whole("steps", steps)
    curves = [
        (label, [each(t) for t in range(steps + 1)]) for label, each in _labelled(schedules, labels)
    ]
    keys = [fill(label, 80) for label, _ in curves]
    with new_figure(10, 5 + 0.25 * sum(key.count("\n") + 1 for key in keys)) as figure:
        axes = figure.add_subplot()
        axes.set(xlabel="steps completed", xlim=(0, steps))
        axes.grid(axis="y", color="0.9")
        for (label, numbers), line in zip(curves, cycle(LINES), strict=False):
            axes.plot(numbers, label=label, color=line.color, linestyle=line.dashes, linewidth=2.2)
        count_along_x(axes)
        figure.legend(axes.lines, keys, loc="outside lower center", frameon=False, fontsize=13)
    return figure


def _labelled(schedules: Any, labels: Sequence[str] | None) -> list[tuple[str, Schedule]]:
    """Return what is to be drawn, with its labels."""
    if isinstance(schedules, Mapping):
        given = [*schedules.values()]
        labels = [*map(str, schedules)] if labels is None else labels
    else:
        given = [*schedules] if isinstance(schedules, Sequence) else [schedules]
    parts = [_part(f"schedules[{i}]", each) for i, each in enumerate(given)]
    labels = [*map(repr, parts)] if labels is None else labels
    if not parts or isinstance(labels, str) or len(labels) != len(parts):
        raise ValueError(
            f"schedules must be at least one, with a label each, got {len(parts)} and {labels!r}"
        )
    return [(label, _asked(label, part)) for label, part in zip(labels, parts, strict=True)]


# --- plain data ---

_CLASSES: dict[str, type[_Schedule]] = {
    name: globals()[name] for name in __all__ if isinstance(globals().get(name), type)
}


def as_plain(schedule: Any) -> dict[str, Any] | None:
    """Return a schedule as numbers and strings in dicts and lists, which `from_plain` makes again.

    None for what is not of this module, and where a callable of one's own is in it.
    """
    name = type(schedule).__name__
    if _CLASSES.get(name) is not type(schedule):
        return None
    plain: dict[str, Any] = {"schedule": name}
    for key, each in schedule._arguments.items():
        plain[key] = each.to_plain(getattr(schedule, key))
    if isinstance(schedule, ReduceOnPlateau):
        plain["state"] = schedule.state_dict()
    return None if any(value is None for value in plain.values()) else plain


def from_plain(data: Any) -> _Schedule:
    """Return the schedule that `as_plain` was given; a ValueError says what is wrong with data."""
    try:
        return _from_plain(data, 0)
    except TypeError as error:
        raise ValueError(f"schedule: {error}") from None
    except RecursionError:
        raise ValueError("schedule: the data are too deep") from None


def _from_plain(data: Any, depth: int) -> _Schedule:
    if depth > MAX_DEPTH:
        raise ValueError(f"schedules may stand in one another {MAX_DEPTH} deep, got more")
    if type(data) is not dict:
        raise ValueError(f"a schedule must be a dict, got {type(data).__name__}")
    name = data.get("schedule")
    cls = _CLASSES.get(name) if isinstance(name, str) else None
    if cls is None:
        raise ValueError(f"schedule must be one of {', '.join(_CLASSES)}, got {name!r}")
    wanted = [*cls._arguments, *(["state"] if cls is ReduceOnPlateau else [])]
    if {*data} != {"schedule", *wanted}:
        raise ValueError(f"schedule {name} must have {', '.join(wanted)}, got {[*data]!r}")
    values = {key: each.from_plain(key, data[key], depth) for key, each in cls._arguments.items()}
    if any(value is None for value in values.values()):
        raise ValueError(f"schedule {name} must have numbers, got None")
    made = cls(**values)
    if isinstance(made, ReduceOnPlateau):
        made.load_state_dict(data["state"])
    return made


def plateaus(schedule: Any) -> list[ReduceOnPlateau]:
    """Return those with a state in a schedule, itself among them, in order."""
    if isinstance(schedule, ReduceOnPlateau):
        return [schedule]
    if isinstance(schedule, warmup):
        return plateaus(schedule.then)
    if isinstance(schedule, join):
        *pairs, last = schedule.parts
        return [each for part in [*(part for _, part in pairs), last] for each in plateaus(part)]
    return []


def are_alike(a: Any, b: Any) -> bool:
    """Tell whether two schedules are equal but for states."""
    plain = as_plain(a)
    return plain is not None and _without_states(plain) == _without_states(as_plain(b))


def _without_states(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {key: _without_states(each) for key, each in plain.items() if key != "state"}
    return [*map(_without_states, plain)] if isinstance(plain, list) else plain
