"""What layers and nets accept and refuse: an error changes nothing, and inputs are never written.

Only what a user sees: results, public attributes, the dicts of a net. What the results are is in
test_layers.py and test_nets.py.
"""

import collections
import weakref
from unittest import mock

import numpy as np
import pytest
from helpers.arrays import LAYOUTS, TOLERANCE, assert_close, lay_out
from helpers.errors import contents, refused
from helpers.marks import both, every_dtype
from helpers.nets import FUNCTIONS, every_function
from helpers.processes import run
from numpy.testing import assert_allclose, assert_array_equal

import fastopt
from fastopt import _layers, _net, _targets, reference


def random(*shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# what is no array of real numbers
NOT_REAL = {
    "complex": (lambda a: a.astype(complex), "complex128"),
    "object": (lambda a: a.astype(object), "object"),
    "strings": (lambda a: a.astype("U8"), "<U8"),
    "structured": (lambda a: np.zeros(a.shape, "f8,f8"), "f8"),
    "dates": (lambda a: np.zeros(a.shape, "M8[s]"), "datetime64"),
}

X_SHAPES = [(0, 4), (3, 5), (4,), (), (3, 4, 2), (0,), (12,)]

# an attribute of an Affine of 4 inputs and 2 outputs → what it is replaced by, exception
SPOILED_WEIGHTS = {
    "W of integers": ("W", np.ones((4, 2), int), TypeError),
    "W of bools": ("W", np.ones((4, 2), bool), TypeError),
    "complex W": ("W", np.ones((4, 2), complex), TypeError),
    "half W": ("W", np.ones((4, 2), np.float16), TypeError),
    "object W": ("W", np.ones((4, 2), object), TypeError),
    "list W": ("W", [[1.0] * 2] * 4, TypeError),
    "no W": ("W", None, TypeError),
    "flat W": ("W", np.ones(8), ValueError),
    "W of other inputs": ("W", np.ones((5, 2)), ValueError),
    "W of other outputs": ("W", np.ones((4, 3)), ValueError),
    "W of another dtype than b": ("W", np.ones((4, 2), np.float32), TypeError),
    "b of integers": ("b", np.ones(2, int), TypeError),
    "complex b": ("b", np.ones(2, complex), TypeError),
    "list b": ("b", [1.0, 1.0], TypeError),
    "b of one": ("b", np.ones(1), ValueError),
    "b of two dimensions": ("b", np.ones((1, 2)), ValueError),
    "b of another dtype than W": ("b", np.ones(2, np.float32), TypeError),
}


class Used:
    """An Affine after forward and backward, and what they gave."""

    def __init__(self, package):
        self.layer = package.Affine(random(4, 2), random(2))
        self.x, self.dout = random(3, 4, seed=1), random(3, 2, seed=2)
        self.out = self.layer.forward(self.x)
        self.dx = self.layer.backward(self.dout)

    def public(self):
        """Return what an error must leave alone."""
        attributes = {name: getattr(self.layer, name) for name in ("W", "b", "dW", "db")}
        return {**attributes, "x": self.x, "dout": self.dout, "out": self.out, "dx": self.dx}

    def assert_goes_on(self):
        """Check that backward still belongs to the last forward that was accepted."""
        dW, db = self.layer.dW, self.layer.db
        assert_array_equal(self.layer.backward(self.dout), self.dx)
        assert_array_equal(self.layer.dW, dW)
        assert_array_equal(self.layer.db, db)
        assert_array_equal(self.layer.forward(self.x), self.out)


@both
@pytest.mark.parametrize("shape", X_SHAPES, ids=str)
def test_affine_refuses_samples_and_stays_as_it_was(package, shape):
    used = Used(package)
    with refused(ValueError, "x|samples", used.public()):
        used.layer.forward(np.ones(shape))
    used.assert_goes_on()


@both
@pytest.mark.parametrize("case", NOT_REAL)
def test_affine_refuses_what_is_not_real_and_stays_as_it_was(package, case):
    make, message = NOT_REAL[case]
    used = Used(package)
    with refused(TypeError, message, used.public()):
        used.layer.forward(make(used.x))
    with refused(TypeError, message, used.public()):
        used.layer.backward(make(used.dout))
    used.assert_goes_on()


@both
@pytest.mark.parametrize("case", SPOILED_WEIGHTS)
@pytest.mark.parametrize("call", ["forward", "backward"])
def test_affine_refuses_weights_and_stays_as_it_was(package, case, call):
    name, value, exception = SPOILED_WEIGHTS[case]
    used = Used(package)
    kept = getattr(used.layer, name)
    setattr(used.layer, name, value)
    with refused(exception, f"{name}|shape", used.public()):
        used.layer.forward(used.x) if call == "forward" else used.layer.backward(used.dout)
    setattr(used.layer, name, kept)
    used.assert_goes_on()


BAD_AFFINE = {
    "no samples": (np.ones((4, 2)), np.ones(2), np.ones((0, 4)), ValueError, "no samples"),
    "0-d x": (np.ones((1, 2)), np.ones(2), np.array(1.0), ValueError, "no samples"),
    "too wide": (np.ones((4, 2)), np.ones(2), np.ones((3, 5)), ValueError, r"\(3, 5\).*\(N, 4\)"),
    "one sample, flat": (np.ones((4, 2)), np.ones(2), np.ones(4), ValueError, r"\(4,\).*\(N, 4\)"),
    "rank 3": (np.ones((4, 2)), np.ones(2), np.ones((3, 2, 3)), ValueError, r"\(N, 4\)"),
    "complex x": (np.ones((4, 2)), np.ones(2), np.ones((3, 4), complex), TypeError, "complex"),
    "strings": (np.ones((4, 2)), np.ones(2), np.full((3, 4), "a"), TypeError, "x must be real"),
    "W without columns": (np.ones((4, 0)), np.ones(0), np.ones((3, 4)), ValueError, "W has shape"),
    "flat W": (np.ones(4), np.ones(2), np.ones((3, 4)), ValueError, "W has shape"),
    "flat b": (np.ones((4, 2)), np.ones((1, 2)), np.ones((3, 4)), ValueError, "b has shape"),
    "long b": (np.ones((4, 2)), np.ones(3), np.ones((3, 4)), ValueError, r"\(3,\), wants \(2,\)"),
    "int W": (np.ones((4, 2), int), np.ones(2), np.ones((3, 4)), TypeError, "W .*"),
    "list W": ([[1.0]], np.ones(1), np.ones((3, 1)), TypeError, "W must be"),
    "mixed dtypes": (np.ones((4, 2)), np.ones(2, "f4"), np.ones((3, 4)), TypeError, "float32"),
}


@both
@pytest.mark.parametrize("case", BAD_AFFINE)
def test_affine_refuses(package, case):
    W, b, x, exception, message = BAD_AFFINE[case]
    with pytest.raises(exception, match=message):
        package.Affine(W, b).forward(x)


@both
def test_affine_refuses_arrays_that_can_not_be_written(package):
    layer = package.Affine(np.ones((4, 5)), np.ones(5))
    layer.forward(np.ones((6, 4)))
    dout, db = np.ones((6, 5)), np.ones(5)
    shared = np.ones(30)
    for dW, exception, message in (
        (np.ones((5, 4)), ValueError, r"dW has shape \(5, 4\), wants \(4, 5\)"),
        (np.ones((4, 5), np.float32), TypeError, "float32"),
        ([[0.0] * 5] * 4, TypeError, "list"),
        (np.ones((5, 4)).T, ValueError, "C-contiguous"),
        (layer.W, ValueError, "overlaps an input"),
        (shared[:20].reshape(4, 5), ValueError, "overlaps an input"),
    ):
        with pytest.raises(exception, match=message):
            layer.backward(shared.reshape(6, 5), out=(dW, db))
    for out in ((np.ones((4, 5)),), (None, db), (np.ones((4, 5)), None)):
        with pytest.raises((TypeError, ValueError)):
            layer.backward(dout, out=out)
    layer.backward(dout)


# what stands for dW and db → exception
SPOILED_OUT = {
    "dW of another shape": (lambda u: (np.ones((2, 4)), np.ones(2)), ValueError, r"\(2, 4\)"),
    "db of another shape": (lambda u: (np.ones((4, 2)), np.ones(3)), ValueError, r"\(3,\)"),
    "dW that would broadcast": (lambda u: (np.ones((1, 2)), np.ones(2)), ValueError, "dW"),
    "dW of another dtype": (lambda u: (np.ones((4, 2), "f4"), np.ones(2)), TypeError, "float32"),
    "db of integers": (lambda u: (np.ones((4, 2)), np.ones(2, int)), TypeError, "db"),
    "list as db": (lambda u: (np.ones((4, 2)), [1.0, 1.0]), TypeError, "db"),
    "dW transposed": (lambda u: (np.ones((2, 4)).T, np.ones(2)), ValueError, "dW"),
    "db strided": (lambda u: (np.ones((4, 2)), np.ones(4)[::2]), ValueError, "db"),
    "read-only dW": (lambda u: (np.broadcast_to(1.0, (4, 2)), np.ones(2)), ValueError, "dW"),
    "W as dW": (lambda u: (u.layer.W, np.ones(2)), ValueError, "dW"),
    "b as db": (lambda u: (np.ones((4, 2)), u.layer.b), ValueError, "db"),
    "db in dout": (lambda u: (np.ones((4, 2)), u.dout[0]), ValueError, "db"),
    "dW in x": (lambda u: (u.x.reshape(-1)[:8].reshape(4, 2), np.ones(2)), ValueError, "dW"),
}


@both
@pytest.mark.parametrize("case", SPOILED_OUT)
def test_affine_refuses_arrays_to_write_into_and_writes_nothing(package, case):
    make, exception, message = SPOILED_OUT[case]
    used = Used(package)
    out = make(used)
    with refused(exception, message, used.public(), dict(zip(("dW", "db"), out, strict=True))):
        used.layer.backward(used.dout, out=out)
    used.assert_goes_on()


@both
@pytest.mark.parametrize("shape", [(3, 3), (2, 2), (6,), (0, 2), (3, 2, 1), (1, 2)], ids=str)
def test_affine_refuses_a_gradient_of_another_shape_and_writes_nothing(package, shape):
    used = Used(package)
    out = {"dW": np.full((4, 2), 7.0), "db": np.full(2, 7.0)}
    with refused(ValueError, "dout has shape", used.public(), out):
        used.layer.backward(np.ones(shape), out=(out["dW"], out["db"]))
    used.assert_goes_on()


@both
def test_backward_needs_a_forward(package):
    functions = [getattr(package, name)() for name in FUNCTIONS]
    for layer in (package.Affine(np.ones((2, 2)), np.ones(2)), *functions):
        with pytest.raises(RuntimeError, match=r"backward needs a forward"):
            layer.backward(np.ones((1, 2)))
    with pytest.raises(RuntimeError, match=r"SoftmaxWithLoss.backward needs a forward"):
        package.SoftmaxWithLoss().backward()


@both
@every_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_of_layers_are_never_written(package, dtype, layout):
    given = {
        "x": lay_out(random(3, 4, dtype=dtype), layout),
        "W": lay_out(random(4, 2, dtype=dtype), layout),
        "b": random(2, dtype=dtype),
        "dout": lay_out(random(3, 2, dtype=dtype), layout),
    }
    for array in given.values():
        array.flags.writeable = False
    kept = contents(given)
    affine = package.Affine(given["W"], given["b"])
    affine.forward(given["x"])
    affine.backward(given["dout"])
    for name in FUNCTIONS:
        layer = getattr(package, name)()
        layer.forward(given["x"])
        layer.backward(given["x"])
    loss = package.SoftmaxWithLoss()
    loss.forward(given["dout"], np.array([0, 1, 1]))
    loss.backward()
    assert contents(given) == kept


@both
@every_function
@pytest.mark.parametrize("case", [*NOT_REAL, "shape", "one more axis", "broadcast"])
def test_activation_refuses_and_stays_as_it_was(package, name, case):
    layer, x = getattr(package, name)(), random(3, 4)
    out, dx = layer.forward(x), layer.backward(x)
    if case in NOT_REAL:
        make, message = NOT_REAL[case]
        with refused(TypeError, message, {"x": x, "out": out, "dx": dx}):
            layer.forward(make(x))
        with refused(TypeError, message, {"x": x, "out": out, "dx": dx}):
            layer.backward(make(x))
    else:
        shape = {"shape": (4, 3), "one more axis": (3, 4, 1), "broadcast": (4,)}[case]
        with refused(ValueError, "dout", {"x": x, "out": out, "dx": dx}):
            layer.backward(np.ones(shape))
    assert_array_equal(layer.backward(x), dx)


@both
@every_function
def test_activation_says_what_it_got_and_what_it_wants(package, name):
    layer = getattr(package, name)()
    with pytest.raises(TypeError, match="x must be real"):
        layer.forward(np.ones(3, complex))
    layer.forward(np.ones(3))
    with pytest.raises(ValueError, match=r"dout has shape \(4,\), wants \(3,\)"):
        layer.backward(np.ones(4))


@every_function
@pytest.mark.parametrize("x", [np.ones((0, 3)), np.ones((2, 0, 3), "f4"), 2.0, np.array(-1.0)])
def test_empty_arrays_and_plain_numbers_are_no_error(name, x):
    results = []
    for package in (fastopt, reference):
        layer = getattr(package, name)()
        results.append((layer.forward(x), layer.backward(np.ones(np.shape(x)))))
    for got, want in zip(*results, strict=True):
        assert got.shape == np.shape(x)
        assert_allclose(got, want, rtol=1e-12)


# labels of two samples of three classes → exception, what the compiled code says
LABELS = {
    "too large": (np.array([0, 3]), ValueError, "label 3 of sample 1 is outside 0 to 2"),
    "negative": (np.array([-1, 0]), ValueError, "label -1 of sample 0"),
    "huge": (np.array([0, 2**64 - 1], np.uint64), ValueError, "label 18446744073709551615"),
    "too few": (np.array([0]), ValueError, r"labels have shape \(1,\), want \(2,\)"),
    "too many": (np.array([0, 1, 2]), ValueError, r"labels have shape \(3,\), want \(2,\)"),
    "a column": (np.array([[0], [1]]), ValueError, r"\(2, 1\)"),
    "none": (np.array([], int), ValueError, r"labels have shape \(0,\), want \(2,\)"),
    "0-d": (1, ValueError, r"\(\)"),
    "one-hot of too few classes": (np.eye(2), ValueError, r"\(2, 2\)"),
    "floats": (np.array([0.0, 1.0]), TypeError, "float64"),
    "bools": (np.array([True, False]), TypeError, "bool"),
    "complex": (np.array([0j, 1j]), TypeError, "complex128"),
    "strings": (np.array(["a", "b"]), TypeError, "<U1"),
    "objects": (np.array([0, 1], object), TypeError, "object"),
    "None": (None, (TypeError, ValueError), "labels"),
    "one-hot objects": (np.eye(3)[:2].astype(object), TypeError, "object"),
    "one-hot complex": (np.eye(3)[:2].astype(complex), TypeError, "complex128"),
    "two ones": (np.array([[1, 0, 0], [1, 0, 1]]), ValueError, "sample 1 must hold a single 1"),
    "no one": (np.array([[0, 0, 0], [1, 0, 0]]), ValueError, "sample 0 must hold a single 1"),
    "off 1": (np.array([[0.5, 0.4, 0], [1, 0, 0]]), ValueError, "sample 0 must hold a single 1"),
    "above 1": (np.array([[1, 0, 0], [1.5, -0.5, 0]]), ValueError, "sample 1 must hold a single"),
    "NaN": (np.array([[1, np.nan, 0], [1, 0, 0]]), ValueError, "sample 0 must hold a single 1"),
    "minus one": (np.array([[1, 1, -1], [1, 0, 0]]), ValueError, "sample 0 must hold a single 1"),
}


@pytest.mark.parametrize("case", LABELS)
def test_bad_labels_are_refused(case):
    t, exception, message = LABELS[case]
    scores = np.ones((2, 3))
    with pytest.raises(exception, match=message):
        fastopt.SoftmaxWithLoss().forward(scores, t)
    with pytest.raises(exception, match=message):
        _targets.checked_classes(t, 2, 3)
    with pytest.raises(exception):
        reference.SoftmaxWithLoss().forward(scores, t)


def test_probabilities_that_were_changed_are_refused():
    layer = fastopt.SoftmaxWithLoss()
    layer.forward(np.ones((2, 3)), [0, 1])
    with pytest.raises(AttributeError):
        layer.y = np.ones((200_000, 3))
    for other in (
        np.ones((2, 4)),
        np.ones((3, 3)),
        np.ones(6),
        np.ones((2, 3), "i1"),
        np.ones((3, 2)).T,
    ):
        layer._y = other
        with pytest.raises(ValueError, match="y was changed since forward"):
            layer.backward()


@both
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (2,), (2, 3, 1)])
def test_scores_of_another_shape_are_refused(package, shape):
    with pytest.raises(ValueError, match=r"wants? \(N, C\)|no samples"):
        package.SoftmaxWithLoss().forward(np.ones(shape), np.zeros(shape[:1], int))


