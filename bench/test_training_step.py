"""pytest-benchmark groups of one training step: nets × libraries.

    pytest bench/test_training_step.py --benchmark-group-by=group

Libraries take turns in one process with a pause between; `bench/training.py` gives each a process
of its own and prints ratios. Nothing is asserted of times.
"""

import time

import pytest
from rounds import UnavailableError
from training_libraries import JOBS, LIBRARIES, NAMED

import fastopt


@pytest.fixture(autouse=True)
def _pause():
    time.sleep(0.2)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("case", NAMED)
def test_step(benchmark, case, library):
    benchmark.group = case
    try:
        step = LIBRARIES[library](JOBS[case], fastopt.get_num_threads())
    except UnavailableError as reason:
        pytest.skip(str(reason))
    benchmark(step)
