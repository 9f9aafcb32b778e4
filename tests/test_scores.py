"""What nets say of samples: probabilities, classes, accuracy, R², and what a net says of itself."""

import numpy as np
import pytest
from helpers.arrays import assert_close
from helpers.marks import both, every_dtype
from helpers.nets import REGRESSIONS, a_batch, a_net
from numpy.testing import assert_allclose, assert_array_equal

import fastopt
from fastopt import _scores, reference

SIZES = (4, 6, 3)


def linear(package, loss, outputs, dtype=float):
    """Return a net whose scores are the samples."""
    net = package.MultiLayerNet(outputs, [], outputs, loss=loss, dtype=dtype)
    net.params["W1"][...] = np.eye(outputs)
    return net


@both
@every_dtype
@pytest.mark.parametrize("loss", ["softmax", "logistic"])
def test_probabilities(package, dtype, loss):
    net = a_net(package, SIZES, "all", loss=loss, dtype=dtype)
    x, t, _ = a_batch(loss, 50, SIZES)
    net.gradient(x, t)
    scores, y = net.predict(x).astype(float), net.predict_proba(x)
    e = np.exp(scores)
    assert y.dtype == dtype
    want = e / e.sum(axis=1, keepdims=True) if loss == "softmax" else 1 / (1 + 1 / e)
    assert_close(y, want.astype(dtype), dtype)
    if loss == "softmax":
        assert_allclose(y.sum(axis=1), 1, rtol=1e-6)
    y[...] = 7
    assert_close(net.predict(x), scores.astype(dtype), dtype)


@both
@every_dtype
def test_probabilities_of_large_scores(package, dtype):
    scores = np.array([[1e4, -1e4, 0.0], [-1e30, -1e30, -1e30]])
    y = linear(package, "softmax", 3, dtype).predict_proba(scores)
    assert_allclose(y, [[1, 0, 0], [1 / 3] * 3], rtol=1e-6)
    y = linear(package, "logistic", 3, dtype).predict_proba(scores)
    assert_array_equal(y, [[1, 0, 0.5], [0, 0, 0]])


@both
def test_classes(package):
    scores = np.array([[1, 3, 2], [0, 0, -1], [-5, -4, -3], [np.nan, 1, 2]])
    classes = linear(package, "softmax", 3).classify(scores)
    assert_array_equal(classes, np.array([1, 0, 2, 0]), strict=True)
    classes = linear(package, "logistic", 3).classify(scores[:3])
    assert_array_equal(classes, np.array([[1, 1, 1], [0, 0, 0], [0, 0, 0]]), strict=True)


@both
@pytest.mark.parametrize("loss", REGRESSIONS)
def test_regressions_have_no_classes(package, loss):
    net = linear(package, loss, 2)
    for method in ("predict_proba", "classify"):
        message = f"{method} needs a net with loss 'softmax' or 'logistic', this one has '{loss}'"
        with pytest.raises(TypeError, match=message):
            getattr(net, method)(np.ones((3, 2)))
    with pytest.raises(TypeError, match=f"accuracy .* has '{loss}'; score.x, t. returns its R²"):
        net.accuracy(np.ones((3, 2)), np.ones((3, 2)))
    assert net.is_classifier is False


@both
def test_accuracy_of_labels_of_every_form(package):
    net = linear(package, "softmax", 3)
    scores = np.array([[1.0, 3, 2], [0, 0, -1], [-5, -4, -3], [9, 1, 2]])
    t = np.array([1, 1, 2, 1])
    soft = 0.8 * np.eye(3)[t] + 0.2 / 3
    for given in (t, t.tolist(), t.astype("u1"), np.eye(3)[t], np.eye(3, dtype=bool)[t], soft):
        assert net.accuracy(scores, given) == net.score(scores, given) == 0.5
    with pytest.raises(ValueError, match="sum to 1"):
        net.accuracy(scores, soft * 0.9)
    with pytest.raises(ValueError, match="labels have shape"):
        net.accuracy(scores, soft[:, 1:])
    assert net.is_classifier is True


@both
def test_accuracy_of_several_labels_wants_all_of_them(package):
    net = linear(package, "logistic", 2)
    scores = np.array([[1, -1], [1, -1], [2.0, 3.0], [0, -0.5]])
    t = np.array([[1, 0], [1, 1], [1, 1], [0, 0]])
    for given in (t, t.astype(bool), 0.8 * t + 0.1):
        assert net.accuracy(scores, given) == net.score(scores, given) == 0.75
    alone = linear(package, "logistic", 1)
    assert alone.accuracy([[1], [-1], [2]], [1, 1, 1]) == pytest.approx(2 / 3)


