"""Matrix products: the kernels' own at every size, cut and variant; BLAS where there are none.

Whose threads do them is tested here, too; what layers and nets are to their users is not.
"""

import functools
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.marks import every_dtype
from helpers.processes import run
from helpers.products import arrays, blas_threads, products_of
from numpy.testing import assert_array_equal

import fastopt
from fastopt import _blas, _instruction_sets, _kernels, _products


@pytest.fixture(autouse=True)
def threads_as_before():
    before = fastopt.get_num_threads()
    yield
    fastopt.set_num_threads(before)


@functools.cache
def all_sizes(variant):
    if variant not in _kernels.available:
        pytest.skip(f"no {variant} on this machine or in this build")
    done = run(
        "from helpers.products import check_all_sizes; check_all_sizes()", FASTOPT_ISA=variant
    )
    assert done.stderr == ""
    return done.stdout.split()


def has_own_products(variant):
    compiler = fastopt.show_config(mode="dicts")["kernels"]["compiler"]
    return variant != "baseline" and not compiler.startswith("msvc")


@pytest.mark.parametrize("variant", _instruction_sets.VARIANTS)
def test_products_of_all_sizes(variant):
    uses_blas, _ = all_sizes(variant)
    assert (uses_blas == "True") == (not has_own_products(variant))


own_products = pytest.mark.skipif(_products.uses_blas, reason="products by BLAS promise no bits")


@own_products
def test_own_products_are_the_same_bits_in_every_variant():
    assert all_sizes("avx2") == all_sizes("avx512")


@own_products
@every_dtype
def test_layers_give_the_same_bits_on_any_number_of_threads(dtype):
    for n, d, m in ((100, 300, 200), (300, 784, 100), (33, 900, 410)):
        given = arrays(n, d, m, dtype)
        fastopt.set_num_threads(1)
        want = products_of(*given)
        for threads in (2, 3):
            fastopt.set_num_threads(threads)
            for got, alone in zip(products_of(*given), want, strict=True):
                assert_array_equal(got, alone)


@own_products
@every_dtype
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_nets_give_the_same_bits_on_any_number_of_threads(dtype, activation):
    net = fastopt.MultiLayerNet(300, [120, 80], 10, activation, dtype=dtype, rng=0)
    net.weight_decay_lambda = 0.1
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((1500, 300)).astype(dtype), rng.integers(0, 10, 1500)
    for n in (1, 15, 16, 17, 31, 32, 33, 40, 47, 100, 128, 257, 300, 1500):
        fastopt.set_num_threads(1)
        loss, want = net.loss_and_gradient(x[:n], t[:n])
        scores = net.predict(x[:n])
        for threads in (2, 3, 5):
            fastopt.set_num_threads(threads)
            again, got = net.loss_and_gradient(x[:n], t[:n])
            assert again == loss == net.loss(x[:n], t[:n])
            assert_array_equal(net.predict(x[:n]), scores)
            for key, g in want.items():
                assert_array_equal(got[key], g, err_msg=f"{key}, {n} samples, {threads} threads")


def test_layers_and_nets_are_shared_out_to_as_many_threads_as_are_set():
    code = """
import numpy as np, fastopt
from fastopt import _pool
fastopt.set_num_threads(3)
net = fastopt.MultiLayerNet(300, [200], 10, rng=0)
x = np.ones((100, 300), "f4")
{call}
print(_pool.count_workers())
"""
    for call in (
        'fastopt.Affine(net.params["W1"], net.params["b1"]).forward(x)',
        "net.predict(x)",
        "net.gradient(x, np.zeros(100, int))",
    ):
        done = run(code.format(call=call))
        assert done.stdout.strip() == "2", done.stderr


