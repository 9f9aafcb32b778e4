"""How much faster or slower than another build of fastopt this one is: ratios now / before.

    python bench/before.py ../before/.venv/bin/python
    python bench/before.py PYTHON --optimizers Adam SGD --cases "1 x 100" --rounds 9

PYTHON is an interpreter in whose environment the other build is installed; given this one's, the
table shows the noise. Both builds run this code, each in a process of its own that waits while the
other measures: they take turns every few hundredths of a second, and a ratio is the median over
such pairs. A round is two new processes, whose arrays lie elsewhere; a figure is the median over
the rounds. Below 1, this build is faster. The last column is of the smallest case, nanoseconds that
a step takes more, where they say more than a ratio.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys

from cases import CASES, NAMED, arrays
from libraries import LIBRARIES, N_STATES
from rounds import Step, alternate, markdown, serve, server

import fastopt

SMALLEST = NAMED[0]

Figures = dict[tuple[str, str], tuple[float, float]]  # optimizer, case → ratio, seconds more


def compare_builds(python: str, optimizers: list[str], cases: list[str], threads: int) -> Figures:
    """Return the figures of one round."""
    figures = {}
    with server(python, threads) as before, server(sys.executable, threads) as now:
        for what in itertools.product(optimizers, cases):
            numbers = before(what), now(what)
            if None not in numbers:
                figures[what] = alternate(before, now, min(numbers))
    return figures


def main() -> None:
    """Parse the arguments; measure; print a table for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", nargs="?", help="interpreter with the build before")
    parser.add_argument("--optimizers", nargs="+", choices=N_STATES, default=list(N_STATES))
    counts = sorted({1, fastopt.get_num_threads()})
    parser.add_argument("--threads", nargs="+", type=int, default=counts)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=NAMED)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()

    def make_step(optimizer: str, case: str) -> Step:
        return LIBRARIES["fastopt"](optimizer, *arrays(case), args.threads[0])

    if args.child:
        serve(make_step, args.threads[0])
        return
    for threads in args.threads:
        rounds = [
            compare_builds(args.python, args.optimizers, args.cases, threads)
            for _ in range(args.rounds)
        ]
        print(f"\nThreads: {threads}\n\n{table(rounds, args.optimizers, args.cases)}", flush=True)


def table(rounds: list[Figures], optimizers: list[str], cases: list[str]) -> str:
    """Return Markdown: a row for each optimizer that both builds have."""

    def median(optimizer: str, case: str, which: int) -> float:
        return statistics.median(figures[optimizer, case][which] for figures in rounds)

    head, rows = ["optimizer", *cases], []
    if SMALLEST in cases:
        head.append(f"{SMALLEST}, ns more")
    for optimizer in optimizers:
        if (optimizer, cases[0]) not in rounds[0]:
            continue
        rows.append([optimizer, *(f"{median(optimizer, case, 0):.3f}" for case in cases)])
        if SMALLEST in cases:
            rows[-1].append(f"{median(optimizer, SMALLEST, 1) * 1e9:+.0f}")
    return markdown(head, rows)


if __name__ == "__main__":
    main()
