"""The layers in NumPy: the mathematics as it is read, and the oracle for the compiled kernels.

Each class keeps from `forward` what its `backward` needs. The functions at the end are what a net
needs besides its layers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastopt._contract import is_array, name_of

__all__ = [
    "Affine",
    "Relu",
    "Sigmoid",
    "SoftmaxWithLoss",
]

Array = NDArray[Any]


def _as_real(name: str, x: ArrayLike) -> Array:
    """Return `x` as an array, float32 or float64; other real dtypes become float64."""
    x = np.asarray(x)
    if x.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be real numbers, got dtype {x.dtype}")
    dtype = x.dtype.type if x.dtype.type in (np.float32, np.float64) else np.float64
    return x.astype(dtype, copy=False)


def _as_dtype(name: str, x: ArrayLike, dtype: np.dtype[Any]) -> Array:
    return _as_real(name, x).astype(dtype, copy=False)


def _saved(value: Any, layer: object) -> Any:
    if value is None:
        raise RuntimeError(f"{type(layer).__name__}.backward needs a forward before it")
    return value


def _require_shape(name: str, got: tuple[int, ...], want: tuple[int, ...]) -> None:
    if got != want:
        raise ValueError(f"{name} has shape {got}, wants {want}")


class Affine:
    """Twin of `fastopt.Affine`.

    out = x·W + b; dx = dout·Wᵀ, dW = xᵀ·dout, db = Σ dout over the samples.
    """

    def __init__(self, W: Array, b: Array) -> None:
        self.W, self.b = W, b
        self.dW: Array | None = None
        self.db: Array | None = None
        self._x: Array | None = None

    def forward(self, x: ArrayLike) -> Array:
        """Return x·W + b, shape (N, M), for x of shape (N, …), flattened to (N, D)."""
        W, b = _weights(self.W, self.b)
        x = _as_dtype("x", x, W.dtype)
        if x.ndim == 0 or len(x) == 0:
            raise ValueError(f"x of shape {x.shape} holds no samples")
        if x.size != len(x) * len(W):
            raise ValueError(f"x has shape {x.shape}, wants (N, {len(W)})")
        self._x = x
        return x.reshape(len(x), len(W)) @ W + b

    def backward(self, dout: ArrayLike, out: tuple[Array, Array] | None = None) -> Array:
        """Return dx in x's shape and set `dW` and `db`, written into the arrays `out` if given."""
        x = _saved(self._x, self)
        W, b = _weights(self.W, self.b)
        dout = _as_dtype("dout", dout, W.dtype)
        _require_shape("dout", dout.shape, (len(x), len(b)))
        _require_shape("W", W.shape, (x.size // len(x), len(b)))  # it may have been replaced
        if out is not None:
            if len(out) != 2 or any(array is None for array in out):
                raise TypeError("out must hold two arrays, for dW and db")
            _check_outputs(out, (W, b), (dout, x))
        self.dW, self.db = out or (np.empty(W.shape, W.dtype.type), np.empty(b.shape, W.dtype.type))
        np.matmul(x.reshape(len(x), -1).T, dout, out=self.dW)
        np.sum(dout, axis=0, out=self.db)
        return (dout @ W.T).reshape(x.shape)


def _check_outputs(
    out: tuple[Array, Array], likes: tuple[Array, Array], inputs: tuple[Array, ...]
) -> None:
    for name, array, like in zip(("dW", "db"), out, likes, strict=True):
        dtype = like.dtype.newbyteorder("=")
        if not is_array(array) or array.dtype != dtype:
            raise TypeError(f"{name} must be a {dtype} array, got {name_of(array)}")
        _require_shape(name, array.shape, like.shape)
        if not array.flags.carray:
            raise ValueError(f"{name} must be C-contiguous, aligned and writeable")
        if any(np.may_share_memory(array, other) for other in (*likes, *inputs)):
            raise ValueError(f"{name} overlaps an input in memory")
    if np.may_share_memory(*out):
        raise ValueError("dW and db overlap in memory")


def _weights(W: Array, b: Array) -> tuple[Array, Array]:
    for name, array, ndim in (("W", W, 2), ("b", b, 1)):
        if not is_array(array) or array.dtype.type not in (np.float32, np.float64):
            raise TypeError(f"{name} must be a float32 or float64 array")
        if array.ndim != ndim:
            raise ValueError(f"{name} has shape {array.shape}, wants {ndim} dimensions")
    if W.dtype.type is not b.dtype.type:
        raise TypeError(f"W is {W.dtype} but b is {b.dtype}")
    if not W.size:
        raise ValueError(f"W has shape {W.shape}, wants at least one row and one column")
    _require_shape("b", b.shape, W.shape[1:])
    return W, b


class Relu:
    """Twin of `fastopt.Relu`.

    out = x where x > 0, else 0 (NaN stays NaN); dx = dout where x > 0, else 0.
    """

    def __init__(self) -> None:
        self._out: Array | None = None

    def forward(self, x: ArrayLike) -> Array:
        """Return max(x, 0), elementwise, in x's shape."""
        x = _as_real("x", x)
        self._out = np.where(x <= 0, x.dtype.type(0), x)
        return self._out.copy()

    def backward(self, dout: ArrayLike) -> Array:
        """Return the gradient with respect to x."""
        out = _saved(self._out, self)
        dout = _as_dtype("dout", dout, out.dtype)
        _require_shape("dout", dout.shape, out.shape)
        return np.where(out <= 0, dout.dtype.type(0), dout)


class Sigmoid:
    """Twin of `fastopt.Sigmoid`: out = 1 / (1 + exp(-x)); dx = dout·(1 - out)·out."""

    def __init__(self) -> None:
        self._out: Array | None = None

    def forward(self, x: ArrayLike) -> Array:
        """Return the logistic function of x, elementwise, in x's shape."""
        x = _as_real("x", x)
        one = x.dtype.type(1)
        with np.errstate(over="ignore"):  # exp of a large -x is infinite and out rightly 0
            out = np.asarray(one / (one + np.exp(-x)))
        self._out = out.copy()
        return out

    def backward(self, dout: ArrayLike) -> Array:
        """Return the gradient with respect to x."""
        out = _saved(self._out, self)
        dout = _as_dtype("dout", dout, out.dtype)
        _require_shape("dout", dout.shape, out.shape)
        return np.asarray(dout * (out.dtype.type(1) - out) * out)


class SoftmaxWithLoss:
    """Twin of `fastopt.SoftmaxWithLoss`.

    y = softmax(x), loss = Σ (log Σ exp(x) - x[t]) / N, by log-sum-exp; dx = (y - t) / N.
    """

    def __init__(self) -> None:
        self._y: Array | None = None
        self._t: NDArray[np.intp] | None = None

    @property
    def y(self) -> Array | None:
        """The probabilities of the last `forward`, (N, C)."""
        return self._y

    def forward(self, x: ArrayLike, t: ArrayLike) -> float:
        """Return the mean cross-entropy of scores x (N, C) and labels t, (N,) or one-hot (N, C)."""
        x = _as_real("x", x)
        if x.ndim != 2 or x.size == 0:
            raise ValueError(f"x of shape {x.shape} holds no samples; wants (N, C)")
        t = class_indices(t, x.shape)
        largest, chosen = x.max(axis=1), x[np.arange(len(x)), t]
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity come unannounced
            e = np.exp(x - largest[:, np.newaxis])
            total = e.sum(axis=1)
            losses = largest.astype(np.float64) - chosen + np.log(total.astype(np.float64))
            self._y, self._t = e / total[:, np.newaxis], t
            return float(np.sum(losses) / len(losses))

    def backward(self, dout: float = 1.0) -> Array:
        """Return dout·(y - t)/N."""
        y, t = _saved(self._y, self), _saved(self._t, self)
        dx = y.copy()
        dx[np.arange(len(y)), t] -= 1
        dx *= y.dtype.type(float(dout) / len(y))
        return np.asarray(dx)


def class_indices(t: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Return labels, integers (N,) or one-hot (N, C), as checked class indices (N,)."""
    t = np.asarray(t)
    n, classes = shape
    if t.dtype.kind not in "fiub":
        raise TypeError(f"labels must be integers or one-hot rows, got dtype {t.dtype}")
    if t.shape == (n, classes):
        if not np.all((t == 0) | (t == 1)) or not np.all(t.sum(axis=1) == 1):
            raise ValueError("one-hot labels must hold a single 1 in each row, else 0")
        return np.asarray(t.argmax(axis=1))
    if t.shape != (n,):
        raise ValueError(f"labels have shape {t.shape}, want {(n,)} or one-hot {(n, classes)}")
    if t.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers or one-hot rows, got dtype {t.dtype}")
    if t.min() < 0 or t.max() >= classes:
        raise ValueError(f"labels must lie in 0..{classes - 1}")
    return t.astype(np.intp)


def count_correct(scores: Array, t: ArrayLike) -> int:
    """Return how many rows of the scores (N, C) have their largest entry at the label."""
    return int(np.sum(scores.argmax(axis=1) == class_indices(t, scores.shape)))


def sum_of_squares(W: Array) -> float:
    """Return ΣW², summed in float64."""
    return float(np.sum(np.square(W, dtype=np.float64)))


def add_weight_decay(dW: Array, W: Array, weight_decay_lambda: float) -> None:
    """dW += λ·W, in place."""
    dW += W.dtype.type(weight_decay_lambda) * W
