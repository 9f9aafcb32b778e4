"""What the compiled optimizers share: the step, once for all of them.

What an optimizer is, is declared in the module of its family; the arithmetic is compiled. What the
mathematics says is in `fastopt.reference`, which equals these bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from fastopt import _subnormals
from fastopt._step import Stepper, rules
from fastopt.optimizers._declared import Coefficients, Declared, State, internal

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Optimizer"]


class Optimizer(Declared):
    """An optimizer whose steps are compiled: a rule of the kernels, and a dict for each state."""

    _stepper: Stepper = internal()
    _rows: tuple[Coefficients, ...] | None = internal()  # as long as they stay the same
    _state_dicts: tuple[State, ...] = internal(())
    _follows: bool = internal(True)  # something is to be done after the next step

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls._rule_name:
            operands = rules[cls._rule_name][1]
            if ("p", "g", *cls._states) != operands:
                raise TypeError(f"{cls.__name__} declares {[*cls._states]} for {operands}")

    def _prepare(self) -> None:
        super()._prepare()
        self._put("_stepper", Stepper(self._rule_name))

    def __copy__(self) -> Self:
        new = object.__new__(type(self))
        vars(new).update(vars(self))
        vars(new)["_stepper"] = copy.copy(self._stepper)  # it counts the steps of one optimizer
        return new

    def _was_set(self, name: str) -> None:
        if name in self._states:
            self._put("_state_dicts", tuple(getattr(self, name, {}) for name in self._states))
        self._put("_rows", None)
        self._put("_follows", True)

    def update(self, params: MutableMapping[Any, Any], grads: Mapping[Any, Any]) -> None:
        """Take one step: change every parameter, and the state, in place.

        Parameters
        ----------
        params : mapping of keys to float32 or float64 arrays, or floats
            Arrays of any shape and strides are updated in place, contiguous ones at full speed.
            A Python float or NumPy scalar is replaced in the mapping.
        grads : mapping of the same keys to arrays, numbers or None
            Of the parameters' shapes. Another real dtype is cast to the parameter's first; None
            leaves that parameter and its state as they are. They are never written; entries
            without a parameter are ignored.

        Raises
        ------
        KeyError
            A parameter has no gradient.
        TypeError
            A parameter that is not of float32 or float64, or a gradient that is not real.
        ValueError
            A gradient of another shape than its parameter; a read-only parameter; state that no
            longer fits a parameter; parameters, states or gradients that overlap in memory (an
            array may be its own gradient, and gradients may share memory).
        RuntimeError
            Another thread is in the middle of an update of this optimizer; an array was changed
            while it was checked, by a key or a mapping that runs code.

        Notes
        -----
        Everything is checked before anything is written: after an error no parameter, no state and
        no counter has changed.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> params = {"W": np.ones((2, 2), np.float32), "scale": 1.0, "frozen": np.zeros(3)}
        >>> grads = {"W": np.full((2, 2), 0.5), "scale": -2.0, "frozen": None}
        >>> fastopt.SGD(lr=0.5).update(params, grads)
        >>> params["W"].tolist(), params["scale"], params["frozen"].tolist()
        ([[0.75, 0.75], [0.75, 0.75]], 2.0, [0.0, 0.0, 0.0])
        """
        stepper, rows, t = self._stepper, self._rows, -1
        if rows is None:
            t = stepper.steps
            rows = (self._coefficients(t + 1.0),)  # a float: powers of it are faster
        if self._follows:
            self._step_and_follow(params, grads, rows, t)
        else:
            stepper.step(params, grads, self._state_dicts, rows, t, _subnormals.flushes, self)

    def _step_and_follow(
        self,
        params: MutableMapping[Any, Any],
        grads: Mapping[Any, Any],
        rows: tuple[Coefficients, ...],
        t: int,
    ) -> None:
        """Take a step and move the scalars on; keep coefficients that stay the same.

        What is kept is written before the step: a hyper-parameter that is set during it has the
        last word.
        """
        stepper = self._stepper
        scalars = self._next_scalars(stepper.steps + 1)  # it may raise
        self._put("_rows", rows if self._is_constant else None)
        self._put("_follows", bool(self._scalars))
        try:
            stepper.step(params, grads, self._state_dicts, rows, t, _subnormals.flushes, self)
        except BaseException:
            self._put("_rows", None)
            self._put("_follows", True)
            raise
        for name, number in scalars.items():
            self._put(name, number)

    @property
    def iter(self) -> int:
        """Steps completed. May be set, as after loading the states from a file."""
        return self._stepper.steps

    @iter.setter
    def iter(self, steps: int) -> None:
        self._stepper.set_steps(steps)
