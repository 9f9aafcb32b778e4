"""The layers in NumPy: the mathematics as it is read, and the oracle for the compiled kernels.

Each class keeps from `forward` what its `backward` needs. Losses are in `fastopt.reference.losses`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastopt._checks import fraction
from fastopt._contract import check_normalization, checked_dout, is_array, name_of
from fastopt._targets import checked_targets
from fastopt.reference.losses import as_real, loss_and_slopes, sigmoid, softmax

__all__ = [
    "Affine",
    "BatchNormalization",
    "Dropout",
    "Gelu",
    "LeakyRelu",
    "Relu",
    "Sigmoid",
    "Silu",
    "SoftmaxWithLoss",
    "Tanh",
]

Array = NDArray[Any]


def _as_dtype(name: str, x: ArrayLike, dtype: np.dtype[Any]) -> Array:
    return as_real(name, x).astype(dtype, copy=False)


def _saved(value: Any, layer: object, needed: str = "forward") -> Any:
    if value is None:
        raise RuntimeError(f"{type(layer).__name__}.backward needs a {needed} before it")
    return value


def _require_shape(name: str, got: tuple[int, ...], want: tuple[int, ...]) -> None:
    if got != want:
        raise ValueError(f"{name} has shape {got}, wants {want}")


class Affine:
    """Twin of `fastopt.Affine`.

    out = x·W + b; dx = dout·Wᵀ, dW = xᵀ·dout, db = Σ dout over the samples.
    """

    _params = ("W", "b")

    def __init__(self, W: Array, b: Array) -> None:
        self.W, self.b = W, b
        self.dW: Array | None = None
        self.db: Array | None = None
        self._x: Array | None = None

    def forward(self, x: ArrayLike) -> Array:
        """Return x·W + b, shape (N, M), for x of shape (N, …), flattened to (N, D)."""
        W, b = _weights(self.W, self.b)
        x = _as_dtype("x", x, W.dtype)
        rows = as_rows(x, len(W))
        self._x = x
        return rows @ W + b

    def backward(self, dout: ArrayLike, out: tuple[Array, Array] | None = None) -> Array:
        """Return dx in x's shape and set `dW` and `db`, written into the arrays `out` if given."""
        x = _saved(self._x, self)
        W, b = _weights(self.W, self.b)
        dout = checked_dout(dout, (len(x), len(b)), np.dtype(W.dtype.type))
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


class _Activation:
    """A function of each element; a subclass has it, and dx for dout, x and out."""

    _params = ()

    def __init__(self) -> None:
        self._kept: tuple[Array, Array] | None = None

    def forward(self, x: ArrayLike) -> Array:
        """Return the function of x, elementwise, in x's shape."""
        x = as_real("x", x)
        with np.errstate(all="ignore"):  # exp of a large number is infinite, and out rightly 0
            out = np.asarray(self._f(x), x.dtype)
        self._kept = x.copy(), out.copy()
        return out

    def backward(self, dout: ArrayLike) -> Array:
        """Return the gradient with respect to x."""
        x, out = _saved(self._kept, self)
        dout = checked_dout(dout, out.shape, out.dtype)
        with np.errstate(all="ignore"):
            return np.asarray(self._df(dout, x, out), out.dtype)

    def _f(self, x: Array) -> Array:
        raise NotImplementedError

    def _df(self, dout: Array, x: Array, out: Array) -> Array:
        raise NotImplementedError


class Relu(_Activation):
    """Twin of `fastopt.Relu`.

    out = x where x > 0, else 0 (NaN stays NaN); dx = dout where x > 0, else 0.
    """

    def _f(self, x: Array) -> Array:
        return np.where(x <= 0, x.dtype.type(0), x)

    def _df(self, dout: Array, x: Array, out: Array) -> Array:
        return np.where(out <= 0, dout.dtype.type(0), dout)


class LeakyRelu(_Activation):
    """Twin of `fastopt.LeakyRelu`.

    out = x where x > 0, else 0.01·x (NaN stays NaN); dx = dout where x > 0, else 0.01·dout.
    """

    def _f(self, x: Array) -> Array:
        return np.where(x <= 0, x.dtype.type(0.01) * x, x)

    def _df(self, dout: Array, x: Array, out: Array) -> Array:
        return np.where(out <= 0, dout.dtype.type(0.01) * dout, dout)


class Sigmoid(_Activation):
    """Twin of `fastopt.Sigmoid`: out = 1 / (1 + exp(-x)); dx = dout·(1 - out)·out."""

    def _f(self, x: Array) -> Array:
        return sigmoid(x)

    def _df(self, dout: Array, x: Array, out: Array) -> Array:
        return np.asarray(dout * (out.dtype.type(1) - out) * out)


