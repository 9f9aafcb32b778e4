"""The layers against their twins and against central differences.

What they accept and refuse is in test_layer_contract.py.
"""

import numpy as np
import pytest
from helpers.arrays import LAYOUTS, TOLERANCE, NoArithmetic, assert_close, lay_out
from helpers.marks import both, every_dtype
from helpers.nets import FUNCTIONS, every_function
from numpy.testing import assert_allclose, assert_array_equal
from scipy import special

import fastopt
from fastopt import reference


def affine_case(rng, n, d, m, dtype):
    shapes = {"x": (n, d), "W": (d, m), "b": (m,), "dout": (n, m)}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def affine_results(package, x, W, b, dout):
    layer = package.Affine(W, b)
    out = layer.forward(x)
    dx = layer.backward(dout)
    return {"out": out, "dx": dx, "dW": layer.dW, "db": layer.db}


@every_dtype
@pytest.mark.parametrize("n", [1, 2, 3, 31, 128, 300])
@pytest.mark.parametrize(("d", "m"), [(1, 1), (1, 7), (5, 1), (17, 33), (784, 10)])
def test_affine_equals_twin(dtype, n, d, m):
    case = affine_case(np.random.default_rng(n + d), n, d, m, dtype)
    got, want = (affine_results(package, **case) for package in (fastopt, reference))
    for name, array in want.items():
        assert_close(got[name], array, dtype)
        assert got[name].flags.c_contiguous


@every_dtype
@pytest.mark.parametrize("which", ["x", "W", "dout"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n", [1, 6])
def test_affine_takes_any_layout(dtype, which, layout, n):
    case = affine_case(np.random.default_rng(7), n, 4, 5, dtype)
    want = affine_results(reference, **case)
    kept = {name: array.copy() for name, array in case.items()}
    case[which] = lay_out(case[which], layout)
    got = affine_results(fastopt, **case)
    for name, array in want.items():
        assert_close(got[name], array, dtype)
    for name, array in kept.items():
        assert_array_equal(case[name], array, err_msg=f"{name} was written")


@both
@pytest.mark.parametrize("shape", [(6, 12), (6, 3, 4), (6, 1, 3, 4), (6, 2, 3, 2, 1)])
def test_affine_flattens_any_rank(package, shape):
    rng = np.random.default_rng(2)
    x, W, b = rng.standard_normal(shape), rng.standard_normal((12, 5)), rng.standard_normal(5)
    for samples in (x, np.asfortranarray(x)):
        layer = package.Affine(W, b)
        assert_allclose(layer.forward(samples), x.reshape(6, 12) @ W + b, rtol=1e-13)
        assert layer.backward(np.ones((6, 5))).shape == shape
    column = package.Affine(np.array([[2.0]]), np.zeros(1))
    assert_array_equal(column.forward(np.arange(3.0)), [[0.0], [2.0], [4.0]])
    assert column.backward(np.ones((3, 1))).shape == (3,)


@both
@every_dtype
@pytest.mark.parametrize("x_dtype", ["uint8", "int64", "float16", "float32", "float64", "bool"])
def test_affine_casts_inputs_to_the_dtype_of_its_weights(package, dtype, x_dtype):
    x = np.random.default_rng(0).integers(0, 2, (3, 4)).astype(x_dtype)
    layer = package.Affine(np.ones((4, 2), dtype), np.ones(2, dtype))
    assert layer.forward(x).dtype == dtype
    assert layer.forward(x.tolist()).dtype == dtype
    assert layer.backward(np.ones((3, 2), np.float16)).dtype == dtype


@both
def test_affine_writes_into_the_arrays_given(package):
    case = affine_case(np.random.default_rng(3), 6, 4, 5, "float64")
    layer = package.Affine(case["W"], case["b"])
    layer.forward(case["x"])
    layer.backward(case["dout"])
    want = layer.dW, layer.db
    out = np.full((4, 5), np.nan), np.full(5, np.nan)
    layer.backward(case["dout"], out=out)
    assert layer.dW is out[0]
    assert layer.db is out[1]
    assert_array_equal(out[0], want[0])
    assert_array_equal(out[1], want[1])


@both
def test_affine_reads_its_weights_at_each_call(package):
    W, b = np.ones((2, 2)), np.zeros(2)
    layer = package.Affine(W, b)
    W *= 3
    assert_array_equal(layer.forward(np.ones((1, 2))), [[6.0, 6.0]])
    layer.W = np.zeros((2, 2))
    assert_array_equal(layer.forward(np.ones((1, 2))), [[0.0, 0.0]])


@every_dtype
@pytest.mark.parametrize("shape", [(), (0,), (1,), (17,), (5, 7), (2, 3, 4)])
@every_function
def test_activation_equals_twin(name, shape, dtype):
    rng = np.random.default_rng(1)
    x, dout = (np.asarray(rng.standard_normal(shape) * 20, dtype) for _ in range(2))
    results = []
    for package in (fastopt, reference):
        layer = getattr(package, name)()
        results += [layer.forward(x), layer.backward(dout)]
    for got, want in zip(results[:2], results[2:], strict=True):
        assert got.dtype == want.dtype == dtype
        assert got.shape == want.shape == shape
        if name in ("Relu", "LeakyRelu"):
            assert_array_equal(got, want)
        elif got.size:
            assert_close(got, want, dtype)


@both
@every_dtype
def test_relu_of_special_values(package, dtype):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 1e-40], dtype)
    layer = package.Relu()
    assert_array_equal(layer.forward(x), np.array([np.nan, np.inf, 0, 0, 0, 1, 0, 1e-40], dtype))
    assert_array_equal(layer.backward(np.full(8, np.nan, dtype)), np.where(x <= 0, 0, np.nan))


