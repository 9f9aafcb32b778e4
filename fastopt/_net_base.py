"""What compiled nets and twins share: parameters, documentation, what the constructor checks.

How a batch goes forward and back is in `fastopt.nets` and `fastopt.reference.nets`; parameters and
gradients of a call are checked by `fastopt._contract`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastopt._checks import non_negative
from fastopt._contract import check_parameter, parameter_shapes
from fastopt._numerical_gradient import numerical_gradient
from fastopt._states import FORMAT, checked_arrays, checked_fields, checked_names
from fastopt.typing import Activation, Array, Initialization

__all__ = ["MultiLayerNet", "TwoLayerNet"]

# Variance of a weight times its fan-in: He et al. 2015 for relu, Glorot & Bengio 2010 for sigmoid
_VARIANCE_TIMES_FAN_IN = {"relu": 2.0, "he": 2.0, "sigmoid": 1.0, "xavier": 1.0}


class MultiLayerNet(ABC):
    """A fully connected net: Affine layers with an activation between, softmax loss at the end.

    Parameters
    ----------
    input_size : int
        Values in one sample, D.
    hidden_size_list : sequence of int
        Units of each hidden layer; may be empty.
    output_size : int
        Number of classes, C.
    activation : {'relu', 'sigmoid'}
        Between the Affine layers.
    weight_init_std : {'relu', 'he', 'sigmoid', 'xavier'} or float
        Standard deviation of the initial weights: √(2/fan_in) for 'relu' and 'he' (He et al. 2015),
        √(1/fan_in) for 'sigmoid' and 'xavier' (Glorot and Bengio 2010), or the number given.
        Biases start at zero.
    weight_decay_lambda : float
        λ of the penalty 0.5·λ·ΣW² in the loss, ≥ 0; biases are not decayed.
    dtype : {float32, float64}
        Of parameters, scores and gradients; inputs of other real dtypes are cast to it.
    rng : None, int or numpy.random.Generator
        Source of the initial weights. They are drawn in float64 and rounded to `dtype`, so that one
        seed gives both dtypes the same net.

    Attributes
    ----------
    params : dict of str to array
        W1 (D, H1), b1 (H1,), W2, b2, …: what an optimizer updates in place. An entry may be
        replaced by an array of the same shape and dtype; the net uses whatever the dict holds.
    dtype : numpy.dtype
        As given.
    weight_decay_lambda : float
        As given; may be set anew.

    Raises
    ------
    TypeError
        A size that is no integer, a dtype other than float32 and float64, or a standard deviation
        or λ that is no number.
    ValueError
        A size below 1, a negative or infinite standard deviation or λ, or an unknown name of an
        activation or initialization.

    Notes
    -----
    Every method looks at `params` anew and raises KeyError, TypeError or ValueError, naming the
    entry, if one is missing or is not of the dtype and shape it was made with.

    A batch goes through the whole net in one call with the GIL released. A large one is shared out
    to as many threads as `set_num_threads` allows; for a given number of them the results are the
    same in every run. Several Python threads may use one net, as long as none changes it.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> net = fastopt.MultiLayerNet(4, [8, 8], 3, rng=0)
    >>> x, t = np.ones((2, 4), np.float32), np.array([0, 2])
    >>> optimizer = fastopt.Adam()
    >>> grads = None
    >>> for _ in range(100):
    ...     grads = net.gradient(x, t, out=grads)
    ...     optimizer.update(net.params, grads)
    >>> net.predict(x).shape
    (2, 3)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size_list: Sequence[int],
        output_size: int,
        activation: Activation = "relu",
        weight_init_std: Initialization | float = "relu",
        weight_decay_lambda: float = 0,
        *,
        dtype: DTypeLike = np.float32,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        if not isinstance(hidden_size_list, Iterable):
            raise TypeError(f"hidden_size_list must be a list of sizes, got {hidden_size_list!r}")
        sizes = _checked_sizes([input_size, *hidden_size_list, output_size])
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise TypeError(f"dtype must be float32 or float64, got {self.dtype}")
        self.weight_decay_lambda = non_negative("weight_decay_lambda", weight_decay_lambda)
        if activation not in ("relu", "sigmoid"):
            raise ValueError(f"activation must be 'relu' or 'sigmoid', got {activation!r}")
        self.params = _initial_params(sizes, weight_init_std, self.dtype, rng)
        self._architecture = {"sizes": sizes, "activation": activation, "dtype": self.dtype.name}
        self._shapes = parameter_shapes(sizes)
        self._build(sizes, activation)

    @abstractmethod
    def _build(self, sizes: list[int], activation: str) -> None:
        """Make what `predict` and the next two methods need."""

    @abstractmethod
    def _predict(self, x: ArrayLike) -> Array: ...

    @abstractmethod
    def _cross_entropy(self, x: ArrayLike, t: ArrayLike, batch: ArrayLike | None) -> float: ...

    @abstractmethod
    def _backpropagate(
        self, grads: dict[str, Array], x: ArrayLike, t: ArrayLike, batch: ArrayLike | None
    ) -> float:
        """Write the gradients into checked arrays and return the cross-entropy."""

    @abstractmethod
    def _sum_of_squares(self, W: Array) -> float: ...

    @abstractmethod
    def _count_correct(self, scores: Array, t: ArrayLike) -> int: ...

    def predict(self, x: ArrayLike) -> Array:
        """Return the scores before softmax.

        Parameters
        ----------
        x : array (N, …) with D values a sample
            At least one sample, any real dtype.

        Returns
        -------
        array (N, C) of the net's dtype
            The caller's own.

        Raises
        ------
        ValueError
            No samples, or not D values in each.
        TypeError
            Samples that are not real.
        """
        return self._predict(x)

    def loss(self, x: ArrayLike, t: ArrayLike, *, batch: ArrayLike | None = None) -> float:
        """Return the mean cross-entropy plus 0.5·λ·ΣW².

        The cross-entropy of a sample of label t and scores h is log Σ exp(h_j) - h_t, as in
        `SoftmaxWithLoss`.

        Parameters
        ----------
        x : array (N, …)
            Samples, as for `predict`.
        t : array (N,) of int, or (N, C)
            Labels: class numbers from 0 to C-1, or one-hot rows.
        batch : array (B,) of int, optional
            Rows of `x` and `t` to take, as in ``loss(x[batch], t[batch])``; a negative one counts
            from the end. By default all. Where x is C-contiguous and of the net's dtype, each
            thread takes its rows on its way into the first layer; else they are copied first. Only
            the labels of these rows are looked at.

        Returns
        -------
        float
            NaN or infinity where training has diverged: which of them, `SoftmaxWithLoss` says.

        Raises
        ------
        ValueError
            No samples, or not D values in each; labels of another shape, out of range, or not
            one-hot; a batch that is empty or has not one dimension.
        TypeError
            Samples that are not real, labels that are not integers, row numbers that are not.
        IndexError
            A row number that `x` has not.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> net = fastopt.MultiLayerNet(4, [8], 3, rng=0)
        >>> x, t = np.random.default_rng(0).random((10, 4), np.float32), np.arange(10) % 3
        >>> abs(net.loss(x, t, batch=[7, 2]) - net.loss(x[[7, 2]], t[[7, 2]])) < 1e-6
        True
        """
        return self._cross_entropy(x, t, batch) + self._penalty()

    def accuracy(self, x: ArrayLike, t: ArrayLike) -> float:
        """Return the share of samples whose largest score is at the label.

        Parameters
        ----------
        x : array (N, …)
            Samples, as for `predict`.
        t : array (N,) of int, or (N, C)
            Labels, as for `loss`.

        Returns
        -------
        float
            From 0 to 1. Of equal scores the first counts as the largest, as does the first NaN.

        Raises
        ------
        ValueError
            No samples, or not D values in each; labels of another shape, out of range, or not
            one-hot.
        TypeError
            Samples that are not real, or labels that are not integers.
        """
        scores = self.predict(x)
        return self._count_correct(scores, t) / len(scores)

    def gradient(
        self,
        x: ArrayLike,
        t: ArrayLike,
        out: dict[str, Array] | None = None,
        *,
        batch: ArrayLike | None = None,
    ) -> dict[str, Array]:
        """Return the gradient of `loss` with respect to every parameter, by backpropagation.

        Parameters
        ----------
        x, t, batch : arrays
            As for `loss`.
        out : dict of str to array, optional
            What an earlier call returned; its arrays are written in place. A training loop passes
            it to save the allocation.

        Returns
        -------
        dict of str to array
            dW1 + λ·W1 under 'W1', db1 under 'b1', …; `out` itself if given.

        Raises
        ------
        KeyError, TypeError, ValueError
            `out` lacks a key, or holds what is not an array of the parameter's shape and dtype,
            C-contiguous, aligned and writeable, or what overlaps x, a parameter or another
            gradient in memory.
        ValueError, TypeError, IndexError
            As for `loss`. After any error nothing was written.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> net = fastopt.MultiLayerNet(4, [8], 3, rng=0)
        >>> x, t = np.ones((10, 4), np.float32), np.arange(10) % 3
        >>> grads = net.gradient(x, t, batch=[7, 2])
        >>> {key: g.shape for key, g in grads.items()}
        {'W1': (4, 8), 'b1': (8,), 'W2': (8, 3), 'b2': (3,)}
        """
        grads = self._fresh_gradients() if out is None else out
        self._backpropagate(grads, x, t, batch)
        return grads

    def loss_and_gradient(
        self,
        x: ArrayLike,
        t: ArrayLike,
        out: dict[str, Array] | None = None,
        *,
        batch: ArrayLike | None = None,
    ) -> tuple[float, dict[str, Array]]:
        """Return `loss` and `gradient` of one batch for the price of the gradient.

        Parameters
        ----------
        x, t, out, batch
            As for `gradient`.

        Returns
        -------
        loss : float
            With the parameters as they are, before any update.
        grads : dict of str to array
            `out` itself if given.

        Raises
        ------
        KeyError, TypeError, ValueError, IndexError
            As for `gradient`.
        """
        grads = self._fresh_gradients() if out is None else out
        return self._backpropagate(grads, x, t, batch) + self._penalty(), grads

    def numerical_gradient(self, x: ArrayLike, t: ArrayLike) -> dict[str, Array]:
        """Return the gradient of `loss` by central differences with h = 1e-4.

        Two losses for each number in `params`: slow, and meant to check `gradient` in float64. In
        float32 rounding leaves about two digits.

        Parameters
        ----------
        x, t : arrays
            As for `loss`.

        Returns
        -------
        dict of str to array
            Of the keys, shapes and dtype of `params`, which are as before afterwards.

        Raises
        ------
        ValueError, TypeError
            As for `loss`.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> net = fastopt.MultiLayerNet(4, [8], 3, dtype=np.float64, rng=0)
        >>> x, t = np.random.default_rng(0).random((10, 4)), np.arange(10) % 3
        >>> grads, numerical = net.gradient(x, t), net.numerical_gradient(x, t)
        >>> all(np.allclose(grads[key], g, rtol=0, atol=1e-8) for key, g in numerical.items())
        True
        """

        def loss(_: Array) -> float:
            return self.loss(x, t)

        return {key: numerical_gradient(loss, p) for key, p in self.params.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what the net is and its parameters, as plain data and copies of arrays.

        Returns
        -------
        dict
            ``format`` (of this dict, a number), ``class``, ``architecture`` (``sizes`` of the
            layers, ``activation``, ``dtype``), ``weight_decay_lambda``, and ``params`` by key.
        """
        return {
            "format": FORMAT,
            "class": type(self).__name__,
            "architecture": {**self._architecture, "sizes": [*self._architecture["sizes"]]},
            "weight_decay_lambda": self.weight_decay_lambda,
            "params": {key: self.params[key].copy() for key in self._shapes},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Write the parameters of a state into those of this net, in place.

        Parameters
        ----------
        state : dict
            What `state_dict` of a net of the same architecture, or of its twin, returned. It is not
            kept.

        Raises
        ------
        ValueError
            It is another class's, of another architecture, or lacks something; nothing has changed.
        KeyError, TypeError
            `params` is not what it was made with.
        """
        self._checked_state(state)()

    def _checked_state(
        self, state: Any, params: Mapping[Any, Any] | None = None
    ) -> Callable[[], None]:
        """Check a state wholly, and return what puts it in the place of this one."""
        name = type(self).__name__
        fields = ("architecture", "weight_decay_lambda", "params")
        found = checked_fields(name, state, name, fields)
        architecture = checked_names("architecture", found["architecture"], [*self._architecture])
        for each, own in self._architecture.items():
            other = architecture[each]
            if type(other) is not type(own) or other != own:
                raise ValueError(f"the state of {name} is of {each} {other!r}, this net of {own!r}")
        try:
            penalty = non_negative("weight_decay_lambda", found["weight_decay_lambda"])
            arrays = checked_arrays("params", found["params"], copies=False)
            checked_names("params", arrays, [*self._shapes])
            for key, shape in self._shapes.items():
                check_parameter(arrays, key, shape, self.dtype)
        except TypeError as error:
            raise ValueError(f"the state of {name}: {error}") from None
        for key, shape in self._shapes.items():
            check_parameter(self.params, key, shape, self.dtype)
            if not self.params[key].flags.writeable:
                raise ValueError(f"parameter {key!r} is read-only")

        def load() -> None:
            self.weight_decay_lambda = penalty
            for key, array in arrays.items():
                np.copyto(self.params[key], array)

        return load

    def _penalty(self) -> float:
        if not self.weight_decay_lambda:
            return 0.0
        weights = (self.params[key] for key in self._shapes if key.startswith("W"))
        return 0.5 * self.weight_decay_lambda * sum(map(self._sum_of_squares, weights))

    def _fresh_gradients(self) -> dict[str, Array]:
        return {key: np.empty(shape, self.dtype) for key, shape in self._shapes.items()}


class TwoLayerNet(MultiLayerNet):
    """A net with one hidden layer: W1, b1, activation, W2, b2, softmax loss.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        D, H and C: params are W1 (D, H), b1 (H,), W2 (H, C), b2 (C,).
    weight_init_std : {'relu', 'he', 'sigmoid', 'xavier'} or float
        As for `MultiLayerNet`, but it comes before `activation`, and its default is 0.01: both as
        in the class of this name in the book whose API the nets bear ("Deep Learning from
        Scratch"). The initial weights of a `MultiLayerNet` are those of 'relu'.
    activation, weight_decay_lambda, dtype, rng
        As for `MultiLayerNet`.

    Raises
    ------
    TypeError, ValueError
        As for `MultiLayerNet`.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> net = fastopt.TwoLayerNet(4, 8, 3, rng=0)
    >>> {key: p.shape for key, p in net.params.items()}
    {'W1': (4, 8), 'b1': (8,), 'W2': (8, 3), 'b2': (3,)}
    >>> loss, grads = net.loss_and_gradient(np.ones((10, 4), np.float32), np.arange(10) % 3)
    >>> round(loss, 2)  # weights are small at first: all classes are about equal, and log 3 is 1.1
    1.1
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        weight_init_std: Initialization | float = 0.01,
        *,
        activation: Activation = "relu",
        weight_decay_lambda: float = 0,
        dtype: DTypeLike = np.float32,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(
            input_size,
            [hidden_size],
            output_size,
            activation,
            weight_init_std,
            weight_decay_lambda,
            dtype=dtype,
            rng=rng,
        )


def _checked_sizes(sizes: Iterable[int]) -> list[int]:
    checked = []
    for size in sizes:
        if not isinstance(size, (int, np.integer)) or isinstance(size, bool):
            raise TypeError(f"sizes of layers must be integers, got {size!r}")
        if size < 1:
            raise ValueError(f"sizes of layers must be at least 1, got {size}")
        checked.append(int(size))
    return checked


def _initial_params(
    sizes: list[int],
    weight_init_std: Initialization | float,
    dtype: np.dtype[Any],
    rng: int | np.random.Generator | None,
) -> dict[str, Array]:
    rng = np.random.default_rng(rng)
    params: dict[str, Array] = {}
    for key, shape in parameter_shapes(sizes).items():
        if key.startswith("b"):
            params[key] = np.zeros(shape, dtype)
        else:
            W = rng.standard_normal(shape)
            W *= _initial_std(weight_init_std, fan_in=shape[0])
            params[key] = W.astype(dtype, copy=False)
    return params


def _initial_std(weight_init_std: Initialization | float, fan_in: int) -> float:
    if not isinstance(weight_init_std, str):
        return non_negative("weight_init_std", weight_init_std)
    variance = _VARIANCE_TIMES_FAN_IN.get(weight_init_std.lower())
    if variance is None:
        choices = ", ".join(map(repr, _VARIANCE_TIMES_FAN_IN))
        raise ValueError(
            f"weight_init_std must be a number or one of {choices}, got {weight_init_std!r}"
        )
    return math.sqrt(variance / fan_in)
