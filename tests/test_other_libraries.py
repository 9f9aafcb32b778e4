"""What docs/coming-from.md says of PyTorch, Keras and Optax, held to the libraries themselves.

Each is tested where it is installed. What makes the same steps there stands in the table of
optimizers; what differs, and how, is written out here. Speed belongs to bench.
"""

import os

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from optimizer_table import TABLE, Call

import fastopt

STEPS = 5
EPS = 1e-7  # the default
# two rates that float32 holds, as Keras has them: libraries differ in what a change acts on
LRS = (0.125, 0.125, 0.03125, 0.03125, 0.03125)
CONSTANT = (0.125,) * STEPS


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


def run_torch(call, lrs):
    torch = pytest.importorskip("torch")
    p = torch.nn.Parameter(torch.from_numpy(start()))
    optimizer = getattr(torch.optim, call.name)([p], lr=lrs[0], **call.settings)
    for t, (lr, g) in enumerate(zip(lrs, gradients(), strict=True), start=1):
        optimizer.param_groups[0]["lr"] = lr
        if call.eps is not None:
            optimizer.param_groups[0]["eps"] = call.eps(t)
        p.grad = torch.from_numpy(g)
        optimizer.step()
    return p.detach().numpy()


def run_keras(call, lrs):
    os.environ.setdefault("KERAS_BACKEND", "jax")
    pytest.importorskip("jax").config.update("jax_enable_x64", True)
    keras = pytest.importorskip("keras")
    variable = keras.Variable(start(), dtype="float64")
    optimizer = getattr(keras.optimizers, call.name)(**call.settings)
    optimizer.build([variable])
    for lr, g in zip(lrs, gradients(), strict=True):
        optimizer.learning_rate = lr
        optimizer.apply([keras.ops.convert_to_tensor(g, dtype="float64")])
    return np.asarray(variable)


def run_optax(call, lrs):
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    jax.config.update("jax_enable_x64", True)
    rates = jax.numpy.array(lrs)
    optimizer = getattr(optax, call.name)(lambda step: rates[step], **call.settings)
    p = jax.numpy.array(start())
    state = optimizer.init(p)
    for g in gradients():
        updates, state = optimizer.update(jax.numpy.array(g), state, p)
        p = optax.apply_updates(p, updates)
    return np.asarray(p)


LIBRARIES = {"torch": run_torch, "keras": run_keras, "optax": run_optax}


@pytest.mark.parametrize(
    ("row", "library"),
    [(row, library) for row in TABLE for library in row.elsewhere],
    ids=[f"{row.name}-{library}" for row in TABLE for library in row.elsewhere],
)
def test_steps_are_those_of_the_call_in_the_table(row, library):
    """With two rates; or with one, if that library's steps differ once the rate changes."""
    call, optimizer = row.elsewhere[library], row.compiled
    if not call.until_lr_changes:
        same(LIBRARIES[library](call, LRS), ours(optimizer(), LRS))
    else:
        same(LIBRARIES[library](call, CONSTANT), ours(optimizer(), CONSTANT))
        theirs = LIBRARIES[library](call, LRS)
        assert np.abs(theirs - ours(optimizer(), LRS)).max() > 1e-5


def test_keras_adagrad_has_eps_below_the_root_and_a_start():
    same(run_keras(Call("Adagrad"), LRS), eps_below_root(LRS, initial=0.1))
    zero = run_keras(Call("Adagrad", {"epsilon": 0.0}), LRS)  # its start is all that differs
    assert_allclose(zero, ours(fastopt.AdaGrad(), LRS, initial=0.1), rtol=1e-6)


def test_keras_rmsprop_has_eps_below_the_root_and_forgets_sooner():
    same(run_keras(Call("RMSprop"), LRS), eps_below_root(LRS, decay=0.9))


def test_optax_adagrad_has_eps_below_the_root_and_a_start():
    same(run_optax(Call("adagrad"), LRS), eps_below_root(LRS, initial=0.1))


def test_optax_rmsprop_has_eps_below_the_root_unless_told():
    same(run_optax(Call("rmsprop"), LRS), eps_below_root(LRS, decay=0.9, eps=1e-8))


def test_optax_adam_adds_its_eps_after_the_correction():
    p, m, v = start(), np.zeros((3, 4)), np.zeros((3, 4))
    for t, (lr, g) in enumerate(zip(LRS, gradients(), strict=True), 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p -= lr * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    assert_allclose(run_optax(Call("adam"), LRS), p, rtol=1e-10)


def test_defaults_of_torch():
    optim = pytest.importorskip("torch").optim
    p = [pytest.importorskip("torch").zeros(1)]
    assert optim.SGD(p).defaults["lr"] == 0.001
    assert (optim.Adagrad(p).defaults["lr"], optim.Adagrad(p).defaults["eps"]) == (0.01, 1e-10)
    assert optim.Adagrad(p).defaults["initial_accumulator_value"] == 0
    rmsprop = optim.RMSprop(p).defaults
    assert (rmsprop["lr"], rmsprop["alpha"], rmsprop["eps"]) == (0.01, 0.99, 1e-8)
    adam = optim.Adam(p).defaults
    assert (adam["lr"], adam["betas"], adam["eps"]) == (0.001, (0.9, 0.999), 1e-8)


def test_defaults_of_keras():
    pytest.importorskip("jax")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    optimizers = pytest.importorskip("keras").optimizers
    rates = {"SGD": 0.01, "Adagrad": 0.001, "RMSprop": 0.001, "Adam": 0.001}
    for name, rate in rates.items():
        optimizer = getattr(optimizers, name)()
        assert float(optimizer.learning_rate) == pytest.approx(rate)
        assert getattr(optimizer, "epsilon", 1e-7) == 1e-7


def test_a_step_by_hand_is_the_step():
    """The loop of docs/coming-from.md, so that one row is tested everywhere."""
    p, h = start(), np.zeros((3, 4))
    for lr, g in zip(LRS, gradients(), strict=True):
        h += g * g
        p -= lr * g / (np.sqrt(h) + 1e-7)
    assert_array_equal(p, ours(fastopt.AdaGrad(), LRS))