@both
@pytest.mark.parametrize("case", [*LABELS, "scores", "no scores", "complex scores"])
def test_loss_refuses_and_stays_as_it_was(package, case):
    layer, x, t = package.SoftmaxWithLoss(), random(2, 3), np.array([0, 2])
    layer.forward(x, t)
    dx = layer.backward()
    bad_x, bad_t, exception = x, t, ValueError
    if case in LABELS:
        bad_t, exception, _ = LABELS[case]
    elif case == "scores":
        bad_x = np.ones((2, 3, 1))
    elif case == "no scores":
        bad_x, bad_t = np.ones((0, 3)), t[:0]
    else:
        bad_x, exception = x.astype(complex), TypeError
    with refused(exception, None, {"x": x, "t": t, "y": layer.y, "dx": dx}):
        layer.forward(bad_x, bad_t)
    assert_array_equal(layer.backward(), dx)


def net_and_batch(package, dtype="float64"):
    net = package.MultiLayerNet(4, [5], 3, dtype=dtype, rng=1, weight_decay_lambda=0.1)
    return net, random(2, 4, dtype=dtype, seed=3), np.array([0, 2])


BAD_BATCHES = {
    **{f"x of shape {shape}": (np.ones(shape), [0, 2], ValueError) for shape in X_SHAPES},
    **{name: (make(random(2, 4)), [0, 2], TypeError) for name, (make, _) in NOT_REAL.items()},
    **{f"labels: {name}": (random(2, 4), *bad[:2]) for name, bad in LABELS.items()},
}


