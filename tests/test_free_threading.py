"""One optimizer in several threads, with a GIL or without: an error or in turn, never a wrong step.

What the worker threads do inside a step is in test_threads.py.
"""

import collections
import contextlib
import copy
import sys
import sysconfig
import threading

import numpy as np
import pytest
from helpers.processes import run
from helpers.twins import assert_same
from numpy.testing import assert_array_equal
from optimizer_table import every_optimizer

import fastopt
from fastopt._step import Setup

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
BUSY = "in the middle of another update"


@pytest.fixture(autouse=True)
def _threads_switch_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def run_threads(n, work):
    """Let n threads begin at once; return what work(i) raised or returned."""
    results, barrier = [None] * n, threading.Barrier(n)

    def begin(i):
        barrier.wait()
        try:
            results[i] = work(i)
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=begin, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


@every_optimizer
@pytest.mark.parametrize("size", [3, 30_000])
def test_steps_that_were_not_refused_are_those_of_the_twin(row, size):
    ours, theirs = ({"a": np.ones(size), "b": np.ones(2)} for _ in range(2))
    grads = {"a": np.linspace(-1, 1, size), "b": np.array([0.25, -3.0])}
    optimizer, twin = row.compiled(), row.twin()

    def work(_):
        done = 0
        for _ in range(300 if size == 3 else 20):
            try:
                optimizer.update(ours, grads)
                done += 1
            except RuntimeError as error:
                assert BUSY in str(error)  # noqa: PT017 - it may or may not be raised
        return done

    done = sum(run_threads(4, work))
    assert optimizer._stepper.steps == getattr(optimizer, "iter", done) == done
    for _ in range(done):
        twin.update(theirs, grads)
    assert_same(optimizer, twin, ours, theirs)


@every_optimizer
def test_dicts_that_other_threads_change_do_no_harm(row):
    optimizer, stop = row.compiled(), threading.Event()
    arrays = {key: np.ones(key + 1) for key in range(20)}
    params, grads = dict(arrays), {key: np.ones_like(p) for key, p in arrays.items()}

    def work(i):
        if i == 0:
            try:
                for _ in range(200):
                    with contextlib.suppress(KeyError):  # a gradient that is not there yet
                        optimizer.update(params, grads)
            finally:
                stop.set()
            return
        keys = range(10 * (i - 1), 10 * i)  # each thread has its own
        while not stop.is_set():
            for key in keys:
                params.pop(key)
                grads.pop(key)
                for name in row.states:
                    getattr(optimizer, name).pop(key, None)
                grads[key] = np.ones(key + 1)
                params[key] = arrays[key].copy()

    run_threads(3, work)
    assert params.keys() == grads.keys() == arrays.keys()
    optimizer.update(params, grads)
    for key, p in params.items():
        assert np.all(np.isfinite(p)), key


def test_step_computed_for_another_count_changes_nothing():
    optimizer, params = fastopt.Adam(), {"p": np.ones(3)}
    optimizer.update(params, params)
    kept, m, v = params["p"].copy(), optimizer.m["p"].copy(), optimizer.v["p"].copy()
    setup = Setup((optimizer.m, optimizer.v))
    for steps in (0, 2):
        with pytest.raises(RuntimeError, match=BUSY):
            optimizer._stepper.step(params, params, setup, ((0.1, 0.1, 0.1, 1e-7),), steps, False)
    assert optimizer.iter == 1
    for got, want in ((params["p"], kept), (optimizer.m["p"], m), (optimizer.v["p"], v)):
        assert_array_equal(got, want)
    optimizer.update(params, params)
    assert optimizer.iter == 2


class Meddling(collections.UserDict):
    """A mapping that does something when it is asked for its items."""

    def __init__(self, data, meddle):
        super().__init__(data)
        self.meddle = meddle

    def items(self):
        self.meddle()
        return super().items()


@every_optimizer
def test_update_and_count_are_refused_within_a_step(row):
    optimizer, p = row.compiled(), np.ones(3)
    optimizer.update({"p": p}, {"p": np.ones(3)})
    kept = p.copy(), copy.deepcopy([getattr(optimizer, name) for name in row.states])

    def update():
        optimizer.update({"p": p}, {"p": np.ones(3)})

    def count():
        if not hasattr(optimizer, "iter"):
            update()
        optimizer.iter = 7

    for meddle in (update, count):
        with pytest.raises(RuntimeError, match=BUSY):
            optimizer.update(Meddling({"p": p}, meddle), {"p": np.ones(3)})
        assert_array_equal(p, kept[0])
        for name, state in zip(row.states, kept[1], strict=True):
            assert_array_equal(getattr(optimizer, name)["p"], state["p"])
        assert optimizer._stepper.steps == 1
    update()
    assert optimizer._stepper.steps == 2


def test_modules_are_declared_to_need_no_gil():
    if not FREE_THREADED:
        pytest.skip("this interpreter has a GIL")
    code = "import sys, fastopt; fastopt.Affine; print(sys._is_gil_enabled())"
    assert run(code).stdout == "False\n"
