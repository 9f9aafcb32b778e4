"""Adam and its relatives: a learning rate for each entry, and a velocity.

A declaration, shared with the twin in `fastopt.reference`, stands before the class that users see.
"""

from __future__ import annotations

from math import sqrt

from fastopt._checks import fraction, non_negative, switch
from fastopt.optimizers._base import Optimizer
from fastopt.optimizers._declared import Coefficients, Declared, Number, State, hyper, option, state

__all__ = ["Adam", "AdamW"]


class AdamSettings(Declared):
    lr: Number = hyper(non_negative, default=0.001)
    beta1: Number = hyper(fraction, default=0.9)
    beta2: Number = hyper(fraction, default=0.999)
    eps: Number = hyper(non_negative, default=1e-7)
    m: State = state()
    v: State = state()

    _rule_name = "adam"

    def _coefficients(self, t: float) -> Coefficients:
        beta1, beta2 = self.beta1, self.beta2
        lr_t = self.lr * sqrt(1.0 - beta2**t) / (1.0 - beta1**t)
        return lr_t, 1.0 - beta1, 1.0 - beta2, self.eps


class Adam(AdamSettings, Optimizer):
    """Moving averages of gradient and squared gradient, corrected for their start at zero.

    iter += 1; lr_t = lr·√(1-beta2^iter)/(1-beta1^iter); m += (1-beta1)(g-m);
    v += (1-beta2)(g²-v); p -= lr_t·m / (√v + eps).

    Parameters
    ----------
    lr : float or schedule
        Learning rate, finite and ≥ 0, in units of the parameters: the gradients' own unit cancels.
    beta1, beta2 : float or schedule
        Shares of m and v that are kept, in [0, 1).
    eps : float or schedule
        Added to the root, finite and ≥ 0.

    Attributes
    ----------
    m : dict of key to array
        Moving averages of the gradients, of the parameters' shapes and dtypes; zeros before a
        parameter's first step.
    v : dict of key to array
        Those of the squared gradients.
    iter : int
        Steps taken, of the optimizer: a parameter that joins later is corrected as if it had been
        there from the start. May be set, as after loading m and v from a file.

    {shared}

    Notes
    -----
    Adam of Kingma and Ba (2015), in the form that ends their section 2: the correction for the
    start at zero is in the learning rate lr_t, and eps is added to the uncorrected √v. Their
    algorithm 1 adds its eps after the correction; the two agree when that eps is
    eps / √(1-beta2^iter), which falls from 3.2e-6 at the first step to 1e-7 at the default.

    References
    ----------
    - Diederik P. Kingma and Jimmy Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> params, grads = {"W": np.array([1.0, 2.0])}, {"W": np.array([3.0, -0.5])}
    >>> optimizer = fastopt.Adam(lr=0.1)
    >>> optimizer.update(params, grads)
    >>> params["W"].round(4), optimizer.iter
    (array([0.9, 2.1]), 1)
    >>> optimizer.lr = 0.01  # or a schedule
    >>> optimizer.update(params, grads)
    >>> params["W"].round(4), optimizer.iter
    (array([0.89, 2.11]), 2)
    """


class AdamWSettings(AdamSettings):
    weight_decay: Number = option(non_negative, default=0.01, kw_only=True)
    decoupled: bool = option(switch, default=True, kw_only=True, may_vary=False)


class AdamW(AdamWSettings, Optimizer):
    """`Adam` with a decay of the weights apart from their gradients: p = (1 - lr·weight_decay)·p.

    The decay comes before Adam's step, whose averages don't see it.

    Parameters
    ----------
    lr : float or schedule
        Learning rate, finite and ≥ 0, in units of the parameters; the decay is in proportion.
    beta1, beta2 : float or schedule
        Shares of m and v that are kept, in [0, 1).
    eps : float or schedule
        Added to the root, finite and ≥ 0.

    Attributes
    ----------
    m : dict of key to array
        Moving averages of the gradients, of the parameters' shapes and dtypes; zeros before a
        parameter's first step.
    v : dict of key to array
        Those of the squared gradients.

    {shared}

    Notes
    -----
    `Adam` with two other defaults: ``weight_decay=0.01`` and ``decoupled=True``. In proportion to
    lr, as in torch and Keras; the paper has a schedule of its own there. A decay through the
    gradient, as ``Adam(weight_decay=…)`` has it, is divided by the root like the rest of the
    gradient, and so is weaker where gradients are large.

    References
    ----------
    - I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> params, grads = {"W": np.array([1.0, 2.0])}, {"W": np.array([3.0, -0.5])}
    >>> fastopt.AdamW(lr=0.1, weight_decay=0.5).update(params, grads)
    >>> params["W"].round(4)  # 5 % less, then Adam's step
    array([0.85, 2.  ])
    """