class Tanh(_Activation):
    """Twin of `fastopt.Tanh`: out = tanh(x); dx = dout·(1 - out²)."""

    def _f(self, x: Array) -> Array:
        return np.tanh(x)

    def _df(self, dout: Array, x: Array, out: Array) -> Array:
        return np.asarray(dout * (out.dtype.type(1) - out * out))


class Gelu(_Activation):
    """Twin of `fastopt.Gelu`.

    out = x·Φ(x), Φ(x) = erfc(-x/√2) / 2; dx = dout·(Φ(x) + x·φ(x)), φ(x) = exp(-x²/2) / √(2π).
    """

    def _f(self, x: Array) -> Array:
        return x * _normal_cdf(x)

    def _df(self, dout: Array, x: Array, out: Array) -> Array:
        x = x.astype(np.float64)
        density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
        return dout * (_normal_cdf(x) + x * density)


class Silu(_Activation):
    """Twin of `fastopt.Silu`.

    out = x·σ(x), σ(x) = 1 / (1 + exp(-x)); dx = dout·σ(x)·(1 + x·(1 - σ(x))).
    """

    def _f(self, x: Array) -> Array:
        return x * sigmoid(x)

    def _df(self, dout: Array, x: Array, out: Array) -> Array:
        y = sigmoid(x.astype(np.float64))
        return np.asarray(dout * y * (1 + x * (1 - y)))


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _normal_cdf(x: Array) -> Array:
    return np.asarray(0.5 * _erfc(-x.astype(np.float64) / math.sqrt(2)))


class BatchNormalization:
    """Twin of `fastopt.BatchNormalization`.

    out = gamma·y + beta, y = (x - mean) / √(var + 1e-7), mean and var of each unit over the batch;
    dgamma = Σ dout·y, dbeta = Σ dout, dx = (d - Σd/N - y·Σ(d·y)/N) / √(var + 1e-7), d = gamma·dout.
    """

    _params = ("gamma", "beta")

    def __init__(
        self,
        gamma: Array,
        beta: Array,
        *,
        running_mean: Array | None = None,
        running_var: Array | None = None,
    ) -> None:
        self.gamma, self.beta = gamma, beta
        self.running_mean, self.running_var = running_mean, running_var
        self.dgamma: Array | None = None
        self.dbeta: Array | None = None
        self._kept: tuple[Array, Array, tuple[int, ...]] | None = None

    def forward(self, x: ArrayLike, train_flg: bool = True) -> Array:
        """Return x, (N, …), normalized; in training by the batch, else by the running averages."""
        check_normalization(self.gamma, self.beta, self.running_mean, self.running_var)
        dtype, units = self.gamma.dtype.type, len(self.gamma)
        x = _as_dtype("x", x, np.dtype(dtype))
        rows = as_rows(x, units).astype(np.float64)
        if self.running_mean is None:
            self.running_mean = np.zeros(units, dtype)
        if self.running_var is None:
            self.running_var = np.ones(units, dtype)
        with np.errstate(all="ignore"):
            if train_flg:
                mean, var = rows.mean(axis=0), rows.var(axis=0)
                self.running_mean[...] = 0.9 * self.running_mean + 0.1 * mean
                self.running_var[...] = 0.9 * self.running_var + 0.1 * var
            else:
                mean, var = self.running_mean, self.running_var.astype(np.float64)
            istd = 1 / np.sqrt(var + 1e-7)
            y = (rows - mean) * istd
            out = self.gamma * y + self.beta
            self._kept = (y, istd, x.shape) if train_flg else None
            return np.asarray(out.astype(dtype).reshape(x.shape))

    def backward(self, dout: ArrayLike) -> Array:
        """Return dx in x's shape and set `dgamma` and `dbeta`, for a forward in training."""
        y, istd, shape = _saved(self._kept, self, "forward in training")
        check_normalization(self.gamma, self.beta, None, None)
        dtype = self.gamma.dtype.type
        dout = checked_dout(dout, shape, np.dtype(dtype))
        _require_shape("gamma", self.gamma.shape, istd.shape)  # it may have been replaced
        dout = dout.reshape(y.shape).astype(np.float64)
        with np.errstate(all="ignore"):
            self.dgamma = (dout * y).sum(axis=0).astype(dtype)
            self.dbeta = dout.sum(axis=0).astype(dtype)
            d = self.gamma * dout
            dx = istd * (d - d.mean(axis=0) - y * (d * y).mean(axis=0))
            return np.asarray(dx.astype(dtype).reshape(shape))


