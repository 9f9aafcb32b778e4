"""The layers: names, documentation and what backward needs of forward; the arithmetic is compiled.

What the mathematics says is in `fastopt.reference`. A net does not use these layers: its batch goes
through the same kernels in one call (`fastopt.nets`).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastopt import _net

__all__ = [
    "Affine",
    "Relu",
    "Sigmoid",
    "SoftmaxWithLoss",
]

Array = NDArray[Any]


def _require_forward(layer: object, saved: object) -> None:
    if saved is None:
        raise RuntimeError(f"{type(layer).__name__}.backward needs a forward before it")


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
        out, self._x = _net.affine_forward(x, self.W, self.b)
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
        dx, dW, db = _net.affine_gradient(dout, x, self.W, self.b, *outputs)
        self.dW, self.db = (dW, db) if out is None else outputs
        return dx if len(shape) == 2 else dx.reshape(shape)


class _Activation:
    """A function of each element; a subclass says which."""

    _name: ClassVar[str]

    def __init__(self) -> None:
        self._out: Array | None = None

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
        out, self._out = _net.activation_forward(self._name, x)
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
        _require_forward(self, self._out)
        return _net.activation_gradient(self._name, dout, self._out)


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


class SoftmaxWithLoss:
    """Softmax and cross-entropy: y = softmax(x), loss = -Σ log y[t] / N; dx = (y - t) / N.

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
            Class numbers from 0 to C-1, or one-hot rows.

        Returns
        -------
        float
            NaN if a row of scores holds NaN or +infinity, or nothing but -infinity; else infinity
            if the score of a label is -infinity.

        Raises
        ------
        ValueError
            No samples; labels of another shape, out of range, or not one-hot.
        TypeError
            Labels that are not integers, or scores that are not real.
        """
        loss, self._y, self._t = _net.softmax_loss_forward(x, t)
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
        return _net.softmax_loss_gradient(self._y, self._t, self._classes, dout)
