"""What an optimizer's state is as plain data, and how it is put back: settings, counters, arrays.

How data get into a file is not known here, nor what a step does with them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from fastopt import schedules
from fastopt._checks import bound, count
from fastopt._states import FORMAT, checked_arrays, checked_fields, checked_names
from fastopt.optimizers._declared import State, is_schedule
from fastopt.optimizers._groups import check_in_group

__all__ = ["checked_state", "state_of"]

_FIELDS = ("iter", "skipped", "calls", "scalars", "settings", "arrays")


def state_of(optimizer: Any) -> dict[str, Any]:
    """Return an optimizer's state: plain data, and copies of its arrays; all of one moment."""
    optimizer._refuse_under_way()
    counted = _counted(optimizer)
    settings = {name: _plain(getattr(optimizer, name)) for name in optimizer._settings}
    settings["groups"] = [
        [_plain_pattern(pattern), {name: _plain(v) for name, v in own.items()}]
        for pattern, own in optimizer.groups.items()
    ]
    state = {
        "format": FORMAT,
        "class": type(optimizer).__name__,
        **counted,
        "scalars": {name: getattr(optimizer, name) for name in optimizer._scalars},
        "settings": settings,
        "arrays": {
            name: {key: array.copy(order="K") for key, array in getattr(optimizer, name).items()}
            for name in _states(optimizer)
        },
    }
    optimizer._refuse_under_way()
    if _counted(optimizer) != counted:
        raise RuntimeError("another thread has made an update while the state was copied")
    return state


def _counted(optimizer: Any) -> dict[str, int]:
    return {"iter": optimizer.iter, "skipped": optimizer.skipped, "calls": optimizer._calls}


def checked_state(
    optimizer: Any, state: Any, params: Mapping[Any, Any] | None = None, *, copies: bool = False
) -> Callable[[], None]:
    """Check a state wholly, and return what puts it in the place of the optimizer's.

    Parameters
    ----------
    optimizer : Optioned
        Whose settings, counters and arrays are replaced, once what is returned is called.
    state : Any
        What `state_of` returned, or anything else.
    params : mapping, optional
        Parameters that the arrays must fit, as far as they have the same keys.
    copies : bool
        Whether somebody keeps the state's arrays.

    Raises
    ------
    ValueError
        The state is not one of this class, or doesn't fit.
    """
    name = type(optimizer).__name__
    fields = checked_fields(name, state, name, _FIELDS)
    try:
        counters = {each: count(each, fields[each]) for each in ("iter", "skipped", "calls")}
        scalars = checked_names("scalars", fields["scalars"], [*optimizer._scalars])
        scalars = {each: bound(each, number) for each, number in scalars.items()}
        settings = _Settings(optimizer, fields["settings"])
        arrays = _checked_arrays(optimizer, fields["arrays"], params, copies)
        if arrays["accumulated"] and not counters["calls"]:
            raise ValueError("there are sums of gradients, and no calls that made them")
    except (TypeError, ValueError) as error:
        raise ValueError(f"the state of {name}: {error}") from None

    def load() -> None:
        optimizer.iter = counters["iter"]  # refused while a step is under way, so it comes first
        optimizer._calls = counters["calls"]
        optimizer.skipped = counters["skipped"]
        optimizer._put("norm", None)
        settings.put()
        for each, number in scalars.items():
            setattr(optimizer, each, number)
        for each, by_key in arrays.items():
            setattr(optimizer, each, by_key)

    return load


def _states(optimizer: Any) -> list[str]:
    return [*optimizer._states, "average", "accumulated"]


def _checked_arrays(
    optimizer: Any, data: Any, params: Mapping[Any, Any] | None, copies: bool
) -> dict[str, State]:
    """Return the states, averages and sums, each by key, that fit one another and all others."""
    data = checked_names("arrays", data, _states(optimizer))
    checked = {name: checked_arrays(name, by_key, copies=copies) for name, by_key in data.items()}
    others: dict[Any, tuple[str, Any]] = {}  # what a key's arrays must be like
    for name in _states(optimizer):
        others |= {key: (f"{name}[{key!r}]", a) for key, a in getattr(optimizer, name).items()}
    if params is not None:
        others |= {key: (f"parameter {key!r}", p) for key, p in params.items()}
    for name, by_key in checked.items():
        for key, array in by_key.items():
            what, other = others.setdefault(key, (f"{name}[{key!r}]", array))
            shape, dtype = np.shape(other), np.asarray(other).dtype
            if array.shape != shape or array.dtype.type is not dtype.type:
                raise ValueError(
                    f"{name}[{key!r}] of the state is {array.dtype}{array.shape}, "
                    f"and {what} is {dtype}{shape}"
                )
    return checked


# --- settings ---


def _plain(value: Any) -> Any:
    """Return a setting as plain data: False for none, None for a callable of somebody's own.

    A list of states for one that schedules with a state are in: they are moved by metrics.
    """
    if value is None:
        return False
    if not is_schedule(value):
        return value
    plain = schedules.as_plain(value)
    if plain is None and (moved := schedules.plateaus(value)):
        return [each.state_dict() for each in moved]
    return plain


