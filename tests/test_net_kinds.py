"""Nets of every kind: each activation with each loss, batch normalization, dropout, weights.

They are held to central differences, to their twins and to independent frameworks. What a net of
relu and softmax does beside is in test_nets.py.
"""

import copy
import math
import pickle
import threading

import numpy as np
import pytest
from helpers.arrays import LAYOUTS, TOLERANCE, assert_close, lay_out, read_only
from helpers.errors import refused
from helpers.marks import both, every_dtype
from helpers.nets import (
    ACTIVATIONS,
    LOSSES,
    REGRESSIONS,
    a_batch,
    a_net,
    assert_gradients_agree,
    every_activation,
    every_loss,
    every_option,
)
from helpers.processes import run
from numpy.testing import assert_allclose, assert_array_equal

import fastopt
from fastopt import _kernels, _net, reference

SMALL, SIZES, LARGE = (3, 4, 2), (20, 30, 40, 7), (120, 90, 80, 10)


@pytest.fixture(autouse=True)
def threads_as_before():
    before = fastopt.get_num_threads()
    yield
    fastopt.set_num_threads(before)


# --- gradients ---


@both
@every_activation
@every_loss
@every_option
def test_gradient_equals_central_differences_of_the_loss_in_training(
    package, activation, loss, options
):
    net = a_net(package, SMALL, options, activation=activation, loss=loss, dtype=float)
    x, t, weights = a_batch(loss, 6, SMALL, options)
    grads = copy.deepcopy(net).gradient(x, t, **weights)

    def loss_in_training(_):
        return copy.deepcopy(net).loss_and_gradient(x, t, **weights)[0]

    for key, p in net.params.items():
        numerical = fastopt.numerical_gradient(loss_in_training, p)
        assert_allclose(grads[key], numerical, rtol=1e-6, atol=1e-6, err_msg=key)


@both
@every_activation
@every_loss
def test_numerical_gradient_is_that_of_the_loss(package, activation, loss):
    net = a_net(package, SMALL, "weights", activation=activation, loss=loss, dtype=float)
    x, t, weights = a_batch(loss, 6, SMALL, "weights")
    numerical = net.numerical_gradient(x, t, **weights)
    assert_gradients_agree(net.gradient(x, t, **weights), numerical, "float64", 1e-7)


@every_dtype
@every_activation
@every_loss
@every_option
def test_net_of_any_kind_equals_its_twin(dtype, activation, loss, options):
    x, t, weights = a_batch(loss, 37, SIZES, options)
    ours, theirs = (
        a_net(package, SIZES, options, activation=activation, loss=loss, dtype=dtype)
        for package in (fastopt, reference)
    )
    for _ in range(2):  # the second time with running averages and other random numbers
        assert_close(ours.predict(x), theirs.predict(x), dtype)
        close = pytest.approx(theirs.loss(x, t, **weights), rel=10 * TOLERANCE[dtype])
        assert ours.loss(x, t, **weights) == close
        got, want = (net.loss_and_gradient(x, t, **weights) for net in (ours, theirs))
        assert got[0] == pytest.approx(want[0], rel=10 * TOLERANCE[dtype])
        assert_gradients_agree(got[1], want[1], dtype)
    assert ours.steps == theirs.steps == 2
    assert ours.seed == theirs.seed
    assert list(ours.running) == list(theirs.running)
    for key, average in theirs.running.items():
        assert_close(ours.running[key], average, dtype)


def torch_loss(torch, net, x, t, weights):
    """Return loss and parameters of such a net in torch."""
    functional = torch.nn.functional
    params = {key: torch.tensor(p, requires_grad=True) for key, p in net.params.items()}
    activation, loss = (net._architecture[name] for name in ("activation", "loss"))
    out = torch.tensor(x)
    last = sum(key.startswith("W") for key in params)
    for i in range(1, last + 1):
        out = out @ params[f"W{i}"] + params[f"b{i}"]
        if f"gamma{i}" in params:
            gamma, beta = params[f"gamma{i}"], params[f"beta{i}"]
            out = functional.batch_norm(out, None, None, gamma, beta, training=True, eps=1e-7)
        if i < last and activation != "identity":
            out = getattr(functional, activation)(out)
    if loss == "softmax":
        losses = functional.cross_entropy(out, torch.tensor(t), reduction="none")
    else:
        of_pairs = {
            "logistic": functional.binary_cross_entropy_with_logits,
            "squared_error": lambda h, t, **how: functional.mse_loss(h, t, **how) / 2,
            "absolute_error": functional.l1_loss,
            "huber": functional.huber_loss,
            "poisson": functional.poisson_nll_loss,
        }
        losses = of_pairs[loss](out, torch.tensor(t, dtype=out.dtype), reduction="none")
        losses = losses.sum(dim=1) if loss == "logistic" else losses.mean(dim=1)
    w = torch.tensor(weights.get("sample_weight", np.ones(len(x))), dtype=out.dtype)
    squares = sum((p**2).sum() for key, p in params.items() if key.startswith("W"))
    return (w * losses).sum() / w.sum() + 0.5 * net.weight_decay_lambda * squares, params


