"""What is stepped over in the benchmarks: the cases, and fresh arrays for one. No timing here."""

from __future__ import annotations

import itertools

import numpy as np

MNIST_NET = [784, 100, 100, 100, 100, 10]

CASES: dict[str, list[tuple[int, ...]]] = {
    "1 x 100": [(100,)],
    "100 x 100": [(100,)] * 100,
    "MNIST net": [
        shape
        for rows, columns in itertools.pairwise(MNIST_NET)
        for shape in ((rows, columns), (columns,))
    ],
    "1 M": [(1_000_000,)],
    "20 M": [(20_000_000,)],
}

# The picture: one array of each size
SIZES = [100, 1_000, 10_000, 100_000, 1_000_000, 5_000_000, 20_000_000]
CASES |= {f"{size:,}": [(size,)] for size in SIZES}

NAMED = [name for name in CASES if "," not in name and name != "100"]


def parameters(case: str) -> int:
    """Return how many numbers a case holds."""
    return sum(int(np.prod(shape)) for shape in CASES[case])


def arrays(case: str, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return parameters and gradients of a case, float32."""
    rng = np.random.default_rng(seed)
    params, grads = {}, {}
    for i, shape in enumerate(CASES[case]):
        params[f"p{i}"] = rng.standard_normal(shape, np.float32)
        grads[f"p{i}"] = rng.standard_normal(shape, np.float32) * np.float32(1e-3)
    return params, grads
