"""The optimizers in NumPy: the mathematics as it is read, and the oracle for the compiled kernels.

Nothing here is fast, and nothing compiled is used. What an optimizer is, is declared beside the
compiled class; a rule is one method on one parameter. The base class holds what all share: which
inputs are accepted, and that all is checked before the first write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from math import sqrt
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastopt._checks import count
from fastopt.optimizers._declared import Coefficients, State, internal
from fastopt.optimizers._groups import FROZEN
from fastopt.optimizers._options import NEUTRAL, Optioned, OptionRow, option_row
from fastopt.optimizers.adam import AdamSettings, AdamWSettings
from fastopt.optimizers.adaptive import AdaGradSettings, RMSpropSettings
from fastopt.optimizers.descent import (
    LionSettings,
    MomentumSettings,
    NesterovSettings,
    SGDSettings,
)

__all__ = ["SGD", "AdaGrad", "Adam", "AdamW", "Lion", "Momentum", "Nesterov", "RMSprop"]

Array = NDArray[Any]

BLOCK, LANES = 16_384, 32
"""Of a sum of squares, whose order is fixed by them."""


class _Entry(NamedTuple):
    """One parameter of a step: `p` is the array to update, or a 0-d copy of a plain number."""

    key: Any
    p: Array
    g: Array  # cast, and added to the sum of those before it
    state: tuple[Array, ...]  # the rule's, then the average if there is one
    row: int  # of coefficients and options
    is_finite: bool  # whether the gradient of this call is

    def copied(self) -> _Entry:
        """Return an entry with a parameter and state of its own."""
        return self._replace(p=self.p.copy(), state=tuple(s.copy() for s in self.state))


class _Twin(Optioned):
    """A step over a mapping of parameters; a subclass gives the rule."""

    iter: int = internal(0)
    """Steps completed."""

    _calls: int = internal(0)  # since the last step

    _rule: ClassVar[Callable[..., None]]
    """_rule(p, g, *states, *coefficients) updates p and its states in place."""

    def _begin(self) -> None:
        super()._begin()
        self._put("_calls", 0)

    def update(self, params: MutableMapping[Any, Any], grads: Mapping[Any, Any]) -> None:
        """Take one step: change every parameter in place along its gradient.

        Parameters
        ----------
        params : mapping of arrays or floats
            float32 or float64; a plain number is replaced in the mapping.
        grads : mapping of arrays, numbers or None
            One entry for each parameter, of its shape; None leaves the parameter as it is.

        Raises
        ------
        KeyError, TypeError, ValueError, FloatingPointError, RuntimeError
            As from `update` of the compiled optimizers; but memory that overlaps is not looked for.
        """
        self._refuse_averaged()
        t, n_calls = count("iter", self.iter + 1), self._calls + 1
        numbers = self._numbers()
        rows = numbers.at(self.iter)
        coefficients, scalars = self._coefficients_of(numbers, t), self._next_scalars_of(rows[0], t)
        adds = n_calls < self.accumulate
        entries = self._entries(params, grads, adds)
        self._check_groups([*params])
        factors, norm = [1.0] * len(entries), None
        if numbers.are_measured and not (adds and self.nonfinite == "propagate"):
            self._put("_deciding", (rows, n_calls))
            decided, norm = self._measure(entries, n_calls)
            if decided is None:
                self._put("skipped", self.skipped + 1)
                return
            factors = decided if isinstance(decided, list) else [decided] * len(entries)
        if adds:
            for entry in entries:
                g = entry.g.astype(entry.p.dtype.type)  # a copy in native byte order
                self.accumulated.setdefault(entry.key, g)[...] = g
            self._put("_calls", n_calls)
            return
        steps = [
            _Step(coefficients[entry.row], option_row(rows[entry.row], n_calls), factor)
            for entry, factor in zip(entries, factors, strict=True)
        ]
        self._make(params, entries, steps)
        # Not as a user sets them, after which the numbers of this step would be forgotten
        self._put("iter", t)
        self._put("accumulated", {})
        self._put("_calls", 0)
        self._put("norm", norm)
        for name, number in scalars.items():
            self._put(name, number)

    def _measure(
        self, entries: list[_Entry], n_calls: int
    ) -> tuple[float | list[float] | None, float]:
        """Return what gradients are multiplied with, as `_decide` does, and their mean's norm."""
        squares = [_sum_of_squares(entry.g, _order(entry.p)) for entry in entries]
        total = 0.0
        for square in squares:
            total += square
        bad = next(((entry.key,) for entry in entries if not entry.is_finite), None)
        pairs = [(entry.row, square) for entry, square in zip(entries, squares, strict=True)]
        return self._decide(total, bad, lambda: pairs), sqrt(total) / n_calls

    def _make(
        self, params: MutableMapping[Any, Any], entries: list[_Entry], steps: list[_Step]
    ) -> None:
        """Make the step; what may be refused comes before the rest."""
        arrays: list[tuple[_Entry, _Step]] = []
        numbers: list[tuple[_Entry, _Step]] = []
        for entry, step in zip(entries, steps, strict=True):
            is_array = isinstance(params[entry.key], np.ndarray)
            (arrays if is_array else numbers).append((entry, step))
        updated = [entry.copied() for entry, _ in numbers]
        for new, (_, step) in zip(updated, numbers, strict=True):
            self._apply(new, step)
        self._enter(params, updated, entries)
        for entry, step in arrays:
            self._apply(entry, step)
        for new, (entry, _) in zip(updated, numbers, strict=True):
            for s, new_s in zip(entry.state, new.state, strict=True):
                s[...] = new_s

    def _apply(self, entry: _Entry, step: _Step) -> None:
        """Take an entry through options and rule, each number rounded once to the entry's dtype."""
        p, g, states, cast = entry.p, entry.g, entry.state[: len(self._states)], entry.p.dtype.type
        options = None if step.options == NEUTRAL and step.factor == 1.0 else step.options
        with np.errstate(all="ignore"):  # NaN and infinity are results here, not accidents
            if options is not None:
                scale, limit, decay, shrink, low, high, one_minus_ema = map(
                    cast, (options[0] * step.factor, *options[1:])
                )
                g = g * scale
                g = np.where(g > limit, limit, np.where(g < -limit, -limit, g))
                if decay != 0:
                    g = g + decay * p
                p *= shrink
            self._rule(p, g, *states, *map(cast, step.coefficients))
            if options is not None:
                p[...] = np.where(p < low, low, np.where(p > high, high, p))
                if len(entry.state) > len(states):
                    average = entry.state[-1]
                    average += one_minus_ema * (p - average)

    def _enter(
        self, params: MutableMapping[Any, Any], numbers: list[_Entry], entries: list[_Entry]
    ) -> None:
        """Enter new states and replace plain numbers; take all back if a mapping refuses one."""
        states = self._state_dicts()
        sizes = [len(state) for state in states]
        before = {entry.key: params[entry.key] for entry in numbers}
        try:
            for i, state in enumerate(states):
                state.update((entry.key, entry.state[i]) for entry in entries)
            for key, p, *_ in numbers:
                params[key] = p[()] if isinstance(before[key], np.generic) else float(p)
        except BaseException:
            for state, size in zip(states, sizes, strict=True):
                while len(state) > size:
                    state.popitem()
            for key, number in before.items():
                with suppress(Exception):
                    params[key] = number
            raise

    def _state_dicts(self) -> list[State]:
        averages = [] if self.ema is None else [self.average]
        return [getattr(self, name) for name in self._states] + averages

    def _entries(
        self, params: Mapping[Any, Any], grads: Mapping[Any, Any], adds: bool
    ) -> list[_Entry]:
        """Check every parameter, gradient and state; nothing is written before all have passed."""
        for name, mapping in (("params", params), ("grads", grads)):
            if not isinstance(mapping, Mapping):
                raise TypeError(f"{name} must be a mapping, got {type(mapping).__name__}")
        entries = []
        for key, value in params.items():
            if key not in grads:
                raise KeyError(f"no gradient for parameter {key!r}")
            row, g = self._row_of(key), grads[key]
            if row == FROZEN or (g is None and (adds or key not in self.accumulated)):
                continue
            p = _parameter(key, value)
            if not isinstance(value, np.ndarray) and not hasattr(params, "__setitem__"):
                kind = type(params).__name__
                raise TypeError(f"number {key!r} can't be replaced in a {kind}")
            g = np.full(p.shape, -0.0, p.dtype.type) if g is None else _gradient(key, g, p)
            is_finite = bool(np.isfinite(g).all())
            if key in self.accumulated:
                sums = self.accumulated[key]
                _check_state("accumulated", key, sums, p)
                with np.errstate(all="ignore"):
                    g = sums + g
            entries.append(_Entry(key, p, np.asarray(g), self._state_of(key, p), row, is_finite))
        return entries

    def _state_of(self, key: Any, p: Array) -> tuple[Array, ...]:
        """Return the state arrays of one parameter, new ones where it has none."""
        names = [*self._states, *(() if self.ema is None else ("average",))]
        arrays = tuple(
            getattr(self, name)[key]
            if key in getattr(self, name)
            else self._new_state(name, key, p)
            for name in names
        )
        for name, s in zip(names, arrays, strict=True):
            _check_state(name, key, s, p)
        return arrays

    def _new_state(self, name: str, key: Any, p: Array) -> Array:
        state = np.zeros_like(p, dtype=p.dtype.type, subok=False)  # in native byte order
        begins = self._beginning_of(name, key)
        state[...] = p if begins is None else begins
        return state


