"""The layers that differ in training: against the book's formulas, their twins, and differences.

What nets make of them is in test_net_kinds.py.
"""

import copy
import pickle

import numpy as np
import pytest
from helpers.arrays import LAYOUTS, NoArithmetic, assert_close, lay_out
from helpers.errors import refused
from helpers.marks import both, every_dtype
from numpy.testing import assert_allclose, assert_array_equal

import fastopt
from fastopt import reference
from fastopt.reference.layers import dropout_keeps

SHAPES = [(1, 5), (6, 1), (37, 33), (600, 20), (7, 2, 3, 4)]


def normalizations(shape, dtype="float64", seed=0):
    """Return the layer and its twin, and x and dout."""
    rng = np.random.default_rng(seed)
    units = int(np.prod(shape[1:]))
    gamma, beta = (rng.standard_normal(units).astype(dtype) for _ in range(2))
    x, dout = ((3 * rng.standard_normal(shape) + 1).astype(dtype) for _ in range(2))
    layers = [p.BatchNormalization(gamma.copy(), beta.copy()) for p in (fastopt, reference)]
    return layers, x, dout


def results(layer, x, dout):
    out, dx = layer.forward(x), layer.backward(dout)
    running = layer.running_mean.copy(), layer.running_var.copy()
    return [out, dx, layer.dgamma, layer.dbeta, *running, layer.forward(x, train_flg=False)]


@every_dtype
@pytest.mark.parametrize("shape", SHAPES)
def test_normalization_equals_twin(dtype, shape):
    layers, x, dout = normalizations(shape, dtype)
    for _ in range(2):
        ours, theirs = (results(layer, x, dout) for layer in layers)
        for got, want in zip(ours, theirs, strict=True):
            assert_close(got, want, dtype)
            assert got.flags.c_contiguous


@both
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("running_mean", "running_var"), "running_mean and running_var overlap in memory"),
        (("gamma", "running_var"), "gamma and running_var overlap in memory: running_var is wr"),
        (("beta", "running_mean"), "beta and running_mean overlap in memory"),
    ],
)
def test_running_averages_that_are_another_array_are_refused(package, names, message):
    shared = np.ones(3)
    arrays = {name: np.ones(3) for name in ("gamma", "beta", "running_mean", "running_var")}
    layer = package.BatchNormalization(**arrays | dict.fromkeys(names, shared))
    with pytest.raises(ValueError, match=message):
        layer.forward(np.ones((2, 3)))
    assert_array_equal(shared, np.ones(3))


def test_samples_of_a_normalization_that_were_changed_are_refused():
    def retyped(x):
        x.dtype = np.int64

    def resized(x):
        x.resize((2, 3), refcheck=False)

    for change, message in ((retyped, r"now int64\(4, 3\)"), (resized, r"now float64\(2, 3\)")):
        layer, x = fastopt.BatchNormalization(np.ones(3), np.zeros(3)), np.ones((4, 3))
        layer.forward(x)
        change(x)
        with pytest.raises(ValueError, match=f"x was changed since forward: it is {message}"):
            layer.backward(np.ones((4, 3)))


@both
def test_normalization_is_the_formula(package):
    layers, x, _ = normalizations((37, 3))
    layer = layers[package is reference]
    mean, var = x.mean(axis=0), x.var(axis=0)
    want = layer.gamma * (x - mean) / np.sqrt(var + 1e-7) + layer.beta
    assert_allclose(layer.forward(x), want, rtol=1e-12, atol=1e-12)
    assert_allclose(layer.running_mean, 0.1 * mean, rtol=1e-12)
    assert_allclose(layer.running_var, 0.9 + 0.1 * var, rtol=1e-12)
    layer.forward(2 * x)
    assert_allclose(layer.running_mean, 0.09 * mean + 0.2 * mean, rtol=1e-12)
    y = (x - layer.running_mean) / np.sqrt(layer.running_var + 1e-7)
    assert_allclose(layer.forward(x, False), layer.gamma * y + layer.beta, rtol=1e-11)


