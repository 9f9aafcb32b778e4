"""Smoothing, the three pictures, and files that appear whole or not at all."""

import subprocess
import sys
from itertools import pairwise
from math import inf, nan

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from matplotlib.text import Text

import fastopt
from fastopt import experiments, plotting
from fastopt.plotting import plot_history, plot_losses, plot_trajectories, save, smooth_curve
from fastopt.training import History

NAMES = ["SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam"]


def losses(steps=60, names=NAMES, lowest=0.01):
    """Return noisy curves that fall from 2 to at most 0.5 or the lowest, each its own way."""
    rng = np.random.default_rng(0)
    ends = np.geomspace(0.5, lowest, len(names))
    return {
        name: np.geomspace(2, end, steps) * (1 + 0.1 * rng.random(steps))
        for name, end in zip(names, ends, strict=True)
    }


def paths():
    return {
        name: experiments.trajectory(optimizer)
        for name, optimizer in experiments.valley_optimizers(fastopt).items()
    }


def end_labels(figure):
    return [text.get_text() for text in figure.axes[0].texts]


class TestSmoothCurve:
    @pytest.mark.parametrize("n", [11, 12, 100, 1000])
    def test_equals_the_usual_formulation(self, n):
        x = np.random.default_rng(n).random(n)
        continued = np.r_[x[10:0:-1], x, x[-1:-11:-1]]
        window = np.kaiser(11, 2)
        expected = np.convolve(window / window.sum(), continued, mode="valid")[5:-5]
        np.testing.assert_allclose(smooth_curve(x), expected, rtol=1e-13)

    @pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 10, 11, 40])
    def test_is_a_weighted_mean_over_the_mirrored_curve(self, n):
        x = np.random.default_rng(n).random(n)
        offsets = np.arange(-5, 6)
        weights = np.i0(2 * np.sqrt(1 - (offsets / 5) ** 2))

        def mirrored(i):
            while not 0 <= i < n:
                i = -i if i < 0 else 2 * n - 1 - i
            return x[i]

        expected = [
            sum(w * mirrored(i + k) for w, k in zip(weights, offsets, strict=True)) / weights.sum()
            for i in range(n)
        ]
        if n >= 6:  # of a shorter curve, the image on the left has no ends to be mirrored again
            np.testing.assert_allclose(smooth_curve(x), expected, rtol=1e-13)
        assert smooth_curve(x).shape == (n,)
        assert x.min() <= smooth_curve(x).min() <= smooth_curve(x).max() <= x.max()

    def test_keeps_a_constant(self):
        for n in range(25):
            np.testing.assert_allclose(smooth_curve([1.5] * n), np.full(n, 1.5), rtol=1e-15)

    def test_takes_integers_and_leaves_its_input(self):
        x = np.arange(20)
        smoothed = smooth_curve(x)
        assert smoothed.dtype == np.float64
        np.testing.assert_allclose(smoothed[5:15], x[5:15], rtol=1e-14)
        assert x.tolist() == list(range(20))

    def test_nan_spreads_five_steps(self):
        x = np.ones(40)
        x[20] = np.nan
        assert np.flatnonzero(np.isnan(smooth_curve(x))).tolist() == list(range(15, 26))

    @pytest.mark.parametrize("x", [1.0, np.ones((3, 4))])
    def test_wants_one_dimension(self, x):
        with pytest.raises(ValueError, match="wants one dimension"):
            smooth_curve(x)


