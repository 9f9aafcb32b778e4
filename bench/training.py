"""One training step in all libraries, side by side: a table of ratios, and a picture.

    python bench/training.py                          # the table, all usable cores
    python bench/training.py --threads 1
    python bench/training.py --layers                 # other activations, batch norm, dropout
    python bench/training.py --picture training.png   # time against batch size

A step takes a batch from the samples, computes the gradients and makes an Adam step, in float32
unless a library's name says otherwise. Measured like the optimizer step of compare.py. `products`
are the step's bare matrix products in NumPy.
"""

from __future__ import annotations

import argparse

from rounds import child, compare, draw, measure, table
from training_libraries import BATCH_SIZES, JOBS, LAYERS, LIBRARIES, NAMED

import fastopt


def main() -> None:
    """Parse the arguments; measure; print the table or draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=fastopt.get_num_threads())
    parser.add_argument("--cases", nargs="+", choices=JOBS, default=NAMED)
    parser.add_argument(
        "--layers", dest="cases", action="store_const", const=[*LAYERS],
        help="in place of cases: the first of them with other hidden layers",
    )  # fmt: skip
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--picture", metavar="FILE")
    parser.add_argument("--child", choices=LIBRARIES, help=argparse.SUPPRESS)
    args = parser.parse_args()

    def figure(case: str) -> float:
        step = LIBRARIES[args.child](JOBS[case], args.threads)
        return measure(step)

    if args.child:
        child(args.child, figure, args.threads, args.cases)
        return
    cases = [str(n) for n in BATCH_SIZES] if args.picture else args.cases
    times = compare(args.libraries, [], args.threads, cases, args.rounds)
    print(table(times, cases))
    if args.picture:
        many = "s" * (args.threads > 1)
        texts = {
            "title": f"One training step of 784-100-100-100-100-10, {args.threads} thread{many}",
            "xlabel": "samples in a batch",
            "limit": "limit: the bare matrix products",
        }
        draw(times, BATCH_SIZES, texts, "products", args.picture)


if __name__ == "__main__":
    main()
