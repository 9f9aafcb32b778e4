"""`fastopt.sklearn` where people use it, and what it has beyond scikit-learn's classes.

Skipped without scikit-learn. That its numbers are scikit-learn's is tested in
test_sklearn_equality.py; speed belongs to bench.
"""

import copy
import inspect
import pickle
import re
import threading
import warnings

import numpy as np
import pytest
import scipy.sparse
import scipy.special
from helpers.processes import run
from numpy.testing import assert_allclose, assert_array_equal

import fastopt
from fastopt import reference, schedules

sklearn = pytest.importorskip("sklearn", minversion="1.6")

from sklearn import config_context, neural_network  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.datasets import load_iris, make_multilabel_classification  # noqa: E402
from sklearn.exceptions import ConvergenceWarning, NotFittedError  # noqa: E402
from sklearn.metrics import accuracy_score, r2_score  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator  # noqa: E402

from fastopt.sklearn import MLPClassifier, MLPRegressor  # noqa: E402

VERSION = tuple(map(int, sklearn.__version__.split(".")[:2]))

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",
    "ignore:.*`iprint` options:DeprecationWarning",  # of scikit-learn 1.6 with a newer SciPy
)
each = pytest.mark.parametrize("cls", [MLPClassifier, MLPRegressor])

X, y = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)
ODD, EVEN = slice(1, None, 2), slice(0, None, 2)
LABELS = make_multilabel_classification(80, 5, n_classes=3, random_state=0)


def quick(cls, **settings):
    """Return an estimator of a small net that trains for a short while."""
    return cls(**{"hidden_layer_sizes": (6, 5), "max_iter": 8, "random_state": 0, **settings})


def arrays(estimator):
    """Return all arrays that predictions are made with."""
    names = (
        "coefs_", "intercepts_", "gammas_", "betas_", "running_means_", "running_variances_",
    )  # fmt: skip
    return [a for name in names for a in getattr(estimator, name, [])]


def assert_same_net(a, b):
    assert len(arrays(a)) == len(arrays(b))
    assert all(map(np.array_equal, arrays(a), arrays(b)))


def by_hand(estimator, samples, layers):
    """Return what comes out of so many layers, in NumPy; of the last one without activation."""
    h = samples
    for i, (W, b) in enumerate(zip(estimator.coefs_, estimator.intercepts_, strict=True)):
        if i == layers:
            break
        h = h @ W + b
        if i == len(estimator.coefs_) - 1:
            break
        if hasattr(estimator, "gammas_"):
            std = np.sqrt(estimator.running_variances_[i] + 1e-7)
            h = (h - estimator.running_means_[i]) / std * estimator.gammas_[i] + estimator.betas_[i]
        h = np.maximum(h, 0)
    return h


# --- scikit-learn's checks of estimators ---

CHECKED = [
    MLPClassifier(max_iter=100),
    MLPClassifier(max_iter=100, solver="lbfgs"),
    MLPRegressor(max_iter=100),
    MLPRegressor("huber", max_iter=100, optimizer="adamw"),
]