class TestPlotLosses:
    def test_shows_every_optimizer_its_own_way(self):
        axes = plot_losses(losses()).axes[0]
        lines = [line for line in axes.lines if line.get_label() in NAMES]
        assert [line.get_label() for line in lines] == NAMES
        for looks in ("get_color", "get_marker"):
            assert len({getattr(line, looks)() for line in lines}) == len(NAMES)
        for line in lines:
            np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 61))

    def test_is_labelled(self):
        figure = plot_losses(losses(), "a title")
        axes = figure.axes[0]
        assert (axes.get_title(), axes.get_xlabel()) == ("a title", "step")
        assert axes.get_ylabel() == "loss on the batch after the step"
        assert sorted(end_labels(figure)) == sorted(NAMES)
        texts = [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        assert min(text.get_fontsize() for text in texts) >= 12

    def test_long_runs_have_a_faint_line_and_a_note_of_it(self):
        figure = plot_losses(losses(200, ["SGD", "Adam"]))
        assert len(figure.axes[0].lines) == 4
        assert figure.get_supxlabel() == "bold: trend; faint: smoothed over 11 steps"

    @pytest.mark.parametrize("steps", [1, 5, 20, 100, 199])
    def test_short_runs_are_drawn_as_they_are(self, steps):
        curves = losses(steps, ["SGD", "Adam"])
        curves["SGD"][0] = 14.35
        figure = plot_losses(curves)
        for line, curve in zip(figure.axes[0].lines, curves.values(), strict=True):
            np.testing.assert_array_equal(line.get_ydata(), curve)
        assert figure.axes[0].get_ylim()[1] > 14.35
        assert figure.get_supxlabel() == ""

    @pytest.mark.parametrize("ends", [[2.0] * 6, [1.0] * 5 + [2.0], [1.0] + [2.0] * 5])
    def test_labels_of_one_step_stand_beside_the_axes(self, ends):
        figure = plot_losses({name: [end] for name, end in zip(NAMES, ends, strict=True)})
        heights = [text.xyann[1] for text in figure.axes[0].texts]
        assert 0 <= min(heights) < max(heights) <= 1
        assert all(high - low > 0.0699 for low, high in pairwise(heights))

    @pytest.mark.parametrize("wrong", [[2.0, 1.0], np.ones(3), None])
    def test_wants_a_mapping(self, wrong):
        with pytest.raises(TypeError, match=r"losses is a .*, wants a mapping"):
            plot_losses(wrong)

    @pytest.mark.parametrize("wrong", [[], 1.0, [[1.0]]])
    def test_wants_a_row_of_losses(self, wrong):
        with pytest.raises(ValueError, match=r"losses\['mine'\] has shape"):
            plot_losses({"mine": wrong})

    def test_wants_an_optimizer(self):
        with pytest.raises(ValueError, match="losses is empty"):
            plot_losses({})

    def test_without_matplotlib(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ImportError, match=r'pip install "fastopt\[cli\]"$'):
            plot_losses(losses())

    def test_labels_stand_in_the_order_of_the_ends(self):
        curves = losses(names=["AdaGrad", "SGD", "Adam"])
        assert end_labels(plot_losses(curves)) == ["Adam", "SGD", "AdaGrad"]

    def test_labels_of_equal_curves_do_not_overlap(self):
        figure = plot_losses({name: [2.0, 1.0, 0.1] for name in NAMES})
        FigureCanvasAgg(figure).draw()
        # Text's extent: an annotation's own includes its line
        boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]
        boxes.sort(key=lambda box: box.y0)
        assert all(low.y1 <= high.y0 for low, high in pairwise(boxes))
        assert all(figure.bbox.contains(*corner) for box in boxes for corner in box.corners())

    def test_axis_is_logarithmic_beyond_a_decade(self):
        assert plot_losses(losses()).axes[0].get_yscale() == "log"
        assert plot_losses(losses(lowest=0.4)).axes[0].get_yscale() == "linear"

    @pytest.mark.parametrize("lowest", [0.1, 0.01, 1e-4])
    def test_ticks_are_plain_numbers(self, lowest):
        figure = plot_losses(losses(lowest=lowest))
        FigureCanvasAgg(figure).draw()
        axes = figure.axes[0]
        low, high = axes.get_ylim()
        seen = [
            tick.label1.get_text()
            for tick in axes.yaxis.get_major_ticks()
            if low <= tick.get_loc() <= high
        ]
        assert 3 <= len(seen) <= 12
        assert all(float(text) for text in seen)

    def test_first_spike_is_left_out_but_a_divergence_is_not(self):
        falling = np.geomspace(2, 0.01, 400)
        spike = falling.copy()
        spike[0] = 15
        axes = plot_losses({"SGD": falling, "RMSprop": spike}).axes[0]
        assert axes.get_ylim()[1] < 10
        axes = plot_losses({"SGD": falling, "RMSprop": np.geomspace(2, 15, 400)}).axes[0]
        assert axes.get_ylim()[1] > 15

    @pytest.mark.parametrize("steps", [1, 2, 3, 10, 11, 500])
    def test_any_number_of_steps(self, steps, tmp_path):
        save(plot_losses(losses(steps)), tmp_path / "a.png")

    def test_diverged_and_vanished_losses(self, tmp_path):
        nan, inf = float("nan"), float("inf")
        curves = {
            "SGD": [nan] * 30,
            "Adam": [*np.geomspace(2, 0.01, 20), *[nan] * 10],
            "Momentum": [inf] * 30,
            "AdaGrad": np.geomspace(2, 1e-12, 30),
            "RMSprop": [-1e-7] * 30,
            "unheard of": [1.0] * 30,
        }
        figure = plot_losses(curves)
        save(figure, tmp_path / "a.png")
        diverged = {"SGD (NaN)", "Adam (NaN)", "Momentum (NaN)"}
        assert set(end_labels(figure)) == diverged | {"AdaGrad", "RMSprop", "unheard of"}

    def test_all_diverged(self, tmp_path):
        save(plot_losses({"SGD": [float("nan")] * 3}), tmp_path / "a.png")

    @pytest.mark.parametrize("ends", [[0.0] * 4, [-1, -20], [5, 1, -20], [1e-8, 1e-10]])
    def test_axis_is_linear_where_a_logarithm_would_hide_losses(self, ends):
        figure = plot_losses({"SGD": ends})
        FigureCanvasAgg(figure).draw()
        axes = figure.axes[0]
        assert axes.get_yscale() == "linear"
        low, high = axes.get_ylim()
        assert low < min(ends) <= max(ends) < high