@both
@pytest.mark.parametrize("loss", REGRESSIONS)
def test_r_squared(package, loss):
    rng = np.random.default_rng(0)
    scores, t = rng.standard_normal((50, 3)), rng.poisson(3, (50, 3)).astype(float)
    y = np.exp(scores) if loss == "poisson" else scores
    want = 1 - ((t - y) ** 2).sum(axis=0) / ((t - t.mean(axis=0)) ** 2).sum(axis=0)
    net = linear(package, loss, 3)
    assert net.score(scores, t) == pytest.approx(want.mean(), rel=1e-12)
    assert net.score(np.log(t + 1e-9) if loss == "poisson" else t, t) == pytest.approx(1)
    alone = linear(package, loss, 1)
    assert alone.score(scores[:, :1], t[:, 0]) == pytest.approx(want[0], rel=1e-12)
    assert np.isnan(net.score(scores[:1], t[:1]))


@both
def test_r_squared_of_targets_that_are_all_the_same(package):
    net = linear(package, "squared_error", 2)
    scores = np.array([[1.0, 2], [1, 3]])
    assert net.score(scores, [[1, 2], [1, 3]]) == 1  # met exactly, as is the other
    assert net.score(scores, [[5, 2], [5, 3]]) == 0.5
    assert np.isnan(net.score(scores, [[np.nan, 2], [1, 3]]))


def test_scores_are_the_twins():
    for loss in ("softmax", "logistic", *REGRESSIONS):
        x, t, _ = a_batch(loss, 200, SIZES)
        ours, theirs = (
            a_net(p, SIZES, "norm", loss=loss, dtype=float) for p in (fastopt, reference)
        )
        for net in (ours, theirs):
            net.gradient(x, t)
        assert ours.score(x, t) == pytest.approx(theirs.score(x, t), rel=1e-12)


@both
def test_samples_that_do_not_fit_are_refused(package):
    net = a_net(package, SIZES)
    for call in (net.predict_proba, net.classify, lambda x: net.score(x, [0])):
        with pytest.raises(ValueError, match="no samples"):
            call(np.ones((0, 4)))
        with pytest.raises(ValueError, match=r"\(1, 5\)"):
            call(np.ones((1, 5)))
        with pytest.raises(TypeError, match="complex"):
            call(np.ones((1, 4), complex))


# --- repr ---

REPRS = [
    "MultiLayerNet(784, [100, 50], 10, activation='relu')",
    "MultiLayerNet(3, [], 2, activation='relu', loss='squared_error')",
    "MultiLayerNet(3, [4], 2, activation='sigmoid', weight_init_std='xavier', "
    "weight_decay_lambda=0.1, loss='huber', use_batchnorm=True, use_dropout=True, "
    "dropout_ratio=0.25, dtype='float64')",
    "MultiLayerNet(3, [4], 2, activation='gelu', use_dropout=True)",
    "MultiLayerNet(3, [4], 2, activation='silu', weight_init_std=0.5)",
    "TwoLayerNet(4, 8, 3, activation='relu')",
    "TwoLayerNet(4, 8, 3, activation='tanh', weight_init_std='relu', loss='poisson', "
    "dtype='float64')",
]


@both
@pytest.mark.parametrize("text", REPRS)
def test_repr_makes_a_net_like_it(package, text):
    net = eval(f"package.{text}", {"package": package})
    assert repr(net) == text
    net.params.clear()
    assert repr(net) == text


@both
def test_repr_of_other_spellings(package):
    net = package.MultiLayerNet(
        np.int64(3), (4, 5), 2, np.str_("logistic"), "He", np.float32(0), loss=np.str_("huber")
    )
    want = "MultiLayerNet(3, [4, 5], 2, activation='sigmoid', weight_init_std='he', loss='huber')"
    assert repr(net) == want
    net.weight_decay_lambda = 0.5
    assert "weight_decay_lambda=0.5" in repr(net)


@both
def test_repr_of_a_subclass_has_its_name(package):
    class Classifier(package.MultiLayerNet):
        def __init__(self):
            super().__init__(4, [3], 2)

    assert repr(Classifier()) == "Classifier(4, [3], 2, activation='relu')"


@every_dtype
def test_of_equal_scores_the_first_is_the_largest(dtype):
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 3, (500, 4)).astype(dtype)
    scores[rng.random((500, 4)) < 0.1] = np.nan
    scores[rng.random((500, 4)) < 0.1] = -np.inf
    t = rng.integers(0, 4, 500)
    want = np.sum(scores.argmax(axis=1) == t)
    assert _scores.right_rows("softmax", scores, t) == want
    assert _scores.right_rows("softmax", scores[:, ::-1], 3 - t) == np.sum(
        scores[:, ::-1].argmax(axis=1) == 3 - t
    )
