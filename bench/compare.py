"""One optimizer step in all libraries, side by side: a table of ratios, and a picture.

    python bench/compare.py                        # the table: Adam, all usable cores
    python bench/compare.py --optimizer SGD --threads 1
    python bench/compare.py --optimizer recipe     # with options: WITH_OPTIONS of libraries.py
    python bench/compare.py --picture step.png     # time against number of parameters

Each library is measured in a process of its own, one after the other, several rounds in turn; a
figure is the median over the rounds of the median of a round. On one thread the processes are bound
to one core. `memory` is a plain C loop with the reads and writes of the rule and little else: the
limit of the machine for what does not fit into its caches. With options there are two: `memory` of
the passes that fastopt makes (recipe: 40 bytes a parameter), `memory torch` of those that torch's
calls make one after the other (52).
"""

from __future__ import annotations

import argparse

from cases import CASES, NAMED, SIZES, arrays, parameters
from libraries import LIBRARIES, OPTIMIZERS
from rounds import child, compare, draw, measure, table

import fastopt


def main() -> None:
    """Parse the arguments; measure; print the table or draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="Adam")
    parser.add_argument("--threads", type=int, default=fastopt.get_num_threads())
    parser.add_argument("--cases", nargs="+", choices=CASES, default=NAMED)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--picture", metavar="FILE")
    parser.add_argument("--child", choices=LIBRARIES, help=argparse.SUPPRESS)
    args = parser.parse_args()

    def figure(case: str) -> float:
        step = LIBRARIES[args.child](args.optimizer, *arrays(case), args.threads)
        return measure(step)

    if args.child:
        child(args.child, figure, args.threads, args.cases)
        return
    cases = [f"{size:,}" for size in SIZES] if args.picture else args.cases
    options = ["--optimizer", args.optimizer]
    times = compare(list(LIBRARIES), options, args.threads, cases, args.rounds)
    print(table(times, cases))
    if args.picture:
        many = "s" * (args.threads > 1)
        texts = {
            "title": f"One {args.optimizer} step, float32, {args.threads} thread{many}",
            "xlabel": "parameters in one array",
            "limit": "limit: the same reads and writes in C",
        }
        draw(times, [parameters(case) for case in cases], texts, "memory", args.picture)


if __name__ == "__main__":
    main()
