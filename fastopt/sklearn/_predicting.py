"""How an estimator predicts: by a net with the parameters that its public attributes hold.

How they came about belongs in _fitting.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from fastopt import _layers, _net
from fastopt._net import Network
from fastopt.sklearn._samples import predict

__all__ = ["ACTIVATIONS", "RUNNING", "Lists", "Predicting", "lists_of"]

Array = NDArray[Any]
Lists = dict[str, list[Array]]

# The attributes that hold the parameters, by their names in a net, before the layer's number
_PARAMETERS = {"W": "coefs_", "b": "intercepts_"}
_OF_NORMS = {"gamma": "gammas_", "beta": "betas_"}
RUNNING = {"mean": "running_means_", "var": "running_variances_"}

# The losses whose predictions are what an output activation gives
_LOSSES = {"softmax": "softmax", "logistic": "logistic", "exp": "poisson"}
_OTHER_LOSS = "squared_error"

# scikit-learn's names of activations where nets have another one, and all names
_AS_NETS_SAY = {"logistic": "sigmoid"}
ACTIVATIONS = {*_net.activations, *_AS_NETS_SAY} - {*_AS_NETS_SAY.values()}

_FLOATS = (np.dtype(np.float64), np.dtype(np.float32))
_FEW = 4096  # values, of which BLAS adds the squares faster than NumPy looks at each

# Not attributes: copies and pickles go without
_networks: WeakKeyDictionary[Any, Network] = WeakKeyDictionary()


class Predicting(ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """The part of an estimator that predicts; it stands before scikit-learn's class."""

    activation: str
    coefs_: list[Array]
    intercepts_: list[Array]
    out_activation_: str

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> Array:
        """Return what the output activation gives; scikit-learn's methods make the rest of it."""
        if check_input:
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        return self._output(self._scores(X))

    def _output(self, scores: Array) -> Array:
        name = self.out_activation_
        if name == "identity":
            return scores
        if name in _LOSSES:
            return _layers.predictions(_LOSSES[name], scores)
        return _layers.activation_forward(_AS_NETS_SAY.get(name, name), scores)[0]

    def _needs_no_checks(self, X: Any) -> bool:
        """Tell of an array that `validate_data` would return as it is.

        Its checks take some ten times as long as a net for one row.
        """
        return (
            type(X) is np.ndarray
            and X.ndim == 2
            and X.dtype in _FLOATS
            and "coefs_" in self.__dict__
            and "feature_names_in_" not in self.__dict__
            and X.shape[1] == self.__dict__.get("n_features_in_")
            and len(X) > 0
            and _is_finite(X)
        )

    def _scores(self, X: Any) -> Array:
        """Return the net's output before its activation."""
        params = self._params()
        if any(type(p) is not np.ndarray or p.dtype != X.dtype for p in params.values()):
            params = _converted(params, X.dtype)
        network = _networks.get(self)
        if network is None or not _fits(network, self.activation, params):
            network = self._network(params, _LOSSES.get(self.out_activation_, _OTHER_LOSS))
            _networks[self] = network
        elif network.running:
            self._restore_running(network)
        return predict(network, params, X)

    def _params(self) -> dict[str, Array]:
        """Return the parameters as the attributes hold them, by the net's keys."""
        params = {}
        for letter, name in _PARAMETERS.items():
            for i, p in enumerate(getattr(self, name), 1):
                params[f"{letter}{i}"] = p
        if "gammas_" in self.__dict__:
            for letter, name in _OF_NORMS.items():
                for i, p in enumerate(getattr(self, name), 1):
                    params[f"{letter}{i}"] = p
        return params

    def _network(
        self, params: Mapping[str, Array], loss: str, dropout: float = 0.0, seed: int = 0
    ) -> Network:
        """Return a net for parameters, with the running averages that the attributes hold."""
        n_layers = sum(key[0] == "W" for key in params)
        sizes = (len(params["W1"]), *[len(params[f"b{i}"]) for i in range(1, n_layers + 1)])
        activation = _AS_NETS_SAY.get(self.activation, self.activation)
        has_norms = "gamma1" in params
        dtype = params["W1"].dtype
        network = Network(sizes, activation, loss, dtype, has_norms, dropout, seed)
        self._restore_running(network)
        return network

    def _restore_running(self, network: Network) -> None:
        if network.running:
            for letters, name in RUNNING.items():
                for i, average in enumerate(getattr(self, name), 1):
                    if f"{letters}{i}" in network.running:
                        np.copyto(network.running[f"{letters}{i}"], average)

    # --- the last hidden layer ---

    def transform(self, X: Any) -> Array:
        """Return the output of the last hidden layer: what the last weights are applied to.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)
            Samples, as for `predict`.

        Returns
        -------
        array (n_samples, n_hidden)
            After the activation; of the samples' dtype where the parameters are of it, too.

        Raises
        ------
        ValueError
            There is no hidden layer, or the samples are not as in `fit`.
        sklearn.exceptions.NotFittedError
            The estimator is not fitted.
        """
        check_is_fitted(self)
        n_hidden = len(self.coefs_) - 1
        if not n_hidden:
            raise ValueError("there is no hidden layer: hidden_layer_sizes is empty")
        X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        params = _converted(self._params(), X.dtype)
        gamma, beta = [params.pop(f"{letter}{n_hidden}", None) for letter in _OF_NORMS]
        inner = {key: p for key, p in params.items() if not key.endswith(str(n_hidden + 1))}
        values = predict(self._network(inner, _OTHER_LOSS), inner, X)
        if gamma is not None and beta is not None:
            mean, variance = [getattr(self, name)[-1] for name in RUNNING.values()]
            values, _ = _layers.batchnorm_forward(values, gamma, beta, mean, variance, False)
        return _layers.activation_forward(
            _AS_NETS_SAY.get(self.activation, self.activation), values
        )[0]

    @property
    def _n_features_out(self) -> int:
        return len(self.coefs_[-1])


def lists_of(params: Mapping[str, Array]) -> Lists:
    """Return parameters by the attributes that hold them."""
    names = _PARAMETERS | (_OF_NORMS if "gamma1" in params else {})
    return {
        name: [p for key, p in params.items() if key.rstrip("0123456789") == letter]
        for letter, name in names.items()
    }


def _is_finite(X: Array) -> bool:
    """Tell whether all is finite. Not of large numbers, whose squares are not."""
    return math.isfinite(np.vdot(X, X)) if X.size <= _FEW else bool(np.isfinite(X).all())


def _converted(params: dict[str, Array], *given: Any) -> dict[str, Array]:
    """Return parameters as arrays of the dtype that NumPy would compute with, as nets take it."""
    arrays = {key: np.asarray(p) for key, p in params.items()}
    dtype = np.result_type(*given, *[p.dtype for p in arrays.values()])
    if dtype != np.float32:
        dtype = np.dtype(np.float64)
    return {key: p.astype(dtype, copy=False) for key, p in arrays.items()}


def _fits(network: Network, activation: str, params: Mapping[str, Array]) -> bool:
    """Tell whether a net is one for these parameters."""
    return bool(
        network.activation == _AS_NETS_SAY.get(activation, activation)
        and network.dtype == params["W1"].dtype
        and network.shapes == {key: p.shape for key, p in params.items()}
    )
