"""A small training with something of everything, to break off and to go on with.

Parent and child processes make the same one. What must hold is in test_checkpoints.py.
"""

import numpy as np

import fastopt
from fastopt import schedules

N, BATCH_SIZE = 30, 8  # four steps a pass, the last on six samples


def data(n=N, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(n) % 3
    return (np.eye(3)[t] + 0.5 * rng.standard_normal((n, 3))).astype("f4"), t


VALIDATION = data(12, seed=1)


class Notes:
    """A callback with a state: a number that each step and each evaluation moves."""

    def __init__(self):
        self.value = np.float64(1.0)

    def step(self, trainer):
        self.value = np.sin(self.value + trainer.history["loss"][-1])

    def evaluation(self, trainer):
        self.value += trainer.history["validation_loss"][-1]

    def state_dict(self):
        return {"value": float(self.value)}

    def load_state_dict(self, state):
        self.value = np.float64(state["value"])


class Plain:
    """A net of parameters alone: an array and a number; a line through the data."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.params = {"w": rng.standard_normal(3), ("b", 0): float(rng.standard_normal())}

    def loss(self, x, t):
        return float(np.square(self._off(x, t)).mean())

    def loss_and_gradient(self, x, t, out=None, *, batch):
        x, t = x[batch], t[batch]
        off = 2 * self._off(x, t) / len(x)
        return self.loss(x, t), {"w": off @ x, ("b", 0): float(off.sum())}

    def _off(self, x, t):
        return x.astype(float) @ self.params["w"] + self.params["b", 0] - t


def everything_at_once():
    """Return the settings of an optimizer."""
    plateau = schedules.ReduceOnPlateau(0.05, factor=0.5, patience=0)
    return {
        "lr": schedules.warmup(5, plateau), "ema": 0.8, "accumulate": 3, "clip_global_norm": 1.0,
        "groups": {"b*": {"weight_decay": 0.1, "lr_scale": schedules.linear(1.0, 0.5, 9)}},
    }  # fmt: skip


def make(package=fastopt, seed=0, optimizer="Adam", settings=None, net=None, **others):
    """Return a trainer; another seed gives other weights and another order."""
    net = package.MultiLayerNet(3, [5], 3, rng=seed) if net is None else net
    optimizer = getattr(package, optimizer)(**({"lr": 0.05} if settings is None else settings))
    others = {"batch_size": BATCH_SIZE, "rng": seed, "progress": False, **others}
    return fastopt.Trainer(net, optimizer, **others)


def all_of(trainer):
    """Return all that a trainer is as a tree, but for what a clock says."""
    state = trainer.state_dict()
    history = state["fit"]["history"]
    del history["steps"]["seconds"]
    for row in history["evaluations"]:
        del row["seconds"]
    arrays = state["optimizer"]["arrays"]
    for name, by_key in arrays.items():  # the order of keys says nothing
        arrays[name] = dict(sorted(by_key.items(), key=repr))
    return {
        "state": state, "history": dict(trainer.history), "now": trainer.optimizer.current(),
        "params": {key: np.array(p) for key, p in trainer.net.params.items()},
    }  # fmt: skip


# --- in a process that is killed ---

FIT = {"epochs": 15, "validation": VALIDATION, "evaluate_every": 5, "patience": 99}


def make_killed(checkpoint, seed):
    return make(
        seed=seed, settings=everything_at_once(), callbacks=[Notes()],
        metrics={"size": lambda net, x, t: float(np.abs(net.params["W1"]).max())},
        checkpoint=checkpoint, checkpoint_every=1,
    )  # fmt: skip


CHILD = """
import signal, sys
import fastopt
from helpers import trainings
signal.signal(signal.SIGINT, signal.default_int_handler)
folder, seed = sys.argv[1], int(sys.argv[2])
trainer = trainings.make_killed(folder + "/checkpoint", seed)
print("ready", flush=True)
trainer.fit(*trainings.data(), resume=True, **trainings.FIT)
if trainer.interrupted:
    sys.exit(3)
fastopt.save(folder + "/end", **trainings.all_of(trainer))
"""
