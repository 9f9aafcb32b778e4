"""One optimizer step in all libraries, side by side: a table of ratios, and a picture.

    python bench/compare.py                        # the table: Adam, all usable cores
    python bench/compare.py --optimizer SGD --threads 1
    python bench/compare.py --picture step.png     # time against number of parameters

Each library is measured in a process of its own, one after the other, several rounds in turn; a
figure is the median over the rounds of the median of a round. On one thread the processes are bound
to one core. `memory` is a plain C loop with the reads and writes of the rule and little else: the
limit of the machine for what does not fit into its caches.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from cases import CASES, NAMED, SIZES, arrays, parameters
from libraries import LIBRARIES, N_STATES, UnavailableError

SAMPLES = 15
SAMPLE_SECONDS = 0.02

Times = dict[str, dict[str, float]]  # library → case → seconds


def measure(step) -> float:
    """Return the median time of a step, in seconds, over batches long enough to be timed."""
    for _ in range(3):
        step()
    start = time.perf_counter()
    step()
    number = max(1, int(SAMPLE_SECONDS / (time.perf_counter() - start)))
    samples = []
    for _ in range(SAMPLES):
        start = time.perf_counter()
        for _ in range(number):
            step()
        samples.append((time.perf_counter() - start) / number)
    return statistics.median(samples)


def child(library: str, optimizer: str, threads: int, cases: list[str]) -> None:
    """Measure one library in this process and print its times as JSON."""
    if threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    # glibc then takes arrays of up to 32 MB from its heap. With fresh pages for each temporary,
    # which is what a process may as well meet, NumPy would take up to five times as long.
    np.empty(31 << 20, "u1")
    times = {}
    for case in cases:
        params, grads = arrays(case)
        try:
            step = LIBRARIES[library](optimizer, params, grads, threads)
        except UnavailableError as reason:
            print(f"{library}: {reason}", file=sys.stderr)
            break
        times[case] = measure(step)
    print(json.dumps(times))


def run_round(names: list[str], optimizer: str, threads: int, cases: list[str]) -> Times:
    """Measure every library once, each in its own process."""
    times = {}
    for name in names:
        command = [sys.executable, __file__, "--child", name, "--optimizer", optimizer]
        command += ["--threads", str(threads), "--cases", *cases]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode == 0 and json.loads(done.stdout):
            times[name] = json.loads(done.stdout)
        time.sleep(0.5)
    return times


def compare(optimizer: str, threads: int, cases: list[str], rounds: int) -> Times:
    """Return the median over several rounds for every library that is there."""
    measured = [run_round(list(LIBRARIES), optimizer, threads, cases)]
    present = list(measured[0])
    measured += [run_round(present, optimizer, threads, cases) for _ in range(rounds - 1)]
    return {
        name: {case: statistics.median(r[name][case] for r in measured) for case in cases}
        for name in present
    }


def table(times: Times, cases: list[str]) -> str:
    """Return Markdown: fastopt's time, and how many times as long each library takes."""
    names = [name for name in times if name != "fastopt"]
    lines = ["| case | fastopt | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for case in cases:
        own = times["fastopt"][case]
        ratios = [f"{times[name][case] / own:.3g}x" for name in names]
        lines.append(f"| {case} | {own * 1e6:,.3g} µs | " + " | ".join(ratios) + " |")
    return "\n".join(lines)


def draw(times: Times, optimizer: str, threads: int, path: str) -> None:
    """Draw time per step against number of parameters, log-log."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    markers = dict(zip(times, "osDv^<>Ph", strict=False))
    for name, own in times.items():
        x, y = [parameters(case) for case in own], [t * 1e6 for t in own.values()]
        if name == "memory":
            axes.plot(x, y, "k:", label="limit: the same reads and writes in C")
        else:
            axes.plot(x, y, marker=markers[name], lw=3 if name == "fastopt" else 1.2, label=name)
    axes.set(xscale="log", yscale="log", xlabel="parameters in one array", ylabel="µs per step")
    axes.set_title(f"One {optimizer} step, float32, {threads} thread{'s' * (threads > 1)}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    for item in [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.get_legend().get_texts()]:
        item.set_fontsize(14)
    axes.tick_params(labelsize=13)
    figure.savefig(path)


def main() -> None:
    """Parse the arguments; measure; print the table or draw the picture."""
    import fastopt

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--optimizer", choices=N_STATES, default="Adam")
    parser.add_argument("--threads", type=int, default=fastopt.get_num_threads())
    parser.add_argument("--cases", nargs="+", choices=CASES, default=NAMED)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--picture", metavar="FILE")
    parser.add_argument("--child", choices=LIBRARIES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.optimizer, args.threads, args.cases)
    elif args.picture:
        sizes = [f"{size:,}" for size in SIZES]
        times = compare(args.optimizer, args.threads, sizes, args.rounds)
        draw(times, args.optimizer, args.threads, args.picture)
        print(table(times, sizes))
    else:
        times = compare(args.optimizer, args.threads, args.cases, args.rounds)
        print(table(times, args.cases))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
