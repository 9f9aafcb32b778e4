"""The types in fastopt's signatures that have no class of their own, for annotations.

What a `Trainer` needs of other people's nets and optimizers is said here. No code belongs here.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

__all__ = [
    "Activation",
    "Array",
    "EvaluableNet",
    "Grads",
    "Initialization",
    "Loss",
    "Net",
    "Optimizer",
    "Params",
    "State",
    "SupportsUpdate",
]

Array = NDArray[Any]
"""An array; in fastopt's results one of float32 or float64."""

Params = MutableMapping[Any, Any]
"""What an optimizer updates: arrays by key, or floats, which are replaced."""

Grads = Mapping[Any, Any]
"""What it updates them by: arrays, numbers or None by the same keys."""

State = dict[Any, Array]
"""What it keeps between steps, such as `Momentum.v`: an array for each key."""

Activation = Literal[
    "identity", "relu", "leaky_relu", "sigmoid", "logistic", "tanh", "gelu", "silu"
]
"""The names of the activations; "logistic" is another one of "sigmoid"."""

Initialization = Literal["relu", "he", "sigmoid", "xavier"]
"""The names of the standard deviations of initial weights."""

Loss = Literal["softmax", "logistic", "squared_error", "absolute_error", "huber", "poisson"]
"""The names of the losses."""


class SupportsUpdate(Protocol):
    """What a `Trainer` needs of an optimizer.

    Its arguments are the net's `params` and the gradients that the net returned, so an optimizer
    may ask for whatever the net has.
    """

    def update(self, params: Any, grads: Any, /) -> object:
        """Take one step, in place."""


class Optimizer(SupportsUpdate, Protocol):
    """What every optimizer of fastopt and `fastopt.reference` has."""

    lr: float

    def update(self, params: Params, grads: Grads, /) -> None:
        """Take one step, in place."""


class Net(Protocol):
    """What a `Trainer` needs of a net to train it; `fastopt.MultiLayerNet` has it."""

    @property
    def params(self) -> MutableMapping[Any, Any]:
        """The arrays that the optimizer updates, by key."""

    def loss_and_gradient(
        self, x: Any, t: Any, out: Any = None, /, *, batch: Any
    ) -> tuple[Any, Mapping[Any, Any]]:
        """Return the loss on the rows `batch` of x and t, a float, and its gradients by key.

        `out` is what the call before returned, whose arrays may be written anew.
        """


class EvaluableNet(Net, Protocol):
    """What a `Trainer` needs of a net for ``fit(…, validation=…)``.

    If it has ``accuracy(x, t)``, too, that is recorded, unless it has an ``is_classifier`` which is
    False.
    """

    def loss(self, x: Any, t: Any, /) -> Any:
        """Return the loss on all rows, a float."""
