"""What nets take for targets and sample weights, what they refuse, and in which words.

The words are the same in compiled nets and twins. Labels of softmax alone, and what a layer
refuses, are in test_layer_contract.py.
"""

import numpy as np
import pytest
from helpers.errors import refused
from helpers.marks import both, every_dtype
from helpers.nets import LOSSES, REGRESSIONS, a_net

N, SIZES = 3, (4, 5, 2)
X = np.random.default_rng(0).standard_normal((N, 4))
NAN, INF = np.nan, np.inf

# what is no target of a loss → loss, targets of three samples and two outputs, exception, message
BAD_TARGETS = {
    "too few": ("huber", np.ones((2, 2)), ValueError,
                r"targets have shape \(2, 2\), want \(3, 2\)"),
    "of one output": ("poisson", np.ones((3, 1)), ValueError, r"\(3, 1\), want \(3, 2\)"),
    "flat": ("squared_error", np.ones(3), ValueError, r"targets have shape \(3,\), want \(3, 2\)"),
    "flat, of all outputs": ("squared_error", np.ones(6), ValueError, r"\(6,\), want \(3, 2\)"),
    "0-d": ("squared_error", 1.0, ValueError, r"targets have shape \(\)"),
    "three axes": ("logistic", np.ones((3, 2, 1)), ValueError, r"\(3, 2, 1\)"),
    "complex": ("huber", np.ones((3, 2), complex), TypeError,
                "targets must be real numbers, got dtype complex128"),
    "objects": ("huber", np.ones((3, 2), object), TypeError, "got dtype object"),
    "strings": ("logistic", np.full((3, 2), "1"), TypeError, "got dtype <U1"),
    "dates": ("huber", np.zeros((3, 2), "M8[s]"), TypeError, "got dtype datetime64"),
    "no probability": ("logistic", [[0, 1], [0, 0], [2, 1]], ValueError,
                       "targets of loss 'logistic' must be from 0 to 1, got 2 for output 0 of "
                       "sample 2"),
    "negative": ("logistic", [[0, 1], [0, -0.5], [1, 1]], ValueError,
                 "must be from 0 to 1, got -0.5 for output 1 of sample 1"),
    "NaN for logistic": ("logistic", [[0, 1], [0, 1], [NAN, 1]], ValueError,
                         "got nan for output 0 of sample 2"),
    "infinite for logistic": ("logistic", [[INF, 1], [0, 1], [0, 1]], ValueError, "got inf"),
    "negative rate": ("poisson", [[0, 1], [3, 7], [1, -1]], ValueError,
                      "targets of loss 'poisson' must be at least 0, got -1 for output 1 of "
                      "sample 2"),
    "NaN for poisson": ("poisson", [[0, NAN], [3, 7], [1, 1]], ValueError,
                        "got nan for output 1 of sample 0"),
    "soft labels off 1": ("softmax", [[0.5, 0.5], [0.5, 0.4], [1, 0]], ValueError,
                          "labels of sample 1 must hold a single 1, else 0, or be probabilities "
                          r"that sum to 1; got \[0.5 0.4\]"),
    "soft labels below 0": ("softmax", [[0.5, 0.5], [0, 1], [1.5, -0.5]], ValueError,
                            "labels of sample 2 must hold"),
    "NaN in soft labels": ("softmax", [[0.5, 0.5], [0, 1], [1, NAN]], ValueError, "sample 2 must"),
    "no labels": ("softmax", [[0, 0], [0, 1], [1, 0]], ValueError, "sample 0 must hold"),
    "labels of no class": ("softmax", [0, 1, 2], ValueError,
                           "label 2 of sample 2 is outside 0 to 1"),
    "negative label": ("softmax", [0, -1, 0], ValueError, "label -1 of sample 1 is outside 0 to 1"),
    "labels of another number": ("softmax", [0, 1], ValueError,
                                 r"labels have shape \(2,\), want \(3,\) or one-hot \(3, 2\)"),
    "labels of floats": ("softmax", [0.0, 1.0, 0.0], TypeError,
                         "labels must be integers or one-hot rows, got dtype float64; numbers to "
                         "predict want a loss such as 'squared_error'"),
    "labels of objects": ("softmax", np.array([0, 1, 0], object), TypeError,
                          "labels must be integers or one-hot rows, got dtype object"),
}  # fmt: skip