@both
def test_normalization_equals_central_differences(package):
    layers, x, dout = normalizations((6, 3))
    layer = layers[package is reference]
    layer.forward(x)
    dx = layer.backward(dout)
    grads = {"gamma": layer.dgamma.copy(), "beta": layer.dbeta.copy()}

    def loss(_):
        return float(np.sum(dout * layer.forward(x)))

    assert_allclose(dx, fastopt.numerical_gradient(loss, x), rtol=1e-6, atol=1e-6)
    for name, g in grads.items():
        numerical = fastopt.numerical_gradient(loss, getattr(layer, name))
        assert_allclose(g, numerical, rtol=1e-7, atol=1e-7)


@both
@every_dtype
def test_variance_far_from_zero_is_not_lost(package, dtype):
    x = 1e3 + np.arange(8).reshape(8, 1) % 2
    layer = package.BatchNormalization(np.ones(1, dtype), np.zeros(1, dtype))
    assert_allclose(layer.forward(x), np.where(x > 1e3, 1, -1), rtol=1e-4)


@both
def test_constant_units_are_their_beta(package):
    layer = package.BatchNormalization(np.ones(2), np.array([3.0, -1.0]))
    assert_array_equal(layer.forward(np.full((5, 2), 7.0)), [[3.0, -1.0]] * 5)
    assert np.isfinite(layer.backward(np.ones((5, 2)))).all()


@both
def test_running_averages_given_are_written_in_place(package):
    mean, var = np.full(2, 5.0), np.full(2, 2.0)
    layer = package.BatchNormalization(np.ones(2), np.zeros(2), running_mean=mean, running_var=var)
    x = np.array([[1.0, 3.0], [3.0, 5.0]])
    assert_allclose(layer.forward(x, train_flg=False), (x - 5) / np.sqrt(2 + 1e-7), rtol=1e-12)
    assert_array_equal(mean, [5.0, 5.0])
    layer.forward(x)
    assert layer.running_mean is mean
    assert layer.running_var is var
    assert_allclose(mean, [4.7, 4.9], rtol=1e-12)
    assert_allclose(var, [1.9, 1.9], rtol=1e-12)


@both
@every_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_normalization_takes_any_layout(package, dtype, layout):
    layers, x, dout = normalizations((6, 4), dtype)
    plain, layer = copy.deepcopy(layers[package is reference]), layers[package is reference]
    layer.gamma, layer.beta = lay_out(layer.gamma, layout), lay_out(layer.beta, layout)
    given = lay_out(x, layout), lay_out(dout, layout)
    for got, want in zip(results(layer, *given), results(plain, x, dout), strict=True):
        assert_array_equal(got, want)
    assert_array_equal(given[0], x)


BAD_NORMALIZATIONS = {
    "list": ({"gamma": [1.0, 1.0]}, TypeError,
             "gamma must be a float32 or float64 array, got list"),
    "integers": ({"gamma": np.ones(2, int)}, TypeError, "gamma must be .* got int64"),
    "matrix": ({"gamma": np.ones((1, 2))}, ValueError, r"gamma has shape \(1, 2\), wants \(D,\)"),
    "nothing": ({"gamma": np.ones(0)}, ValueError, r"gamma has shape \(0,\)"),
    "beta of another dtype": ({"beta": np.ones(2, "f4")}, TypeError,
                              "beta must be a float64 array as gamma is, got float32"),
    "no beta": ({"beta": None}, TypeError, "beta must be a float64 array .* got NoneType"),
    "long beta": ({"beta": np.ones(3)}, ValueError,
                  r"beta has shape \(3,\), wants \(2,\) as gamma has"),
    "mean": ({"running_mean": np.ones(2, "f4")}, TypeError, "running_mean must be a float64"),
    "long var": ({"running_var": np.ones(3)}, ValueError, r"running_var has shape \(3,\)"),
    "read-only mean": ({"running_mean": np.broadcast_to(0.0, (2,))}, ValueError,
                       "running_mean must be C-contiguous, aligned, writeable"),
    "strided var": ({"running_var": np.ones(4)[::2]}, ValueError,
                    "running_var must be C-contiguous"),
    "byte-swapped mean": ({"running_mean": np.ones(2, ">f8")}, ValueError, "native byte order"),
}  # fmt: skip


