"""What docs/coming-from.md says of PyTorch, Keras and Optax, held to the libraries themselves.

Each is tested where it is installed. Speed belongs to bench.
"""

import os

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastopt
from fastopt._hyperparameters import EPS

STEPS = 5
LRS = (0.1, 0.1, 0.02, 0.02, 0.02)  # two rates: libraries differ in what a change acts on
CONSTANT = (0.1,) * STEPS
ADAM_EPS = [EPS / np.sqrt(1 - 0.999**t) for t in range(1, STEPS + 1)]


def start():
    return np.random.default_rng(0).standard_normal((3, 4))


def gradients():
    return list(np.random.default_rng(1).standard_normal((STEPS, 3, 4)) * 1e-3)


def ours(optimizer, lrs, initial=None):
    """Return the parameter after the steps; `initial` is what h begins with."""
    params = {"p": start()}
    if initial is not None:
        optimizer.h["p"] = np.full_like(params["p"], initial)
    for lr, g in zip(lrs, gradients(), strict=True):
        optimizer.lr = lr
        optimizer.update(params, {"p": g})
    return params["p"]


def eps_below_root(lrs, decay=None, initial=0.0, eps=EPS):
    """Return what AdaGrad, or RMSprop with a decay, gives that adds eps below the root."""
    p, h = start(), np.full((3, 4), initial)
    for lr, g in zip(lrs, gradients(), strict=True):
        h = h + g * g if decay is None else decay * h + (1 - decay) * g * g
        p -= lr * g / np.sqrt(h + eps)
    return p


def same(a, b):
    assert_allclose(a, b, rtol=1e-12)


class TestTorch:
    @staticmethod
    def run(name, lrs, *, eps=None, **settings):
        torch = pytest.importorskip("torch")
        p = torch.nn.Parameter(torch.from_numpy(start()))
        optimizer = getattr(torch.optim, name)([p], lr=lrs[0], **settings)
        for i, (lr, g) in enumerate(zip(lrs, gradients(), strict=True)):
            optimizer.param_groups[0]["lr"] = lr
            if eps is not None:
                optimizer.param_groups[0]["eps"] = eps[i]
            p.grad = torch.from_numpy(g)
            optimizer.step()
        return p.detach().numpy()

    def test_sgd(self):
        same(self.run("SGD", LRS), ours(fastopt.SGD(), LRS))

    @pytest.mark.parametrize(("nesterov", "kind"), [(False, "Momentum"), (True, "Nesterov")])
    def test_momentum_is_the_same_until_lr_changes(self, nesterov, kind):
        def both(lrs):
            theirs = self.run("SGD", lrs, momentum=0.9, nesterov=nesterov)
            return theirs, ours(getattr(fastopt, kind)(), lrs)

        same(*both(CONSTANT))
        theirs, own = both(LRS)
        assert np.abs(theirs - own).max() > 1e-5

    def test_adagrad_with_its_eps(self):
        same(self.run("Adagrad", LRS, eps=[EPS] * STEPS), ours(fastopt.AdaGrad(), LRS))

    def test_rmsprop_with_its_eps(self):
        same(self.run("RMSprop", LRS, eps=[EPS] * STEPS), ours(fastopt.RMSprop(), LRS))

    def test_adam_with_an_eps_that_is_corrected(self):
        same(self.run("Adam", LRS, eps=ADAM_EPS), ours(fastopt.Adam(), LRS))

    def test_defaults(self):
        optim = pytest.importorskip("torch").optim
        p = [pytest.importorskip("torch").zeros(1)]
        assert optim.SGD(p).defaults["lr"] == 0.001
        assert (optim.Adagrad(p).defaults["lr"], optim.Adagrad(p).defaults["eps"]) == (0.01, 1e-10)
        assert optim.Adagrad(p).defaults["initial_accumulator_value"] == 0
        rmsprop = optim.RMSprop(p).defaults
        assert (rmsprop["lr"], rmsprop["alpha"], rmsprop["eps"]) == (0.01, 0.99, 1e-8)
        adam = optim.Adam(p).defaults
        assert (adam["lr"], adam["betas"], adam["eps"]) == (0.001, (0.9, 0.999), 1e-8)


