"""Nets of every kind: activations, losses and options by name, and targets that fit a loss."""

from typing import get_args

import numpy as np
import pytest
from numpy.testing import assert_allclose

from fastopt import typing
from helpers.arrays import TOLERANCE

ACTIVATIONS = [name for name in get_args(typing.Activation) if name != "logistic"]
LOSSES = get_args(typing.Loss)
REGRESSIONS = [loss for loss in LOSSES if loss not in ("softmax", "logistic")]

# name → arguments of a net, and whether its samples have weights
OPTIONS = {
    "plain": ({}, False),
    "weights": ({"weight_decay_lambda": 0.1}, True),
    "norm": ({"use_batchnorm": True}, False),
    "dropout": ({"use_dropout": True, "dropout_ratio": 0.3}, False),
    "all": ({"use_batchnorm": True, "use_dropout": True, "weight_decay_lambda": 0.1}, True),
}

# The layers of a function of each element
FUNCTIONS = ["Relu", "LeakyRelu", "Sigmoid", "Tanh", "Gelu", "Silu"]

every_function = pytest.mark.parametrize("name", FUNCTIONS)
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
every_loss = pytest.mark.parametrize("loss", LOSSES)
every_option = pytest.mark.parametrize("options", OPTIONS)


def a_net(package, sizes, options="plain", rng=3, **settings):
    """Return a net whose biases, gammas and betas are random, too: at 0 and 1 much is hidden."""
    net = package.MultiLayerNet(
        sizes[0], sizes[1:-1], sizes[-1], rng=rng, **{**OPTIONS[options][0], **settings}
    )
    rng = np.random.default_rng(5)
    for key, p in net.params.items():
        if not key.startswith("W"):
            p[...] += 0.3 * rng.standard_normal(p.shape)
    return net


def a_batch(loss, n, sizes, options="plain", seed=0):
    """Return samples, targets, and weights by the name that methods know them by."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, sizes[0]))
    weights = {}
    if OPTIONS[options][1]:
        weights["sample_weight"] = rng.integers(0, 4, n) + (np.arange(n) == 0)
    return x, some_targets(loss, n, sizes[-1], rng), weights


def some_targets(loss, n, outputs, rng):
    if loss == "softmax":
        return rng.integers(0, outputs, n)
    if loss == "logistic":
        return rng.integers(0, 2, (n, outputs))
    return rng.poisson(2, (n, outputs)) if loss == "poisson" else rng.normal(size=(n, outputs))


def assert_gradients_agree(got, want, dtype, tolerance=None):
    """Compare gradients of a net, each relative to the largest entry of its layer.

    What is before a batch normalization has a bias whose gradient is zero, but for rounding.
    """
    assert list(got) == list(want)
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    for key, g in want.items():
        number = key.lstrip("Wabegmt")
        of_layer = [np.abs(each).max() for name, each in want.items() if name.endswith(number)]
        assert got[key].dtype == dtype
        assert_allclose(got[key], g, rtol=0, atol=tolerance * max(of_layer), err_msg=key)
