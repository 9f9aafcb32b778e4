"""How benchmarks are run: every library in a process of its own, in turn, several rounds.

Measures steps, two that are nearly equal by alternating between them, runs the children, prints
the table of ratios. What is measured is said by the scripts that use this; nothing here knows of
optimizers or nets.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np

SAMPLES = 15
SAMPLE_SECONDS = 0.02
PAIRS = 20  # even: either is the first in half of them

Step = Callable[[], object]
Times = dict[str, dict[str, float]]  # library → case → seconds
Sampler = Callable[[int], float]  # takes so many steps, returns the seconds of one


class UnavailableError(Exception):
    """The library is not installed, or does not have what is measured."""


def calibrate(step: Step) -> int:
    """Warm up; return how many steps are long enough to be timed."""
    for _ in range(3):
        step()
    start = time.perf_counter()
    step()
    return max(1, int(SAMPLE_SECONDS / (time.perf_counter() - start)))


def sample(step: Step, number: int) -> float:
    """Return the time of a step, in seconds, over so many."""
    start = time.perf_counter()
    for _ in range(number):
        step()
    return (time.perf_counter() - start) / number


def measure(step: Step) -> float:
    """Return the median time of a step, in seconds, over batches long enough to be timed."""
    number = calibrate(step)
    return statistics.median(sample(step, number) for _ in range(SAMPLES))


def alternate(first: Sampler, second: Sampler, number: int) -> tuple[float, float]:
    """Return the median ratio of the second's time to the first's, and the median difference.

    Of samples that follow each other: what the rest of the machine does is much the same to both.
    """
    ratios, differences = [], []
    for i in range(PAIRS):
        if i % 2 == 0:
            a, b = first(number), second(number)
        else:
            b, a = second(number), first(number)
        ratios.append(b / a)
        differences.append(b - a)
    return statistics.median(ratios), statistics.median(differences)


def prepare(threads: int) -> None:
    """Have this process measure on one core, if it is one thread, and with a heap that is warm."""
    if threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    # glibc then takes arrays of up to 32 MB from its heap. With fresh pages for each temporary,
    # which is what a process may as well meet, NumPy would take up to five times as long.
    np.empty(31 << 20, "u1")


def child(name: str, figure: Callable[[str], float], threads: int, cases: list[str]) -> None:
    """Measure one library in this process: print the figure of each case as JSON.

    None at all if one of the cases is not available: the library is then left out.
    """
    prepare(threads)
    figures = {}
    for case in cases:
        try:
            figures[case] = figure(case)
        except UnavailableError as reason:
            print(f"{name}: {reason}", file=sys.stderr)
            figures.clear()
            break
    print(json.dumps(figures))


def serve(make_step: Callable[..., Step], threads: int) -> None:
    """Measure what the parent asks for, line by line: the other end of `server`."""
    prepare(threads)
    steps: list[Step] = []
    for line in sys.stdin:
        asked = json.loads(line)
        answer: float | None = None
        if isinstance(asked, int):
            answer = sample(steps[-1], asked)
        else:
            steps.clear()  # which lets go of the arrays of the last one
            with suppress(UnavailableError):
                steps.append(make_step(*asked))
                answer = calibrate(steps[-1])
        print(json.dumps(answer), flush=True)


@contextmanager
def server(python: str, threads: int) -> Iterator[Callable[[object], float | None]]:
    """Run this script in an interpreter as a child that can be asked again and again.

    A list is what to make a step of: the answer is how many make a sample, None if there is no such
    step. A number is how many to take: the answer is the time of one.
    """
    command = [python, sys.argv[0], "--child", "--threads", str(threads)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environ(threads), **pipes) as process:

        def ask(question: object) -> float | None:
            print(json.dumps(question), file=process.stdin, flush=True)
            answer: float | None = json.loads(process.stdout.readline())
            return answer

        yield ask


def environ(threads: int) -> dict[str, str]:
    """Return the environment of a child."""
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return os.environ | dict.fromkeys(variables, str(threads))


def run_round(names: Sequence[str], arguments: list[str], threads: int) -> Times:
    """Measure every library once, each in its own process."""
    times = {}
    for name in names:
        command = [sys.executable, sys.argv[0], "--child", name, "--threads", str(threads)]
        done = subprocess.run(
            [*command, *arguments],
            stdout=subprocess.PIPE, text=True, check=False, env=environ(threads),
        )  # fmt: skip
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
    own = times["fastopt"]
    rows = [
        [case, microseconds(own[case]), *(f"{times[n][case] / own[case]:.3g}" for n in names)]
        for case in cases
    ]
    return markdown(["case", "fastopt", *names], rows)


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:,.3g} µs"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a table as Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, *rows]]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


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
