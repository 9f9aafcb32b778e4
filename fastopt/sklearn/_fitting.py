"""How an estimator is fitted: what it is given, its epochs, when they end, what it then shows.

What is minimized belongs in _objective.py, by what in _solvers.py.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import _fit_context, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import unique_labels
from sklearn.utils.optimize import _check_optimize_result
from sklearn.utils.validation import _check_sample_weight, validate_data

from fastopt import _layers
from fastopt._net import Network
from fastopt._progress import loss_bar
from fastopt.sklearn._callbacks import CallbackSupportMixin, Epochs
from fastopt.sklearn._objective import Objective, mean_loss, packed_like
from fastopt.sklearn._predicting import RUNNING, Lists, Predicting, lists_of
from fastopt.sklearn._samples import Samples, predict
from fastopt.sklearn._solvers import Descent, is_shown, minimize_lbfgs

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Fitting"]

Array = NDArray[Any]
HeldOut = tuple[Any, Any, Any]  # samples, targets, weights

# What batch normalization begins with
_NORMS = {"gammas_": 1, "betas_": 0, "running_means_": 0, "running_variances_": 1}

# Warnings are shown as scikit-learn's, whose decorator calls `fit`: a filter of its warnings is
# one of these. This is where that is, as seen from `_train`.
_FROM_TRAIN = 3


class Fitting(CallbackSupportMixin, Predicting):
    """The part of an estimator that is fitted; it stands before scikit-learn's class."""

    # Before the first fit, and for parameters that were set by hand: dropout's random numbers
    # begin, and nothing is the best
    _seed = _steps = 0
    _best: Lists | None = None
    _no_improvement_count: int
    best_loss_: Any  # a number; None with early stopping
    best_validation_score_: Any  # a number; None without validation
    validation_scores_: Any  # a list of numbers; None without validation
    validation_loss_curve_: list[float]

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Fit the net to samples.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)
            Samples, at best C-contiguous float32 or float64: such an array is not copied.
        y : array-like (n_samples,) or (n_samples, n_outputs)
            Classes of a classifier, or 0 and 1 for each of several labels; numbers of a regressor.
        sample_weight : array-like (n_samples,), optional
            How much each sample counts, ≥ 0. A batch whose weights are all 0 is left out.
        X_val, y_val : array-like
            Samples to validate with after each epoch, instead of a part set aside of `X`:
            `validation_scores_` and `validation_loss_curve_` are of these. With `early_stopping`
            they say when training ends.
        sample_weight_val : array-like, optional
            How much each of these counts.

        Returns
        -------
        estimator
            Itself.

        Raises
        ------
        ValueError
            A parameter or the data are not as described; the parameters have become infinite or
            NaN, which `coefs_` then shows.

        Notes
        -----
        A sklearn.exceptions.ConvergenceWarning says that training ended by `max_iter`, not by
        `tol`. Ctrl-C ends training with a UserWarning; the estimator is fitted as far as it came.
        """
        held_out = None
        if not (X_val is None and y_val is None and sample_weight_val is None):
            for name, value in (("X_val", X_val), ("y_val", y_val)):
                if value is None:
                    raise ValueError(f"{name} was not provided, but other validation data was.")
            held_out = (X_val, y_val, sample_weight_val)
        self._train(X, y, sample_weight, held_out, incremental=False)
        return self

    def _train(
        self, X: Any, y: Any, sample_weight: Any, held_out: HeldOut | None, incremental: bool
    ) -> None:
        """Fit to samples; `held_out`, if given, are X_val, y_val and sample_weight_val."""
        sizes = self._hidden_sizes()
        self._refuse_contradictions(held_out)
        is_first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        labels = y
        X, y = self._validate_input(X, y, incremental, reset=is_first)
        weights = self._weights(sample_weight, X, labels, incremental)
        validation = None if held_out is None else self._checked_held_out(*held_out)
        y = y.reshape(len(y), -1)
        self.n_outputs_ = y.shape[1]
        self._random_state = check_random_state(self.random_state)
        if is_first:
            self._begin(y, [X.shape[1], *sizes, self.n_outputs_], X.dtype)
        if self._by_lbfgs():
            self._fit_at_once(X, y, weights)
        else:
            epochs = Epochs(self, X, labels)
            self._fit_by_epochs(X, y, weights, validation, incremental, epochs)
            epochs.close()
        if not all(np.isfinite(p).all() for p in self._params().values()):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may"
                " contain large values and need to be preprocessed."
            )

    # --- what is given ---

    def _hidden_sizes(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
        if any(size <= 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        return sizes

    def _by_lbfgs(self) -> bool:
        return bool(self.solver == "lbfgs")

    def _refuse_contradictions(self, held_out: HeldOut | None) -> None:
        not_for_lbfgs = {
            "optimizer": self.optimizer is not None,
            "dropout": self.dropout != 0,
            "batch_normalization": self.batch_normalization,
            "X_val": held_out is not None,
        }
        for name, is_given in not_for_lbfgs.items():
            if is_given and self._by_lbfgs():
                raise ValueError(f"{name} is for training in batches, not for solver='lbfgs'")

    def _weights(self, sample_weight: Any, X: Any, labels: Any, incremental: bool) -> Array | None:
        """Return how much each sample counts, its class included; None: all the same."""
        weights: Array | None = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, X)
        of_class = getattr(self, "class_weight", None)
        if of_class is None:
            return weights
        if incremental and isinstance(of_class, str):
            raise ValueError(
                f"class_weight={of_class!r} counts the classes of all data, of which partial_fit "
                "sees a part: give it a dict"
            )
        by_class: Array = compute_sample_weight(of_class, labels)
        return by_class if weights is None else weights * by_class

    def _checked_held_out(self, X: Any, y: Any, sample_weight: Any) -> HeldOut:
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], multi_output=True,
            y_numeric=not is_classifier(self), dtype=(np.float64, np.float32), reset=False,
        )  # fmt: skip
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X)
        return X, self._held_out_targets(y), sample_weight

    def _held_out_targets(self, y: Array) -> Array:
        if is_classifier(self):
            if y.ndim == 2 and y.shape[1] == 1:
                y = y[:, 0]
            unknown = np.setdiff1d(unique_labels(y), self.classes_)
            if len(unknown):
                raise ValueError(f"y_val has classes that y has not: {unknown}")
            y = self._label_binarizer.transform(y).astype(bool)
        return y.reshape(len(y), -1)

    # --- the first parameters, and those that are trained ---

    def _begin(self, y: Array, sizes: list[int], dtype: Any) -> None:
        """Draw the first parameters, and begin all curves."""
        for name in (*_NORMS, "validation_loss_curve_"):
            self.__dict__.pop(name, None)
        self._initialize(y, sizes, dtype)
        del self._best_coefs, self._best_intercepts  # kept in _best, where there is any
        self._best = None
        if not is_classifier(self):  # scikit-learn 1.6 knows one loss
            self.out_activation_ = "exp" if self.loss == "poisson" else "identity"
        if self.batch_normalization:
            for name, number in _NORMS.items():
                setattr(self, name, [np.full(size, number, dtype) for size in sizes[1:-1]])
        self._steps = self._seed = 0
        if self.dropout:
            self._seed = int(self._random_state.randint(np.iinfo(np.int64).max, dtype=np.int64))

    def _own_params(self) -> dict[str, Array]:
        """Return the parameters as arrays that can be trained, which the attributes then hold."""
        params = self._params()
        floats = {np.asarray(p).dtype for p in params.values()}
        dtype = np.float32 if floats == {np.dtype(np.float32)} else np.float64
        params = {key: np.require(p, dtype, ["C", "A", "W"]) for key, p in params.items()}
        self._hold(lists_of(params))
        return params

    def _net_to_train(self, params: Mapping[str, Array]) -> Network:
        loss = self.out_activation_ if is_classifier(self) else self.loss
        network = self._network(params, loss, self.dropout, self._seed)
        network.steps = self._steps
        return network

    def _hold(self, lists: Mapping[str, list[Array]]) -> None:
        for name, arrays in lists.items():
            setattr(self, name, arrays)

    # --- L-BFGS ---

    def _fit_at_once(self, X: Any, y: Array, weights: Array | None) -> None:
        """Minimize on all samples by L-BFGS, in double as scikit-learn does."""
        first = self._params()
        packed, params = packed_like(first, np.float64)
        for key, p in first.items():
            np.copyto(params[key], p)
        network = self._net_to_train(params)
        objective = Objective(network, params, Samples(X, y, weights, network), self.alpha)
        result = minimize_lbfgs(objective, packed, self)
        self.n_iter_ = _check_optimize_result("lbfgs", result, self.max_iter)
        self.loss_ = result.fun
        np.copyto(packed, result.x)
        self._hold(lists_of({key: p.copy() for key, p in params.items()}))

    # --- epochs ---

    def _fit_by_epochs(
        self,
        X: Any,
        y: Array,
        weights: Array | None,
        held_out: HeldOut | None,
        incremental: bool,
        epochs: Epochs,
    ) -> None:
        if not (incremental and hasattr(self, "_optimizer")):
            self._optimizer = Descent(self)
        for name, value in _beginnings().items():
            self.__dict__.setdefault(name, value)
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        if self.early_stopping and held_out is None:
            X, y, weights, held_out = self._split(X, y, weights)
        params = self._optimizer.params_of([*self._params().values()]) or self._own_params()
        network = self._net_to_train(params)
        objective = Objective(network, params, Samples(X, y, weights, network), self.alpha)
        validation = None if held_out is None else Validation(objective, *held_out)
        if validation is not None:
            self._begin_validation(objective)
        self._optimizer.flush()
        try:
            self._descend(objective, validation, incremental, epochs)
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=_FROM_TRAIN + 1)
        self._steps = network.steps
        restores = self.early_stopping and self._best is not None
        self._hold(self._best if restores else self._shown(objective))  # type: ignore[arg-type]
        if self._optimizer.has_averages:
            self._optimizer.go_on_from(params, [*self._params().values()])

    def _descend(
        self,
        objective: Objective,
        validation: Validation | None,
        incremental: bool,
        epochs: Epochs,
    ) -> None:
        """Go through the samples, again and again, until training ends."""
        n = objective.samples.n
        size, order = self._size_of_batches(n), np.arange(n)
        self.n_iter_ = 0
        with self._bar(incremental) as show:
            for _ in range(self.max_iter):
                epochs.begin()
                order = self._next_order(order)
                self.loss_ = objective.epoch(order, size, self._optimizer.optimizer.update)
                self.n_iter_ += 1
                self.t_ += n
                self.loss_curve_.append(self.loss_)
                losses = self._look_at(objective, validation)
                show(losses)
                self._optimizer.end_epoch(self.t_, losses.get("validation", self.loss_))
                is_last = epochs.end(lambda: self._shown(objective, copies=True))
                if self._is_converged() or is_last or incremental:
                    break
                if self.n_iter_ == self.max_iter:
                    warnings.warn(
                        f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) "
                        "reached and the optimization hasn't converged yet.",
                        ConvergenceWarning,
                        stacklevel=_FROM_TRAIN + 2,
                    )

    def _split(self, X: Any, y: Array, weights: Array | None) -> tuple[Any, Any, Any, HeldOut]:
        """Set aside a part of the samples, stratified where there is one output of classes."""
        parts = train_test_split(
            *([X, y] if weights is None else [X, y, weights]),
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=y if is_classifier(self) and self.n_outputs_ == 1 else None,
        )
        if weights is None:
            parts += [None, None]
        X, X_val, y, y_val, weights, weights_val = parts
        if X_val.shape[0] < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' "
                "or the size of your dataset."
            )
        return X, y, weights, (X_val, y_val, weights_val)

    def _size_of_batches(self, n: int) -> int:
        if self.batch_size == "auto":
            return min(200, n)
        if self.batch_size > n:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than "
                "sample size. It is going to be clipped",
                stacklevel=_FROM_TRAIN + 3,
            )
        return min(int(self.batch_size), n)

    def _next_order(self, order: Array) -> Array:
        """Return the order of the samples after another one, drawn as scikit-learn does."""
        if not self.shuffle:
            return order
        places = np.arange(len(order))
        self._random_state.shuffle(places)
        return order[places]

    def _bar(self, incremental: bool) -> AbstractContextManager[Callable[..., object]]:
        if self.verbose == "bar" and not incremental:
            return loss_bar(self.max_iter, True)
        return nullcontext(lambda losses: None)

    def _shown(self, objective: Objective, *, copies: bool = False) -> Lists:
        """Return what the attributes hold after training: the averages, where there are any."""
        params, descent = objective.params, self._optimizer
        with descent.averaged(params):
            if copies or descent.has_averages:
                params = {key: p.copy() for key, p in params.items()}
        lists = lists_of(params)
        running = objective.network.running
        if running:
            for letters, name in RUNNING.items():
                lists[name] = [running[f"{letters}{i}"].copy() for i in range(1, len(self.coefs_))]
        return lists

    # --- whether it still improves ---

    def _begin_validation(self, objective: Objective) -> None:
        """Begin the curves that a first fit without validation hasn't begun."""
        if "validation_loss_curve_" not in self.__dict__:
            self.validation_loss_curve_ = []
        if self.validation_scores_ is None:
            self.validation_scores_ = []
            self.best_validation_score_ = -np.inf
        if self.early_stopping:
            self.best_loss_ = None
            if self._best is None:
                self._best = self._shown(objective, copies=True)

    def _look_at(self, objective: Objective, validation: Validation | None) -> dict[str, float]:
        """Say how an epoch ended, and count those that were not better by `tol`."""
        losses = {"loss": self.loss_}
        if is_shown(self.verbose):
            print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
        stays = False
        if validation is not None:
            with self._optimizer.averaged(objective.params):
                score, losses["validation"] = validation.score(), validation.loss()
            stays = self._note_score(score, objective)
            self.validation_loss_curve_.append(losses["validation"])
        if not self.early_stopping:
            best = math.inf if self.best_loss_ is None else self.best_loss_
            stays = bool(self.loss_ > best - self.tol)
            self.best_loss_ = self.loss_ if self.loss_ < best else best
        self._no_improvement_count = self._no_improvement_count + 1 if stays else 0
        return losses

    def _note_score(self, score: float, objective: Objective) -> bool:
        """Note a validation's score, and tell whether it is not better by `tol`."""
        self.validation_scores_.append(score)
        if is_shown(self.verbose):
            print(f"Validation score: {score:f}")
        stays = score < self.best_validation_score_ + self.tol
        if score > self.best_validation_score_:
            self.best_validation_score_ = score
            if self.early_stopping:
                self._best = self._shown(objective, copies=True)
        return bool(stays)

    def _is_converged(self) -> bool:
        """Tell whether training ends where it no longer improves; it may go on more slowly."""
        if self._no_improvement_count <= self.n_iter_no_change:
            return False
        what = "Validation score" if self.early_stopping else "Training loss"
        message = (
            f"{what} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} "
            "consecutive epochs."
        )
        if self._optimizer.stops(message, is_shown=is_shown(self.verbose)):
            return True
        self._no_improvement_count = 0
        return False