@both
@pytest.mark.parametrize("case", BAD_BATCHES)
def test_net_refuses_a_batch_and_stays_as_it_was(package, case):
    x, t, exception = BAD_BATCHES[case]
    net, good_x, good_t = net_and_batch(package)
    out = net.gradient(good_x, good_t)
    loss, scores = net.loss(good_x, good_t), net.predict(good_x)
    for call in (net.loss, net.accuracy, net.gradient, net.numerical_gradient):
        with refused(exception, None, net.params, out, {"scores": scores}):
            call(x, t)
    with refused(exception, None, net.params, out, {"scores": scores}):
        net.gradient(x, t, out=out)
    if not case.startswith("labels"):
        with refused(exception, None, net.params):
            net.predict(x)
    assert net.loss(good_x, good_t) == loss
    for key, g in net.gradient(good_x, good_t).items():
        assert_array_equal(g, out[key])


# what happens to the parameter W2 (5, 3) or b2 of a net → exception
SPOILED_PARAMS = {
    "missing": (lambda p: p.pop("W2"), KeyError),
    "None": (lambda p: p.update(W2=None), TypeError),
    "list": (lambda p: p.update(b2=[0.0] * 3), TypeError),
    "float": (lambda p: p.update(b2=0.0), TypeError),
    "integers": (lambda p: p.update(W2=np.ones((5, 3), int)), TypeError),
    "bools": (lambda p: p.update(b2=np.ones(3, bool)), TypeError),
    "complex": (lambda p: p.update(W2=np.ones((5, 3), complex)), TypeError),
    "objects": (lambda p: p.update(W2=np.ones((5, 3), object)), TypeError),
    "strings": (lambda p: p.update(b2=np.array(["a"] * 3)), TypeError),
    "half": (lambda p: p.update(W2=np.ones((5, 3), "f2"), b2=np.ones(3, "f2")), TypeError),
    "one of another dtype": (lambda p: p.update(b2=np.ones(3, np.float32)), TypeError),
    "transposed": (lambda p: p.update(W2=np.ones((3, 5))), ValueError),
    "of other inputs": (lambda p: p.update(W2=np.ones((6, 3))), ValueError),
    "flat": (lambda p: p.update(W2=np.ones(15)), ValueError),
    "bias that would broadcast": (lambda p: p.update(b2=np.ones(1)), ValueError),
    "empty": (lambda p: p.update(W2=np.ones((5, 0)), b2=np.ones(0)), ValueError),
}


