"""Matrix products of a layer as shares of what the processor can do, beside NumPy's, on one thread.

    python bench/products.py
    python bench/products.py --dtype float64 --rounds 101

The processor's peak of fused multiply-adds is measured before each, by a loop over registers that
is compiled when this starts (by `cc`, or CC); a share is the median over the rounds of the time for
as many operations at the peak to the product's. Times are the thread's own, so that other processes
do little harm. An Affine layer's calls take some time beside their products, and so do NumPy's: the
last columns are the layer's without what its calls take for a single number.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rounds import Step, environ, markdown, prepare

import fastopt

# N × D × M: a batch, its inputs, its outputs
SHAPES = [(128, 784, 100), (128, 100, 100), (128, 100, 10), (256, 1024, 1024), (32, 64, 64)]
SAMPLE_SECONDS = 0.002

# Twelve sums, for a multiply-add takes four or five times as long as the next one waits to begin
PEAK = """
#if defined(__AVX512F__)
  #define BYTES 64
#elif defined(__AVX__)
  #define BYTES 32
#else
  #define BYTES 16
#endif
typedef REAL vector __attribute__((vector_size(BYTES)));
#define EACH(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)

double peak(long n, REAL factor, REAL term) {
    const vector x = factor - (vector) { 0 }, y = term - (vector) { 0 };
#define BEGIN(i) vector sum##i = y * i;
#define STEP(i) sum##i = sum##i * x + y;
#define ADD(i) + sum##i[0]
    EACH(BEGIN)
    for (long i = 0; i < n; i++) { EACH(STEP) }
    return 0 EACH(ADD);
}

long operations(void) { return 2 * 12 * (BYTES / sizeof(REAL)); }  /* of one pass of the loop */
"""


def peak_step(dtype: str) -> tuple[Step, float]:
    """Compile the loop; return a step of it, and how many operations that is."""
    real = {"float32": "float", "float64": "double"}[dtype]
    flags = ["-O2", "-march=native", "-ffp-contract=fast", f"-DREAL={real}", "-shared", "-fPIC"]
    with tempfile.TemporaryDirectory() as folder:
        source, built = Path(folder, "peak.c"), Path(folder, "peak.so")
        source.write_text(PEAK)
        compiler = shlex.split(os.environ.get("CC", "cc"))
        subprocess.run([*compiler, *flags, str(source), "-o", str(built)], check=True)
        loop = ctypes.CDLL(str(built))  # stays loaded without the file
    number = np.ctypeslib.as_ctypes_type(np.dtype(dtype))
    loop.peak.argtypes = [ctypes.c_long, number, number]
    passes = 10_000
    return lambda: loop.peak(passes, 0.5, 1.0), float(passes * loop.operations())


def steps_of(n: int, d: int, m: int, dtype: str) -> tuple[Step, Step, Step, Step]:
    """Return forward and backward of a layer, by fastopt and by NumPy."""
    rng = np.random.default_rng(0)
    shapes = ((n, d), (d, m), (m,), (n, m))
    x, W, b, dout = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    layer = fastopt.Affine(W, b)
    layer.forward(x)
    return (
        lambda: layer.forward(x),
        lambda: layer.backward(dout),
        lambda: x @ W + b,
        lambda: (dout @ W.T, x.T @ dout, dout.sum(axis=0)),
    )


def seconds(step: Step, number: int) -> float:
    """Return the time of a step that this thread computed, in seconds, over so many."""
    start = time.thread_time()
    for _ in range(number):
        step()
    return (time.thread_time() - start) / number


def shares(shape: tuple[int, int, int], dtype: str, rounds: int) -> list[float]:
    """Return the shares: the layer's, NumPy's, the layer's without its calls; forward, backward."""
    loop, loop_operations = peak_step(dtype)
    n, d, m = shape
    operations = 2.0 * n * d * m
    # forward and backward: the layer's, NumPy's, and a layer's that has nothing to multiply
    steps = [*steps_of(n, d, m, dtype), *steps_of(1, 1, 1, dtype)[:2]]
    numbers = [max(1, int(SAMPLE_SECONDS / seconds(step, 3))) for step in steps]
    measured = []
    for _ in range(rounds):
        times = []  # in operations at the peak
        for step, number in zip(steps, numbers, strict=True):
            unit = seconds(loop, 20) / loop_operations
            times.append(seconds(step, number) / unit)
        times += [times[0] - times.pop(4), times[1] - times.pop(4)]
        measured.append([operations * (1 + i % 2) / each for i, each in enumerate(times)])
    return [statistics.median(column) for column in zip(*measured, strict=True)]


def main() -> None:
    """Measure; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--rounds", type=int, default=41)
    args = parser.parse_args()
    if os.environ != environ(1):  # NumPy's BLAS reads it when it is loaded
        again = subprocess.run([sys.executable, *sys.argv], env=environ(1), check=False)
        sys.exit(again.returncode)
    fastopt.set_num_threads(1)
    prepare(1)
    rows = [
        ["×".join(map(str, shape)), *(f"{share:.0%}" for share in shares(shape, **vars(args)))]
        for shape in SHAPES
    ]
    names = ["fastopt", "NumPy", "fastopt without its calls"]
    head = [f"{name}, {way}" for name in names for way in ("forward", "backward")]
    print(markdown([f"{args.dtype}, N×D×M", *head], rows))


if __name__ == "__main__":
    main()
