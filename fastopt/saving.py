# What is saved of parameters, optimizers, nets, trainers and generators, and how it is written
# back. The file itself belongs to _archive.py.
"""Saving and loading: parameters, optimizer, net, trainer, random numbers, in one file."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

from fastopt import _archive

__all__ = ["checked", "checked_params", "has_state", "load", "naming", "save", "state_of"]

Commit = Callable[[], None]

_OBJECTS = ("optimizer", "net", "trainer")
_SECTIONS = ("params", *_OBJECTS, "rng")


def save(
    path: str | os.PathLike[str],
    *,
    params: Mapping[Any, Any] | None = None,
    optimizer: Any = None,
    net: Any = None,
    trainer: Any = None,
    rng: Generator | None = None,
    **values: Any,
) -> None:
    """Save parameters, the state of what trains them, and values of your own in one file.

    The file is written whole or not at all: to ``NAME.tmp`` in the same folder, to the disk, and
    then renamed. Whenever the process is killed or the power goes, the old file or the new one is
    there. It is an ``.npz`` without pickle, which `numpy.load` opens, too; the name is taken as it
    is, with whatever suffix.

    Parameters
    ----------
    path : str or os.PathLike
        Where to. A file that is there is replaced and keeps its permissions; a symbolic link is
        followed.
    params : mapping, optional
        Arrays, floats and NumPy scalars by key: strings, ints or tuples of these.
    optimizer, trainer : object, optional
        Anything with methods ``state_dict()``, which returns plain data and arrays, and
        ``load_state_dict(state)``.
    net : object, optional
        The same, or anything with a mapping ``params``, which is then all that is saved. Of a net
        of fastopt it is all that the net is: what it was made of, parameters, running averages of
        batch normalization, seed and counter of dropout.
    rng : numpy.random.Generator, optional
        Its state is saved, whatever its bit generator.
    values : by any other name, optional
        What JSON holds, NaN and infinities included, and tuples, arrays and NumPy scalars; arrays
        are of bools, integers, real or complex numbers.

    Raises
    ------
    TypeError
        An argument is not what it must be, or something in it can't be saved; the message says
        where it is. Nothing has been written.
    ValueError
        A dict or list contains itself or is nested too deep.
    OSError
        The folder isn't there or can't be written to, or the disk is full; a file that was there
        is as it was.
    RuntimeError
        The optimizer is in the middle of an update in another thread, or the parameters hold their
        averages.

    Notes
    -----
    Nobody may change the arrays meanwhile, such as an update in another thread: the file would hold
    some of them as they were before it, and some as they are after.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import fastopt
    >>> path = Path(tempfile.mkdtemp()) / "checkpoint.npz"
    >>> params, rng = {"w": np.arange(3.0)}, np.random.default_rng(0)
    >>> fastopt.save(path, params=params, rng=rng, epoch=7)
    >>> drawn = rng.standard_normal(2)
    >>> params["w"][:] = 0
    >>> fastopt.load(path, params=params, rng=rng)
    {'epoch': 7}
    >>> params
    {'w': array([0., 1., 2.])}
    >>> bool((rng.standard_normal(2) == drawn).all())
    True
    """
    _check_path(path)
    given = _given(params, optimizer, net, trainer, rng)
    tree = {name: state_of(name, target) for name, target in given.items()}
    _archive.write(path, {**tree, **values})


def load(
    path: str | os.PathLike[str],
    *,
    params: MutableMapping[Any, Any] | None = None,
    optimizer: Any = None,
    net: Any = None,
    trainer: Any = None,
    rng: Generator | None = None,
) -> dict[str, Any]:
    """Load what `save` wrote: into what is given, and the rest is returned.

    All is checked before anything is written: after an error, whatever was given is as it was. No
    code of the file is ever run, and a file that lies about its sizes is refused before memory is
    taken for it.

    Parameters
    ----------
    path : str or os.PathLike
        The file.
    params : mutable mapping, optional
        With the keys of the file. Arrays are written in place; shape and dtype must be those that
        were saved. Floats and NumPy scalars are replaced.
    optimizer, net, trainer : object, optional
        As in `save`; their ``load_state_dict`` gets what their ``state_dict`` returned.
    rng : numpy.random.Generator, optional
        With a bit generator of the class that was saved.

    Returns
    -------
    dict
        The values, and by its name each part of the file that nothing was given for: ``params`` as
        a dict of arrays, the state of ``optimizer``, ``net``, ``trainer`` and ``rng`` as dicts.

    Raises
    ------
    TypeError
        An argument is not what it must be.
    KeyError
        The file lacks what it shall be loaded into, or a key of the parameters.
    ValueError
        The file is damaged, or none that `save` wrote, or what is in it doesn't fit what is given:
        another shape, dtype, class or bit generator, or parameters that are read-only or lack a key
        of the file. The message names the file.
    OSError
        It can't be read; FileNotFoundError if it isn't there.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import fastopt
    >>> path = Path(tempfile.mkdtemp()) / "checkpoint.npz"
    >>> fastopt.save(path, params={"w": np.arange(3.0), ("b", 0): 0.5}, losses=[0.7, 0.6])
    >>> fastopt.load(path)
    {'params': {'w': array([0., 1., 2.]), ('b', 0): 0.5}, 'losses': [0.7, 0.6]}
    """
    _check_path(path)
    given = _given(params, optimizer, net, trainer, rng)
    tree = _archive.read(path)
    with naming(path):
        checked(given, tree)()
    return {name: value for name, value in tree.items() if name not in given}


def checked_params(params: Mapping[Any, Any], saved: Any, where: str) -> Commit:
    """Check that saved parameters fit; return what writes them, which does it whole or not at all.

    `where` is what messages call them, such as ``params``. KeyError: one is missing in the file;
    ValueError: it doesn't fit, or there are more of them; TypeError: `params` can't be written to.
    """
    if type(saved) is not dict:
        raise ValueError(f"{where} must be a dict in the file, got {type(saved).__name__}")
    arrays, numbers = [], {}
    for key, value in params.items():
        place = f"{where}[{key!r}]"
        if key not in saved:
            raise KeyError(f"the file has no {place}")
        _check_param(value, place)
        _check_fits(value, saved[key], place)
        if isinstance(value, np.ndarray):
            arrays.append((value, saved[key]))
        else:
            numbers[key] = saved[key]
    for key in saved:
        if key not in params:
            raise ValueError(
                f"the file has {where}[{key!r}], too, for which there is no place; "
                f'load(path)["{where.partition(".")[0]}"] returns all'
            )
    if numbers and not hasattr(params, "__setitem__"):
        raise TypeError(f"{where} must be mutable to replace the number {next(iter(numbers))!r}")

    def commit() -> None:
        _replace(params, numbers)  # which a mapping may refuse; what follows can't fail
        for array, new in arrays:
            np.copyto(array, new)

    return commit


def _replace(params: Any, numbers: dict[Any, Any]) -> None:
    old = {}
    try:
        for key, number in numbers.items():
            old[key] = params[key]
            params[key] = number
    except BaseException:
        for key, number in old.items():
            with suppress(Exception):  # the one that was refused is refused again
                params[key] = number
        raise


def _check_param(value: Any, place: str) -> None:
    """Refuse what is no parameter."""
    kind = type(value)
    if kind not in (np.ndarray, np.memmap, float) and not isinstance(value, np.number | np.bool_):
        raise TypeError(
            f"{place} must be an array, a float or a NumPy scalar, got {kind.__qualname__}"
        )


def _check_fits(value: Any, saved: Any, place: str) -> None:
    """Refuse a saved parameter of another kind, dtype or shape, or one that can't be written."""
    if not isinstance(value, np.ndarray):
        if type(saved) is not type(value):
            raise ValueError(f"{place} is {_described(value)}, in the file {_described(saved)}")
        return
    if type(saved) is not np.ndarray:
        raise ValueError(f"{place} is {_described(value)}, in the file {_described(saved)}")
    if saved.dtype.newbyteorder("=") != value.dtype.newbyteorder("="):
        raise ValueError(f"{place} has dtype {value.dtype}, the file has {saved.dtype}")
    if saved.shape != value.shape:
        raise ValueError(f"{place} has shape {value.shape}, the file has {saved.shape}")
    if not value.flags.writeable:
        raise ValueError(f"{place} is read-only")