class TestKeras:
    @staticmethod
    def run(name, lrs, **settings):
        os.environ.setdefault("KERAS_BACKEND", "jax")
        pytest.importorskip("jax").config.update("jax_enable_x64", True)
        keras = pytest.importorskip("keras")
        variable = keras.Variable(start(), dtype="float64")
        optimizer = getattr(keras.optimizers, name)(**settings)
        optimizer.build([variable])
        for lr, g in zip(lrs, gradients(), strict=True):
            optimizer.learning_rate = lr
            optimizer.apply([keras.ops.convert_to_tensor(g, dtype="float64")])
        return np.asarray(variable)

    @pytest.fixture(autouse=True)
    def _rates_that_float32_holds(self, monkeypatch):
        monkeypatch.setitem(globals(), "LRS", (0.125, 0.125, 0.03125, 0.03125, 0.03125))

    def test_sgd(self):
        same(self.run("SGD", LRS), ours(fastopt.SGD(), LRS))

    @pytest.mark.parametrize(("nesterov", "kind"), [(False, "Momentum"), (True, "Nesterov")])
    def test_momentum_also_when_lr_changes(self, nesterov, kind):
        theirs = self.run("SGD", LRS, momentum=0.9, nesterov=nesterov)
        same(theirs, ours(getattr(fastopt, kind)(), LRS))

    def test_adagrad_has_eps_below_the_root_and_a_start(self):
        same(self.run("Adagrad", LRS), eps_below_root(LRS, initial=0.1))
        zero = self.run("Adagrad", LRS, epsilon=0.0)  # without eps, its start is all that differs
        assert_allclose(zero, ours(fastopt.AdaGrad(), LRS, initial=0.1), rtol=1e-6)

    def test_rmsprop_has_eps_below_the_root_and_forgets_sooner(self):
        same(self.run("RMSprop", LRS), eps_below_root(LRS, decay=0.9))

    def test_adam(self):
        same(self.run("Adam", LRS), ours(fastopt.Adam(), LRS))

    def test_defaults(self):
        optimizers = pytest.importorskip("keras").optimizers
        rates = {"SGD": 0.01, "Adagrad": 0.001, "RMSprop": 0.001, "Adam": 0.001}
        for name, rate in rates.items():
            optimizer = getattr(optimizers, name)()
            assert float(optimizer.learning_rate) == pytest.approx(rate)
            assert getattr(optimizer, "epsilon", 1e-7) == 1e-7


class TestOptax:
    @staticmethod
    def run(name, lrs, **settings):
        jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
        jax.config.update("jax_enable_x64", True)
        rates = jax.numpy.array(lrs)
        optimizer = getattr(optax, name)(lambda step: rates[step], **settings)
        p = jax.numpy.array(start())
        state = optimizer.init(p)
        for g in gradients():
            updates, state = optimizer.update(jax.numpy.array(g), state, p)
            p = optax.apply_updates(p, updates)
        return np.asarray(p)

    def test_sgd(self):
        same(self.run("sgd", LRS), ours(fastopt.SGD(), LRS))

    @pytest.mark.parametrize(("nesterov", "kind"), [(False, "Momentum"), (True, "Nesterov")])
    def test_momentum_is_the_same_until_lr_changes(self, nesterov, kind):
        def both(lrs):
            theirs = self.run("sgd", lrs, momentum=0.9, nesterov=nesterov)
            return theirs, ours(getattr(fastopt, kind)(), lrs)

        same(*both(CONSTANT))
        theirs, own = both(LRS)
        assert np.abs(theirs - own).max() > 1e-5

    def test_adagrad_has_eps_below_the_root_and_a_start(self):
        same(self.run("adagrad", LRS), eps_below_root(LRS, initial=0.1))

    def test_rmsprop_has_eps_below_the_root_unless_told(self):
        same(self.run("rmsprop", LRS), eps_below_root(LRS, decay=0.9, eps=1e-8))
        settings = {"decay": 0.99, "eps": EPS, "eps_in_sqrt": False}
        same(self.run("rmsprop", LRS, **settings), ours(fastopt.RMSprop(), LRS))

    def test_adam_adds_its_eps_after_the_correction(self):
        p, m, v = start(), np.zeros((3, 4)), np.zeros((3, 4))
        for t, (lr, g) in enumerate(zip(LRS, gradients(), strict=True), 1):
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            p -= lr * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        assert_allclose(self.run("adam", LRS), p, rtol=1e-10)


def test_a_step_by_hand_is_the_step():
    """The loop of docs/coming-from.md, so that one row is tested everywhere."""
    p, h = start(), np.zeros((3, 4))
    for lr, g in zip(LRS, gradients(), strict=True):
        h += g * g
        p -= lr * g / (np.sqrt(h) + 1e-7)
    assert_array_equal(p, ours(fastopt.AdaGrad(), LRS))
