"""One optimizer step in each library: `LIBRARIES[name](optimizer, params, grads, threads)`.

An optimizer is called as here, or is one of `WITH_OPTIONS`. Each function of a library returns
one that takes a step, as its users would write it, or raises UnavailableError: a library that is
not installed, or that has no such optimizer, is left out.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import itertools
import math
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

N_STATES = {name: len(getattr(fastopt, name)._states) for name in fastopt.optimizers.__all__}

# Less than the norm of the gradients in any case: they are clipped in every step
CLIP = 0.001

WITH_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "Adam+ema": ("Adam", {"ema": 0.999}),
    "recipe": (
        "Adam",
        {"clip_global_norm": CLIP, "weight_decay": 0.01, "decoupled": True, "ema": 0.999},
    ),
}

OPTIMIZERS = [*N_STATES, *WITH_OPTIONS]


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnavailableError(f"{name} is not installed") from error


def _of(known: dict[str, Any], optimizer: str, library: str) -> Any:
    if optimizer not in known:
        raise UnavailableError(f"{library} is not asked for {optimizer}")
    return known[optimizer]


def _made(module: Any, optimizer: str) -> Any:
    name, options = WITH_OPTIONS.get(optimizer, (optimizer, {}))
    return _of(vars(module), name, module.__name__)(**options)


def _fastopt(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Step:
    fastopt.set_num_threads(threads)
    return functools.partial(_made(fastopt, optimizer).update, params, grads)


def _twin(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Step:
    from fastopt import reference

    return functools.partial(_made(reference, optimizer).update, params, grads)


def _numpy(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Step:
    """Adam in the few lines that people write, with no check of anything."""
    known = {"Adam": _numpy_adam, "recipe": _numpy_recipe}
    return _of(known, optimizer, "NumPy")(params, grads)


def _numpy_adam(params: Arrays, grads: Arrays) -> Step:
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


def _numpy_recipe(params: Arrays, grads: Arrays) -> Step:
    m, v = ({key: np.zeros_like(p) for key, p in params.items()} for _ in range(2))
    average = {key: p.copy() for key, p in params.items()}
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        lr_t = 0.001 * (1 - 0.999**steps) ** 0.5 / (1 - 0.9**steps)
        norm = math.sqrt(sum(float(np.sum(g * g)) for g in grads.values()))
        scale = min(1.0, CLIP / norm)
        for key, g in grads.items():
            p, clipped = params[key], scale * g
            p *= 1 - 0.001 * 0.01
            m[key] += 0.1 * (clipped - m[key])
            v[key] += 0.001 * (clipped * clipped - v[key])
            p -= lr_t * m[key] / (np.sqrt(v[key]) + 1e-7)
            average[key] += 0.001 * (p - average[key])

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
        "AdamW": (optim.AdamW, {"lr": 0.001}),
        "Adam+ema": (optim.Adam, {"lr": 0.001}),
        "recipe": (optim.AdamW, {"lr": 0.001, "weight_decay": 0.01}),
    }
    cls, settings = _of(known, optimizer, "torch")
    if fused:
        if optimizer == "RMSprop":
            raise UnavailableError("torch has no fused RMSprop on a CPU")
        settings["fused"] = True
    step: Step = cls(tensors, **settings).step
    if optimizer not in WITH_OPTIONS:
        return step
    options = WITH_OPTIONS[optimizer][1]
    values = [tensor.detach() for tensor in tensors]  # the same memory, without gradients
    averages = [value.clone() for value in values]

    def step_with_options() -> None:
        if "clip_global_norm" in options:
            torch.nn.utils.clip_grad_norm_(tensors, options["clip_global_norm"])
        step()
        torch._foreach_lerp_(averages, values, 1 - options["ema"])

    return step_with_options


def _optax(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Step:
    jax, optax = _module("jax"), _module("optax")
    known = {
        "SGD": lambda: optax.sgd(0.01),
        "Momentum": lambda: optax.sgd(0.01, 0.9),
        "Nesterov": lambda: optax.sgd(0.01, 0.9, nesterov=True),
        "AdaGrad": lambda: optax.adagrad(0.01),
        "RMSprop": lambda: optax.rmsprop(0.01, 0.99),
        "Adam": lambda: optax.adam(0.001),
        "AdamW": lambda: optax.adamw(0.001, weight_decay=0.01),
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


# The least that a step can cost: read and write what must be read and written, and little else.
# A pass over memory: the arrays, a letter each, that it reads, and those that it reads and writes
Pass = tuple[str, str]


def _passes(optimizer: str) -> list[Pass]:
    """Return the passes of a step that leaves gradients as they are, as fastopt makes them."""
    name, options = WITH_OPTIONS.get(optimizer, (optimizer, {}))
    norm = [("g", "")] * ("clip_global_norm" in options)
    return [*norm, ("g", "p" + "mvwxyz"[: N_STATES[name]] + "a" * ("ema" in options))]


def _torch_passes(optimizer: str) -> list[Pass]:
    """Return those of a call for each part of a step, of which one writes clipped gradients."""
    if optimizer not in WITH_OPTIONS:
        raise UnavailableError(f"all of {optimizer} is one pass")
    name, options = WITH_OPTIONS[optimizer]
    clipping = [("g", ""), ("", "g")] * ("clip_global_norm" in options)
    return [*clipping, *_passes(name), ("p", "a")]


def _name(one: Pass) -> str:
    reads, updates = one
    return f"traffic{len(reads)}_{len(updates)}"


def _traffic_source(one: Pass) -> str:
    """Return C for a pass that reads one array or none.

    Of a pass that only reads, the sum is returned, or the loop would go; of integers, in any order.
    """
    reads, updates = one
    kind = "float" if updates else "unsigned"
    arguments = [f"const {kind} *restrict {name}" for name in reads]
    arguments += [f"float *restrict {name}" for name in updates]
    increment = f"{reads}[i]" if reads else "1"
    changed = [f"{name}[i]" for name in updates] or ["sum"]
    body = " ".join(f"{place} += {increment};" for place in changed)
    return (
        f"unsigned {_name(one)}({', '.join(arguments)}, long n)\n"
        f"{{ unsigned sum = 0; for (long i = 0; i < n; i++) {{ {body} }} return sum; }}\n"
    )


@functools.cache
def _traffic_library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "traffic.c"), Path(folder, "traffic.so")
        passes = itertools.chain(*map(_passes, OPTIMIZERS), *map(_torch_passes, WITH_OPTIONS))
        source.write_text("".join({_name(one): _traffic_source(one) for one in passes}.values()))
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


def _memory(
    optimizer: str, params: Arrays, grads: Arrays, threads: int,
    passes_of: Callable[[str], list[Pass]],
) -> Step:  # fmt: skip
    passes = passes_of(optimizer)
    library = _traffic_library()
    if max(p.size for p in params.values()) < 1_000_000:
        threads = 1  # Python's threads take longer to wake than the loop runs
    names = sorted(set().union(*itertools.chain(*passes)))
    arrays = [{name: _aligned(p.size) for name in names} for p in params.values()]
    calls: list[list[Step]] = []  # of each pass, over all arrays
    for one in passes:
        function = library[_name(one)]
        calls.append([])
        for of_one in arrays:
            size = of_one["g"].size
            for low, high in itertools.pairwise(size * t // threads for t in range(threads + 1)):
                parts = [of_one[name][low:high] for name in "".join(one)]
                pointers = [part.ctypes.data_as(ctypes.c_void_p) for part in parts]
                calls[-1].append(functools.partial(function, *pointers, ctypes.c_long(high - low)))
    if threads == 1:
        return lambda: [call() for of_pass in calls for call in of_pass]
    executor = ThreadPoolExecutor(threads)
    return lambda: [list(executor.map(lambda call: call(), of_pass)) for of_pass in calls]


LIBRARIES: dict[str, Callable[[str, Arrays, Arrays, int], Step]] = {
    "fastopt": _fastopt,
    "twin": _twin,
    "NumPy": _numpy,
    "torch": functools.partial(_torch, fused=False),
    "torch fused": functools.partial(_torch, fused=True),
    "optax jit": _optax,
    "numba": _numba,
    "thinc": _thinc,
    "memory": functools.partial(_memory, passes_of=_passes),
    "memory torch": functools.partial(_memory, passes_of=_torch_passes),
}
