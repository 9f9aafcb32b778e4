# matplotlib is imported only when something is drawn, and pyplot never: no display is needed and
# nothing is left in its global state. How the numbers come about belongs to `experiments`.
"""Pictures of the two experiments, and of a training."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastopt._files import replacing
from fastopt._history import History
from fastopt.experiments import valley

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "plot_history", "plot_losses", "plot_trajectories", "save", "smooth_curve"]

Array = NDArray[np.float64]

FORMATS = ("png", "jpg", "jpeg", "webp", "tif", "tiff", "svg", "pdf")
"""Suffixes that a picture may have, all written by matplotlib itself, faint lines included."""

_DPI = 150
_LOOKS = {
    "font.size": 15,  # points at 10 in of width: legible from the last row
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.1,
}
_DATELESS = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
_SHORT = 200  # steps; fewer have no trend that could be seen apart from them
_SMALLEST_LOSS = 1e-6  # below it, the 1e-7 inside the loss's logarithm is all one sees


class _Style(NamedTuple):
    color: str
    dashes: str | tuple[float, tuple[float, ...]]
    marker: str


# Colours by Okabe and Ito (2008), which the colour-blind can tell apart; dashes and markers say the
# same once more, for grey.
_STYLES = {
    "SGD": _Style("#000000", "-", "o"),
    "Momentum": _Style("#0072B2", (0, (5, 1.2)), "s"),
    "Nesterov": _Style("#56B4E9", "-", "P"),
    "AdaGrad": _Style("#009E73", "-", "^"),
    "RMSprop": _Style("#CC79A7", (0, (1.5, 0.8)), "v"),
    "Adam": _Style("#D55E00", (0, (6, 1, 1.5, 1)), "D"),
}
_BATCHES, _VALIDATION = _STYLES["Momentum"], _STYLES["Adam"]
_OTHER_STYLE = _Style("#E69F00", "-", "X")
LINES = (*_STYLES.values(), _OTHER_STYLE)


def smooth_curve(x: ArrayLike) -> Array:
    """Return a noisy curve smoothed by a Kaiser window of length 11 and beta 2.

    Each value becomes the weighted mean of itself and five neighbours on either side. At the ends
    the curve is continued by its mirror image: about the first value on the left, about the edge
    behind the last value on the right, so that this one counts twice.

    Parameters
    ----------
    x : array (N,)
        Equally spaced values, such as the losses of a training; any N, even 0.

    Returns
    -------
    float64 array (N,)
        NaN wherever a NaN comes within five steps.

    Raises
    ------
    ValueError
        `x` has another number of dimensions than one.

    Examples
    --------
    >>> from fastopt.plotting import smooth_curve
    >>> smooth_curve([0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]).round(2).tolist()[3:8]
    [0.11, 0.12, 0.12, 0.12, 0.11]
    """
    x = np.asarray(x, np.float64)
    if x.ndim != 1:
        raise ValueError(f"x has shape {x.shape}, wants one dimension")
    if x.size == 0:
        return x.copy()
    window = np.kaiser(11, 2)
    continued = np.pad(np.pad(x, (5, 0), "reflect"), (0, 5), "symmetric")
    return np.convolve(continued, window / window.sum(), "valid")


def plot_losses(
    losses: Mapping[str, Sequence[float]], title: str = "Training loss by optimizer"
) -> Figure:
    """Draw the loss curves of several optimizers.

    The bold line is the trend, a mean over about a hundred steps; the faint one is `smooth_curve`.
    Of fewer than 200 steps the losses are drawn as they are, by one line. The loss axis is
    logarithmic where the bold lines span more than a decade, and leaves out a spike in the first
    hundredth of the steps.

    Parameters
    ----------
    losses : mapping of str to sequence of float
        For each optimizer the loss after step 1, 2, …, at least one; NaN leaves a gap.
    title : str
        Above the axes.

    Returns
    -------
    matplotlib.figure.Figure
        10 in × 5.8 in, for `save`; it belongs to no window.

    Raises
    ------
    TypeError
        `losses` is no mapping.
    ValueError
        There are no losses, or those of an optimizer are not one row of numbers.
    ImportError
        matplotlib is not installed.

    Examples
    --------
    >>> from fastopt.plotting import plot_losses
    >>> figure = plot_losses({"SGD": [2.3, 2.1, 1.9], "Adam": [2.3, 1.7, 1.1]})
    >>> [line.get_label() for line in figure.axes[0].lines]
    ['SGD', 'Adam']
    """
    curves = _curves(losses)
    steps = max(map(len, curves.values()))
    long = steps >= _SHORT
    bold = {name: _trend(curve) for name, curve in curves.items()} if long else curves
    with new_figure(10, 5.8) as figure:
        axes = figure.add_subplot()
        axes.set(title=title, xlabel="step", ylabel="loss on the batch after the step")
        if long:
            _draw_faint(axes, {name: smooth_curve(curve) for name, curve in curves.items()})
        for i, (name, curve) in enumerate(bold.items()):
            _draw_bold(axes, name, curve, i / len(bold), width=2.6 if long else 1.8)
        _scale_steps(axes, steps)
        _scale_losses(axes, [curve[steps // 100 if long else 0 :] for curve in bold.values()])
        _label_ends(axes, bold)
    return figure


def _curves(losses: Mapping[str, Sequence[float]]) -> dict[str, Array]:
    """Return the losses as arrays, each with at least one value."""
    if not isinstance(losses, Mapping):
        raise TypeError(
            f"losses is a {type(losses).__name__}, wants a mapping of names to losses, "
            'such as {"SGD": [2.3, 1.9]}'
        )
    if not losses:
        raise ValueError("losses is empty, wants at least one optimizer")
    curves = {name: np.asarray(x, np.float64) for name, x in losses.items()}
    for name, curve in curves.items():
        if curve.ndim != 1 or curve.size == 0:
            raise ValueError(
                f"losses[{name!r}] has shape {curve.shape}, wants (N,) with at least one loss"
            )
    return curves


def _draw_faint(axes: Axes, curves: Mapping[str, Array]) -> None:
    """Draw the curves that show the scatter about the trend, and say below which line is which."""
    for name, curve in curves.items():
        color = _STYLES.get(name, _OTHER_STYLE).color
        axes.plot(np.arange(1, len(curve) + 1), curve, color=color, linewidth=0.8, alpha=0.3)
    axes.figure.supxlabel("bold: trend; faint: smoothed over 11 steps", fontsize=13, color="0.3")


def _draw_bold(axes: Axes, name: str, curve: Array, stagger: float, width: float) -> None:
    color, dashes, marker = _STYLES.get(name, _OTHER_STYLE)
    apart = max(1, len(curve) // 8)
    axes.plot(
        np.arange(1, len(curve) + 1),
        curve,
        label=name,
        color=color,
        linestyle=dashes,
        linewidth=width,
        marker=marker,
        markersize=9,
        markeredgecolor="white",
        markevery=(int(stagger * apart), apart),  # markers of close curves must not coincide
    )


def _trend(x: Array) -> Array:
    """Return the course of a curve over some hundred steps, a Hann-weighted mean of neighbours.

    The window opens from one value at the start, where a loss falls too steeply to be averaged.
    """
    half = min(max(5, len(x) // 20), 100)
    continued = np.pad(x, (0, half), "symmetric")
    trend = np.empty_like(x)
    for i in range(len(x)):
        reach = min(half, i)
        window = np.hanning(2 * reach + 3)[1:-1]
        trend[i] = window @ continued[i - reach : i + reach + 1] / window.sum()
    return trend


def _scale_steps(axes: Axes, steps: int) -> None:
    margin = 0.5 + 0.02 * steps
    axes.set_xlim(1 - margin, steps + margin)
    count_along_x(axes)


def count_along_x(axes: Axes) -> None:
    """Put ticks at whole numbers, of which thousands are told apart."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _scale_losses(axes: Axes, curves: Sequence[Array]) -> None:
    """Make the loss axis logarithmic where that shows more, with the ticks written as numbers."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axes.grid(axis="y", color="0.9")
    values = np.concatenate(curves)
    values = values[np.isfinite(values)]
    if values.size == 0 or values.min() < -_SMALLEST_LOSS:  # of a net's own loss: a log-likelihood
        return
    low, high = max(values.min(), _SMALLEST_LOSS), values.max()
    if high < 10 * low:
        return
    subs = (1, 2, 5) if high < 5000 * low else (1,)
    axes.set_yscale("log")
    axes.set_ylim(low / 1.5, high * 1.5)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _label_ends(axes: Axes, curves: Mapping[str, Array]) -> None:
    """Write each name beside the end of its curve, moved apart where ends are close."""
    to_fraction = axes.transScale + axes.transLimits
    ends = []
    for name, curve in curves.items():
        seen = np.flatnonzero(np.isfinite(curve))
        last, value = (seen[-1], curve[seen[-1]]) if seen.size else (len(curve) - 1, np.inf)
        end = (last + 1, np.clip(value, *axes.get_ylim()))
        height = to_fraction.transform(end)[1]
        ends.append((height, end, name if np.isfinite(curve[-1]) else f"{name} (NaN)"))
    ends.sort()
    heights = _apart([height for height, _, _ in ends], gap=0.07)
    line = {"arrowstyle": "-", "color": "0.5", "shrinkA": 0, "shrinkB": 2, "relpos": (0, 0.5)}
    for height, (_, end, name) in zip(heights, ends, strict=True):
        axes.annotate(
            name,
            end,
            (1.03, height),
            textcoords="axes fraction",
            verticalalignment="center",
            arrowprops=line,
            annotation_clip=False,
        )


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Return ascending heights in 0..1 spread to at least `gap`, up as much as down."""
    up = accumulate(heights, lambda below, height: max(height, below + gap))
    down = accumulate(reversed(heights), lambda above, height: min(height, above - gap))
    spread = [(a + b) / 2 for a, b in zip(up, reversed(list(down)), strict=True)]
    room = gap * np.arange(len(spread))  # that those below, or above, need within the axes
    return np.clip(spread, room, 1 - room[::-1]).tolist()  # type: ignore[no-any-return]


