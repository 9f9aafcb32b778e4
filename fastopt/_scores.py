"""What a net's scores say: classes, how many are right, how much of the variance is explained.

Compiled nets and twins share it; what scores predict, probabilities or means, each computes itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastopt._targets import checked_classes, checked_targets
from fastopt.typing import Array

__all__ = [
    "CLASSIFIERS",
    "classes",
    "r_squared",
    "require_classes",
    "right_rows",
]

CLASSIFIERS = ("softmax", "logistic")
"""The losses whose targets are classes: one of many, or for each output whether it is one."""


def require_classes(loss: str, what: str, instead: str = "") -> None:
    """Raise TypeError, naming the loss, if it is one of regression."""
    if loss not in CLASSIFIERS:
        wanted = " or ".join(map(repr, CLASSIFIERS))
        raise TypeError(f"{what} needs a net with loss {wanted}, this one has {loss!r}{instead}")


def classes(loss: str, scores: Array) -> NDArray[np.intp]:
    """Return the class of each row, (N,), for softmax; 0 or 1 for each score, (N, C), else."""
    if loss == "softmax":
        return np.asarray(scores.argmax(axis=1))
    return (scores > 0).astype(np.intp)


def right_rows(loss: str, scores: Array, t: ArrayLike) -> int:
    """Return in how many rows the scores, (N, C), say what the targets say.

    For softmax the largest score must be the label's. Else all must be on the side of their
    targets: above 0 where these are above a half, or not.
    """
    n, outputs = scores.shape
    if loss == "softmax":
        return int(np.count_nonzero(scores.argmax(axis=1) == checked_classes(t, n, outputs)))
    targets = checked_targets(loss, t, n, outputs, float)
    return int(np.count_nonzero(((scores > 0) == (targets > 0.5)).all(axis=1)))


def r_squared(predicted: Array, targets: NDArray[np.float64]) -> float:
    """Return R² = 1 - Σ(t - y)²/Σ(t - mean t)², the mean over outputs; NaN for a single sample.

    An output whose targets are all the same has 1 if they are met exactly, else 0.
    """
    if len(targets) < 2:
        return np.nan
    with np.errstate(all="ignore"):
        residual: Any = np.square(targets - predicted).sum(axis=0)
        total = np.square(targets - targets.mean(axis=0)).sum(axis=0)
        explained = np.where(total == 0, residual == 0, 1 - residual / total)
    return float(explained.mean())
