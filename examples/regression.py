"""Fit a curve to noisy points, and see what each part of the recipe is good for.

    python examples/regression.py

A small net learns a curve from points of which three in a thousand are far off. It is trained with
the whole recipe, warm-up, cosine decay, clipping and moving averages, then with one of the four
left out, and with none. What it has learned of the true curve is printed and drawn into
regression.png: without warm-up or clipping some trainings go wrong for good; without cosine decay
the noise of the last batches stays; averages take it away long before the end.
"""

import argparse

import numpy as np
from matplotlib.figure import Figure

import fastopt
from fastopt import plotting, schedules

PARTS = ("warm-up", "cosine", "clipping", "averages")
SEEDS = range(9)  # each recipe is tried on so many sets of points: one may have been lucky


def curve(x):
    """Return what the net shall find, a wave that gets faster."""
    return np.sin(2 * np.pi * x * (1 + 0.5 * x))


def points(n, rng):
    """Return points of the curve with noise, of which a few are far off, as from a bad sensor."""
    x = rng.uniform(-1, 1, (n, 1))
    y = curve(x) + 0.3 * rng.standard_normal((n, 1))
    is_bad = rng.random((n, 1)) < 0.003
    return x, y + is_bad * rng.choice([-20.0, 20.0], (n, 1))


def regression_net(rng):
    """Return a net of one input and one output, whose loss is half the mean squared error."""
    net = fastopt.MultiLayerNet(1, [32, 32], 1, loss="squared_error", dtype=np.float64, rng=rng)
    net.params["b1"][:] = rng.uniform(-1, 1, 32)  # bends spread over the inputs
    return net


def optimizer_with(parts, steps):
    """Return an Adam with some of the parts."""
    rate = 0.05  # large: it learns fast, and needs all the help
    n_warm = steps // 10 if "warm-up" in parts else 0
    if "cosine" in parts:
        # Late steps get small, so that the last batches leave no trace of their noise
        rate = schedules.cosine(rate, steps - n_warm)
    if n_warm:
        # Adam's first steps have full length in every direction, however small the gradient. They
        # drive some units to where relu is 0 for all inputs, and so is its gradient: for ever
        rate = schedules.warmup(n_warm, rate)
    return fastopt.Adam(
        lr=rate,
        # A point that is far off has a huge gradient: only its direction is followed
        clip_global_norm=1.0 if "clipping" in parts else None,
        # Evaluated are means over about the last hundred steps: good long before the cosine ends
        ema=0.99 if "averages" in parts else None,
    )


def train(parts, steps, seed):
    """Train with some of the parts; return the trainer."""
    rng = np.random.default_rng(seed)
    x, y = points(4000, rng)
    grid = np.linspace(-1, 1, 400)[:, None]
    trainer = fastopt.Trainer(
        regression_net(rng),
        optimizer_with(parts, steps),
        batch_size=32,
        rng=rng,
        metrics={"r2": lambda net, x, y: net.score(x, y)},
        progress=False,
    )
    trainer.fit(
        x,
        y,
        iterations=steps,
        validation=(grid, curve(grid)),
        evaluate_every=max(1, steps // 40),
    )
    return trainer


def fitted(trainer, x):
    """Return what the net predicts, with its averages where there are any."""
    if trainer.optimizer.ema is None:
        return trainer.net.predict(x)
    with trainer.optimizer.averaged(trainer.net.params):
        return trainer.net.predict(x)


def recipes():
    """Return by name the parts of the whole recipe, of each with one left out, and of none."""
    found = {"all four": PARTS}
    for part in PARTS:
        found[f"no {part}"] = tuple(each for each in PARTS if each != part)
    found["none"] = ()
    return found


def draw(trainers):
    """Draw R² over the steps, the mean of a recipe's trainings, and two of the fitted curves."""
    figure = Figure((13, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.set(title="What the net knows of the true curve", xlabel="step", ylabel="R²", ylim=(0, 1))
    for name, of_recipe in trainers.items():
        tables = [trainer.history.evaluations for trainer in of_recipe]
        means = np.mean([table["validation_r2"] for table in tables], axis=0)
        left.plot(
            tables[0]["iteration"],
            means,
            label=f"{name}: {means[-1]:.2f}",
            linewidth=4 if name == "all four" else 1.8,
            linestyle="--" if name == "none" else "-",
            zorder=2 if name == "all four" else 3,
        )
    left.legend(title=f"mean of {len(SEEDS)} trainings, at the end")

    x, y = points(4000, np.random.default_rng(SEEDS[0]))
    right.plot(x, y, ".", color="0.75", markersize=3, label="points (some are off the picture)")
    grid = np.linspace(-1, 1, 400)[:, None]
    right.plot(grid, curve(grid), "k", linewidth=1, label="the true curve")
    for name in ("all four", "none"):
        right.plot(grid, fitted(trainers[name][0], grid), linewidth=2.5, label=f"fitted, {name}")
    right.set(title="One of the trainings", xlabel="x", ylabel="y", ylim=(-2.5, 2.5))
    right.legend()
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="regression.png", help="the picture")
    parser.add_argument("--steps", type=int, default=2000, help="of each training")
    args = parser.parse_args()
    trainers = {}
    print("R2 on the true curve, mean and worst:")
    for name, parts in recipes().items():
        trainers[name] = [train(parts, args.steps, seed) for seed in SEEDS]
        scores = [trainer.history["validation_r2"][-1] for trainer in trainers[name]]
        print(f"  {name:12}  {np.mean(scores):6.3f}  {min(scores):6.3f}", flush=True)
    plotting.save(draw(trainers), args.output)
    print(f"picture: {args.output}")


if __name__ == "__main__":
    main()