@both
@pytest.mark.parametrize("case", SPOILED_PARAMS)
def test_net_refuses_parameters_and_stays_as_it_was(package, case):
    spoil, exception = SPOILED_PARAMS[case]
    net, x, t = net_and_batch(package)
    out, loss, good = net.gradient(x, t), net.loss(x, t), dict(net.params)
    spoil(net.params)
    for call in (net.loss, net.accuracy, net.gradient):
        with refused(exception, None, net.params, out, {"x": x, "t": t}):
            call(x, t)
    with refused(exception, None, net.params, {"x": x}):
        net.predict(x)
    with refused(exception, None, net.params, out, {"x": x, "t": t}):
        net.gradient(x, t, out=out)
    net.params.clear()
    net.params.update(good)
    assert net.loss(x, t) == loss
    for key, g in net.gradient(x, t).items():
        assert_array_equal(g, out[key])


SPOILED_GRADS = {
    "lacks a key": (lambda out, net, x: out.pop("b2"), KeyError, "b2"),
    "shape": (lambda out, net, x: out.update(W2=np.ones((3, 5))), ValueError, "W2"),
    "one more axis": (lambda out, net, x: out.update(b2=np.ones((3, 1))), ValueError, "b2"),
    "dtype": (lambda out, net, x: out.update(W2=np.ones((5, 3), "f4")), TypeError, "W2"),
    "integers": (lambda out, net, x: out.update(b2=np.ones(3, int)), TypeError, "b2"),
    "None": (lambda out, net, x: out.update(W2=None), TypeError, "W2"),
    "list": (lambda out, net, x: out.update(b2=[0.0] * 3), TypeError, "b2"),
    "read-only": (
        lambda out, net, x: out.update(W2=np.broadcast_to(0.0, (5, 3))), ValueError, "W2",
    ),
    "byte-swapped": (
        lambda out, net, x: out.update(b2=out["b2"].astype(out["b2"].dtype.newbyteorder())),
        (TypeError, ValueError), "b2",
    ),
    "in a parameter": (
        lambda out, net, x: out.update(b2=net.params["W2"][0]), ValueError, "b2",
    ),
    "in another output": (lambda out, net, x: out.update(b2=out["W2"][0]), ValueError, "b2"),
    "in the samples": (
        lambda out, net, x: out.update(b2=x.reshape(-1)[:3]), ValueError, "b2",
    ),
}  # fmt: skip


