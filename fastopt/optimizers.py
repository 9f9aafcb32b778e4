"""The optimizers: names, defaults, documentation and state; the arithmetic is compiled.

Each class turns its hyper-parameters into coefficients, in Python double, and makes one call into
the core. What the mathematics says is in `fastopt.reference`, which equals these bit for bit.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, MutableMapping
from math import sqrt
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from fastopt._core import Stepper
from fastopt._hyperparameters import (
    EPS,
    MAX_COUNT,
    Hyperparameters,
    count,
    fraction,
    non_negative,
)

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SGD", "AdaGrad", "Adam", "Momentum", "Nesterov", "RMSprop"]

State = dict[Any, NDArray[Any]]


class _Optimizer(Hyperparameters):
    """What the optimizers share: a rule of the core, and a dict for each of its states."""

    _rule: ClassVar[str]

    def __init__(self) -> None:
        self._stepper = Stepper(self._rule, self._state_names)
        for name in self._state_names:
            setattr(self, name, {})

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        update = vars(cls).get("update")
        if inspect.isfunction(update) and update.__doc__ is None:
            update.__doc__ = _Optimizer.update.__doc__

    def __copy__(self) -> Self:
        new = object.__new__(type(self))
        vars(new).update(vars(self))
        vars(new)["_stepper"] = copy.copy(self._stepper)  # it counts the steps of one optimizer
        return new

    def update(self, params: MutableMapping[Any, Any], grads: Mapping[Any, Any]) -> None:
        """Take one step: change every parameter, and the state, in place.

        Parameters
        ----------
        params : mapping of keys to float32 or float64 arrays, or floats
            Arrays of any shape and strides are updated in place, contiguous ones at full speed.
            A Python float or NumPy scalar is replaced in the mapping.
        grads : mapping of the same keys to arrays, numbers or None
            Of the parameters' shapes. Another real dtype is cast to the parameter's first; None
            leaves that parameter and its state as they are. They are never written; entries
            without a parameter are ignored.

        Raises
        ------
        KeyError
            A parameter has no gradient.
        TypeError
            A parameter that is not of float32 or float64, or a gradient that is not real.
        ValueError
            A gradient of another shape than its parameter; a read-only parameter; state that no
            longer fits a parameter; parameters, states or gradients that overlap in memory (an
            array may be its own gradient, and gradients may share memory).
        RuntimeError
            Another thread is in the middle of an update of this optimizer.

        Notes
        -----
        Everything is checked before anything is written: after an error no parameter, no state and
        no counter has changed.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> params = {"W": np.ones((2, 2), np.float32), "scale": 1.0, "frozen": np.zeros(3)}
        >>> grads = {"W": np.full((2, 2), 0.5), "scale": -2.0, "frozen": None}
        >>> fastopt.SGD(lr=0.5).update(params, grads)
        >>> params["W"].tolist(), params["scale"], params["frozen"].tolist()
        ([[0.75, 0.75], [0.75, 0.75]], 2.0, [0.0, 0.0, 0.0])
        """
        raise NotImplementedError


class SGD(_Optimizer):
    """Stochastic gradient descent: p -= lr·g.

    Parameters
    ----------
    lr : float
        Learning rate, finite and ≥ 0, in units of the parameters per unit of their gradients.

    Raises
    ------
    TypeError
        A hyper-parameter is set, here or later, to something that is not a number.
    ValueError
        A hyper-parameter is set, here or later, to a number out of its range.

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

    _rule = "sgd"
    _checks = {"lr": non_negative}

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.lr = lr

    def update(self, params: MutableMapping[Any, Any], grads: Mapping[Any, Any]) -> None:
        self._stepper.step(params, grads, (), (self.lr,))


class Momentum(_Optimizer):
    """Gradient descent with a velocity: v = momentum·v - lr·g; p += v.

    Parameters
    ----------
    lr : float
        Learning rate, finite and ≥ 0, in units of the parameters per unit of their gradients.
    momentum : float
        Share of the velocity that is kept, in [0, 1).

    Attributes
    ----------
    v : dict of key to array
        The velocities, of the parameters' shapes and dtypes and in their units per step; zeros
        before a parameter's first step.

    Raises
    ------
    TypeError
        A hyper-parameter is set, here or later, to something that is not a number.
    ValueError
        A hyper-parameter is set, here or later, to a number out of its range.

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

    _rule = "momentum"
    _checks = {"lr": non_negative, "momentum": fraction}
    _state_names = ("v",)
    v: State

    def __init__(self, lr: float = 0.01, momentum: float = 0.9) -> None:
        super().__init__()
        self.lr = lr
        self.momentum = momentum

    def update(self, params: MutableMapping[Any, Any], grads: Mapping[Any, Any]) -> None:
        self._stepper.step(params, grads, (self.v,), (self.lr, self.momentum))


class Nesterov(Momentum):
    """Momentum with look-ahead: v = momentum·v - lr·g; p += momentum·v - lr·g.

    Parameters
    ----------
    lr : float
        Learning rate, finite and ≥ 0, in units of the parameters per unit of their gradients.
    momentum : float
        Share of the velocity that is kept, in [0, 1).

    Attributes
    ----------
    v : dict of key to array
        The velocities, of the parameters' shapes and dtypes and in their units per step; zeros
        before a parameter's first step.

    Raises
    ------
    TypeError
        A hyper-parameter is set, here or later, to something that is not a number.
    ValueError
        A hyper-parameter is set, here or later, to a number out of its range.

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

    _rule = "nesterov"


