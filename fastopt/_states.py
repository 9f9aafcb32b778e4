"""Whether a state that is to be loaded is what it should be, as far as all states are alike.

What a state holds is known to whoever has it; files belong to `fastopt.saving`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastopt.typing import State

__all__ = ["FORMAT", "checked_arrays", "checked_fields", "checked_names"]

FORMAT = 1
"""Of the states' dicts. A newer one is refused: it may hold what this version would lose."""


def checked_fields(what: str, state: Any, cls: str, fields: Sequence[str]) -> Mapping[str, Any]:
    """Return a state if it is one of this format and class, with these fields and no others.

    Parameters
    ----------
    what : str
        What the state is to be loaded into, for messages.
    state : Any
        What somebody gave.
    cls : str
        Name of the class.
    fields : sequence of str
        Beside "format" and "class".

    Raises
    ------
    ValueError
        It is none; the message says what it lacks, or has.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"the state of {what} must be a dict, got {type(state).__name__}")
    if "format" in state and not _is(state["format"], FORMAT):
        raise ValueError(f"the state of {what} has format {state['format']!r}, not {FORMAT}")
    if "class" in state and not _is(state["class"], cls):
        raise ValueError(f"the state is one of {state['class']!r}, not of {what}")
    return checked_names(f"the state of {what}", state, ["format", "class", *fields])


def checked_arrays(where: str, arrays: Any, *, copies: bool) -> State:
    """Return a dict of float32 and float64 arrays by key, in native byte order and writeable.

    Parameters
    ----------
    where : str
        What it is called in messages.
    arrays : Any
        What somebody gave.
    copies : bool
        Whether the arrays are somebody's, who keeps them.

    Raises
    ------
    ValueError
        It is no dict, or holds something else.
    """
    if not isinstance(arrays, Mapping):
        raise ValueError(f"{where} must be a dict of arrays, got {type(arrays).__name__}")
    checked = {}
    for key, array in arrays.items():
        if type(array) is not np.ndarray or array.dtype.type not in (np.float32, np.float64):
            got = array.dtype if type(array) is np.ndarray else type(array).__name__
            raise ValueError(f"{where}[{key!r}] must be a float32 or float64 array, got {got}")
        is_ready = array.dtype.isnative and array.flags.writeable and not copies
        checked[key] = array if is_ready else array.astype(array.dtype.type, order="K")
    return checked


def checked_names(where: str, data: Any, names: Sequence[str]) -> Mapping[str, Any]:
    """Return a dict if it has these names and no others; a ValueError says what it lacks or has."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{where} must be a dict, got {type(data).__name__}")
    for name in names:
        if name not in data:
            raise ValueError(f"{where} must have {name!r}")
    for name in data:
        if name not in names:
            raise ValueError(f"{where} must not have {name!r}, which is not known")
    return data


def _is(value: Any, wanted: object) -> bool:
    """Tell whether they are equal, of one type; an array, for one, is equal to nothing."""
    return type(value) is type(wanted) and bool(value == wanted)