@both
@pytest.mark.parametrize("case", SPOILED_GRADS)
def test_net_refuses_gradients_and_writes_nothing(package, case):
    spoil, exception, message = SPOILED_GRADS[case]
    net, x, t = net_and_batch(package)
    out, want = net.gradient(x, t), net.gradient(x, t)
    spoil(out, net, x)
    for _ in range(2):
        with refused(exception, message, net.params, out, {"x": x, "t": t}):
            net.gradient(x + 0 if case != "in the samples" else x, t, out=out)
    for key, g in net.gradient(x, t, out=net.gradient(x, t)).items():
        assert_array_equal(g, want[key])


@both
@every_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_of_nets_are_never_written(package, dtype, layout):
    net, x, t = net_and_batch(package, dtype)
    given = {"x": lay_out(x, layout), "labels": t, "one-hot": np.eye(3, dtype=np.int8)[t]}
    for array in (*given.values(), *net.params.values()):
        array.flags.writeable = False
    kept, kept_params = contents(given), contents(net.params)
    want = reference.MultiLayerNet(4, [5], 3, dtype=dtype, rng=1, weight_decay_lambda=0.1)
    for labels in (given["labels"], given["one-hot"]):
        assert net.loss(given["x"], labels) == pytest.approx(
            want.loss(x, t), rel=TOLERANCE[dtype] * 10
        )
        net.accuracy(given["x"], labels)
        grads = net.gradient(given["x"], labels)
        for key, g in want.gradient(x, t).items():
            assert_close(grads[key], g, dtype)
    assert contents(given) == kept
    assert contents(net.params) == kept_params


@both
@pytest.mark.parametrize("layout", LAYOUTS)
def test_net_takes_parameters_of_any_layout(package, layout):
    net, x, t = net_and_batch(package)
    loss, want = net.loss(x, t), net.gradient(x, t)
    for key in ("W1", "W2"):
        net.params[key] = lay_out(net.params[key], layout)
    assert net.loss(x, t) == pytest.approx(loss, rel=1e-12)
    out = net.gradient(x, t)
    for key, g in want.items():
        assert_close(out[key], g, "float64")


@every_dtype
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", ["x", "W1", "b1", "W2", "b2"])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # the twin's
def test_nan_and_infinity_propagate_as_in_the_twin(dtype, value, key):
    results = []
    for package in (fastopt, reference):
        net, x, t = net_and_batch(package, dtype)
        target = x if key == "x" else net.params[key]
        target.reshape(-1)[0] = value
        results.append({"scores": net.predict(x), **net.gradient(x, t)})
    for name, want in results[1].items():
        got = results[0][name]
        assert_array_equal(np.isnan(got), np.isnan(want), err_msg=name)
        assert_array_equal(np.isinf(got), np.isinf(want), err_msg=name)


@both
def test_empty_net_settings_are_refused(package):
    for sizes in ((0, [3], 2), (4, [0], 2), (4, [3], 0), (-4, [3], 2)):
        with pytest.raises(ValueError, match=str(min(sizes[0], *sizes[1], sizes[2]))):
            package.MultiLayerNet(*sizes)
    for bad in (-0.1, float("nan"), float("inf")):
        for name in ("weight_decay_lambda", "weight_init_std"):
            with pytest.raises(ValueError, match=name):
                package.MultiLayerNet(4, [3], 2, **{name: bad})
            with pytest.raises(ValueError, match=name):
                package.TwoLayerNet(4, 3, 2, **{name: bad})


