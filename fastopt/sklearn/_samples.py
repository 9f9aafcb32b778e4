"""Samples, targets and weights as nets take them, a batch at a time or in stretches.

What a loss is belongs in _objective.py; what users may give, in _fitting.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from fastopt._net import Network

__all__ = ["Samples", "predict"]

Array = NDArray[Any]

_CHUNK = 1 << 22  # values of a sparse matrix that are made dense at a time


class Samples:
    """Samples, targets and weights of a net.

    Parameters
    ----------
    X : array or sparse matrix (N, D)
        An array is made C-contiguous and of the net's dtype, once: batches are then taken from it
        by row numbers, without a copy. A sparse matrix is made dense batch by batch.
    y : array (N, C)
        Targets; of softmax, one-hot rows.
    weights : array (N,), optional
        How much each sample counts.
    network : Network
        The net.
    """

    def __init__(self, X: Any, y: Array, weights: Array | None, network: Network) -> None:
        dtype = network.dtype
        self.n: int = y.shape[0]
        self.outputs: int = y.shape[1]
        self.is_sparse = scipy.sparse.issparse(X)
        self.x = X.tocsr().astype(dtype, copy=False) if self.is_sparse else _required(X, dtype)
        self.t = y.argmax(axis=1) if network.loss == "softmax" else _required(y, dtype)
        self.weights = weights

    def weight(self, rows: Array | None) -> float:
        """Return the sum of the weights of some rows, by default all; without weights, how many."""
        if self.weights is None:
            return float(self.n if rows is None else len(rows))
        return float((self.weights if rows is None else self.weights[rows]).sum())

    def batch(self, rows: Array | None) -> tuple[Array, Array, Array | None, Array | None]:
        """Return x, t, row numbers and weights, such that a net takes these rows."""
        if not self.is_sparse or rows is None:
            return self.x, self.t, rows, self.weights
        weights = None if self.weights is None else self.weights[rows]
        return _dense(self.x[rows]), self.t[rows], None, weights

    def stretches(self) -> Iterator[Array | None]:
        """Yield row numbers, all rows once, as many at a time as may be made dense; None: all."""
        if not self.is_sparse:
            yield None
            return
        for rows in _stretches(self.x):
            yield np.arange(self.n)[rows]


def predict(network: Network, params: dict[str, Array], X: Any) -> Array:
    """Return a net's scores of an array or a sparse matrix."""
    if not scipy.sparse.issparse(X):
        return network.predict(params, X)
    X = X.tocsr()
    scores = [network.predict(params, _dense(X[rows])) for rows in _stretches(X)]
    return np.concatenate(scores)


def _stretches(X: Any) -> Iterator[slice]:
    size = max(1, _CHUNK // X.shape[1])
    for first in range(0, X.shape[0], size):
        yield slice(first, first + size)


def _dense(X: Any) -> Array:
    return np.ascontiguousarray(X.toarray())


def _required(array: Any, dtype: Any) -> Array:
    return np.require(array, dtype, ["C", "A"])