def _plain_pattern(pattern: Any) -> str | tuple[str, ...] | None:
    """Return a pattern with Python's strings, as a file takes them; None for a callable."""
    if isinstance(pattern, tuple):
        return tuple(map(str, pattern))
    return None if callable(pattern) else str(pattern)


class _Settings:
    """Settings of a state, on their way to an optimizer.

    A schedule that moves by itself stays the object that the optimizer has, where only its state is
    another: it is told of metrics by whoever made it.

    Parameters
    ----------
    optimizer : Optioned
        Which holds the callables that a state doesn't.
    data : Any
        What `state_of` made of settings, or anything else.
    """

    def __init__(self, optimizer: Any, data: Any) -> None:
        self._optimizer = optimizer
        self._moves: list[tuple[schedules.ReduceOnPlateau, Mapping[str, float]]] = []
        self._new = copy.copy(optimizer)
        for name, each in checked_names("settings", data, [*optimizer._settings]).items():
            now, check = getattr(optimizer, name), optimizer._settings[name].check
            is_groups = name == "groups"
            value = self._groups(now, each) if is_groups else self._value(name, check, now, each)
            setattr(self._new, name, value)
        self._new._numbers()  # which finds settings that contradict one another

    def put(self) -> None:
        """Give them to the optimizer."""
        for name in self._optimizer._settings:
            setattr(self._optimizer, name, getattr(self._new, name))
        for schedule, state in self._moves:
            schedule.load_state_dict(state)

    def _value(self, where: str, check: Callable[[str, Any], Any], now: Any, data: Any) -> Any:
        """Return a setting of plain data; `now` is what the optimizer has in its place."""
        if data is None or isinstance(data, list):
            return self._own_callable(where, now, data or [])
        if isinstance(data, Mapping):
            return self._schedule(now, schedules.from_plain(data))
        if callable(data):
            raise ValueError(f"{where} must be plain data, got {data!r}")
        if data is False:  # of a number that may be none; a switch takes it as it is
            with suppress(TypeError, ValueError):
                return check(where, None)
        return check(where, data)

    def _own_callable(self, where: str, now: Any, states: list[Any]) -> Any:
        """Return the callable that the optimizer has, in which schedules have these states."""
        if not is_schedule(now) or schedules.as_plain(now) is not None:
            raise ValueError(
                f"{where} was a callable of your own, which a state doesn't hold: set it before "
                "loading"
            )
        moved = schedules.plateaus(now)
        if states and len(states) != len(moved):
            raise ValueError(
                f"{where} had {len(states)} schedules with a state, and has {len(moved)}"
            )
        for schedule, state in zip(moved, states, strict=False):
            copy.copy(schedule).load_state_dict(state)  # which checks it
            self._moves.append((schedule, state))
        return now

    def _schedule(self, now: Any, new: Any) -> Any:
        if not schedules.are_alike(now, new):
            return new
        pairs = zip(schedules.plateaus(now), schedules.plateaus(new), strict=True)
        self._moves += [(schedule, moved.state_dict()) for schedule, moved in pairs]
        return now

    def _groups(self, now: Any, data: Any) -> dict[Any, dict[str, Any]]:
        """Return groups of plain data; `now` is what the optimizer has."""
        own_patterns = [*now]
        groups: dict[Any, dict[str, Any]] = {}
        for i, pair in enumerate(_checked_list("groups", data)):
            pattern, settings = _checked_pair(pair)
            if pattern is None:
                pattern = own_patterns[i] if i < len(own_patterns) else None
                if not callable(pattern):
                    raise ValueError(
                        f"pattern {i} of groups was a callable of your own, which a state doesn't "
                        "hold: set groups before loading"
                    )
            if pattern in groups:
                raise ValueError(f"groups must have each pattern once, got {pattern!r} twice")
            own_settings = now.get(pattern, {})
            groups[pattern] = {
                name: self._value(
                    f"groups[{pattern!r}]: {name}", check_in_group(type(self._optimizer), name),
                    own_settings.get(name), each,
                )
                for name, each in settings.items()
            }  # fmt: skip
        return groups


def _checked_list(where: str, data: Any) -> list[Any]:
    if not isinstance(data, (list, tuple)):
        raise ValueError(f"{where} must be a list, got {data!r}")
    return [*data]


def _checked_pair(pair: Any) -> tuple[Any, Mapping[str, Any]]:
    """Return pattern and settings of a group."""
    if len(_checked_list("a group", pair)) != 2 or not isinstance(pair[1], Mapping):
        raise ValueError(f"a group must be a pair of pattern and settings, got {pair!r}")
    pattern, settings = pair
    if isinstance(pattern, list):  # what JSON makes of a tuple
        pattern = tuple(pattern)
    is_tuple = isinstance(pattern, tuple) and all(isinstance(word, str) for word in pattern)
    if not (pattern is None or isinstance(pattern, str) or is_tuple):
        raise ValueError(f"a pattern must be a string or several, got {pattern!r}")
    return pattern, settings