def plot_history(history: History, title: str = "Training") -> Figure:
    """Draw the history of a training: the losses, each metric, and the learning rate if it changes.

    Of 200 steps and more the bold line is the trend of the loss on the batches, a mean over about a
    hundred steps, and the faint one is `smooth_curve`. Losses are drawn on a logarithmic axis where
    they span more than a decade.

    Parameters
    ----------
    history : History
        What `Trainer.fit` returned, or `Trainer.history` of one under way, of at least one step.
    title : str
        Above the axes.

    Returns
    -------
    matplotlib.figure.Figure
        10 in wide, a panel below the other, for `save`; it belongs to no window.

    Raises
    ------
    TypeError
        `history` is another thing.
    ValueError
        There is no step in it.
    ImportError
        matplotlib is not installed.

    Examples
    --------
    >>> import fastopt
    >>> from fastopt.plotting import plot_history
    >>> (x_train, t_train), test = fastopt.datasets.load_mnist()
    >>> trainer = fastopt.Trainer(fastopt.MultiLayerNet(784, [30], 10, rng=0), fastopt.Adam())
    >>> figure = plot_history(trainer.fit(x_train, t_train, epochs=2, validation=test))
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['loss', 'validation accuracy']
    """
    if not isinstance(history, History):
        raise TypeError(f"history must be what Trainer.fit returns, got {type(history).__name__}")
    steps, evaluations = history.steps, history.evaluations
    if not steps["loss"]:
        raise ValueError("history has no step that could be drawn")
    at = evaluations.pop("iteration", [])
    validation = evaluations.pop("validation_loss", [])
    metrics = {name: values for name, values in evaluations.items() if name.startswith("validat")}
    rates = np.asarray(steps["lr"], np.float64)
    changes = bool(np.nanmin(rates) < np.nanmax(rates)) if np.isfinite(rates).any() else False
    n_below = len(metrics) + changes
    with new_figure(10, 5.0 + 2.2 * n_below) as figure:
        ratios = [5.0, *[2.2] * n_below]
        axes, *below = figure.subplots(
            1 + n_below, sharex=True, squeeze=False, height_ratios=ratios
        )[:, 0]
        axes.set(title=title, ylabel="loss")
        _draw_loss(axes, steps["iteration"], steps["loss"], at, validation)
        for panel, (name, values) in zip(below, metrics.items(), strict=False):
            panel.set(ylabel=name.replace("_", " "))
            panel.plot(at, values, color=_VALIDATION.color, marker=_VALIDATION.marker, linewidth=2)
            panel.grid(axis="y", color="0.9")
        if changes:
            below[-1].set(ylabel="learning rate")
            below[-1].plot(steps["iteration"], rates, color="0.3", linewidth=2)
            below[-1].grid(axis="y", color="0.9")
        figure.align_ylabels()
        last = below[-1] if below else axes
        last.set_xlabel("step")
        count_along_x(last)
    return figure