@pytest.mark.parametrize("estimator", CHECKED, ids=repr)
def test_checks_of_estimators_pass(estimator):
    """None is expected to fail, as none of scikit-learn's own two classes'."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(estimator, on_skip=None, on_fail=None)
    assert len(results) > 50
    assert [each for each in results if each["status"] == "failed"] == []


def test_it_is_one_of_scikit_learns_classes():
    for cls, base in (
        (MLPClassifier, neural_network.MLPClassifier),
        (MLPRegressor, neural_network.MLPRegressor),
    ):
        assert isinstance(cls(), base)
        theirs, ours = base().get_params(), cls().get_params()
        assert theirs == {name: ours[name] for name in theirs}
        assert repr(cls(alpha=0.5)) == repr(base(alpha=0.5))
        assert f"<pre>{cls.__name__}()</pre>" in cls()._repr_html_()
        signature = [*inspect.signature(cls).parameters]
        expected = [*inspect.signature(base).parameters]
        assert [name for name in signature if name in theirs] == expected


@each
def test_documentation_names_every_parameter_and_attribute(cls):
    fitted = quick(cls, early_stopping=True, batch_normalization=True).fit(X, y)
    names = [*cls().get_params(), *(name for name in vars(fitted) if name[-1] == "_")]
    missing = [name for name in names if not re.search(rf"\b{name}\b", cls.__doc__)]
    assert missing == []
    assert "{" not in re.sub(r"\{[\w', ]+\}|``.*?``", "", cls.__doc__)


def test_parameters_out_of_range_are_refused_as_there():
    for settings in ({"alpha": -1}, {"solver": "adm"}, {"max_iter": 0}, {"momentum": 2}):
        messages = []
        for module in (neural_network, fastopt.sklearn):
            with pytest.raises(ValueError, match="parameter of MLPClassifier") as caught:
                module.MLPClassifier(**settings).fit(X, y)
            messages.append(str(caught.value))
        assert set_of(messages[0]) == set_of(messages[1])


def set_of(message):
    """Return a message's words: it lists choices in the order of a set."""
    return sorted(re.split(r"[{},]? ", message))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"activation": "sigmoid"}, ValueError, "'activation' parameter"),
        ({"optimizer": "adm"}, ValueError, "'optimizer' parameter"),
        ({"optimizer": fastopt.Adam}, TypeError, r"is the class Adam: give it Adam\(\)"),
        ({"dropout": 1.0}, ValueError, "'dropout' parameter"),
        ({"batch_normalization": 3}, ValueError, "'batch_normalization' parameter"),
        ({"verbose": "baz"}, ValueError, "'verbose' parameter"),
        ({"hidden_layer_sizes": (3, 0)}, ValueError, r"must be > 0, got \[3, 0\]"),
        ({"solver": "lbfgs", "dropout": 0.1}, ValueError, "dropout is for training in batches"),
        ({"solver": "lbfgs", "optimizer": "adam"}, ValueError, "optimizer is for training in"),
        ({"solver": "lbfgs", "batch_normalization": True}, ValueError, "batch_normalization is"),
        (
            {"optimizer": fastopt.Adam(schedules.cosine(1.0, 9)), "learning_rate": "adaptive"},
            ValueError,
            "learning_rate='adaptive' wants an optimizer whose lr is a number",
        ),
        ({"optimizer": fastopt.Adam(groups={"c": {"lr": 1}})}, ValueError, "'c' matches no"),
    ],
    ids=str,
)
@each
def test_what_is_beyond_is_checked_too(cls, settings, error, message):
    with pytest.raises(error, match=message):
        cls(**settings).fit(X, y)


# --- where people use it ---


@each
def test_a_copy_predicts_and_goes_on_as_the_original_would(cls):
    for settings in (
        {},
        {"solver": "sgd", "learning_rate": "invscaling"},
        {"dropout": 0.3, "batch_normalization": True},
        {"optimizer": fastopt.Adam(0.01, ema=0.9)},
    ):
        original = quick(cls, **settings).fit(X, y)
        expected = original.predict(X)
        for make in (lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy):
            copied = make(original)
            assert_array_equal(copied.predict(X), expected)
            goes_on = copy.deepcopy(original)
            for _ in range(2):
                copied = make(copied).partial_fit(X, y)
                goes_on.partial_fit(X, y)
            assert_same_net(copied, goes_on)
        assert_array_equal(original.predict(X), expected)


def test_a_pickle_is_smaller_than_scikit_learns():
    for solver in ("adam", "sgd", "lbfgs"):
        sizes = []
        for module in (neural_network, fastopt.sklearn):
            model = quick(module.MLPClassifier, hidden_layer_sizes=(200,), solver=solver)
            model.fit(X, y).predict(X)
            sizes.append(len(pickle.dumps(model)))
        assert sizes[1] < sizes[0]


