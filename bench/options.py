"""What the options of an optimizer cost: how many times as long as without any a call takes.

    python bench/options.py                            # the table: Adam, all usable cores
    python bench/options.py --optimizer SGD --threads 1
    python bench/options.py --options ema clip_global_norm --cases "20 M" --rounds 7

Nearly equal times are compared, so both optimizers are in one process, each with arrays of its own,
and take turns every few hundredths of a second; a ratio is the median over such pairs. A round is
a new process for each option, whose arrays lie elsewhere; a figure is the median over the rounds.
What `noise` says, Adam over itself, is what other figures are good to. `accumulate=4` is a mean
over four calls, of which the last makes the step.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

from cases import CASES, NAMED, arrays
from libraries import CLIP, N_STATES
from rounds import (
    Step,
    UnavailableError,
    alternate,
    calibrate,
    child,
    compare,
    markdown,
    measure,
    microseconds,
    sample,
)

import fastopt

BARE = "bare"

# Of a decay through the gradient: with a larger one, parameters would come to rest within the
# measurement, and the moving averages of gradients that are zero there become subnormal numbers
SMALL = 1e-8

OPTIONS: dict[str, dict[str, Any]] = {
    BARE: {},
    "noise": {},
    "decay": {"weight_decay": SMALL},
    "decoupled": {"weight_decay": 0.01, "decoupled": True},
    "maximize, clip_value, decay": {"maximize": True, "clip_value": 0.001, "weight_decay": SMALL},
    "ema": {"ema": 0.999},
    "clip_global_norm": {"clip_global_norm": CLIP},
    "clip_global_norm, decoupled, ema": {
        "clip_global_norm": CLIP, "weight_decay": 0.01, "decoupled": True, "ema": 0.999,
    },
    "accumulate=4": {"accumulate": 4},
    "lr of a schedule": {"lr": lambda t: 0.001},
    "AdamW": {},
}  # fmt: skip


def make_step(optimizer: str, options: str, case: str) -> Step:
    """Return a call of `update`, with options or as AdamW, over arrays of its own."""
    if options == "AdamW" and optimizer != "Adam":
        raise UnavailableError("it is compared with Adam alone")
    cls = getattr(fastopt, "AdamW" if options == "AdamW" else optimizer)
    return functools.partial(cls(**OPTIONS[options]).update, *arrays(case))


def ratio(optimizer: str, options: str, case: str) -> float:
    """Return how many times as long as a bare step a call with options takes."""
    bare, other = (make_step(optimizer, which, case) for which in (BARE, options))
    number = min(calibrate(bare), calibrate(other))
    number += -number % OPTIONS[options].get("accumulate", 1)  # whole steps
    samplers = (functools.partial(sample, step) for step in (bare, other))
    return alternate(*samplers, number)[0]


def main() -> None:
    """Parse the arguments; measure; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--optimizer", choices=N_STATES, default="Adam")
    parser.add_argument("--threads", type=int, default=fastopt.get_num_threads())
    parser.add_argument("--cases", nargs="+", choices=CASES, default=NAMED)
    parser.add_argument("--options", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=OPTIONS, help=argparse.SUPPRESS)
    args = parser.parse_args()

    def figure(case: str) -> float:
        if args.child == BARE:
            return measure(make_step(args.optimizer, BARE, case))
        return ratio(args.optimizer, args.child, case)

    if args.child:
        fastopt.set_num_threads(args.threads)
        child(args.child, figure, args.threads, args.cases)
        return
    names = [BARE, *(name for name in args.options if name != BARE)]
    figures = compare(names, ["--optimizer", args.optimizer], args.threads, args.cases, args.rounds)
    others = [name for name in figures if name != BARE]
    rows = [
        [case, microseconds(figures[BARE][case]), *(f"{figures[n][case]:.2f}" for n in others)]
        for case in args.cases
    ]
    print(markdown(["case", f"{args.optimizer}, bare", *others], rows))


if __name__ == "__main__":
    main()
