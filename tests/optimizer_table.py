"""The one table of optimizers that drives their tests: a row for each, and nothing else.

Golden values were computed from the formulas in 50-digit decimal arithmetic: the parameter 1.0
after the gradients 0.5, -0.25 and 2.0 with the default hyper-parameters.
"""

from typing import NamedTuple

import pytest

import fastopt
from fastopt import reference


class Row(NamedTuple):
    name: str
    settings: dict[str, float]  # other than the defaults
    states: tuple[str, ...]
    golden: float

    @property
    def compiled(self):
        return getattr(fastopt, self.name)

    @property
    def twin(self):
        return getattr(reference, self.name)


TABLE = [
    Row("SGD", {"lr": 0.3}, (), 0.9775),
    Row("Momentum", {"lr": 0.05, "momentum": 0.7}, ("v",), 0.9712),
    Row("Nesterov", {"lr": 0.05, "momentum": 0.7}, ("v",), 0.95158),
    Row("AdaGrad", {"lr": 0.2}, ("h",), 0.98484126937190588),
    Row("RMSprop", {"lr": 0.03, "decay_rate": 0.8}, ("h",), 0.84853021700945681),
    Row("Adam", {"lr": 0.02, "beta1": 0.6, "beta2": 0.95}, ("m", "v"), 0.99806302416601094),
]

every_optimizer = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