def a_history(losses, lr=0.1, validation=(), every=10, began=0, **metrics):
    """Return a history whose lr may be a function of the step, evaluated every so many steps."""
    history = History(began)
    for i, loss in enumerate(losses):
        history["loss"].append(loss)
        history.add_step(1 + i // 10, lr(i) if callable(lr) else lr, nan, 0.1 * i)
        if i % every == every - 1 and i // every < len(validation):
            numbers = {f"validation_{name}": values[i // every] for name, values in metrics.items()}
            history.add_evaluation(
                iteration=began + i + 1, epoch=1 + i // 10, seconds=0.1 * i,
                validation_loss=validation[i // every], **numbers,
            )  # fmt: skip
    return history


def y_labels(figure):
    return [axes.get_ylabel() for axes in figure.axes]


class TestPlotHistory:
    def test_panels_are_of_what_is_there(self):
        losses = np.geomspace(2, 0.5, 30)
        falling = {"lr": lambda i: 0.1 / (1 + i)}
        evaluated = {"validation": [1, 0.9, 0.8], "accuracy": [0.1, 0.2, 0.3]}
        for settings, panels in (
            ({}, ["loss"]),
            (falling, ["loss", "learning rate"]),
            ({"validation": [1, 0.9, 0.8]}, ["loss"]),
            (evaluated, ["loss", "validation accuracy"]),
            (
                {**evaluated, **falling, "own_metric": [1, 2, 3]},
                ["loss", "validation accuracy", "validation own metric", "learning rate"],
            ),
        ):
            figure = plot_history(a_history(losses, **settings))
            assert y_labels(figure) == panels
            assert [axes.get_xlabel() for axes in figure.axes] == [""] * (len(panels) - 1) + [
                "step"
            ]
            width, height = figure.get_size_inches()
            assert width == 10
            assert height == pytest.approx(5 + 2.2 * (len(panels) - 1))

    def test_draws_the_numbers(self):
        losses = np.geomspace(2, 0.5, 30)
        history = a_history(
            losses, lambda i: 0.1 / (1 + i), [1, 0.9, 0.8], began=70, accuracy=[0.1, 0.2, 0.3]
        )
        axes, accuracy, rate = plot_history(history, "my training").axes
        assert axes.get_title() == "my training"
        batches, validation = axes.lines
        np.testing.assert_array_equal(batches.get_xdata(), np.arange(71, 101))
        np.testing.assert_array_equal(batches.get_ydata(), losses)
        np.testing.assert_array_equal(validation.get_xydata(), [[80, 1], [90, 0.9], [100, 0.8]])
        np.testing.assert_array_equal(
            accuracy.lines[0].get_xydata(), [[80, 0.1], [90, 0.2], [100, 0.3]]
        )
        np.testing.assert_array_equal(rate.lines[0].get_xdata(), np.arange(71, 101))
        np.testing.assert_array_equal(rate.lines[0].get_ydata(), 0.1 / np.arange(1, 31))
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert texts == ["on the batches", "on the validation data"]
        assert batches.get_color() != validation.get_color()
        assert validation.get_marker() != "None"

    def test_has_a_title_of_its_own(self):
        assert plot_history(a_history([2, 1])).axes[0].get_title() == "Training"

    @pytest.mark.parametrize("steps", [199, 200, 500])
    def test_long_ones_have_a_trend(self, steps):
        losses = np.geomspace(2, 0.5, steps)
        axes = plot_history(a_history(losses)).axes[0]
        (text,) = [text.get_text() for text in axes.get_legend().get_texts()]
        if steps < 200:
            assert len(axes.lines) == 1
            assert text == "on the batches"
            return
        faint, bold = axes.lines
        np.testing.assert_array_equal(faint.get_ydata(), smooth_curve(losses))
        assert faint.get_linewidth() < bold.get_linewidth()
        assert text == "on the batches: trend; faint: smoothed over 11 steps"

    @pytest.mark.parametrize("lr", [0.1, nan, lambda i: nan if i else 0.1])
    def test_a_rate_that_does_not_change_has_no_panel(self, lr):
        assert y_labels(plot_history(a_history([2, 1, 0.5], lr))) == ["loss"]

    def test_of_a_training(self, tmp_path):
        rng = np.random.default_rng(0)
        x, t = rng.random((40, 3)), np.arange(40) % 2
        trainer = fastopt.Trainer(
            fastopt.TwoLayerNet(3, 4, 2, rng=0),
            fastopt.SGD(lr=fastopt.schedules.cosine(0.1, 8)),
            batch_size=10, rng=0, metrics={"norm": lambda net, x, t: np.linalg.norm(x)},
        )  # fmt: skip
        figures = []
        trainer.callbacks.append(lambda ours: figures.append(plot_history(ours.history)))
        history = trainer.fit(x, t, epochs=2, validation=(x, t))
        figures.append(plot_history(history))
        panels = ["loss", "validation accuracy", "validation norm", "learning rate"]
        assert y_labels(figures[0]) == ["loss"]  # one under way
        assert y_labels(figures[-1]) == panels
        save(figures[-1], tmp_path / "a.png")
        assert imread(tmp_path / "a.png").shape[:2] == (1740, 1500)

    @pytest.mark.parametrize(
        ("losses", "validation"),
        [
            ([1.0], []),
            ([nan] * 30, [nan, nan]),
            ([inf] * 300, []),
            ([*np.geomspace(2, 0.01, 40), nan, inf], [1, nan, 0.5]),
            ([*np.geomspace(2, 0.01, 300), *[nan] * 100], [1, nan, inf]),
            (np.geomspace(1e30, 1, 300), [1e30]),
            ([0.0] * 20, [0, 0]),
            (np.linspace(1, -5, 30), [-1, -3]),
            (np.linspace(-1, -50, 300), [-1, -60]),
        ],
    )
    def test_any_losses(self, losses, validation):
        history = a_history(losses, validation=validation, accuracy=[nan] * len(validation))
        figure = plot_history(history)
        FigureCanvasAgg(figure).draw()
        finite = [loss for loss in (*losses, *validation) if np.isfinite(loss)]
        if finite and min(finite) < 0:
            assert figure.axes[0].get_ylim()[0] < min(finite)

    def test_axis_is_logarithmic_beyond_a_decade(self):
        for end, scale in ((0.01, "log"), (0.4, "linear")):
            history = a_history(np.geomspace(2, end, 50))
            assert plot_history(history).axes[0].get_yscale() == scale
        history = a_history([2, 1.9], validation=[0.01], every=1)
        assert plot_history(history).axes[0].get_yscale() == "log"

    @pytest.mark.parametrize(
        ("history", "kind"), [({"loss": [1]}, "dict"), ([1], "list"), (None, "NoneType")]
    )
    def test_wants_a_history(self, history, kind):
        message = f"^history must be what Trainer.fit returns, got {kind}$"
        with pytest.raises(TypeError, match=message):
            plot_history(history)

    def test_wants_a_step(self):
        with pytest.raises(ValueError, match="history has no step that could be drawn"):
            plot_history(History())

    def test_without_matplotlib(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ImportError, match=r'pip install "fastopt\[cli\]"$'):
            plot_history(a_history([2, 1]))


class TestPlotTrajectories:
    def test_has_a_panel_with_each_path(self):
        figure = plot_trajectories(paths(), {"SGD": 0.95})
        panels = figure.axes[:5]
        titles = [panel.get_title() for panel in panels]
        assert titles == ["SGD, lr = 0.95", "Momentum", "AdaGrad", "Adam", "RMSprop"]
        for panel, path in zip(panels, paths().values(), strict=True):
            drawn = {line.get_label(): line.get_xydata() for line in panel.lines}
            np.testing.assert_array_equal(drawn["path, a dot per step"], path)
            assert drawn["start"].tolist() == [[-7.0, 2.0]]
            assert drawn["minimum"].tolist() == [[0.0, 0.0]]
            assert panel.get_aspect() == 1.0

    def test_a_default_rate_is_marked(self):
        figure = plot_trajectories(paths(), {"SGD": 0.95, "RMSprop": 0.01}, ["RMSprop"])
        FigureCanvasAgg(figure).draw()
        panels = [figure.axes[0], figure.axes[4]]
        assert [panel.get_title() for panel in panels] == [
            "SGD, lr = 0.95",
            "RMSprop, lr = 0.01 (default)",
        ]
        assert panels[1].title.get_window_extent().width <= panels[1].bbox.width * 1.05

    def test_panels_show_one_region_that_holds_all(self):
        figure = plot_trajectories(paths())
        points = np.concatenate([[[0, 0]], *paths().values()])
        for panel in figure.axes[:5]:
            for limits, values in (
                (panel.get_xlim(), points[:, 0]),
                (panel.get_ylim(), points[:, 1]),
            ):
                assert limits[0] < values.min() < values.max() < limits[1]
            assert panel.get_xlim() == figure.axes[0].get_xlim()

    def test_legend_names_start_path_and_minimum(self):
        legend = plot_trajectories(paths()).axes[5].get_legend()
        texts = [text.get_text() for text in legend.get_texts()]
        assert texts == ["path, a dot per step", "start", "minimum"]
        assert min(text.get_fontsize() for text in legend.get_texts()) >= 12

    @pytest.mark.parametrize("n", [1, 2, 3, 4, 6])
    def test_any_number_of_panels(self, n, tmp_path):
        path = [[-7.0, 2.0], [-6.0, 1.0]]
        save(plot_trajectories({f"optimizer {i}": path for i in range(n)}), tmp_path / "a.png")

    def test_a_diverged_path(self, tmp_path):
        path = [[-7.0, 2.0], [np.inf, 1.0], [np.nan, np.nan]]
        save(plot_trajectories({"SGD": path}), tmp_path / "a.png")

    @pytest.mark.parametrize("path", [[1.0, 2.0], [[1.0, 2.0, 3.0]], np.empty((0, 2))])
    def test_a_path_that_is_none(self, path):
        with pytest.raises(ValueError, match=r"paths\['mine'\] has shape .*, wants \(steps"):
            plot_trajectories({"SGD": [[1.0, 2.0]], "mine": path})

    def test_paths_without_names(self):
        with pytest.raises(TypeError, match="paths is a list, wants a mapping"):
            plot_trajectories([[[1.0, 2.0]]])


class TestSave:
    def test_pictures_have_their_size(self, tmp_path):
        save(plot_losses(losses()), tmp_path / "losses.png")
        assert imread(tmp_path / "losses.png").shape[:2] == (870, 1500)
        save(plot_trajectories(paths()), tmp_path / "paths.png")
        assert imread(tmp_path / "paths.png").shape[:2] == (945, 1800)
        assert (tmp_path / "paths.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")

    @pytest.mark.parametrize("suffix", [*plotting.FORMATS, "PNG"])
    def test_every_format_is_written_and_nothing_else(self, suffix, tmp_path):
        path = tmp_path / f"a.{suffix}"
        save(plot_losses(losses(12)), str(path))
        assert path.stat().st_size > 1000
        assert list(tmp_path.iterdir()) == [path]

    def test_settings_of_the_user_neither_matter_nor_change(self, tmp_path):
        save(plot_losses(losses()), tmp_path / "a.png")
        mine = {"font.size": 40, "savefig.bbox": "tight", "figure.facecolor": "red"}
        with mpl.rc_context(mine):
            save(plot_losses(losses()), tmp_path / "b.png")
            assert {key: mpl.rcParams[key] for key in mine} == mine
        np.testing.assert_array_equal(imread(tmp_path / "a.png"), imread(tmp_path / "b.png"))

    @pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
    def test_interrupted_leaves_what_was_there(self, interruption, tmp_path, monkeypatch):
        path = tmp_path / "a.png"
        path.write_bytes(b"old")
        figure = plot_losses(losses(12))

        def write_half(file, **_):
            file.write(b"half")
            raise interruption

        monkeypatch.setattr(figure, "savefig", write_half)
        with pytest.raises(interruption):
            save(figure, path)
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_missing_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            save(plot_losses(losses(12)), tmp_path / "none" / "a.png")

    def test_unknown_suffix(self, tmp_path):
        with pytest.raises(ValueError, match=r"a\.xyz.* must end in \.png, .*\.pdf"):
            save(plot_losses(losses(12)), tmp_path / "a.xyz")
        assert list(tmp_path.iterdir()) == []


def test_drawing_needs_no_pyplot():
    code = (
        "import sys, fastopt.plotting as p; assert 'matplotlib' not in sys.modules; "
        "p.plot_losses({'SGD': [2, 1]}); p.plot_trajectories({'SGD': [[1, 1]]}); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
