# The public classes: their parameters, documentation, and what only one of the two does.
# What both do is in _fitting.py and _predicting.py.
#
# Both are scikit-learn's own classes, too. So what takes those takes these; parameters out of
# range, classes and features that don't fit, and a call too early are refused in the words of the
# scikit-learn that is installed; tags, metadata routing, repr and HTML are its own. What trains and
# predicts is fastopt's. Private names of scikit-learn's that are used, the same from 1.6 to 1.9: of
# the classes `_parameter_constraints`, `_check_solver`, `_validate_input`, `_initialize` (the first
# parameters, in its order of random draws), `_forward_pass_fast` (which its `predict` and
# `predict_proba` call), `_label_binarizer` and `_random_state`; of its modules `_fit_context`,
# `_param_validation`, `_check_sample_weight`, `_check_partial_fit_first_call` and
# `_check_optimize_result`. Methods whose arguments differ between versions are not among them.
"""scikit-learn's multi-layer perceptrons on fastopt's nets and optimizers.

`MLPClassifier` and `MLPRegressor` take the place of those of `sklearn.neural_network`.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    from sklearn import neural_network
    from sklearn.base import _fit_context
    from sklearn.preprocessing import LabelBinarizer
    from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
    from sklearn.utils.metaestimators import available_if
    from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target
    from sklearn.utils.validation import validate_data as _since_1_6  # noqa: F401
except ImportError as error:
    raise ImportError(
        "fastopt.sklearn needs scikit-learn 1.6 or later: pip install 'fastopt[sklearn]'"
    ) from error

from fastopt.sklearn._documentation import documented
from fastopt.sklearn._fitting import Fitting
from fastopt.sklearn._predicting import ACTIVATIONS
from fastopt.sklearn._solvers import named_optimizers

__all__ = ["MLPClassifier", "MLPRegressor"]

Array = NDArray[Any]

_MORE_CONSTRAINTS: dict[str, list[Any]] = {
    "activation": [StrOptions(ACTIVATIONS)],
    "verbose": ["verbose", StrOptions({"bar"})],
    "optimizer": [StrOptions({*named_optimizers()}), HasMethods("update"), None],
    "dropout": [Interval(Real, 0, 1, closed="left")],
    "batch_normalization": ["boolean"],
}


@documented
class MLPClassifier(Fitting, neural_network.MLPClassifier):
    """Classifier: a fully connected net that minimizes the log loss.

    It takes the place of `sklearn.neural_network.MLPClassifier`: exchange the import.

    Parameters
    ----------
    {parameters}
    class_weight : dict, list of dicts or 'balanced', optional
        What the weights of samples are multiplied with, by class: ``{label: weight}``, of several
        labels a list of these; 'balanced' weighs classes by the inverse of how many samples they
        have. It counts as a `sample_weight` would.

    Attributes
    ----------
    classes_ : array (n_classes,), or list of them
        The class labels, sorted.
    {attributes}

    Notes
    -----
    {notes}

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from fastopt.sklearn import MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MLPClassifier((16,), optimizer="adamw", learning_rate_init=0.05, random_state=0)
    >>> model.fit(X, y).score(X, y) > 0.95
    True
    >>> model.predict_proba(X[:2]).shape, model.transform(X[:2]).shape
    ((2, 3), (2, 16))
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **neural_network.MLPClassifier._parameter_constraints,
        **_MORE_CONSTRAINTS,
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int | str = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        optimizer: Any = None,
        dropout: float = 0.0,
        batch_normalization: bool = False,
        class_weight: Any = None,
    ) -> None:
        super().__init__(
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            max_fun=max_fun,
        )
        self.optimizer = optimizer
        self.dropout = dropout
        self.batch_normalization = batch_normalization
        self.class_weight = class_weight

    @available_if(lambda estimator: estimator._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None
    ) -> MLPClassifier:
        """Go through samples once, from where the estimator is.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)
            Samples.
        y : array-like (n_samples,) or (n_samples, n_labels)
            Their classes.
        sample_weight : array-like (n_samples,), optional
            How much each counts.
        classes : array-like (n_classes,)
            All classes that there will be; needed in the first call.

        Returns
        -------
        MLPClassifier
            Itself.

        Raises
        ------
        ValueError
            A parameter or the data are not as described in `fit`, or y has a class that is not
            among `classes`; there is `early_stopping`.
        AttributeError
            The solver is 'lbfgs', which has no epochs.
        """
        if _check_partial_fit_first_call(self, classes):
            is_multilabel = type_of_target(y).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(y if is_multilabel else classes)
        self._train(X, y, sample_weight, None, incremental=True)
        return self

    def predict(self, X: Any) -> Any:
        """Return the classes.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)
            Samples.

        Returns
        -------
        array (n_samples,) or (n_samples, n_labels)
            The most probable class of each sample; of several labels 1 where it is more probable
            than not.

        Raises
        ------
        ValueError
            The samples are not as in `fit`.
        sklearn.exceptions.NotFittedError
            The estimator is not fitted.
        """
        if not self._needs_no_checks(X):
            return super().predict(X)
        scores = self._scores(X)
        if self.out_activation_ == "softmax":
            return self.classes_[scores.argmax(axis=1)]
        if len(self.classes_) == 2 and scores.shape[1] == 1 and self.out_activation_ == "logistic":
            return self.classes_[(scores[:, 0] > 0).astype(np.intp)]
        return super().predict(X)

    def predict_proba(self, X: Any) -> Array:
        """Return the probabilities of the classes.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)
            Samples.

        Returns
        -------
        array (n_samples, n_classes)
            In the order of `classes_`; of several labels that of each.

        Raises
        ------
        ValueError
            The samples are not as in `fit`.
        sklearn.exceptions.NotFittedError
            The estimator is not fitted.
        """
        if not self._needs_no_checks(X):
            return super().predict_proba(X)  # type: ignore[no-any-return]
        given: Array = self._forward_pass_fast(X, check_input=False)
        if self.n_outputs_ != 1:
            return given
        both = np.empty((len(X), 2), given.dtype)
        np.subtract(1, given[:, 0], out=both[:, 0])
        both[:, 1] = given[:, 0]
        return both

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithms of `predict_proba`.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)
            Samples.

        Returns
        -------
        array (n_samples, n_classes)
            -inf where a probability is 0.

        Raises
        ------
        ValueError
            The samples are not as in `fit`.
        sklearn.exceptions.NotFittedError
            The estimator is not fitted.
        """
        return super().predict_log_proba(X)  # type: ignore[no-any-return]


@documented
class MLPRegressor(Fitting, neural_network.MLPRegressor):
    """Regressor: a fully connected net that minimizes a loss of one or several numbers.

    It takes the place of `sklearn.neural_network.MLPRegressor`: exchange the import.

    Parameters
    ----------
    loss : {'squared_error', 'absolute_error', 'huber', 'poisson'}
        Weighted means over the samples. Of the difference d of prediction and target: ½d²; abs d;
        Huber's, ½d² where abs d is below 1, and abs d - ½ beyond; or half of Poisson's deviance,
        for targets ≥ 0, of predictions that are exponentials of the net's output. Of several
        outputs the gradient is that of the sum; `loss_` is their mean, and Poisson's their sum.
    {parameters}

    Attributes
    ----------
    {attributes}

    Notes
    -----
    {notes}

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from fastopt.sklearn import MLPRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = MLPRegressor("huber", (32,), learning_rate_init=0.03, random_state=0)
    >>> model.fit(X, y / y.std()).score(X, y / y.std()) > 0.5
    True
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **neural_network.MLPRegressor._parameter_constraints,
        **_MORE_CONSTRAINTS,
        "loss": [StrOptions({"squared_error", "absolute_error", "huber", "poisson"})],
    }

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int | str = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        optimizer: Any = None,
        dropout: float = 0.0,
        batch_normalization: bool = False,
    ) -> None:
        super().__init__(
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            max_fun=max_fun,
        )
        self.loss = loss
        self.optimizer = optimizer
        self.dropout = dropout
        self.batch_normalization = batch_normalization

    @available_if(lambda estimator: estimator._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> MLPRegressor:
        """Go through samples once, from where the estimator is.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)
            Samples.
        y : array-like (n_samples,) or (n_samples, n_outputs)
            Their targets.
        sample_weight : array-like (n_samples,), optional
            How much each counts.

        Returns
        -------
        MLPRegressor
            Itself.

        Raises
        ------
        ValueError
            A parameter or the data are not as described in `fit`; there is `early_stopping`.
        AttributeError
            The solver is 'lbfgs', which has no epochs.
        """
        self._train(X, y, sample_weight, None, incremental=True)
        return self

    def predict(self, X: Any) -> Array:
        """Return the predicted numbers.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)
            Samples.

        Returns
        -------
        array (n_samples,) or (n_samples, n_outputs)
            Of the loss 'poisson' the exponential of the net's output.

        Raises
        ------
        ValueError
            The samples are not as in `fit`.
        sklearn.exceptions.NotFittedError
            The estimator is not fitted.
        """
        if not self._needs_no_checks(X):
            return super().predict(X)  # type: ignore[no-any-return]
        given = self._forward_pass_fast(X, check_input=False)
        return given[:, 0] if given.shape[1] == 1 else given