@every_dtype
@every_activation
@every_loss
@pytest.mark.parametrize("options", ["plain", "weights", "norm", "all"])
def test_net_of_any_kind_equals_torch(dtype, activation, loss, options):
    torch = pytest.importorskip("torch")
    net = a_net(
        fastopt, SIZES, options, activation=activation, loss=loss, dtype=dtype, use_dropout=False
    )
    x, t, weights = a_batch(loss, 37, SIZES, options)
    want, params = torch_loss(torch, net, x.astype(dtype), t, weights)
    want.backward()
    got, grads = net.loss_and_gradient(x, t, **weights)
    tolerance = {"float32": 2e-5, "float64": 1e-10}[dtype]
    assert got == pytest.approx(want.item(), rel=tolerance)
    theirs = {key: p.grad.numpy() for key, p in params.items()}
    assert_gradients_agree(grads, theirs, dtype, tolerance)


def autograd_loss(net, x, t, weights):
    """Return a function of the parameters, which autograd differentiates: the loss in training."""
    np_ = pytest.importorskip("autograd.numpy")
    special = pytest.importorskip("autograd.scipy.special")
    activations = {
        "identity": lambda z: z,
        "relu": lambda z: np_.where(z > 0, z, 0),
        "leaky_relu": lambda z: np_.where(z > 0, z, 0.01 * z),
        "sigmoid": special.expit,
        "tanh": np_.tanh,
        "gelu": lambda z: z * (1 + special.erf(z / math.sqrt(2))) / 2,
        "silu": lambda z: z * special.expit(z),
    }
    of_pairs = {
        "logistic": lambda h: np_.logaddexp(0, h) - t * h,
        "squared_error": lambda h: (h - t) ** 2 / 2,
        "absolute_error": lambda h: np_.abs(h - t),
        "huber": lambda h: np_.where(np_.abs(h - t) < 1, (h - t) ** 2 / 2, np_.abs(h - t) - 0.5),
        "poisson": lambda h: np_.exp(h) - t * h,
    }
    activation, kind = (net._architecture[name] for name in ("activation", "loss"))
    w = weights.get("sample_weight", np.ones(len(x)))

    def loss(params):
        out = x
        last = sum(key.startswith("W") for key in params)
        for i in range(1, last + 1):
            out = np_.dot(out, params[f"W{i}"]) + params[f"b{i}"]
            if f"gamma{i}" in params:
                out = (out - np_.mean(out, axis=0)) / np_.sqrt(np_.var(out, axis=0) + 1e-7)
                out = params[f"gamma{i}"] * out + params[f"beta{i}"]
            if i < last:
                out = activations[activation](out)
        if kind == "softmax":
            losses = special.logsumexp(out, axis=1) - out[np.arange(len(t)), t]
        else:
            losses = (np_.sum if kind == "logistic" else np_.mean)(of_pairs[kind](out), axis=1)
        squares = sum(np_.sum(p**2) for key, p in params.items() if key.startswith("W"))
        return np_.sum(w * losses) / w.sum() + 0.5 * net.weight_decay_lambda * squares

    return loss