@both
def test_affine_refuses_outputs_in_a_bias_in_a_strided_gradient_or_in_each_other(package):
    buffer = np.ones(60)
    layer = package.Affine(np.ones((4, 3)), buffer[:3])
    layer.forward(np.ones((5, 4)))
    strided, db = buffer.reshape(5, 12)[:, 3::3], np.ones(3)
    dW = np.ones((4, 3))
    for dout, out, message in (
        (np.ones((5, 3)), (buffer[:12].reshape(4, 3), db), "dW overlaps an input"),
        (strided, (buffer[12:24].reshape(4, 3), db), "dW overlaps an input"),
        (np.ones((5, 3)), (dW, dW[0]), "dW and db overlap"),
    ):
        with refused(ValueError, message, {"buffer": buffer, "dW": dW, "db": db}):
            layer.backward(dout, out=out)


class Saboteur:
    """What becomes an array, and has something done to another one meanwhile."""

    def __init__(self, array, sabotage):
        self.array, self.sabotage = array, sabotage

    def __array__(self, dtype=None, copy=None):
        self.sabotage()
        return self.array


class Liar(np.ndarray):
    """An array whose attribute does not tell its shape."""

    shape = (400_000, 3)


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
def test_arrays_that_are_reshaped_within_a_call_are_refused():
    W, x = np.ones((400, 500)), np.ones((64, 400))

    def flatten(array):
        array.shape = (1, array.size)

    layer = fastopt.Affine(W, np.ones(500))
    with pytest.raises(ValueError, match="b has shape"):
        layer.forward(Saboteur(x, lambda: flatten(W)))
    W.shape = (400, 500)
    dout = layer.forward(x)
    flatten(x)
    with pytest.raises(ValueError, match="dout has shape"):
        layer.backward(dout)
    x.shape = (-1,)
    with pytest.raises(ValueError, match="x was changed since forward"):
        layer.backward(np.ones((x.size, 500)))
    x.shape = (64, 400)
    layer.forward(np.ones((64, 400)))
    layer._x.resize((0, 400), refcheck=False)
    with pytest.raises(ValueError, match="x was changed since forward"):
        layer.backward(np.ones((0, 500)))
    net = fastopt.MultiLayerNet(400, [3], 2, dtype=np.float64)
    for call in (net.loss, net.gradient):
        x.shape = (64, 400)
        with pytest.raises(ValueError, match="x has shape"):
            call(x, Saboteur(np.zeros(64, int), lambda: flatten(x)))


def test_arrays_whose_class_tells_another_shape():
    liar = np.zeros((1, 3), "f4").view(Liar)
    with pytest.raises(ValueError, match=r"wants \(N, 1\)"):
        fastopt.Affine(liar, np.zeros(3, "f4")).forward(np.ones((2, 400_000), "f4"))
    net = fastopt.MultiLayerNet(400_000, [3], 2)
    net.params["W1"] = liar
    with pytest.raises(ValueError, match=r"'W1' has shape \(1, 3\)"):
        net.predict(np.ones((2, 400_000), "f4"))


class Lie:
    """What says that it is an array, and has all of its attributes."""

    __class__ = property(lambda self: np.ndarray)

    def __init__(self, array):
        self.array = array

    def __getattr__(self, name):
        return getattr(self.array, name)


class BareLie:
    """What says that it is an array, and has no attribute of one."""

    __class__ = property(lambda self: np.ndarray)

    def __init__(self, array):
        pass


LIES = {
    "lie": Lie, "bare lie": BareLie, "mock": lambda a: mock.Mock(spec=np.ndarray),
    "proxy": weakref.proxy,
}  # fmt: skip

every_lie = pytest.mark.parametrize("lie", LIES)


def wrong_type(lie, start=""):
    assert isinstance(lie, np.ndarray)
    return f"{start}.* must be .* array, got {type(lie).__name__}"


@every_lie
@pytest.mark.parametrize("key", ["W1", "b1", "W2", "b2"])
def test_net_takes_nothing_for_an_array_that_only_says_so(lie, key):
    net, x, t = net_and_batch(fastopt)
    out = net.gradient(x, t)
    for arrays, start in ((net.params, f"parameter '{key}'"), (out, rf"out\['{key}'\]")):
        kept = arrays[key]
        arrays[key] = LIES[lie](kept)
        with refused(TypeError, wrong_type(arrays[key], start), net.params, out):
            net.gradient(x, t, out=out)
        if arrays is net.params:
            for call in (net.predict, lambda x: net.loss(x, t)):
                with refused(TypeError, wrong_type(arrays[key], start), net.params):
                    call(x)
        arrays[key] = kept
    net.gradient(x, t, out=out)


@every_lie
def test_affine_takes_nothing_for_an_array_that_only_says_so(lie):
    used = Used(fastopt)
    for name in ("W", "b"):
        kept = getattr(used.layer, name)
        setattr(used.layer, name, LIES[lie](kept))
        message = f"{name} must be an array, got {type(getattr(used.layer, name)).__name__}"
        with refused(TypeError, message, used.public()):
            used.layer.forward(used.x)
        with refused(TypeError, message, used.public()):
            used.layer.backward(used.dout)
        setattr(used.layer, name, kept)
    dW, db = np.ones((4, 2)), np.ones(2)
    for out in ((LIES[lie](dW), db), (dW, LIES[lie](db))):
        with refused(TypeError, "d[Wb] must be a float64 array, got", used.public()):
            used.layer.backward(used.dout, out=out)
    used.assert_goes_on()


