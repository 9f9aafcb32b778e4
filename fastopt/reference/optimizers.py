"""The optimizers in NumPy: the mathematics as it is read, and the oracle for the compiled kernels.

Nothing here is fast, and nothing compiled is used. What an optimizer is, is declared beside the
compiled class; a rule is one method on one parameter. The base class holds what all share: which
inputs are accepted, and that all is checked before the first write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastopt._checks import count
from fastopt.optimizers._declared import Coefficients, Declared, internal
from fastopt.optimizers.adam import AdamSettings
from fastopt.optimizers.adaptive import AdaGradSettings, RMSpropSettings
from fastopt.optimizers.descent import (
    LionSettings,
    MomentumSettings,
    NesterovSettings,
    SGDSettings,
)

__all__ = ["SGD", "AdaGrad", "Adam", "Lion", "Momentum", "Nesterov", "RMSprop"]

Array = NDArray[Any]


class _Entry(NamedTuple):
    """One parameter of a step: `p` is the array to update, or a 0-d copy of a plain number."""

    key: Any
    p: Array
    g: Array
    state: tuple[Array, ...]

    def copied(self) -> _Entry:
        """Return an entry with a parameter and state of its own."""
        return self._replace(p=self.p.copy(), state=tuple(s.copy() for s in self.state))


class _Twin(Declared):
    """A step over a mapping of parameters; a subclass gives the rule."""

    iter: int = internal(0)
    """Steps completed."""

    _rule: ClassVar[Callable[..., None]]
    """_rule(p, g, *states, *coefficients) updates p and its states in place."""

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
        KeyError, TypeError, ValueError
            As from `update` of the compiled optimizers; but memory that overlaps is not looked for.
        """
        entries = self._entries(params, grads)
        numbers = [entry for entry in entries if not isinstance(params[entry.key], np.ndarray)]
        arrays = [entry for entry in entries if isinstance(params[entry.key], np.ndarray)]
        t = count("iter", self.iter + 1)
        coefficients, scalars = self._coefficients(t), self._next_scalars(t)
        updated = [entry.copied() for entry in numbers]
        self._apply(updated, coefficients)
        self._enter(params, updated, entries)  # what may be refused, before the rest
        self._apply(arrays, coefficients)
        for entry, new in zip(numbers, updated, strict=True):
            for s, new_s in zip(entry.state, new.state, strict=True):
                s[...] = new_s
        self.iter = t
        for name, number in scalars.items():
            self._put(name, number)

    def _apply(self, entries: list[_Entry], coefficients: Coefficients) -> None:
        """Take entries through the rule, each coefficient rounded once to the entry's dtype."""
        with np.errstate(all="ignore"):  # NaN and infinity are results here, not accidents
            for _, p, g, state in entries:
                self._rule(p, g, *state, *map(p.dtype.type, coefficients))

    def _enter(
        self, params: MutableMapping[Any, Any], numbers: list[_Entry], entries: list[_Entry]
    ) -> None:
        """Enter new states and replace plain numbers; take all back if a mapping refuses one."""
        states = [getattr(self, name) for name in self._states]
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

    def _entries(self, params: Mapping[Any, Any], grads: Mapping[Any, Any]) -> list[_Entry]:
        """Check every parameter, gradient and state; nothing is written before all have passed."""
        for name, mapping in (("params", params), ("grads", grads)):
            if not isinstance(mapping, Mapping):
                raise TypeError(f"{name} must be a mapping, got {type(mapping).__name__}")
        entries = []
        for key, value in params.items():
            if key not in grads:
                raise KeyError(f"no gradient for parameter {key!r}")
            if grads[key] is not None:
                p = _parameter(key, value)
                if not isinstance(value, np.ndarray) and not hasattr(params, "__setitem__"):
                    kind = type(params).__name__
                    raise TypeError(f"number {key!r} can't be replaced in a {kind}")
                g = _gradient(key, grads[key], p)
                entries.append(_Entry(key, p, g, self._state_of(key, p)))
        return entries

    def _state_of(self, key: Any, p: Array) -> tuple[Array, ...]:
        """Return the state arrays of one parameter, new ones where it has none."""
        arrays = tuple(
            getattr(self, name)[key]
            if key in getattr(self, name)
            else self._new_state(name, key, p)
            for name in self._states
        )
        for name, s in zip(self._states, arrays, strict=True):
            if not isinstance(s, np.ndarray) or isinstance(s, np.ma.MaskedArray):
                raise TypeError(f"state {name}[{key!r}] must be an array, got {type(s).__name__}")
            if s.shape != p.shape or s.dtype.type is not p.dtype.type:
                raise ValueError(
                    f"state {name}[{key!r}] is {s.dtype}{s.shape}, the parameter {p.dtype}{p.shape}"
                )
            if not s.flags.writeable:
                raise ValueError(f"state {name}[{key!r}] is read-only")
        return arrays

    def _new_state(self, name: str, key: Any, p: Array) -> Array:
        state = np.zeros_like(p, dtype=p.dtype.type, subok=False)  # in native byte order
        begins = self._beginning_of(name, key)
        state[...] = p if begins is None else begins
        return state


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
