"""The nets: against their twins, against an independent framework, and as their users use them."""

import numpy as np
import pytest
from helpers.arrays import assert_close
from helpers.marks import both, every_dtype
from numpy.testing import assert_allclose, assert_array_equal
from optimizer_table import every_optimizer
from scipy import special

import fastopt
from fastopt import reference

FRAMEWORK_TOLERANCE = {"float32": 2e-5, "float64": 1e-12}

net_kinds = pytest.mark.parametrize("activation", ["relu", "sigmoid"])
decays = pytest.mark.parametrize("weight_decay_lambda", [0, 0.1])


def batch(n=37, shape=(20,), classes=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, *shape)), rng.integers(0, classes, n)


def nets(package, dtype="float32", **settings):
    return package.MultiLayerNet(20, [30, 40], 7, dtype=dtype, rng=3, **settings)


@every_dtype
@net_kinds
@decays
@pytest.mark.parametrize("n", [1, 2, 37, 300])
def test_net_equals_twin(dtype, activation, weight_decay_lambda, n):
    settings = {"activation": activation, "weight_decay_lambda": weight_decay_lambda}
    ours, theirs = (nets(package, dtype, **settings) for package in (fastopt, reference))
    x, t = batch(n)
    for key, p in theirs.params.items():
        assert_array_equal(ours.params[key], p, strict=True)
    assert_close(ours.predict(x), theirs.predict(x), dtype)
    assert ours.accuracy(x, t) == theirs.accuracy(x, t)
    assert ours.loss(x, t) == pytest.approx(
        theirs.loss(x, t), rel=1e-5 if dtype == "float32" else 1e-12
    )
    got, want = ours.gradient(x, t), theirs.gradient(x, t)
    assert list(got) == list(want) == list(ours.params)
    for key, g in want.items():
        assert_close(got[key], g, dtype)


def autograd_loss_and_gradients(params, x, t, activation, weight_decay_lambda):
    numpy = pytest.importorskip("autograd.numpy")
    autograd = pytest.importorskip("autograd")
    affines = len(params) // 2

    def loss(params):
        out = x
        for i in range(1, affines + 1):
            out = numpy.dot(out, params[f"W{i}"]) + params[f"b{i}"]
            if i < affines and activation == "relu":
                out = numpy.where(out > 0, out, 0)
            elif i < affines:
                out = 1 / (1 + numpy.exp(-out))
        out = out - numpy.max(out, axis=1, keepdims=True)
        log_sums = numpy.log(numpy.sum(numpy.exp(out), axis=1))
        cross_entropy = numpy.mean(log_sums - out[numpy.arange(len(t)), t])
        squares = sum(numpy.sum(params[f"W{i}"] ** 2) for i in range(1, affines + 1))
        return cross_entropy + 0.5 * weight_decay_lambda * squares

    return float(loss(params)), autograd.grad(loss)(params)


def torch_loss_and_gradients(params, x, t, activation, weight_decay_lambda):
    torch = pytest.importorskip("torch")
    tensors = {key: torch.tensor(p, requires_grad=True) for key, p in params.items()}
    out = torch.tensor(x)
    affines = len(params) // 2
    for i in range(1, affines + 1):
        out = torch.nn.functional.linear(out, tensors[f"W{i}"].T, tensors[f"b{i}"])
        if i < affines:
            out = torch.relu(out) if activation == "relu" else torch.sigmoid(out)
    squares = sum((tensors[f"W{i}"] ** 2).sum() for i in range(1, affines + 1))
    cross_entropy = torch.nn.functional.cross_entropy(out, torch.tensor(t))
    loss = cross_entropy + 0.5 * weight_decay_lambda * squares
    loss.backward()
    return loss.item(), {key: tensor.grad.numpy() for key, tensor in tensors.items()}


@every_dtype
@net_kinds
@decays
@pytest.mark.parametrize("framework", [autograd_loss_and_gradients, torch_loss_and_gradients])
def test_net_equals_independent_framework(dtype, activation, weight_decay_lambda, framework):
    settings = {"activation": activation, "weight_decay_lambda": weight_decay_lambda}
    net, (x, t) = nets(fastopt, dtype, **settings), batch()
    params = {key: p.copy() for key, p in net.params.items()}
    loss, gradients = framework(params, x.astype(dtype), t, activation, weight_decay_lambda)
    tolerance = FRAMEWORK_TOLERANCE[dtype]
    assert net.loss(x, t) == pytest.approx(loss, rel=tolerance)
    for key, g in net.gradient(x, t).items():
        assert_allclose(g, gradients[key], rtol=0, atol=tolerance * np.abs(gradients[key]).max())


