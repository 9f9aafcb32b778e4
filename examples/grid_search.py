"""Find the optimizer and the learning rate for a table of data, by scikit-learn's grid search.

    python examples/grid_search.py

The data are scikit-learn's: 569 tumours, 30 measurements of each, benign or malignant. A small net
on them is trained with each optimizer at seven learning rates, five-fold, which is 280 trainings.
The picture shows the mean log loss of each combination in the cross-validation, and how the best of
each optimizer did, epoch by epoch, on samples that the search has not seen: every optimizer has a
learning rate of its own, a hundred times as large for SGD as for Adam, and at that rate one is
nearly as good as another.
"""

import argparse
import time
import warnings

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.preprocessing import StandardScaler

from fastopt import plotting
from fastopt.sklearn import MLPClassifier

OPTIMIZERS = ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "lion"]
RATES = 10.0 ** np.arange(-4, -0.5, 0.5)


def data():
    """Return samples to search with, and others; scaled, as nets want them."""
    X, y = load_breast_cancer(return_X_y=True)
    X, X_other, y, y_other = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
    scaler = StandardScaler().fit(X)
    return scaler.transform(X), y, scaler.transform(X_other), y_other


def search(X, y, epochs):
    """Try all combinations; return the search."""
    net = MLPClassifier(
        (16,), activation="gelu", batch_size=32, max_iter=epochs, tol=0, random_state=0
    )
    grid = {"optimizer": OPTIMIZERS, "learning_rate_init": RATES}
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return GridSearchCV(net, grid, scoring="neg_log_loss", cv=folds).fit(X, y)


def losses(found):
    """Return the mean log loss by optimizer, an array over the learning rates."""
    results = found.cv_results_
    table = {
        (parameters["optimizer"], parameters["learning_rate_init"]): -score
        for parameters, score in zip(results["params"], results["mean_test_score"], strict=True)
    }
    return {name: np.array([table[name, rate] for rate in RATES]) for name in OPTIMIZERS}


def best_of_each(found, X, y, X_other, y_other):
    """Train each optimizer at its best rate on all of the data; return the estimators by name."""
    fitted = {}
    for name, of_rates in losses(found).items():
        net = found.best_estimator_
        settings = net.get_params() | {
            "optimizer": name,
            "learning_rate_init": RATES[of_rates.argmin()],
        }
        fitted[name] = MLPClassifier(**settings).fit(X, y, X_val=X_other, y_val=y_other)
    return fitted


def draw(found, fitted):
    """Draw the loss by learning rate, and that of the best of each by epoch."""
    figure = Figure((13, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, of_rates in losses(found).items():
        left.plot(RATES, of_rates, marker="o", label=name)
        rate = fitted[name].learning_rate_init
        right.plot(fitted[name].validation_loss_curve_, label=f"{name}, {rate:.2g}")
    left.set(
        title="Five-fold cross-validation", xlabel="learning rate", ylabel="log loss",
        xscale="log", yscale="log", ylim=(0.05, 5),
    )  # fmt: skip
    right.set(
        title="The best of each, on other samples", xlabel="epoch", ylabel="log loss",
        yscale="log",
    )  # fmt: skip
    left.legend(ncols=4, loc="upper center")
    right.legend()
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="grid_search.png", help="the picture")
    parser.add_argument("--epochs", type=int, default=60, help="of each training")
    args = parser.parse_args()
    # Each has the same epochs: that some had gone on to learn is not worth a line
    warnings.simplefilter("ignore", ConvergenceWarning)
    X, y, X_other, y_other = data()
    start = time.perf_counter()
    found = search(X, y, args.epochs)
    seconds = time.perf_counter() - start
    n_fits = len(found.cv_results_["params"]) * found.n_splits_
    print(f"{n_fits} trainings of {args.epochs} epochs in {seconds:.1f} s")
    fitted = best_of_each(found, X, y, X_other, y_other)
    print("optimizer  learning rate  log loss, cross-validated  on other samples  accuracy there")
    for name, of_rates in losses(found).items():
        net = fitted[name]
        print(
            f"{name:9}  {net.learning_rate_init:13.2g}  {of_rates.min():25.3f}  "
            f"{net.validation_loss_curve_[-1]:16.3f}  {net.validation_scores_[-1]:14.3f}"
        )
    plotting.save(draw(found, fitted), args.output)
    print(f"picture: {args.output}")


if __name__ == "__main__":
    main()