def test_more_threads_that_are_set_within_a_call_take_no_part_in_it():
    code = """
import numpy as np, fastopt
from fastopt import _pool

class Errstate(np.errstate):
    def __enter__(self):
        fastopt.set_num_threads(16)
        return super().__enter__()

fastopt.set_num_threads(2)
net = fastopt.MultiLayerNet(300, [200], 10, rng=0)
x, t = np.ones((100, 300), "f4"), np.eye(10, dtype=int)[np.arange(100) % 10]
np.errstate = Errstate  # entered where one-hot labels are converted
net.gradient(x, t)
print(fastopt.get_num_threads(), _pool.count_workers())
"""
    done = run(code)
    assert done.stdout.split() == ["16", "1"], done.stderr


@own_products
def test_samples_of_any_cut_give_the_same_bits():
    net = fastopt.MultiLayerNet(50, [70, 30], 10, rng=0)
    x = np.random.default_rng(0).standard_normal((90, 50)).astype("f4")
    scores = net.predict(x)
    for begin, end in ((0, 1), (0, 7), (5, 90), (89, 90), (13, 50)):
        assert_array_equal(net.predict(x[begin:end]), scores[begin:end])


@every_dtype
def test_nan_and_infinity_go_where_they_go_in_numpy(dtype):
    x, W, b, dout = arrays(20, 30, 40, dtype)
    x[3, 7], x[11, 2], W[5, 39], dout[19, 0] = np.nan, np.inf, -np.inf, np.inf
    with np.errstate(invalid="ignore"):
        want = (x @ W + b, dout @ W.T, x.T @ dout, dout.sum(axis=0))
    for got, exact in zip(products_of(x, W, b, dout), want, strict=True):
        assert_array_equal(np.isnan(got), np.isnan(exact))
        assert_array_equal(np.isposinf(got), np.isposinf(exact))
        assert_array_equal(np.isneginf(got), np.isneginf(exact))


def test_scipy_is_imported_only_for_products_by_blas():
    code = """
import sys, numpy as np, fastopt
net = fastopt.MultiLayerNet(4, [3], 2, rng=0)
net.gradient(np.ones((2, 4), "f4"), [0, 1])
print("scipy" in sys.modules)
"""
    for variant in _kernels.available:
        done = run(code, FASTOPT_ISA=variant)
        assert done.stdout.strip() == str(not has_own_products(variant)), done.stderr


needs_openblas = pytest.mark.skipif(blas_threads() is None, reason="scipy calls another BLAS")


def run_over_blas(code):
    """Run code where products go through BLAS; return what it printed."""
    pytest.importorskip("threadpoolctl")
    done = run(code, FASTOPT_ISA="baseline")
    assert done.stderr == ""
    return done.stdout.strip()


@needs_openblas
def test_blas_is_the_one_that_threadpoolctl_finds():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        assert blas_threads() == 3
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        assert blas_threads() == 1


@needs_openblas
@pytest.mark.parametrize("threads", [1, 2])
def test_blas_has_one_thread_within_a_gradient_and_its_own_after_it(threads):
    code = f"""
import threading, time, numpy as np, fastopt
from threadpoolctl import threadpool_limits
from helpers.products import blas_threads

fastopt.set_num_threads({threads})
net = fastopt.MultiLayerNet(240, [120, 80], 10, rng=0)
x, t = np.ones((3000, 240), "f4"), np.zeros(3000, int)
stop, seen = threading.Event(), set()

def work():
    while not stop.is_set():
        net.gradient(x, t)

with threadpool_limits(2, user_api="blas"):
    worker = threading.Thread(target=work)
    worker.start()
    deadline = time.monotonic() + 60
    while 1 not in seen and time.monotonic() < deadline:
        seen.add(blas_threads())
    stop.set()
    worker.join()
    print(1 in seen, blas_threads())
    try:
        net.gradient(x, t[:-1])
    except ValueError as error:
        print(str(error)[:6], blas_threads())
"""
    assert run_over_blas(code).split() == ["True", "2", "labels", "2"]


