"""What a net's parameters and gradients must be: the checks that compiled nets and twins share.

Imports nothing compiled, for the compiled modules import it; samples and row numbers are checked by
each for itself, targets and sample weights in `fastopt._targets`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def parameter_shapes(
    sizes: Sequence[int], use_batchnorm: bool = False
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters of a net, by key: W1, b1, and so on.

    With batch normalization gamma1 and beta1 follow b1, and so on for each hidden layer.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes), start=1):
        shapes[f"W{i}"] = (fan_in, fan_out)
        shapes[f"b{i}"] = (fan_out,)
        if use_batchnorm and i < len(sizes) - 1:
            shapes[f"gamma{i}"] = shapes[f"beta{i}"] = (fan_out,)
    return shapes


def running_shapes(sizes: Sequence[int], use_batchnorm: bool = False) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a net's running averages, by key: mean1, var1, and so on."""
    if not use_batchnorm:
        return {}
    hidden = enumerate(sizes[1:-1], start=1)
    return {f"{name}{i}": (size,) for i, size in hidden for name in ("mean", "var")}


def first_averages(shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype[Any]) -> dict[str, Array]:
    """Return what a net's running averages begin with: means of 0 and variances of 1."""
    return {key: np.full(shape, key.startswith("var"), dtype) for key, shape in shapes.items()}


def is_array(x: object) -> TypeGuard[Array]:
    """Tell whether an object is an array by its type: isinstance believes what `__class__` says."""
    return issubclass(type(x), np.ndarray)


def name_of(x: object) -> str:
    """Return what an error message calls an object: the dtype of an array, else its type."""
    return str(x.dtype) if is_array(x) else type(x).__name__


def checked_dout(dout: ArrayLike, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return a gradient as an array of the shape and dtype of what it is the gradient of."""
    dout = np.asarray(dout)
    if dout.dtype.kind not in "fiub":
        raise TypeError(f"dout must be real numbers, got dtype {dout.dtype}")
    if dout.shape != shape:
        raise ValueError(f"dout has shape {dout.shape}, wants {shape}")
    with np.errstate(all="ignore"):  # a float64 may be infinite in float32
        return dout.astype(dtype, copy=False)


def check_parameter(
    params: Mapping[str, Array], key: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> None:
    """Raise KeyError, TypeError or ValueError if a parameter is not what the net was built for."""
    if key not in params:
        raise KeyError(f"params has no array {key!r}")
    p = params[key]
    if not is_array(p) or p.dtype.type is not dtype.type:
        raise TypeError(f"parameter {key!r} must be a {dtype} array, got {name_of(p)}")
    if p.shape != shape:
        raise ValueError(f"parameter {key!r} has shape {p.shape}, the net wants {shape}")


def check_written(
    name: str,
    arrays: Mapping[str, Array],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: np.dtype[Any],
) -> None:
    """Raise KeyError, TypeError or ValueError if a dict does not hold arrays to write into."""
    for key, shape in shapes.items():
        if key not in arrays:
            raise KeyError(f"{name} has no array {key!r}")
        array = arrays[key]
        if not is_array(array) or array.dtype != dtype:
            raise TypeError(f"{name}[{key!r}] must be a {dtype} array, got {name_of(array)}")
        if array.shape != shape:
            raise ValueError(f"{name}[{key!r}] has shape {array.shape}, wants {shape}")
        if not array.flags.carray:
            raise ValueError(f"{name}[{key!r}] must be C-contiguous, aligned and writeable")


def check_outputs(
    out: Mapping[str, Array],
    running: Mapping[str, Array],
    params: Mapping[str, Array],
    x: Array,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: np.dtype[Any],
) -> None:
    """Raise KeyError, TypeError or ValueError if a net can't be trained with these arrays.

    Gradients and running averages are written: none may overlap another one, or what is read. The
    averages and parameters were checked for themselves.
    """
    if not issubclass(type(out), dict):
        raise TypeError(f"out must be a dict of arrays, got {type(out).__name__}")
    check_written("out", out, shapes, dtype)
    written = [(f"out[{key!r}]", out[key]) for key in shapes]
    written += [(f"running[{key!r}]", average) for key, average in running.items()]
    read = [("x", x), *((f"parameter {key!r}", params[key]) for key in shapes)]
    for i, (name, array) in enumerate(written):
        for other_name, other in written[i + 1 :] + read:
            if np.may_share_memory(array, other):
                raise ValueError(f"{name} and {other_name} overlap in memory")


def check_normalization(
    gamma: Array, beta: Array, running_mean: Array | None, running_var: Array | None
) -> None:
    """Raise TypeError or ValueError if arrays can't be those of a batch normalization."""
    if not is_array(gamma) or gamma.dtype.type not in (np.float32, np.float64):
        raise TypeError(f"gamma must be a float32 or float64 array, got {name_of(gamma)}")
    if gamma.ndim != 1 or not gamma.size:
        raise ValueError(f"gamma has shape {gamma.shape}, wants (D,)")
    dtype = gamma.dtype.newbyteorder("=")
    others = {"beta": beta, "running_mean": running_mean, "running_var": running_var}
    for name, array in others.items():
        if array is None and name != "beta":
            continue
        if not is_array(array) or array.dtype.type is not dtype.type:
            raise TypeError(f"{name} must be a {dtype} array as gamma is, got {name_of(array)}")
        if array.shape != gamma.shape:
            raise ValueError(f"{name} has shape {array.shape}, wants {gamma.shape} as gamma has")
        if name != "beta" and not (array.flags.carray and array.dtype.isnative):
            raise ValueError(
                f"{name} must be C-contiguous, aligned, writeable and in native byte order"
            )
    named = {"gamma": gamma, **{name: each for name, each in others.items() if each is not None}}
    for name, other in itertools.combinations(named, 2):
        if other != "beta" and np.may_share_memory(named[name], named[other]):
            raise ValueError(f"{name} and {other} overlap in memory: {other} is written")
