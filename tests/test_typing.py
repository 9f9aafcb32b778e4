"""What type checkers make of fastopt: programs that must pass `mypy --strict`, lines that must not.

Whether the package itself passes is not looked at here; the gate runs mypy over it.
"""

import doctest
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers.pages import README, ROOT, blocks
from optimizer_table import TABLE

import fastopt

pytestmark = pytest.mark.skipif(find_spec("mypy") is None, reason="needs mypy")

PROGRAM = """
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastopt
from fastopt import AdaGrad, Trainer, plotting, reference, schedules, training
from fastopt.typing import (
    Activation, EvaluableNet, Grads, Loss, Net, Optimizer, Params, SupportsUpdate,
)


def train(optimizer: Optimizer, params: Params, grads: Grads) -> float:
    optimizer.lr *= 0.9
    optimizer.update(params, grads)
    return optimizer.lr


params, grads = {"w": np.ones(3), "b": 0.5}, {"w": np.ones(3), "b": 1}
for optimizer in (
    AdaGrad(),
    EVERY_OPTIMIZER,
):
    train(optimizer, params, grads)

adam = fastopt.Adam(lr=0.01, beta1=0.8)
adam.lr, adam.iter, adam.m = 1, 3, {"w": np.zeros(3)}

kind: Activation = "sigmoid"
loss: Loss = "huber"
nets: list[EvaluableNet] = [
    fastopt.MultiLayerNet(4, [3], 2, kind, "he"),
    fastopt.TwoLayerNet(4, 3, 2, weight_init_std=0.01),
    reference.MultiLayerNet(4, [3], 2, weight_init_std=0.1),
    fastopt.MultiLayerNet(4, [3], 2, "gelu", loss=loss, use_batchnorm=True, use_dropout=True),
    reference.TwoLayerNet(4, 3, 2, loss="poisson", dropout_ratio=0.1),
]
net = fastopt.TwoLayerNet(4, 3, 1, loss="logistic", use_batchnorm=True)
x, t = np.ones((2, 4)), [[0.5], [1.0]]
grads_by_key = net.gradient(x, t, sample_weight=[1, 2], batch=[1, 0])
total: float = net.loss(x, t, sample_weight=np.ones(2)) + net.score(x, t) + net.accuracy(x, t)
numbers: NDArray[np.intp] = net.classify(x)
total += float(net.predict_proba(x).sum() + net.running["mean1"][0]) + net.steps
net.steps, seed = 0, net.seed
gamma = net.params["gamma1"]
for layer in (
    fastopt.LeakyRelu(), fastopt.Tanh(), fastopt.Gelu(), fastopt.Silu(), reference.Tanh(),
    fastopt.BatchNormalization(gamma, gamma), fastopt.Dropout(0.1, rng=0), reference.Dropout(),
):
    layer.backward(layer.forward(x[:, :3]))
dropped = fastopt.Dropout(rng=np.random.default_rng(0)).forward(x, train_flg=False)


class Line:
    def __init__(self, n: int) -> None:
        self.params = {"w": np.zeros(n)}

    def loss_and_gradient(
        self,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        out: dict[str, NDArray[np.float64]] | None = None,
        *,
        batch: NDArray[np.intp],
    ) -> tuple[float, dict[str, NDArray[np.float64]]]:
        x, y = x[batch], y[batch]
        error = x @ self.params["w"] - y
        return float(np.mean(error**2)), {"w": 2 * x.T @ error / len(y)}


class Step:
    def update(
        self, params: dict[str, NDArray[np.float64]], grads: dict[str, NDArray[np.float64]]
    ) -> None:
        for key, p in params.items():
            p -= 0.01 * grads[key]


def halve(trainer: Trainer) -> None:
    trainer.optimizer.lr = 0.1 / 2 ** (trainer.epoch - 1)


def slow(trainer: Trainer[Line, fastopt.Momentum]) -> None:
    trainer.optimizer.momentum = 0.95
    trainer.net.params["w"][0] = 0
    trainer.stop()


line: Net = Line(3)
step: SupportsUpdate = Step()
Trainer(line, step).fit(np.ones((4, 3)), np.ones(4), epochs=1)
trainer = Trainer(Line(3), fastopt.Momentum(), callbacks=[halve, slow])
trainer.optimizer.momentum = 0.5
trainer.optimizer.lr = lambda t: 0.1 / (1 + t)
trainer.optimizer.lr = trainer.optimizer.lr / 2
fastopt.AdamW(lr=lambda t: 0.1, clip_global_norm=1, ema=0.99, groups={"b*": {"frozen": True}})
warm = schedules.warmup(10, schedules.one_cycle(0.1, 90, end=0))
optimizer = fastopt.SGD(lr=schedules.join([(5, 0.1), (9, lambda t: 0.1), warm]), high=warm)
optimizer.lr = plateau = schedules.ReduceOnPlateau(0.1, patience=3)
plateau.report(trainer.optimizer.lr)
rate: float = warm(3) + plateau.initial + schedules.piecewise({0: 0.1, 5: 0.05}).values[0]
schedules.plot({"warm": warm, "own": lambda t: 0.1}, steps=100)
history: dict[str, list[Any]] = trainer.fit(np.ones((4, 3)), np.ones(4), epochs=1)



class WarmUp:
    def start(self, trainer: Trainer) -> None:
        self.step(trainer)

    def step(self, trainer: Trainer) -> None:
        trainer.optimizer.lr = 1e-3 * (trainer.iteration + 1)


class Clip:
    def gradient(self, trainer: Trainer[Any, fastopt.SGD], grads: Grads) -> None:
        for g in grads.values():
            np.clip(g, -trainer.optimizer.lr, 1, out=g)

    def evaluation(self, trainer: Trainer) -> None:
        losses: list[float] = trainer.history.evaluations["validation_loss"]
        if losses[-1] > min(losses):
            trainer.stop()

    def end(self, trainer: Trainer) -> None:
        print(trainer.epoch, trainer.interrupted)


def r2(net: Line, x: NDArray[np.float64], t: NDArray[np.float64]) -> float:
    return 1 - float(np.mean((x @ net.params["w"] - t) ** 2) / np.var(t))


several = Trainer(
    Line(3), fastopt.SGD(ema=0.9), batch_size=2, shuffle=False, rng=np.random.default_rng(0),
    callbacks=[WarmUp(), Clip(), halve], progress=False, metrics={"r2": r2},
    on_nonfinite="continue", checkpoint=Path("a.npz"), checkpoint_every=100,
    flush_subnormals=False,
)
noted: training.History = several.fit(
    np.ones((4, 3)), [1, 2, 3, 4], iterations=3, validation=(np.ones((4, 3)), np.ones(4)),
    evaluate_every=2, patience=1, resume=True,
)
rates: list[float] = noted.steps["lr"]
best = min(noted.evaluations["validation_r2"]) + noted["loss"][0] + noted.began
figure = plotting.plot_history(noted, "title")
plotting.save(figure, "a.png")
losses: list[float] = list(several.steps(np.ones((4, 3)), np.ones(4), [[0, 1], [2, 3]]))
several.load_state_dict(several.state_dict())
several.callbacks.append(WarmUp())
several.metrics["r2"] = lambda net, x, t: 0.5
fastopt.experiments.compare_optimizers(fastopt.datasets.load_mnist(), flush_subnormals=False)
fastopt.experiments.trajectory(fastopt.SGD())
""".replace(
    "EVERY_OPTIMIZER", ", ".join(f"fastopt.{row.name}(), reference.{row.name}()" for row in TABLE)
)

