"""What the documentation of both estimators has in common.

What only one of them has is in its docstring, in fastopt/sklearn/__init__.py.
"""

from __future__ import annotations

import re
import textwrap
from typing import TypeVar

__all__ = ["documented"]

Class = TypeVar("Class", bound=type)

_PARAMETERS = """\
hidden_layer_sizes : array-like of int, or int
    Units of each hidden layer. With none, ``()``, the model is linear.
activation : {'identity', 'logistic', 'tanh', 'relu', 'leaky_relu', 'gelu', 'silu'}
    Of the hidden layers: x; 1/(1 + exp(-x)); tanh x; max(0, x); that with a slope of 0.01 below
    0; x·Φ(x) of the normal distribution; x/(1 + exp(-x)).
solver : {'adam', 'sgd', 'lbfgs'}
    What minimizes, unless `optimizer` says so: scikit-learn's Adam; its SGD, which is
    `Momentum` or `Nesterov`; or L-BFGS of SciPy, on all samples at once.
alpha : float
    Factor of the penalty 0.5·alpha·ΣW², which is divided by the batch's number of samples, or
    the sum of their weights. Biases are not penalized.
batch_size : int or 'auto'
    Samples in a step; 'auto' is 200, or all if there are fewer.
learning_rate : {'constant', 'invscaling', 'adaptive'}
    What becomes of the learning rate: nothing; after each epoch it is the first one divided by
    (samples seen + 1)^power_t; where training would end, it is divided by 5 until it is 1e-6.
    Of 'sgd' and of `optimizer`.
learning_rate_init : float
    The learning rate, at first, of the solver, and of an optimizer that is named.
power_t : float
    Exponent of 'invscaling'.
max_iter : int
    Most epochs, or iterations of L-BFGS.
shuffle : bool
    Whether each epoch has the samples in a new order.
random_state : int, RandomState or None
    Source of the first parameters, of dropout, of the part set aside, and of the orders.
tol : float
    An epoch that is not better than the best so far by this is counted; see `n_iter_no_change`.
    The tolerance of L-BFGS.
verbose : bool, int or 'bar'
    Whether each epoch is printed; 'bar' shows a progress bar instead, by tqdm.
warm_start : bool
    Whether `fit` begins from where the estimator is.
momentum : float
    Of 'sgd', from 0 to 1.
nesterovs_momentum : bool
    Whether 'sgd' looks ahead.
early_stopping : bool
    Whether a validation says when training ends, whose best parameters are then restored.
validation_fraction : float
    Share of the samples that is set aside for it, where `fit` is not given any.
beta_1, beta_2, epsilon : float
    Of 'adam'.
n_iter_no_change : int
    Training ends after more than so many epochs in a row that were not better.
max_fun : int
    Most evaluations of L-BFGS.
optimizer : str or optimizer, optional
    Of fastopt, in place of `solver`: a name in small letters, such as 'adamw', which has
    `learning_rate_init` and else its defaults; or an object with its settings and schedules,
    such as ``fastopt.AdamW(lr=fastopt.schedules.cosine(1e-3, 5000))``, of which a copy is used.
    Its `groups` know the parameters as W1, b1, W2, b2, ….
dropout : float
    Share of each hidden layer's output that is dropped in training.
batch_normalization : bool
    Whether hidden layers normalize each batch before the activation."""

_ATTRIBUTES = """\
coefs_, intercepts_ : lists of arrays
    Weights (units before, units) and biases of each layer. Predictions are by what they hold.
gammas_, betas_, running_means_, running_variances_ : lists of arrays
    Of each hidden layer, with `batch_normalization`: factor and summand after normalizing, and
    the averages that predictions normalize with.
loss_ : float
    The loss of the last epoch, penalty included: the mean over its batches, each before its
    step.
best_loss_ : float or None
    The smallest; None with `early_stopping`.
loss_curve_ : list of float
    Those of all epochs.
validation_scores_, best_validation_score_ : list of float, float
    Accuracy, or R², of the validation after each epoch; None without.
validation_loss_curve_ : list of float
    Its loss, without penalty; only where there is a validation.
t_ : int
    Samples seen.
n_iter_ : int
    Epochs, or iterations, of the last call.
n_layers_ : int
    Layers, input and output included.
n_outputs_ : int
    Outputs.
out_activation_ : str
    Output activation.
n_features_in_ : int
    Features.
feature_names_in_ : array of str
    Their names, if they have any."""

_NOTES = """\
With scikit-learn's own parameters the same `random_state` gives the same first parameters,
batches and part set aside, so that all results are scikit-learn's to rounding, as long as
training is not chaotic. A sparse matrix is made dense a batch at a time.

An optimizer that averages its parameters, by ``ema``, leaves the averages in `coefs_`;
`partial_fit` goes on from what was averaged. The net by itself is `fastopt.MultiLayerNet`."""


def documented(cls: Class) -> Class:
    """Put what both have in common into a class's docstring, as deep as its placeholders stand."""
    texts = {"parameters": _PARAMETERS, "attributes": _ATTRIBUTES, "notes": _NOTES}
    if cls.__doc__:  # not with -OO

        def text(found: re.Match[str]) -> str:
            return textwrap.indent(texts[found[2]], found[1])

        cls.__doc__ = re.sub(r"( *)\{(parameters|attributes|notes)\}", text, cls.__doc__)
    return cls
