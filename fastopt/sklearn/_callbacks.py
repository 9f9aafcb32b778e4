"""scikit-learn's callbacks, from 1.9 on, and the epochs that they are told of.

What an epoch does belongs in _fitting.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for what this scikit-learn doesn't have."""


__all__ = ["CallbackSupportMixin", "Epochs"]


class Epochs:
    """The epochs of a fit, each a task that callbacks are told of, where the estimator has any.

    Parameters
    ----------
    estimator : estimator
        What is fitted.
    X, y : array-like
        What callbacks see as its training data.
    """

    def __init__(self, estimator: Any, X: Any, y: Any) -> None:
        self._told = {"estimator": estimator, "X": X, "y": y}
        self._fit: Any = None
        self._epoch: Any = None
        if getattr(estimator, "_skl_callbacks", None):
            self._fit = estimator._init_callback_context(max_subtasks=estimator.max_iter)
            self._fit.call_on_fit_task_begin(**self._told)

    def begin(self) -> None:
        """Begin an epoch."""
        if self._fit is not None:
            self._epoch = self._fit.subcontext(task_name="epoch")
            self._epoch.call_on_fit_task_begin(**self._told)

    def end(self, fitted: Callable[[], Mapping[str, Any]]) -> bool:
        """End an epoch, and tell whether a callback wants it to be the last.

        Parameters
        ----------
        fitted : callable
            Returns the attributes of an estimator that is fitted thus far.
        """
        if self._epoch is None:
            return False
        return bool(
            self._epoch.call_on_fit_task_end(**self._told, reconstruction_attributes=fitted)
        )

    def close(self) -> None:
        """End the fit."""
        if self._fit is not None:
            self._fit.call_on_fit_task_end(**self._told)
