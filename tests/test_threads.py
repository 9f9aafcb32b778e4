"""The worker pool: forks, callers at once, exit, what it leaves to others, and its settings.

Also what may happen around a step: signals, exceptions, a hundred thousand others.
"""

import collections
import concurrent.futures
import ctypes
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers.processes import may_warn_of_fork, needs_fork, run, status_of_child
from numpy.testing import assert_array_equal

import fastopt
from fastopt import _pool, _threads, reference

LARGE = 300_000  # elements, enough for Adam to be shared out


@pytest.fixture(autouse=True)
def _two_threads():
    before = fastopt.get_num_threads()
    fastopt.set_num_threads(2)
    yield
    fastopt.set_num_threads(before)


def train(cls, seed, steps=20, size=LARGE):
    rng = np.random.default_rng(seed)
    params = {"p": rng.standard_normal(size).astype(np.float32)}
    grads = {"p": rng.standard_normal(size).astype(np.float32)}
    optimizer = cls()
    for _ in range(steps):
        optimizer.update(params, grads)
    return params["p"]


def test_settings():
    for n in (1, 2, 64, np.int64(3)):
        fastopt.set_num_threads(n)
        assert fastopt.get_num_threads() == n
        assert fastopt.show_config("dicts")["kernels"]["threads"] == n
    for bad in (0, -1, 65, True):
        with pytest.raises(ValueError, match="from 1 to 64"):
            fastopt.set_num_threads(bad)
    for bad in (1.5, "2", None):
        with pytest.raises(TypeError, match="integer"):
            fastopt.set_num_threads(bad)
    assert fastopt.get_num_threads() == 3


def test_environment_sets_the_number():
    assert _threads.initial_num_threads({}) == min(_threads.usable_cores(), 64)
    assert _threads.initial_num_threads({"FASTOPT_NUM_THREADS": " 5 "}) == 5
    for bad in ("0", "-1", "65", "two", "1.5"):
        with pytest.raises(ValueError, match=f"FASTOPT_NUM_THREADS={bad}"):
            _threads.initial_num_threads({"FASTOPT_NUM_THREADS": bad})
    assert (
        run("import fastopt; print(fastopt.get_num_threads())", FASTOPT_NUM_THREADS="7").stdout
        == "7\n"
    )


def test_openmp_s_variable_is_the_default():
    assert _threads.initial_num_threads({"OMP_NUM_THREADS": "3"}) == 3
    assert _threads.initial_num_threads({"OMP_NUM_THREADS": " 4 , 2"}) == 4
    assert _threads.initial_num_threads({"OMP_NUM_THREADS": "1000"}) == 64
    both = {"OMP_NUM_THREADS": "3", "FASTOPT_NUM_THREADS": "5"}
    assert _threads.initial_num_threads(both) == 5
    for ignored in ("", "0", "-2", "two", "1.5", ",4"):
        assert _threads.initial_num_threads(
            {"OMP_NUM_THREADS": ignored}
        ) == _threads.initial_num_threads({})


def test_environment_of_joblib_s_workers():
    ones = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    code = "import fastopt; print(fastopt.get_num_threads())"
    assert run(code, FASTOPT_NUM_THREADS="", **ones).stdout == "1\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity masks")
def test_default_is_what_the_process_may_use():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "import fastopt; print(fastopt.get_num_threads())"
    )
    assert run(code, FASTOPT_NUM_THREADS="", OMP_NUM_THREADS="").stdout == "1\n"