@both
@net_kinds
@decays
def test_gradient_equals_central_differences(package, activation, weight_decay_lambda):
    net = package.MultiLayerNet(
        4, [5, 6], 3, activation, weight_decay_lambda=weight_decay_lambda, dtype=float, rng=1
    )
    x, t = batch(9, (4,), 3)
    numerical = net.numerical_gradient(x, t)
    for key, g in net.gradient(x, t).items():
        assert_allclose(g, numerical[key], rtol=0, atol=1e-8)


@both
@net_kinds
@pytest.mark.parametrize("scale", [30, 100, 1e4])
def test_loss_belongs_to_its_gradient_at_scores_of_any_size(package, activation, scale):
    net = package.MultiLayerNet(4, [5], 3, activation, dtype=float, rng=1)
    x, t = batch(9, (4,), 3)
    net.params["W2"] *= scale / np.abs(net.predict(x)).max()
    scores = net.predict(x)
    assert np.abs(scores).max() == pytest.approx(scale)
    want = special.logsumexp(scores, axis=1) - scores[np.arange(9), t]
    assert net.loss(x, t) == pytest.approx(want.mean(), rel=1e-12)
    assert want.max() > 16.2  # where log(y + 1e-7) would be flat
    numerical = net.numerical_gradient(x, t)
    loss, grads = net.loss_and_gradient(x, t)
    assert loss == net.loss(x, t)
    for key in ("W2", "b2"):
        rounding = 1e-12 * scale + 1e-8 * np.abs(grads[key]).max()
        assert_allclose(grads[key], numerical[key], rtol=0, atol=rounding)


@both
def test_two_layer_net_is_a_multi_layer_net(package):
    two = package.TwoLayerNet(20, 30, 7, rng=1)
    assert {key: p.shape for key, p in two.params.items()} == {
        "W1": (20, 30), "b1": (30,), "W2": (30, 7), "b2": (7,),
    }  # fmt: skip
    multi = package.MultiLayerNet(20, [30], 7, weight_init_std=0.01, rng=1)
    x, t = batch()
    for key, g in multi.gradient(x, t).items():
        assert_array_equal(two.gradient(x, t)[key], g)
    sigmoid = package.TwoLayerNet(
        20, 30, 7, "xavier", activation="sigmoid", weight_decay_lambda=0.5, dtype=float
    )
    assert sigmoid.loss(x, t) > package.SoftmaxWithLoss().forward(sigmoid.predict(x), t)


@both
def test_net_without_hidden_layers(package):
    net = package.MultiLayerNet(20, [], 7, dtype=float, rng=0)
    x, t = batch()
    assert_allclose(net.predict(x), x @ net.params["W1"] + net.params["b1"], rtol=1e-12)
    assert list(net.gradient(x, t)) == ["W1", "b1"]


@pytest.mark.parametrize(
    ("weight_init_std", "want"),
    [
        ("relu", [(2 / 400) ** 0.5, (2 / 300) ** 0.5]),
        ("he", [(2 / 400) ** 0.5, (2 / 300) ** 0.5]),
        ("sigmoid", [(1 / 400) ** 0.5, (1 / 300) ** 0.5]),
        ("Xavier", [(1 / 400) ** 0.5, (1 / 300) ** 0.5]),
        (0.25, [0.25, 0.25]),
        (0, [0, 0]),
    ],
)
def test_initial_weights(weight_init_std, want):
    net = fastopt.MultiLayerNet(400, [300], 200, weight_init_std=weight_init_std, rng=0)
    for i, std in enumerate(want, start=1):
        W, b = net.params[f"W{i}"], net.params[f"b{i}"]
        assert W.std() == pytest.approx(std, rel=0.02)
        assert abs(W.mean()) <= 4 * std / W.size**0.5
        assert not b.any()
        assert W.flags.c_contiguous


