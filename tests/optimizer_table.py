"""The one table of optimizers that drives their tests: a row for each, and nothing else.

A row holds what can't be read from the package: the formula, as its paper has it, in decimal
arithmetic; a golden value, which `test_golden_values_are_those_of_the_formulas` computes anew; what
other libraries call it. Hyper-parameters, states and coefficients are read from the declaration.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from math import sqrt
from types import SimpleNamespace

import pytest

import fastopt
from fastopt import reference
from fastopt._step import rules

DIGITS = 50
GRADIENTS = ("0.5", "-0.25", "2.0")  # of the golden values, which begin at the parameter 1.0


@dataclass(frozen=True)
class Call:
    """What makes the same steps in another library."""

    name: str
    settings: dict[str, float | bool] = field(default_factory=dict)  # other than its defaults
    eps: Callable[[int], float] | None = None  # by step, where that library places it elsewhere
    until_lr_changes: bool = False  # it multiplies its velocity by lr, not its gradients


@dataclass(frozen=True)
class Row:
    """An optimizer.

    ``formula(h, t, g, p, *states)`` returns what p and the states are after step t, counted from 1,
    on the gradient g; h holds the hyper-parameters. All are decimals, and states have defaults: how
    they begin.
    """

    name: str
    formula: Callable[..., tuple[Decimal, ...]]
    settings: dict[str, float]  # other than the defaults
    golden: float  # the parameter after the three gradients, with the default hyper-parameters
    elsewhere: dict[str, Call]

    @property
    def compiled(self):
        return getattr(fastopt, self.name)

    @property
    def twin(self):
        return getattr(reference, self.name)

    @property
    def states(self):
        return tuple(self.compiled._states)

    @property
    def hypers(self):
        return tuple(self.compiled._hypers)

    @property
    def coefficients(self):
        return rules[self.compiled._rule_name][0]

    def exact(self):
        """Return the golden value in as many digits as the formulas are computed."""
        defaults = {
            name: Decimal(repr(h.default))
            for name, h in self.compiled._settings.items()
            if isinstance(h.default, float)
        }
        h, values = SimpleNamespace(**defaults), (Decimal(1),)
        with localcontext() as context:
            context.prec = DIGITS
            for t, g in enumerate(map(Decimal, GRADIENTS), start=1):
                values = self.formula(h, t, g, *values)
        return values[0]


TABLE: list[Row] = []


def row(name, settings, *, golden, **elsewhere):
    """Make the formula that follows a row of the table."""

    def add(formula):
        TABLE.append(Row(name, formula, settings, golden, elsewhere))
        return formula

    return add


@row(
    "SGD", {"lr": 0.3}, golden=0.9775,
    torch=Call("SGD"), keras=Call("SGD"), optax=Call("sgd"),
)  # fmt: skip
def sgd(h, t, g, p):
    return (p - h.lr * g,)


@row(
    "Momentum", {"lr": 0.05, "momentum": 0.7}, golden=0.9712,
    torch=Call("SGD", {"momentum": 0.9}, until_lr_changes=True),
    keras=Call("SGD", {"momentum": 0.9}),
    optax=Call("sgd", {"momentum": 0.9}, until_lr_changes=True),
)  # fmt: skip
def momentum(h, t, g, p, v=0):
    v = h.momentum * v - h.lr * g
    return p + v, v


@row(
    "Nesterov", {"lr": 0.05, "momentum": 0.7}, golden=0.95158,
    torch=Call("SGD", {"momentum": 0.9, "nesterov": True}, until_lr_changes=True),
    keras=Call("SGD", {"momentum": 0.9, "nesterov": True}),
    optax=Call("sgd", {"momentum": 0.9, "nesterov": True}, until_lr_changes=True),
)  # fmt: skip
def nesterov(h, t, g, p, v=0):
    # Sutskever et al.: v is the velocity of θ, and p is θ + momentum·v, where the gradient is taken
    theta = p - h.momentum * v
    v = h.momentum * v - h.lr * g
    return theta + v + h.momentum * v, v


@row(
    "AdaGrad", {"lr": 0.2}, golden=0.98484126937190588,
    torch=Call("Adagrad", {"eps": 1e-7}),
)  # fmt: skip
def adagrad(h, t, g, p, squares=0):
    squares += g**2
    return p - h.lr * g / (squares.sqrt() + h.eps), squares


@row(
    "RMSprop", {"lr": 0.03, "decay_rate": 0.8}, golden=0.84853021700945681,
    torch=Call("RMSprop", {"eps": 1e-7}),
    optax=Call("rmsprop", {"decay": 0.99, "eps": 1e-7, "eps_in_sqrt": False}),
)  # fmt: skip
def rmsprop(h, t, g, p, mean=0):
    mean = h.decay_rate * mean + (1 - h.decay_rate) * g**2
    return p - h.lr * g / (mean.sqrt() + h.eps), mean


@row(
    "Adam", {"lr": 0.02, "beta1": 0.6, "beta2": 0.95}, golden=0.99806302416601094,
    torch=Call("Adam", eps=lambda t: 1e-7 / sqrt(1 - 0.999**t)),
    keras=Call("Adam"),
)  # fmt: skip
def adam(h, t, g, p, m=0, v=0):
    m = h.beta1 * m + (1 - h.beta1) * g
    v = h.beta2 * v + (1 - h.beta2) * g**2
    alpha = h.lr * (1 - h.beta2**t).sqrt() / (1 - h.beta1**t)
    return p - alpha * m / (v.sqrt() + h.eps), m, v


@row(
    "AdamW", {"lr": 0.02, "beta1": 0.6, "beta2": 0.95}, golden=0.9980330471291388,
    torch=Call("AdamW", eps=lambda t: 1e-7 / sqrt(1 - 0.999**t)),
    keras=Call("AdamW", {"weight_decay": 0.01}),
)  # fmt: skip
def adamw(h, t, g, p, m=0, v=0):
    return adam(h, t, g, p * (1 - h.lr * h.weight_decay), m, v)


@row(
    "Lion", {"lr": 0.02, "beta1": 0.6, "beta2": 0.95}, golden=0.9999,
    optax=Call("lion", {"b1": 0.9, "b2": 0.99, "weight_decay": 0.0}),
)  # fmt: skip
def lion(h, t, g, p, m=0):
    direction = h.beta1 * m + (1 - h.beta1) * g
    p -= h.lr * ((direction > 0) - (direction < 0))
    return p, h.beta2 * m + (1 - h.beta2) * g


every_optimizer = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
