"""Kill a training on MNIST in the middle, resume it, and compare it with one left alone.

    python examples/resume_mnist.py

The training runs in a process of its own, which writes a checkpoint every 200 steps. Halfway it is
killed; then the same command is given again, and goes on from the last checkpoint. In the end all
parameters, the state of the optimizer and the losses are those of an undisturbed training, to the
last bit. Both are drawn into resume_mnist.png.

To break it off yourself, by Ctrl-C, kill or the power switch, and go on with the same command:

    python examples/resume_mnist.py --checkpoint run.npz
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import fastopt
from fastopt import plotting, schedules

EVERY = 10  # steps between two lines of output


def make_trainer(checkpoint, steps):
    """Return a trainer that is the same in each process: what the checkpoint has is put into it."""
    n_warm = max(1, steps // 10)
    rate = schedules.warmup(n_warm, schedules.cosine(0.002, max(1, steps - n_warm)))
    return fastopt.Trainer(
        fastopt.MultiLayerNet(784, [100, 100], 10, rng=0),
        fastopt.AdamW(lr=rate, clip_global_norm=2.0, ema=0.99),
        batch_size=100,
        rng=0,
        callbacks=[say_where_it_is],
        checkpoint=checkpoint,
        checkpoint_every=max(1, steps // 10),
        progress=False,
    )


def say_where_it_is(trainer):
    if trainer.iteration % EVERY == 0:
        print("step", trainer.iteration, flush=True)


def train(checkpoint, steps):
    """Train, from the checkpoint on if there is one; return the trainer."""
    training_data, test_data = fastopt.datasets.load_mnist()
    trainer = make_trainer(checkpoint, steps)
    trainer.fit(*training_data, iterations=steps, validation=test_data, resume=True)
    return trainer


def train_in_a_process(checkpoint, steps, kill_after=None):
    """Train by this program's own command, and kill it when it has told of a step, if one is named.

    Return the last step that it has told of.
    """
    command = [sys.executable, __file__, "--checkpoint", str(checkpoint), "--steps", str(steps)]
    step = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            step = int(line.split()[1])
            if kill_after is not None and step >= kill_after:
                process.kill()  # SIGKILL: the process gets no chance to save anything
    if kill_after is None and process.returncode != 0:
        raise SystemExit("the training has failed")
    return step


def assert_same_bits(a, b):
    """Compare all that two trainers have come to, but the time that it took them."""
    for state in ("m", "v", "average"):
        assert_same_arrays(getattr(a.optimizer, state), getattr(b.optimizer, state))
    assert_same_arrays(a.net.params, b.net.params)
    assert a.history == b.history  # the loss of each step, each evaluation


def assert_same_arrays(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].tobytes() == b[key].tobytes()


def draw(undisturbed, resumed, saved, killed):
    """Draw the history of the resumed training, and the evaluations of the other one around it."""
    figure = plotting.plot_history(resumed, "Killed, and resumed")
    losses, accuracies = figure.axes[:2]
    table = undisturbed.evaluations
    ring = {"marker": "o", "markersize": 13, "fillstyle": "none", "color": "k", "clip_on": False}
    losses.plot(table["iteration"], table["validation_loss"], linestyle="", **ring)
    accuracies.plot(
        table["iteration"],
        table["validation_accuracy"],
        linestyle="",
        label="undisturbed training",
        **ring,
    )
    for axes in figure.axes:
        axes.axvspan(saved, killed, color="0.85", label="steps made twice")
        axes.axvline(killed, color="k", linestyle=":", label="killed")
    accuracies.legend(loc="lower right", frameon=False, fontsize=13)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="resume_mnist.png", help="the picture")
    parser.add_argument("--steps", type=int, default=2000, help="of the training")
    parser.add_argument("--checkpoint", help="only train, from this file on if it is there")
    args = parser.parse_args()
    if args.checkpoint is not None:
        train(args.checkpoint, args.steps)
        return
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, broken = Path(folder) / "undisturbed.npz", Path(folder) / "broken.npz"
        train_in_a_process(undisturbed, args.steps)
        print(f"{args.steps} steps without a disturbance")
        killed = train_in_a_process(broken, args.steps, kill_after=args.steps * 11 // 20)
        saved = fastopt.load(broken)["trainer"]["iteration"]
        print(f"killed after step {killed}; the last checkpoint has step {saved}")
        train_in_a_process(broken, args.steps)
        print(f"resumed, and trained to step {args.steps}")
        # Both are at their end now, so these only load what they have come to
        first, second = train(undisturbed, args.steps), train(broken, args.steps)
    assert_same_bits(first, second)
    accuracy = second.history["validation_accuracy"][-1]
    print(f"both have the same bits, and {accuracy:.1%} of the test images right")
    plotting.save(draw(first.history, second.history, saved, killed), args.output)
    print(f"picture: {args.output}")


if __name__ == "__main__":
    main()