@both
@pytest.mark.parametrize("lie", ["bare lie", "mock"])
def test_inputs_that_only_say_that_they_are_arrays_are_refused(package, lie):
    false = LIES[lie](None)
    net, x, t = net_and_batch(package)
    used = Used(package)
    real, dout = "x must be real numbers", "dout must be real numbers"
    labels, rows = "labels must be integers", "batch must be row numbers"
    exception = TypeError
    if lie == "mock":  # NumPy itself refuses to make an array of it
        exception, real, dout, labels, rows = ValueError, *["invalid __array_struct__"] * 4
    relu, softmax = package.Relu(), package.SoftmaxWithLoss()
    relu.forward(x)
    for call, message in (
        (lambda: net.predict(false), real),
        (lambda: net.loss(false, t), real),
        (lambda: net.loss(x, false), labels),
        (lambda: net.gradient(x, t, batch=false), rows),
        (lambda: used.layer.forward(false), real),
        (lambda: used.layer.backward(false), dout),
        (lambda: relu.forward(false), real),
        (lambda: relu.backward(false), dout),
        (lambda: softmax.forward(false, t), real),
        (lambda: softmax.forward(x, false), labels),
    ):
        with pytest.raises(exception, match=message):
            call()
    with pytest.raises(TypeError, match="out must be a dict of arrays, got Mock"):
        net.gradient(x, t, out=mock.Mock(spec=dict))
    used.assert_goes_on()


def test_samples_of_a_batch_that_only_say_that_they_are_an_array_are_refused():
    net, _, t = net_and_batch(fastopt)
    with pytest.raises(TypeError, match="x must be real numbers, got dtype object"):
        net.loss(BareLie(None), t, batch=[0])


@pytest.mark.parametrize("lie", ["lie", "proxy"])
def test_what_becomes_an_array_is_taken_for_an_input(lie):
    net, x, t = net_and_batch(fastopt)
    want = net.loss_and_gradient(x, t, batch=[1, 0])
    rows = np.array([1, 0])
    loss, grads = net.loss_and_gradient(LIES[lie](x), LIES[lie](t), batch=LIES[lie](rows))
    assert loss == want[0]
    for key, g in want[1].items():
        assert_array_equal(grads[key], g)


class ShapeLiar(np.ndarray):
    shape = (4, 2)


def test_output_whose_class_tells_another_shape_is_not_written():
    used = Used(fastopt)
    whole = np.full((9, 2), 7.0)
    with pytest.raises(ValueError, match=r"dW has shape \(1, 2\), wants \(4, 2\)"):
        used.layer.backward(used.dout, out=(whole[:1].view(ShapeLiar), np.ones(2)))
    assert_array_equal(whole, 7.0)


# Arrays large enough to lie in memory of their own, which the system takes back at once, and code
# of the caller's that has one shrunk in the middle of a call
SHRINKING = """
import collections
import numpy as np, fastopt

net = fastopt.MultiLayerNet(1000, [1000], 3, rng=0)
x, t, rows = np.ones((64, 1000), "f4"), np.zeros(64, int), np.arange(64)
out = {key: np.empty_like(p) for key, p in net.params.items()}


def shrink(array):
    array.resize((1, 1), refcheck=False)


class Input:
    def __init__(self, array, victim):
        self.array, self.victim = array, victim

    def __array__(self, dtype=None, copy=None):
        shrink(self.victim)
        return self.array


class Key:
    def __init__(self, key, victim):
        self.key, self.victim, self.armed = key, victim, False

    def __hash__(self):
        return hash(self.key)

    def __eq__(self, other):
        if self.armed:
            shrink(self.victim)
        return False


def with_key(arrays, victim):
    key = Key("b2", victim)
    arrays = {key: None, **arrays}
    key.armed = True
    return arrays


class Mapping(collections.OrderedDict):
    victim = None

    def keys(self):
        if self.victim is not None:
            shrink(self.victim)
        return super().keys()


class Output(np.ndarray):
    victim = None

    def __array_function__(self, function, types, args, kwargs):
        if self.victim is not None:
            shrink(self.victim)
        return super().__array_function__(function, types, args, kwargs)


def as_output(array, victim):
    array = array.view(Output)
    array.victim = victim
    return array


class Rate:
    def __init__(self, victim):
        self.victim = victim

    def __float__(self):
        shrink(self.victim)
        return 0.5


W1, g1 = net.params["W1"], out["W1"]
"""