@needs_openblas
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no list of a process's threads")
@pytest.mark.parametrize("variant", _instruction_sets.VARIANTS)
def test_only_the_threads_that_were_set_do_the_products(variant):
    if variant not in _kernels.available:
        pytest.skip(f"no {variant} on this machine or in this build")
    code = """
import time
import numpy as np, fastopt
from pathlib import Path
from scipy.linalg import cython_blas
from threadpoolctl import threadpool_limits

def seconds():
    ticks = {}
    for task in Path("/proc/self/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        ticks[task.name] = int(fields[11]) + int(fields[12])
    return ticks

fastopt.set_num_threads(2)
net = fastopt.MultiLayerNet(400, [300, 200], 10, rng=0)
x, t = np.ones((512, 400), "f4"), np.zeros(512, int)
with threadpool_limits(3, user_api="blas"):
    grads = net.gradient(x, t)
    layer = fastopt.Affine(net.params["W1"], net.params["b1"])
    time.sleep(0.5)  # BLAS has started threads of its own, which spin for a while
    before = seconds()
    while sum(seconds().values()) - sum(before.values()) < 100:
        net.gradient(x, t, out=grads)
        layer.backward(layer.forward(x))
    print(sum(after - before.get(task, 0) > 5 for task, after in seconds().items()))
"""
    pytest.importorskip("threadpoolctl")
    done = run(code, FASTOPT_ISA=variant)
    assert done.stderr == ""
    assert done.stdout.strip() in {"1", "2"}  # 1 where the second thread never got a core


@needs_openblas
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_child_that_was_forked_in_a_product_has_its_blas_threads():
    code = """
import os, threading, time, warnings, numpy as np, fastopt
from threadpoolctl import threadpool_limits
from helpers.products import blas_threads

warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads is what is tested
net = fastopt.MultiLayerNet(400, [300, 200], 10, rng=0)
x, t = np.ones((4000, 400), "f4"), np.zeros(4000, int)
with threadpool_limits(2, user_api="blas"):
    stop = threading.Event()
    def work():
        while not stop.is_set():
            net.gradient(x, t)
    worker = threading.Thread(target=work)
    worker.start()
    deadline = time.monotonic() + 60
    while blas_threads() != 1 and time.monotonic() < deadline:
        pass
    child = os.fork()
    if child == 0:
        ok = blas_threads() == 2
        net.gradient(x, t)
        os._exit(0 if ok and blas_threads() == 2 else 1)
    status = os.waitpid(child, 0)[1]
    stop.set()
    worker.join()
    print(os.waitstatus_to_exitcode(status))
"""
    assert run_over_blas(code) == "0"


@pytest.mark.parametrize(("prefixes", "workers"), [(_blas._PREFIXES, "1"), ((), "0")])
def test_nets_over_a_blas_that_can_be_told_and_one_that_can_not(prefixes, workers):
    code = f"""
import numpy as np
from fastopt import _blas
_blas._PREFIXES = {prefixes}
import fastopt
from fastopt import _pool, _products, reference
assert _products.uses_blas
fastopt.set_num_threads(2)
x, t = np.random.default_rng(0).random((300, 400)), np.arange(300) % 10
for dtype, atol in (("f8", 1e-12), ("f4", 1e-5)):
    ours, twin = (p.MultiLayerNet(400, [300], 10, dtype=dtype, rng=0) for p in (fastopt, reference))
    for n in (1, 16, 17, 33, 300):
        got, want = ours.loss_and_gradient(x[:n], t[:n]), twin.loss_and_gradient(x[:n], t[:n])
        np.testing.assert_allclose(got[0], want[0], rtol=atol)
        for key, g in want[1].items():
            np.testing.assert_allclose(got[1][key], g, atol=atol * np.abs(g).max())
print(_pool.count_workers())
"""
    if blas_threads() is None and prefixes:
        pytest.skip("scipy calls another BLAS")
    assert run_over_blas(code) == workers