class _Step(NamedTuple):
    """The numbers of an entry's step."""

    coefficients: Coefficients
    options: OptionRow
    factor: float


def _order(p: Array) -> Literal["C", "F"]:
    """Return the order in which elements are added: that of the parameter's memory, or C's."""
    return "F" if p.flags.f_contiguous and not p.flags.c_contiguous else "C"


def _sum_of_squares(g: Array, order: Literal["C", "F"]) -> float:
    """Add squares in double: in 32 lanes through each block of 16,384, the blocks in order."""
    x = g.ravel(order=order).astype(np.float64)
    n_blocks = -(-x.size // BLOCK)
    squares = np.zeros(n_blocks * BLOCK)
    with np.errstate(all="ignore"):
        squares[: x.size] = x * x
        lanes = np.zeros((n_blocks, LANES))
        for row in squares.reshape(n_blocks, BLOCK // LANES, LANES).swapaxes(0, 1):
            lanes += row
        while lanes.shape[1] > 1:  # the halves are added lane by lane
            lanes = lanes[:, : lanes.shape[1] // 2] + lanes[:, lanes.shape[1] // 2 :]
        total = 0.0
        for block in lanes.ravel().tolist():
            total += block
    return total


def _check_state(name: str, key: Any, s: Any, p: Array) -> None:
    if not isinstance(s, np.ndarray) or isinstance(s, np.ma.MaskedArray):
        raise TypeError(f"state {name}[{key!r}] must be an array, got {type(s).__name__}")
    if s.shape != p.shape or s.dtype.type is not p.dtype.type:
        raise ValueError(
            f"state {name}[{key!r}] is {s.dtype}{s.shape}, the parameter {p.dtype}{p.shape}"
        )
    if not s.flags.writeable:
        raise ValueError(f"state {name}[{key!r}] is read-only")


def _parameter(key: Any, value: Any) -> Array:
    is_array = isinstance(value, np.ndarray)
    if not is_array and not isinstance(value, (float, np.floating)):
        raise TypeError(f"parameter {key!r} must be a float array or float, got {value!r}")
    p = np.asarray(value) if is_array else np.array(value)
    if p.dtype.type not in (np.float32, np.float64) or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"parameter {key!r} must be float32 or float64, got {p.dtype}")
    if not p.flags.writeable:
        raise ValueError(f"parameter {key!r} is read-only")
    return p


def _gradient(key: Any, value: Any, p: Array) -> Array:
    if not isinstance(value, (np.ndarray, np.generic, float, int)):
        raise TypeError(f"gradient of {key!r} must be an array or a number, got {value!r}")
    g = np.asarray(value)
    if g.dtype.kind not in "fiub" or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"gradient of {key!r} must be real, got {g.dtype}")
    if g.shape != p.shape:
        raise ValueError(f"gradient of {key!r} has shape {g.shape}, the parameter {p.shape}")
    with np.errstate(all="ignore"):
        return g.astype(p.dtype, copy=False)


class SGD(SGDSettings, _Twin):
    """Twin of `fastopt.SGD`, bit for bit: p -= lr·g."""

    def _rule(self, p: Array, g: Array, lr: Any) -> None:
        p -= lr * g


class Momentum(MomentumSettings, _Twin):
    """Twin of `fastopt.Momentum`, bit for bit: v = momentum·v - lr·g; p += v."""

    def _rule(self, p: Array, g: Array, v: Array, lr: Any, momentum: Any) -> None:
        v[...] = momentum * v - lr * g
        p += v


class Nesterov(NesterovSettings, _Twin):
    """Twin of `fastopt.Nesterov`, bit for bit: v = momentum·v - lr·g; p += momentum·v - lr·g."""

    def _rule(self, p: Array, g: Array, v: Array, lr: Any, momentum: Any) -> None:
        v[...] = momentum * v - lr * g
        p += momentum * v - lr * g


class AdaGrad(AdaGradSettings, _Twin):
    """Twin of `fastopt.AdaGrad`, bit for bit: h += g·g; p -= lr·g / (√h + eps)."""

    def _rule(self, p: Array, g: Array, h: Array, lr: Any, eps: Any) -> None:
        h += g * g
        p -= lr * g / (np.sqrt(h) + eps)


class RMSprop(RMSpropSettings, _Twin):
    """Twin of `fastopt.RMSprop`, bit for bit.

    h = decay_rate·h; h += (1-decay_rate)·g·g; p -= lr·g / (√h + eps).
    """

    def _rule(
        self, p: Array, g: Array, h: Array,
        lr: Any, decay_rate: Any, one_minus_decay_rate: Any, eps: Any,
    ) -> None:  # fmt: skip
        h *= decay_rate
        h += one_minus_decay_rate * g * g
        p -= lr * g / (np.sqrt(h) + eps)


class Adam(AdamSettings, _Twin):
    """Twin of `fastopt.Adam`, bit for bit.

    iter += 1; lr_t = lr·√(1-beta2^iter)/(1-beta1^iter); m += (1-beta1)(g-m);
    v += (1-beta2)(g²-v); p -= lr_t·m / (√v + eps).
    """

    def _rule(
        self, p: Array, g: Array, m: Array, v: Array,
        lr_t: Any, one_minus_beta1: Any, one_minus_beta2: Any, eps: Any,
    ) -> None:  # fmt: skip
        m += one_minus_beta1 * (g - m)
        v += one_minus_beta2 * (g * g - v)
        p -= lr_t * m / (np.sqrt(v) + eps)


class AdamW(AdamWSettings, Adam):
    """Twin of `fastopt.AdamW`, bit for bit: that of `Adam`, with other defaults."""


class Lion(LionSettings, _Twin):
    """Twin of `fastopt.Lion`, bit for bit.

    p -= lr·sign(beta1·m + (1-beta1)·g); m = beta2·m + (1-beta2)·g.
    """

    def _rule(
        self, p: Array, g: Array, m: Array,
        lr: Any, beta1: Any, one_minus_beta1: Any, beta2: Any, one_minus_beta2: Any,
    ) -> None:  # fmt: skip
        direction = beta1 * m + one_minus_beta1 * g
        m[...] = beta2 * m + one_minus_beta2 * g  # first: g may be p itself
        p -= lr * np.sign(direction)
