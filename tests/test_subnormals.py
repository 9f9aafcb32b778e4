"""Flushing subnormal numbers: off by default, on by a switch, never left on, alike on all threads.

The oracle is the twin, computed by NumPy on a thread whose own mode flushes. That mode is set by
the C library's fesetenv, and read again to see that a step leaves none behind. Nets and layers have
no switch, but their workers, too, compute in the calling thread's mode. A Trainer's steps flush, on
by default, and nothing else does because of them.
"""

import copy
import ctypes
import doctest
import importlib
import platform
import struct
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from helpers.marks import every_dtype
from helpers.processes import run
from helpers.twins import assert_same
from numpy.testing import assert_array_equal
from optimizer_table import TABLE, every_optimizer

import fastopt
from fastopt import _cpu, _products, _subnormals

# where fenv_t holds the control register, its bits that flush, and those of the rounding upwards
REGISTERS = {"x86_64": (28, 0x8040, 0x4000), "aarch64": (0, 1 << 24, 1 << 22)}
CONTROL = {"x86_64": 0xFFC0, "aarch64": 0xFFFFFFFF}  # without the flags of what has happened

can_flush = pytest.mark.skipif(
    not _cpu.can_flush_subnormals, reason="this processor can't flush subnormal numbers"
)
can_set_mode = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in REGISTERS,
    reason="where this system's fenv_t holds the control register is not known here",
)


@pytest.fixture(autouse=True)
def _as_before():
    threads = fastopt.get_num_threads()
    yield
    fastopt.set_num_threads(threads)
    fastopt.set_flush_subnormals(False)


def environment():
    buffer = ctypes.create_string_buffer(64)
    assert ctypes.CDLL(None).fegetenv(buffer) == 0
    return buffer


def mode():
    """Return the control bits of the calling thread's register."""
    machine = platform.machine()
    return struct.unpack_from("I", environment(), REGISTERS[machine][0])[0] & CONTROL[machine]


@contextmanager
def computing(kind):
    """Let the calling thread flush subnormal numbers, or round upwards."""
    before, changed = environment(), environment()
    offset, flush, upward = REGISTERS[platform.machine()]
    register = struct.unpack_from("I", changed, offset)[0]
    struct.pack_into("I", changed, offset, register | (flush if kind == "flush" else upward))
    set_environment = ctypes.CDLL(None).fesetenv
    set_environment(changed)
    try:
        yield
    finally:
        set_environment(before)


def world(dtype, size, seed=0):
    """Return parameters and gradients around the end of the normal range, and ordinary ones."""
    rng = np.random.default_rng(seed)
    tiny = np.finfo(dtype).tiny
    near = rng.standard_normal(size) * 10.0 ** rng.integers(-3, 3, size)
    p = (near * tiny).astype(dtype)
    p[::3] = rng.standard_normal(p[::3].shape)
    g = (rng.permutation(near) * tiny).astype(dtype)
    g[::5] = rng.standard_normal(g[::5].shape)
    roots = np.sqrt(np.abs(near) * tiny).astype(dtype)  # their squares are subnormal
    g[::7] = roots[::7]
    return {"p": p, "q": p[::-1].copy()}, {"p": g, "q": np.zeros_like(g)}


def step_both(row, dtype, size, steps, twin_mode):
    """Step twin and compiled over the same; return both, and what they stepped over."""
    if size == "large":  # just enough for the two arrays to be shared out to the workers
        size = 4_100_000 // (np.dtype(dtype).itemsize * (3 + 2 * len(row.states)))
    ours, grads = world(dtype, size)
    theirs, _ = world(dtype, size)
    compiled, twin = row.compiled(**row.settings), row.twin(**row.settings)
    for _ in range(steps):
        compiled.update(ours, grads)
        if twin_mode is None:
            twin.update(theirs, grads)
        else:
            with computing(twin_mode):
                twin.update(theirs, grads)
    return compiled, twin, ours, theirs


