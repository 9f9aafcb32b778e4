"""What an optimizer's state is as plain data, and how it is put back: settings, counters, arrays.

How data get into a file is not known here, nor what a step does with them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from fastopt import schedules
from fastopt._checks import bound, count
from fastopt._states import FORMAT, checked_arrays, checked_fields
from fastopt.optimizers._declared import State, is_schedule

__all__ = ["checked_state", "state_of"]

_FIELDS = ("iter", "skipped", "calls", "scalars", "settings", "arrays")


def state_of(optimizer: Any) -> dict[str, Any]:
    """Return an optimizer's state: plain data, and copies of its arrays."""
    settings = {name: _plain(getattr(optimizer, name)) for name in optimizer._settings}
    settings["groups"] = [
        [None if callable(pattern) else pattern, {name: _plain(v) for name, v in own.items()}]
        for pattern, own in optimizer.groups.items()
    ]
    return {
        "format": FORMAT,
        "class": type(optimizer).__name__,
        "iter": optimizer.iter,
        "skipped": optimizer.skipped,
        "calls": optimizer._calls,
        "scalars": {name: getattr(optimizer, name) for name in optimizer._scalars},
        "settings": settings,
        "arrays": {
            name: {key: array.copy(order="K") for key, array in getattr(optimizer, name).items()}
            for name in _states(optimizer)
        },
    }


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
        scalars = _checked_names("scalars", fields["scalars"], [*optimizer._scalars])
        scalars = {each: bound(each, number) for each, number in scalars.items()}
        with_settings, schedules_left = _with_settings(optimizer, fields["settings"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"the state of {name}: {error}") from None
    arrays = _checked_arrays(optimizer, fields["arrays"], params, copies)
    if (counters["calls"] > 0) != bool(arrays["accumulated"]) and counters["calls"] == 0:
        raise ValueError(f"the state of {name} has sums of gradients, but no calls that made them")

    def load() -> None:
        optimizer.iter = counters["iter"]  # refused while a step is under way, so it comes first
        optimizer._calls = counters["calls"]
        optimizer.skipped = counters["skipped"]
        optimizer._put("norm", None)
        for each in optimizer._settings:
            setattr(optimizer, each, getattr(with_settings, each))
        for each, number in scalars.items():
            setattr(optimizer, each, number)
        for each, by_key in arrays.items():
            setattr(optimizer, each, by_key)
        for schedule, values in schedules_left:
            schedule.load_state_dict(values)

    return load


def _states(optimizer: Any) -> list[str]:
    return [*optimizer._states, "average", "accumulated"]


# --- settings ---


def _plain(value: Any) -> Any:
    """Return a setting as plain data: False for none, None for a callable of somebody's own."""
    if value is None:
        return False
    return schedules.as_plain(value) if is_schedule(value) else value


def _with_settings(optimizer: Any, data: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    """Return a copy of the optimizer with a state's settings, and schedules with their states.

    A schedule that moves by itself stays the object that it is where only its state is another: it
    is told of metrics by whoever made it.
    """
    data = _checked_names("settings", data, [*optimizer._settings])
    left: list[tuple[Any, Any]] = []
    new = copy.copy(optimizer)
    for name, each in data.items():
        now = getattr(optimizer, name)
        value = _groups(now, each, left) if name == "groups" else _setting(name, now, each, left)
        setattr(new, name, value)
    new._numbers()  # which finds settings that contradict one another
    return new, left


def _setting(where: str, now: Any, data: Any, left: list[tuple[Any, Any]]) -> Any:
    """Return a setting of plain data; `now` is what the optimizer has in its place."""
    if data is None:
        if is_schedule(now) and schedules.as_plain(now) is None:
            return now
        raise ValueError(
            f"{where} was a callable of your own, which a state doesn't hold: set it before loading"
        )
    if isinstance(data, Mapping):
        new = schedules.from_plain(data)
        if not isinstance(now, schedules.Schedule) or not new.is_like(now):
            return new
        pairs = zip(now.moving(), new.moving(), strict=True)
        left.extend((schedule, moved.state_dict()) for schedule, moved in pairs)
        return now
    # None of a setting that may be it; a switch takes False as it is
    return None if data is False and where.rpartition(" ")[2] in _MAY_BE_NONE else data


def _groups(now: Any, data: Any, left: list[tuple[Any, Any]]) -> dict[Any, dict[str, Any]]:
    """Return groups of plain data; `now` is what the optimizer has."""
    if not isinstance(data, Sequence) or isinstance(data, str):
        raise ValueError(f"groups must be a list of pairs, got {data!r}")
    own = [*now.items()]
    groups = {}
    for i, pair in enumerate(data):
        if not isinstance(pair, Sequence) or len(pair) != 2 or not isinstance(pair[1], Mapping):
            raise ValueError(f"groups must be a list of patterns with settings, got {pair!r}")
        pattern, settings = pair
        now_pattern, now_settings = own[i] if i < len(own) else (None, {})
        if pattern is None:
            if not callable(now_pattern):
                raise ValueError(
                    f"pattern {i} of groups was a callable of your own, which a state doesn't "
                    "hold: set groups before loading"
                )
            pattern = now_pattern
        elif isinstance(pattern, list):
            pattern = tuple(pattern)
        groups[pattern] = {
            name: _setting(f"groups[{pattern!r}]: {name}", now_settings.get(name), each, left)
            for name, each in settings.items()
        }
    return groups


def _checked_names(where: str, data: Any, names: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(data, Mapping) or [*map(str, data)] != [*data]:
        raise ValueError(f"{where} must be a dict by names, got {data!r}")
    for name in names:
        if name not in data:
            raise ValueError(f"{where} lack {name!r}")
    for name in data:
        if name not in names:
            raise ValueError(f"{where} have {name!r}, which is not known")
    return data