def _draw_loss(
    axes: Axes, iterations: Sequence[int], losses: Sequence[float], at: Sequence[int],
    validation: Sequence[float],
) -> None:  # fmt: skip
    """Draw losses on batches, and on validation data where there are any."""
    curve = np.asarray(losses, np.float64)
    bold, label = curve, "on the batches"
    if len(curve) >= _SHORT:
        bold, label = _trend(curve), "on the batches: trend; faint: smoothed over 11 steps"
        axes.plot(iterations, smooth_curve(curve), color=_BATCHES.color, linewidth=0.8, alpha=0.35)
    axes.plot(iterations, bold, color=_BATCHES.color, linewidth=2.6, label=label)
    if validation:
        axes.plot(
            at, validation, color=_VALIDATION.color, marker=_VALIDATION.marker, linewidth=2,
            markeredgecolor="white", markersize=8, label="on the validation data",
        )  # fmt: skip
    _scale_losses(axes, [bold[len(bold) // 100 :], np.asarray(validation, np.float64)])
    axes.legend(frameon=False, fontsize=13)


def plot_trajectories(
    paths: Mapping[str, ArrayLike],
    learning_rates: Mapping[str, float] | None = None,
    defaults: Container[str] = (),
) -> Figure:
    """Draw the paths of several optimizers down the valley, a panel for each.

    All panels show the same region, with one scale for x and y, so that a step along the gradient
    is seen to be at right angles to the contour line.

    Parameters
    ----------
    paths : mapping of str to array (steps + 1, 2)
        For each optimizer its points (x, y) from the start on, as `experiments.trajectory` returns
        them.
    learning_rates : mapping of str to float, optional
        Written beside the names.
    defaults : container of str, optional
        The optimizers whose learning rate nobody chose for the valley; it is marked "(default)".

    Returns
    -------
    matplotlib.figure.Figure
        12 in wide, three panels to a row, for `save`; it belongs to no window.

    Raises
    ------
    TypeError
        `paths` is no mapping.
    ValueError
        A path is not made of points (x, y).
    ImportError
        matplotlib is not installed.

    Examples
    --------
    >>> import fastopt
    >>> from fastopt.experiments import trajectory
    >>> from fastopt.plotting import plot_trajectories
    >>> figure = plot_trajectories({"SGD": trajectory(fastopt.SGD(lr=0.9))}, {"SGD": 0.9})
    >>> figure.axes[0].get_title()
    'SGD, lr = 0.9'
    """
    points = _points(paths)
    rows = len(points) // 3 + 1  # the last place is the legend's
    x, y = _region(points.values())
    with new_figure(12, 0.9 + 2.7 * rows) as figure:
        panels = figure.subplots(rows, 3, sharex=True, sharey=True, squeeze=False).ravel()
        for panel, (name, path) in zip(panels, points.items(), strict=False):
            _draw_trajectory(panel, name, path, x, y)
            rate = (learning_rates or {}).get(name)
            note = " (default)" if name in defaults else ""
            panel.set_title(name if rate is None else f"{name}, lr = {rate:g}{note}")
            panel.set(xlabel="x", ylabel="y")
            panel.label_outer()
        for panel in panels[max(0, len(points) - 3) : len(points)]:  # the lowest of their column
            panel.xaxis.set_tick_params(labelbottom=True)
        for panel in panels[len(points) :]:
            panel.set_axis_off()
        panels[-1].legend(*panels[0].get_legend_handles_labels(), loc="center", frameon=False)
        figure.suptitle("Down the valley $f(x, y) = x^2/20 + y^2$")
    return figure


def _points(paths: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """Return the paths as arrays of points."""
    if not isinstance(paths, Mapping):
        raise TypeError(f"paths is a {type(paths).__name__}, wants a mapping of names to paths")
    points = {name: np.asarray(path, np.float64) for name, path in paths.items()}
    for name, path in points.items():
        if path.ndim != 2 or path.shape[1] != 2 or not len(path):
            raise ValueError(f"paths[{name!r}] has shape {path.shape}, wants (steps + 1, 2)")
    return points


def _region(paths: Iterable[Array]) -> tuple[Array, Array]:
    """Return coordinates x and y of a grid that holds all paths and the minimum, with a margin."""
    points = np.concatenate([[[0.0, 0.0]], *paths])
    points = points[np.isfinite(points).all(axis=1)]
    (left, _), (right, _) = points.min(axis=0), points.max(axis=0)
    top = np.abs(points[:, 1]).max()
    margin = 0.1 * (right - left) + 0.1
    x = np.linspace(left - margin, right + margin, 300)
    y = np.linspace(-top - margin, top + margin, 300)
    return x, y


def _draw_trajectory(axes: Axes, name: str, path: Array, x: Array, y: Array) -> None:
    heights = valley(x, y[:, None])
    levels = heights.max() * np.linspace(0, 1, 12)[1:-1] ** 2  # lines equally far apart
    axes.contour(x, y, heights, levels, colors="0.8", linewidths=1)
    color = _STYLES.get(name, _OTHER_STYLE).color
    axes.plot(
        *path.T, "o-", color=color, markersize=4.5, linewidth=1.8, label="path, a dot per step"
    )
    axes.plot(*path[0], "ks", markersize=10, label="start")
    axes.plot(0, 0, "*", color="#E69F00", markeredgecolor="k", markersize=18, label="minimum")
    axes.set_aspect("equal")


def require_matplotlib() -> None:
    """Raise an ImportError that says what to install, if matplotlib is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "fastopt[cli]"') from error


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure of so many inches to draw on, in this package's looks."""
    require_matplotlib()
    from matplotlib.figure import Figure

    with _looks():
        yield Figure((width, height), layout="constrained")


@contextmanager
def _looks() -> Iterator[None]:
    """Set fonts and frames for a slide, whatever the user's own settings, and put these back."""
    from matplotlib import style

    with style.context(["default", _LOOKS]):
        yield


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure to a file, at 150 dots per inch; the suffix says the format.

    The same figure gives the same bytes: no date and no random names go into the file.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        As `plot_losses`, `plot_trajectories` and `schedules.plot` return it.
    path : path
        Ends in one of `FORMATS`. The file appears whole or not at all; one that was there stays as
        it is until then.

    Raises
    ------
    ValueError
        The suffix is none of `FORMATS`.
    OSError
        The folder isn't there or can't be written to.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from fastopt.plotting import plot_losses, save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(plot_losses({"SGD": [2.3, 1.9]}), Path(folder) / "losses.svg")
    ...     [file.name for file in Path(folder).iterdir()]
    ['losses.svg']
    """
    suffix = Path(path).suffix[1:].lower()
    if suffix not in FORMATS:
        raise ValueError(f"{os.fspath(path)!r} must end in .{', .'.join(FORMATS)}")
    with replacing(path) as file, _looks(), _fixed_names():
        figure.savefig(file, dpi=_DPI, format=suffix, metadata=_DATELESS.get(suffix))


@contextmanager
def _fixed_names() -> Iterator[None]:
    """Name the parts of an SVG by their content alone, not by a number drawn for each file."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "fastopt"}):
        yield