def n_subnormal(arrays):
    return sum(int(np.sum((a != 0) & (np.abs(a) < np.finfo(a.dtype).tiny))) for a in arrays)


def arrays_of(row, optimizer, params):
    return [
        *params.values(),
        *(s for name in row.states for s in getattr(optimizer, name).values()),
    ]


@can_flush
@can_set_mode
@every_optimizer
@every_dtype
@pytest.mark.parametrize(("size", "threads"), [(533, 1), (60_000, 1), ("large", 3)])
def test_flushing_gives_what_numpy_gives_when_it_flushes(row, dtype, size, threads):
    fastopt.set_num_threads(threads)
    fastopt.set_flush_subnormals(True)
    compiled, twin, ours, theirs = step_both(row, dtype, size, steps=3, twin_mode="flush")
    assert_same(compiled, twin, ours, theirs)
    assert n_subnormal(arrays_of(row, compiled, ours)) == 0
    for key, p in theirs.items():
        assert_array_equal(np.signbit(ours[key]), np.signbit(p))


@can_flush
@every_optimizer
@every_dtype
@pytest.mark.parametrize(("size", "threads"), [(533, 1), ("large", 3)])
def test_bits_are_numpys_again_when_switched_off(row, dtype, size, threads):
    fastopt.set_num_threads(threads)
    fastopt.set_flush_subnormals(True)
    step_both(row, dtype, size, steps=1, twin_mode=None)
    fastopt.set_flush_subnormals(False)
    compiled, twin, ours, theirs = step_both(row, dtype, size, steps=3, twin_mode=None)
    assert_same(compiled, twin, ours, theirs)
    assert n_subnormal(arrays_of(row, compiled, ours)) > 0


@can_flush
@every_dtype
@pytest.mark.parametrize("size", [5, 60_000, 700_001])
def test_nothing_is_left_on_in_the_calling_thread(dtype, size):
    fastopt.set_num_threads(3)
    fastopt.set_flush_subnormals(True)
    subnormal = np.array([np.finfo(dtype).smallest_subnormal] * 40, dtype) * 9
    before = subnormal * np.asarray(3, dtype) - subnormal / np.asarray(2, dtype)
    assert n_subnormal([before]) == 40
    known_mode = mode() if not can_set_mode.args[0] else None
    for row in TABLE:
        optimizer, (params, grads) = row.compiled(), world(dtype, size)
        for _ in range(2):  # a step that is checked, and one that is known
            optimizer.update(params, grads)
            after = subnormal * np.asarray(3, dtype) - subnormal / np.asarray(2, dtype)
            assert_array_equal(after, before, strict=True)
        with pytest.raises(KeyError):
            optimizer.update(params, {})
        if known_mode is not None:
            assert mode() == known_mode


@can_set_mode
@every_optimizer
@every_dtype
@pytest.mark.parametrize("kind", ["flush", "upward"])
@pytest.mark.parametrize(("size", "threads"), [(533, 1), ("large", 3)])
def test_workers_compute_as_the_calling_thread_does(row, dtype, kind, size, threads):
    fastopt.set_num_threads(threads)
    step_both(row, dtype, size, steps=1, twin_mode=None)  # the workers begin in another mode
    plain, _, ordinary, _ = step_both(row, dtype, size, steps=2, twin_mode=None)
    with computing(kind):
        inside = mode()
        compiled, twin, ours, theirs = step_both(row, dtype, size, steps=2, twin_mode=kind)
        assert mode() == inside
    assert_same(compiled, twin, ours, theirs)
    pairs = zip(arrays_of(row, compiled, ours), arrays_of(row, plain, ordinary), strict=True)
    assert any(np.any(a != b) for a, b in pairs)  # the mode does matter here


