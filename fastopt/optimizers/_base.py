"""What the compiled optimizers share: the step, once for all of them.

What an optimizer is, is declared in the module of its family; the arithmetic is compiled. What the
mathematics says is in `fastopt.reference`, which equals these bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastopt import _subnormals
from fastopt._step import Following, Setup, Stepper, rules
from fastopt.optimizers._declared import Coefficients, State, internal
from fastopt.optimizers._groups import FROZEN
from fastopt.optimizers._options import Optioned, Options, option_row
from fastopt.schedules import caller

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Optimizer"]


class Optimizer(Optioned):
    """An optimizer whose steps are compiled: a rule of the kernels, and a dict for each state."""

    _stepper: Stepper = internal(in_each_step=True)
    # What else a step is told, where that stays the same: setup, coefficients and options
    _told: tuple[Setup, tuple[Coefficients, ...] | Following, Options] | None = internal(
        in_each_step=True
    )
    _spare: State = internal()  # arrays of sums that were used

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls._rule_name:
            operands = rules[cls._rule_name][1]
            if ("p", "g", *cls._states) != operands:
                raise TypeError(f"{cls.__name__} declares {[*cls._states]} for {operands}")

    def _prepare(self) -> None:
        super()._prepare()
        self._put("_stepper", Stepper(self._rule_name))

    def _begin(self) -> None:
        super()._begin()
        self._put("_spare", {})
        self._stepper.set_calls(0)

    def __copy__(self) -> Self:
        new = object.__new__(type(self))
        vars(new).update(self.__getstate__())
        vars(new)["_stepper"] = copy.copy(self._stepper)  # it counts the steps of one optimizer
        return new

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state["_told"] = None
        state["_kept"]["_spare"] = {}
        return state

    def _was_set(self, name: str) -> None:
        super()._was_set(name)
        if name == "groups":
            self._stepper.forget()  # which row is whose
        self._put("_told", None)

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
            A string in `groups` that fits no key, options that contradict one another, or what a
            schedule returned.
        FloatingPointError
            With ``nonfinite="raise"``: a gradient has NaN or infinity, which is also what a float64
            of 1e300 is for a float32 parameter.
        RuntimeError
            Another thread is in the middle of an update of this optimizer; an array was changed
            while it was checked, by a key or a mapping that runs code; the parameters hold their
            averages, inside of `averaged`.

        Notes
        -----
        Everything is checked before anything is written: after an error no parameter, no state and
        no counter has changed.

        A call is a step, which `iter` counts, except with `accumulate`, where it may add to
        `accumulated` alone, and with ``nonfinite="skip"``, where `skipped` may count it. After a
        step in which gradients were measured, for clipping by norm or `nonfinite`, `norm` is the
        Euclidean norm of all of them before clipping. Averages, with `ema`, are in `average`.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> params = {"W": np.ones((2, 2), np.float32), "scale": 1.0, "frozen": np.zeros(3)}
        >>> grads = {"W": np.full((2, 2), 0.5), "scale": -2.0, "frozen": None}
        >>> fastopt.SGD(lr=0.5).update(params, grads)
        >>> params["W"].tolist(), params["scale"], params["frozen"].tolist()
        ([[0.75, 0.75], [0.75, 0.75]], 2.0, [0.0, 0.0, 0.0])
        """
        told = self._told  # read once: others may set it
        if told is None:
            self._prepare_and_step(params, grads)
            return
        setup, rows, options = told
        norm = self._stepper.step(
            params, grads, setup, rows, -1, _subnormals.flushes, self, options
        )
        if norm is not None:
            self._note(norm)

    def _prepare_and_step(self, params: MutableMapping[Any, Any], grads: Mapping[Any, Any]) -> None:
        """Take a step with all that may belong to one, and find out what the next will need.

        What is kept is written before the step: a hyper-parameter that is set during it has the
        last word.
        """
        self._refuse_averaged()
        stepper, numbers = self._stepper, self._numbers()
        t, n_calls = stepper.steps, stepper.calls + 1
        rows = numbers.at(t)
        coefficients = self._coefficients_of(numbers, t + 1.0)
        scalars = self._next_scalars_of(rows[0], t + 1)  # it may raise
        adds, sums, spare = n_calls < self.accumulate, None, {}
        if adds or n_calls > 1:
            sums = self._sums(params, grads, n_calls)
            grads = grads if adds else _without_none(grads, params, sums)
            spare = {} if adds else self._cleared(sums, params)
        setup, options = self._new_setup(n_calls, sums, adds), numbers.options(n_calls)
        self._put("_deciding", (rows, n_calls))
        if sums is None and not self._scalars:
            is_constant = self._is_constant and not numbers.vary
            following = coefficients if is_constant else _following(numbers)
            self._put("_told", (setup, following, options))
        flush = _subnormals.flushes
        try:
            norm = stepper.step(params, grads, setup, coefficients, t, flush, self, options)
        except BaseException:
            self._was_set("")
            self._take_sums_back(sums)
            raise
        if norm is False:
            self._take_sums_back(sums)
            self._note(norm)
            return
        if sums is not None:
            self._put("accumulated", sums if adds else {})
            self._put("_spare", spare)
        if not adds:
            self._put("norm", None if norm is None else norm / n_calls)
            for name, number in scalars.items():
                self._put(name, number)

    def _note(self, norm: float | bool) -> None:
        """Note the norm of a step, or that it was not made."""
        if norm is False:
            self._put("skipped", self.skipped + 1)
        else:
            self._put("norm", norm)

    def _new_setup(self, n_calls: int, sums: State | None, adds: bool) -> Setup:
        """Return what the stepper is told beside the numbers."""
        dicts = [getattr(self, name) for name in self._states]
        averages = self.ema is not None
        if averages:
            dicts.append(self.average)
        if sums is not None:
            dicts.append(sums)
        measures = self._numbers().are_measured and not (adds and self.nonfinite == "propagate")
        return Setup(
            tuple(dicts), averages, sums is not None, adds, measures, len(self.groups) > 0,
            n_calls - 1,
        )  # fmt: skip

    def _sums(
        self, params: MutableMapping[Any, Any], grads: Mapping[Any, Any], n_calls: int
    ) -> State:
        """Return the dict of sums that a call adds to, which is public from now on.

        Arrays that were used are used again: they hold -0.0, to which adding is exact. Those whose
        gradient is missing in the first call are dropped, for it may be in all.
        """
        if n_calls > 1:
            return self.accumulated
        sums, has_all = self._spare, isinstance(params, Mapping) and isinstance(grads, Mapping)
        if sums and has_all:
            sums = {
                key: array
                for key, array in sums.items()
                if key in params and grads.get(key) is not None and self._fits(key, array, params)
            }
        self._put("_spare", {})
        self._put("accumulated", sums)
        return sums

    def _cleared(self, sums: State, params: Mapping[Any, Any]) -> State:
        """Return the sums that a step uses: not those of keys that are gone or frozen."""
        if not isinstance(params, Mapping):
            return {}
        return {key: s for key, s in sums.items() if key in params and self._row_of(key) != FROZEN}

    def _fits(self, key: Any, array: NDArray[Any], params: Mapping[Any, Any]) -> bool:
        """Tell whether a used sum is one for a parameter as it is now, which is not frozen."""
        p = np.asarray(params[key])
        is_like = array.shape == p.shape and array.dtype == p.dtype.newbyteorder("=")
        return is_like and self._row_of(key) != FROZEN

    def _take_sums_back(self, sums: State | None) -> None:
        """Have nothing to show again after a first call that was not made."""
        if sums is not None and self.accumulated is sums and self._stepper.calls == 0:
            self._put("_spare", sums)
            self._put("accumulated", {})

    def _refuse_under_way(self) -> None:
        self._stepper.forget()  # refused then; else the next step looks at all once more

    @property
    def _calls(self) -> int:
        """Calls since the last step, with `accumulate`."""
        return self._stepper.calls

    @_calls.setter
    def _calls(self, calls: int) -> None:
        self._stepper.set_calls(calls)

    @property
    def iter(self) -> int:
        """Steps completed. May be set, as after loading the states from a file."""
        return self._stepper.steps

    @iter.setter
    def iter(self, steps: int) -> None:
        self._stepper.set_steps(steps)


def _following(numbers: Any) -> Following:
    """Return what gives an optimizer's numbers in each step."""
    schedules = [
        (caller(each.value), *each.check.takes, each.name, tuple(each.rows), each.checked)
        for each in numbers.schedules
    ]
    finish = None if numbers.are_finished else numbers.finish
    of_options = option_row if numbers.options_vary else None
    return Following(tuple(numbers.rows), tuple(schedules), finish, numbers.compute, of_options)


def _without_none(
    grads: Mapping[Any, Any], params: Mapping[Any, Any], sums: State
) -> Mapping[Any, Any]:
    """Return gradients in which None is -0.0 where there is a sum, which that leaves as it is."""
    if not isinstance(grads, Mapping) or all(g is not None for g in grads.values()):
        return grads
    new = dict(grads)
    for key, g in new.items():
        if g is None and key in sums and key in params:
            p = np.asarray(params[key])
            new[key] = np.full(p.shape, -0.0, p.dtype.type)
    return new