def test_grid_search_takes_optimizers_and_their_names():
    grid = {
        "mlp__optimizer": ["lion", fastopt.AdamW(0.02, weight_decay=0.1), fastopt.SGD(0.5)],
        "mlp__activation": ["tanh", "gelu"],
    }
    pipeline = make_pipeline(StandardScaler(), quick(MLPClassifier, max_iter=30))
    pipeline.steps[1] = ("mlp", pipeline.steps[1][1])
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    assert search.best_score_ > 0.9
    assert grid["mlp__optimizer"][1].iter == 0  # each fit has had a copy
    tried = {*map(str, search.cv_results_["param_mlp__optimizer"])}
    assert tried == {"lion", "AdamW(lr=0.02, weight_decay=0.1)", "SGD(lr=0.5)"}


def test_workers_of_joblib_don_t_use_more_threads_than_there_are_cores(monkeypatch):
    joblib = pytest.importorskip("joblib")
    for variable in ("OMP_NUM_THREADS", "FASTOPT_NUM_THREADS"):
        monkeypatch.delenv(variable, raising=False)
    tasks = [joblib.delayed(threads_of_a_fit)() for _ in range(2)]
    counts = joblib.Parallel(n_jobs=2)(tasks)
    assert all(count <= max(1, joblib.cpu_count() // 2) for count in counts)


def threads_of_a_fit():
    quick(MLPClassifier, max_iter=2).fit(X, y)
    return fastopt.get_num_threads()


def test_threads_may_fit_and_predict_at_once():
    expected = quick(MLPClassifier).fit(X, y).predict_proba(X)
    shared, found = quick(MLPClassifier).fit(X, y), []

    def work():
        found.append(quick(MLPClassifier).fit(X, y).predict_proba(X))
        found.extend(shared.predict_proba(X) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 84
    assert all(np.array_equal(each, expected) for each in found)


def test_frames_have_names_of_features():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c", "d"])
    model = quick(MLPClassifier).fit(frame, y)
    assert [*model.feature_names_in_] == ["a", "b", "c", "d"]
    assert_array_equal(model.predict(frame), quick(MLPClassifier).fit(X, y).predict(X))
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        model.predict(X)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[["b", "a", "c", "d"]])
    hidden = model.set_output(transform="pandas").transform(frame)
    assert [*hidden.columns] == [f"mlpclassifier{i}" for i in range(5)]


@each
def test_metadata_are_routed(cls):
    with config_context(enable_metadata_routing=True):
        model = quick(cls).set_fit_request(sample_weight=True, X_val=True, y_val=True)
        weights = np.linspace(0, 1, len(X))
        pipeline = make_pipeline(model)
        pipeline.fit(X, y, sample_weight=weights, X_val=X[:9], y_val=y[:9])
    assert_same_net(model, quick(cls).fit(X, y, weights))
    assert len(model.validation_scores_) == model.n_iter_


@pytest.mark.skipif(VERSION < (1, 9), reason="scikit-learn has callbacks from 1.9 on")
@each
def test_callbacks_are_told_of_epochs(cls):
    told = []

    class Callback:
        def setup(self, estimator, context):
            told.append("setup")

        def teardown(self, estimator, context):
            told.append("teardown")

        def on_fit_task_begin(self, estimator, context):
            told.append(f"{context.task_name} begins")

        def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
            told.append(f"{context.task_name} ends")
            if fitted_estimator is None:
                return False
            nets.append(fitted_estimator)
            return context.task_id == 1

    nets = []
    model = quick(cls).set_callbacks(Callback()).fit(X, y)
    epoch = ["epoch begins", "epoch ends"]
    assert told == ["setup", "fit begins", *epoch, *epoch, "fit ends", "teardown"]
    assert model.n_iter_ == 2
    assert_same_net(nets[1], model)
    assert not np.array_equal(nets[0].coefs_[0], model.coefs_[0])
    assert_array_equal(nets[0].predict(X), quick(cls, max_iter=1).fit(X, y).predict(X))


# --- predictions ---


def test_predictions_are_by_what_the_attributes_hold():
    for settings in ({}, {"batch_normalization": True, "dropout": 0.2}):
        model = quick(MLPRegressor, **settings).fit(X, y)
        model.predict(X)
        model.coefs_[0] = 2 * model.coefs_[0]
        model.intercepts_[2] += 1
        if settings:
            model.running_means_[1] = model.running_means_[1] + 1
        expected = by_hand(model, X, 3)
        assert_allclose(model.predict(X), expected[:, 0], rtol=1e-12, atol=1e-12)
        for W in (np.asfortranarray(model.coefs_[0]), model.coefs_[0].tolist()):
            model.coefs_[0] = np.asarray(W) if isinstance(W, np.ndarray) else W
            assert_allclose(model.predict(X), expected[:, 0], rtol=1e-12, atol=1e-12)
    pruned = quick(MLPRegressor).fit(X, y)
    pruned.coefs_[1], pruned.coefs_[2] = pruned.coefs_[1][:, :3], pruned.coefs_[2][:3]
    pruned.intercepts_[1] = pruned.intercepts_[1][:3]
    assert_allclose(pruned.predict(X), by_hand(pruned, X, 3)[:, 0], rtol=1e-12, atol=1e-12)
    pruned.intercepts_[1] = pruned.intercepts_[1][:2]
    with pytest.raises(ValueError, match="shape"):
        pruned.predict(X)


def test_an_output_activation_that_is_set_is_used():
    model = quick(MLPRegressor).fit(X, y)
    scores = model.predict(X)
    for name, function in (("tanh", np.tanh), ("logistic", lambda h: 1 / (1 + np.exp(-h)))):
        model.out_activation_ = name
        assert_allclose(model.predict(X), function(scores), rtol=1e-12)


@each
def test_arrays_that_need_no_checks_are_checked_all_the_same(cls):
    model = quick(cls).fit(X, y)
    expected = model.predict(X)
    assert_array_equal(model.predict(X.tolist()), expected)
    assert_array_equal(model.predict(np.asfortranarray(X)), expected)
    huge = X.copy()
    huge[0] = 1e200  # finite, though its square is not
    assert_array_equal(model.predict(huge)[1:], expected[1:])
    for bad, message in (
        (np.where(X > 2, np.nan, X), "Input X contains NaN"),
        (np.where(X > 2, np.inf, X), "Input X contains infinity"),
        (np.repeat(np.where(X > 2, np.nan, X), 9, axis=0), "Input X contains NaN"),
        (X[:, :3], "expecting 4 features"),
        (X[:0], "0 sample"),
        (X[0], "Expected 2D array"),
    ):
        with pytest.raises(ValueError, match=message):
            model.predict(bad)
    for method in ("predict", "transform", *["predict_proba"] * hasattr(cls, "predict_proba")):
        with pytest.raises(NotFittedError):
            getattr(cls(), method)(X)


def test_classes_may_be_one_or_names_or_several_labels():
    one = quick(MLPClassifier).fit(X, ["all"] * len(X))
    assert {*one.predict(X)} == {"all"}
    names = np.array(["no", "yes"])[y // 2]
    model = quick(MLPClassifier, max_iter=50).fit(X, names)
    proba = model.predict_proba(X)
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-15)
    assert_array_equal(model.predict(X), model.classes_[proba.argmax(axis=1)])
    model = quick(MLPClassifier, max_iter=50).fit(*LABELS)
    assert_array_equal(model.predict(LABELS[0]), model.predict_proba(LABELS[0]) > 0.5)


@each
def test_transform_gives_the_last_hidden_layer(cls):
    for settings in ({}, {"batch_normalization": True}, {"hidden_layer_sizes": (4,)}):
        model = quick(cls, **settings).fit(X, y)
        n_hidden = len(model.coefs_) - 1
        assert_allclose(model.transform(X), by_hand(model, X, n_hidden), rtol=1e-12, atol=1e-12)
        sparse = scipy.sparse.csr_array(X)
        assert_allclose(model.transform(sparse), model.transform(X), rtol=1e-12, atol=1e-12)
        assert len(model.get_feature_names_out()) == model.transform(X).shape[1]
    model = quick(cls).fit(X.astype("float32"), y)
    assert model.transform(X.astype("float32")).dtype == np.float32
    with pytest.raises(ValueError, match="there is no hidden layer"):
        quick(cls, hidden_layer_sizes=()).fit(X, y).transform(X)


# --- optimizers ---


@pytest.mark.parametrize("name", sorted(fastopt.sklearn.named_optimizers()))
@each
def test_every_optimizer_trains(cls, name):
    model = quick(cls, optimizer=name, learning_rate_init=0.01, max_iter=30).fit(X, y)
    assert type(model._optimizer.optimizer).__name__.lower() == name
    assert model._optimizer.learning_rate == 0.01
    assert model.loss_curve_[-1] < model.loss_curve_[0]


@each
def test_an_optimizer_is_copied_and_equals_its_twin(cls):
    given = fastopt.AdamW(schedules.cosine(0.05, 8), weight_decay=0.1, clip_global_norm=1.0)
    given.update({"p": np.ones(2)}, {"p": np.ones(2)})
    twin = reference.AdamW(schedules.cosine(0.05, 8), weight_decay=0.1, clip_global_norm=1.0)
    model = quick(cls, optimizer=given, shuffle=False).fit(X, y)
    assert (given.iter, model._optimizer.optimizer.iter) == (1, 8)
    assert_same_net(model, quick(cls, optimizer=twin, shuffle=False).fit(X, y))


def test_anything_that_updates_is_an_optimizer():
    class Signs:
        def update(self, params, grads):
            for key in params:
                params[key] -= 0.01 * np.sign(grads[key])

    model = quick(MLPClassifier, optimizer=Signs(), batch_size=10, max_iter=30).fit(X, y)
    assert model.score(X, y) > 0.9
    with pytest.raises(ValueError, match="whose lr is a number"):
        quick(MLPClassifier, optimizer=Signs(), learning_rate="adaptive").fit(X, y)


def test_averages_are_what_the_estimator_shows():
    rule = {"optimizer": fastopt.Adam(0.05), "early_stopping": False}
    plain = quick(MLPClassifier, **rule)
    averaged = quick(MLPClassifier, **rule | {"optimizer": fastopt.Adam(0.05, ema=0.9)})
    for _ in range(3):
        plain.partial_fit(X, y, classes=[0, 1, 2])
        averaged.partial_fit(X, y, classes=[0, 1, 2])
        average = averaged._optimizer.optimizer.average
        assert_array_equal(averaged.coefs_[0], average["W1"])
        assert_array_equal(averaged._optimizer._raw["W1"], plain.coefs_[0])
    averaged.coefs_ = [W.copy() for W in plain.coefs_]  # other ones: from these it goes on
    averaged.intercepts_ = [b.copy() for b in plain.intercepts_]
    plain.partial_fit(X, y)
    averaged.partial_fit(X, y)
    assert_array_equal(averaged._optimizer._raw["W1"], plain.coefs_[0])


def test_learning_rates_follow_epochs_and_metrics():
    model = quick(MLPClassifier, optimizer="adam", learning_rate="invscaling", power_t=0.25)
    model.fit(X, y)
    assert model._optimizer.learning_rate == 0.001 / (8 * len(X) + 1) ** 0.25
    adaptive = {"learning_rate": "adaptive", "tol": 10.0, "n_iter_no_change": 1, "max_iter": 99}
    model = quick(MLPClassifier, optimizer="lion", **adaptive).fit(X, y)
    assert model._optimizer.learning_rate < 1e-6
    plateau = schedules.ReduceOnPlateau(0.5, patience=1)
    model = quick(MLPClassifier, optimizer=fastopt.SGD(plateau), max_iter=60)
    model.fit(X, y, X_val=X, y_val=2 - y)  # whose loss grows
    assert model._optimizer.learning_rate < 0.5
    assert plateau(0) == 0.5


# --- losses, dropout, batch normalization, weights of classes ---


@pytest.mark.parametrize("loss", ["absolute_error", "huber", "poisson", "squared_error"])
def test_losses_of_regression(loss):
    targets = np.stack([y + 1.0, X[:, 0] ** 2], axis=1)
    model = quick(MLPRegressor, loss=loss, alpha=0, batch_size=len(X), max_iter=1).fit(X, targets)
    start = quick(MLPRegressor, loss=loss, optimizer=fastopt.SGD(0.0), max_iter=1).fit(X, targets)
    h = by_hand(start, X, 3)
    d = h - targets
    least = scipy.special.xlogy(targets, targets) - targets  # of the deviance
    expected = {
        "squared_error": (d**2 / 2).mean(),
        "absolute_error": np.abs(d).mean(),
        "huber": np.where(np.abs(d) < 1, d**2 / 2, np.abs(d) - 0.5).mean(),
        "poisson": 2 * (np.exp(h) - targets * h + least).mean(),
    }[loss]  # fmt: skip
    assert_allclose(model.loss_, expected, rtol=1e-12)
    trained = quick(MLPRegressor, loss=loss, hidden_layer_sizes=(20,), max_iter=200)
    trained.set_params(learning_rate_init=0.01, batch_size=30)
    assert trained.fit(X, targets).score(X, targets) > 0.8
    assert (trained.predict(X) > 0).all() or loss != "poisson"
    if loss == "poisson":
        with pytest.raises(ValueError, match="at least 0"):
            trained.fit(X, -targets)


def test_of_several_outputs_the_gradient_is_that_of_their_sum():
    targets = np.stack([y + 1.0, X[:, 0], X[:, 1]], axis=1)
    for loss in ("squared_error", "absolute_error", "huber"):
        settings = {"loss": loss, "hidden_layer_sizes": (), "shuffle": False, "alpha": 0.5}
        sgd = {"optimizer": fastopt.SGD(0.01), "max_iter": 1}
        several = quick(MLPRegressor, **settings, **sgd)
        several.coefs_, several.intercepts_ = [np.ones((4, 3))], [np.ones(3)]
        several.set_params(warm_start=True).n_layers_ = 2
        several.out_activation_ = "identity"
        several.fit(X, targets)
        for i in range(3):
            one = quick(MLPRegressor, **settings, **sgd, warm_start=True)
            one.coefs_, one.intercepts_ = [np.ones((4, 1))], [np.ones(1)]
            one.n_layers_, one.out_activation_ = 2, "identity"
            one.fit(X, targets[:, i])
            assert_allclose(several.coefs_[0][:, i], one.coefs_[0][:, 0], rtol=1e-12)


@each
def test_dropout_and_batch_normalization(cls):
    for settings in (
        {"dropout": 0.2},
        {"batch_normalization": True},
        {"dropout": 0.2, "batch_normalization": True},
        {"dropout": 0.2, "hidden_layer_sizes": ()},
        {"batch_normalization": True, "hidden_layer_sizes": ()},
    ):
        more = {"max_iter": 40, "learning_rate_init": 0.02, "batch_size": 30}
        model = quick(cls, **settings, **more).fit(X, y)
        assert_same_net(model, clone(model).fit(X, y))
        assert model.score(X, y) > 0.7
        assert_array_equal(model.predict(X), model.predict(X))
        assert hasattr(model, "gammas_") == ("batch_normalization" in settings)
        other = clone(model).set_params(random_state=1).fit(X, y)
        assert not np.array_equal(other.coefs_[-1], model.coefs_[-1])
        model.set_params(batch_normalization=False, dropout=0.0).fit(X, y)
        assert not hasattr(model, "gammas_")
        expected = quick(cls, **more)
        expected.set_params(hidden_layer_sizes=model.hidden_layer_sizes)
        assert_same_net(model, expected.fit(X, y))


def test_weights_of_classes_count_as_those_of_samples():
    by_class = {0: 1.0, 1: 5.0, 2: 0.5}
    weights = np.array([by_class[c] for c in y])
    own = np.linspace(0.1, 1, len(y))
    settings = {"early_stopping": True}
    model = quick(MLPClassifier, class_weight=by_class, **settings).fit(X, y, own)
    assert_same_net(model, quick(MLPClassifier, **settings).fit(X, y, own * weights))
    balanced = quick(MLPClassifier, class_weight="balanced")
    uneven = np.r_[0:20, 50:100, 100:150]
    share = np.bincount(y[uneven])
    weights = len(uneven) / (3 * share[y[uneven]])
    balanced.fit(X[uneven], y[uneven])
    assert_same_net(balanced, quick(MLPClassifier).fit(X[uneven], y[uneven], weights))
    labels = quick(MLPClassifier, class_weight=[{0: 1, 1: 2}] * 3).fit(*LABELS)
    weights = np.prod(1 + LABELS[1], axis=1, dtype=float)
    assert_same_net(labels, quick(MLPClassifier).fit(*LABELS, weights))
    with pytest.raises(ValueError, match="give it a dict"):
        balanced.partial_fit(X, y)


def test_samples_that_count_for_nothing_change_nothing():
    weights = np.r_[np.zeros(40), np.ones(len(X) - 40)]
    settings = {"batch_size": 20, "shuffle": False}
    model = quick(MLPRegressor, **settings).fit(X, y, weights)
    assert_same_net(model, quick(MLPRegressor, **settings).fit(X[40:], y[40:]))
    with pytest.raises(ValueError, match="at least 0"):
        quick(MLPRegressor).fit(X, y, -1.0 - weights)


# --- validation, progress, Ctrl-C ---


@each
def test_validation_with_samples_of_ones_own(cls):
    measure = accuracy_score if cls is MLPClassifier else r2_score
    weights = np.linspace(0.1, 1, len(X[ODD]))
    for settings in ({}, {"early_stopping": True, "max_iter": 60, "learning_rate_init": 0.05}):
        model = quick(cls, **settings)
        model.fit(X[EVEN], y[EVEN], X_val=X[ODD], y_val=y[ODD], sample_weight_val=weights)
        assert len(model.validation_scores_) == len(model.validation_loss_curve_) == model.n_iter_
        assert max(model.validation_scores_) == model.best_validation_score_
        score = measure(y[ODD], model.predict(X[ODD]), sample_weight=weights)
        kept = max if settings else (lambda scores: scores[-1])
        assert_allclose(score, kept(model.validation_scores_), rtol=1e-12)
        assert (model.best_loss_ is None) == bool(settings)
        column = quick(cls).fit(X[EVEN], y[EVEN], X_val=X[ODD], y_val=y[ODD, np.newaxis])
        assert len(column.validation_scores_) == 8
        if not settings:
            assert_same_net(model, quick(cls).fit(X[EVEN], y[EVEN]))


def test_validation_loss_is_the_loss_without_penalty():
    for model, target in (
        (quick(MLPClassifier, alpha=50.0), y),
        (quick(MLPClassifier, alpha=50.0), y % 2),
    ):
        model.fit(X, target, X_val=X, y_val=target)
        proba = model.predict_proba(X)[np.arange(len(X)), target]
        assert_allclose(model.validation_loss_curve_[-1], -np.log(proba).mean(), rtol=1e-12)
    X_sparse = scipy.sparse.csr_array(X)
    model = quick(MLPRegressor).fit(X_sparse, y, X_val=X_sparse, y_val=y)
    expected = ((model.predict(X) - y) ** 2).mean() / 2
    assert_allclose(model.validation_loss_curve_[-1], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"X_val": X}, "y_val was not provided"),
        ({"y_val": y}, "X_val was not provided"),
        ({"sample_weight_val": y}, "X_val was not provided"),
        ({"X_val": X, "y_val": y + 1}, r"classes that y has not: \[3\]"),
        ({"X_val": X[:, :2], "y_val": y}, "expecting 4 features"),
        ({"X_val": X, "y_val": y[:5]}, "inconsistent numbers of samples"),
    ],
    ids=str,
)
def test_validation_is_checked(given, message):
    with pytest.raises(ValueError, match=message):
        quick(MLPClassifier).fit(X, y, **given)
    with pytest.raises(ValueError, match="not for solver='lbfgs'"):
        quick(MLPClassifier, solver="lbfgs").fit(X, y, X_val=X, y_val=y)


