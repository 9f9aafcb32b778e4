"""The layers: names, documentation and what backward needs of forward; the arithmetic is compiled.

The mathematics is in `fastopt.reference`. A net does not use these layers: its batch goes through
the same kernels in one call (`fastopt.nets`).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastopt import _layers
from fastopt._checks import count, fraction
from fastopt._contract import check_normalization, checked_dout

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


def _require_forward(layer: object, saved: object) -> None:
    if saved is None:
        raise RuntimeError(f"{type(layer).__name__}.backward needs a forward before it")


def _plain(a: Array) -> Array:
    """Return a copy of a float32 or float64 array that compiled code can walk."""
    return np.array(a, a.dtype.newbyteorder("="), order="C")


class Affine:
    """A fully connected layer: out = x·W + b; dx = dout·Wᵀ, dW = xᵀ·dout, db = Σ dout.

    Parameters
    ----------
    W : array (D, M) of float32 or float64
        Weights, in any layout. The layer holds the array itself: an optimizer that updates it in
        place updates the layer.
    b : array (M,) of W's dtype
        Bias.

    Attributes
    ----------
    W : array
        As given; may be replaced.
    b : array
        As given; may be replaced.
    dW : array or None
        Gradient of the last `backward`, of the shape and dtype of W.
    db : array or None
        Gradient of the last `backward`, of the shape and dtype of b.

    Raises
    ------
    TypeError, ValueError
        By `forward` and `backward`, which look at W and b anew each time; making the layer checks
        nothing.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> layer = fastopt.Affine(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([0.5, -0.5]))
    >>> layer.forward(np.array([[1.0, 1.0]]))
    array([[4.5, 5.5]])
    >>> layer.backward(np.array([[1.0, 0.0]]))
    array([[1., 3.]])
    """

    def __init__(self, W: Array, b: Array) -> None:
        self.W = W
        self.b = b
        self.dW: Array | None = None
        self.db: Array | None = None
        self._x: Array | None = None
        self._shape: tuple[int, ...] = ()

    def forward(self, x: ArrayLike) -> Array:
        """Return x·W + b.

        Parameters
        ----------
        x : array (N, D), or of any rank with N samples of D values
            Real numbers, cast to W's dtype. `backward` reads it again, so it must not change until
            then.

        Returns
        -------
        array (N, M) of W's dtype
            The caller's own.

        Raises
        ------
        ValueError
            No samples, or not D values in each; W and b that do not fit each other.
        TypeError
            W and b that are not of one dtype, float32 or float64; an x that is not real.
        """
        x = np.asarray(x)
        out, self._x = _layers.affine_forward(x, self.W, self.b)
        self._shape = x.shape
        return out

    def backward(self, dout: ArrayLike, out: tuple[Array, Array] | None = None) -> Array:
        """Return the gradient with respect to x and set `dW` and `db`.

        Parameters
        ----------
        dout : array (N, M)
            Gradient with respect to what `forward` returned.
        out : tuple of two arrays, optional
            Written with dW and db, which are fresh arrays otherwise.

        Returns
        -------
        array of the shape of x and of W's dtype
            The caller's own.

        Raises
        ------
        RuntimeError
            No `forward` was called before.
        ValueError
            `dout` of another shape; W of another shape than in `forward`; an array of `out` that is
            of another shape than its parameter, is not C-contiguous, aligned and writeable, or
            overlaps an input in memory.
        TypeError
            `dout` that is not real; `out` that lacks one of its arrays, or holds one of another
            dtype than its parameter's.
        """
        _require_forward(self, self._x)
        outputs = (None, None) if out is None else tuple(out)
        if out is not None and (len(outputs) != 2 or any(array is None for array in outputs)):
            raise TypeError("out must hold two arrays, for dW and db")
        x, shape = self._x, self._shape
        dx, dW, db = _layers.affine_gradient(dout, x, self.W, self.b, *outputs)
        self.dW, self.db = (dW, db) if out is None else outputs
        return dx if len(shape) == 2 else dx.reshape(shape)


class _Activation:
    """A function of each element; a subclass says which."""

    _name: ClassVar[str]

    def __init__(self) -> None:
        self._kept: Array | None = None  # x or out, whichever the derivative is computed from

    def forward(self, x: ArrayLike) -> Array:
        """Return the function of x, elementwise.

        Parameters
        ----------
        x : array of any shape
            float32 or float64; other real dtypes become float64.

        Returns
        -------
        array of x's shape and dtype
            The caller's own; `backward` has a copy.

        Raises
        ------
        TypeError
            x is not real.
        """
        out, self._kept = _layers.activation_forward(self._name, x)
        return out

    def backward(self, dout: ArrayLike) -> Array:
        """Return the gradient with respect to x, for the gradient with respect to the output.

        Parameters
        ----------
        dout : array of the shape of x
            Real numbers, cast to the dtype of what `forward` returned.

        Returns
        -------
        array of the shape and dtype of what `forward` returned
            The caller's own.

        Raises
        ------
        RuntimeError
            No `forward` was called before.
        ValueError
            `dout` of another shape than x in the last `forward`.
        TypeError
            `dout` that is not real.
        """
        _require_forward(self, self._kept)
        return _layers.activation_gradient(self._name, dout, self._kept)


class Relu(_Activation):
    """Rectified linear unit: out = x where x > 0, else 0; dx = dout where x > 0, else 0.

    NaN stays NaN, as in NumPy.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> layer = fastopt.Relu()
    >>> layer.forward(np.array([-1.0, 0.0, 2.0]))
    array([0., 0., 2.])
    >>> layer.backward(np.array([5.0, 5.0, 5.0]))
    array([0., 0., 5.])
    """

    _name = "relu"


class LeakyRelu(_Activation):
    """Relu that leaks: out = x where x > 0, else 0.01·x; dx = dout where x > 0, else 0.01·dout.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> layer = fastopt.LeakyRelu()
    >>> layer.forward(np.array([-1.0, 0.0, 2.0]))
    array([-0.01,  0.  ,  2.  ])
    >>> layer.backward(np.array([5.0, 5.0, 5.0]))
    array([0.05, 0.05, 5.  ])
    """

    _name = "leaky_relu"


class Sigmoid(_Activation):
    """Logistic function: out = 1 / (1 + exp(-x)); dx = dout·(1 - out)·out.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> layer = fastopt.Sigmoid()
    >>> layer.forward(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    >>> layer.backward(np.array([1.0, 1.0, 1.0]))
    array([0.  , 0.25, 0.  ])
    """

    _name = "sigmoid"


class Tanh(_Activation):
    """Hyperbolic tangent: out = tanh x; dx = dout·(1 - out²).

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> layer = fastopt.Tanh()
    >>> layer.forward(np.array([-1000.0, 0.0, 1000.0]))
    array([-1.,  0.,  1.])
    >>> layer.backward(np.array([1.0, 1.0, 1.0]))
    array([0., 1., 0.])
    """

    _name = "tanh"


class Gelu(_Activation):
    """Gaussian error linear unit: out = x·Φ(x); dx = dout·(Φ(x) + x·φ(x)).

    Φ(x) = (1 + erf(x/√2))/2 is the normal distribution's share below x, and φ(x) = exp(-x²/2)/√(2π)
    its density. This is not the approximation by tanh. From Hendrycks and Gimpel, "Gaussian Error
    Linear Units", 2016.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> layer = fastopt.Gelu()
    >>> layer.forward(np.array([-9.0, 0.0, 1.0, 9.0])).round(4)
    array([-0.    ,  0.    ,  0.8413,  9.    ])
    >>> layer.backward(np.ones(4)).round(4)
    array([-0.    ,  0.5   ,  1.0833,  1.    ])
    """

    _name = "gelu"


class Silu(_Activation):
    """Sigmoid linear unit: out = x·σ(x); dx = dout·σ(x)·(1 + x·(1 - σ(x))).

    σ(x) = 1/(1 + exp(-x)). It is also called swish.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> layer = fastopt.Silu()
    >>> layer.forward(np.array([-50.0, 0.0, 1.0, 50.0])).round(4)
    array([-0.    ,  0.    ,  0.7311, 50.    ])
    >>> layer.backward(np.ones(4)).round(4)
    array([-0.    ,  0.5   ,  0.9277,  1.    ])
    """

    _name = "silu"


class BatchNormalization:
    """Normalizes each unit over the batch: out = gamma·y + beta, y = (x - mean)/√(var + 1e-7).

    In training, mean and var are those of the unit over the batch, var the mean squared deviation;
    else the running averages. With d = gamma·dout, dgamma = Σ dout·y, dbeta = Σ dout and
    dx = (d - Σd/N - y·Σ(d·y)/N)/√(var + 1e-7). From Ioffe and Szegedy, "Batch Normalization", 2015.

    Parameters
    ----------
    gamma : array (D,) of float32 or float64
        Scale of each unit. The layer holds the array itself: an optimizer that updates it in place
        updates the layer.
    beta : array (D,) of gamma's dtype
        Shift of each unit, held likewise.
    running_mean, running_var : array (D,) of gamma's dtype, optional
        Running averages, written in place by each `forward` in training: .9·old + .1·batch. By
        default the first `forward` makes them, zeros and ones.

    Attributes
    ----------
    gamma, beta : array
        As given; may be replaced.
    running_mean, running_var : array or None
        As given or made; may be replaced.
    dgamma, dbeta : array or None
        Gradients of the last `backward`.

    Raises
    ------
    TypeError, ValueError
        By `forward` and `backward`, which look at the arrays anew each time; making the layer
        checks nothing.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> layer = fastopt.BatchNormalization(np.ones(2), np.zeros(2))
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> layer.forward(x).round(4)
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> layer.running_mean
    array([0.2, 2. ])
    >>> layer.forward(x, train_flg=False).round(1)
    array([[0.8, 2.4],
           [2.8, 8.5]])
    """

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
        self._kept: tuple[Array, Array, Array] | None = None
        self._shape: tuple[int, ...] = ()

    def forward(self, x: ArrayLike, train_flg: bool = True) -> Array:
        """Return x normalized, scaled and shifted.

        Parameters
        ----------
        x : array (N, D), or of any rank with N samples of D values
            Real numbers, cast to gamma's dtype. `backward` reads it again, so it must not change
            until then.
        train_flg : bool
            Whether to normalize by the batch and move the running averages, or to use these.

        Returns
        -------
        array of the shape of x and of gamma's dtype
            The caller's own.

        Raises
        ------
        ValueError
            No samples, or not D values in each; parameters or running averages that do not fit each
            other, or averages that are read-only.
        TypeError
            Arrays that are not of one dtype, float32 or float64; an x that is not real.
        """
        x = np.asarray(x)
        check_normalization(self.gamma, self.beta, self.running_mean, self.running_var)
        gamma, beta = _plain(self.gamma), _plain(self.beta)
        mean, var = self.running_mean, self.running_var
        mean = np.zeros_like(gamma) if mean is None else mean
        var = np.ones_like(gamma) if var is None else var
        out, kept = _layers.batchnorm_forward(x, gamma, beta, mean, var, bool(train_flg))
        self.running_mean, self.running_var = mean, var
        self._kept, self._shape = kept if train_flg else None, x.shape
        return out.reshape(x.shape)

    def backward(self, dout: ArrayLike) -> Array:
        """Return the gradient with respect to x and set `dgamma` and `dbeta`.

        Parameters
        ----------
        dout : array of the shape of x
            Gradient with respect to what `forward` returned.

        Returns
        -------
        array of the shape of x and of gamma's dtype
            The caller's own.

        Raises
        ------
        RuntimeError
            The last `forward` was none in training, or there was none.
        ValueError
            `dout` of another shape, or gamma of another shape than in `forward`, or x itself.
        TypeError
            `dout` that is not real.
        """
        if self._kept is None:
            raise RuntimeError("BatchNormalization.backward needs a forward in training before it")
        x, mean, _ = self._kept
        check_normalization(self.gamma, mean, None, None)
        dout = checked_dout(dout, self._shape, mean.dtype)
        if x.size != dout.size or x.shape[1:] != mean.shape or x.dtype != mean.dtype:
            raise ValueError(f"x was changed since forward: it is now {x.dtype}{x.shape}")
        rows = dout.reshape(x.shape)
        gamma = _plain(self.gamma)
        dx, self.dgamma, self.dbeta = _layers.batchnorm_gradient(rows, self._kept, gamma)
        return dx.reshape(self._shape)


class Dropout:
    """Sets values to zero at random in training: out = x/(1 - dropout_ratio) where kept, else 0.

    dx is the same of dout. When it doesn't train, out = x. From Srivastava et al., "Dropout: A
    Simple Way to Prevent Neural Networks from Overfitting", 2014.

    Parameters
    ----------
    dropout_ratio : float
        The share of values that is dropped, on average; in [0, 1).
    rng : None, int or numpy.random.Generator
        Source of `seed`.

    Attributes
    ----------
    dropout_ratio : float
        As given; may be set anew.
    seed : int
        From 0 to 2⁶³ - 1. Whether a value is kept is a function of `seed`, `steps`, its row and its
        place there, and of nothing else.
    steps : int
        Calls of `forward` in training so far; may be set.

    Raises
    ------
    TypeError
        The ratio is no number.
    ValueError
        It is not in [0, 1).

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> layer = fastopt.Dropout(0.25, rng=0)
    >>> out = layer.forward(np.ones((100, 100)))
    >>> np.unique(out).round(2)
    array([0.  , 1.33])
    >>> bool(abs(out.mean() - 1) < 0.05)
    True
    >>> layer.forward(np.array([[1.0, 2.0]]), train_flg=False)
    array([[1., 2.]])
    """

    def __init__(
        self, dropout_ratio: float = 0.5, *, rng: int | np.random.Generator | None = None
    ) -> None:
        self.dropout_ratio = fraction("dropout_ratio", dropout_ratio)
        self.seed = int(np.random.default_rng(rng).integers(2**63))
        self.steps = 0
        # Ratio, seed and step of the last forward in training, and what it returned: shape, dtype
        self._kept: tuple[float, int, int, tuple[int, ...], np.dtype[Any]] | None = None

    def forward(self, x: ArrayLike, train_flg: bool = True) -> Array:
        """Return x with some values dropped in training, else a copy.

        Parameters
        ----------
        x : array of any shape
            float32 or float64; other real dtypes become float64. Along the first axis are samples.
        train_flg : bool
            Whether to drop.

        Returns
        -------
        array of x's shape and dtype
            The caller's own.

        Raises
        ------
        TypeError
            x is not real.
        ValueError
            `dropout_ratio` is not in [0, 1), or `steps` no count.
        """
        if not train_flg:
            out = _layers.dropout(x, 0.0, self.seed, 0)
            self._kept = None
            return out
        ratio = fraction("dropout_ratio", self.dropout_ratio)
        seed, step = self.seed, count("steps", self.steps)
        out = _layers.dropout(x, ratio, seed, step)
        self._kept, self.steps = (ratio, seed, step, out.shape, out.dtype), step + 1
        return out

    def backward(self, dout: ArrayLike) -> Array:
        """Return the gradient with respect to x: dout/(1 - dropout_ratio) where x was kept, else 0.

        Parameters
        ----------
        dout : array of the shape of x
            Real numbers, cast to the dtype of what `forward` returned.

        Returns
        -------
        array of the shape and dtype of what `forward` returned
            The caller's own.

        Raises
        ------
        RuntimeError
            The last `forward` was none in training, or there was none.
        ValueError
            `dout` of another shape.
        TypeError
            `dout` that is not real.
        """
        if self._kept is None:
            raise RuntimeError("Dropout.backward needs a forward in training before it")
        ratio, seed, step, shape, dtype = self._kept
        return _layers.dropout(checked_dout(dout, shape, dtype), ratio, seed, step)


class SoftmaxWithLoss:
    """Softmax and cross-entropy: y = softmax(x), loss = -Σ log y[t] / N; dx = (y - t) / N.

    With soft labels t, rows of probabilities, the loss is -Σ t·log y / N.

    Notes
    -----
    The loss of a row is computed from its scores by log-sum-exp, as log Σ exp(x - max x) + max x -
    x[t]: it is the function whose gradient `backward` returns, at scores of any size. The book
    "Deep Learning from Scratch" takes -log(y[t] + 1e-7) instead, which is never above 16.1 while
    its gradient goes on as (y - t)/N; below that the two differ by about 1e-7 / y[t].

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> layer = fastopt.SoftmaxWithLoss()
    >>> round(layer.forward(np.zeros((1, 4)), np.array([2])), 4)
    1.3863
    >>> layer.backward()
    array([[ 0.25,  0.25, -0.75,  0.25]])
    """

    def __init__(self) -> None:
        self._y: Array | None = None
        self._t: Array | None = None
        self._classes = 0

    @property
    def y(self) -> Array | None:
        """The probabilities of the last `forward`, (N, C); `backward` reads them again."""
        return self._y

    def forward(self, x: ArrayLike, t: ArrayLike) -> float:
        """Return the mean cross-entropy of scores and labels.

        Parameters
        ----------
        x : array (N, C)
            Scores; the largest of a row is subtracted before `exp`, so none is too large.
        t : array (N,) of int, or (N, C)
            Class numbers from 0 to C-1, or one-hot rows, or soft labels: rows of probabilities.

        Returns
        -------
        float
            NaN if a row of scores holds NaN or +infinity, or nothing but -infinity; else infinity
            if the score of a label is -infinity.

        Raises
        ------
        ValueError
            No samples; labels of another shape or out of range, or rows that don't sum to 1.
        TypeError
            Class numbers that are not integers, or labels or scores that are not real.
        """
        loss, self._y, self._t = _layers.softmax_loss_forward(x, t)
        self._classes = self._y.shape[1]
        return loss

    def backward(self, dout: float = 1.0) -> Array:
        """Return dout·(y - t)/N, the gradient with respect to the scores.

        Parameters
        ----------
        dout : float
            Gradient with respect to the loss: 1 unless the loss is scaled.

        Returns
        -------
        array (N, C) of the scores' dtype; float64 if they were neither float32 nor float64
            The caller's own.

        Raises
        ------
        RuntimeError
            No `forward` was called before.
        TypeError
            `dout` is no number.
        ValueError
            `y` was given another shape or dtype since `forward`.
        """
        _require_forward(self, self._t)
        return _layers.softmax_loss_gradient(self._y, self._t, self._classes, dout)
