"""One optimizer step in each library: `LIBRARIES[name](optimizer, params, grads, threads)`.

Each returns a function that takes one step, as its users would write it, or raises
UnavailableError: a library that is not installed, or that has no such optimizer, is left out.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import itertools
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rounds import Step, UnavailableError

import fastopt

Arrays = dict[str, np.ndarray]


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnavailableError(f"{name} is not installed") from error


def _of(known: dict[str, Any], optimizer: str, library: str) -> Any:
    if optimizer not in known:
        raise UnavailableError(f"{library} is not asked for {optimizer}")
    return known[optimizer]


def _fastopt(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Step:
    import fastopt

    fastopt.set_num_threads(threads)
    return functools.partial(getattr(fastopt, optimizer)().update, params, grads)


def _twin(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Step:
    from fastopt import reference

    return functools.partial(getattr(reference, optimizer)().update, params, grads)


def _numpy(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Step:
    """Adam in the few lines that people write, with no check of anything."""
    if optimizer != "Adam":
        raise UnavailableError("only Adam is written out")
    m, v = ({key: np.zeros_like(p) for key, p in params.items()} for _ in range(2))
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        lr_t = 0.001 * (1 - 0.999**steps) ** 0.5 / (1 - 0.9**steps)
        for key, g in grads.items():
            m[key] += 0.1 * (g - m[key])
            v[key] += 0.001 * (g * g - v[key])
            params[key] -= lr_t * m[key] / (np.sqrt(v[key]) + 1e-7)

    return step


def _torch(optimizer: str, params: Arrays, grads: Arrays, threads: int, fused: bool) -> Step:
    torch = _module("torch")
    torch.set_num_threads(threads)
    tensors = []
    for key, p in params.items():
        tensor = torch.nn.Parameter(torch.from_numpy(p))
        tensor.grad = torch.from_numpy(grads[key])
        tensors.append(tensor)
    optim = torch.optim
    known = {
        "SGD": (optim.SGD, {"lr": 0.01}),
        "Momentum": (optim.SGD, {"lr": 0.01, "momentum": 0.9}),
        "Nesterov": (optim.SGD, {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
        "AdaGrad": (optim.Adagrad, {"lr": 0.01}),
        "RMSprop": (optim.RMSprop, {"lr": 0.01}),
        "Adam": (optim.Adam, {"lr": 0.001}),
    }
    cls, settings = _of(known, optimizer, "torch")
    if fused:
        if optimizer == "RMSprop":
            raise UnavailableError("torch has no fused RMSprop on a CPU")
        settings["fused"] = True
    step: Step = cls(tensors, **settings).step
    return step


def _optax(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Step:
    jax, optax = _module("jax"), _module("optax")
    known = {
        "SGD": lambda: optax.sgd(0.01),
        "Momentum": lambda: optax.sgd(0.01, 0.9),
        "Nesterov": lambda: optax.sgd(0.01, 0.9, nesterov=True),
        "AdaGrad": lambda: optax.adagrad(0.01),
        "RMSprop": lambda: optax.rmsprop(0.01, 0.99),
        "Adam": lambda: optax.adam(0.001),
        "Lion": lambda: optax.lion(0.0001, weight_decay=0.0),
    }
    rule = _of(known, optimizer, "optax")()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params: Any, state: Any, grads: Any) -> Any:
        updates, state = rule.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    held = [jax.tree.map(jax.numpy.array, params), None]
    held[1] = rule.init(held[0])
    device_grads = jax.tree.map(jax.numpy.array, grads)

    def step() -> None:
        held[:] = jax.block_until_ready(update(*held, device_grads))

    return step


def _thinc(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Step:
    if optimizer != "Adam":
        raise UnavailableError("thinc has a kernel for Adam alone")
    ops = _module("thinc.api").NumpyOps()
    p, g = ([a.reshape(-1) for a in d.values()] for d in (params, grads))
    m, v = ([np.zeros_like(a) for a in p] for _ in range(2))

    def step() -> None:
        for one in zip(p, g, m, v, strict=True):
            ops.adam(*one, 0.9, 0.999, 1e-7, 0.001)

    return step


def _numba(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Step:
    numba = _module("numba")
    if optimizer != "Adam":
        raise UnavailableError("only Adam is written out")
    numba.set_num_threads(threads)

    def adam(p, g, m, v, lr_t):
        c1, c2, eps = np.float32(0.1), np.float32(0.001), np.float32(1e-7)
        for i in numba.prange(p.size):
            m[i] += c1 * (g[i] - m[i])
            v[i] += c2 * (g[i] * g[i] - v[i])
            p[i] -= lr_t * m[i] / (np.sqrt(v[i]) + eps)

    serial, parallel = numba.njit(adam), numba.njit(parallel=True)(adam)
    p, g = ([a.reshape(-1) for a in d.values()] for d in (params, grads))
    m, v = ([np.zeros_like(a) for a in p] for _ in range(2))
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        lr_t = np.float32(0.001 * (1 - 0.999**steps) ** 0.5 / (1 - 0.9**steps))
        for one in zip(p, g, m, v, strict=True):
            (parallel if one[0].size >= 50_000 else serial)(*one, lr_t)

    return step


# The least that a step can cost: read and write what the rule reads and writes, and little else
N_STATES = {name: len(getattr(fastopt, name)._states) for name in fastopt.optimizers.__all__}


def _traffic_source(n_states: int) -> str:
    """Return C for one more of each: a loop over p, g and so many states."""
    states = [f"s{k}" for k in range(n_states)]
    arguments = ", ".join(f"float *{name}" for name in ("p", "g", *states))
    sums = " ".join(f"{name}[i] += g[i];" for name in (*states, "p"))
    return (
        f"void traffic{n_states}({arguments}, long n)\n"
        f"{{ for (long i = 0; i < n; i++) {{ {sums} }} }}\n"
    )


@functools.cache
def _traffic_library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "traffic.c"), Path(folder, "traffic.so")
        source.write_text("".join(map(_traffic_source, set(N_STATES.values()))))
        flags = ["-O3", "-march=native", "-shared", "-fPIC"]
        try:
            subprocess.run(["cc", *flags, "-o", library, source], check=True)
        except OSError as error:
            raise UnavailableError("no C compiler") from error
        return ctypes.CDLL(str(library))


def _aligned(size: int) -> np.ndarray:
    """Return an array that begins at a cache line, or the loop would be no limit.

    It is filled: what was never written is read from one page of zeros, that is, from the cache.
    """
    buffer = np.full(size + 16, 1e-3, "f4")
    skip = -buffer.ctypes.data % 64 // 4
    return buffer[skip : skip + size]


def _memory(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Step:
    n_arrays = 2 + N_STATES[optimizer]
    function = _traffic_library()[f"traffic{N_STATES[optimizer]}"]
    function.restype = None
    calls = []
    if max(p.size for p in params.values()) < 1_000_000:
        threads = 1  # Python's threads take longer to wake than the loop runs
    for p in params.values():
        arrays = [_aligned(p.size) for _ in range(n_arrays)]
        bounds = [p.size * t // threads for t in range(threads + 1)]
        for low, high in itertools.pairwise(bounds):
            pointers = [ctypes.c_void_p(a.ctypes.data + 4 * low) for a in arrays]
            calls.append(((*pointers, ctypes.c_long(high - low)), arrays))
    if threads == 1:
        return lambda: [function(*arguments) for arguments, _ in calls]
    executor = ThreadPoolExecutor(threads)
    return lambda: list(executor.map(lambda call: function(*call[0]), calls))


LIBRARIES: dict[str, Callable[[str, Arrays, Arrays, int], Step]] = {
    "fastopt": _fastopt,
    "twin": _twin,
    "NumPy": _numpy,
    "torch": functools.partial(_torch, fused=False),
    "torch fused": functools.partial(_torch, fused=True),
    "optax jit": _optax,
    "numba": _numba,
    "thinc": _thinc,
    "memory": _memory,
}