@every_activation
@every_loss
@pytest.mark.parametrize("options", ["plain", "all"])
def test_net_of_any_kind_equals_autograd(activation, loss, options):
    autograd = pytest.importorskip("autograd")
    net = a_net(
        fastopt, SIZES, options, activation=activation, loss=loss, dtype=float, use_dropout=False
    )
    x, t, weights = a_batch(loss, 37, SIZES, options)
    function = autograd_loss(net, x, t, weights)
    params = {key: p.copy() for key, p in net.params.items()}
    got, grads = net.loss_and_gradient(x, t, **weights)
    assert got == pytest.approx(float(function(params)), rel=1e-12)
    assert_gradients_agree(grads, autograd.grad(function)(params), "float64", 1e-10)


# --- in every cut: threads, rows, layouts, instruction sets ---


def trained(net, x, t, weights, threads):
    """Return the bits of everything after three steps on so many threads."""
    fastopt.set_num_threads(threads)
    net, results = copy.deepcopy(net), []
    for _ in range(3):
        loss, grads = net.loss_and_gradient(x, t, **weights)
        results += [np.array(loss), *grads.values(), *net.running.values()]
        for key, p in net.params.items():
            p[...] -= 0.1 * grads[key]
    return [*results, net.predict(x), np.array(net.loss(x, t, **weights))]


@every_dtype
@every_activation
@pytest.mark.parametrize("loss", ["softmax", "poisson"])
@pytest.mark.parametrize("n", [5, 64, 700])
def test_the_same_bits_on_any_number_of_threads(dtype, activation, loss, n):
    net = a_net(fastopt, LARGE, "all", activation=activation, loss=loss, dtype=dtype)
    x, t, weights = a_batch(loss, n, LARGE, "all")
    want = trained(net, x, t, weights, 1)
    for threads in (2, 3, 5):
        for got, one in zip(trained(net, x, t, weights, threads), want, strict=True):
            assert_array_equal(got, one, strict=True)


VARIANT = """
import hashlib, itertools
import fastopt
from helpers.nets import ACTIVATIONS, LOSSES, a_batch, a_net

digest = hashlib.sha1()
for activation, loss, dtype in itertools.product(ACTIVATIONS, LOSSES, ("f4", "f8")):
    net = a_net(fastopt, (20, 33, 17, 7), "all", activation=activation, loss=loss, dtype=dtype)
    x, t, weights = a_batch(loss, 37, (20, 33, 17, 7), "all")
    value, grads = net.loss_and_gradient(x, t, **weights)
    for array in (*grads.values(), *net.running.values(), net.predict(x)):
        digest.update(array.tobytes())
    digest.update(repr(value).encode())
print(digest.hexdigest())
"""


def test_the_same_bits_in_every_variant_with_products_of_its_own():
    variants = [name for name in _kernels.available if name != "baseline"]
    done = [run(VARIANT, FASTOPT_ISA=variant) for variant in variants]
    assert all(d.stderr == "" for d in done), done[0].stderr
    assert len({d.stdout for d in done}) <= 1


@every_loss
@both
def test_batch_takes_rows_of_targets_and_weights(package, loss):
    net = a_net(package, SIZES, "all", loss=loss)
    x, t, weights = a_batch(loss, 50, SIZES, "all")
    w = weights["sample_weight"]
    rows = np.array([3, 49, 3, 0, -7, 21])
    want = copy.deepcopy(net).loss_and_gradient(x[rows], t[rows], sample_weight=w[rows])
    given = {
        "as they are": (x, t, w, rows),
        "float32": (x.astype("f4"), t, w.astype("f4"), rows.astype("i1")),
        "lists": (x.tolist(), t.tolist(), w.tolist(), rows.tolist()),
        "Fortran": (np.asfortranarray(x), np.asfortranarray(t), w, rows),
        "strided": (*(np.repeat(each, 2, axis=0)[::2] for each in (x, t, w)), rows),
    }
    for name, (x_, t_, w_, rows_) in given.items():
        again = copy.deepcopy(net)
        loss_, grads = again.loss_and_gradient(x_, t_, batch=rows_, sample_weight=w_)
        assert loss_ == want[0], name
        for key, g in want[1].items():
            assert_array_equal(grads[key], g, err_msg=name)
        assert net.loss(x_, t_, batch=rows_, sample_weight=w_) == net.loss(
            x[rows], t[rows], sample_weight=w[rows]
        )