# name → the function and its derivative
FORMULAS = {
    "LeakyRelu": (lambda z: np.where(z > 0, z, 0.01 * z), lambda z: np.where(z > 0, 1, 0.01)),
    "Tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "Gelu": (
        lambda z: z * special.ndtr(z),
        lambda z: special.ndtr(z) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi),
    ),
    "Silu": (
        lambda z: z * special.expit(z),
        lambda z: special.expit(z) * (1 + z * special.expit(-z)),
    ),
}


@both
@every_dtype
@pytest.mark.parametrize("name", FORMULAS)
def test_activation_is_the_formula(package, dtype, name):
    x = np.linspace(-30, 30, 10_001).astype(dtype)
    layer, (function, derivative) = getattr(package, name)(), FORMULAS[name]
    tolerance = {"float32": 1e-6, "float64": 1e-14}[dtype]
    out, dx = layer.forward(x), layer.backward(np.ones_like(x))
    for got, of_formula in ((out, function), (dx, derivative)):
        want = of_formula(x.astype("f8"))
        assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


# What comes of -inf, -1e4, -0.0, 0.0, 1e4, inf, NaN
ENDS = {
    "LeakyRelu": ([-np.inf, -100, -0.0, 0, 1e4, np.inf, np.nan], [0.01] * 4 + [1, 1, 1]),
    "Tanh": ([-1, -1, -0.0, 0, 1, 1, np.nan], [0, 0, 1, 1, 0, 0, np.nan]),
    "Gelu": ([np.nan, 0, 0, 0, 1e4, np.inf, np.nan], [np.nan, 0, 0.5, 0.5, 1, np.nan, np.nan]),
    "Silu": ([np.nan, 0, 0, 0, 1e4, np.inf, np.nan], [np.nan, 0, 0.5, 0.5, 1, np.nan, np.nan]),
}


@both
@every_dtype
@pytest.mark.parametrize("name", ENDS)
def test_activation_at_the_ends_of_the_range_is_silent(package, dtype, name):
    x = np.array([-np.inf, -1e4, -0.0, 0, 1e4, np.inf, np.nan], dtype)
    layer = getattr(package, name)()
    finite = np.isfinite(x)
    found = layer.forward(x), layer.backward(np.ones_like(x))
    for got, want in zip(found, ENDS[name], strict=True):
        assert_allclose(got[finite], np.array(want, dtype)[finite], rtol=1e-6)
        assert np.isnan(got[-1]) == np.isnan(want[-1])


