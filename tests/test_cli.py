"""The command line: exit statuses, what it prints, the files it leaves and those it doesn't."""

import csv
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from matplotlib.image import imread

import fastopt
from fastopt import _cli, _cpu, _progress, datasets, experiments, plotting, reference
from fastopt.datasets import _download, load_mnist

QUICK = ["--iterations", "3", "--batch-size", "8", "--hidden", "5", "--optimizers", "sgd,ADAM"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Run every test in an empty folder, where default outputs land."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*argv):
    try:
        return _cli.main(argv)
    except SystemExit as end:
        return end.code


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return header, [[float(value) for value in row] for row in rows]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def one_line(text, start):
    assert text.startswith(start)
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text


def comparison(classes=fastopt, **options):
    options = {"hidden_size_list": [5], "iterations": 3, "batch_size": 8} | options
    return experiments.compare_optimizers(load_mnist(), ["SGD", "Adam"], classes=classes, **options)


class TestCompare:
    def test_prints_a_table_and_draws(self, folder, capsys):
        assert run("compare", *QUICK) == 0
        out, err = capsys.readouterr()
        lines = out.splitlines()
        columns = ["optimizer", "lr", "final loss", "test accuracy", "ms per step"]
        assert re.split("  +", lines[0]) == columns
        assert [line.split()[0] for line in lines[1:3]] == ["SGD", "Adam"]
        assert {len(line) for line in lines[:3]} == {len(lines[0])}
        for line, training in zip(lines[1:3], comparison().trainings.values(), strict=True):
            _, lr, loss, accuracy, ms = line.split()
            assert float(lr) == training.lr
            assert float(loss) == pytest.approx(training.final_loss, rel=0.005)
            assert float(accuracy) == pytest.approx(training.test_accuracy, abs=5e-5)
            assert float(ms) > 0
        assert "3 steps of 8 images, net 784-5-10, float32: " in lines[3]
        assert lines[-1] == "picture: fastopt-compare.png"
        assert err == ""
        assert [path.name for path in folder.iterdir()] == ["fastopt-compare.png"]
        assert imread("fastopt-compare.png").shape[:2] == (870, 1500)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("classes", [fastopt, reference], ids=["compiled", "reference"])
    def test_history_holds_the_losses(self, dtype, classes, folder, capsys):
        extra = ["--reference"] if classes is reference else []
        options = ["--dtype", dtype, "--seed", "7", "--history", "a.csv"]
        assert run("compare", *QUICK, *options, *extra) == 0
        header, rows = read_csv(folder / "a.csv")
        trainings = comparison(classes, dtype=dtype, seed=7).trainings
        assert header == ["step", "SGD", "Adam"]
        assert [row[0] for row in rows] == [1, 2, 3]
        assert [row[1] for row in rows] == trainings["SGD"].losses
        assert [row[2] for row in rows] == trainings["Adam"].losses
        assert "history: a.csv\n" in capsys.readouterr().out

    def test_output_is_replaced(self, folder):
        (folder / "a.svg").write_text("old")
        assert run("compare", *QUICK, "--output", "a.svg") == 0
        assert "<svg" in (folder / "a.svg").read_text(encoding="utf-8")

    def test_help_says_how_batches_are_drawn(self, capsys):
        run("compare", "--help")
        assert "drawn with replacement" in " ".join(capsys.readouterr().out.split())

    @pytest.mark.parametrize(
        ("iterations", "size", "told"),
        [
            (1, 1, ["1 step of 1 image, ", "final loss: of the one step; "]),
            (20, 2, ["20 steps of 2 images, ", "final loss: mean of the last 20 steps; "]),
            (101, 2, ["101 steps of 2 images, ", "final loss: mean of the last 100 steps; "]),
        ],
    )
    def test_footer_says_what_the_final_loss_is(self, iterations, size, told, capsys):
        options = ["--iterations", str(iterations), "--batch-size", str(size)]
        assert run("compare", *QUICK, *options) == 0
        lines = capsys.readouterr().out.splitlines()[3:5]
        assert all(line.startswith(start) for line, start in zip(lines, told, strict=True))

    @pytest.mark.parametrize("extra", [[], ["--reference"]])
    def test_the_twins_are_named(self, extra, capsys, monkeypatch):
        titles = []

        def note(losses, title):
            titles.append(title)
            return plotting.plot_losses(losses, title)

        monkeypatch.setattr(_cli, "plot_losses", note)
        assert run("compare", *QUICK, *extra) == 0
        for text in (capsys.readouterr().out, titles[0]):
            assert ("NumPy twins" in text) == bool(extra)

    def test_no_hidden_layer(self, capsys):
        assert run("compare", *QUICK, "--hidden", "") == 0
        assert "net 784-10," in capsys.readouterr().out

    def test_defaults_are_the_experiment(self, monkeypatch):
        seen = {}

        def note(data, optimizers, **options):
            assert callable(options.pop("progress"))
            assert not options.pop("stop")()
            seen.update(options, images=len(data[0][0]), optimizers=optimizers)
            raise KeyboardInterrupt

        monkeypatch.setattr(_cli, "compare_optimizers", note)
        assert run("compare") == 130
        assert seen == {
            "images": 6000,
            "optimizers": ["SGD", "Momentum", "AdaGrad", "Adam", "RMSprop"],
            "classes": fastopt,
            "hidden_size_list": [100, 100, 100, 100],
            "iterations": 2000,
            "batch_size": 128,
            "dtype": "float32",
            "seed": 0,
            "learning_rates": {},
            "flush_subnormals": True,
        }

    @pytest.mark.skipif(not _cpu.can_flush_subnormals, reason="this processor can't flush")
    @pytest.mark.parametrize(("options", "left"), [([], 0), (["--keep-subnormals"], 1e-310)])
    def test_steps_flush_subnormals_unless_they_are_to_be_kept(self, options, left, monkeypatch):
        class Probing(fastopt.Adam):
            def update(self, params, grads):
                probe = {"p": np.array([1e-310])}
                super().update(probe, {"p": np.zeros(1)})
                found.append(probe["p"][0])
                super().update(params, grads)

        found = []
        monkeypatch.setattr(fastopt, "Adam", Probing)
        assert run("compare", *QUICK, *options) == 0
        assert found == [left] * 3
        assert not fastopt.get_flush_subnormals()

    @pytest.mark.parametrize("extra", [[], ["--reference"]])
    def test_kept_subnormals_change_nothing_of_ordinary_numbers(self, extra, folder):
        for name, options in (("a", []), ("b", ["--keep-subnormals"])):
            assert run("compare", *QUICK, *extra, *options, "--history", f"{name}.csv") == 0
        assert (folder / "a.csv").read_bytes() == (folder / "b.csv").read_bytes()

    def test_help_says_why_subnormals_are_not_kept(self, capsys):
        run("compare", "--help")
        text = " ".join(capsys.readouterr().out.split())
        assert "--keep-subnormals compute with the numbers nearest to zero as NumPy does" in text

    @pytest.mark.parametrize(
        ("options", "rates", "told"),
        [
            (["0.05"], {"SGD": 0.05, "Adam": 0.05}, "\nlr = 0.05"),
            (["SGD=0.1"], {"SGD": 0.1, "Adam": 0.001}, "\nlr: SGD 0.1, others by default"),
            (["0.05", "adam=0.01"], {"SGD": 0.05, "Adam": 0.01}, "\nlr: SGD 0.05, Adam 0.01"),
            (["Adam=0.01,0.05"], {"SGD": 0.05, "Adam": 0.01}, "\nlr: SGD 0.05, Adam 0.01"),
            ([], {"SGD": 0.01, "Adam": 0.001}, ""),
        ],
    )
    def test_learning_rates(self, options, rates, told, folder, capsys, monkeypatch):
        titles = []

        def note(losses, title):
            titles.append(title)
            return plotting.plot_losses(losses, title)

        monkeypatch.setattr(_cli, "plot_losses", note)
        argv = [word for option in options for word in ("--lr", option)]
        assert run("compare", *QUICK, *argv, "--history", "a.csv") == 0
        table = [line.split() for line in capsys.readouterr().out.splitlines()[1:3]]
        assert {row[0]: float(row[1]) for row in table} == rates
        _, rows = read_csv(folder / "a.csv")
        trainings = comparison(learning_rates=rates).trainings
        assert [row[1:] for row in rows] == [
            list(losses)
            for losses in zip(*(training.losses for training in trainings.values()), strict=True)
        ]
        assert titles == [f"Training loss on 6,000 MNIST images, batches of 8{told}"]


class TestTrajectories:
    def test_draws(self, folder, capsys):
        assert run("trajectories") == 0
        assert capsys.readouterr() == ("picture: fastopt-trajectories.png\n", "")
        assert imread("fastopt-trajectories.png").shape[:2] == (945, 1800)
        assert len(list(folder.iterdir())) == 1

    @pytest.mark.parametrize("extra", [[], ["--reference"]])
    def test_history_holds_the_paths(self, extra, folder):
        options = ["--steps", "7", "--history", "a.csv", "--output", "a.png"]
        assert run("trajectories", *options, *extra) == 0
        header, rows = read_csv(folder / "a.csv")
        names = list(experiments.OPTIMIZERS)
        assert header == ["step", *(f"{name}_{axis}" for name in names for axis in "xy")]
        assert [row[0] for row in rows] == list(range(8))
        for i, optimizer in enumerate(experiments.valley_optimizers().values()):
            path = experiments.trajectory(optimizer, steps=7)
            assert [row[1 + 2 * i : 3 + 2 * i] for row in rows] == path.tolist()

    def test_says_whose_learning_rate_is_the_default(self, folder):
        assert run("trajectories", "--output", "a.svg") == 0
        assert (folder / "a.svg").read_text(encoding="utf-8").count("(default)") == 1
        assert "RMSprop, lr = 0.01 (default)" in (folder / "a.svg").read_text(encoding="utf-8")

    def test_optimizers_and_learning_rates(self, folder):
        options = ["--optimizers", "nesterov,sgd", "--lr", "SGD=0.5", "--steps", "4"]
        assert run("trajectories", *options, "--output", "a.svg", "--history", "a.csv") == 0
        header, rows = read_csv(folder / "a.csv")
        assert header == ["step", "Nesterov_x", "Nesterov_y", "SGD_x", "SGD_y"]
        path = experiments.trajectory(fastopt.SGD(lr=0.5), steps=4)
        assert [row[3:] for row in rows] == path.tolist()
        picture = (folder / "a.svg").read_text(encoding="utf-8")
        assert "Nesterov, lr = 0.1 " in picture
        assert "SGD, lr = 0.5 " in picture
        assert "RMSprop" not in picture

    @pytest.mark.parametrize("suffix", ["svg", "pdf"])
    def test_two_runs_write_the_same_bytes(self, suffix, folder):
        for name in "ab":
            assert run("trajectories", "--output", f"{name}.{suffix}") == 0
        first, second = ((folder / f"{name}.{suffix}").read_bytes() for name in "ab")
        assert first == second
        assert b"Date" not in first


class TestOthers:
    def test_alone_prints_help(self, capsys):
        assert run() == 0
        out = capsys.readouterr().out
        assert all(command in out for command in ("compare", "trajectories", "info"))

    @pytest.mark.parametrize("command", [[], ["compare"], ["trajectories"], ["info"]])
    def test_help(self, command, capsys):
        assert run(*command, "--help") == 0
        assert capsys.readouterr().out.startswith("usage: " + " ".join(["fastopt", *command]))

    def test_version(self, capsys):
        assert run("--version") == 0
        assert capsys.readouterr().out == f"fastopt {fastopt.__version__}\n"

    def test_info_is_show_config(self, capsys):
        fastopt.show_config()
        expected = capsys.readouterr().out
        assert run("info") == 0
        assert capsys.readouterr().out == expected


def test_two_names_of_one_file(folder, capsys, monkeypatch):
    monkeypatch.setattr(_cli, "compare_optimizers", None)  # is not reached
    try:
        (folder / "a.png").symlink_to("a.csv")
    except OSError:
        pytest.skip("no symbolic links here")
    for command in ("compare", "trajectories"):
        assert run(command, "--history", "a.csv", "--output", "a.png") == 2
        err = one_line(capsys.readouterr().err, f"fastopt {command}: error: ")
        assert "--history a.csv and --output a.png are one file" in err
    assert names_in(folder) == ["a.png"]
    (folder / "b.csv").write_text("")
    (folder / "b.png").hardlink_to(folder / "b.csv")
    assert run("trajectories", "--history", "b.csv", "--output", "b.png") == 2


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["nothing"], "nothing"),
        (["--nothing"], "--nothing"),
        (["compare", "--nothing"], "--nothing"),
        (["compare", "--iter", "3"], "fastopt compare: error: unrecognized arguments: --iter"),
        (["compare", "--hidden", "50", "30"], "compare: error: unrecognized arguments: 30; the it"),
        (["compare", "--hidden", "50", "30"], "separated by commas"),
        (["compare", "--iterations", "0"], "--iterations"),
        (["compare", "--iterations", "1.5"], "--iterations"),
        (["compare", "--iterations"], "--iterations"),
        (["compare", "--batch-size", "-1"], "--batch-size"),
        (["compare", "--batch-size", "9" * 30], "--batch-size"),
        (["compare", "--hidden", "100,"], "--hidden"),
        (["compare", "--hidden", "10,0"], "--hidden"),
        (["compare", "--optimizers", "sgd,adamm"], "'adamm', choose from SGD, "),
        (["compare", "--optimizers", ""], "--optimizers"),
        (["compare", "--optimizers", "adam,sgd,Adam"], "Adam is listed twice"),
        (["compare", "--lr", "fast"], "--lr: want a number or NAME=NUMBER"),
        (["compare", "--lr", ""], "--lr: want a number or NAME=NUMBER"),
        (["compare", "--lr", "-1"], "--lr"),
        (["compare", "--lr=-1"], "lr must be finite and at least 0, got -1.0"),
        (["compare", "--lr", "SGD=nan"], "lr must be finite and at least 0, got nan"),
        (["compare", "--lr", "adamm=1"], "'adamm', choose from SGD, "),
        (["compare", "--lr", "SGD=1", "--lr", "sgd=2"], "--lr: SGD is given twice"),
        (["compare", "--lr", "1,2"], "--lr: the rate for all is given twice"),
        (["trajectories", "--lr", "Nesterov=1"], "Nesterov is not among the optimizers, SGD, "),
        (["compare", "--mnist", "nowhere"], "nowhere"),
        (["compare", "--dtype", "float16"], "float16"),
        (["compare", "--seed", "-1"], "--seed"),
        (["compare", "--output", "nowhere/a.png"], "nowhere"),
        (["compare", "--output", "a.xyz"], ".png"),
        (["compare", "--output", "a"], ".png"),
        (["compare", "--output", ""], ".png"),
        (["compare", "--output", "a" * 300 + ".png"], "--output"),
        (["compare", "--output", "folder.png"], "folder.png"),
        (["compare", "--history", "a.png"], ".csv"),
        (["compare", "--history", "nowhere/a.csv"], "nowhere"),
        (["compare", "--history", "file.csv/a.csv"], "file.csv"),
        (["compare", "--keep-subnormals=1"], "--keep-subnormals: ignored explicit argument '1'"),
        (["trajectories", "--keep-subnormals"], "unrecognized arguments: --keep-subnormals"),
        (["trajectories", "--steps", "0"], "--steps"),
        (["trajectories", "--output", "nowhere/a.png"], "nowhere"),
        (["trajectories", "--history", "two\nlines"], "--history"),
        (["info", "more"], "fastopt info: error: unrecognized arguments: more\n"),
    ],
)
def test_bad_argument(argv, named, folder, capsys, monkeypatch):
    (folder / "folder.png").mkdir()
    (folder / "file.csv").write_text("")
    monkeypatch.setattr(_cli, "compare_optimizers", None)  # is not reached
    assert run(*argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert named in one_line(err, "fastopt")
    assert "error: " in err
    assert sorted(path.name for path in folder.iterdir()) == ["file.csv", "folder.png"]


def test_folder_without_mnist(folder, capsys):
    assert run("compare", "--mnist", ".") == 1
    assert "train-images" in one_line(capsys.readouterr().err, "fastopt compare: error: ")
    assert list(folder.iterdir()) == []


def test_mnist_that_cannot_be_downloaded(folder, capsys, monkeypatch):
    monkeypatch.setattr(_download, "ADDRESSES", ("unknown:one/", "unknown:two/"))
    monkeypatch.setenv("FASTOPT_CACHE", str(folder / "cache"))
    assert run("compare", "--mnist", "full") == 1
    err = one_line(capsys.readouterr().err, "fastopt compare: error: ")
    assert "can't be downloaded: unknown:one/" in err
    assert "; unknown:two/" in err
    assert "; Try again, or download" in err
    assert err.endswith(": --mnist FOLDER\n")
    assert list(folder.iterdir()) == []


def test_damaged_mnist(folder, capsys):
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{name}-ubyte").write_bytes(b"damaged")
    assert run("compare", "--mnist", str(folder)) == 1
    assert "ubyte" in one_line(capsys.readouterr().err, "fastopt compare: error: ")


NO_MATPLOTLIB = 'pictures need matplotlib: pip install "fastopt[cli]"\n'


def test_without_matplotlib_there_is_a_table(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run("compare", *QUICK, "--history", "a.csv") == 0
    out, err = capsys.readouterr()
    assert out.startswith("optimizer ")
    assert out.endswith("history: a.csv\n")
    assert err == f"fastopt compare: {NO_MATPLOTLIB}"
    assert names_in(folder) == ["a.csv"]


@pytest.mark.parametrize("argv", [["compare", "--output", "a.png"], ["trajectories"]])
def test_without_matplotlib_a_picture_is_refused_at_once(argv, folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(_cli, "_load_mnist", None)  # is not reached
    assert run(*argv, "--history", "a.csv") == 1
    assert capsys.readouterr() == ("", f"fastopt {argv[0]}: error: {NO_MATPLOTLIB}")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["compare_optimizers", "load_mnist"])
def test_interrupted_before_there_is_a_step(name, folder, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    module = _cli if name == "compare_optimizers" else datasets
    monkeypatch.setattr(module, name, interrupt)
    assert run("compare", *QUICK) == 130
    assert capsys.readouterr() == ("", "fastopt compare: interrupted\n")
    assert list(folder.iterdir()) == []


@pytest.fixture
def usual_handler():
    """Have Ctrl-C handled as usual; a process started in the background may ignore it."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


def adam_that_is_interrupted(*steps):
    class Interrupted(fastopt.Adam):
        def update(self, params, grads):
            super().update(params, grads)
            if self.iter in steps:
                signal.raise_signal(signal.SIGINT)

    return Interrupted


@pytest.mark.usefixtures("usual_handler")
def test_what_ctrl_c_interrupts_is_kept_and_drawn(folder, capsys, monkeypatch):
    monkeypatch.setattr(fastopt, "Adam", adam_that_is_interrupted(2))
    options = ["--iterations", "1000", "--optimizers", "adam,sgd", "--history", "a.csv"]
    assert run("compare", *QUICK, *options) == 130
    out, err = capsys.readouterr()
    assert err == "fastopt compare: interrupted after 2 of 1,000 steps\n"
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["Adam", "SGD"]
    assert lines[3].startswith("2 steps of 8 images, ")
    assert lines[4].startswith("final loss: mean of the last 2 steps; ")
    assert lines[5:] == ["history: a.csv", "picture: fastopt-compare.png"]
    monkeypatch.undo()
    os.chdir(folder)
    want = comparison(iterations=2).trainings
    _, rows = read_csv(folder / "a.csv")
    assert [row[1] for row in rows] == want["Adam"].losses
    assert [row[2] for row in rows] == want["SGD"].losses
    assert imread("fastopt-compare.png").shape[:2] == (870, 1500)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("usual_handler")
def test_ctrl_c_with_the_last_step_is_no_interruption(capsys, monkeypatch):
    monkeypatch.setattr(fastopt, "Adam", adam_that_is_interrupted(3))
    assert run("compare", *QUICK) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("usual_handler")
def test_ctrl_c_twice_ends_at_once(folder, capsys, monkeypatch):
    class Stuck(fastopt.Adam):
        def update(self, params, grads):
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
            raise AssertionError("not reached")

    monkeypatch.setattr(fastopt, "Adam", Stuck)
    assert run("compare", *QUICK, "--history", "a.csv") == 130
    assert capsys.readouterr() == ("", "fastopt compare: interrupted\n")
    assert list(folder.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_someone_elses_is_left_alone(monkeypatch):
    seen = []
    handler = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        monkeypatch.setattr(fastopt, "Adam", adam_that_is_interrupted(2))
        assert run("compare", *QUICK) == 0
        assert seen == [1]
    finally:
        signal.signal(signal.SIGINT, handler)


def test_in_another_thread_signals_are_left_alone():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run, "compare", *QUICK).result() == 0


def test_interrupted_while_it_draws_leaves_the_table(folder, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(_cli, "plot_losses", interrupt)
    assert run("compare", *QUICK) == 130
    out, err = capsys.readouterr()
    assert out.startswith("optimizer ")
    assert err == "fastopt compare: interrupted\n"
    assert list(folder.iterdir()) == []


def test_interrupted_while_it_writes(folder, capsys, monkeypatch):
    def interrupted_rows(*columns, **_):
        yield [column[0] for column in columns]
        raise KeyboardInterrupt

    monkeypatch.setattr(_cli, "zip", interrupted_rows, raising=False)
    assert run("trajectories", "--history", "a.csv") == 130
    assert capsys.readouterr().err == "fastopt trajectories: interrupted\n"
    assert list(folder.iterdir()) == []


def test_table_survives_a_full_disk(capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_cli, "save", fail)
    assert run("compare", *QUICK) == 1
    out, err = capsys.readouterr()
    assert out.startswith("optimizer ")
    assert "picture" not in out
    one_line(err, "fastopt compare: error: ")


@pytest.mark.parametrize("error", [OSError(28, "No space left"), MemoryError()])
def test_what_fails_later_is_one_line_too(error, folder, capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(_cli, "save", fail)
    assert run("trajectories") == 1
    err = one_line(capsys.readouterr().err, "fastopt trajectories: error: ")
    assert "No space left" in err or "MemoryError" in err
    assert list(folder.iterdir()) == []


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_terminal_shows_progress(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with _progress.loss_bar(4) as progress:
        progress({"SGD": 2.0, "Adam": 1.0})
        time.sleep(0.2)  # the bar is drawn ten times a second at most
        progress({"SGD": 1.0, "Adam": float("nan")})
    shown = terminal.getvalue()
    assert " 50% " in shown
    assert "SGD 1.95  Adam nan" in shown
    assert shown.endswith("\r")  # it takes itself away before the table


def test_terminal_has_its_bar_and_nothing_else(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert run("compare", *QUICK) == 0
    assert terminal.getvalue().count("\n") == 0
    assert "left" in terminal.getvalue()
    assert "left" not in capsys.readouterr().out


def test_terminal_without_tqdm(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(_progress, "find_spec", lambda name: None)
    assert run("compare", *QUICK) == 0
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("missing", [["stdout"], ["stderr"], ["stdout", "stderr"]])
def test_without_standard_streams(missing, folder, capsys, monkeypatch):
    for name in missing:
        monkeypatch.setattr(sys, name, None)
    assert run("compare", *QUICK) == 0
    assert run("trajectories", "--history", "a.csv") == 0
    assert run("info") == 0
    assert run("compare", "--nothing") == 2
    assert names_in(folder) == [
        "a.csv", "fastopt-compare.png", "fastopt-trajectories.png",
    ]  # fmt: skip
    out, err = capsys.readouterr()
    assert bool(out) == ("stdout" not in missing)
    assert bool(err) == ("stderr" not in missing)


def test_names_beyond_the_encoding_are_escaped(folder, monkeypatch):
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, "ascii"))
    assert run("trajectories", "--output", "é.svg", "--history", "ü.csv") == 0
    assert printed.getvalue().decode("ascii").splitlines() == [
        r"history: \xfc.csv", r"picture: \xe9.svg",
    ]  # fmt: skip
    assert names_in(folder) == ["é.svg", "ü.csv"]


def python(*args, **variables):
    return subprocess.run(
        [sys.executable, *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **variables},
    )


SCRIPT = "import sys; from _fastopt_cli import main; sys.exit(main())"


class TestProcess:
    # Run where the tests were started, in case the package is found from there only.
    @pytest.fixture(autouse=True)
    def folder(self):
        pass

    def test_module_runs(self):
        done = python("-m", "fastopt", "--version")
        assert (done.returncode, done.stdout) == (0, f"fastopt {fastopt.__version__}\n")

    def test_module_passes_the_status_on(self):
        done = python("-m", "fastopt", "compare", "--iterations", "0")
        assert (done.returncode, done.stdout) == (2, "")
        one_line(done.stderr, "fastopt compare: error: ")

    def test_script_runs(self):
        done = python("-c", SCRIPT, "--version")
        assert (done.returncode, done.stdout) == (0, f"fastopt {fastopt.__version__}\n")
        assert python("-c", SCRIPT, "compare", "--iterations", "0").returncode == 2

    @pytest.mark.parametrize(
        "variable", ["FASTOPT_NUM_THREADS=0", "FASTOPT_ISA=sse9", "FASTOPT_FLUSH_SUBNORMALS=2"]
    )
    def test_script_refuses_a_bad_variable_in_one_line(self, variable):
        done = python("-c", SCRIPT, "info", **dict([variable.split("=")]))
        assert (done.returncode, done.stdout) == (1, "")
        one_line(done.stderr, f"fastopt: error: {variable} ")

    @pytest.mark.parametrize(
        ("raised", "status", "line"),
        [
            ("KeyboardInterrupt", 130, "fastopt: interrupted\n"),
            ("ImportError('not\\ncompiled')", 1, "fastopt: error: not compiled\n"),
        ],
    )
    def test_script_ends_in_one_line_if_the_import_does_not_succeed(self, raised, status, line):
        code = (
            "import builtins\n"
            "def fail(name, *rest, usual=builtins.__import__):\n"
            f"    if name == 'fastopt._cli': raise {raised}\n"
            "    return usual(name, *rest)\n"
            "builtins.__import__ = fail\n"
        )
        done = python("-c", f"{code}{SCRIPT}", "info")
        assert (done.returncode, done.stdout, done.stderr) == (status, "", line)

    @pytest.mark.skipif(os.name != "posix", reason="a shell closes the streams")
    @pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
    def test_closed_streams(self, closed, tmp_path):
        output = tmp_path / "a.svg"
        command = shlex.join(
            [sys.executable, "-m", "fastopt", "compare", *QUICK, "--output", str(output)]
        )
        done = subprocess.run(
            ["sh", "-c", f"{command} {closed}"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert bool(done.stdout) == (closed == "2>&-")
        assert output.read_text(encoding="utf-8").endswith("</svg>\n")

    @pytest.mark.skipif(os.name != "posix", reason="another error where pipes are others")
    def test_reader_who_has_left_is_no_error_to_tell(self, tmp_path):
        read, write = os.pipe()
        os.close(read)
        output = tmp_path / "a.png"
        command = [sys.executable, "-m", "fastopt", "compare", *QUICK, "--output", str(output)]
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
        os.close(write)
        assert (done.returncode, done.stderr) == (1, b"")
        assert output.exists()

    @pytest.mark.parametrize("module", ["fastopt", "fastopt._cli"])
    def test_import_takes_neither_matplotlib_nor_tqdm(self, module):
        code = f"import {module}, sys; print({{'matplotlib', 'tqdm'}} & set(sys.modules))"
        assert python("-c", code).stdout == "set()\n"
