"""Gradient descent, with and without a velocity.

A declaration, shared with the twin in `fastopt.reference`, stands before the class that users see.
"""

from __future__ import annotations

from fastopt._checks import fraction, non_negative, switch
from fastopt.optimizers._base import Optimizer
from fastopt.optimizers._declared import Coefficients, Declared, Number, State, hyper, option, state

__all__ = ["SGD", "Momentum", "Nesterov", "Lion"]


class SGDSettings(Declared):
    lr: Number = hyper(non_negative, default=0.01)

    _rule_name = "sgd"
    _is_constant = True

    def _coefficients(self, t: float) -> Coefficients:
        return (self.lr,)


class SGD(SGDSettings, Optimizer):
    """Stochastic gradient descent: p -= lr·g.

    Parameters
    ----------
    lr : float or schedule
        Learning rate, finite and ≥ 0, in units of the parameters per unit of their gradients.

    {shared}

    Notes
    -----
    The step of Robbins and Monro (1951), with a learning rate that stays as it is set; there is no
    state.

    References
    ----------
    - H. Robbins and S. Monro, "A Stochastic Approximation Method", Annals of Mathematical
      Statistics 22(3), 1951.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> params = {"W": np.array([1.0, 2.0])}
    >>> fastopt.SGD(lr=0.5).update(params, {"W": np.array([1.0, -1.0])})
    >>> params["W"]
    array([0.5, 2.5])
    """


class MomentumSettings(Declared):
    lr: Number = hyper(non_negative, default=0.01)
    momentum: Number = hyper(fraction, default=0.9)
    v: State = state()

    _rule_name = "momentum"
    _is_constant = True

    def _coefficients(self, t: float) -> Coefficients:
        return self.lr, self.momentum


class Momentum(MomentumSettings, Optimizer):
    """Gradient descent with a velocity: v = momentum·v - lr·g; p += v.

    Parameters
    ----------
    lr : float or schedule
        Learning rate, finite and ≥ 0, in units of the parameters per unit of their gradients.
    momentum : float or schedule
        Share of the velocity that is kept, in [0, 1).

    Attributes
    ----------
    v : dict of key to array
        The velocities, of the parameters' shapes and dtypes and in their units per step; zeros
        before a parameter's first step.

    {shared}

    Notes
    -----
    The heavy ball of Polyak (1964). Under a gradient that stays the same the velocity grows to
    lr·g / (1 - momentum), ten times the step of `SGD` by default. As lr is inside the velocity, a
    change of lr acts on new gradients alone.

    References
    ----------
    - B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", USSR
      Computational Mathematics and Mathematical Physics 4(5), 1964.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> params, grads = {"W": np.array([1.0, 2.0])}, {"W": np.array([1.0, -1.0])}
    >>> optimizer = fastopt.Momentum(lr=0.1, momentum=0.5)
    >>> for _ in range(2):
    ...     optimizer.update(params, grads)
    >>> optimizer.v["W"].round(6), params["W"].round(6)
    (array([-0.15,  0.15]), array([0.75, 2.25]))
    """


class NesterovSettings(MomentumSettings):
    _rule_name = "nesterov"


class Nesterov(NesterovSettings, Optimizer):
    """Momentum with look-ahead: v = momentum·v - lr·g; p += momentum·v - lr·g.

    Parameters
    ----------
    lr : float or schedule
        Learning rate, finite and ≥ 0, in units of the parameters per unit of their gradients.
    momentum : float or schedule
        Share of the velocity that is kept, in [0, 1).

    Attributes
    ----------
    v : dict of key to array
        The velocities, of the parameters' shapes and dtypes and in their units per step; zeros
        before a parameter's first step.

    {shared}

    Notes
    -----
    The accelerated gradient of Nesterov (1983) as Sutskever et al. (2013) write it, with a constant
    momentum: the gradient is taken where the velocity is about to lead. What `params` holds is that
    point, p + momentum·v, so that the gradient is computed at the parameters as for any other
    optimizer; the two points meet as v goes to zero.

    References
    ----------
    - Y. Nesterov, "A method for solving the convex programming problem with convergence rate
      O(1/k²)", Soviet Mathematics Doklady 27, 1983.
    - I. Sutskever, J. Martens, G. Dahl and G. Hinton, "On the importance of initialization and
      momentum in deep learning", ICML 2013.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> params = {"W": np.array([1.0, 2.0])}
    >>> optimizer = fastopt.Nesterov(lr=0.1, momentum=0.5)
    >>> optimizer.update(params, {"W": np.array([1.0, -1.0])})
    >>> optimizer.v["W"].round(6), params["W"].round(6)
    (array([-0.1,  0.1]), array([0.85, 2.15]))
    """


class LionSettings(Declared):
    lr: Number = hyper(non_negative, default=1e-4)
    beta1: Number = hyper(fraction, default=0.9)
    beta2: Number = hyper(fraction, default=0.99)
    decoupled: bool = option(switch, default=True, kw_only=True, may_vary=False)
    m: State = state()

    _rule_name = "lion"
    _is_constant = True

    def _coefficients(self, t: float) -> Coefficients:
        return self.lr, self.beta1, 1.0 - self.beta1, self.beta2, 1.0 - self.beta2


class Lion(LionSettings, Optimizer):
    """The sign of a moving average: p -= lr·sign(beta1·m + (1-beta1)·g); m = beta2·m + (1-beta2)·g.

    Parameters
    ----------
    lr : float or schedule
        Length of each entry's step, finite and ≥ 0, in units of the parameters.
    beta1 : float or schedule
        Share of m in the direction of the step, in [0, 1).
    beta2 : float or schedule
        Share of m that is kept, in [0, 1).

    Attributes
    ----------
    m : dict of key to array
        Moving averages of the gradients, of the parameters' shapes and dtypes; zeros before a
        parameter's first step.

    {shared}

    Notes
    -----
    EvoLved Sign Momentum, found by Chen et al. (2023) in a search over programs. Every entry moves
    by lr or, where the direction is zero, not at all: its rates are three to ten times smaller than
    Adam's. One state instead of Adam's two. A ``weight_decay`` is decoupled, as its authors have
    it, unless ``decoupled=False``.

    References
    ----------
    - X. Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> params = {"W": np.array([1.0, 2.0])}
    >>> fastopt.Lion(lr=0.1).update(params, {"W": np.array([3.0, -0.5])})
    >>> params["W"].round(6)
    array([0.9, 2.1])
    """
