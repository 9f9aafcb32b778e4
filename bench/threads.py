"""What the worker pool gains, and what it costs others: two tables of medians.

    python bench/threads.py

The first tells from which size on two threads are faster than one, for a step that follows a step
and for one that follows a matrix product, whose library has threads of its own. The second tells
how long a matrix product takes right after a step on one thread and on two.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

import fastopt

SIZES = [20_000, 50_000, 100_000, 200_000, 300_000, 500_000, 1_000_000, 2_000_000, 5_000_000]
SAMPLES = 301


def timed(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def alternate(update, product, threads: int) -> tuple[float, float]:
    """Return the median time of an update and of a product, each following the other."""
    fastopt.set_num_threads(threads)
    pairs = [(timed(update), timed(product)) for _ in range(SAMPLES)]
    updates, products = zip(*pairs, strict=True)
    return statistics.median(updates), statistics.median(products)


def main() -> None:
    """Measure and print both tables."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((128, 784), np.float32)
    b = rng.standard_normal((784, 100), np.float32)
    out = np.empty((128, 100), np.float32)

    def product():
        np.matmul(a, b, out=out)

    def nothing():
        pass

    print("| step over | elements | 1 thread | 2 threads | 1 after a product | 2 after a product |")
    print("|---|---|---|---|---|---|")
    after = []
    for optimizer in (fastopt.SGD, fastopt.Adam):
        for size in SIZES:
            step = optimizer()
            params, grads = {"p": np.ones(size, "f4")}, {"p": np.full(size, 1e-3, "f4")}

            def update(step=step, params=params, grads=grads):
                step.update(params, grads)

            alone = [alternate(update, nothing, threads)[0] for threads in (1, 2)]
            mixed = [alternate(update, product, threads) for threads in (1, 2)]
            figures = [*alone, *(m[0] for m in mixed)]
            name = optimizer.__name__
            print(f"| {name} | {size:,} | " + " | ".join(f"{t * 1e6:,.1f}" for t in figures) + " |")
            after.append((name, size, *(m[1] for m in mixed)))
    print("\n| product after | elements | on 1 thread | on 2 threads | ratio |")
    print("|---|---|---|---|---|")
    for name, size, one, two in after:
        print(f"| {name} | {size:,} | {one * 1e6:.0f} | {two * 1e6:.0f} | {two / one:.2f} |")


if __name__ == "__main__":
    main()
