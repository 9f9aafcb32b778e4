"""What stands around a step costs: a schedule beside a number, the Trainer beside a bare loop.

    python bench/surroundings.py
    python bench/surroundings.py --rounds 9

Differences of nearly equal times, so both are in one process and take turns every few hundredths of
a second; a difference is the median over such pairs, and a figure the median over the rounds.
Everything is small, on one thread: what is added to a step doesn't depend on how long it takes.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from rounds import Sampler, alternate, calibrate, markdown, prepare, sample

import fastopt
from fastopt import schedules

STEPS = 10**9  # of schedules: they don't come to their end
OPTIMIZERS = ("SGD", "Adam", "AdamW")
CALLABLES: dict[str, Callable[[int], float]] = {
    "lambda": lambda t: 1e-3,
    "constant": schedules.constant(1e-3),
    "linear": schedules.linear(1e-3, 0.0, STEPS),
    "cosine": schedules.cosine(1e-3, STEPS),
    "one_cycle": schedules.one_cycle(1e-3, STEPS),
    "piecewise": schedules.piecewise({0: 1e-3, STEPS: 1e-4}),
    "warmup, cosine": schedules.warmup(1, schedules.cosine(1e-3, STEPS)),
    "ReduceOnPlateau": schedules.ReduceOnPlateau(1e-3),
}


def scheduled(optimizer: str, schedule: str) -> float:
    """Return the seconds that a schedule adds to a step over 1×100 numbers in float32."""

    def step(lr: Any) -> Callable[[], None]:
        params = {"W": np.ones(100, np.float32)}
        grads = {"W": np.full(100, 1e-3, np.float32)}
        made = getattr(fastopt, optimizer)(lr=lr)
        return functools.partial(made.update, params, grads)

    steps = step(1e-3), step(CALLABLES[schedule])
    number = max(map(calibrate, steps))
    return alternate(*(functools.partial(sample, each) for each in steps), number)[1]


def trained(batch_size: int, settings: Mapping[str, Any]) -> float:
    """Return the seconds that the Trainer adds to a step of a bare loop over the same batches."""
    rng = np.random.default_rng(0)
    x, t = rng.random((4096, 4), np.float32), rng.integers(0, 10, 4096)

    def net() -> fastopt.MultiLayerNet:
        return fastopt.MultiLayerNet(4, [16, 16], 10, rng=0)

    def loop() -> Sampler:
        own, optimizer = net(), fastopt.Adam()

        def take(number: int) -> float:
            grads, losses, left = None, [], number
            start = time.perf_counter()
            while left > 0:
                order = rng.permutation(len(x))
                for first in range(0, len(x), batch_size):
                    batch = order[first : first + batch_size]
                    loss, grads = own.loss_and_gradient(x, t, grads, batch=batch)
                    optimizer.update(own.params, grads)
                    losses.append(loss)
                    left -= 1
                    if left == 0:
                        break
            return (time.perf_counter() - start) / number

        return take

    def trainer() -> Sampler:
        own = fastopt.Trainer(
            net(), fastopt.Adam(), batch_size=batch_size, rng=rng, progress=False, **settings
        )

        def take(number: int) -> float:
            start = time.perf_counter()
            own.fit(x, t, iterations=number)
            return (time.perf_counter() - start) / number

        return take

    samplers = loop(), trainer()
    for each in samplers:
        each(2000)
    return alternate(*samplers, 4000)[1]


def main() -> None:
    """Measure; print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    fastopt.set_num_threads(1)
    prepare(1)

    def figure(measure: Callable[..., float], *arguments: Any) -> str:
        seconds = statistics.median(measure(*arguments) for _ in range(args.rounds))
        return f"{seconds * 1e6:.2f} µs"

    rows = [
        [name, *(figure(scheduled, optimizer, name) for optimizer in OPTIMIZERS)]
        for name in CALLABLES
    ]
    print(markdown(["added by lr of", *OPTIMIZERS], rows), end="\n\n")
    hooked = {"callbacks": [lambda trainer: None]}
    rows = [
        [f"batches of {n}", figure(trained, n, {}), figure(trained, n, hooked)] for n in (1, 128)
    ]
    print(markdown(["added by the Trainer", "alone", "with a callback"], rows))


if __name__ == "__main__":
    main()
