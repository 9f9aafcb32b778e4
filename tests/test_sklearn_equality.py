"""`fastopt.sklearn` beside scikit-learn: the same numbers from the same `random_state`.

Skipped without scikit-learn. What there is beyond is tested in test_sklearn.py.
"""

import numpy as np
import pytest
import scipy.sparse

sklearn = pytest.importorskip("sklearn", minversion="1.6")

from sklearn import datasets, neural_network  # noqa: E402

import fastopt.sklearn  # noqa: E402

VERSION = tuple(map(int, sklearn.__version__.split(".")[:2]))
HAS_WEIGHTS = VERSION >= (1, 7)  # and Poisson's loss

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",
    "ignore:.*`iprint` options:DeprecationWarning",  # of scikit-learn 1.6 with a newer SciPy
)


def bunch(load, n=130, target=lambda y: y, scale=False):
    """Return the first samples of a data set in random order, scaled or as they come."""
    X, y = load(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(X))[:n]
    X, y = X[rows], target(y[rows])
    return (X - X.mean(axis=0)) / X.std(axis=0) if scale else X, y


# Two classes and more, names of classes, several labels; one number and several, and counts
CLASSES = {
    "iris": bunch(datasets.load_iris),
    "wine": bunch(datasets.load_wine),
    "cancer": bunch(datasets.load_breast_cancer, scale=True),
    "digits": bunch(datasets.load_digits),
    "moons": datasets.make_moons(130, noise=0.2, random_state=0),
    "names": bunch(datasets.load_iris, target=lambda y: np.array(["c", "a", "b"])[y]),
    "labels": datasets.make_multilabel_classification(130, 8, n_classes=4, random_state=0),
}
NUMBERS = {
    "diabetes": bunch(datasets.load_diabetes, target=lambda y: y / 100),
    "linnerud": bunch(datasets.load_linnerud, 20, target=lambda y: y / 100, scale=True),
    "friedman": datasets.make_friedman1(130, random_state=0),
    "several": bunch(datasets.load_iris, target=lambda y: np.eye(3)[y]),
}
COUNTS = {
    "one": bunch(datasets.load_diabetes, target=lambda y: y // 20),
    "several": bunch(datasets.load_linnerud, 20, target=lambda y: y // 10, scale=True),
}
ACTIVATIONS = ["identity", "logistic", "tanh", "relu"]
SOLVERS = {
    "adam": {},
    "lbfgs": {"solver": "lbfgs"},
    "sgd": {"solver": "sgd", "learning_rate_init": 1e-4},
    "momentum": {"solver": "sgd", "learning_rate_init": 1e-4, "nesterovs_momentum": False},
    "plain": {"solver": "sgd", "learning_rate_init": 1e-4, "momentum": 0},
    "undamped": {"solver": "sgd", "learning_rate_init": 1e-5, "momentum": 1},
    "invscaling": {"solver": "sgd", "learning_rate_init": 1e-3, "learning_rate": "invscaling"},
    "adaptive": {
        "solver": "sgd", "learning_rate_init": 1e-4, "learning_rate": "adaptive",
        "tol": 0.5, "n_iter_no_change": 1,
    },
}  # fmt: skip


def pair(name, **settings):
    """Return scikit-learn's estimator and fastopt's."""
    settings = {"hidden_layer_sizes": (7, 5), "max_iter": 5, "random_state": 1, **settings}
    return [getattr(module, name)(**settings) for module in (neural_network, fastopt.sklearn)]


def assert_same(theirs, ours, X, tolerance=1e-9):
    """Check that all public numbers, and predictions, are the same to rounding."""
    public = [name for name in vars(theirs) if name.endswith("_") and not name.startswith("_")]
    for name in public:
        expected, got = getattr(theirs, name), getattr(ours, name)
        if name in ("coefs_", "intercepts_"):
            assert [p.dtype for p in got] == [p.dtype for p in expected]
            for a, b in zip(expected, got, strict=True):
                assert_near(a, b, tolerance)
        elif name in ("loss_", "loss_curve_", "best_loss_", "validation_scores_") and expected:
            assert_near(np.array(expected), np.array(got), tolerance)
        elif name == "best_validation_score_" and expected is not None:
            assert_near(expected, got, tolerance)
        else:
            assert np.array_equal(expected, got), name
    has_classes = hasattr(theirs, "predict_proba")
    method = "predict_proba" if has_classes else "predict"
    expected, got = getattr(theirs, method)(X), getattr(ours, method)(X)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    assert_near(expected, got, tolerance)
    if has_classes:
        assert np.array_equal(theirs.predict(X), ours.predict(X))
        assert theirs.predict(X).dtype == ours.predict(X).dtype


def assert_near(expected, got, tolerance):
    expected = np.asarray(expected)
    scale = max(1.0, np.abs(expected[np.isfinite(expected)]).max(initial=0))
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * scale)


def fit_both(name, X, y, weights=None, **settings):
    theirs, ours = pair(name, **settings)
    arguments = () if weights is None else (weights,)
    return theirs.fit(X, y, *arguments), ours.fit(X, y, *arguments)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_results_are_scikit_learns(activation, solver):
    for name, data in (("MLPClassifier", CLASSES), ("MLPRegressor", NUMBERS)):
        for X, y in data.values():
            settings = {"activation": activation, **SOLVERS[solver]}
            assert_same(*fit_both(name, X, y, **settings), X)


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 32},
        {"batch_size": 1, "max_iter": 2},
        {"batch_size": 7, "shuffle": False},
        {"alpha": 0},
        {"alpha": 10.0},
        {"hidden_layer_sizes": ()},
        {"hidden_layer_sizes": 4},
        {"early_stopping": True, "validation_fraction": 0.2, "max_iter": 20},
        {"early_stopping": True, "n_iter_no_change": 1, "max_iter": 40, "tol": 1e-2},
        {"n_iter_no_change": 1, "max_iter": 40, "tol": 0.5},
        {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3},
        {"learning_rate": "adaptive", "n_iter_no_change": 1, "tol": 1.0},  # adam's stays
    ],
    ids=str,
)
def test_each_setting_means_what_it_means_there(settings):
    for name, (X, y) in (
        ("MLPClassifier", CLASSES["digits"]),
        ("MLPClassifier", CLASSES["moons"]),
        ("MLPRegressor", NUMBERS["several"]),
    ):
        assert_same(*fit_both(name, X, y, **settings), X)


