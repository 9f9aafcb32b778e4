"""What both estimators have in common: how they are fitted, and how they predict.

Each one's parameters and documentation are in fastopt/sklearn/__init__.py.

Both are scikit-learn's own classes, too: what takes one of those takes these, a parameter out of
range is refused in the words of the scikit-learn that is installed, and so are classes that don't
fit, features that don't, a call too early. What trains and predicts is written here. Of
scikit-learn's private names these are used, all of which are the same from 1.6 to 1.9: of the
classes `_parameter_constraints`, `_validate_input` (data, and their classes), `_initialize` (the
first parameters, in its order of random draws), `_forward_pass_fast` (which its `predict` and
`predict_proba` call) and the attributes `_label_binarizer`, `_random_state`, `_optimizer`,
`_best_coefs`, `_best_intercepts`, `_no_improvement_count`; and of its modules `_fit_context`,
`_check_sample_weight`, `_check_partial_fit_first_call`, `_check_optimize_result`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.optimize import _check_optimize_result
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fastopt import _net
from fastopt._progress import loss_bar
from fastopt.sklearn._objective import Objective, mean_loss, packed_like
from fastopt.sklearn._samples import Samples, predict
from fastopt.sklearn._solvers import Descent, minimize_lbfgs

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for the callbacks that this scikit-learn doesn't have."""


__all__ = ["ACTIVATIONS", "Perceptron", "class_weights"]

Array = NDArray[Any]
Lists = dict[str, list[Array]]

# The net's names of parameters, before their number, and the attributes that hold them
_ATTRIBUTES = {"W": "coefs_", "b": "intercepts_"}
_ATTRIBUTES_OF_NORMS = {"gamma": "gammas_", "beta": "betas_"}
_RUNNING = {"mean": "running_means_", "var": "running_variances_"}

# The net's losses, whose predictions are what an output activation gives
_LOSSES = {"softmax": "softmax", "logistic": "logistic", "exp": "poisson"}

# scikit-learn's name for what nets call the sigmoid
_LOGISTIC = "logistic"
ACTIVATIONS = {*_net.activations, _LOGISTIC} - {"sigmoid"}


class Perceptron(CallbackSupportMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """What `MLPClassifier` and `MLPRegressor` share; it stands before scikit-learn's class."""

    # --- fitting ---

    def _train(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        *,
        incremental: bool,
        held_out: tuple[Any, Any, Any] = (None, None, None),
    ) -> Any:
        sizes = self._hidden_sizes()
        self._refuse_contradictions(held_out)
        is_first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        given = y
        X, y = self._validate_input(X, y, incremental, reset=is_first)
        weights = self._weights(sample_weight, X, given, incremental)
        y = y.reshape(len(y), -1)
        self.n_outputs_ = y.shape[1]
        self._random_state = check_random_state(self.random_state)
        if is_first:
            self._begin(y, [X.shape[1], *sizes, self.n_outputs_], X.dtype)
        if self._is_lbfgs():
            self._fit_by_lbfgs(X, y, weights)
        else:
            with self._told(X, given) as epochs:
                self._fit_by_epochs(X, y, weights, incremental, self._held_out(*held_out), epochs)
        if not all(np.isfinite(p).all() for p in self._params().values()):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may"
                " contain large values and need to be preprocessed."
            )
        return self

    def _hidden_sizes(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
        if any(size <= 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        return sizes

    def _is_lbfgs(self) -> bool:
        return bool(self.solver == "lbfgs")

    def _refuse_contradictions(self, held_out: tuple[Any, Any, Any]) -> None:
        X_val, y_val, sample_weight_val = held_out
        if self._is_lbfgs():
            for name, value in {
                "optimizer": self.optimizer is not None,
                "dropout": self.dropout != 0,
                "batch_normalization": self.batch_normalization,
                "X_val": X_val is not None,
            }.items():
                if value:
                    raise ValueError(
                        f"{name} is of trainings that go by batches, and so not with solver='lbfgs'"
                    )
        if (X_val is None) != (y_val is None):
            there, missing = ("X_val", "y_val") if y_val is None else ("y_val", "X_val")
            raise ValueError(f"{there} is provided, but {missing} was not provided.")
        if sample_weight_val is not None and X_val is None:
            raise ValueError("sample_weight_val is provided, but X_val was not provided.")

    def _weights(self, sample_weight: Any, X: Any, y: Any, incremental: bool) -> Array | None:
        """Return how much each sample counts, those of the classes multiplied in; None: the same."""
        weights: Array | None = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, X)
        by_class = getattr(self, "class_weight", None)
        if by_class is None:
            return weights
        if incremental and isinstance(by_class, str):
            raise ValueError(
                f"class_weight={by_class!r} would need the classes of all data, of which "
                "partial_fit sees a part: give it a dict of weights"
            )
        of_classes = compute_sample_weight(by_class, y)
        return of_classes if weights is None else weights * of_classes

    def _begin(self, y: Array, sizes: list[int], dtype: np.dtype[Any]) -> None:
        """Draw the first parameters, and begin the curves."""
        for name in (*_ATTRIBUTES_OF_NORMS.values(), *_RUNNING.values(), "validation_loss_curve_"):
            self.__dict__.pop(name, None)
        self._initialize(y, sizes, dtype)
        del self._best_coefs, self._best_intercepts
        self._best: Lists | None = None
        if not is_classifier(self):  # scikit-learn 1.6 knows one loss alone
            self.out_activation_ = "exp" if self.loss == "poisson" else "identity"
        if self.batch_normalization:
            hidden = sizes[1:-1]
            self.gammas_ = [np.ones(size, dtype) for size in hidden]
            self.betas_ = [np.zeros(size, dtype) for size in hidden]
            self.running_means_ = [np.zeros(size, dtype) for size in hidden]
            self.running_variances_ = [np.ones(size, dtype) for size in hidden]
        self._seed, self._steps = 0, 0
        if self.dropout:
            self._seed = int(self._random_state.randint(np.iinfo(np.int64).max, dtype=np.int64))

    def _fit_by_lbfgs(self, X: Any, y: Array, weights: Array | None) -> None:
        """Minimize on all samples at once, in double as scikit-learn does."""
        first = self._params()
        packed, params = packed_like(first, np.float64)
        for key, p in first.items():
            np.copyto(params[key], p)
        network = self._network(params)
        objective = Objective(network, params, Samples(X, y, weights, network), self.alpha)
        result = minimize_lbfgs(objective, packed, self)
        self.n_iter_ = _check_optimize_result("lbfgs", result, self.max_iter)
        self.loss_ = result.fun
        np.copyto(packed, result.x)
        self._show({key: p.copy() for key, p in params.items()})

    def _fit_by_epochs(
        self,
        X: Any,
        y: Array,
        weights: Array | None,
        incremental: bool,
        held_out: tuple[Any, Array, Array | None] | None,
        epochs: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        if not incremental or not hasattr(self, "_optimizer"):
            self._optimizer = Descent(self)
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        if self.early_stopping and held_out is None:
            X, y, weights, held_out = self._split(X, y, weights)
        params = self._own_params()
        network = self._network(params)
        network.steps = self._steps
        validation = None
        if held_out is not None:
            validation = _Validation(Samples(*held_out, network), held_out[1], network)
            self._begin_validation()
        objective = Objective(network, params, Samples(X, y, weights, network), self.alpha)
        self._optimizer.flush()
        try:
            self._descend(objective, validation, incremental, epochs)
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=4)
        finally:
            self._steps = network.steps
        if self.early_stopping:
            self._set(self._best)
        else:
            self._show_trained(objective)