THREADPOOLCTL = """
fastopt.set_num_threads(3)
def fastopt_s(): return [i for i in t.threadpool_info() if i["user_api"] == "fastopt"]
(info,) = fastopt_s()
print(info["num_threads"], info["version"] == fastopt.__version__)
with t.threadpool_limits(1): print(fastopt.get_num_threads(), fastopt_s()[0]["num_threads"])
with t.threadpool_limits(2, user_api="blas"): print(fastopt.get_num_threads())
with t.threadpool_limits(1000, user_api="fastopt"): print(fastopt.get_num_threads())
with t.threadpool_limits(0, user_api="fastopt"): print(fastopt.get_num_threads())
print(fastopt.get_num_threads())
print(t.__spec__.loader is t.__loader__, type(t.__loader__).__module__.startswith("fastopt"))
print(any("fastopt" in type(finder).__module__ for finder in sys.meta_path))
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import sys, fastopt; import threadpoolctl as t",
        "import sys, threadpoolctl as t; t.threadpool_info(); import fastopt",
        "import sys, fastopt; from importlib.util import find_spec\n"
        "print(end=find_spec('threadpoolctl').loader.get_source('threadpoolctl')[:0])\n"
        "import threadpoolctl as t",
    ],
    ids=["fastopt first", "threadpoolctl first", "looked for before it is imported"],
)
def test_threadpoolctl_sees_and_limits(imports):
    pytest.importorskip("threadpoolctl", minversion="3.2")
    done = run(imports + THREADPOOLCTL)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["3 True", "1 1", "3", "64", "1", "3", "True False", "False"]


def test_threadpoolctl_is_not_imported_and_need_not_be_there():
    code = "import sys, fastopt; print('threadpoolctl' in sys.modules)"
    assert run(code).stdout == "False\n"
    code = (
        "import sys, fastopt; sys.path.clear()\n"
        "try: import threadpoolctl\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    assert run(code).stdout == "No module named 'threadpoolctl'\n"


def test_threadpoolctl_leaves_another_file_of_that_name_alone(tmp_path):
    pytest.importorskip("threadpoolctl", minversion="3.2")
    other = shutil.copy(_pool.__file__, tmp_path)
    code = (
        f"import ctypes, fastopt; fastopt.set_num_threads(3); ctypes.CDLL({str(other)!r});"
        "import threadpoolctl as t;"
        "infos = [i for i in t.threadpool_info() if i['user_api'] == 'fastopt'];"
        "print([i['filepath'] for i in infos] == [fastopt._pool.__file__])"
    )
    done = run(code)
    assert done.stdout == "True\n", done.stderr


def test_no_worker_starts_before_it_is_needed():
    code = (
        "import numpy as np, fastopt; from fastopt import _pool;"
        "fastopt.set_num_threads(3); o = fastopt.Adam();"
        "o.update({'p': np.ones(1000)}, {'p': np.ones(1000)}); print(_pool.count_workers());"
        "o.update({'q': np.ones(10**6)}, {'q': np.ones(10**6)}); print(_pool.count_workers())"
    )
    assert run(code).stdout.split() == ["0", "2"]


def test_more_threads_than_cores_or_jobs():
    want = train(reference.Adam, 1, steps=3)
    for n in (1, 2, 5, 64, 2, 1):
        fastopt.set_num_threads(n)
        assert_array_equal(train(fastopt.Adam, 1, steps=3), want)


def test_callers_at_once_get_the_bits_they_get_alone():
    classes = [getattr(fastopt, name) for name in fastopt.optimizers.__all__]
    want = [train(cls, seed) for seed, cls in enumerate(classes)]
    got = [None] * len(classes)
    barrier = threading.Barrier(len(classes))

    def work(i):
        barrier.wait()
        got[i] = train(classes[i], i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(classes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for g, w in zip(got, want, strict=True):
        assert_array_equal(g, w)


def test_one_optimizer_in_two_python_threads_is_an_error_or_in_turn():
    size, steps = 2_000_000, 10
    optimizer, errors, done = fastopt.SGD(lr=1.0), [], []
    params, grads = {"p": np.zeros(size)}, {"p": np.full(size, -1.0)}

    def work():
        for _ in range(steps):
            try:
                optimizer.update(params, grads)
                done.append(1)
            except RuntimeError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("in the middle of another update" in error for error in errors)
    assert len(errors) + len(done) == 3 * steps
    assert_array_equal(params["p"], np.full(size, float(len(done))))


def test_other_python_threads_run_on_beside_a_long_update():
    size = 8_000_000
    params, grads = {"p": np.ones(size)}, {"p": np.ones(size)}
    optimizer = fastopt.Adam()
    optimizer.update(params, grads)
    ticks, stop = [], threading.Event()

    def count():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    counter = threading.Thread(target=count)
    counter.start()
    spans = []
    for _ in range(10):
        start = time.perf_counter()
        optimizer.update(params, grads)
        spans.append((start, time.perf_counter()))
    stop.set()
    counter.join()
    inside = sum(any(a < tick < b for a, b in spans) for tick in ticks)
    assert inside >= 10  # with the GIL held there would be none


@needs_fork
@may_warn_of_fork
def test_forked_child_works_and_gets_the_same_bits():
    want = train(fastopt.Adam, 3)
    assert _pool.count_workers() >= 1

    def work():
        assert _pool.count_workers() == 0
        assert_array_equal(train(fastopt.Adam, 3), want)
        assert _pool.count_workers() == 1

    assert status_of_child(work) == 0
    assert_array_equal(train(fastopt.Adam, 3), want)  # and the parent goes on


@needs_fork
@may_warn_of_fork
@pytest.mark.parametrize("layout", ["contiguous", "strided"])
def test_optimizer_that_was_in_a_step_when_forked_works_in_the_child(layout):
    optimizer, stop = fastopt.Adam(), threading.Event()
    params, grads = ({key: np.ones(10**6) for key in range(6)} for _ in range(2))
    if layout == "strided":  # copies stand in for them, which a child must not take for its own
        params = {key: np.ones((10**6, 2))[:, 0] for key in range(6)}

    def step():
        for _ in range(3):
            optimizer.update(params, grads)
        alone, want = {"p": np.ones(10**5)}, {"p": np.ones(10**5)}
        fresh = reference.Adam()
        fresh.iter = optimizer.iter
        optimizer.m, optimizer.v = {}, {}
        optimizer.update(alone, {"p": np.full(10**5, 3.0)})
        fresh.update(want, {"p": np.full(10**5, 3.0)})
        assert_array_equal(alone["p"], want["p"])

    def work():
        while not stop.is_set():
            step()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(5):
            time.sleep(0.02)
            assert status_of_child(step) == 0
    finally:
        stop.set()
        thread.join()


@needs_fork
@may_warn_of_fork
@pytest.mark.parametrize("elsewhere", [False, True])
def test_fork_within_a_step(elsewhere):
    """The child has the step that the forking thread is in: it ends it, and begins no other."""
    optimizer = fastopt.Momentum()

    class Forking(collections.UserDict):
        def __getitem__(self, key):
            if self.data[key] is None:

                def step_again():
                    with pytest.raises(RuntimeError, match="in the middle of another update"):
                        optimizer.update({"q": np.ones(2)}, {"q": np.ones(2)})

                self.data[key] = np.ones(3)
                self.pid = os.fork()
                if self.pid == 0:
                    signal.alarm(60)
                    step_again()
            return self.data[key]

    def step():
        params, grads = {"p": np.ones(3)}, Forking(p=None)
        code = 1
        try:
            optimizer.update(params, grads)
            optimizer.update(params, grads)
            assert np.all(params["p"] < 1)
            assert [*optimizer.v] == ["p"]
            code = 0
        finally:
            if grads.pid == 0:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(grads.pid, 0)[1]) == 0

    if elsewhere:
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            executor.submit(step).result()
    else:
        step()


def train_in_child(seed):
    fastopt.set_num_threads(2)
    return train(fastopt.Adam, seed, steps=5)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@may_warn_of_fork
def test_multiprocessing(method):
    want = [train_in_child(seed) for seed in range(2)]
    with multiprocessing.get_context(method).Pool(2) as pool:
        got = pool.map_async(train_in_child, range(2)).get(timeout=120)
    for g, w in zip(got, want, strict=True):
        assert_array_equal(g, w)


def executors():
    """Return what makes an executor of two, threads or processes of each kind."""
    found = {"threads": lambda: concurrent.futures.ThreadPoolExecutor(2)}
    for method in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context(method)
        found[method] = lambda context=context: concurrent.futures.ProcessPoolExecutor(2, context)
    return found


@pytest.mark.parametrize("kind", executors())
@may_warn_of_fork
def test_concurrent_futures(kind):
    want = [train_in_child(seed) for seed in range(4)]
    with executors()[kind]() as executor:
        got = list(executor.map(train_in_child, range(4), timeout=120))
    for g, w in zip(got, want, strict=True):
        assert_array_equal(g, w)


@needs_fork
@may_warn_of_fork
def test_threads_step_while_their_number_changes_and_the_process_forks():
    want = [train(fastopt.Adam, seed, steps=40) for seed in range(3)]
    with concurrent.futures.ThreadPoolExecutor(3) as executor:
        trained = [executor.submit(train, fastopt.Adam, seed, steps=40) for seed in range(3)]
        for i in range(20):
            fastopt.set_num_threads(1 + i % 5)
            if i % 5 == 2:
                assert status_of_child(lambda: train(fastopt.Adam, 1, steps=2)) == 0
            time.sleep(0.001)
    for future, w in zip(trained, want, strict=True):
        assert_array_equal(future.result(), w)


@needs_fork
@may_warn_of_fork
def test_fork_while_another_thread_updates():
    stop = threading.Event()

    def work():
        while not stop.is_set():
            train(fastopt.Adam, 0, steps=3)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(10):
            assert status_of_child(lambda: train(fastopt.Adam, 1, steps=2)) == 0
    finally:
        stop.set()
        thread.join()


def test_exception_in_one_thread_leaves_it_and_the_others_working():
    want = train(reference.Adam, 5, steps=10)
    failures = []

    def fail_in_between():
        rng = np.random.default_rng(5)
        params = {"p": rng.standard_normal(LARGE).astype(np.float32), "z": np.ones(2)}
        grads = {"p": rng.standard_normal(LARGE).astype(np.float32), "z": np.ones(2)}
        optimizer = fastopt.Adam()
        for _ in range(10):
            for bad in (np.ones(3), "z"):
                try:
                    optimizer.update(params, {**grads, "z": bad})
                except (TypeError, ValueError) as error:
                    failures.append(error)
            optimizer.update(params, grads)
        return params["p"]

    with concurrent.futures.ThreadPoolExecutor(3) as executor:
        failing = [executor.submit(fail_in_between) for _ in range(2)]
        other = executor.submit(train, fastopt.Adam, 5, steps=10)
    assert len(failures) == 40
    for future in (*failing, other):
        assert_array_equal(future.result(), want)


class Interrupted:
    """A large step that is repeated until an exception comes, and its twin to compare with."""

    def __init__(self):
        rng = np.random.default_rng(8)
        self.start = rng.standard_normal(10**6).astype(np.float32)
        self.grads = {"p": rng.standard_normal(10**6).astype(np.float32)}
        self.params = {"p": self.start.copy()}
        self.optimizer = fastopt.Adam()
        self.stepping = threading.Event()

    def step_until(self, exception):
        with pytest.raises(exception):  # noqa: PT012
            self.stepping.set()
            while True:
                self.optimizer.update(self.params, self.grads)

    def check(self):
        """Each step was taken whole, and counted, or not at all."""
        twin, params = reference.Adam(), {"p": self.start}
        for _ in range(self.optimizer.iter):
            twin.update(params, self.grads)
        for got, want in (
            (self.params, params), (self.optimizer.m, twin.m), (self.optimizer.v, twin.v)
        ):  # fmt: skip
            assert_array_equal(got["p"], want["p"])


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals to threads")
def test_interrupt_waits_for_the_end_of_the_update():
    job, before = Interrupted(), signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt():
        job.stepping.wait()
        time.sleep(0.005)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    try:
        for _ in range(5):
            job.stepping.clear()
            sender = threading.Thread(target=interrupt)
            sender.start()
            job.step_until(KeyboardInterrupt)
            sender.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert job.optimizer.iter > 0
    job.check()


def test_interrupt_before_the_update_writes_changes_nothing():
    class Interrupting(collections.UserDict):
        def __getitem__(self, key):
            if key == "b":
                signal.raise_signal(signal.SIGINT)
            return super().__getitem__(key)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    optimizer, params = fastopt.Adam(), {"a": np.ones(3), "b": np.ones(3)}
    try:
        with pytest.raises(KeyboardInterrupt):
            optimizer.update(params, Interrupting(a=np.ones(3), b=np.ones(3)))
    finally:
        signal.signal(signal.SIGINT, before)
    assert_array_equal([params["a"], params["b"]], np.ones((2, 3)))
    assert (optimizer.iter, optimizer.m, optimizer.v) == (0, {}, {})
    optimizer.update(params, {"a": np.ones(3), "b": np.ones(3)})


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="needs CPython's own functions")
def test_exception_sent_to_a_thread_waits_for_the_end_of_the_update():
    class Stopped(Exception):  # noqa: N818
        pass

    job = Interrupted()
    for _ in range(5):
        job.stepping.clear()
        thread = threading.Thread(target=job.step_until, args=(Stopped,))
        thread.start()
        job.stepping.wait()
        time.sleep(0.005)
        send = ctypes.pythonapi.PyThreadState_SetAsyncExc
        assert send(ctypes.c_ulong(thread.ident), ctypes.py_object(Stopped)) == 1
        thread.join()
    assert job.optimizer.iter > 0
    job.check()


@pytest.mark.parametrize("ending", ["pass", "raise SystemExit(0)", "import os; os._exit(0)"])
def test_interpreter_exits_while_workers_live(ending):
    code = (
        "import numpy as np, fastopt; fastopt.set_num_threads(4); o = fastopt.Adam();"
        f"o.update({{'p': np.ones(10**6)}}, {{'p': np.ones(10**6)}}); {ending}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], timeout=60, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_interpreter_exits_while_a_daemon_thread_updates():
    code = """
