"""The documentation: every example runs, and every public name says what its user must know.

What is checked here is that it is there and true; how the site looks is not.
"""

import contextlib
import doctest
import importlib
import inspect
import io
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastopt
from fastopt import datasets, experiments, plotting, reference

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(python|pycon)\n(.*?)^```", re.DOTALL | re.MULTILINE)

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(fastopt.__path__, "fastopt.")
    if module.name != "fastopt.__main__" and "._kernels_" not in module.name
)

SECTIONS = (
    "Parameters", "Attributes", "Returns", "Yields", "Raises", "Notes", "References", "Examples",
)  # fmt: skip

# Functions that take what they are given and have no error of their own to tell of.
ACCEPT_ALL = {"valley", "valley_gradient", "valley_optimizers"}


@pytest.fixture(autouse=True)
def _same_number_of_threads():
    before = fastopt.get_num_threads()
    yield
    fastopt.set_num_threads(before)


def public_things():
    """Yield the name and the thing for all that a user calls: classes, their methods, functions."""
    for module in (fastopt, datasets, experiments, plotting):
        prefix = "" if module is fastopt else f"{module.__name__.rpartition('.')[2]}."
        for name in module.__all__:
            thing = getattr(module, name)
            if not callable(thing):
                continue
            yield f"{prefix}{name}", thing
            if inspect.isclass(thing):
                for method, function in inspect.getmembers(thing, inspect.isfunction):
                    if not method.startswith("_"):
                        yield f"{prefix}{name}.{method}", function


THINGS = dict(public_things())


def sections(thing):
    """Return the sections of a docstring in NumPy's style, in their order."""
    parts = re.split(r"^(\w+)\n-{3,}\n", inspect.getdoc(thing) or "", flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def documented_names(section):
    """Return the names that head the entries of Parameters or Attributes."""
    heads = re.findall(r"^(\w[^\n]*?) :|^(\w[\w, ]*)$", section, re.MULTILINE)
    return {name.strip() for pair in heads for name in "".join(pair).split(",")}


def wanted_sections(thing):
    """Return the sections that apply to a class, a method or a function."""
    wanted = set()
    signature = inspect.signature(thing)
    takes = set(signature.parameters) - {"self"}
    is_method = inspect.isfunction(thing) and "." in thing.__qualname__
    is_record = hasattr(thing, "__dataclass_fields__")
    if takes:
        wanted |= {"Attributes"} if is_record else {"Parameters", "Raises"}
    if thing.__name__ in ACCEPT_ALL:
        wanted -= {"Raises"}
    if not inspect.isclass(thing) and signature.return_annotation not in ("None", None):
        wanted.add("Yields" if inspect.isgeneratorfunction(thing) else "Returns")
    if not is_method and not is_record:
        wanted.add("Examples")
    if isinstance(thing, type) and thing.__module__ == "fastopt.optimizers":
        wanted |= {"Notes", "References"}
    return wanted


def missing(thing):
    """Return the sections, and the names of parameters, that a docstring lacks."""
    found = sections(thing)
    lacks = wanted_sections(thing) - set(found)
    where = "Attributes" if hasattr(thing, "__dataclass_fields__") else "Parameters"
    if where in found:
        lacks |= (
            set(inspect.signature(thing).parameters) - {"self"} - documented_names(found[where])
        )
    return lacks


@pytest.mark.parametrize("name", THINGS)
def test_docstring_has_the_sections_that_apply(name):
    assert missing(THINGS[name]) == set()


@pytest.mark.parametrize("name", THINGS)
def test_docstring_is_in_order_and_describes_nothing_that_is_not_there(name):
    found = sections(THINGS[name])
    assert list(found) == [section for section in SECTIONS if section in found]
    if "Parameters" in found:
        assert documented_names(found["Parameters"]) <= set(
            inspect.signature(THINGS[name]).parameters
        )


@pytest.mark.parametrize("name", reference.__all__)
def test_twin_names_what_it_is_the_twin_of(name):
    if inspect.isclass(getattr(reference, name)):
        assert f"Twin of `fastopt.{name}`" in getattr(reference, name).__doc__
    for _, method in inspect.getmembers(getattr(reference, name), inspect.isfunction):
        assert method.__doc__ or method.__name__.startswith("_")


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_examples_are_found():
    """Else all of the above could pass for want of any."""
    modules = map(importlib.import_module, MODULES)
    finder = doctest.DocTestFinder(exclude_empty=True)
    assert sum(bool(test.examples) for module in modules for test in finder.find(module)) > 15


def blocks(path):
    return BLOCK.findall(path.read_text(encoding="utf-8"))


@pytest.mark.skipif(
    not (ROOT / "README.md").is_file(), reason="the tests are away from the sources"
)
def test_examples_of_the_readme():
    """Each runs alone, as someone copies it."""

    def run(code):
        command = [sys.executable, "-W", "error", "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    fit, digits = (run(block) for _, block in blocks(ROOT / "README.md"))
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d*", fit)]
    assert numbers == pytest.approx([1, -2, 3, 0.5], abs=1e-3)
    assert float(digits) > 0.8


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_examples_of_the_page(page):
    """They run from the top of the page to its end; those with a prompt show what comes out."""
    names = {"__name__": "__main__"}
    for language, block in blocks(page):
        if language == "python":
            exec(compile(block, str(page), "exec"), names)
            continue
        test = doctest.DocTestParser().get_doctest(block, names, page.name, str(page), 0)
        report = io.StringIO()
        with contextlib.redirect_stdout(report):
            result = doctest.DocTestRunner().run(test, clear_globs=False)
        names.update(test.globs)
        assert result.failed == 0, report.getvalue()
        assert result.attempted