class AdaGrad(_Optimizer):
    """A rate for each entry, shrinking with its gradients: h += g·g; p -= lr·g / (√h + eps).

    Parameters
    ----------
    lr : float
        Learning rate, finite and ≥ 0, in units of the parameters: the gradients' own unit cancels.

    Attributes
    ----------
    h : dict of key to array
        Sums of squared gradients, of the parameters' shapes and dtypes; zeros before a parameter's
        first step.

    Raises
    ------
    TypeError
        A hyper-parameter is set, here or later, to something that is not a number.
    ValueError
        A hyper-parameter is set, here or later, to a number out of its range.

    Notes
    -----
    The diagonal form of Duchi, Hazan and Singer (2011); eps is 1e-7 and is added to the root. An
    entry moves by lr at its first step, whatever its gradient, and by less at each later one of the
    same size.

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

    _rule = "adagrad"
    _checks = {"lr": non_negative}
    _state_names = ("h",)
    h: State

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.lr = lr

    def update(self, params: MutableMapping[Any, Any], grads: Mapping[Any, Any]) -> None:
        self._stepper.step(params, grads, (self.h,), (self.lr, EPS))


class RMSprop(_Optimizer):
    """AdaGrad that forgets: h = decay_rate·h; h += (1-decay_rate)·g·g; p -= lr·g / (√h + eps).

    Parameters
    ----------
    lr : float
        Learning rate, finite and ≥ 0, in units of the parameters: the gradients' own unit cancels.
    decay_rate : float
        Share of h that is kept, in [0, 1).

    Attributes
    ----------
    h : dict of key to array
        Moving averages of squared gradients, of the parameters' shapes and dtypes; zeros before a
        parameter's first step.

    Raises
    ------
    TypeError
        A hyper-parameter is set, here or later, to something that is not a number.
    ValueError
        A hyper-parameter is set, here or later, to a number out of its range.

    Notes
    -----
    The rule of Tieleman and Hinton (2012); eps is 1e-7 and is added to the root. As h starts at
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

    _rule = "rmsprop"
    _checks = {"lr": non_negative, "decay_rate": fraction}
    _state_names = ("h",)
    h: State

    def __init__(self, lr: float = 0.01, decay_rate: float = 0.99) -> None:
        super().__init__()
        self.lr = lr
        self.decay_rate = decay_rate

    def update(self, params: MutableMapping[Any, Any], grads: Mapping[Any, Any]) -> None:
        decay_rate = self.decay_rate
        self._stepper.step(params, grads, (self.h,), (self.lr, decay_rate, 1.0 - decay_rate, EPS))


class Adam(_Optimizer):
    """Moving averages of gradient and squared gradient, corrected for their start at zero.

    iter += 1; lr_t = lr·√(1-beta2^iter)/(1-beta1^iter); m += (1-beta1)(g-m);
    v += (1-beta2)(g²-v); p -= lr_t·m / (√v + eps).

    Parameters
    ----------
    lr : float
        Learning rate, finite and ≥ 0, in units of the parameters: the gradients' own unit cancels.
    beta1, beta2 : float
        Shares of m and v that are kept, in [0, 1).

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

    Raises
    ------
    TypeError
        A hyper-parameter is set, here or later, to something that is not a number.
    ValueError
        A hyper-parameter is set, here or later, to a number out of its range.

    Notes
    -----
    Adam of Kingma and Ba (2015), in the form that ends their section 2: the correction for the
    start at zero is in the learning rate lr_t, and eps, 1e-7, is added to the uncorrected √v. Their
    algorithm 1 adds its eps after the correction; the two agree when that eps is
    1e-7 / √(1-beta2^iter), which falls from 3.2e-6 at the first step to 1e-7.

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
    >>> optimizer.lr = 0.01  # a schedule
    >>> optimizer.update(params, grads)
    >>> params["W"].round(4), optimizer.iter
    (array([0.89, 2.11]), 2)
    """

    _rule = "adam"
    _checks = {"lr": non_negative, "beta1": fraction, "beta2": fraction, "iter": count}
    _state_names = ("m", "v")
    m: State
    v: State

    def __init__(self, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999) -> None:
        super().__init__()
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2

    def update(self, params: MutableMapping[Any, Any], grads: Mapping[Any, Any]) -> None:
        stepper, beta1, beta2 = self._stepper, self.beta1, self.beta2
        before = stepper.steps
        steps = before + 1.0  # a float, which compares and takes powers fastest
        if steps > MAX_COUNT:
            count("iter", before + 1)  # raises the error of its setter
        lr_t = self.lr * sqrt(1.0 - beta2**steps) / (1.0 - beta1**steps)
        coefficients = (lr_t, 1.0 - beta1, 1.0 - beta2, EPS)
        stepper.step(params, grads, (self.m, self.v), coefficients, before)

    @property
    def iter(self) -> int:
        """Steps taken; the core counts those that it has completed."""
        return self._stepper.steps

    @iter.setter
    def iter(self, steps: int) -> None:
        self._stepper.set_steps(steps)
