"""What setup.py tells the compiler, and which compilers and flags it refuses.

Its commands build one small module here; the package's own sources are not compiled.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[1] / "setup.py"
COMPILER = (sysconfig.get_config_var("CC") or "").split(" ")[0]

try:
    HAS_SETUPTOOLS = int(version("setuptools").partition(".")[0]) >= 77  # as pyproject.toml demands
except PackageNotFoundError:
    HAS_SETUPTOOLS = False

pytestmark = [
    pytest.mark.skipif(not SETUP.is_file(), reason="the tests are away from the sources"),
    pytest.mark.skipif(not HAS_SETUPTOOLS, reason="needs setuptools 77 or later"),
    pytest.mark.skipif(not shutil.which(COMPILER), reason="needs the compiler of this Python"),
]

# Builds once for each environment of the list in the first argument; writes how each build ended.
BUILD = """
import json, os, runpy, sys, types
from pathlib import Path
from setuptools import Distribution, Extension

Path("small.c").write_text('''
#include <Python.h>
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_small"};
PyMODINIT_FUNC PyInit__small(void) { return PyModule_Create(&definition); }
''')
cython = types.ModuleType("Cython.Build")
cython.cythonize = lambda *_, **__: [Extension("fastopt._small", ["small.c"])]
sys.modules |= {"Cython": types.ModuleType("Cython"), "Cython.Build": cython}

original = dict(os.environ)
errors, parallel = [], []
for environ in json.loads(sys.argv[1]):
    os.environ.clear()
    os.environ.update(original, **environ)
    sys.argv = ["setup.py", "build_ext", "--force", "--build-temp", "t", "--build-lib", "l"]
    try:
        names = runpy.run_path(SETUP)
    except SystemExit as error:
        errors.append(str(error))
        continue
    errors.append(None)
    for wanted in (None, 3):
        command = names["BuildExt"](Distribution())
        command.parallel = wanted
        command.ensure_finalized()
        parallel.append(command.parallel)
Path("results.json").write_text(json.dumps({"errors": errors, "parallel": parallel}))
"""


def build(folder, *environs):
    """Build in one process; return the error of each environment, and all that was printed."""
    code = BUILD.replace("SETUP", repr(str(SETUP)))
    plain = {key: value for key, value in os.environ.items() if not key.endswith("FLAGS")}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(environs)],
        cwd=folder,
        env=plain,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((folder / "results.json").read_text())
    return results["errors"], results["parallel"], done.stdout


def test_exact_flags_come_after_the_user_s_and_modules_are_compiled_at_once(tmp_path):
    errors, parallel, printed = build(tmp_path, {"CFLAGS": "-O1 -ffp-contract=fast"})
    assert errors == [None]
    command = next(line for line in printed.splitlines() if "small.c" in line).split()
    flags = ("-ffp-contract=fast", "-fno-fast-math", "-ffp-contract=off", "-fno-math-errno")
    places = [command.index(flag) for flag in flags]
    assert places == sorted(places)
    affinity = getattr(os, "sched_getaffinity", None)
    assert parallel == [len(affinity(0)) if affinity else os.cpu_count(), 3]


APPROXIMATE = (
    "-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-fassociative-math",
    "-freciprocal-math", "-ffinite-math-only", "-fno-signed-zeros", "-fsingle-precision-constant",
    "-fapprox-func", "-fno-honor-nans", "-ffp-model=fast", "-mdaz-ftz",
    "-fdenormal-fp-math=preserve-sign",
)  # fmt: skip


def test_flags_that_approximate_are_refused_by_name(tmp_path):
    cases = [(flag, name) for flag in APPROXIMATE for name in ("CFLAGS", "LDFLAGS")]
    cases += [("-ffast-math", "CPPFLAGS"), ("-ffast-math", "LDSHARED"), ("-ffast-math", "CC")]
    before = {"CC": COMPILER, "LDSHARED": f"{COMPILER} -shared"}
    environs = [{name: f"{before.get(name, '-g')} {flag} -O2"} for flag, name in cases]
    errors, _, printed = build(tmp_path, *environs)
    for error, (flag, name) in zip(errors, cases, strict=True):
        assert error == f"error: {flag} gives no exact results: take it out of {name}"
    assert "small.c" not in printed


@pytest.mark.skipif(os.name != "posix", reason="the compiler is a shell script")
def test_flags_that_a_compiler_hides_are_refused_by_what_they_do(tmp_path):
    cases = {
        "-ffast-math": "fast-math",
        "-funsafe-math-optimizations": "reorder",
        "-fassociative-math -fno-signed-zeros -fno-trapping-math": "reorder",
        "-freciprocal-math": "reciprocals",
        "-fno-signed-zeros": "sign of zero",
        "-ffinite-math-only": "NaN",
        "-fsingle-precision-constant": "constants",
    }
    asked = subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True)
    if "Free Software Foundation" not in asked.stdout:
        pytest.skip("only gcc tells of each of these")
    environs = []
    for number, flags in enumerate(cases):
        script = tmp_path / f"cc{number}"
        script.write_text(f'#!/bin/sh\nexec {COMPILER} "$@" {flags}\n')
        script.chmod(0o755)
        environs.append({"CC": str(script)})
    errors, _, _ = build(tmp_path, *environs)
    for error, reason in zip(errors, cases.values(), strict=True):
        assert error.startswith("error: the C compiler gives no exact results: it is told")
        assert reason in error


def test_a_compiler_that_fails_is_shown_with_its_own_words(tmp_path):
    nowhere, false = str(tmp_path / "nowhere"), shutil.which("false")
    environs = [{"CC": nowhere}, {"CFLAGS": "-fno-such-flag"}]
    environs += [{"CC": false}] if false else []
    errors, _, _ = build(tmp_path, *environs)
    for error, environ in zip(errors, environs, strict=True):
        assert error.startswith("error: the C compiler fails on an empty program: ")
        assert next(iter(environ.values())) in error.splitlines()[0]
        assert ("apt install gcc python3-dev" in error) == (environ == {"CC": nowhere})
    assert "No such file" in errors[0]
    assert "-fno-such-flag" in "".join(errors[1].splitlines()[1:])