@both
@every_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("loss", ["squared_error", "logistic"])
def test_targets_and_weights_of_any_layout(package, dtype, layout, loss):
    net = a_net(package, SMALL, "all", loss=loss, dtype=dtype)
    x, t, weights = a_batch(loss, 9, SMALL, "all")
    want = copy.deepcopy(net).loss_and_gradient(x, t.astype(dtype), **weights)
    given = lay_out(t.astype(dtype), layout)
    weight = lay_out(weights["sample_weight"].astype(dtype), layout)
    kept = given.copy(), weight.copy()
    loss_, grads = net.loss_and_gradient(x, given, sample_weight=weight)
    assert loss_ == want[0]
    for key, g in want[1].items():
        assert_array_equal(grads[key], g)
    assert_array_equal(given, kept[0])
    assert_array_equal(weight, kept[1])


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_a_smaller_batch_after_a_larger_one_with_everything_on(activation):
    net = a_net(fastopt, LARGE, "all", activation=activation)
    x, t, weights = a_batch("softmax", 700, LARGE, "all")
    net.gradient(x, t, **weights)
    for n in (1, 33, 500):
        fresh = a_net(fastopt, LARGE, "all", activation=activation)
        fresh.load_state_dict(net.state_dict())
        part = weights["sample_weight"][:n]
        want = fresh.gradient(x[:n], t[:n], sample_weight=part)
        for key, g in net.gradient(x[:n], t[:n], sample_weight=part).items():
            assert_array_equal(g, want[key])


def test_several_threads_evaluate_one_net():
    net = a_net(fastopt, LARGE, "all", loss="huber", activation="silu")
    x, t, weights = a_batch("huber", 100, LARGE, "all")
    net.gradient(x, t, **weights)
    want, scores = net.loss(x, t, **weights), net.predict(x)
    wrong = []

    def work():
        for _ in range(20):
            if net.loss(x, t, **weights) != want or (net.predict(x) != scores).any():
                wrong.append(1)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


# --- training and evaluation ---


@both
def test_batch_normalization_keeps_running_averages(package):
    net = a_net(package, SIZES, "norm", dtype=float)
    for key, average in net.running.items():
        assert_array_equal(average, np.full(average.shape, float(key.startswith("var"))))
    assert {key: a.shape for key, a in net.running.items()} == {
        "mean1": (30,), "var1": (30,), "mean2": (40,), "var2": (40,),
    }  # fmt: skip
    x, t, _ = a_batch("softmax", 37, SIZES)
    arrays = dict(net.running)
    z = x @ net.params["W1"] + net.params["b1"]
    net.gradient(x, t)
    assert_allclose(net.running["mean1"], 0.1 * z.mean(axis=0), rtol=1e-12, atol=1e-14)
    assert_allclose(net.running["var1"], 0.9 + 0.1 * z.var(axis=0), rtol=1e-12)
    kept = {key: average.copy() for key, average in net.running.items()}
    net.loss(x, t)
    net.predict(x)
    net.accuracy(x, t)
    for key, average in net.running.items():
        assert average is arrays[key]
        assert_array_equal(average, kept[key])
    assert net.steps == 1


@both
def test_running_averages_may_be_replaced(package):
    net = a_net(package, SIZES, "norm", dtype=float)
    x, t, _ = a_batch("softmax", 37, SIZES)
    net.gradient(x, t)
    old, want = dict(net.running), net.loss(x, t)
    net.running["mean1"] = mean = np.full(30, 5.0)
    assert net.loss(x, t) != want
    net.gradient(x, t)
    z = x @ net.params["W1"] + net.params["b1"]
    assert net.running["mean1"] is mean
    assert_allclose(mean, 4.5 + 0.1 * z.mean(axis=0), rtol=1e-12)
    assert_allclose(old["mean1"], 0.1 * z.mean(axis=0), rtol=1e-12, atol=1e-14)