class Dropout:
    """Twin of `fastopt.Dropout`.

    In training out = x / (1 - dropout_ratio) where kept, else 0, and dx is the same of dout;
    otherwise out = x. Which are kept says `dropout_keeps`.
    """

    _params = ()

    def __init__(
        self, dropout_ratio: float = 0.5, *, rng: int | np.random.Generator | None = None
    ) -> None:
        self.dropout_ratio = fraction("dropout_ratio", dropout_ratio)
        self.seed = int(np.random.default_rng(rng).integers(2**63))
        self.steps = 0
        self._layer = 0
        self._kept: tuple[NDArray[np.bool_], np.dtype[Any], float] | None = None

    def forward(self, x: ArrayLike, train_flg: bool = True) -> Array:
        """Return x, (N, …), with some values set to zero in training and the others scaled."""
        x = as_real("x", x)
        if not train_flg:
            self._kept = None
            return x.copy()
        n, ratio = (len(x) if x.ndim else 1), fraction("dropout_ratio", self.dropout_ratio)
        units = x.size // max(1, n)
        keeps = dropout_keeps(n, units, ratio, self.seed, self.steps, self._layer)
        self._kept = keeps.reshape(x.shape), x.dtype, ratio
        self.steps += 1
        return _masked(x, self._kept[0], ratio)

    def backward(self, dout: ArrayLike) -> Array:
        """Return the gradient with respect to x of the last forward, which was one in training."""
        keeps, dtype, ratio = _saved(self._kept, self, "forward in training")
        return _masked(checked_dout(dout, keeps.shape, dtype), keeps, ratio)


def _masked(x: Array, keeps: NDArray[np.bool_], ratio: float) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(np.where(keeps, x * x.dtype.type(1 / (1 - ratio)), x.dtype.type(0)))


def dropout_keeps(
    n: int, units: int, ratio: float, seed: int, step: int, layer: int = 0
) -> NDArray[np.bool_]:
    """Tell which values of a batch dropout keeps, (n, units).

    The random number of a value is a function of seed, step, layer, row and unit alone, so that it
    is the same however a batch is cut: the rows' keys are 64 bits of the mixer of SplitMix64, and
    each unit mixes its row's key with the finalizer of MurmurHash3.
    """
    start = _mix64(np.array([seed + 0x9E3779B97F4A7C15 * (step + 1) & 0xFFFFFFFFFFFFFFFF], "u8"))
    key = _mix64(_mix64(start ^ np.uint64(layer)) ^ np.arange(n, dtype="u8"))
    low = (key & np.uint64(0xFFFFFFFF)).astype("u4")[:, np.newaxis]
    high = (key >> np.uint64(32)).astype("u4")[:, np.newaxis]
    h = low + np.arange(units, dtype="u4") * np.uint32(0x9E3779B9)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= high
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return np.asarray(h >= np.uint32(min(2**32 - 1, round(ratio * 2**32))))


def _mix64(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class SoftmaxWithLoss:
    """Twin of `fastopt.SoftmaxWithLoss`.

    y = softmax(x), loss = Σ (log Σ exp(x) - x[t]) / N, by log-sum-exp; dx = (y - t) / N.
    """

    def __init__(self) -> None:
        self._y: Array | None = None
        self._t: Array | None = None

    @property
    def y(self) -> Array | None:
        """The probabilities of the last `forward`, (N, C)."""
        return self._y

    def forward(self, x: ArrayLike, t: ArrayLike) -> float:
        """Return the mean cross-entropy of scores x (N, C) and labels t.

        Labels are class numbers (N,), or one-hot or soft (N, C).
        """
        x = as_real("x", x)
        if x.ndim != 2 or x.size == 0:
            raise ValueError(f"x of shape {x.shape} holds no samples; wants (N, C)")
        n, classes = x.shape
        t = checked_targets("softmax", t, n, classes, x.dtype)
        losses, _ = loss_and_slopes("softmax", x, t)
        self._y, self._t = softmax(x), t
        return float(np.sum(losses) / len(losses))

    def backward(self, dout: float = 1.0) -> Array:
        """Return dout·(y - t)/N."""
        y, t = _saved(self._y, self), _saved(self._t, self)
        return np.asarray((y - t) * y.dtype.type(float(dout) / len(y)))


def as_rows(x: Array, units: int) -> Array:
    """Return samples of any rank as (N, units)."""
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"x of shape {x.shape} holds no samples; wants (N, {units})")
    if x.size != len(x) * units:
        raise ValueError(
            f"x has shape {x.shape}, wants (N, {units}), or any rank with N samples of {units} "
            "values"
        )
    return x.reshape(len(x), units)
