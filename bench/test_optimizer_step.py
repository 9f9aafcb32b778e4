"""pytest-benchmark groups of one optimizer step: cases × optimizers × libraries, and options.

    pytest bench/test_optimizer_step.py --benchmark-group-by=group

Libraries take turns in one process with a pause between, so that idle workers of one do not slow
the next; `bench/compare.py` gives each a process of its own and prints ratios. Nothing is asserted
of times.
"""

import time

import pytest
from cases import NAMED, arrays
from libraries import LIBRARIES, OPTIMIZERS
from options import OPTIONS, make_step
from rounds import UnavailableError

import fastopt


@pytest.fixture(autouse=True)
def _pause():
    time.sleep(0.2)


@pytest.mark.parametrize("library", [name for name in LIBRARIES if "memory" not in name])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("case", NAMED)
def test_step(benchmark, case, optimizer, library):
    benchmark.group = f"{optimizer}, {case}"
    params, grads = arrays(case)
    try:
        step = LIBRARIES[library](optimizer, params, grads, fastopt.get_num_threads())
    except UnavailableError as reason:
        pytest.skip(str(reason))
    benchmark(step)


@pytest.mark.parametrize("options", [name for name in OPTIONS if name != "noise"])
@pytest.mark.parametrize("case", NAMED)
def test_step_with_options(benchmark, case, options):
    benchmark.group = f"Adam with options, {case}"
    step = make_step("Adam", options, case)
    benchmark(step)
