"""What a loss is given beside the scores, checked: targets and sample weights.

Compiled nets and twins share these checks. Imports nothing compiled, for the compiled modules
import it; class numbers are checked by those in C, with the messages that are here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["checked_classes", "checked_targets", "checked_weights"]

Array = NDArray[Any]

# loss → least and largest target. The losses that aren't here, squared_error, absolute_error and
# huber, take any number: infinity and NaN, too, which then are the loss.
RANGES = {
    "softmax": (0.0, 1.0),  # of soft labels, whose rows sum to 1; one-hot rows are some
    "logistic": (0.0, 1.0),  # each output has a probability of its own, mostly 0 or 1
    "poisson": (0.0, math.inf),  # counts or rates
}

# How far the sum of a row of soft labels may be from 1: what rounding to float32 leaves, and more
ROUNDING = 1e-5


def checked_targets(
    loss: str,
    t: ArrayLike,
    n: int,
    outputs: int,
    dtype: DTypeLike,
    rows: NDArray[np.intp] | None = None,
) -> Array:
    """Return targets as a C-contiguous array (n, outputs) of a dtype.

    Parameters
    ----------
    loss : str
        Name of the loss, which says what targets it takes.
    t : array (n, outputs), or (n,) where there is one output
        Real numbers. For softmax class numbers (n,), too, which become one-hot rows.
    n : int
        How many samples there are.
    outputs : int
        How many scores a sample has.
    dtype : dtype
        float32 or float64.
    rows : array of int, optional
        Row numbers from 0 to n-1. These rows of t are taken, and no others are looked at.

    Raises
    ------
    TypeError, ValueError
        Targets that are not real, of another shape, or out of the loss's range; the message names
        the sample.
    """
    given = np.asarray(t)
    name, wanted = _words(loss, n, outputs)
    if given.dtype.kind not in "fiub":
        kind = "integers or one-hot rows" if loss == "softmax" else "real numbers"
        raise TypeError(f"{name} must be {kind}, got dtype {given.dtype}")
    are_numbers = given.shape == (n,) and (loss == "softmax" or outputs == 1)
    if given.shape != (n, outputs) and not are_numbers:
        raise ValueError(f"{name} have shape {given.shape}, want {wanted}")
    taken = given if rows is None else given[rows]
    if are_numbers and loss == "softmax":
        return _one_hot(_class_numbers(taken, outputs, rows), outputs, dtype)
    taken = taken.reshape(-1, outputs)
    _check_range(loss, taken, rows)
    with np.errstate(all="ignore"):  # a float64 may be infinite in float32
        return np.ascontiguousarray(taken, dtype)


def checked_classes(t: ArrayLike, n: int, classes: int) -> NDArray[np.intp]:
    """Return the class numbers (n,) of labels for softmax; of soft ones the most probable.

    Raises
    ------
    TypeError, ValueError
        As for `checked_targets`.
    """
    given = np.asarray(t)
    if given.shape == (n,):
        return _class_numbers(given, classes, None)
    return np.asarray(checked_targets("softmax", given, n, classes, float).argmax(axis=1))


def checked_weights(
    weights: ArrayLike, n: int, rows: NDArray[np.intp] | None = None
) -> NDArray[np.float64]:
    """Return sample weights as an array (n,) of float64, of which at least one is above 0.

    Parameters
    ----------
    weights : array (n,)
        Real numbers, finite and at least 0.
    n : int
        How many samples there are.
    rows : array of int, optional
        Row numbers from 0 to n-1. The weights of these are taken, and no others are looked at.

    Raises
    ------
    TypeError, ValueError
        Weights that are not real, of another shape, negative or not finite; the message names the
        sample. Or their sum is 0 or infinite.
    """
    given = np.asarray(weights)
    if given.dtype.kind not in "fiub":
        raise TypeError(f"sample_weight must be real numbers, got dtype {given.dtype}")
    if given.shape != (n,):
        raise ValueError(f"sample_weight has shape {given.shape}, wants ({n},)")
    taken = np.ascontiguousarray(given if rows is None else given[rows], np.float64)
    if not (taken.min() >= 0 and taken.max() < math.inf):
        i = int(np.flatnonzero(~((taken >= 0) & (taken < math.inf)))[0])
        row = _row(i, rows)
        raise ValueError(
            f"sample_weight of sample {row} must be finite and at least 0, got {given[row]}"
        )
    with np.errstate(over="ignore"):
        total = taken.sum()
    if not 0 < total < math.inf:
        raise ValueError(f"sample_weight must have a finite sum above 0, got {total}")
    return taken


def _words(loss: str, n: int, outputs: int) -> tuple[str, str]:
    """Return what messages call the targets of a loss, and their shape."""
    if loss == "softmax":
        return "labels", f"({n},) or one-hot ({n}, {outputs})"
    return "targets", f"({n},) or ({n}, 1)" if outputs == 1 else f"({n}, {outputs})"


def _class_numbers(numbers: Array, classes: int, rows: NDArray[np.intp] | None) -> NDArray[np.intp]:
    if numbers.dtype.kind not in "iu":
        hint = "; numbers to predict want a loss such as 'squared_error'"
        raise TypeError(
            f"labels must be integers or one-hot rows, got dtype {numbers.dtype}"
            f"{hint if numbers.dtype.kind == 'f' else ''}"
        )
    if not (numbers.min() >= 0 and numbers.max() < classes):
        i = int(np.flatnonzero((numbers < 0) | (numbers >= classes))[0])
        raise ValueError(
            f"label {numbers[i]} of sample {_row(i, rows)} is outside 0 to {classes - 1}"
        )
    return numbers.astype(np.intp)


def _one_hot(numbers: NDArray[np.intp], classes: int, dtype: DTypeLike) -> Array:
    one_hot = np.zeros((len(numbers), classes), dtype)
    one_hot[np.arange(len(numbers)), numbers] = 1
    return one_hot


def _check_range(loss: str, taken: Array, rows: NDArray[np.intp] | None) -> None:
    if loss not in RANGES:
        return
    least, largest = RANGES[loss]
    if not (taken.min() >= least and taken.max() <= largest):  # with NaN neither is true
        i, j = np.argwhere(~((taken >= least) & (taken <= largest)))[0]
        if loss == "softmax":
            raise ValueError(_not_a_distribution(taken, int(i), rows))
        wanted = f"from {least:g} to {largest:g}" if largest < math.inf else f"at least {least:g}"
        raise ValueError(
            f"targets of loss {loss!r} must be {wanted}, got {taken[i, j]} for output {j} of "
            f"sample {_row(int(i), rows)}"
        )
    if loss == "softmax":
        are_off = np.abs(taken.sum(axis=1, dtype=np.float64) - 1) > ROUNDING
        if are_off.any():
            raise ValueError(_not_a_distribution(taken, int(np.argmax(are_off)), rows))


def _not_a_distribution(taken: Array, i: int, rows: NDArray[np.intp] | None) -> str:
    return (
        f"labels of sample {_row(i, rows)} must hold a single 1, else 0, or be probabilities that "
        f"sum to 1; got {taken[i]}"
    )


def _row(i: int, rows: NDArray[np.intp] | None) -> int:
    return i if rows is None else int(rows[i])