def net_results(net, x, t):
    scores, (loss, grads) = net.predict(x), net.loss_and_gradient(x, t)
    return b"".join(
        [scores.tobytes(), np.float64(loss).tobytes(), *map(np.ndarray.tobytes, grads.values())]
    )


def affine_results(layer, x, dout):
    out, dx = layer.forward(x), layer.backward(dout)
    return b"".join(map(np.ndarray.tobytes, (out, dx, layer.dW, layer.db)))


def networks_of_tiny_numbers():
    """Return calls whose results hold subnormal numbers, large enough to be shared out."""
    rng = np.random.default_rng(0)
    net = fastopt.MultiLayerNet(300, [300], 10, rng=0)
    net.params["W1"] *= np.float32(1e-19)
    x = (1e-19 * rng.standard_normal((512, 300))).astype("f4")
    t, dout = np.arange(512) % 10, np.ones((512, 300), "f4") * np.float32(1e-20)
    layer = fastopt.Affine(net.params["W1"], net.params["b1"])
    return {"net": lambda: net_results(net, x, t), "Affine": lambda: affine_results(layer, x, dout)}


@can_set_mode
@pytest.mark.parametrize("kind", ["flush", "upward"])
@pytest.mark.parametrize("what", ["net", "Affine"])
def test_workers_of_nets_compute_as_the_calling_thread_does(what, kind):
    call = networks_of_tiny_numbers()[what]
    results, plain = {}, {}
    for threads in (1, 2, 3):
        fastopt.set_num_threads(threads)
        plain[threads] = call()  # the workers begin in another mode
        with computing(kind):
            inside = mode()
            results[threads] = {call() for _ in range(300)}
            assert mode() == inside
        assert len(results[threads]) == 1
        assert plain[threads] not in results[threads]  # the mode does matter here
        assert call() == plain[threads]
    if not _products.uses_blas:  # whose products are not the same on every number of threads
        assert results[1] == results[2] == results[3]


@can_flush
def test_ordinary_numbers_are_untouched():
    for flush in (True, False):
        fastopt.set_flush_subnormals(flush)
        for row in TABLE:
            params, twin_params = ({"p": np.linspace(1, 2, 99)} for _ in range(2))
            compiled, twin = row.compiled(), row.twin()
            for _ in range(3):
                compiled.update(params, {"p": np.linspace(-3, 4, 99)})
                twin.update(twin_params, {"p": np.linspace(-3, 4, 99)})
            assert_same(compiled, twin, params, twin_params)