# What may not stand in running["mean1"]: a function of net and gradients, exception, message
BAD_AVERAGES = {
    "missing": (None, KeyError, r"running has no array 'mean1'"),
    "dtype": (lambda net, grads: np.zeros(30, "f4"), TypeError, "float64 array, got float32"),
    "byte order": (lambda net, grads: np.zeros(30, ">f8"), TypeError, "float64 array, got >f8"),
    "list": (lambda net, grads: [0.0] * 30, TypeError, "float64 array, got list"),
    "shape": (lambda net, grads: np.zeros(31), ValueError, r"shape \(31,\), wants \(30,\)"),
    "strides": (lambda net, grads: np.zeros(60)[::2], ValueError, "C-contiguous"),
    "read-only": (lambda net, grads: read_only(np.zeros(30)), ValueError, "writeable"),
}
OVERLAPPING_AVERAGES = {
    "another": (lambda net, grads: net.running["var1"], ValueError, r"running\['var1'\]"),
    "a parameter": (lambda net, grads: net.params["b1"], ValueError, "parameter 'b1' overlap"),
    "a gradient": (lambda net, grads: grads["b1"], ValueError, r"out\['b1'\] and running"),
    "samples": (lambda net, grads: X_OF_AVERAGES[1, :30], ValueError, "'mean1'.* and x overlap"),
}
X_OF_AVERAGES = np.ones((37, 50))


@both
@pytest.mark.parametrize("case", BAD_AVERAGES | OVERLAPPING_AVERAGES)
def test_running_averages_that_do_not_fit_are_refused(package, case):
    make, exception, message = (BAD_AVERAGES | OVERLAPPING_AVERAGES)[case]
    net = a_net(package, (50, 30, 40, 7), "norm", dtype=float)
    x, t = X_OF_AVERAGES, np.arange(37) % 7
    grads = net.gradient(x, t)
    state, good = net.state_dict(), net.running["mean1"]
    if make is None:
        del net.running["mean1"]
    else:
        net.running["mean1"] = make(net, grads)
    calls = [lambda: net.gradient(x, t, out=grads)]
    if case in BAD_AVERAGES:  # else it is well enough for evaluation
        calls += [lambda: net.predict(x), lambda: net.loss(x, t)]
        calls += [lambda: net.load_state_dict(state)]
    for call in calls:
        with refused(exception, message, net.params, net.running, grads):
            call()
    assert net.steps == 1
    net.running["mean1"] = good
    net.gradient(x, t, out=grads)


@both
def test_evaluation_normalizes_each_sample_by_itself(package):
    net = a_net(package, SIZES, "all", dtype=float)
    x, t, _ = a_batch("softmax", 37, SIZES)
    net.gradient(x, t)
    scores = net.predict(x)
    for i in (0, 36):
        assert_allclose(net.predict(x[i : i + 1])[0], scores[i], rtol=1e-12)
    assert net.loss(x, t) == net.loss(x, t)
    assert net.loss(x, t) != net.loss_and_gradient(x, t)[0]


@both
def test_norm_of_one_sample_is_its_beta(package):
    net = a_net(package, SMALL, "norm", activation="identity", loss="squared_error", dtype=float)
    loss, _ = net.loss_and_gradient(np.ones((1, 3)), np.zeros((1, 2)))
    scores = net.params["beta1"] @ net.params["W2"] + net.params["b2"]
    assert loss == pytest.approx(np.mean(scores**2) / 2, rel=1e-12)


@both
def test_dropout_drops_other_units_in_each_step_and_none_in_evaluation(package):
    net = a_net(package, SIZES, "dropout", dtype=float)
    plain = package.MultiLayerNet(20, [30, 40], 7, dtype=float)
    x, t, _ = a_batch("softmax", 37, SIZES)
    plain.params = net.params
    assert_array_equal(net.predict(x), plain.predict(x))
    assert net.loss(x, t) == plain.loss(x, t)
    first, second = net.gradient(x, t), net.gradient(x, t)
    assert any((first[key] != second[key]).any() for key in first)
    assert net.steps == 2
    net.steps = 0
    for key, g in net.gradient(x, t).items():
        assert_array_equal(g, first[key])


@both
def test_no_unit_is_dropped_at_a_ratio_of_zero(package):
    settings = {"use_dropout": True, "dropout_ratio": 0, "dtype": float}
    net, plain = a_net(package, SIZES, **settings), a_net(package, SIZES, dtype=float)
    x, t, _ = a_batch("softmax", 37, SIZES)
    assert type(net.seed) is int
    for key, g in plain.gradient(x, t).items():
        assert_array_equal(net.gradient(x, t)[key], g)


