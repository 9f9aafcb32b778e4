"""One training step in each library: `LIBRARIES[name](job, threads)` returns a function.

A step takes the next batch from the samples, computes all gradients and makes an Adam step, as the
library's users would write it. "flushing" is fastopt that takes subnormal numbers for zero, as jax
does; "products" does nothing but the step's matrix products, into arrays that are there. NumPy is
asked for relu alone, which is what a tutorial has.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from libraries import _module
from rounds import Step, UnavailableError

BATCHES = 200  # drawn beforehand; the step goes round


@dataclass(frozen=True)
class Job:
    """A net and its batch size; what a hidden layer has is in the order of the attributes."""

    sizes: tuple[int, ...]
    batch_size: int
    use_batchnorm: bool = False
    activation: str = "relu"
    dropout_ratio: float = 0.0

    def is_of(self, *activations: str) -> bool:
        """Tell whether hidden layers are Affine and one of these activations, and no more."""
        has_more = self.use_batchnorm or self.dropout_ratio > 0
        return self.activation in activations and not has_more

    def data(self, dtype: str = "f4") -> tuple[np.ndarray, np.ndarray]:
        """Return samples and labels, as many as MNIST has if they are as wide."""
        rng = np.random.default_rng(0)
        n = 60_000 if self.sizes[0] == 784 else 5_000
        x = rng.random((n, self.sizes[0]), np.float32).astype(dtype, copy=False)
        return x, rng.integers(0, self.sizes[-1], n)

    def batches(self) -> Iterator[np.ndarray]:
        """Return row numbers, batch after batch without end."""
        n = 60_000 if self.sizes[0] == 784 else 5_000
        drawn = np.random.default_rng(1).integers(0, n, (BATCHES, self.batch_size))
        return itertools.cycle(list(drawn))

    def weights(self, dtype: str = "f4") -> list[tuple[np.ndarray, np.ndarray]]:
        """Return W and b of each layer."""
        rng = np.random.default_rng(2)
        return [
            ((rng.standard_normal((m, n)) * np.sqrt(2 / m)).astype(dtype), np.zeros(n, dtype))
            for m, n in itertools.pairwise(self.sizes)
        ]


JOBS = {
    "784-100-100-100-100-10, 128": Job((784, 100, 100, 100, 100, 10), 128),
    "64-64-64-10, 32": Job((64, 64, 64, 10), 32),
    "4-16-16-10, 1": Job((4, 16, 16, 10), 1),
    "784-1024-1024-10, 256": Job((784, 1024, 1024, 10), 256),
}
NAMED = list(JOBS)

# The picture: the first net at batches of each size
BATCH_SIZES = [1, 4, 16, 32, 64, 128, 256, 512]
JOBS |= {str(n): Job((784, 100, 100, 100, 100, 10), n) for n in BATCH_SIZES}

# The first net with other hidden layers
LAYERS = {
    "relu": {},
    "tanh": {"activation": "tanh"},
    "gelu": {"activation": "gelu"},
    "batch norm, relu": {"use_batchnorm": True},
    "relu, dropout": {"dropout_ratio": 0.5},
}
JOBS |= {name: Job((784, 100, 100, 100, 100, 10), 128, **had) for name, had in LAYERS.items()}


def _fastopt(job: Job, threads: int, flushes: bool) -> Step:
    import fastopt

    fastopt.set_num_threads(threads)
    fastopt.set_flush_subnormals(flushes)
    sizes, optimizer = job.sizes, fastopt.Adam()
    net = fastopt.MultiLayerNet(
        sizes[0], sizes[1:-1], sizes[-1], job.activation, use_batchnorm=job.use_batchnorm,
        use_dropout=job.dropout_ratio > 0, dropout_ratio=job.dropout_ratio,
    )  # fmt: skip
    (x, t), batches = job.data(), job.batches()
    grads = net.gradient(x, t, batch=next(batches))

    def step() -> None:
        net.gradient(x, t, out=grads, batch=next(batches))
        optimizer.update(net.params, grads)

    return step


def _numpy(job: Job, threads: int, dtype: str) -> Step:
    """Return the formulas as a tutorial writes them, with fresh arrays everywhere."""
    if not job.is_of("relu"):
        raise UnavailableError("NumPy is asked for relu alone")
    (x_all, t_all), batches = job.data(dtype), job.batches()
    params, m, v = {}, {}, {}
    for i, (W, b) in enumerate(job.weights(dtype), start=1):
        params |= {f"W{i}": W, f"b{i}": b}
    for key, p in params.items():
        m[key], v[key] = np.zeros_like(p), np.zeros_like(p)
    layers, steps = len(job.sizes) - 1, 0

    def gradient(x: np.ndarray, t: np.ndarray) -> dict[str, np.ndarray]:
        inputs, masks, grads = [], [], {}
        for i in range(1, layers + 1):
            inputs.append(x)
            x = np.dot(x, params[f"W{i}"]) + params[f"b{i}"]
            if i < layers:
                masks.append(x <= 0)
                x = x.copy()
                x[masks[-1]] = 0
        x = x.T - np.max(x.T, axis=0)
        y = (np.exp(x) / np.sum(np.exp(x), axis=0)).T
        np.sum(np.log(y[np.arange(len(y)), t] + 1e-7))  # of the loss, which a tutorial computes
        dout = y.copy()
        dout[np.arange(len(y)), t] -= 1
        dout = dout / len(y)
        for i in range(layers, 0, -1):
            if i < layers:
                dout[masks[i - 1]] = 0
            grads[f"W{i}"] = np.dot(inputs[i - 1].T, dout)
            grads[f"b{i}"] = np.sum(dout, axis=0)
            dout = np.dot(dout, params[f"W{i}"].T)
        return grads

    def step() -> None:
        nonlocal steps
        batch = next(batches)
        grads = gradient(x_all[batch], t_all[batch])
        steps += 1
        lr_t = 0.001 * (1 - 0.999**steps) ** 0.5 / (1 - 0.9**steps)
        for key, g in grads.items():
            m[key] += 0.1 * (g - m[key])
            v[key] += 0.001 * (g**2 - v[key])
            params[key] -= lr_t * m[key] / (np.sqrt(v[key]) + 1e-7)

    return step


def _torch(job: Job, threads: int, is_compiled: bool) -> Step:
    torch = _module("torch")
    torch.set_num_threads(threads)
    nn = torch.nn
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}[job.activation]
    layers: list[Any] = []
    for m, n in itertools.pairwise(job.sizes[:-1]):
        layers.append(nn.Linear(m, n))
        if job.use_batchnorm:
            layers.append(nn.BatchNorm1d(n))
        layers.append(activation())
        if job.dropout_ratio:
            layers.append(nn.Dropout(job.dropout_ratio))
    model = nn.Sequential(*layers, nn.Linear(*job.sizes[-2:]))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    x_all, t_all = map(torch.from_numpy, job.data())
    batches = map(torch.from_numpy, job.batches())

    def compute_loss(x: Any, t: Any) -> Any:
        return nn.functional.cross_entropy(model(x), t)

    if is_compiled:
        compute_loss = torch.compile(compute_loss)

    def step() -> None:
        batch = next(batches)
        optimizer.zero_grad()
        compute_loss(x_all[batch], t_all[batch]).backward()
        optimizer.step()

    return step


def _jax(job: Job, threads: int) -> Step:
    jax, optax = _module("jax"), _module("optax")
    numpy, rule = jax.numpy, optax.adam(0.001)
    activation = {
        "relu": jax.nn.relu,
        "tanh": numpy.tanh,
        "gelu": functools.partial(jax.nn.gelu, approximate=False),
    }[job.activation]
    x_all, t_all = map(numpy.array, job.data())
    batches = job.batches()

    def normalized(x: Any, gamma: Any, beta: Any) -> tuple[Any, list[Any]]:
        mean, var = x.mean(0), x.var(0)
        return gamma * (x - mean) / numpy.sqrt(var + 1e-5) + beta, [mean, var]

    def compute_loss(params: Any, key: Any, x: Any, t: Any) -> tuple[Any, list[Any]]:
        of_batch = []
        for i, (W, b, *scale) in enumerate(params[:-1]):
            x = x @ W + b
            if job.use_batchnorm:
                x, moments = normalized(x, *scale)
                of_batch.append(moments)
            x = activation(x)
            if job.dropout_ratio:
                share = 1 - job.dropout_ratio
                kept = jax.random.bernoulli(jax.random.fold_in(key, i), share, x.shape)
                x = numpy.where(kept, x / share, 0)
        W, b = params[-1]
        losses = optax.softmax_cross_entropy_with_integer_labels(x @ W + b, t)
        return losses.mean(), of_batch

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params: Any, states: Any, x_all: Any, t_all: Any, batch: Any) -> Any:
        state, running, key = states
        key, own = jax.random.split(key) if job.dropout_ratio else (key, key)
        grads, of_batch = jax.grad(compute_loss, has_aux=True)(
            params, own, x_all[batch], t_all[batch]
        )
        running = jax.tree.map(lambda r, moment: 0.9 * r + 0.1 * moment, running, of_batch)
        updates, state = rule.update(grads, state, params)
        return optax.apply_updates(params, updates), (state, running, key)

    *hidden, last = jax.tree.map(numpy.array, job.weights())
    running = []
    if job.use_batchnorm:
        hidden = [(W, b, numpy.ones_like(b), numpy.zeros_like(b)) for W, b in hidden]
        running = [[numpy.zeros_like(b), numpy.ones_like(b)] for _, b, *_ in hidden]
    params = [*hidden, last]
    held = [params, (rule.init(params), running, jax.random.key(3))]

    def step() -> None:
        held[:] = jax.block_until_ready(update(*held, x_all, t_all, next(batches)))

    return step


def _sklearn(job: Job, threads: int) -> Step:
    """Return a step of partial_fit, which computes the loss as well."""
    neural_network = _module("sklearn.neural_network")
    if not job.is_of("relu", "tanh"):
        raise UnavailableError("scikit-learn has no such hidden layers")
    (x, t), batches = job.data(), job.batches()
    model = neural_network.MLPClassifier(
        job.sizes[1:-1], job.activation, batch_size=job.batch_size, alpha=0, shuffle=False
    )
    classes = np.arange(job.sizes[-1])

    def step() -> None:
        batch = next(batches)
        model.partial_fit(x[batch], t[batch], classes=classes)

    return step


def _products(job: Job, threads: int) -> Step:
    rng = np.random.default_rng(0)

    def matrices(*shapes: tuple[int, int]) -> list[np.ndarray]:
        return [rng.random(shape, np.float32) for shape in shapes]

    calls = []
    for i, (m, n) in enumerate(itertools.pairwise(job.sizes)):
        x, W, dout, out, dW, dx = matrices(
            (job.batch_size, m), (m, n), (job.batch_size, n),
            (job.batch_size, n), (m, n), (job.batch_size, m),
        )  # fmt: skip
        calls += [(x, W, out), (x.T, dout, dW)] + [(dout, W.T, dx)] * (i > 0)
    return lambda: [np.matmul(a, b, out=c) for a, b, c in calls]


LIBRARIES: dict[str, Callable[[Job, int], Step]] = {
    "fastopt": functools.partial(_fastopt, flushes=False),
    "flushing": functools.partial(_fastopt, flushes=True),
    "NumPy float64": functools.partial(_numpy, dtype="f8"),
    "NumPy float32": functools.partial(_numpy, dtype="f4"),
    "torch": functools.partial(_torch, is_compiled=False),
    "torch.compile": functools.partial(_torch, is_compiled=True),
    "jax jit": _jax,
    "scikit-learn": _sklearn,
    "products": _products,
}
