"""Options to test with: settings of each, a dict of everything, and pairs to compare.

A pair is a compiled optimizer beside its twin, of which all that they have is compared each time.
"""

import contextlib
import itertools

import numpy as np

import fastopt
from helpers.arrays import assert_same_bits, lay_out, over_many_magnitudes

# Of each option, such that it changes a step over `draw_params`; sets what a default may hide
OPTIONS = {
    "weight_decay": {"weight_decay": 0.3, "decoupled": False},
    "decoupled": {"weight_decay": 0.3, "decoupled": True},
    "low": {"low": -0.4},
    "high": {"high": 0.3},
    "clip_value": {"clip_value": 0.02},
    "clip_norm": {"clip_norm": 0.5},
    "clip_global_norm": {"clip_global_norm": 0.7},
    "maximize": {"maximize": True},
    "skip": {"nonfinite": "skip"},
    "raise": {"nonfinite": "raise"},
    "accumulate": {"accumulate": 2},
    "ema": {"ema": 0.7},
    "groups": {
        "groups": {
            "f*": {"lr_scale": 0.5, "maximize": True, "clip_value": 0.1},
            ("strided", "C"): {"weight_decay": 0.2, "decoupled": False, "low": -1.0},
            "frozen": {"frozen": True},
        }
    },
    "schedule": {"lr": lambda t: 0.1 / (t + 1)},
}


def pairs_of_options():
    """Return the settings of all pairs of options that may be set together."""
    return {
        f"{one}+{other}": {**OPTIONS[one], **OPTIONS[other]}
        for one, other in itertools.combinations(OPTIONS, 2)
        if {one, other} != {"clip_norm", "clip_global_norm"}
        and not {*OPTIONS[one]} & {*OPTIONS[other]}
    }


def draw_params(dtype):
    """Return parameters of every kind, most of this dtype."""
    rng = np.random.default_rng(6)

    def draw(shape, layout="C", dtype=dtype):
        return lay_out(over_many_magnitudes(rng, shape, dtype), layout)

    return {
        "C": draw((7, 5)),
        "fortran": draw((5, 8), "F"),
        "strided": draw((4, 9), "strided"),
        "backwards": draw(21, "backwards"),
        "byte-swapped": draw(11, "byte-swapped"),
        "other dtype": draw(53, dtype="float32" if dtype == "float64" else "float64"),
        "frozen": draw(6),
        "empty": draw((0, 3)),
        "0-d": np.array(-0.5, dtype),
        "float": -0.75,
        "f scalar": np.float32(2.0),
        ("any", "key"): draw(3),
        7: draw(1),
    }


def draw_grads(params, call):
    """Return gradients of the nth call: of the parameters' dtypes, or to be cast; some None.

    In the fourth one is not finite.
    """
    rng = np.random.default_rng(100 + call)
    grads = {}
    for key, p in params.items():
        g = over_many_magnitudes(rng, np.shape(p), "float64")
        if call % 3 == 0:
            g = np.array(g, np.asarray(p).dtype, order="F")
        elif call % 3 == 1 and np.ndim(p) == 1:
            g = np.asarray(100 * rng.standard_normal(np.shape(p)), "int8")
        grads[key] = g
    if call in (1, 2):
        grads["strided"] = grads["0-d"] = None
    if call == 3:
        grads["backwards"][5] = np.inf
    if call == 5:
        grads["C"] = grads["float"] = None
    return grads


class Pair:
    """A compiled optimizer and its twin over equal parameters of their own."""

    def __init__(self, row, settings, make_params):
        self.compiled, self.twin = row.compiled(**settings), row.twin(**settings)
        self.ours, self.theirs = make_params(), make_params()
        self.arrays = {k: p for k, p in self.ours.items() if isinstance(p, np.ndarray)}

    def set(self, name, value):
        for optimizer in (self.compiled, self.twin):
            setattr(optimizer, name, value)

    def update(self, grads):
        """Make the same call of both, which may be refused; return what it was refused with."""
        errors = []
        for optimizer, params in ((self.compiled, self.ours), (self.twin, self.theirs)):
            try:
                optimizer.update(params, grads)
            except (FloatingPointError, ValueError) as error:
                errors.append((type(error), str(error)))
        assert len(errors) in (0, 2), errors
        assert errors[:1] == errors[1:]
        self.check()
        return errors[0] if errors else None

    def check(self):
        """Compare all that is public, and how many calls have been made since the last step."""
        ours, theirs = self.compiled, self.twin
        same_arrays(self.ours, self.theirs, "parameter")
        for key, array in self.arrays.items():
            if key in self.ours:
                assert self.ours[key] is array, f"{key!r} was replaced, not updated in place"
        for name in (*theirs._states, "average", "accumulated"):
            same_arrays(getattr(ours, name), getattr(theirs, name), name)
        assert_same_bits(ours.norm, theirs.norm, "norm")
        assert (ours.iter, ours.skipped) == (theirs.iter, theirs.skipped)
        assert ours._stepper.calls == theirs._calls


def same_arrays(ours, theirs, what):
    """Compare two dicts of arrays and numbers, whatever their order."""
    assert ours.keys() == theirs.keys(), what
    for key, array in theirs.items():
        assert_same_bits(ours[key], array, f"{what} {key!r}")


def norm_by_hand(*arrays):
    """Return the norm of gradients as it is documented, added up in Python's floats."""
    total = 0.0
    for array in arrays:
        numbers, sum_of_blocks = array.tolist(), 0.0
        for first in range(0, len(numbers), 16_384):
            lanes = [0.0] * 32
            for i, x in enumerate(numbers[first : first + 16_384]):
                lanes[i % 32] += x * x
            while len(lanes) > 1:
                half = len(lanes) // 2
                lanes = [lanes[i] + lanes[i + half] for i in range(half)]
            sum_of_blocks += lanes[0]
        total += sum_of_blocks
    return np.sqrt(np.float64(total)).item()


@contextlib.contextmanager
def threads(n):
    """Have calls use so many threads."""
    before = fastopt.get_num_threads()
    fastopt.set_num_threads(n)
    try:
        yield
    finally:
        fastopt.set_num_threads(before)