def test_rng_gives_the_same_net_in_either_dtype():
    single, double = (fastopt.MultiLayerNet(5, [4], 3, dtype=d, rng=8) for d in ("f4", "f8"))
    again = fastopt.MultiLayerNet(5, [4], 3, rng=np.random.default_rng(8))
    other = fastopt.MultiLayerNet(5, [4], 3)
    for key, p in double.params.items():
        assert_array_equal(single.params[key], p.astype("f4"))
        assert_array_equal(single.params[key], again.params[key])
    assert np.any(other.params["W1"] != single.params["W1"])


@both
def test_gradient_writes_into_the_dict_given(package):
    net = nets(package, weight_decay_lambda=0.1)
    first = net.gradient(*batch(seed=1))
    arrays = dict(first)
    want = net.gradient(*batch(seed=2))
    assert net.gradient(*batch(seed=2), out=first) is first
    for key, g in want.items():
        assert first[key] is arrays[key]
        assert_array_equal(first[key], g)


BAD_OUT = {
    "lacks a key": (lambda out, net: out.pop("W2"), KeyError, "'W2'"),
    "shape": (lambda out, net: out.update(b1=np.ones(31, "f4")), ValueError, r"b1.*31.*\(30,\)"),
    "dtype": (lambda out, net: out.update(b1=np.ones(30)), TypeError, "b1.*float64"),
    "list": (lambda out, net: out.update(b1=[0.0] * 30), TypeError, "b1.*list"),
    "layout": (
        lambda out, net: out.update(W1=np.ones((30, 20), "f4").T), ValueError, "W1.*C-contiguous",
    ),
    "the parameter": (
        lambda out, net: out.update(W2=net.params["W2"]), ValueError, "W2.*parameter 'W2' overlap",
    ),
    "another parameter": (
        lambda out, net: out.update(b1=net.params["W2"][0, :30]), (TypeError, ValueError), "b1",
    ),
    "another output": (
        lambda out, net: out.update(b1=out["W1"][0]), ValueError, r"out\['W1'\] and out\['b1'\]",
    ),
    "unaligned": (
        lambda out, net: out.update(b1=np.zeros(121, "u1")[1:].view("f4")), ValueError, "aligned",
    ),
}  # fmt: skip


@both
@pytest.mark.parametrize("case", BAD_OUT)
def test_gradient_refuses_a_dict_that_does_not_fit(package, case):
    spoil, exception, message = BAD_OUT[case]
    net = nets(package)
    out = net.gradient(*batch(seed=1))
    spoil(out, net)
    kept = {key: np.array(g) for key, g in out.items()}
    with pytest.raises(exception, match=message):
        net.gradient(*batch(seed=2), out=out)
    for key, g in kept.items():
        assert_array_equal(out[key], g)


@both
@pytest.mark.parametrize("out", [[], (1, 2), "W1", 3])
def test_gradient_refuses_what_is_no_dict(package, out):
    with pytest.raises(TypeError, match="out must be a dict of arrays, got"):
        nets(package).gradient(*batch(), out=out)


@both
def test_scores_are_the_callers_own(package):
    net = nets(package)
    x, t = batch()
    scores = net.predict(x)
    kept = scores.copy()
    want = net.gradient(x, t)
    net.predict(-x)
    assert_array_equal(scores, kept)
    net.predict(x)[...] = 0
    for key, g in net.gradient(x, t).items():
        assert_array_equal(g, want[key])


@both
def test_replaced_parameters_are_used(package):
    net, other = nets(package), nets(package)
    x, _ = batch()
    for key in net.params:
        other.params[key] = net.params[key] * 2
        net.params[key] *= 2  # in place, as an optimizer does
    assert_array_equal(net.predict(x), other.predict(x))


@both
@pytest.mark.parametrize("shape", [(20,), (4, 5), (1, 4, 5)])
def test_images_of_any_rank(package, shape):
    net = nets(package, float)
    x, t = batch(shape=shape)
    flat = x.reshape(len(x), 20)
    assert_array_equal(net.predict(x), net.predict(flat))
    assert net.loss(x, t) == net.loss(flat, t)
    bytes_ = (np.abs(x) * 50).astype(np.uint8)
    assert_array_equal(net.predict(bytes_), net.predict(bytes_.astype(float)))


@both
def test_bad_batches_are_refused(package):
    net = nets(package)
    x, t = batch()
    for call in (net.loss, net.gradient, net.accuracy):
        with pytest.raises(ValueError, match="no samples"):
            call(x[:0], t[:0])
        with pytest.raises(ValueError, match="labels have shape"):
            call(x, t[:-1])
        with pytest.raises(ValueError, match=r"0(\.\.| to )6"):
            call(x, t + 7)
        with pytest.raises(ValueError, match=r"\(37, 19\)"):
            call(x[:, 1:], t)