@both
def test_seed_of_dropout_is_drawn_after_the_weights(package):
    nets = [package.MultiLayerNet(4, [3], 2, use_dropout=on, rng=7) for on in (True, False)]
    for key, p in nets[1].params.items():
        assert_array_equal(nets[0].params[key], p)
    rng = np.random.default_rng(7)
    rng.standard_normal(4 * 3 + 3 * 2)
    assert nets[0].seed == int(rng.integers(2**63))
    assert nets[1].seed is None
    rng = np.random.default_rng(7)
    package.MultiLayerNet(4, [3], 2, rng=rng)
    after = rng.random()
    rng = np.random.default_rng(7)
    package.MultiLayerNet(4, [3], 2, rng=rng, use_batchnorm=True)
    assert rng.random() == after


@both
@pytest.mark.parametrize("loss", LOSSES)
def test_an_error_in_training_changes_nothing(package, loss):
    net = a_net(package, SIZES, "all", loss=loss)
    x, t, weights = a_batch(loss, 37, SIZES, "all")
    out = net.gradient(x, t, **weights)
    state, kept = net.state_dict(), {key: g.copy() for key, g in out.items()}
    w = weights["sample_weight"]
    for bad in (
        {"x": x[:, 1:]}, {"t": t[1:]}, {"sample_weight": -1 - w}, {"sample_weight": w[1:]},
        {"batch": [37]},
    ):  # fmt: skip
        with pytest.raises((ValueError, IndexError)):
            net.gradient(**{"x": x, "t": t, "sample_weight": w, "out": out, **bad})
    after = net.state_dict()
    assert after["steps"] == state["steps"] == 1
    for name in ("params", "running"):
        for key, array in state[name].items():
            assert_array_equal(after[name][key], array)
    for key, g in kept.items():
        assert_array_equal(out[key], g)


@both
@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))]
)
def test_copies_go_on_with_averages_and_random_numbers(package, again):
    net = a_net(package, SIZES, "all", activation="silu", loss="huber")
    x, t, weights = a_batch("huber", 37, SIZES, "all")
    net.gradient(x, t, **weights)
    other = again(net)
    assert (other.steps, other.seed, repr(other)) == (1, net.seed, repr(net))
    for key, average in net.running.items():
        assert_array_equal(other.running[key], average)
    assert other.loss(x, t) == net.loss(x, t)
    if again is not copy.copy:  # which shares what it has
        want = net.gradient(x, t, **weights)
        for key, g in other.gradient(x, t, **weights).items():
            assert_array_equal(g, want[key])


# --- sample weights ---


@both
@every_loss
def test_weights_are_counts(package, loss):
    net = a_net(package, SIZES, loss=loss, dtype=float)
    x, t, _ = a_batch(loss, 20, SIZES)
    counts = np.arange(20) % 4
    repeated = np.repeat(np.arange(20), counts)
    want, grads = net.loss_and_gradient(x[repeated], t[repeated])
    got, weighted = net.loss_and_gradient(x, t, sample_weight=counts)
    assert got == pytest.approx(want, rel=1e-12)
    assert net.loss(x, t, sample_weight=counts / 7) == pytest.approx(got, rel=1e-12)
    assert_gradients_agree(weighted, grads, "float64", 1e-10)