import threading, numpy as np, fastopt
fastopt.set_num_threads(2)
def work():
    o, p = fastopt.Adam(), {"p": np.ones(10**6)}
    while True:
        o.update(p, p)
threading.Thread(target=work, daemon=True).start()
import time; time.sleep(0.3)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], timeout=60, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("size", [1000, LARGE])
def test_steps_allocate_nothing_that_grows(size):
    tracemalloc = pytest.importorskip("tracemalloc")
    optimizer = fastopt.Adam()
    params = {key: np.ones(size // 10) for key in range(10)}
    grads = {key: np.ones(size // 10) for key in range(10)}

    def used_after(steps):
        for _ in range(steps):
            optimizer.update(params, grads)
        return tracemalloc.get_traced_memory()[0]

    def counts_of_references():
        return [sys.getrefcount(kept[3]) for kept in (params, grads, optimizer.m, optimizer.v)]

    optimizer.update(params, grads)
    counts = counts_of_references()
    tracemalloc.start()
    try:
        first = used_after(100)
        assert used_after(200 if size == LARGE else 10_000) - first < 500
    finally:
        tracemalloc.stop()
    assert counts_of_references() == counts


MANY = {
    "known": ({"p": np.ones(3), "q": np.ones(2)}, {"p": np.ones(3), "q": np.ones(2)}),
    "packed": ({"p": np.ones((2, 4))[:, ::2]}, {"p": np.ones((2, 2), np.float32)}),
    "plain number": ({"p": 1.0}, {"p": 1.0}),
    "frozen": ({"p": np.ones(3), "q": np.ones(2)}, {"p": None, "q": np.ones(2)}),
    "refused": ({"p": np.ones(3), "q": np.ones(2)}, {"p": np.ones(3), "q": np.ones(1)}),
    "mapping": ({"p": np.ones(3)}, collections.UserDict(p=np.ones(3))),
}


@pytest.mark.parametrize("kind", MANY)
def test_a_hundred_thousand_steps_leave_references_and_memory_as_they_were(kind):
    params, grads = MANY[kind]
    optimizer = fastopt.Adam()
    arrays = [*params.values(), *grads.values()] if kind != "plain number" else []

    def step(times):
        for _ in range(times):
            try:
                optimizer.update(params, grads)
            except ValueError:
                assert kind == "refused"

    def counts():
        kept = (*arrays, *optimizer.m.values(), *optimizer.v.values(), *params, optimizer, params)
        kept = (*kept, grads, optimizer.m, optimizer.v, None, np.float32, np.float64)
        dtypes = np.dtype(np.float32), np.dtype(np.float64)
        return [sys.getrefcount(thing) for thing in (*kept, *dtypes)]

    step(100)
    before, blocks = counts(), sys.getallocatedblocks()
    step(100_000)
    after, more_blocks = counts(), sys.getallocatedblocks()
    assert after == before
    assert more_blocks - blocks < 100
    assert optimizer.iter == (0 if kind == "refused" else 100_100)


def test_resident_memory_does_not_grow():
    resource = pytest.importorskip("resource")
    optimizer = fastopt.Adam()
    params, grads = ({key: np.ones(20) for key in range(10)} for _ in range(2))

    def peak_after(steps):
        for _ in range(steps):
            optimizer.update(params, grads)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    first = peak_after(1000)
    assert peak_after(20_000) - first < 1000  # KiB, on Linux