MISTAKES = """
import numpy as np
from fastopt import Adamm
import fastopt
from fastopt.typing import Net, Optimizer, SupportsUpdate
class NoNet:
    params = {"w": np.ones(3)}
class NoOptimizer:
    lr = 0.1
fastopt.Adamm()
fastopt.Adam(learning_rate=0.1)
fastopt.Adam(lr="0.1")
fastopt.Adam().learning_rate = 0.1
fastopt.Adam().lr = "0.1"
fastopt.Adam(clip_norm="1")
fastopt.Adam(0.1, 0.9, 0.999, 1e-8, 0.01)
fastopt.Adam(nonfinite=True)
fastopt.SGD().momentum = 0.9
fastopt.SGD().update([np.ones(3)], [np.ones(3)])
fastopt.MultiLayerNet(4, [3], 2, activation="rleu")
fastopt.MultiLayerNet(4, [3], 2, loss="hubber")
fastopt.MultiLayerNet(4, [3], 2, use_batchnorm="yes")
fastopt.TwoLayerNet(4, 3, 2).seed = 3
fastopt.TwoLayerNet(4, 3, 2).loss([[1]], [1], [1])
fastopt.TwoLayerNet(4, 3, 2, weight_init_std="hee")
net: Net = NoNet()
optimizer: SupportsUpdate = NoOptimizer()
adam: Optimizer = fastopt.SGD
fastopt.Trainer(NoNet(), fastopt.SGD())
fastopt.Trainer(fastopt.TwoLayerNet(4, 3, 2), NoOptimizer())
fastopt.Trainer(fastopt.TwoLayerNet(4, 3, 2), fastopt.SGD())
fastopt.Trainer(fastopt.TwoLayerNet(4, 3, 2), fastopt.SGD()).optimizer.momentum = 0.9
fastopt.Trainer(fastopt.TwoLayerNet(4, 3, 2), fastopt.SGD).fit([[1]], [1], epochs=1)
fastopt.Trainer(fastopt.TwoLayerNet(4, 3, 2), fastopt.SGD(), callbacks=print)
fastopt.Trainer(fastopt.TwoLayerNet(4, 3, 2), fastopt.SGD(), metrics=print)
fastopt.Trainer(fastopt.TwoLayerNet(4, 3, 2), fastopt.SGD(), metrics={"r2": 3})
fastopt.Trainer(fastopt.TwoLayerNet(4, 3, 2), fastopt.SGD(), metrics={"r2": lambda x, t: 3})
fastopt.Trainer(fastopt.TwoLayerNet(4, 3, 2), fastopt.SGD(), on_nonfinite="skip")
fastopt.Trainer(fastopt.TwoLayerNet(4, 3, 2), fastopt.SGD(), checkpoint=3)
fastopt.Trainer(fastopt.TwoLayerNet(4, 3, 2), fastopt.SGD(), flush=False)
fastopt.Trainer(fastopt.TwoLayerNet(4, 3, 2), fastopt.SGD()).lr = 0.1
fastopt.Trainer(fastopt.TwoLayerNet(4, 3, 2), fastopt.SGD()).fit([[1]], [1], epochs=1).rows
fastopt.plotting.plot_history({"loss": [1.0]})
fastopt.schedules.cosine("0.1", 100)
fastopt.schedules.cosine(0.1)
fastopt.schedules.cosine(0.1, 100).steps = 3
fastopt.SGD(lr=fastopt.schedules.cosine)
fastopt.set_num_threads("2")
fastopt.show_config("json")
"""
RIGHT = ("import numpy", "import fastopt", "from fastopt.typing", "class", "    ")
RIGHT_TOO = "fastopt.Trainer(fastopt.TwoLayerNet(4, 3, 2), fastopt.SGD())"

