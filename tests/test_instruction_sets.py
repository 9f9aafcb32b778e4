"""The variants of the kernels: all give the same bits, and the one asked for is the one in use."""

import pytest
from helpers.processes import run

from fastopt import _instruction_sets, _kernels


@pytest.mark.parametrize("variant", _instruction_sets.VARIANTS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_variant_on_any_number_of_threads_equals_the_twins(variant, threads):
    if variant not in _kernels.available:
        pytest.skip(f"no {variant} on this machine or in this build")
    code = (
        "import fastopt; from helpers.variants import compare_with_twins;"
        f"compare_with_twins({threads});"
        "print(fastopt.show_config('dicts')['kernels']['variant'])"
    )
    done = run(code, FASTOPT_ISA=variant)
    assert done.stderr == ""
    assert done.stdout.strip() == variant


def test_x86_64_has_all_variants_in_its_build():
    if _instruction_sets.VARIANTS[-1] in _kernels.available:
        assert _kernels.available == list(_instruction_sets.VARIANTS)
    assert "baseline" in _kernels.available


@pytest.mark.parametrize(
    ("wanted", "message"), [("sse9", "none of baseline, avx2, avx512"), ("avx", "none of")]
)
def test_unknown_variant_is_an_error(wanted, message):
    with pytest.raises(ValueError, match=message):
        _instruction_sets.choose({"FASTOPT_ISA": wanted}, _kernels.available)
    done = run("import fastopt", FASTOPT_ISA=wanted)
    assert f"ValueError: FASTOPT_ISA={wanted}" in done.stderr


def test_variant_that_can_not_run_here_is_an_error():
    with pytest.raises(ValueError, match=r"FASTOPT_ISA=avx2 can't be had.*runs baseline"):
        _instruction_sets.choose({"FASTOPT_ISA": "avx2"}, ["baseline"])
    assert _instruction_sets.choose({}, ["baseline"]) == "baseline"
    assert _instruction_sets.choose({"FASTOPT_ISA": ""}, ["baseline", "avx2"]) == "avx2"


def test_only_the_chosen_variant_is_imported():
    code = "import sys, fastopt; print(*[m for m in sys.modules if '_kernels_' in m])"
    assert run(code, FASTOPT_ISA="baseline").stdout.split() == ["fastopt._kernels_baseline"]