@both
@pytest.mark.parametrize("case", BAD_NORMALIZATIONS)
def test_normalization_refuses(package, case):
    arrays, exception, message = BAD_NORMALIZATIONS[case]
    layer = package.BatchNormalization(np.ones(2), np.zeros(2))
    x = np.random.default_rng(0).standard_normal((3, 2))
    layer.forward(x)
    dx = layer.backward(x)
    kept = {name: getattr(layer, name) for name in arrays}
    for name, array in arrays.items():
        setattr(layer, name, array)
    for train_flg in (True, False):
        with refused(exception, message):
            layer.forward(x, train_flg)
    for name, array in kept.items():
        setattr(layer, name, array)
    assert_array_equal(layer.backward(x), dx)


@both
def test_normalization_refuses_samples_and_gradients(package):
    layer = package.BatchNormalization(np.ones(2), np.zeros(2))
    with pytest.raises(RuntimeError, match=r"Normalization\.backward needs a forward in train"):
        layer.backward(np.ones((3, 2)))
    for x in (np.ones((0, 2)), np.ones((3, 3)), np.array(1.0), np.ones(2)):
        with pytest.raises(ValueError, match="x"):
            layer.forward(x)
    assert layer.running_mean is None
    with pytest.raises(TypeError, match="x must be real numbers, got dtype complex128"):
        layer.forward(np.ones((3, 2), complex))
    layer.forward(np.ones((3, 2)))
    for dout in (np.ones((2, 2)), np.ones((2, 3)), np.ones(6)):
        with pytest.raises(ValueError, match=r"dout has shape .* wants \(3, 2\)"):
            layer.backward(dout)
    with pytest.raises(TypeError, match="dout must be real numbers, got dtype object"):
        layer.backward(np.ones((3, 2), object))
    layer.gamma, layer.beta = np.ones(3), np.ones(3)
    with pytest.raises(ValueError, match=r"\(3,\)"):
        layer.backward(np.ones((3, 2)))
    layer.gamma, layer.beta = np.ones(2), np.ones(2)
    layer.forward(np.ones((3, 2)), train_flg=False)
    with pytest.raises(RuntimeError, match="needs a forward in training"):
        layer.backward(np.ones((3, 2)))


# --- dropout ---


@every_dtype
@pytest.mark.parametrize("shape", [(), (0,), (5,), (1, 7), (300, 33), (4, 3, 5), (2, 0)])
@pytest.mark.parametrize("ratio", [0, 0.25, 0.5, 0.999])
def test_dropout_equals_twin_bit_by_bit(dtype, shape, ratio):
    rng = np.random.default_rng(0)
    x, dout = (np.asarray(rng.standard_normal(shape), dtype) for _ in range(2))
    layers = [package.Dropout(ratio, rng=5) for package in (fastopt, reference)]
    assert layers[0].seed == layers[1].seed
    for step in (0, 1, 2**40):
        found = []
        for layer in layers:
            layer.steps = step
            found.append((layer.forward(x), layer.backward(dout), layer.forward(x, False)))
            assert layer.steps == step + 1
        for got, want in zip(*found, strict=True):
            assert_array_equal(got, want, strict=True)


@both
def test_dropout_is_inverted(package):
    layer = package.Dropout(0.2, rng=0)
    x = np.random.default_rng(1).standard_normal((400, 500))
    out = layer.forward(x)
    is_kept = out != 0
    assert abs(is_kept.mean() - 0.8) < 0.005
    assert_array_equal(out[is_kept], x[is_kept] * 1.25)
    for axis in (0, 1):
        assert np.abs(is_kept.mean(axis=axis) - 0.8).max() < 0.12
    dx = layer.backward(x)
    assert_array_equal(dx, out)
    again = layer.forward(x) != 0
    assert abs((again == is_kept).mean() - (0.8**2 + 0.2**2)) < 0.01


