"""How benchmarks are run: every library in a process of its own, in turn, several rounds.

Measures steps, runs the children, prints the table of ratios. What is measured is said by the
scripts that use this; nothing here knows of optimizers or nets.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

SAMPLES = 15
SAMPLE_SECONDS = 0.02

Step = Callable[[], object]
Times = dict[str, dict[str, float]]  # library → case → seconds


class UnavailableError(Exception):
    """The library is not installed, or does not have what is measured."""


def measure(step: Step) -> float:
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


def child(library: str, make_step: Callable[[str], Step], threads: int, cases: list[str]) -> None:
    """Measure one library in this process and print its times as JSON."""
    if threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    # glibc then takes arrays of up to 32 MB from its heap. With fresh pages for each temporary,
    # which is what a process may as well meet, NumPy would take up to five times as long.
    np.empty(31 << 20, "u1")
    times = {}
    for case in cases:
        try:
            step = make_step(case)
        except UnavailableError as reason:
            print(f"{library}: {reason}", file=sys.stderr)
            break
        times[case] = measure(step)
    print(json.dumps(times))


def run_round(names: Sequence[str], arguments: list[str], threads: int) -> Times:
    """Measure every library once, each in its own process."""
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environ = os.environ | dict.fromkeys(variables, str(threads))
    times = {}
    for name in names:
        command = [sys.executable, sys.argv[0], "--child", name, "--threads", str(threads)]
        done = subprocess.run(
            [*command, *arguments], stdout=subprocess.PIPE, text=True, check=False, env=environ
        )
        printed = done.stdout.strip().rpartition("\n")[2]
        if done.returncode == 0 and json.loads(printed):
            times[name] = json.loads(printed)
        time.sleep(0.5)
    return times


def compare(
    names: Sequence[str], arguments: list[str], threads: int, cases: list[str], rounds: int
) -> Times:
    """Return the median over several rounds for every library that is there."""
    arguments = [*arguments, "--cases", *cases]
    measured = [run_round(names, arguments, threads)]
    present = list(measured[0])
    measured += [run_round(present, arguments, threads) for _ in range(rounds - 1)]
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
        ratios = [f"{times[name][case] / own:.3g}" for name in names]
        lines.append(f"| {case} | {own * 1e6:,.3g} µs | " + " | ".join(ratios) + " |")
    return "\n".join(lines)


def draw(times: Times, x: Sequence[float], texts: dict[str, str], limit: str, path: str) -> None:
    """Draw the time of each library over the cases, log-log; `limit` is the dotted line.

    `texts`: title, xlabel, and the label of the limit.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    markers = dict(zip(times, "osDv^<>PhX*", strict=False))
    for name, own in times.items():
        y = [t * 1e6 for t in own.values()]
        if name == limit:
            axes.plot(x, y, "k:", label=texts["limit"])
        else:
            axes.plot(x, y, marker=markers[name], lw=3 if name == "fastopt" else 1.2, label=name)
    axes.set(xscale="log", yscale="log", xlabel=texts["xlabel"], ylabel="µs per step")
    axes.set_title(texts["title"])
    axes.grid(alpha=0.3)
    legend = figure.legend(loc="outside right upper", frameon=False)
    for item in [axes.title, axes.xaxis.label, axes.yaxis.label, *legend.get_texts()]:
        item.set_fontsize(14)
    axes.tick_params(labelsize=13)
    figure.savefig(path)