@both
@pytest.mark.parametrize("case", BAD_TARGETS)
def test_targets_that_do_not_fit_are_refused(package, case):
    loss, t, exception, message = BAD_TARGETS[case]
    net = a_net(package, SIZES, "all", loss=loss)
    calls = [net.loss, net.gradient, net.loss_and_gradient, net.score]
    calls += [] if loss in REGRESSIONS else [net.accuracy]
    for call in calls:
        with refused(exception, message, net.params, net.running):
            call(X, t)
    assert net.steps == 0


@both
@every_dtype
def test_a_single_class_has_numbers_or_a_column(package, dtype):
    net = a_net(package, (4, 5, 1), dtype=dtype)
    assert net.loss(X, [0, 0, 0]) == net.loss(X, np.ones((3, 1), dtype)) == 0
    for call in (net.loss, net.gradient, net.accuracy):
        with pytest.raises(TypeError, match="labels must be integers or one-hot rows, got dtype"):
            call(X, np.ones(3, dtype))
    with pytest.raises(TypeError, match="labels must be integers or one-hot rows, got dtype"):
        package.SoftmaxWithLoss().forward(np.ones((3, 1), dtype), np.ones(3, dtype))


@both
def test_targets_of_a_batch_are_named_by_their_row(package):
    net = a_net(package, SIZES, loss="logistic")
    t = np.zeros((5, 2))
    t[3, 1] = 7
    x = np.ones((5, 4))
    assert net.loss(x, t, batch=[0, 4, 1]) > 0
    with pytest.raises(ValueError, match=r"got 7\.0 for output 1 of sample 3"):
        net.loss(x, t, batch=[0, 4, 3])
    with pytest.raises(ValueError, match=r"got 7\.0 for output 1 of sample 3"):
        net.gradient(x, t, batch=[-2])
    with pytest.raises(ValueError, match=r"targets have shape \(4, 2\), want \(5, 2\)"):
        net.loss(x, t[:4], batch=[0, 1])
    weights = np.array([1, 1, 1, -1, 1.0])
    t[3, 1] = 1
    assert net.loss(x, t, batch=[0, 4, 1], sample_weight=weights) > 0
    with pytest.raises(ValueError, match=r"sample_weight of sample 3 must be .*, got -1.0"):
        net.loss(x, t, batch=[0, 3], sample_weight=weights)
    with pytest.raises(ValueError, match=r"sample_weight has shape \(4,\), wants \(5,\)"):
        net.loss(x, t, batch=[0, 1], sample_weight=weights[:4])
    with pytest.raises(ValueError, match="label 9 of sample 1 is outside 0 to 1"):
        a_net(package, SIZES).loss(x, [0, 9, 0, 0, 0], batch=[0, 1])
    with pytest.raises(ValueError, match="labels of sample 1 must hold a single 1"):
        a_net(package, SIZES).loss(x, [[1, 0], [1, 1], [0, 1], [1, 0], [1, 0]], batch=[2, 1])


@both
@pytest.mark.parametrize("loss", LOSSES)
def test_targets_of_one_output_may_be_flat(package, loss):
    net = a_net(package, (4, 5, 1), loss=loss)
    t = [0, 0, 0] if loss == "softmax" else [0, 1, 1]
    column = np.ones((3, 1)) if loss == "softmax" else np.reshape(t, (3, 1))
    want = net.loss_and_gradient(X, column)
    for given in (t, np.array(t, "i1"), column.tolist()):
        loss_, grads = net.loss_and_gradient(X, given)
        assert loss_ == want[0] == net.loss(X, given)
        for key, g in want[1].items():
            np.testing.assert_array_equal(grads[key], g)
    if loss != "softmax":
        with pytest.raises(ValueError, match=r"\(2,\), want \(3,\) or \(3, 1\)"):
            net.loss(X, t[:2])


@both
@pytest.mark.parametrize("dtype", ["bool", "i1", "u8", "f2", "f4", "f8", "longdouble", ">f4"])
def test_targets_of_any_real_dtype(package, dtype):
    t = np.array([[0, 1], [1, 1], [0, 0]])
    for loss in ("logistic", "huber", "poisson"):
        net = a_net(package, SIZES, loss=loss)
        assert net.loss(X, t.astype(dtype)) == net.loss(X, t.astype("f4"))