def test_random_numbers_of_dropout_are_told_apart_by_everything():
    masks = [
        dropout_keeps(64, 64, 0.5, seed, step, layer)
        for seed in (0, 1, 2**63 - 1) for step in (0, 1, 2) for layer in (0, 1)
    ]  # fmt: skip
    for i, mask in enumerate(masks):
        assert 0.45 < mask.mean() < 0.55
        for other in masks[:i]:
            assert 0.44 < (mask == other).mean() < 0.56
    rows = masks[0].astype(float) - 0.5
    for correlations in (np.corrcoef(rows), np.corrcoef(rows.T)):
        assert np.abs(correlations - np.eye(64)).max() < 0.6
    part = dropout_keeps(10, 7, 0.5, 3, 4, 1)
    assert_array_equal(dropout_keeps(64, 64, 0.5, 3, 4, 1)[:10, :7], part)


def test_random_numbers_of_dropout_are_these():
    """They are part of what a saved training is: a change makes another one of it."""
    keeps = dropout_keeps(4, 16, 0.5, 12345, 0)
    assert ["".join("01"[int(kept)] for kept in row) for row in keeps] == [
        "1111011110111110",
        "1111010011011001",
        "0000110000101011",
        "0001110000001000",
    ]


@both
def test_dropout_refuses(package):
    for ratio, exception in ((1, ValueError), (-0.1, ValueError), (np.nan, ValueError),
                             ("half", TypeError), (None, TypeError)):  # fmt: skip
        with pytest.raises(exception, match="dropout_ratio"):
            package.Dropout(ratio)
    layer = package.Dropout(rng=0)
    assert layer.dropout_ratio == 0.5
    with pytest.raises(RuntimeError, match=r"Dropout\.backward needs a forward in training before"):
        layer.backward(np.ones((2, 2)))
    with pytest.raises(TypeError, match="x must be real numbers"):
        layer.forward(np.ones((2, 2), complex))
    assert layer.steps == 0
    layer.forward(np.ones((2, 3), "f4"))
    with pytest.raises(ValueError, match=r"dout has shape \(3, 2\), wants \(2, 3\)"):
        layer.backward(np.ones((3, 2)))
    with pytest.raises(TypeError, match="dout must be real numbers"):
        layer.backward(np.ones((2, 3), complex))
    assert layer.backward(np.ones((2, 3))).dtype == np.float32
    layer.dropout_ratio = 1.5
    with pytest.raises(ValueError, match="dropout_ratio"):
        layer.forward(np.ones((2, 3)))
    assert layer.steps == 1
    layer.dropout_ratio = 0.5
    layer.forward(np.ones((2, 3)), train_flg=False)
    with pytest.raises(RuntimeError, match="forward in training"):
        layer.backward(np.ones((2, 3)))


@both
@every_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dropout_takes_any_layout(package, dtype, layout):
    x = np.random.default_rng(1).standard_normal((6, 5)).astype(dtype)
    layer, plain = package.Dropout(rng=0), package.Dropout(rng=0)
    assert_array_equal(layer.forward(lay_out(x, layout)), plain.forward(x))
    assert_array_equal(layer.backward(lay_out(x, layout)), plain.backward(x))


@both
def test_copies_of_layers_go_on(package):
    layers, x, dout = normalizations((6, 4))
    for layer in (layers[package is reference], package.Dropout(0.3, rng=1)):
        layer.forward(x)
        want = layer.backward(dout)
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert_array_equal(other.backward(dout), want)
            assert_array_equal(other.forward(x), copy.deepcopy(layer).forward(x))


def test_the_compiled_path_is_taken():
    def guarded(*shape):
        return np.random.default_rng(0).standard_normal(shape).view(NoArithmetic)

    norm = fastopt.BatchNormalization(np.ones(3), np.ones(3))
    for layer in (norm, fastopt.Dropout(rng=0)):
        layer.forward(guarded(4, 3))
        layer.backward(guarded(4, 3))
        layer.forward(guarded(4, 3), train_flg=False)
