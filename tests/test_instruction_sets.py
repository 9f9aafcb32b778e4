"""The variants of the kernels: all give the same bits, and the one asked for is the one in use."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from optimizer_table import TABLE

import fastopt
from fastopt import _instruction_sets, _pool

# around the widths of all registers; past one chunk and its neighbours; past the size from which a
# step is shared out, in one array and in many
SHAPES = [0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 53, (37, 3), 16383, 16384, 16385, 32769, (700, 1001)]
STEPS = 3


def compare_with_twins(threads):
    """Take every rule at both dtypes over a dict of all shapes; called in a fresh interpreter."""
    fastopt.set_num_threads(threads)
    for row in TABLE:
        for dtype in (np.float32, np.float64):
            rng = np.random.default_rng(1)
            ours = {i: rng.standard_normal(shape).astype(dtype) for i, shape in enumerate(SHAPES)}
            theirs = {key: p.copy() for key, p in ours.items()}
            optimizer, twin = row.compiled(**row.settings), row.twin(**row.settings)
            for _ in range(STEPS):
                grads = {key: rng.standard_normal(p.shape).astype(dtype) for key, p in ours.items()}
                optimizer.update(ours, grads)
                twin.update(theirs, grads)
            for key, p in theirs.items():
                assert_array_equal(ours[key], p, err_msg=f"{row.name} {dtype} {SHAPES[key]}")
                for name in row.states:
                    assert_array_equal(getattr(optimizer, name)[key], getattr(twin, name)[key])
    assert _pool.count_workers() == threads - 1


def run(code, **environ):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environ},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("variant", _instruction_sets.VARIANTS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_variant_on_any_number_of_threads_equals_the_twins(variant, threads):
    if variant not in _instruction_sets.available():
        pytest.skip(f"no {variant} on this machine or in this build")
    code = (
        "import fastopt, test_instruction_sets as t;"
        f"t.compare_with_twins({threads});"
        "print(fastopt.show_config('dicts')['kernels']['variant'])"
    )
    done = run(code, FASTOPT_ISA=variant)
    assert done.stderr == ""
    assert done.stdout.strip() == variant


def test_x86_64_has_all_variants_in_its_build():
    if _instruction_sets.VARIANTS[-1] in _instruction_sets.available():
        assert _instruction_sets.available() == list(_instruction_sets.VARIANTS)
    assert "baseline" in _instruction_sets.available()


@pytest.mark.parametrize(
    ("wanted", "message"), [("sse9", "none of baseline, avx2, avx512"), ("avx", "none of")]
)
def test_unknown_variant_is_an_error(wanted, message):
    with pytest.raises(ValueError, match=message):
        _instruction_sets.choose({"FASTOPT_ISA": wanted})
    done = run("import fastopt", FASTOPT_ISA=wanted)
    assert f"ValueError: FASTOPT_ISA={wanted}" in done.stderr


def test_variant_that_can_not_run_here_is_an_error(monkeypatch):
    monkeypatch.setattr(_instruction_sets._cpu, "supports", lambda: ["baseline"])
    with pytest.raises(ValueError, match=r"FASTOPT_ISA=avx2 can't be had.*runs baseline"):
        _instruction_sets.choose({"FASTOPT_ISA": "avx2"})
    assert _instruction_sets.choose({}) == "baseline"
    assert _instruction_sets.choose({"FASTOPT_ISA": ""}) == "baseline"


def test_only_the_chosen_variant_is_imported():
    code = "import sys, fastopt; print(*[m for m in sys.modules if '_kernels_' in m])"
    assert run(code, FASTOPT_ISA="baseline").stdout.split() == ["fastopt._kernels_baseline"]
