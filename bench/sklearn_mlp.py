"""`fastopt.sklearn` beside scikit-learn's own MLPs: fit and predict, several rounds in turn.

    python bench/sklearn_mlp.py                    # all usable cores
    python bench/sklearn_mlp.py --threads 1

Each is measured in a process of its own, one after the other; a figure is the median over the
rounds. scikit-learn has the better of two numbers of threads for its BLAS, one and all. Both do the
same epochs: nothing ends early, and the random numbers are the same.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
from rounds import child, compare, measure, sample, table
from sklearn import datasets, neural_network
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

import fastopt.sklearn
from fastopt.datasets import load_mnist

MODULES = {"fastopt": fastopt.sklearn, "scikit-learn": neural_network}
FITS = 3  # in a round, of which the median counts

Data = tuple[np.ndarray, np.ndarray]


def small() -> Data:
    X = np.random.default_rng(0).standard_normal((2000, 30))
    return X, (X[:, 0] * X[:, 1] + X[:, 2] > 0).astype(int)


def digits() -> Data:
    return datasets.load_digits(return_X_y=True)


def mnist() -> Data:
    (x, t), _ = load_mnist(normalize=True)
    return x.astype(float), t


SETTINGS: dict[str, tuple[Callable[[], Data], dict[str, object]]] = {
    "2,000 x 30, (32,), batch 32": (
        small, {"hidden_layer_sizes": (32,), "batch_size": 32, "max_iter": 20},
    ),
    "digits, default": (digits, {"max_iter": 50}),
    "digits, lbfgs": (digits, {"max_iter": 20, "solver": "lbfgs"}),
    "MNIST, (100,), batch 200": (mnist, {"max_iter": 5}),
    "MNIST, (256, 128), batch 64": (
        mnist, {"hidden_layer_sizes": (256, 128), "batch_size": 64, "max_iter": 3},
    ),
    "MNIST float32, (100,), batch 200": (
        lambda: (mnist()[0].astype(np.float32), mnist()[1]), {"max_iter": 5},
    ),
}  # fmt: skip
PREDICTIONS = {
    f"{method}, {rows:,} row{'s' * (rows > 1)}": (method, rows)
    for method in ("predict", "predict_proba")
    for rows in (1, 100, 2000)
}
CASES = [*SETTINGS, *PREDICTIONS]


def model(name: str, settings: dict[str, object]) -> neural_network.MLPClassifier:
    return MODULES[name].MLPClassifier(random_state=0, tol=0, **settings)


def fit_time(name: str, case: str) -> float:
    load, settings = SETTINGS[case]
    X, y = load()
    model(name, settings).fit(X, y)
    return statistics.median(
        sample(lambda: model(name, settings).fit(X, y), 1) for _ in range(FITS)
    )


@cache
def fitted(name: str) -> neural_network.MLPClassifier:
    load, settings = SETTINGS[CASES[0]]
    return model(name, settings).fit(*load())


def predict_time(name: str, case: str) -> float:
    method, rows = PREDICTIONS[case]
    X = small()[0][:rows]
    predict = getattr(fitted(name), method)
    return measure(lambda: predict(X))


def figure(name: str, case: str, threads: int) -> float:
    time = fit_time if case in SETTINGS else predict_time
    if name == "fastopt":
        fastopt.set_num_threads(threads)
        return time(name, case)
    figures = []
    for number in {1, threads}:
        with threadpool_limits(number):
            figures.append(time(name, case))
    return min(figures)


def main() -> None:
    """Parse the arguments; measure; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=fastopt.get_num_threads())
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=MODULES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    if args.child:
        child(
            args.child, lambda case: figure(args.child, case, args.threads), args.threads,
            args.cases,
        )  # fmt: skip
        return
    times = compare([*MODULES], [], args.threads, args.cases, args.rounds)
    print(table(times, args.cases))


if __name__ == "__main__":
    main()
