"""The package as it is imported: its names, what it loads and tells of itself."""

import importlib
import importlib.machinery
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from optimizer_table import TABLE

import fastopt
from fastopt import reference

PUBLIC = {
    *(row.name for row in TABLE),
    "Affine", "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Gelu", "Silu", "BatchNormalization",
    "Dropout", "SoftmaxWithLoss", "Trainer", "MultiLayerNet", "TwoLayerNet",
    "numerical_gradient", "set_num_threads", "get_num_threads", "show_config",
    "set_flush_subnormals", "get_flush_subnormals", "save", "load",
    "datasets", "experiments", "plotting", "reference", "schedules", "typing", "__version__",
}  # fmt: skip
TWINS = {name for name in PUBLIC if name[0].isupper()} - {"Trainer"} | {"numerical_gradient"}


def run(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_public_names():
    assert set(fastopt.__all__) == set(dir(fastopt)) == PUBLIC
    for name in PUBLIC:
        assert getattr(fastopt, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Adamm'"):
        _ = fastopt.Adamm


def test_twins_have_the_same_names_and_signatures():
    assert set(reference.__all__) == TWINS
    for name in reference.__all__:
        ours, twin = getattr(fastopt, name), getattr(reference, name)
        assert inspect.signature(ours) == inspect.signature(twin)
        if not inspect.isclass(ours):
            continue
        for method, function in inspect.getmembers(ours, inspect.isfunction):
            if not method.startswith("_"):
                want = inspect.signature(getattr(twin, method))
                assert inspect.signature(function) == want, f"{name}.{method}"


def test_import_loads_neither_scipy_nor_what_draws():
    out = run("import sys, fastopt; fastopt.SGD(); print(*sys.modules)")
    loaded = {module.split(".")[0] for module in out.split()}
    assert not loaded & {"scipy", "matplotlib", "tqdm"}


def test_fast_path_does_not_import_the_reference():
    out = run("import sys, fastopt; fastopt.MultiLayerNet; fastopt.datasets; print(*sys.modules)")
    assert "fastopt._net" in out
    assert "fastopt.reference" not in out


def test_twins_do_not_use_the_compiled_kernels():
    for module in (
        reference.optimizers, reference.layers, reference.losses, reference._net, reference.nets,
    ):  # fmt: skip
        used = {getattr(value, "__module__", None) for value in vars(module).values()}
        used |= {value.__name__ for value in vars(module).values() if inspect.ismodule(value)}
        assert not {"fastopt._step", "fastopt._net", "fastopt.layers"} & used


# Each compiled module has a stub
COMPILED = sorted(stub.stem for stub in Path(fastopt.__file__).parent.glob("_*.pyi"))


def test_every_compiled_module_has_a_stub():
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    modules = {
        path.name[: -len(suffix)] for path in Path(fastopt.__file__).parent.glob(f"*{suffix}")
    }
    assert modules - {"_kernels_avx2", "_kernels_avx512"} == {*COMPILED}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_modules_are_compiled(name):
    module = importlib.import_module(f"fastopt.{name}")
    assert module.__file__.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))


def import_copy(folder, *compiled):
    """Import a copy of the Python files, with empty compiled ones; return the error."""
    source = Path(fastopt.__file__).parent
    shutil.copytree(
        source, folder / "fastopt", ignore=shutil.ignore_patterns("*.so", "*.pyd", "*.pyc", "*.npz")
    )
    for name in compiled:
        (folder / "fastopt" / (name + importlib.machinery.EXTENSION_SUFFIXES[0])).touch()
    # The finder of an editable install would look for what is missing in that one's folder
    code = (
        "import sys;"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in f.__module__];"
        "import fastopt"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr


def test_sources_that_were_not_compiled_say_what_to_do(tmp_path):
    error = import_copy(tmp_path)
    assert error.count("Traceback") == 1
    last = error.splitlines()[-1]
    assert last.startswith(f"ImportError: fastopt is not compiled for this Python in {tmp_path}: ")
    assert "pip install -e ." in last


def test_an_error_of_a_compiled_module_that_is_there_comes_through(tmp_path):
    error = import_copy(tmp_path, *COMPILED)
    assert error.splitlines()[-1].startswith("ImportError: ")
    assert "_cpu" in error.splitlines()[-1]
    assert "not compiled" not in error


def test_show_config(capsys):
    config = fastopt.show_config(mode="dicts")
    assert config["versions"]["fastopt"] == fastopt.__version__
    assert config["kernels"]["variant"] in config["kernels"]["available"]
    assert fastopt.show_config() is None
    printed = capsys.readouterr().out
    for value in (fastopt.__version__, config["kernels"]["compiler"], config["blas"]["name"]):
        assert value in printed
    with pytest.raises(ValueError, match="'json'"):
        fastopt.show_config("json")


def test_version_is_that_of_the_installed_package():
    assert importlib.metadata.version("fastopt") == fastopt.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", fastopt.__version__)


def test_compiled_modules_import_python_leaves_alone():
    """None imports Python that imports a compiled module: the flow goes one way."""
    folder = Path(fastopt.__file__).parent
    sources = folder.parent / "csrc" / "fastopt"
    if not sources.is_dir():
        pytest.skip("the tests are away from the sources")
    imported = set()
    for source in sources.glob("*.pyx"):
        text = source.read_text("utf-8")
        for names in re.findall(r"^ *from fastopt import (.*)$", text, re.M):
            imported |= set(names.split(", "))
        imported |= set(re.findall(r"^ *from fastopt\.(\w+) import ", text, re.M))
    leaves = imported - {*COMPILED}
    assert leaves == {"_blas", "_contract", "_instruction_sets", "_targets"}
    for leaf in leaves:
        text = (folder / f"{leaf}.py").read_text("utf-8")
        for names in re.findall(r"^ *from fastopt import (.*)$", text, re.M):
            assert not {*COMPILED} & set(names.split(", ")), leaf