SHRUNK = {
    "parameter, by x of predict": ("net.predict(Input(x, W1))", "'W1' has shape (1, 1)"),
    "parameter, by x of loss": ("net.loss(Input(x, W1), t)", "'W1' has shape (1, 1)"),
    "parameter, by labels": ("net.loss(x, Input(t, W1))", "'W1' has shape (1, 1)"),
    "parameter, by rows": ("net.loss(x, t, batch=Input(rows, W1))", "'W1' has shape (1, 1)"),
    "parameter, by x of gradient": ("net.gradient(Input(x, W1), t, out)", "'W1' has shape (1, 1)"),
    "parameter, by a key": (
        "net.params = with_key(net.params, W1); net.predict(x)", "'W1' has shape (1, 1)",
    ),
    "parameter, by a mapping": (
        "net.params = Mapping(net.params); Mapping.victim = W1; net.loss(x, t)",
        "'W1' has shape (1, 1)",
    ),
    "parameter, by a key of out": (
        "net.gradient(x, t, with_key(out, W1))", "'W1' has shape (1, 1)",
    ),
    "parameter, by an output": (
        "out['b2'] = as_output(out['b2'], W1); net.gradient(x, t, out)", "done",
    ),
    "output, by labels": ("net.gradient(x, Input(t, g1), out)", "out['W1'] has shape (1, 1)"),
    "output, by rows": (
        "net.gradient(x, t, out, batch=Input(rows, g1))", "out['W1'] has shape (1, 1)",
    ),
    "output, by a key": ("net.gradient(x, t, with_key(out, g1))", "out['W1'] has shape (1, 1)"),
    "output, by a mapping": (
        "out = Mapping(out); Mapping.victim = g1; net.gradient(x, t, out)",
        "out['W1'] has shape (1, 1)",
    ),
    "samples, by labels": ("net.gradient(x, Input(t, x), out)", "x has shape (1, 1)"),
    "samples, by rows": (
        "net.gradient(x, t, out, batch=Input(rows, x))", "batch[1] is 1, x holds 1 samples",
    ),
    "samples, by a key of out": ("net.gradient(x, t, with_key(out, x))", "x has shape (1, 1)"),
    "rows, by a key of out": (
        "net.gradient(x, t, with_key(out, rows), batch=rows)", "batch has shape (1, 1)",
    ),
    "labels, by a key of out": (
        "net.gradient(x, t, with_key(out, t))", "labels have shape (1, 1)",
    ),
    "parameter, by the weight decay": (
        "net.weight_decay_lambda = Rate(W1); net.gradient(x, t, out)", "'W1' has shape (1, 1)",
    ),
    "weights of Affine, by an output": (
        "layer = fastopt.Affine(W1, net.params['b1']); dout = layer.forward(x);"
        "layer.backward(dout, (as_output(g1, W1), as_output(out['b1'], W1)))", "done",
    ),
    "outputs of Affine, by dout": (
        "layer = fastopt.Affine(W1, net.params['b1']); dout = layer.forward(x);"
        "layer.backward(Input(dout, g1), (g1, out['b1']))", "dW has shape (1, 1)",
    ),
    "scores kept, by dout": (
        "loss = fastopt.SoftmaxWithLoss(); loss.forward(np.ones((9, 9999)), t[:9]);"
        "loss.backward(Rate(loss.y))", "y was changed since forward",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SHRUNK)
def test_arrays_that_are_shrunk_within_a_call_are_refused_or_left_alone(case):
    call, want = SHRUNK[case]
    attempt = (
        f"try:\n    {call}\n    print('done')\nexcept (ValueError, IndexError) as e:\n    print(e)"
    )
    done = run(SHRINKING + attempt)
    assert (done.returncode, done.stderr) == (0, "")
    assert want in done.stdout


@both
def test_weight_decay_leaves_entries_alone_that_are_not_of_the_net(package):
    net, x, t = net_and_batch(package)
    net.weight_decay_lambda = 0.1
    want = net.loss(x, t)
    net.params |= {"W": 0.5, "W9": np.ones(5), 3: np.ones(2)}
    assert net.loss(x, t) == want


def test_sum_of_squares_refuses_what_is_no_matrix():
    for array in (np.ones(3), np.ones(()), np.ones((2, 2, 2))):
        with pytest.raises(ValueError, match="wants 2 dimensions"):
            _layers.sum_of_squares(array)


@both
def test_dicts_of_any_class_hold_parameters_and_gradients(package):
    net, x, t = net_and_batch(package)
    want = net.gradient(x, t)
    net.params = collections.OrderedDict(net.params)
    out = collections.OrderedDict(net.gradient(x, t))
    for g in out.values():
        g[...] = 0
    assert net.gradient(x, t, out=out) is out
    for key, g in want.items():
        assert_array_equal(out[key], g)


@both
def test_net_refuses_samples_that_share_an_outputs_memory_without_being_an_array(package):
    net, x, t = net_and_batch(package)
    out = net.gradient(x, t)
    n, d = x.shape
    buffer = np.ones(max(n * d, out["W1"].size))
    out["W1"] = buffer[: out["W1"].size].reshape(out["W1"].shape)
    with refused(ValueError, "W1.* and x overlap", out):
        net.gradient(memoryview(buffer[: n * d].reshape(n, d)), t, out=out)


@both
def test_empty_batch_overlaps_no_output(package):
    """Where its strides reach back over an output that lies before it, too."""
    net, x, t = net_and_batch(package)
    out = net.gradient(x, t)
    db, d = out["b1"], x.shape[1]
    buffer = np.zeros(db.size + d)
    out["b1"] = buffer[: db.size]
    for empty in (buffer[db.size :].reshape(1, d)[:0], buffer[: db.size].reshape(-1, 1)[:0]):
        with refused(ValueError, "no samples", out):
            net.gradient(empty, t[:0], out=out)


@both
def test_activation_may_be_a_string_of_numpy(package):
    net = package.MultiLayerNet(4, [3], 2, np.str_("sigmoid"), rng=0)
    want = package.MultiLayerNet(4, [3], 2, "sigmoid", rng=0)
    x = np.ones((2, 4))
    assert_array_equal(net.predict(x), want.predict(x))


def test_batch_that_no_memory_holds_leaves_the_net_working():
    net = fastopt.MultiLayerNet(4, [40_000], 2, rng=0)
    x, t = np.ones((2, 4), "f4"), [0, 1]
    want = net.loss(x, t)
    with pytest.raises(MemoryError):
        net.gradient(x, t, batch=np.broadcast_to(np.int8(0), 2**31 - 1))
    assert net.loss(x, t) == want


def test_network_refuses_what_no_net_has():
    for sizes, dtype in (((5,), "f4"), ((), "f8"), ((5, 2), "i1")):
        with pytest.raises(ValueError, match="no net of"):
            _net.Network(sizes, "relu", "softmax", dtype)