# NumPy's stubs take the arrays of `savez(file, **arrays)` for its argument allow_pickle, too
STUBS_FAULT = 'to "savez" has incompatible type "**dict'

# A page's functions say what they do without annotations, and its names are used again
PAGE = (
    "# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls\n"
    '# mypy: disable-error-code="no-redef, var-annotated"\n'
)


def page_source(path):
    """Return the Python of a page as one program."""
    source = PAGE
    for language, block in blocks(path):
        if path.name == "README.md" and "import fastopt" not in block:
            continue  # an excerpt, which test_docs.py completes
        if language == "python":
            source += block
        else:
            examples = doctest.DocTestParser().get_examples(block)
            source += "".join(example.source for example in examples)
    return source


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """Run mypy once over everything; return the errors by file and line."""
    folder = tmp_path_factory.mktemp("typing")
    sources = {"program": PROGRAM, "mistakes": MISTAKES}
    for path in (README, *sorted((ROOT / "docs").glob("*.md"))):
        if path.is_file():
            sources["page_" + re.sub(r"\W", "_", path.stem)] = page_source(path)
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
    found = Path(fastopt.__file__).parents[1]
    environ = {**os.environ, "MYPYPATH": "" if found.name == "site-packages" else str(found)}
    options = ["--strict", "--allow-redefinition", "--ignore-missing-imports", "--no-pretty"]
    options += ["--follow-imports=silent", "--no-error-summary", "--cache-dir=cache"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *(f"{name}.py" for name in sources)],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode < 2 and done.stderr == "", done.stdout + done.stderr  # noqa: PT018
    found = {name: {} for name in sources}
    for line in done.stdout.splitlines():
        name, number, message = re.fullmatch(r"(\w+)\.py:(\d+): (.*)", line).groups()
        if message.startswith("error: ") and STUBS_FAULT not in message:
            found[name].setdefault(int(number), []).append(message)
    return found


def test_a_program_with_annotations_passes(errors):
    assert errors["program"] == {}


def test_examples_of_the_pages_pass(errors):
    pages = {name: found for name, found in errors.items() if name.startswith("page_")}
    wrong = {name: found for name, found in pages.items() if found}
    assert not wrong, "\n".join(f"{name}: {each}" for name, each in wrong.items())
    assert pages or not README.is_file()


def test_every_mistake_is_found(errors):
    lines = enumerate(MISTAKES.splitlines(), start=1)
    wrong = {n for n, line in lines if line and not line.startswith(RIGHT) and line != RIGHT_TOO}
    assert set(errors["mistakes"]) == wrong