@both
@every_dtype
def test_sigmoid_of_large_values_is_silent(package, dtype):
    x = np.array([-np.inf, -1e4, -800.0, 0.0, 800.0, 1e4, np.inf, np.nan], dtype)
    layer = package.Sigmoid()
    assert_array_equal(layer.forward(x), np.array([0, 0, 0, 0.5, 1, 1, 1, np.nan], dtype))
    assert_array_equal(layer.backward(np.ones(8, dtype)), [0, 0, 0, 0.25, 0, 0, 0, np.nan])


@both
@every_function
@pytest.mark.parametrize("layout", LAYOUTS)
def test_activation_takes_any_layout(package, name, layout):
    x = np.random.default_rng(1).standard_normal((4, 3))
    layer, plain = getattr(package, name)(), getattr(package, name)()
    assert_array_equal(layer.forward(lay_out(x, layout)), plain.forward(x))
    assert_array_equal(layer.backward(lay_out(x, layout)), plain.backward(x))


@both
@every_function
def test_activation_of_other_dtypes(package, name):
    layer = getattr(package, name)()
    assert layer.forward(np.arange(-3, 3)).dtype == np.float64
    assert layer.forward([[1, -1]]).shape == (1, 2)


@both
@every_function
def test_output_is_the_callers_own(package, name):
    layer, x = getattr(package, name)(), np.random.default_rng(1).standard_normal((4, 3))
    first = layer.forward(x)
    kept = first.copy()
    want = layer.backward(np.ones((4, 3)))
    first[...] = 7  # what the caller does with it does not reach backward
    assert_array_equal(layer.backward(np.ones((4, 3))), want)
    first[...] = kept
    layer.forward(-x)
    assert_array_equal(first, kept)


def softmax_results(package, x, t, dout=1.0):
    layer = package.SoftmaxWithLoss()
    loss = layer.forward(x, t)
    assert type(loss) is float
    return loss, layer.y, layer.backward(dout)


@every_dtype
@pytest.mark.parametrize(("n", "classes"), [(1, 1), (1, 10), (7, 2), (128, 10), (33, 1000)])
def test_softmax_loss_equals_twin(dtype, n, classes):
    rng = np.random.default_rng(n)
    x = (rng.standard_normal((n, classes)) * 5).astype(dtype)
    t = rng.integers(0, classes, n)
    want = softmax_results(reference, x, t)
    one_hot = np.eye(classes)[t]
    labels = [
        t,
        t.astype(np.uint16),
        t.tolist(),
        one_hot,
        one_hot.astype(bool),
        one_hot.astype("f4"),
    ]
    for given in labels:
        got = softmax_results(fastopt, x, given)
        assert got[0] == pytest.approx(want[0], rel=TOLERANCE[dtype], abs=TOLERANCE[dtype])
        assert_close(got[1], want[1], dtype)
        assert_close(got[2], want[2], dtype)
    assert_close(softmax_results(fastopt, x, t, 2.5)[2], want[2] * np.asarray(2.5, dtype), dtype)


@both
def test_softmax_loss_is_the_formula(package):
    x, t = np.array([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]]), np.array([2, 0])
    y = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    loss, got_y, dx = softmax_results(package, x, t)
    assert loss == pytest.approx(-np.log(y[[0, 1], t]).mean(), rel=1e-14)
    assert_allclose(got_y, y, rtol=1e-14)
    assert_allclose(dx, (y - np.eye(3)[t]) / 2, rtol=1e-14)


@both
@every_dtype
def test_softmax_of_large_scores_is_finite(package, dtype):
    x = np.array([[1e4, -1e4, 0.0], [-1e30, -1e30, -1e30]], dtype)
    loss, y, _ = softmax_results(package, x, [1, 0])
    assert loss == pytest.approx((2e4 + np.log(3)) / 2, rel=1e-12)
    assert_allclose(y, [[1, 0, 0], [1 / 3] * 3], rtol=1e-6)


def confident_scores(scale):
    """Return scores and labels: sure and right, sure and wrong, a tie, in between."""
    x = scale * np.array([[1, -1, 0.5], [1, -1, 0.5], [0.25, 0.25, -1], [0.1, 0.3, 0.2]])
    return x, np.array([0, 1, 0, 2])