def test_warm_starts_may_change_how_they_go_on():
    model = quick(MLPClassifier, warm_start=True, solver="lbfgs").fit(X, y)
    model.set_params(solver="adam").fit(X, y)
    assert len(model.loss_curve_) == 8
    model.set_params(early_stopping=True).fit(X, y)
    assert len(model.validation_scores_) == 8
    model.set_params(early_stopping=False, optimizer="lion").fit(X, y)
    assert len(model.loss_curve_) == 24
    assert model.best_loss_ is not None


def test_partial_fit_is_there_where_it_makes_sense():
    for cls in (MLPClassifier, MLPRegressor):
        assert hasattr(cls(), "partial_fit")
        assert not hasattr(cls(solver="lbfgs"), "partial_fit")
        with pytest.raises(ValueError, match="does not support early_stopping"):
            quick(cls, early_stopping=True).fit(X, y).partial_fit(X, y)


def test_a_bar_shows_progress_instead_of_lines(capsys):
    pytest.importorskip("tqdm")
    quick(MLPClassifier, verbose="bar").fit(X, y, X_val=X, y_val=y)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "loss" in captured.err
    assert "validation" in captured.err
    quick(MLPClassifier, verbose="bar", solver="lbfgs").fit(X, y)
    assert capsys.readouterr().out == ""


