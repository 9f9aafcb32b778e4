"""What it costs a kernel to step over arrays from where the system puts them: a table of medians.

    python bench/alignment.py

Arrays that begin at a cache line against arrays that begin 16 bytes into one, as large NumPy arrays
do. A step goes to the next line first (`head` in csrc/fastopt/_entries.pyx): both should be equal.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

import fastopt

SIZES = [100, 1_000, 10_000, 100_000, 1_000_000, 4_000_000]
SAMPLES = 51


def array(size: int, offset: int) -> np.ndarray:
    """Return zeros that begin `offset` bytes into a cache line."""
    buffer = np.zeros(size + 32, "f4")
    skip = (offset - buffer.ctypes.data) % 64 // 4
    return buffer[skip : skip + size]


def stepper(size: int, offset: int):
    """Return a step of Adam over arrays at an offset, and how often to repeat it for a sample."""
    optimizer = fastopt.Adam()
    params, grads = {"p": array(size, offset)}, {"p": array(size, offset)}
    optimizer.m["p"], optimizer.v["p"] = array(size, offset), array(size, offset)
    return lambda: optimizer.update(params, grads)


def sample(step, number: int) -> float:
    start = time.perf_counter()
    for _ in range(number):
        step()
    return (time.perf_counter() - start) / number


def main() -> None:
    """Measure and print the table."""
    fastopt.set_num_threads(1)
    print("| elements | at a line, µs | 16 bytes in, µs |\n|---|---|---|")
    for size in SIZES:
        steps = [stepper(size, offset) for offset in (0, 16)]
        number = max(1, 1_000_000 // size)
        pairs = [[sample(step, number) for step in steps] for _ in range(SAMPLES)]
        medians = [statistics.median(column) * 1e6 for column in zip(*pairs, strict=True)]
        print(f"| {size:,} | {medians[0]:.2f} | {medians[1]:.2f} |")


if __name__ == "__main__":
    main()
