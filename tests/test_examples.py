"""The programs in `examples`: they run, from any folder, and draw a picture.

What they show is theirs; that they resume with the same bits, say, they check themselves.
"""

import os
import re
import subprocess
import sys

import pytest
from helpers.pages import ROOT

EXAMPLES = ROOT / "examples"

pytest.importorskip("matplotlib")

pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the tests are away from the sources")

NAMES = ["grid_search.py", "mnist_in_seconds.py", "regression.py", "resume_mnist.py"]


def skip_without_its_library(name):
    if name == "grid_search.py":
        pytest.importorskip("sklearn")


def run(name, folder, *arguments):
    """Run an example in a folder, with warnings as errors, also in its own processes."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONWARNINGS": "error", "PYTHONUTF8": "1"},
        capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "length", "said"),
    [
        ("grid_search.py", "--epochs=2", "280 trainings of 2 epochs"),
        ("mnist_in_seconds.py", "--epochs=1", "fastopt: at least"),
        ("regression.py", "--steps=12", "all four"),
        ("resume_mnist.py", "--steps=300", "both have the same bits"),
    ],
)
def test_example_draws_what_it_did(name, length, said, tmp_path):
    skip_without_its_library(name)
    result = run(name, tmp_path, length)
    assert (result.returncode, result.stderr) == (0, "")
    assert said in result.stdout
    picture = tmp_path / name.replace(".py", ".png")
    assert [*tmp_path.iterdir()] == [picture]
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", NAMES)
def test_example_says_what_it_is(name, tmp_path):
    skip_without_its_library(name)
    result = run(name, tmp_path, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "--output" in result.stdout


def test_every_example_is_run_and_in_the_list():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == {*NAMES}
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"python examples/{name}" in listed for name in names)


def test_the_same_training_in_torch_learns_the_same(tmp_path):
    pytest.importorskip("torch")
    result = run("mnist_in_seconds.py", tmp_path, "--epochs=1", "--seeds=1", "--torch")
    assert (result.returncode, result.stderr) == (0, "")
    found = dict(re.findall(r"^(fastopt|torch): at least ([\d.]+) %", result.stdout, re.MULTILINE))
    assert abs(float(found["fastopt"]) - float(found["torch"])) < 2