@pytest.mark.skipif(not HAS_WEIGHTS, reason="scikit-learn has weights from 1.7 on")
@pytest.mark.parametrize("settings", [{}, {"solver": "lbfgs"}, {"early_stopping": True}], ids=str)
def test_sample_weights_are_scikit_learns(settings):
    for name, (X, y) in (
        *(("MLPClassifier", data) for data in CLASSES.values()),
        *(("MLPRegressor", data) for data in NUMBERS.values()),
    ):
        weights = np.random.default_rng(0).random(len(X))
        weights[::5] = 0
        assert_same(*fit_both(name, X, y, weights, **settings), X)


@pytest.mark.skipif(not HAS_WEIGHTS, reason="scikit-learn has Poisson's loss from 1.7 on")
@pytest.mark.parametrize("settings", [{}, {"solver": "lbfgs"}, {"early_stopping": True}], ids=str)
def test_poissons_loss_is_scikit_learns(settings):
    for X, y in COUNTS.values():
        for weights in (None, np.random.default_rng(0).random(len(X))):
            assert_same(*fit_both("MLPRegressor", X, y, weights, loss="poisson", **settings), X)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("container", ["csr_matrix", "csc_matrix", "csr_array"])
@pytest.mark.parametrize("settings", [{}, {"solver": "lbfgs"}, {"batch_size": 9}], ids=str)
def test_sparse_matrices_are_samples_too(container, dtype, settings, monkeypatch):
    monkeypatch.setattr("fastopt.sklearn._samples._CHUNK", 64 * 30)  # in several stretches
    X, y = CLASSES["digits"]
    sparse = getattr(scipy.sparse, container)(X.astype(dtype))
    theirs, ours = fit_both("MLPClassifier", sparse, y, **settings)
    assert_same(theirs, ours, sparse, 1e-9 if dtype == "float64" else 1e-4)
    assert np.array_equal(ours.predict(sparse), ours.predict(sparse.toarray()))


