"""A learning rate for each entry, by the sizes of its gradients.

A declaration, shared with the twin in `fastopt.reference`, stands before the class that users see.
"""

from __future__ import annotations

from fastopt._checks import fraction, non_negative
from fastopt.optimizers._base import Optimizer
from fastopt.optimizers._declared import Coefficients, Declared, Number, State, hyper, state

__all__ = ["AdaGrad", "RMSprop"]


class AdaGradSettings(Declared):
    lr: Number = hyper(non_negative, default=0.01)
    eps: Number = hyper(non_negative, default=1e-7)
    h: State = state()

    _rule_name = "adagrad"
    _is_constant = True

    def _coefficients(self, t: float) -> Coefficients:
        return self.lr, self.eps


class AdaGrad(AdaGradSettings, Optimizer):
    """A rate for each entry, shrinking with its gradients: h += g·g; p -= lr·g / (√h + eps).

    Parameters
    ----------
    lr : float or schedule
        Learning rate, finite and ≥ 0, in units of the parameters: the gradients' own unit cancels.
    eps : float or schedule
        Added to the root, finite and ≥ 0.

    Attributes
    ----------
    h : dict of key to array
        Sums of squared gradients, of the parameters' shapes and dtypes; zeros before a parameter's
        first step.

    {shared}

    Notes
    -----
    The diagonal form of Duchi, Hazan and Singer (2011); eps is added to the root. An entry moves by
    lr at its first step, whatever its gradient, and by less at each later one of the same size.

    References
    ----------
    - J. Duchi, E. Hazan and Y. Singer, "Adaptive Subgradient Methods for Online Learning and
      Stochastic Optimization", Journal of Machine Learning Research 12, 2011.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> params, grads = {"W": np.array([1.0, 2.0])}, {"W": np.array([3.0, -0.5])}
    >>> optimizer = fastopt.AdaGrad(lr=0.1)
    >>> optimizer.update(params, grads)
    >>> params["W"].round(6), optimizer.h["W"]
    (array([0.9, 2.1]), array([9.  , 0.25]))
    """


class RMSpropSettings(Declared):
    lr: Number = hyper(non_negative, default=0.01)
    decay_rate: Number = hyper(fraction, default=0.99)
    eps: Number = hyper(non_negative, default=1e-7)
    h: State = state()

    _rule_name = "rmsprop"
    _is_constant = True

    def _coefficients(self, t: float) -> Coefficients:
        return self.lr, self.decay_rate, 1.0 - self.decay_rate, self.eps


class RMSprop(RMSpropSettings, Optimizer):
    """AdaGrad that forgets: h = decay_rate·h; h += (1-decay_rate)·g·g; p -= lr·g / (√h + eps).

    Parameters
    ----------
    lr : float or schedule
        Learning rate, finite and ≥ 0, in units of the parameters: the gradients' own unit cancels.
    decay_rate : float or schedule
        Share of h that is kept, in [0, 1).
    eps : float or schedule
        Added to the root, finite and ≥ 0.

    Attributes
    ----------
    h : dict of key to array
        Moving averages of squared gradients, of the parameters' shapes and dtypes; zeros before a
        parameter's first step.

    {shared}

    Notes
    -----
    The rule of Tieleman and Hinton (2012); eps is added to the root. As h starts at
    zero and is not corrected for it, an entry moves by lr / √(1-decay_rate) at its first step: by
    ten times lr at the defaults.

    References
    ----------
    - T. Tieleman and G. Hinton, "Lecture 6.5 - rmsprop: Divide the gradient by a running
      average of its recent magnitude", Neural Networks for Machine Learning, Coursera, 2012.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> params = {"W": np.array([1.0, 2.0])}
    >>> fastopt.RMSprop(lr=0.01).update(params, {"W": np.array([3.0, -0.5])})
    >>> params["W"].round(6)
    array([0.9, 2.1])
    """