@both
@pytest.mark.parametrize("loss", ["softmax", "squared_error"])
def test_targets_may_lie_where_gradients_go(package, loss):
    """They are read before anything is written."""
    net = a_net(package, sizes=(4, 3, 3), loss=loss)
    out = {key: np.empty_like(p) for key, p in net.params.items()}
    out["W2"][:] = np.full((3, 3), 1 / 3)
    wanted = net.gradient(X, out["W2"].copy())
    net.gradient(X, out["W2"], out=out)
    for key, g in wanted.items():
        np.testing.assert_array_equal(out[key], g)


@both
def test_targets_beyond_float32_are_infinite_in_it(package):
    net = a_net(package, SIZES, loss="squared_error")
    assert net.loss(X, np.full((3, 2), 1e300)) == np.inf
    assert np.isnan(net.loss(X, np.full((3, 2), np.nan)))


@both
def test_soft_labels_may_be_rounded(package):
    net = a_net(package, SIZES)
    third = np.array([[1 / 3, 2 / 3], [0.1, 0.9], [1, 0]], "f4")
    assert net.loss(X, third) == pytest.approx(net.loss(X, third.astype("f8")), rel=1e-5)
    assert net.loss(X[:2], third[:2] + np.float32(4e-6)) > 0
    with pytest.raises(ValueError, match="sum to 1"):
        net.loss(X[:2], third[:2] + np.float32(1e-4))


BAD_WEIGHTS = {
    "too few": ([1, 1], ValueError, r"sample_weight has shape \(2,\), wants \(3,\)"),
    "a column": ([[1], [1], [1]], ValueError, r"sample_weight has shape \(3, 1\), wants \(3,\)"),
    "0-d": (1.0, ValueError, r"sample_weight has shape \(\), wants \(3,\)"),
    "complex": (np.ones(3, complex), TypeError,
                "sample_weight must be real numbers, got dtype complex128"),
    "objects": (np.ones(3, object), TypeError, "sample_weight must be real .* object"),
    "strings": (["1", "1", "1"], TypeError, "sample_weight must be real numbers, got dtype <U1"),
    "negative": ([1, -2, 1], ValueError,
                 "sample_weight of sample 1 must be finite and at least 0, got -2"),
    "NaN": ([1, 1, NAN], ValueError,
            "sample_weight of sample 2 must be finite and at least 0, got nan"),
    "infinite": ([INF, 1, 1], ValueError, "sample_weight of sample 0 .* got inf"),
    "nothing": ([0, 0, 0], ValueError,
                r"sample_weight must have a finite sum above 0, got 0\.0"),
    "too much": ([1e308, 1e308, 1], ValueError, "a finite sum above 0, got inf"),
}  # fmt: skip


@both
@pytest.mark.parametrize("case", BAD_WEIGHTS)
@pytest.mark.parametrize("loss", ["softmax", "huber"])
def test_weights_that_do_not_fit_are_refused(package, case, loss):
    weights, exception, message = BAD_WEIGHTS[case]
    net = a_net(package, SIZES, "all", loss=loss)
    t = [0, 1, 0] if loss == "softmax" else np.ones((3, 2))
    for call in (net.loss, net.gradient, net.loss_and_gradient, net.numerical_gradient):
        with refused(exception, message, net.params, net.running):
            call(X, t, sample_weight=weights)
    assert net.steps == 0


@both
@pytest.mark.parametrize("dtype", ["bool", "i1", "u8", "f2", "f4", ">f8", "longdouble"])
def test_weights_of_any_real_dtype(package, dtype):
    net, weights = a_net(package, SIZES), np.array([1, 0, 1])
    want = net.loss(X, [0, 1, 0], sample_weight=weights)
    assert net.loss(X, [0, 1, 0], sample_weight=weights.astype(dtype)) == want
    assert net.loss(X, [0, 1, 0], sample_weight=weights.astype(dtype).tolist()) == want


@both
def test_weights_tiny_and_huge_are_shares(package):
    net = a_net(package, SIZES, dtype=float)
    want = net.loss(X, [0, 1, 0], sample_weight=[1, 2, 3])
    for scale in (1e-300, 1e300):
        got = net.loss(X, [0, 1, 0], sample_weight=scale * np.array([1, 2, 3]))
        assert got == pytest.approx(want, rel=1e-12)