@can_flush
def test_threads_that_step_at_once_agree():
    fastopt.set_num_threads(2)
    fastopt.set_flush_subnormals(True)
    want, grads = world("float32", 700_001)
    fastopt.Adam().update(want, grads)
    got = [world("float32", 700_001)[0] for _ in range(4)]
    after, leaks = [], np.array([5e-324])

    def work(params):
        fastopt.Adam().update(params, grads)
        after.append(leaks * 2)

    threads = [threading.Thread(target=work, args=(params,)) for params in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for params in got:
        assert_array_equal(params["p"], want["p"])
    assert_array_equal(after, [[1e-323]] * 4)


def test_settings():
    assert fastopt.get_flush_subnormals() is False
    assert fastopt.show_config("dicts")["kernels"]["flush_subnormals"] is False
    for bad in (1, 0, "1", None, np.ones(1, bool)):
        with pytest.raises(TypeError, match="True or False"):
            fastopt.set_flush_subnormals(bad)
    fastopt.set_flush_subnormals(np.False_)
    assert fastopt.get_flush_subnormals() is False


@can_flush
def test_switch_is_seen():
    for flush in (True, np.True_):
        fastopt.set_flush_subnormals(flush)
        assert fastopt.get_flush_subnormals() is True
        assert fastopt.show_config("dicts")["kernels"]["flush_subnormals"] is True
        fastopt.set_flush_subnormals(False)
    assert doctest.testmod(importlib.import_module("fastopt._subnormals")).failed == 0


def test_a_processor_that_can_not_says_so(monkeypatch):
    monkeypatch.setattr(_cpu, "can_flush_subnormals", False)
    with pytest.raises(NotImplementedError, match="can't be flushed"):
        fastopt.set_flush_subnormals(True)
    fastopt.set_flush_subnormals(False)
    assert fastopt.get_flush_subnormals() is False


def test_environment_sets_it():
    for text, want in (("", False), ("0", False), (" 1 ", True)):
        environ = {"FASTOPT_FLUSH_SUBNORMALS": text}
        assert _subnormals.initial_flush_subnormals(environ) is want
    assert _subnormals.initial_flush_subnormals({}) is False
    for bad in ("2", "true", "-1"):
        with pytest.raises(ValueError, match=f"FASTOPT_FLUSH_SUBNORMALS={bad} must be 0 or 1"):
            _subnormals.initial_flush_subnormals({"FASTOPT_FLUSH_SUBNORMALS": bad})


@can_flush
def test_environment_reaches_the_kernels():
    code = (
        "import numpy as np, fastopt; p = {'p': np.array([1e-310])};"
        "fastopt.SGD().update(p, {'p': np.zeros(1)}); print(p['p'][0])"
    )
    assert run(code, FASTOPT_FLUSH_SUBNORMALS="1").stdout == "0.0\n"
    assert run(code, FASTOPT_FLUSH_SUBNORMALS="0").stdout == "1e-310\n"


# --- the Trainer ---


class Dead:
    """A net whose gradients are zero: what is left of a moving average decays."""

    def __init__(self):
        self.params = {"w": np.array([1e-310, 1.0])}

    def loss_and_gradient(self, x, t, out=None, *, batch):
        return 0.0, {"w": np.zeros(2)}


def fit_dead(optimizer, steps=1, callbacks=(), **settings):
    net = Dead()
    trainer = fastopt.Trainer(net, optimizer, batch_size=1, callbacks=callbacks, **settings)
    trainer.fit(np.zeros((1, 1)), np.zeros(1), epochs=steps)
    return net.params["w"][0]


def bare(optimizer):
    params = Dead().params
    optimizer.update(params, {"w": np.zeros(2)})
    return params["w"][0]


every_options = pytest.mark.parametrize(
    "options",
    [{}, {"clip_global_norm": 1.0}, {"ema": 0.5}, {"groups": {"w": {"lr": 1}}}, {"accumulate": 2}],
    ids=["plain", "measured", "average", "groups", "accumulated"],
)


@can_flush
@every_options
def test_steps_of_a_trainer_flush_and_bare_ones_do_not(options):
    optimizer = fastopt.SGD(**options)
    steps = options.get("accumulate", 1)
    for _ in range(2):
        assert fit_dead(optimizer, steps) == 0
        assert not fastopt.get_flush_subnormals()
        assert {bare(optimizer) for _ in range(steps)} == {1e-310}
        assert fit_dead(optimizer, steps, flush_subnormals=False) == 1e-310


@can_flush
@every_optimizer
def test_a_trainer_that_keeps_subnormals_has_numpys_bits(row):
    class Tiny:
        def __init__(self, grads, params):
            self.params, self.grads = params, grads

        def loss_and_gradient(self, x, t, out=None, *, batch):
            return 0.0, self.grads

    def fit(optimizer, **settings):
        params, grads = world("float64", 99)
        trainer = fastopt.Trainer(Tiny(grads, params), optimizer, **settings)
        trainer.fit(np.zeros((1, 1)), np.zeros(1), epochs=3)
        return optimizer, params

    (compiled, ours), (twin, theirs) = (
        fit(package(**row.settings), flush_subnormals=False) for package in (row.compiled, row.twin)
    )
    assert_same(compiled, twin, ours, theirs)
    assert n_subnormal(arrays_of(row, compiled, ours)) > 0
    # A twin, which NumPy computes, keeps them in any case
    twin, again = fit(row.twin(**row.settings))
    assert_same(compiled, twin, ours, again)
    flushing, flushed = fit(row.compiled(**row.settings))
    assert n_subnormal(arrays_of(row, flushing, flushed)) == 0


@can_flush
@pytest.mark.parametrize("switch", [True, False])
def test_the_switch_of_the_process_is_neither_read_nor_changed(switch):
    seen = []
    fastopt.set_flush_subnormals(switch)
    look = [lambda trainer: seen.append(fastopt.get_flush_subnormals())]
    assert fit_dead(fastopt.SGD(), callbacks=look) == 0
    assert seen == [switch]
    assert fastopt.get_flush_subnormals() is switch
    # The switch is for every step, of a Trainer's too
    assert fit_dead(fastopt.SGD(), flush_subnormals=False) == (0 if switch else 1e-310)


@can_flush
def test_bare_steps_during_a_fit_do_not_flush():
    class Bare:
        def __init__(self, moment):
            setattr(self, moment, self.act)

        def act(self, trainer, grads=None):
            found.append(bare(trainer.optimizer))
            found.append(bare(other))
            with ThreadPoolExecutor(1) as pool:
                found.append(pool.submit(bare, another).result())

    found, other, another = [], fastopt.SGD(), fastopt.SGD()
    for moment in ("start", "gradient", "step", "end"):
        assert fit_dead(fastopt.SGD(), callbacks=[Bare(moment)]) == 0
    assert found == [1e-310] * 12


@can_flush
def test_a_step_of_another_thread_at_the_same_time_does_not_flush():
    class Slow(dict):
        """Gradients that are read while another thread takes a step of its own."""

        def __getitem__(self, key):
            with ThreadPoolExecutor(1) as pool:
                found.append(pool.submit(bare, other).result())
            return super().__getitem__(key)

    class Net(Dead):
        def loss_and_gradient(self, x, t, out=None, *, batch):
            return 0.0, Slow(w=np.zeros(2))

    found, other, net = [], fastopt.SGD(), Net()
    fastopt.Trainer(net, fastopt.SGD()).fit(np.zeros((1, 1)), np.zeros(1), epochs=2)
    assert net.params["w"][0] == 0
    assert found
    assert {*found} == {1e-310}


@can_flush
@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_after_a_step_that_failed_bare_ones_do_not_flush(error):
    class Failing(Dead):
        def loss_and_gradient(self, x, t, out=None, *, batch):
            return 0.0, Raises(w=np.zeros(2))

    class Raises(dict):
        def __getitem__(self, key):
            raise error("w")

    optimizer = fastopt.SGD()
    trainer = fastopt.Trainer(Failing(), optimizer)
    try:
        trainer.fit(np.zeros((1, 1)), np.zeros(1), epochs=1)
    except KeyError:
        assert error is KeyError
    assert bare(optimizer) == 1e-310


@can_flush
def test_steps_as_a_generator_flush_and_a_copy_does_not():
    optimizer, net = fastopt.SGD(), Dead()
    trainer = fastopt.Trainer(net, optimizer)
    steps = trainer.steps(np.zeros((1, 1)), np.zeros(1), [[0]] * 3)
    next(steps)
    assert net.params["w"][0] == 0
    assert bare(optimizer) == bare(copy.deepcopy(optimizer)) == 1e-310
    net.params["w"][0] = 1e-310
    next(steps)
    assert net.params["w"][0] == 0


def test_a_trainer_on_a_processor_that_can_not_keeps_them(monkeypatch):
    monkeypatch.setattr(_cpu, "can_flush_subnormals", False)
    assert fit_dead(fastopt.SGD()) == 1e-310


def test_an_optimizer_of_ones_own_is_left_alone():
    class Own:
        def update(self, params, grads):
            params["w"] -= grads["w"]

    assert fit_dead(Own()) == 1e-310
