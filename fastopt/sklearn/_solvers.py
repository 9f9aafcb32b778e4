"""How an estimator gets from gradients to parameters: optimizers with their learning rate, L-BFGS.

What is minimized belongs in _objective.py; when training ends, in _fitting.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any

import numpy as np
import scipy
import scipy.optimize
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fastopt import _cpu, optimizers
from fastopt.optimizers._options import Optioned
from fastopt.sklearn._objective import Objective

__all__ = ["Descent", "is_shown", "minimize_lbfgs", "named_optimizers"]

Array = NDArray[Any]

# fastopt's momentum is less than 1, scikit-learn's may be 1: to rounding it is
_LARGEST_MOMENTUM = math.nextafter(1.0, 0.0)


def named_optimizers() -> Mapping[str, Any]:
    """Return the optimizers by their names in small letters."""
    return {name.lower(): getattr(optimizers, name) for name in optimizers.__all__}  # type: ignore[attr-defined]


class Descent:
    """An optimizer, with scikit-learn's ways to change its learning rate between epochs.

    Parameters
    ----------
    estimator : Fitting
        Whose parameters say which optimizer it is.

    Attributes
    ----------
    optimizer : optimizer
        What takes the steps.
    """

    def __init__(self, estimator: Any) -> None:
        self.optimizer = _optimizer(estimator)
        self._power_t = estimator.power_t
        # scikit-learn changes that of SGD alone
        changes = estimator.optimizer is not None or estimator.solver == "sgd"
        self._policy = estimator.learning_rate if changes else "constant"
        self._raw: dict[str, Array] | None = None
        self._shown: list[Array] = []
        lr = getattr(self.optimizer, "lr", None)
        if self._policy != "constant" and not isinstance(lr, float):
            raise ValueError(
                f"learning_rate={self._policy!r} wants an optimizer whose lr is a number, got "
                f"{self.optimizer!r}"
            )
        self._lr_init = lr

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        lr = self.optimizer.lr
        return self.optimizer.current()["lr"] if callable(lr) else lr  # type: ignore[no-any-return]

    @property
    def has_averages(self) -> bool:
        """Whether the optimizer keeps averages of the parameters, which then are what is shown."""
        return isinstance(self.optimizer, Optioned) and hasattr(self.optimizer, "averaged")

    def averaged(self, params: dict[str, Array]) -> AbstractContextManager[Any]:
        """Return the context in which the parameters hold their averages, where there are any."""
        if self.has_averages:
            return self.optimizer.averaged(params)  # type: ignore[no-any-return]
        return nullcontext()

    def go_on_from(self, params: dict[str, Array], shown: list[Array]) -> None:
        """Keep the parameters themselves, whose averages are what the estimator shows."""
        self._raw, self._shown = params, shown

    def params_of(self, shown: list[Array]) -> dict[str, Array] | None:
        """Return the parameters whose averages are shown; None if other ones are."""
        are_shown = [p is own for p, own in zip(shown, self._shown, strict=False)]
        return self._raw if len(shown) == len(self._shown) and all(are_shown) else None

    def flush(self) -> None:
        """Have steps take subnormal numbers for zero: units that are dead leave many of them."""
        stepper = getattr(self.optimizer, "_stepper", None)
        if stepper is not None:
            stepper.flushes = _cpu.can_flush_subnormals

    def end_epoch(self, n_seen: int, loss: float) -> None:
        """Change the learning rate, after so many samples in all."""
        if self._policy == "invscaling":
            self.optimizer.lr = self._lr_init / (n_seen + 1) ** self._power_t
        if isinstance(self.optimizer, Optioned):
            self.optimizer._report(loss)

    def stops(self, message: str, *, is_shown: bool) -> bool:
        """Tell whether training ends where it no longer improves; if not, take smaller steps."""
        adapts = self._policy == "adaptive"
        stops = not adapts or self.optimizer.lr <= 1e-6
        if stops:
            then = "Learning rate too small. Stopping." if adapts else "Stopping."
        else:
            self.optimizer.lr /= 5.0
            then = f"Setting learning rate to {self.optimizer.lr:f}"
        if is_shown:
            print(message, then)
        return stops


def _optimizer(estimator: Any) -> Any:
    """Return a fresh optimizer, by `optimizer` or else by `solver`."""
    given, lr = estimator.optimizer, estimator.learning_rate_init
    if isinstance(given, str):
        return named_optimizers()[given](lr=lr)
    if isinstance(given, type):
        raise TypeError(f"optimizer is the class {given.__name__}: give it {given.__name__}()")
    if given is not None:
        new = deepcopy(given)
        if hasattr(new, "reset"):
            new.reset()
        return new
    if estimator.solver == "adam":
        return optimizers.Adam(lr, estimator.beta_1, estimator.beta_2, estimator.epsilon)
    if estimator.momentum == 0:
        return optimizers.SGD(lr)
    rule = optimizers.Nesterov if estimator.nesterovs_momentum else optimizers.Momentum
    return rule(lr, min(estimator.momentum, _LARGEST_MOMENTUM))


def minimize_lbfgs(objective: Objective, packed: Array, estimator: Any) -> Any:
    """Minimize by L-BFGS, and return SciPy's result; the parameters are left as tried last.

    Parameters
    ----------
    objective : Objective
        What is minimized.
    packed : array
        The vector that the objective's parameters are views of.
    estimator : Fitting
        Whose parameters say when it ends.
    """

    def loss_and_gradient(x: Array) -> tuple[float, Array]:
        np.copyto(packed, x)
        return objective.whole()

    options = {
        "maxfun": estimator.max_fun, "maxiter": estimator.max_iter, "gtol": estimator.tol,
    }  # fmt: skip
    if tuple(map(int, scipy.__version__.split(".")[:2])) < (1, 15):  # later ones print nothing
        options["iprint"] = 1 if is_shown(estimator.verbose) else -1
    # L-BFGS's own sums are short: threads of its BLAS would only take cores away from the net's
    with threadpool_limits(1, user_api="blas"):
        return scipy.optimize.minimize(
            loss_and_gradient, packed.copy(), method="L-BFGS-B", jac=True, options=options
        )


def is_shown(verbose: Any) -> bool:
    """Tell whether the estimator prints what it does; with "bar" there is a bar instead."""
    return verbose != "bar" and bool(verbose)
