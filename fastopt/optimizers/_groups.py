"""Groups of keys with settings of their own: which there are, and which one a key belongs to.

What a setting does is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from fastopt._checks import non_negative, switch
from fastopt.optimizers._declared import Declared, alias_of, is_schedule

__all__ = ["FROZEN", "Groups", "check_in_group"]

FROZEN = -1
"""In place of a row's number: the group's keys are left alone."""

_OWN_CHECKS: dict[str, Callable[[str, Any], Any]] = {"lr_scale": non_negative, "frozen": switch}


class Groups(Mapping[Any, Mapping[str, Any]]):
    """The settings of each group by its pattern; read-only, and checked when it is made.

    Parameters
    ----------
    cls : type
        The optimizer's class, which knows the settings.
    groups : mapping of patterns to mappings of settings by name
        A pattern is a string, equal to the key or of shell wildcards (`fnmatch.fnmatchcase`), a
        tuple of such strings, or a callable that is given the key. The first that fits wins.
    """

    def __init__(self, cls: type[Declared], groups: Mapping[Any, Mapping[str, Any]]) -> None:
        if not isinstance(groups, Mapping):
            raise TypeError(
                f"groups must be a mapping of patterns to settings, got {type(groups).__name__}"
            )
        self._groups = {
            _checked_pattern(pattern): _checked_settings(cls, pattern, settings)
            for pattern, settings in groups.items()
        }
        self._unmatched = tuple(word for pattern in self._groups for word in _words(pattern))
        self._places: list[tuple[Any, int]] = []  # patterns and their rows
        self.rows: list[tuple[Any, Mapping[str, Any]]] = []
        """Patterns and settings of the rows from 1 on; row 0 has none of its own."""
        for pattern, settings in self._groups.items():
            row = FROZEN
            if not settings.get("frozen"):
                own = {name: value for name, value in settings.items() if name != "frozen"}
                self.rows.append((pattern, own))
                row = len(self.rows)
            self._places.append((pattern, row))

    def row_of(self, key: Any) -> int:
        """Return the number of a key's row, 0 for a key in no group, or FROZEN."""
        for pattern, row in self._places:
            if pattern(key) if callable(pattern) else any(_fits(w, key) for w in _words(pattern)):
                return row
        return 0

    def check_matched(self, keys: Sequence[Any]) -> None:
        """Raise a ValueError for a string that matches no key, and matched none before."""
        for word in self._unmatched:
            if not any(_fits(word, key) for key in keys):
                raise ValueError(
                    f"groups: {word!r} matches no parameter; there are "
                    f"{', '.join(map(repr, keys)) or 'none'}"
                )
        self._unmatched = ()

    def __getitem__(self, pattern: Any) -> Mapping[str, Any]:
        return dict(self._groups[pattern])

    def __setitem__(self, pattern: Any, settings: Any) -> None:
        raise TypeError("groups are read-only: assign optimizer.groups, with all of them")

    def __iter__(self) -> Iterator[Any]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def __repr__(self) -> str:
        return repr(self._groups)


def _words(pattern: Any) -> tuple[str, ...]:
    """Return the strings of a pattern, of which a callable has none."""
    if isinstance(pattern, str):
        return (pattern,)
    return pattern if isinstance(pattern, tuple) else ()


def _fits(word: str, key: Any) -> bool:
    return isinstance(key, str) and (word == key or fnmatchcase(key, word))


def _checked_pattern(pattern: Any) -> Any:
    is_tuple = isinstance(pattern, tuple) and all(isinstance(word, str) for word in pattern)
    if not (isinstance(pattern, str) or is_tuple or callable(pattern)):
        raise TypeError(
            "groups: a pattern is a string, a tuple of strings or a callable that is given the "
            f"key, such as lambda key: key == {pattern!r}; got {pattern!r}"
        )
    return pattern


def check_in_group(cls: type[Declared], name: str) -> Callable[[str, Any], Any]:
    """Return the check of a setting in a group; a ValueError says if there is none of the name."""
    declared = cls._settings.get(name)
    if name not in _OWN_CHECKS and (declared is None or not declared.in_groups):
        raise ValueError(f"{name!r} can't be set in a group")
    return _OWN_CHECKS[name] if declared is None else declared.check


def _checked_settings(cls: type[Declared], pattern: Any, settings: Any) -> dict[str, Any]:
    if not isinstance(settings, Mapping):
        raise TypeError(
            f"groups: the settings of {pattern!r} must be a mapping of names to numbers, "
            f"got {settings!r}"
        )
    known = {name: each for name, each in cls._settings.items() if each.in_groups}
    checked = {}
    for name, value in settings.items():
        where = f"groups[{pattern!r}]: {name}"
        if name in _OWN_CHECKS:
            may_vary, check = name == "lr_scale", _OWN_CHECKS[name]
        elif name in known:
            may_vary, check = known[name].may_vary, known[name].check
        else:
            names = ", ".join([*known, *_OWN_CHECKS])
            hint = alias_of(cls, name)
            raise ValueError(
                f"{where} can't be set there{f' (here: {hint})' if hint else ''}; "
                f"these can: {names}"
            )
        checked[name] = value if may_vary and is_schedule(value) else check(where, value)
    if "lr" in checked and "lr_scale" in checked:
        raise ValueError(f"groups[{pattern!r}]: lr and lr_scale exclude each other: set one")
    return checked