@both
@pytest.mark.parametrize("scale", [1, 30, 100, 1e4])
def test_softmax_loss_belongs_to_its_gradient_at_scores_of_any_size(package, scale):
    x, t = confident_scores(scale)
    loss, _, dx = softmax_results(package, x, t)
    shifted = x - x.max(axis=1, keepdims=True)  # or a large score swallows a small loss
    want = special.logsumexp(shifted, axis=1) - shifted[np.arange(4), t]
    assert loss == pytest.approx(want.mean(), rel=1e-12)
    for row, label, loss in zip(x, t, want, strict=True):
        alone = package.SoftmaxWithLoss().forward(row[np.newaxis], [label])
        assert alone == pytest.approx(loss, rel=1e-12, abs=1e-15)
    numerical = fastopt.numerical_gradient(lambda x: package.SoftmaxWithLoss().forward(x, t), x)
    # what rounding of the loss leaves of a difference over 2e-4
    assert_allclose(dx, numerical, rtol=0, atol=1e-8 + scale * 2e-12)


@both
@pytest.mark.parametrize("scale", [1, 30, 100, 1e4, 1e38])
def test_softmax_loss_in_float32_is_that_of_float64(package, scale):
    x, t = confident_scores(scale)
    x = x.astype("f4")
    for row, label in zip(x, t, strict=True):
        loss = package.SoftmaxWithLoss().forward(row[np.newaxis], [label])
        shifted = row.astype("f8") - row.max()  # else a score of 1e38 swallows the logarithm
        want = special.logsumexp(shifted) - shifted[label]
        assert loss == pytest.approx(want, rel=1e-6, abs=2e-7)


# a row of scores, for the label 0 → its loss
SPECIAL_ROWS = {
    "NaN at the label": ([np.nan, 0.0, 1.0], np.nan),
    "NaN elsewhere": ([0.0, 1.0, np.nan], np.nan),
    "infinity at the label": ([np.inf, 0.0, 1.0], np.nan),
    "infinity elsewhere": ([0.0, np.inf, 1.0], np.nan),
    "both infinities": ([-np.inf, np.inf, 1.0], np.nan),
    "nothing but -infinity": ([-np.inf, -np.inf, -np.inf], np.nan),
    "-infinity at the label": ([-np.inf, 1.0, 1.0], np.inf),
    "-infinity and NaN": ([-np.inf, np.nan, 1.0], np.nan),
    "-infinity elsewhere": ([1.0, -np.inf, 1.0], np.log(2)),
}


@both
@every_dtype
@pytest.mark.parametrize("case", SPECIAL_ROWS)
def test_softmax_loss_of_nan_and_infinity(package, dtype, case):
    row, want = SPECIAL_ROWS[case]
    loss, y, dx = softmax_results(package, np.array([row], dtype), [0])
    assert loss == pytest.approx(want, rel=1e-6, nan_ok=True)
    assert np.isnan(y).all() == np.isnan(dx).all() == np.isnan(want)
    if want == np.inf:
        assert_array_equal(y, [[0, 0.5, 0.5]])
        assert_array_equal(dx, [[-1, 0.5, 0.5]])
    other = np.array([row, [0.0, 0.0, 0.0]], dtype)
    assert package.SoftmaxWithLoss().forward(other, [0, 0]) == pytest.approx(
        (want + np.log(3)) / 2, rel=1e-6, nan_ok=True
    )


@both
def test_softmax_row_with_nan_spoils_its_row_alone(package):
    x = np.array([[1.0, np.nan], [np.inf, 0.0], [1.0, 1.0]])
    loss, y, _ = softmax_results(package, x, [0, 0, 0])
    assert np.isnan(loss)
    assert_array_equal(np.isnan(y), [[True, True], [True, True], [False, False]])


def test_the_compiled_path_is_taken():
    def guarded(*shape):
        return np.random.default_rng(0).standard_normal(shape).view(NoArithmetic)

    affine = fastopt.Affine(guarded(4, 3), guarded(3))
    affine.forward(guarded(2, 4))
    affine.backward(guarded(2, 3))
    for name in FUNCTIONS:
        layer = getattr(fastopt, name)()
        layer.forward(guarded(2, 3))
        layer.backward(guarded(2, 3))
    fastopt.SoftmaxWithLoss().forward(guarded(2, 3), [0, 1])
    fastopt._layers.sum_of_squares(guarded(4, 3))