def _described(value: Any) -> str:
    return f"of type {type(value).__name__}"


# ---- what is given ----


def _given(*targets: Any) -> dict[str, Any]:
    """Return by name what is not None, each of a type that can be saved and loaded."""
    given = {
        name: target for name, target in zip(_SECTIONS, targets, strict=True) if target is not None
    }
    for name, target in given.items():
        _check_target(name, target)
    return given


def _check_target(name: str, target: Any) -> None:
    if isinstance(target, type):
        raise TypeError(f"{name} must be an instance, got the class {target.__qualname__}")
    got = f"got {type(target).__qualname__}"
    if name == "params" and not isinstance(target, Mapping):
        raise TypeError(f"params must be a mapping of keys to arrays, {got}")
    if name == "rng" and not isinstance(target, Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, {got}")
    if name in _OBJECTS and not (has_state(target) or (name == "net" and _has_params(target))):
        others = ", or a mapping params" if name == "net" else ""
        raise TypeError(f"{name} must have state_dict() and load_state_dict(state){others}; {got}")


def has_state(target: Any) -> bool:
    """Tell whether an object has what saves it and loads it."""
    methods = ("state_dict", "load_state_dict")
    return all(callable(getattr(target, method, None)) for method in methods)


def _has_params(net: Any) -> bool:
    return isinstance(getattr(net, "params", None), Mapping)


def _check_path(path: Any) -> None:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a str or os.PathLike, got {type(path).__qualname__}")


# ---- saving ----


def state_of(name: str, target: Any) -> Any:
    """Return what is saved of it."""
    if name == "params":
        return _params_of(target, name)
    if name == "rng":
        return target.bit_generator.state
    if has_state(target):
        return target.state_dict()
    return {"params": _params_of(target.params, "net.params")}


def _params_of(params: Mapping[Any, Any], where: str) -> dict[Any, Any]:
    for key, value in params.items():
        _check_param(value, f"{where}[{key!r}]")
    return dict(params)


# ---- loading ----


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put the file's name in front of what is said of its content."""
    file = repr(os.fspath(path))
    try:
        yield
    except KeyError as error:
        raise KeyError(f"{file}: {error.args[0] if error.args else ''}") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _check_sections(tree: Any, wanted: Iterable[str]) -> None:
    if type(tree) is not dict or not all(type(name) is str for name in tree):
        raise ValueError("it is no file of fastopt.save")
    for name in wanted:
        if name not in tree:
            raise KeyError(f"the file has no {name}; it has {', '.join(tree) or 'nothing'}")


class _Commit(NamedTuple):
    """What writes a part of the file into what was given, and what takes it back."""

    write: Commit
    take_back: Commit | None = None


def _checked(given: dict[str, Any], tree: dict[str, Any]) -> list[_Commit]:
    """Check all; return what writes it, in the order in which it can fail."""
    net: Any = given.get("net")
    params = given.get("params", net.params if _has_params(net) else None)
    safe: list[_Commit] = []
    unsafe: list[_Commit] = []
    for name, target in given.items():
        saved = tree[name]
        if name == "params":
            safe.insert(0, _Commit(checked_params(target, saved, name)))
        elif name == "rng":
            safe.append(_Commit(_checked_rng(target, saved)))
        elif not has_state(target):
            safe.append(_Commit(_checked_plain_net(target, saved)))
        elif _checks_itself(type(target)):
            with_params = {"params": params} if name == "optimizer" else {}
            safe.append(_Commit(target._checked_state(saved, **with_params)))
        else:
            unsafe.append(_unchecked(target, saved, is_alone=len(given) == 1))
    return [*unsafe, *safe]


def checked(given: Mapping[str, Any], tree: Mapping[str, Any]) -> Commit:
    """Check the states of what is given by name, and return what loads all of them, or none."""
    _check_sections(tree, given)
    return functools.partial(_commit, _checked(dict(given), dict(tree)))


def _checks_itself(cls: type) -> bool:
    """Tell whether the class can check a state first, for the `load_state_dict` that it has.

    One that overrides `load_state_dict` alone wants to be called.
    """
    of = [
        next((i for i, base in enumerate(cls.__mro__) if method in vars(base)), len(cls.__mro__))
        for method in ("_checked_state", "load_state_dict")
    ]
    return hasattr(cls, "_checked_state") and of[0] <= of[1]


def _unchecked(target: Any, saved: Any, is_alone: bool) -> _Commit:
    """Return what loads the state of somebody else's object, and what takes it back."""
    load_state = functools.partial(target.load_state_dict, saved)
    if is_alone:
        return _Commit(load_state)
    before = copy.deepcopy(target.state_dict())
    return _Commit(load_state, functools.partial(target.load_state_dict, before))


def _checked_plain_net(net: Any, saved: Any) -> Commit:
    if type(saved) is not dict or [*saved] != ["params"]:
        raise ValueError("net has params alone, and the file has the state of another one")
    return checked_params(net.params, saved["params"], "net.params")


def _commit(commits: list[_Commit]) -> None:
    """Write all, or nothing."""
    done: list[_Commit] = []
    try:
        for each in commits:
            done.append(each)
            each.write()
    except BaseException:
        for each in reversed(done):
            if each.take_back is not None:
                with suppress(Exception):  # the others are taken back all the same
                    each.take_back()
        raise


# ---- random numbers ----

# Where a generator's C code reads without looking; NumPy sets them without a check
_BOUNDS = {"pos": 624, "buffer_pos": 4, "has_uint32": 1, "uinteger": 2**32 - 1}


def _checked_rng(rng: Generator, saved: Any) -> Commit:
    """Check a state on a bit generator of its own; return what sets it."""
    bit_generator = rng.bit_generator
    name = type(bit_generator).__name__
    found = saved.get("bit_generator") if type(saved) is dict else None
    if found != name:
        raise ValueError(f"rng has a {name}, the file has the state of {_brief(found)}")
    trial = type(bit_generator)(0)
    state = _built_as(trial.state, saved, "rng")
    try:
        trial.state = state
    except Exception as error:  # whatever a bit generator raises
        raise ValueError(f"rng can't have the state of the file: {error}") from error
    if not _equal(trial.state, state):
        raise ValueError(f"rng can't have the state of the file: it is none of a {name}")

    def commit() -> None:
        bit_generator.state = state

    return commit


def _brief(value: Any) -> str:
    return repr(value) if isinstance(value, str) and len(value) <= 40 else "something else"


def _built_as(model: Any, saved: Any, place: str, key: str = "") -> Any:
    """Return a saved state with its arrays in this machine's byte order, if it is built as one.

    That is of the same keys, types, dtypes and shapes, with numbers in their bounds.
    """
    if type(saved) is not type(model):
        raise ValueError(f"{place} is {_described(model)}, in the file {_described(saved)}")
    if isinstance(model, dict):
        if model.keys() != saved.keys():
            raise ValueError(f"{place} must have the keys {', '.join(model)}")
        return {key: _built_as(model[key], saved[key], f"{place}[{key!r}]", key) for key in model}
    if isinstance(model, np.ndarray):
        _check_fits(model, saved, place)
        return saved.astype(model.dtype)
    if key in _BOUNDS and not 0 <= saved <= _BOUNDS[key]:
        raise ValueError(f"{place} must be from 0 to {_BOUNDS[key]} in the file")
    return saved


def _equal(a: Any, b: Any) -> bool:
    """Tell whether two states that are built alike are equal."""
    if isinstance(a, dict):
        return all(_equal(a[key], b[key]) for key in a)
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else bool(a == b)
