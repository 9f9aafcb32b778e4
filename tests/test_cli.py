"""The command line: exit statuses, what it prints, the files it leaves and those it doesn't."""

import csv
import io
import os
import subprocess
import sys
import time

import pytest
from matplotlib.image import imread

import fastopt
from fastopt import _cli, experiments, plotting, reference
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
        assert lines[0].split("  ") == ["optimizer", "final loss", "test accuracy", "ms per step"]
        assert [line.split()[0] for line in lines[1:3]] == ["SGD", "Adam"]
        assert {len(line) for line in lines[:3]} == {len(lines[0])}
        for line, training in zip(lines[1:3], comparison().trainings.values(), strict=True):
            _, loss, accuracy, ms = line.split()
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
            "progress": None,
        }


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
        (["compare", "--optimizers", "sgd,adamw"], "'adamw', choose from SGD, "),
        (["compare", "--optimizers", ""], "--optimizers"),
        (["compare", "--optimizers", "adam,sgd,Adam"], "Adam is listed twice"),
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


@pytest.mark.parametrize("command", ["compare", "trajectories"])
def test_without_matplotlib(command, folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(_cli, "load_mnist", None, raising=False)
    assert run(command) == 1
    err = one_line(capsys.readouterr().err, f"fastopt {command}: error: ")
    assert err.endswith("pip install matplotlib\n")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["compare_optimizers", "plot_losses"])
def test_interrupted(name, folder, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(_cli, name, interrupt)
    assert run("compare", *QUICK) == 130
    assert capsys.readouterr().err == "fastopt compare: interrupted\n"
    assert list(folder.iterdir()) == []


def test_interrupted_while_it_trains(folder, capsys, monkeypatch):
    class Interrupted(fastopt.Adam):
        def update(self, params, grads):
            super().update(params, grads)
            if self.iter == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(fastopt, "Adam", Interrupted)
    assert run("compare", *QUICK, "--history", "a.csv") == 130
    assert capsys.readouterr() == ("", "fastopt compare: interrupted\n")
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
    with _cli._progress_bar(4) as progress:
        progress({"SGD": 2.0, "Adam": 1.0})
        time.sleep(0.2)  # the bar is drawn ten times a second at most
        progress({"SGD": 1.0, "Adam": float("nan")})
    shown = terminal.getvalue()
    assert " 50% " in shown
    assert "SGD 1.950  Adam nan" in shown
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
    monkeypatch.setattr(_cli, "find_spec", lambda name: None)
    assert run("compare", *QUICK) == 0
    assert terminal.getvalue() == ""


def python(*args):
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, check=False, timeout=120
    )


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
