"""What compiled nets and twins share: arguments, documentation, states.

How a batch goes forward and back is in the network of `fastopt.nets` or `fastopt.reference.nets`,
which has running averages, counter and seed; the parameters of a call are checked there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, get_args

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastopt import _initial_params, _scores
from fastopt._checks import count, fraction, non_negative, one_of, switch
from fastopt._contract import check_parameter, check_written, parameter_shapes
from fastopt._numerical_gradient import numerical_gradient
from fastopt._states import FORMAT, checked_arrays, checked_fields, checked_names
from fastopt._targets import checked_targets
from fastopt.typing import Activation, Array, Initialization, Loss

__all__ = ["MultiLayerNet", "TwoLayerNet"]

_ACTIVATION, _LOSS = (one_of(*get_args(names)) for names in (Activation, Loss))
_ALIASES = {"logistic": "sigmoid"}

_SEEDS = 2**63

# What states have that were saved before nets had any of it
_ADDED_TO_ARCHITECTURE = {"loss": "softmax", "use_batchnorm": False, "dropout_ratio": 0.0}
_ADDED = {"running": {}, "steps": 0, "seed": None}


class MultiLayerNet:
    """A fully connected net: Affine layers with an activation between, a loss at the end.

    Each hidden layer is Affine, batch normalization if wanted, activation, dropout if wanted; the
    last layer is Affine alone, and its outputs are the scores.

    Parameters
    ----------
    input_size : int
        Values in one sample, D.
    hidden_size_list : sequence of int
        Units of each hidden layer; may be empty.
    output_size : int
        Number of classes or other outputs, C.
    activation : str
        After each hidden layer: 'identity', 'relu', 'leaky_relu' (0.01·z below 0), 'sigmoid' or
        'logistic', 'tanh', 'gelu' (z·Φ(z)) or 'silu' (z·σ(z)).
    weight_init_std : {'relu', 'he', 'sigmoid', 'xavier'} or float
        Standard deviation of the initial weights: √(2/fan_in) for 'relu' and 'he' (He et al. 2015),
        √(1/fan_in) for 'sigmoid' and 'xavier' (Glorot and Bengio 2010), or the number given.
        Biases start at zero.
    weight_decay_lambda : float
        λ of the penalty 0.5·λ·ΣW² in the loss, ≥ 0; nothing but weights is decayed.
    loss : str
        Of a sample with scores h and targets t: 'softmax', log Σ exp h - h_t, for one of C classes;
        'logistic', Σ log(1 + exp h) - t·h, for C answers of yes or no; and for regressions, with
        d = h - t, each the mean over outputs, 'squared_error', d²/2, 'absolute_error', ``|d|``,
        'huber', d²/2 where ``|d| < 1`` and ``|d| - 1/2`` elsewhere, and 'poisson', exp h - t·h.
    use_batchnorm : bool
        Normalize what each hidden Affine layer returns, by mean and variance over the batch.
    use_dropout : bool
        Set outputs of hidden layers to zero at random in training.
    dropout_ratio : float
        The share of them, in [0, 1); those that are kept are divided by 1 - dropout_ratio. Without
        `use_dropout` it does nothing.
    dtype : {float32, float64}
        Of parameters, scores and gradients; inputs of other real dtypes are cast to it.
    rng : None, int or numpy.random.Generator
        Source of the initial weights, and after them, with `use_dropout`, of `seed`. Weights are
        drawn in float64 and rounded to `dtype`, so that one seed gives both dtypes the same net.

    Attributes
    ----------
    params : dict of str to array
        W1 (D, H1), b1 (H1,), W2, b2, …: what an optimizer updates in place. With batch
        normalization gamma1 and beta1 (H1,), which start at 1 and 0, follow b1, and so on for each
        hidden layer. An entry may be replaced by an array of the same shape and dtype; the net uses
        whatever the dict holds.
    running : dict of str to array
        With batch normalization mean1, var1 (H1,), mean2, …: running averages of the batches' mean
        and variance, .9·old + .1·batch, from 0 and 1 on, written in place. Evaluation normalizes
        by them. An entry may be replaced, as one of `params` may.
    steps : int
        Calls of `gradient` and `loss_and_gradient` so far; may be set. The random numbers of
        dropout are a function of `seed`, `steps`, layer, row of the batch and unit.
    seed : int or None
        Of dropout; None without.
    is_classifier : bool
        Whether the loss is 'softmax' or 'logistic', so that `accuracy` means something.
    dtype : numpy.dtype
        As given.
    weight_decay_lambda : float
        As given; may be set anew.

    Raises
    ------
    TypeError
        A size that is no integer, a dtype other than float32 and float64, a standard deviation, λ
        or ratio that is no number, or a switch that is neither True nor False.
    ValueError
        A size below 1, a negative or infinite standard deviation or λ, a ratio outside [0, 1), or
        an unknown name of an activation, loss or initialization.

    Notes
    -----
    `gradient` and `loss_and_gradient` train: they normalize by the batch, drop units, and then move
    the running averages and count a step. All other methods evaluate: they normalize by the running
    averages, drop nothing, and change nothing.

    Every method looks at `params` and `running` anew and raises KeyError, TypeError or ValueError,
    naming the entry, if one is missing or is not of the dtype and shape it was made with.

    A batch goes through the whole net in one call with the GIL released. A large one is shared out
    to as many threads as `set_num_threads` allows; for a given number of them the results are the
    same in every run. Several Python threads may use one net, as long as none changes it; training
    changes it where there is batch normalization or dropout.

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

    A regression, of two outputs:

    >>> net = fastopt.MultiLayerNet(4, [8], 2, "tanh", loss="huber", use_batchnorm=True, rng=0)
    >>> [*net.params]
    ['W1', 'b1', 'gamma1', 'beta1', 'W2', 'b2']
    >>> net
    MultiLayerNet(4, [8], 2, activation='tanh', loss='huber', use_batchnorm=True)
    """

    # The module that computes: its Network, predictions and sum_of_squares
    _network_class: ClassVar[Any]
    _kernels: ClassVar[Any]

    def __init__(
        self,
        input_size: int,
        hidden_size_list: Sequence[int],
        output_size: int,
        activation: Activation = "relu",
        weight_init_std: Initialization | float = "relu",
        weight_decay_lambda: float = 0,
        *,
        loss: Loss = "softmax",
        use_batchnorm: bool = False,
        use_dropout: bool = False,
        dropout_ratio: float = 0.5,
        dtype: DTypeLike = np.float32,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        if not isinstance(hidden_size_list, Iterable):
            raise TypeError(f"hidden_size_list must be a list of sizes, got {hidden_size_list!r}")
        sizes = _initial_params.checked_sizes([input_size, *hidden_size_list, output_size])
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise TypeError(f"dtype must be float32 or float64, got {self.dtype}")
        self.weight_decay_lambda = non_negative("weight_decay_lambda", weight_decay_lambda)
        name = str(_ACTIVATION("activation", activation))
        name = _ALIASES.get(name, name)
        self._loss = str(_LOSS("loss", loss))
        use_batchnorm = switch("use_batchnorm", use_batchnorm)
        self._use_dropout = switch("use_dropout", use_dropout)
        ratio = fraction("dropout_ratio", dropout_ratio)
        ratio = ratio if self._use_dropout else 0.0
        self._weight_init_std = _initial_params.checked_std(weight_init_std)
        self._architecture: dict[str, Any] = {
            "sizes": sizes,
            "activation": name,
            "loss": self._loss,
            "use_batchnorm": use_batchnorm,
            "dropout_ratio": ratio,
            "dtype": self.dtype.name,
        }
        rng = np.random.default_rng(rng)
        self._shapes = parameter_shapes(sizes, use_batchnorm)
        self.params = _initial_params.initial_params(
            sizes, use_batchnorm, self._weight_init_std, self.dtype, rng
        )
        seed = int(rng.integers(_SEEDS)) if self._use_dropout else 0
        self._network = self._network_class(
            tuple(sizes), name, self._loss, self.dtype, use_batchnorm, ratio, seed
        )

    @property
    def running(self) -> dict[str, Array]:
        """The running averages of batch normalization: the network's own arrays, by key."""
        return self._network.running  # type: ignore[no-any-return]

    @property
    def steps(self) -> int:
        """How often the net was trained; of dropout's random numbers."""
        return self._network.steps  # type: ignore[no-any-return]

    @steps.setter
    def steps(self, steps: int) -> None:
        self._network.steps = count("steps", steps)

    @property
    def seed(self) -> int | None:
        """Of dropout's random numbers; None without dropout."""
        return self._network.seed if self._use_dropout else None

    @property
    def is_classifier(self) -> bool:
        """Whether the targets are classes."""
        return self._loss in _scores.CLASSIFIERS

    def predict(self, x: ArrayLike) -> Array:
        """Return the scores: what the last layer computes, before softmax or another function.

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
        return self._network.predict(self.params, x)  # type: ignore[no-any-return]

    def predict_proba(self, x: ArrayLike) -> Array:
        """Return probabilities: softmax or σ(score) = 1/(1 + exp(-score)), as the loss is.

        Parameters
        ----------
        x : array (N, …)
            Samples, as for `predict`.

        Returns
        -------
        array (N, C) of the net's dtype
            For 'softmax' each row sums to 1; for 'logistic' each output has its own.

        Raises
        ------
        ValueError
            As for `predict`.
        TypeError
            As for `predict`; or the loss is one of regression.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> net = fastopt.TwoLayerNet(4, 8, 5, rng=0)
        >>> net.predict_proba(np.zeros((1, 4)))
        array([[0.2, 0.2, 0.2, 0.2, 0.2]], dtype=float32)
        """
        _scores.require_classes(self._loss, "predict_proba")
        probabilities: Array = self._kernels.predictions(self._loss, self.predict(x))
        return probabilities

    def classify(self, x: ArrayLike) -> NDArray[np.intp]:
        """Return the classes that are the most probable.

        Parameters
        ----------
        x : array (N, …)
            Samples, as for `predict`.

        Returns
        -------
        array (N,) or (N, C) of int
            For 'softmax' class numbers: that of the largest score, of equal ones the first, as is
            the first NaN. For 'logistic' 1 where the score is above 0, else 0.

        Raises
        ------
        ValueError
            As for `predict`.
        TypeError
            As for `predict`; or the loss is one of regression.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> net = fastopt.TwoLayerNet(4, 8, 3, loss="logistic", rng=0)
        >>> net.classify(np.zeros((2, 4)))
        array([[0, 0, 0],
               [0, 0, 0]])
        """
        _scores.require_classes(self._loss, "classify")
        return _scores.classes(self._loss, self.predict(x))

    def loss(
        self,
        x: ArrayLike,
        t: ArrayLike,
        *,
        batch: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Return the mean loss of samples, Σw·l/Σw with weights w, plus 0.5·λ·ΣW².

        It is evaluated, with running averages and without dropout. The class says what l is.

        Parameters
        ----------
        x : array (N, …)
            Samples, as for `predict`.
        t : array
            Targets. For 'softmax' class numbers from 0 to C-1, (N,) of int, or one-hot rows (N, C),
            or soft labels: rows (N, C) of probabilities that sum to 1. Else (N, C), or (N,) where C
            is 1: from 0 to 1 for 'logistic', at least 0 for 'poisson', any numbers otherwise.
        batch : array (B,) of int, optional
            Rows of `x`, `t` and `sample_weight` to take, as in ``loss(x[batch], t[batch])``; a
            negative one counts from the end. By default all. Where x is C-contiguous and of the
            net's dtype, each thread takes its rows on its way into the first layer; else they are
            copied first. Only the targets and weights of these rows are looked at.
        sample_weight : array (N,), optional
            Weights of the samples, ≥ 0; by default all are equal. A sample of weight 0 counts for
            nothing, even if its loss is infinite or NaN, as long as its x is finite.

        Returns
        -------
        float
            NaN or infinity where training has diverged: which of them, `SoftmaxWithLoss` says.

        Raises
        ------
        ValueError
            No samples, or not D values in each; targets of another shape or out of range; weights
            of another shape, negative, not finite, or all 0; a batch that is empty or has not one
            dimension.
        TypeError
            Samples, targets or weights that are not real, class numbers or row numbers that are not
            integers.
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
        mean: float = self._network.mean_loss(self.params, x, t, batch, sample_weight)
        return mean + self._penalty()

    def accuracy(self, x: ArrayLike, t: ArrayLike) -> float:
        """Return the share of samples that `classify` gets right.

        Parameters
        ----------
        x : array (N, …)
            Samples, as for `predict`.
        t : array
            Targets, as for `loss`. Of soft labels the largest, of targets of 'logistic' those above
            a half are taken for the truth.

        Returns
        -------
        float
            From 0 to 1. For 'softmax' the share of samples whose largest score is at the label; of
            equal scores the first counts as the largest, as does the first NaN. For 'logistic' the
            share of samples that are right in all outputs.

        Raises
        ------
        ValueError
            No samples, or not D values in each; targets of another shape or out of range.
        TypeError
            Samples or targets that are not real, or class numbers that are not integers; or the
            loss is one of regression.
        """
        _scores.require_classes(self._loss, "accuracy", "; score(x, t) returns its R²")
        scores = self.predict(x)
        return _scores.right_rows(self._loss, scores, t) / len(scores)

    def score(self, x: ArrayLike, t: ArrayLike) -> float:
        """Return how good the net is: `accuracy` of a classifier, R² of a regression.

        Parameters
        ----------
        x : array (N, …)
            Samples, as for `predict`.
        t : array
            Targets, as for `loss`.

        Returns
        -------
        float
            R² is 1 - Σ(t - y)²/Σ(t - mean t)², the mean over outputs, of the scores y, or of exp y
            for 'poisson': 1 is perfect, 0 as good as the mean of t, and NaN that of one sample. An
            output whose targets are all equal has 1 if they are met exactly, else 0.

        Raises
        ------
        ValueError, TypeError
            As for `accuracy`, but regressions have a score.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> net = fastopt.MultiLayerNet(1, [], 1, loss="squared_error", rng=0)
        >>> net.params["W1"][...] = 2
        >>> net.score([[1.0], [2.0], [3.0]], [2.0, 4.0, 6.0])
        1.0
        """
        if self.is_classifier:
            return self.accuracy(x, t)
        predicted = self._kernels.predictions(self._loss, self.predict(x))
        n, outputs = predicted.shape
        return _scores.r_squared(predicted, checked_targets(self._loss, t, n, outputs, float))

    def gradient(
        self,
        x: ArrayLike,
        t: ArrayLike,
        out: dict[str, Array] | None = None,
        *,
        batch: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> dict[str, Array]:
        """Return the gradient of the loss with respect to every parameter, by backpropagation.

        It trains: batch normalization uses the batch, whatever the weights of its samples, and
        dropout drops. Without the two it is the gradient of `loss`.

        Parameters
        ----------
        x, t, batch, sample_weight : arrays
            As for `loss`.
        out : dict of str to array, optional
            What an earlier call returned; its arrays are written in place. A training loop passes
            it to save the allocation.

        Returns
        -------
        dict of str to array
            dW1 + λ·W1 under 'W1', db1 under 'b1', and so on for all of `params`; `out` itself if
            given.

        Raises
        ------
        KeyError, TypeError, ValueError
            `out` lacks a key, or holds what is not an array of the parameter's shape and dtype,
            C-contiguous, aligned and writeable, or what overlaps x, a parameter, a running average
            or another gradient in memory.
        ValueError, TypeError, IndexError
            As for `loss`. After any error nothing was written, running averages and `steps` are
            as they were.

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
        self._network.gradient(
            self.params, grads, x, t, self.weight_decay_lambda, batch, sample_weight
        )
        return grads

    def loss_and_gradient(
        self,
        x: ArrayLike,
        t: ArrayLike,
        out: dict[str, Array] | None = None,
        *,
        batch: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> tuple[float, dict[str, Array]]:
        """Return loss and `gradient` of one batch for the price of the gradient.

        Parameters
        ----------
        x, t, out, batch, sample_weight
            As for `gradient`.

        Returns
        -------
        loss : float
            With the parameters as they are, before any update; in training, as `gradient` is: with
            batch normalization or dropout not what `loss` returns.
        grads : dict of str to array
            `out` itself if given.

        Raises
        ------
        KeyError, TypeError, ValueError, IndexError
            As for `gradient`.
        """
        grads = self._fresh_gradients() if out is None else out
        mean: float = self._network.gradient(
            self.params, grads, x, t, self.weight_decay_lambda, batch, sample_weight
        )
        return mean + self._penalty(), grads

    def numerical_gradient(
        self, x: ArrayLike, t: ArrayLike, *, sample_weight: ArrayLike | None = None
    ) -> dict[str, Array]:
        """Return the gradient of `loss` by central differences with h = 1e-4.

        Two losses for each number in `params`: slow, and meant to check `gradient` in float64. In
        float32 rounding leaves about two digits. `loss` is evaluated: with batch normalization or
        dropout this is not the gradient that trains.

        Parameters
        ----------
        x, t, sample_weight : arrays
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
            return self.loss(x, t, sample_weight=sample_weight)

        return {key: numerical_gradient(loss, p) for key, p in self.params.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what the net is and what training has made of it, as plain data and copies.

        Returns
        -------
        dict
            ``format`` (of this dict, a number), ``class``, ``architecture`` (``sizes`` of the
            layers, ``activation``, ``loss``, ``use_batchnorm``, ``dropout_ratio``, 0.0 without
            dropout, ``dtype``), ``weight_decay_lambda``, ``params`` and ``running`` by key,
            ``steps`` and ``seed``.
        """
        return {
            "format": FORMAT,
            "class": type(self).__name__,
            "architecture": {**self._architecture, "sizes": [*self._architecture["sizes"]]},
            "weight_decay_lambda": self.weight_decay_lambda,
            "params": {key: self.params[key].copy() for key in self._shapes},
            "running": {key: self.running[key].copy() for key in self._network.running_shapes},
            "steps": self.steps,
            "seed": self.seed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Write a state's parameters and running averages into this net's, and go on from there.

        Parameters
        ----------
        state : dict
            What `state_dict` of a net of the same architecture, or of its twin, returned. It is not
            kept. States of a time before running averages, steps and seed have none.

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
        fields = ("architecture", "weight_decay_lambda", "params", *_ADDED)
        found = checked_fields(name, _completed(state, _ADDED), name, fields)
        architecture = _completed(found["architecture"], _ADDED_TO_ARCHITECTURE)
        checked_names("architecture", architecture, [*self._architecture])
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
            running = self._checked_running(found["running"])
            steps, seed = count("steps", found["steps"]), self._checked_seed(found["seed"])
        except TypeError as error:
            raise ValueError(f"the state of {name}: {error}") from None
        for key, shape in self._shapes.items():
            check_parameter(self.params, key, shape, self.dtype)
            if not self.params[key].flags.writeable:
                raise ValueError(f"parameter {key!r} is read-only")
        check_written("running", self.running, self._network.running_shapes, self.dtype)

        def load() -> None:
            self.weight_decay_lambda = penalty
            self._network.steps, self._network.seed = steps, seed
            for own, new in ((self.params, arrays), (self.running, running)):
                for key, array in new.items():
                    np.copyto(own[key], array)

        return load

    def _checked_running(self, running: Any) -> dict[str, Array]:
        arrays = checked_arrays("running", running, copies=False)
        shapes = self._network.running_shapes
        checked_names("running", arrays, [*shapes])
        for key, shape in shapes.items():
            array = arrays[key]
            if array.dtype != self.dtype or array.shape != shape:
                raise ValueError(
                    f"running[{key!r}] must be {self.dtype}{shape}, got {array.dtype}{array.shape}"
                )
        return arrays

    def _checked_seed(self, seed: Any) -> int:
        """Return the seed that the network gets: 0, which is never used, without dropout."""
        if not self._use_dropout and seed is None:
            return 0
        if not self._use_dropout:
            raise ValueError(f"seed must be None for a net without dropout, got {seed!r}")
        if type(seed) is not int or not 0 <= seed < _SEEDS:
            raise ValueError(f"seed must be a whole number from 0 to 2**63 - 1, got {seed!r}")
        return seed

    def __repr__(self) -> str:
        first, *hidden, last = self._architecture["sizes"]
        return self._shown(inspect.signature(MultiLayerNet), first, hidden, last)

    def _shown(self, signature: inspect.Signature, *sizes: Any) -> str:
        """Return a call that makes such a net: sizes, activation, and what isn't the default."""
        architecture = self._architecture
        shown = [*map(repr, sizes), f"activation={architecture['activation']!r}"]
        settings = {
            "weight_init_std": self._weight_init_std,
            "weight_decay_lambda": self.weight_decay_lambda,
            "loss": self._loss,
            "use_batchnorm": architecture["use_batchnorm"],
            "use_dropout": self._use_dropout,
        }
        if self._use_dropout:
            settings["dropout_ratio"] = architecture["dropout_ratio"]
        for name, value in settings.items():
            if value != signature.parameters[name].default:
                shown.append(f"{name}={value!r}")
        if self.dtype != signature.parameters["dtype"].default:
            shown.append(f"dtype={self.dtype.name!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def _penalty(self) -> float:
        if not self.weight_decay_lambda:
            return 0.0
        weights = (self.params[key] for key in self._shapes if key.startswith("W"))
        total: float = sum(map(self._kernels.sum_of_squares, weights))
        return 0.5 * self.weight_decay_lambda * total

    def _fresh_gradients(self) -> dict[str, Array]:
        return {key: np.empty(shape, self.dtype) for key, shape in self._shapes.items()}


class TwoLayerNet(MultiLayerNet):
    """A net with one hidden layer: W1, b1, activation, W2, b2, loss.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        D, H and C: params are W1 (D, H), b1 (H,), W2 (H, C), b2 (C,).
    weight_init_std : {'relu', 'he', 'sigmoid', 'xavier'} or float
        As for `MultiLayerNet`, but it comes before `activation`, and its default is 0.01: both as
        in the class of this name in the book whose API the nets bear ("Deep Learning from
        Scratch"). The initial weights of a `MultiLayerNet` are those of 'relu'.
    activation, weight_decay_lambda, loss, use_batchnorm, use_dropout, dropout_ratio, dtype, rng
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
        loss: Loss = "softmax",
        use_batchnorm: bool = False,
        use_dropout: bool = False,
        dropout_ratio: float = 0.5,
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
            loss=loss,
            use_batchnorm=use_batchnorm,
            use_dropout=use_dropout,
            dropout_ratio=dropout_ratio,
            dtype=dtype,
            rng=rng,
        )

    def __repr__(self) -> str:
        return self._shown(inspect.signature(TwoLayerNet), *self._architecture["sizes"])


def _completed(state: Any, added: Mapping[str, Any]) -> Any:
    """Return a state; if it has nothing of what was added later, with what that was at first."""
    if not isinstance(state, Mapping) or any(name in state for name in added):
        return state
    return {**state, **added}