@both
@pytest.mark.parametrize("loss", REGRESSIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_sample_of_weight_zero_counts_for_nothing(package, loss, bad):
    if loss == "poisson" and np.isnan(bad):
        pytest.skip("a rate is a number")
    net = a_net(package, SIZES, loss=loss, dtype=float)
    x, t, _ = a_batch(loss, 20, SIZES)
    t = t.astype(float)
    t[3, 1] = bad
    weights = np.ones(20)
    assert not np.isfinite(net.loss(x, t))
    weights[3] = 0
    others = np.delete(np.arange(20), 3)
    want = net.loss_and_gradient(x[others], t[others])
    got = net.loss_and_gradient(x, t, sample_weight=weights)
    assert got[0] == pytest.approx(want[0], rel=1e-12)
    assert net.loss(x, t, sample_weight=weights) == pytest.approx(want[0], rel=1e-12)
    assert_gradients_agree(got[1], want[1], "float64", 1e-10)


# --- values of the losses ---

# loss → score, target, loss and derivative of a single output
VALUES = {
    "logistic": [(0, 0, math.log(2), 0.5), (0, 1, math.log(2), -0.5), (800, 1, 0, 0),
                 (800, 0, 800, 1), (-800, 1, 800, -1), (-800, 0.25, 200, -0.25)],
    "squared_error": [(3, 1, 2, 2), (-1, 1, 2, -2), (1, 1, 0, 0)],
    "absolute_error": [(3, 1, 2, 1), (-1, 1, 2, -1), (1, 1, 0, 0)],
    "huber": [(1.5, 1, 0.125, 0.5), (2, 1, 0.5, 1), (4, 1, 2.5, 1), (-4, 1, 4.5, -1), (1, 1, 0, 0)],
    "poisson": [(0, 2, 1, -1), (math.log(2), 2, 2 - 2 * math.log(2), 0), (-800, 0, 0, 0)],
}  # fmt: skip


@both
@every_dtype
@pytest.mark.parametrize("loss", VALUES)
def test_values_of_the_losses(package, dtype, loss):
    net = package.MultiLayerNet(1, [], 1, loss=loss, dtype=dtype, rng=0)
    net.params["W1"][...] = 1
    for score, target, value, slope in VALUES[loss]:
        got, grads = net.loss_and_gradient([[score]], [target])
        assert got == pytest.approx(value, rel=1e-6, abs=1e-6)
        assert got == net.loss([[score]], [[target]])
        assert_allclose(grads["b1"], [slope], rtol=1e-6, atol=1e-6)


# loss → score, target, loss of a single output: 0·∞ is 0
AT_INFINITY = {
    "softmax": [(math.inf, 1, math.nan), (-math.inf, 1, math.nan)],
    "logistic": [(math.inf, 1, 0), (-math.inf, 0, 0), (math.inf, 0, math.inf),
                 (-math.inf, 1, math.inf), (math.inf, 0.5, math.inf), (-math.inf, 0.5, math.inf),
                 (math.nan, 0, math.nan), (math.nan, 1, math.nan)],
    "squared_error": [(math.inf, 1, math.inf), (-math.inf, 1, math.inf), (math.nan, 1, math.nan)],
    "absolute_error": [(-math.inf, 1, math.inf), (math.nan, 1, math.nan)],
    "huber": [(-math.inf, 1, math.inf), (math.nan, 1, math.nan)],
    "poisson": [(math.inf, 0, math.inf), (-math.inf, 0, 0), (-math.inf, 2, math.inf),
                (math.nan, 0, math.nan)],
}  # fmt: skip


@both
@every_dtype
@every_loss
def test_losses_of_infinite_scores(package, dtype, loss):
    net = package.MultiLayerNet(1, [], 1, loss=loss, dtype=dtype, rng=0)
    net.params["W1"][...] = 1
    for score, target, value in AT_INFINITY[loss]:
        assert_array_equal(net.loss([[score]], [[target]]), value)


@both
def test_outputs_are_summed_for_logistic_and_averaged_for_regressions(package):
    x, t = np.ones((2, 1)), np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    for loss, want in (("logistic", 3 * math.log(2)), ("squared_error", 1 / 3)):
        net = package.MultiLayerNet(1, [], 3, loss=loss, weight_init_std=0, dtype=float)
        assert net.loss(x, t) == pytest.approx(want, rel=1e-12)


@both
@every_dtype
def test_soft_labels(package, dtype):
    net = a_net(package, SIZES, dtype=dtype)
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((37, 20)), rng.integers(0, 7, 37)
    one_hot = np.eye(7)[t]
    smooth = 0.9 * one_hot + 0.1 / 7
    for given in (one_hot, one_hot.astype("f4"), one_hot.astype(int)):
        assert net.loss(x, given) == net.loss(x, t)
        for key, g in net.gradient(x, given).items():
            assert_array_equal(g, net.gradient(x, t)[key])
    scores = net.predict(x).astype(float)
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    want = -(smooth * logs).sum(axis=1).mean()
    tolerance = TOLERANCE[dtype] * 10
    assert net.loss(x, smooth) == pytest.approx(want, rel=tolerance)
    layer = package.SoftmaxWithLoss()
    assert layer.forward(net.predict(x), smooth) == pytest.approx(want, rel=tolerance)
    assert_allclose(layer.backward(), (np.exp(logs) - smooth) / 37, atol=tolerance)


def test_kinds_are_those_of_the_compiled_table():
    assert [*_net.activations] == ACTIVATIONS
    assert [*_net.losses] == [*LOSSES]
    assert [*reference._net._ACTIVATIONS] == ACTIVATIONS