def test_ctrl_c_ends_training_and_leaves_it_fitted():
    class Interrupting:
        steps = 0

        def update(self, params, grads):
            self.steps += 1
            if self.steps == 5:
                raise KeyboardInterrupt
            for key in params:
                params[key] -= 0.1 * grads[key]

    model = quick(MLPClassifier, optimizer=Interrupting(), max_iter=50)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.fit(X, y)
    assert model.n_iter_ == 4
    model.predict(X)


def test_warnings_are_filtered_as_scikit_learns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=ConvergenceWarning, module="sklearn")
        warnings.filterwarnings("ignore", message="Got `batch_size`", module="sklearn")
        quick(MLPClassifier, batch_size=500).fit(X, y)
        quick(MLPRegressor, batch_size=500).fit(X, y)


def test_parameters_that_are_not_finite_are_an_error():
    model = quick(MLPRegressor, optimizer=fastopt.SGD(1e200))
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
        model.fit(X, y)
    careful = quick(MLPRegressor, optimizer=fastopt.SGD(1e200, nonfinite="raise"))
    with pytest.raises(FloatingPointError, match="holds NaN or infinity"):
        careful.fit(X, y)


def test_subnormal_numbers_are_flushed_in_training_alone():
    model = quick(MLPClassifier).fit(X, y)
    assert not fastopt.get_flush_subnormals()
    assert np.float64(1e-310) * 1.0 != 0
    assert model._optimizer.optimizer._stepper.flushes


# --- without scikit-learn ---


def test_fastopt_itself_never_imports_it():
    done = run("import fastopt, fastopt.nets, sys; assert 'sklearn' not in sys.modules")
    assert (done.returncode, done.stderr) == (0, "")


def test_without_scikit_learn_the_error_says_what_to_do():
    done = run("import sys; sys.modules['sklearn'] = None; import fastopt.sklearn")
    assert "fastopt.sklearn needs scikit-learn 1.6 or later: pip install" in done.stderr