@pytest.mark.parametrize(
    ("change", "exception", "message"),
    [
        ({"input_size": 0}, ValueError, "at least 1"),
        ({"output_size": -1}, ValueError, "at least 1"),
        ({"hidden_size_list": [3, 0]}, ValueError, "at least 1"),
        ({"hidden_size_list": [3.5]}, TypeError, "3.5"),
        ({"hidden_size_list": 3}, TypeError, "hidden_size_list"),
        ({"activation": "softplus"}, ValueError, "'identity' or .* or 'silu', got 'softplus'"),
        ({"activation": None}, ValueError, "activation must be 'identity' or .*, got None"),
        ({"loss": "hinge"}, ValueError, "'softmax' or .* or 'poisson', got 'hinge'"),
        ({"use_batchnorm": 1}, TypeError, "use_batchnorm must be True or False, got 1"),
        ({"use_dropout": None}, TypeError, "use_dropout must be True or False, got None"),
        ({"use_dropout": True, "dropout_ratio": 1}, ValueError, "dropout_ratio must be .* got 1"),
        ({"dropout_ratio": -0.5}, ValueError, "dropout_ratio must be at least 0 and less than 1"),
        ({"dropout_ratio": "half"}, TypeError, "dropout_ratio must be a number, got 'half'"),
        ({"weight_init_std": "big"}, ValueError, "'big'"),
        ({"weight_init_std": -1}, ValueError, "weight_init_std"),
        ({"weight_decay_lambda": -1}, ValueError, "weight_decay_lambda"),
        ({"dtype": "int32"}, TypeError, "int32"),
        ({"dtype": "float16"}, TypeError, "float16"),
    ],
)
def test_bad_settings_are_refused(change, exception, message):
    settings = {"input_size": 4, "hidden_size_list": [3], "output_size": 2, **change}
    for package in (fastopt, reference):
        with pytest.raises(exception, match=message):
            package.MultiLayerNet(**settings)


@every_optimizer
@every_dtype
def test_training_lowers_the_loss_as_the_twins_do(row, dtype):
    losses = []
    x, t = batch(50, seed=4)
    for package, optimizer in ((fastopt, row.compiled()), (reference, row.twin())):
        net, grads = nets(package, dtype), None
        start = net.loss(x, t)
        for _ in range(30):
            grads = net.gradient(x, t, out=grads)
            optimizer.update(net.params, grads)
        losses.append(net.loss(x, t))
        assert losses[-1] < start
    assert losses[0] == pytest.approx(losses[1], rel=1e-3 if dtype == "float32" else 1e-10)


def test_numerical_gradient_restores_its_argument():
    x = np.arange(6.0).reshape(2, 3)[:, ::2]
    kept = x.copy()
    got = fastopt.numerical_gradient(lambda a: float((a**3).sum()), x)
    assert_allclose(got, 3 * kept**2, atol=1e-6)
    assert_array_equal(x, kept)

    def fails(a):
        raise RuntimeError("no value here")

    with pytest.raises(RuntimeError, match="no value here"):
        fastopt.numerical_gradient(fails, x)
    assert_array_equal(x, kept)
    for bad in (np.arange(3), [1.0], 1.0):
        with pytest.raises(TypeError, match="float32 or float64"):
            fastopt.numerical_gradient(lambda a: 0.0, bad)


def test_a_gradient_tells_the_largest_loss_of_a_sample():
    """By which `fastopt.sklearn` finds batches whose loss scikit-learn would clip."""
    net = fastopt.MultiLayerNet(4, [8], 3, dtype=np.float64, rng=0)
    x, t = np.random.default_rng(0).standard_normal((50, 4)), np.arange(50) % 3
    losses = np.array([net.loss(x[i : i + 1], t[i : i + 1]) for i in range(50)])
    weights = np.where(losses == losses.max(), 0.0, 1.0)
    for rows in (None, np.arange(20)):
        for given in (None, weights):
            net.gradient(x, t, batch=rows, sample_weight=given)
            counted = (losses if given is None else losses * weights)[
                : 20 if rows is not None else 50
            ]
            assert net._network.largest_loss == pytest.approx(counted.max(), rel=1e-12)
