"""What each variant of the kernels must compute alike; called in fresh interpreters."""

import numpy as np
from numpy.testing import assert_array_equal
from optimizer_table import TABLE

import fastopt
from fastopt import _layers, _pool

# around the widths of all registers; past one chunk and its neighbours; past the size from which a
# step is shared out, in one array and in many
SHAPES = [0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 53, (37, 3), 16383, 16384, 16385, 32769, (700, 1001)]
STEPS = 3

# both variants of a rule with options, norms, and sums of gradients, between them
OPTIONS = [
    {},
    {
        "weight_decay": 0.1, "decoupled": True, "clip_value": 0.5, "clip_global_norm": 300.0,
        "low": -1.5, "high": 1.25, "maximize": True,
    },
    {
        "weight_decay": 0.1, "decoupled": False, "clip_norm": 50.0, "nonfinite": "skip",
        "accumulate": 2, "ema": 0.7,
    },
]  # fmt: skip


def compare_with_twins(threads):
    """Take every rule at both dtypes over a dict of all shapes, with options and without."""
    fastopt.set_num_threads(threads)
    for row in TABLE:
        for dtype in (np.float32, np.float64):
            for options in OPTIONS:
                is_long = not options or row.name == "Adam"  # long ones take their time
                compare_with_twin(row, dtype, options, SHAPES if is_long else SHAPES[:-1])
    assert _pool.count_workers() == threads - 1


def compare_with_twin(row, dtype, options, shapes):
    rng = np.random.default_rng(1)
    ours = {i: rng.standard_normal(shape).astype(dtype) for i, shape in enumerate(shapes)}
    theirs = {key: p.copy() for key, p in ours.items()}
    settings = {**row.settings, **options}
    optimizer, twin = row.compiled(**settings), row.twin(**settings)
    for _ in range(STEPS):
        grads = {key: rng.standard_normal(p.shape).astype(dtype) for key, p in ours.items()}
        optimizer.update(ours, grads)
        twin.update(theirs, grads)
        assert optimizer.norm == twin.norm, row.name
    for key, p in theirs.items():
        assert_array_equal(ours[key], p, err_msg=f"{row.name} {dtype} {shapes[key]} {options}")
        for name in row.states:
            assert_array_equal(getattr(optimizer, name)[key], getattr(twin, name)[key])
    for name in ("average", "accumulated"):
        assert getattr(optimizer, name).keys() == getattr(twin, name).keys()
        for key, array in getattr(twin, name).items():
            assert_array_equal(getattr(optimizer, name)[key], array)


def passes_of_every_kind():
    """Return results of all passes, as bytes."""
    results = []
    rng = np.random.default_rng(0)
    for dtype in ("f4", "f8"):
        for n, m in [(1, 1), (3, 7), (5, 16), (9, 33), (2, 1000)]:
            x = (3 * rng.standard_normal((n, m))).astype(dtype)
            for layer in (fastopt.Relu(), fastopt.Sigmoid()):
                results += [layer.forward(x), layer.backward(x[::-1])]
            softmax = fastopt.SoftmaxWithLoss()
            results += [np.array(softmax.forward(x, np.arange(n) % m)), softmax.y]
            results += [softmax.backward(), np.array(_layers.sum_of_squares(x))]
    return b"".join(np.ascontiguousarray(a).tobytes() for a in results)