def test_float32_is_kept():
    for name, (X, y) in (
        ("MLPClassifier", CLASSES["iris"]),
        ("MLPRegressor", NUMBERS["diabetes"]),
    ):
        for settings in ({}, {"solver": "sgd"}, {"solver": "lbfgs"}):
            theirs, ours = fit_both(name, X.astype("float32"), y, **settings)
            assert_same(theirs, ours, X.astype("float32"), 1e-4)
            assert theirs.predict(X).dtype == ours.predict(X).dtype


def test_layouts_and_types_of_samples_don_t_matter():
    X, y = CLASSES["digits"]
    expected = fit_both("MLPClassifier", X, y)[1]
    for same in (np.asfortranarray(X), X.astype(int), X.tolist(), X[::-1][::-1]):
        got = pair("MLPClassifier")[1].fit(same, y)
        assert np.array_equal(got.coefs_[0], expected.coefs_[0])
        assert np.array_equal(got.predict_proba(same), expected.predict_proba(X))


def test_targets_in_a_column_warn_and_count_as_a_row():
    for name, (X, y) in (
        ("MLPClassifier", CLASSES["iris"]),
        ("MLPRegressor", NUMBERS["diabetes"]),
    ):
        estimators = pair(name)
        for estimator in estimators:
            with pytest.warns(sklearn.exceptions.DataConversionWarning):
                estimator.fit(X, y[:, np.newaxis])
        assert_same(*estimators, X)


def test_partial_fit_goes_on_as_there():
    for name, (X, y), settings in (
        ("MLPClassifier", CLASSES["digits"], {"classes": np.arange(10)}),
        ("MLPClassifier", CLASSES["labels"], {"classes": np.arange(4)}),
        ("MLPRegressor", NUMBERS["several"], {}),
    ):
        for solver in ("adam", "sgd"):
            estimators = pair(name, solver=solver, learning_rate="invscaling")
            for first in (0, 10, 30):
                for estimator in estimators:
                    rows = slice(first, first + 40)
                    estimator.partial_fit(X[rows], y[rows], **settings)
            assert_same(*estimators, X)


def test_warm_start_goes_on_as_there():
    X, y = CLASSES["wine"]
    for settings in ({}, {"solver": "sgd"}, {"solver": "lbfgs"}, {"early_stopping": True}):
        estimators = pair("MLPClassifier", warm_start=True, **settings)
        for _ in range(3):
            for estimator in estimators:
                estimator.fit(X, y)
        assert_same(*estimators, X)


def test_log_loss_is_of_clipped_probabilities():
    """A sample that is wholly wrong costs 36 in float64, however wrong it is."""
    X, y = bunch(datasets.load_breast_cancer)
    for target in (y, y + (X[:, 0] > 15), np.stack([y, 1 - y, y], axis=1)):
        for dtype in ("float32", "float64"):
            theirs, ours = fit_both("MLPClassifier", X.astype(dtype) * 50, target, max_iter=1)
            np.testing.assert_allclose(ours.loss_, theirs.loss_, rtol=1e-5)
            assert ours.loss_ > 2


def test_what_is_printed_is_what_is_printed_there(capsys):
    X, y = CLASSES["iris"]
    for settings in (
        {"early_stopping": True},
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 10.0},
        {"tol": 10.0},
    ):
        printed = []
        for estimator in pair("MLPClassifier", verbose=True, max_iter=60, **settings):
            estimator.set_params(n_iter_no_change=2).fit(X, y)
            printed.append(capsys.readouterr().out)
        assert printed[0] == printed[1]
        assert "Iteration 1, loss = " in printed[0]