def _beginnings() -> dict[str, Any]:
    """Return what epochs add to where nothing began it: after L-BFGS, or weights set by hand."""
    return {
        "t_": 0, "loss_curve_": [], "best_loss_": math.inf, "_no_improvement_count": 0,
        "validation_scores_": None, "best_validation_score_": None,
    }  # fmt: skip


class Validation:
    """Samples that are not trained on, and how good the net is on them.

    Parameters
    ----------
    objective : Objective
        Whose net and parameters are meant.
    X, y, weights : arrays
        The samples, their targets as `Samples` takes them, and their weights, if any.
    """

    def __init__(self, objective: Objective, X: Any, y: Array, weights: Array | None) -> None:
        self._network, self._params = objective.network, objective.params
        self._samples = Samples(X, y, weights, self._network)
        self._y = y

    def score(self) -> float:
        """Return the accuracy, of several labels the share of rows that are right; or R²."""
        network, samples = self._network, self._samples
        scores = predict(network, self._params, samples.x)
        if network.loss == "softmax":
            measure, true, given = accuracy_score, samples.t, scores.argmax(axis=1)
        elif network.loss == "logistic":
            measure, true, given = accuracy_score, self._y, scores > 0
        else:
            measure, true, given = r2_score, self._y, _layers.predictions(network.loss, scores)
            if not np.isfinite(given).all():
                return math.nan
        return float(measure(true, given, sample_weight=samples.weights))

    def loss(self) -> float:
        """Return the loss, without penalty."""
        return mean_loss(self._network, self._params, self._samples)
