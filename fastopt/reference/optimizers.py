"""The optimizers in NumPy: the mathematics as it is read, and the oracle for the compiled kernels.

Nothing here is fast, and nothing compiled is used. A rule is one method on one parameter; the
base class holds what all share: which inputs are accepted, and that all is checked before the
first write.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastopt._hyperparameters import EPS, Hyperparameters, count, fraction, non_negative

__all__ = ["SGD", "AdaGrad", "Adam", "Momentum", "Nesterov", "RMSprop"]

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


class _Optimizer(Hyperparameters):
    """A step over a mapping of parameters; a subclass gives the state's names and the rule."""

    _rule: Callable[..., None]
    """_rule(p, g, *state, cast=…) updates p and its state in place; cast rounds a coefficient."""

    def __init__(self) -> None:
        for name in self._state_names:
            setattr(self, name, {})

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
        with np.errstate(all="ignore"):  # NaN and infinity are results here, not accidents
            updated = [entry.copied() for entry in numbers]
            for entry in updated:
                self._rule(entry.p, entry.g, *entry.state, cast=entry.p.dtype.type)
            self._enter(params, updated, entries)  # what may be refused, before the rest
            for entry in arrays:
                self._rule(entry.p, entry.g, *entry.state, cast=entry.p.dtype.type)
        for entry, new in zip(numbers, updated, strict=True):
            for s, new_s in zip(entry.state, new.state, strict=True):
                s[...] = new_s

    def _enter(
        self, params: MutableMapping[Any, Any], numbers: list[_Entry], entries: list[_Entry]
    ) -> None:
        """Enter new states and replace plain numbers; take all back if a mapping refuses one."""
        states = [getattr(self, name) for name in self._state_names]
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
        """Return the state arrays of one parameter, zeros where it is new."""
        arrays = tuple(
            getattr(self, name)[key]
            if key in getattr(self, name)
            else np.zeros_like(p, dtype=p.dtype.type, subok=False)  # in native byte order
            for name in self._state_names
        )
        for name, s in zip(self._state_names, arrays, strict=True):
            if not isinstance(s, np.ndarray) or isinstance(s, np.ma.MaskedArray):
                raise TypeError(f"state {name}[{key!r}] must be an array, got {type(s).__name__}")
            if s.shape != p.shape or s.dtype.type is not p.dtype.type:
                raise ValueError(
                    f"state {name}[{key!r}] is {s.dtype}{s.shape}, the parameter {p.dtype}{p.shape}"
                )
            if not s.flags.writeable:
                raise ValueError(f"state {name}[{key!r}] is read-only")
        return arrays


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


class SGD(_Optimizer):
    """Twin of `fastopt.SGD`, bit for bit: p -= lr·g."""

    _checks = {"lr": non_negative}

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.lr = lr

    def _rule(self, p: Array, g: Array, *, cast: Callable[[float], Any]) -> None:
        p -= cast(self.lr) * g


class Momentum(_Optimizer):
    """Twin of `fastopt.Momentum`, bit for bit: v = momentum·v - lr·g; p += v."""

    _checks = {"lr": non_negative, "momentum": fraction}
    _state_names = ("v",)
    v: dict[Any, Array]

    def __init__(self, lr: float = 0.01, momentum: float = 0.9) -> None:
        super().__init__()
        self.lr, self.momentum = lr, momentum

    def _rule(self, p: Array, g: Array, v: Array, *, cast: Callable[[float], Any]) -> None:
        lr, momentum = cast(self.lr), cast(self.momentum)
        v[...] = momentum * v - lr * g
        p += v


class Nesterov(Momentum):
    """Twin of `fastopt.Nesterov`, bit for bit: v = momentum·v - lr·g; p += momentum·v - lr·g."""

    def _rule(self, p: Array, g: Array, v: Array, *, cast: Callable[[float], Any]) -> None:
        lr, momentum = cast(self.lr), cast(self.momentum)
        v[...] = momentum * v - lr * g
        p += momentum * v - lr * g


class AdaGrad(_Optimizer):
    """Twin of `fastopt.AdaGrad`, bit for bit: h += g·g; p -= lr·g / (√h + eps)."""

    _checks = {"lr": non_negative}
    _state_names = ("h",)
    h: dict[Any, Array]

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.lr = lr

    def _rule(self, p: Array, g: Array, h: Array, *, cast: Callable[[float], Any]) -> None:
        h += g * g
        p -= cast(self.lr) * g / (np.sqrt(h) + cast(EPS))


class RMSprop(_Optimizer):
    """Twin of `fastopt.RMSprop`, bit for bit.

    h = decay_rate·h; h += (1-decay_rate)·g·g; p -= lr·g / (√h + eps).
    """

    _checks = {"lr": non_negative, "decay_rate": fraction}
    _state_names = ("h",)
    h: dict[Any, Array]

    def __init__(self, lr: float = 0.01, decay_rate: float = 0.99) -> None:
        super().__init__()
        self.lr, self.decay_rate = lr, decay_rate

    def _rule(self, p: Array, g: Array, h: Array, *, cast: Callable[[float], Any]) -> None:
        h *= cast(self.decay_rate)
        h += cast(1.0 - self.decay_rate) * g * g
        p -= cast(self.lr) * g / (np.sqrt(h) + cast(EPS))


class Adam(_Optimizer):
    """Twin of `fastopt.Adam`, bit for bit.

    iter += 1; lr_t = lr·√(1-beta2^iter)/(1-beta1^iter); m += (1-beta1)(g-m);
    v += (1-beta2)(g²-v); p -= lr_t·m / (√v + eps).
    """

    _checks = {"lr": non_negative, "beta1": fraction, "beta2": fraction, "iter": count}
    _state_names = ("m", "v")
    m: dict[Any, Array]
    v: dict[Any, Array]

    def __init__(self, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999) -> None:
        super().__init__()
        self.lr, self.beta1, self.beta2 = lr, beta1, beta2
        self.iter = 0

    def update(self, params: MutableMapping[Any, Any], grads: Mapping[Any, Any]) -> None:
        """Take one step, as every optimizer, and count it."""
        self.iter += 1
        try:
            super().update(params, grads)
        except BaseException:
            self.iter -= 1  # an error leaves the counter as it was, too
            raise

    def _rule(
        self, p: Array, g: Array, m: Array, v: Array, *, cast: Callable[[float], Any]
    ) -> None:
        iter = self.iter
        lr_t = cast(self.lr * math.sqrt(1.0 - self.beta2**iter) / (1.0 - self.beta1**iter))
        m += cast(1.0 - self.beta1) * (g - m)
        v += cast(1.0 - self.beta2) * (g * g - v)
        p -= lr_t * m / (np.sqrt(v) + cast(EPS))
