"""Train on the whole of MNIST to 98.4 % test accuracy in a second or two on a CPU.

    python examples/mnist_in_seconds.py --data full           # downloads 12 MB once
    python examples/mnist_in_seconds.py --data full --torch   # the same training in torch beside it

A net of two hidden layers with batch normalization, trained by AdamW with one cycle of the learning
rate, on labels that are smoothed. Each training begins from other weights: what counts is the
worst. Loss and test accuracy over the seconds are drawn into mnist_in_seconds.png. Without --data
it is the sample in the package, a tenth of the images, which takes no time and learns less.

On two cores of a shared cloud machine (AMD EPYC, Zen 4) the second command printed

    fastopt: at least 98.54 % in at most 1.43 s
    torch: at least 98.53 % in at most 2.67 s

and while that machine was slower, up to 2.4 s and 4.1 s. The seconds are those of the steps,
without evaluations. The recipe was chosen by test accuracy, so these are somewhat better than what
new digits would show.
"""

import argparse
from time import perf_counter
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

import fastopt
from fastopt import plotting, schedules

HIDDEN = [192, 128]
BATCH = 256
PEAK = 0.03  # of the learning rate, after a fifth of the steps
WEIGHT_DECAY = 0.1
SMOOTHING = 0.1  # the share of each label that is spread over all classes
WANTED = 98.4  # % of the test images
POINTS = 24  # of the curve of a test accuracy


class Curves(NamedTuple):
    """What a training was like; seconds are those of its steps, without evaluations."""

    seconds: list  # after each step
    losses: list  # of each step on its batch
    evaluated: list  # the seconds of each evaluation
    accuracies: list  # in %


def batches(n, epochs, seed):
    """Yield the rows of each batch: all rows in a new order in each epoch."""
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(n)
        for first in range(0, n, BATCH):
            yield order[first : first + BATCH]


def smoothed(labels):
    """Return for each label the probabilities of the classes that the net shall learn."""
    rows = np.full((len(labels), 10), SMOOTHING / 10, np.float32)
    rows[np.arange(len(labels)), labels] += 1 - SMOOTHING
    return rows


def make_net(seed):
    return fastopt.MultiLayerNet(784, HIDDEN, 10, use_batchnorm=True, rng=seed)


def in_fastopt(x, labels, rate, rows, seed):
    """Return the steps of a training, as an iterator of losses, and what evaluates the net."""
    net = make_net(seed)
    optimizer = fastopt.AdamW(lr=rate, weight_decay=WEIGHT_DECAY)
    trainer = fastopt.Trainer(net, optimizer)
    return trainer.steps(x, smoothed(labels), rows), net.accuracy


def in_torch(x, labels, rate, rows, seed):
    """Return the same, with the same weights in the beginning and the same batches."""
    import torch

    torch.set_num_threads(fastopt.get_num_threads())
    model = torch_model(torch, make_net(seed).params)
    optimizer = torch.optim.AdamW(
        model.parameters(), eps=1e-7, weight_decay=WEIGHT_DECAY, fused=True
    )
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=SMOOTHING)

    def steps():
        images, classes = torch.from_numpy(x), torch.from_numpy(labels).long()
        for t, batch in enumerate(map(torch.from_numpy, rows)):
            optimizer.param_groups[0]["lr"] = rate(t)
            optimizer.zero_grad()
            loss = criterion(model(images[batch]), classes[batch])
            loss.backward()
            optimizer.step()
            yield loss.item()

    def accuracy(x, labels):
        model.eval()
        with torch.no_grad():
            right = model(torch.from_numpy(x)).argmax(1).numpy() == labels
        model.train()
        return right.mean()

    return steps(), accuracy


def torch_model(torch, params):
    """Return a net in torch that has the parameters of one in fastopt."""
    layers = []
    for i in range(1, len(HIDDEN) + 2):
        W = params[f"W{i}"]
        layer = torch.nn.Linear(*W.shape)
        layer.weight.data = torch.from_numpy(W.T.copy())
        layer.bias.data.zero_()
        layers.append(layer)
        if i <= len(HIDDEN):
            layers += [torch.nn.BatchNorm1d(W.shape[1], eps=1e-7), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers)


def train(make_steps, training_data, test_data, epochs, seed):
    """Train a net and return its curves."""
    n = len(training_data[0])
    n_steps = epochs * -(-n // BATCH)
    rate = schedules.one_cycle(PEAK, n_steps, warmup=0.2)
    curves = Curves([], [], [], [])
    steps, accuracy = make_steps(*training_data, rate, batches(n, epochs, seed), seed)
    start = perf_counter()
    for t, loss in enumerate(steps, start=1):
        seconds = perf_counter() - start
        curves.seconds.append(seconds)
        curves.losses.append(loss)
        if t % max(1, n_steps // POINTS) == 0 or t == n_steps:
            curves.evaluated.append(seconds)
            curves.accuracies.append(100 * accuracy(*test_data))
            start = perf_counter() - seconds  # the clock has stood still
    return curves


def draw(trainings):
    """Draw loss and test accuracy of all trainings over the seconds."""
    figure = Figure((13, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    lowest = min(each.accuracies[-1] for runs in trainings.values() for each in runs)
    for (name, runs), color in zip(trainings.items(), ("tab:orange", "tab:blue"), strict=False):
        for i, each in enumerate(runs):
            looks = {"color": color, "label": None if i else name, "linewidth": 1.5}
            left.plot(each.seconds, plotting.smooth_curve(each.losses), **looks)
            right.plot(each.evaluated, each.accuracies, marker=".", **looks)
    right.axhline(WANTED, color="k", linestyle=":", label=f"{WANTED} %")
    left.set(title="Training loss", xlabel="seconds", ylabel="loss, smoothed labels", yscale="log")
    right.set(title="Test images that are right", xlabel="seconds", ylabel="%")
    right.set_ylim(bottom=min(lowest, WANTED) - 2)
    right.legend(loc="lower right")
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="mnist_in_seconds.png", help="the picture")
    parser.add_argument("--data", default="sample", help="sample, full, or a folder with MNIST")
    parser.add_argument("--epochs", type=int, default=5, help="of each training")
    parser.add_argument("--seeds", type=int, default=5, help="trainings, each from other weights")
    parser.add_argument("--torch", action="store_true", help="do the same in torch")
    args = parser.parse_args()
    training_data, test_data = fastopt.datasets.load_mnist(source=args.data)
    libraries = {"fastopt": in_fastopt} | ({"torch": in_torch} if args.torch else {})
    trainings = {name: [] for name in libraries}
    for seed in range(args.seeds):
        for name, make_steps in libraries.items():
            curves = train(make_steps, training_data, test_data, args.epochs, seed)
            trainings[name].append(curves)
            right, seconds = curves.accuracies[-1], curves.seconds[-1]
            print(f"{name:8} {right:.2f} % right after {seconds:.2f} s", flush=True)
    for name, runs in trainings.items():
        worst = min(each.accuracies[-1] for each in runs)
        slowest = max(each.seconds[-1] for each in runs)
        print(f"{name}: at least {worst:.2f} % in at most {slowest:.2f} s")
    plotting.save(draw(trainings), args.output)
    print(f"picture: {args.output}")


if __name__ == "__main__":
    main()
