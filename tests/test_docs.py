"""The documentation: every example runs, and every public name says what its user must know.

What is checked here is that it is there and true: docstrings, README, pages, the API pages against
`__all__`. How the site looks is not.
"""

import contextlib
import doctest
import importlib
import importlib.util
import inspect
import io
import math
import pkgutil
import re
import subprocess
import sys
import types

import numpy as np
import pytest
from helpers.pages import README, ROOT, blocks, needs_sources

import fastopt
from fastopt import datasets, experiments, plotting, reference, schedules, training

PAGES = sorted((ROOT / "docs").rglob("*.md"))
REPOSITORY = "https://github.com/fastopt/fastopt/blob/main/"
PICTURES = "https://raw.githubusercontent.com/fastopt/fastopt/main/"

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(fastopt.__path__, "fastopt.")
    if module.name != "fastopt.__main__" and "._kernels_" not in module.name
)

# Parts that need another library are looked at where it is installed: with scikit-learn
SKLEARN = "fastopt.sklearn"
HAS_SKLEARN = importlib.util.find_spec("sklearn") is not None
if not HAS_SKLEARN:
    MODULES = [name for name in MODULES if not name.startswith(SKLEARN)]

SECTIONS = (
    "Parameters", "Attributes", "Returns", "Yields", "Other Parameters", "Raises", "Notes",
    "References", "Examples",
)  # fmt: skip

# What takes what it is given, and has no error of its own to tell of; estimators check in `fit`.
ACCEPT_ALL = {
    "valley", "valley_gradient", "valley_optimizers", "MLPClassifier", "MLPRegressor",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _same_number_of_threads():
    before = fastopt.get_num_threads()
    yield
    fastopt.set_num_threads(before)


def public_things():
    """Yield the name and the thing for all that a user calls: classes, their methods, functions."""
    modules = [fastopt, datasets, experiments, plotting, schedules]
    if HAS_SKLEARN:
        modules.append(importlib.import_module(SKLEARN))
    for module in modules:
        prefix = "" if module is fastopt else f"{module.__name__.rpartition('.')[2]}."
        for name in module.__all__:
            thing = getattr(module, name)
            if not callable(thing):
                continue
            yield f"{prefix}{name}", thing
            if inspect.isclass(thing):
                for method, function in own_methods(thing):
                    yield f"{prefix}{name}.{method}", function


def own_methods(cls):
    """Return the public methods of a class that are not another library's."""
    return [
        (name, method)
        for name, method in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_") and not (method.__module__ or "").startswith("sklearn.")
    ]


THINGS = dict(public_things())


def sections(thing):
    """Return the sections of a docstring in NumPy's style, in their order."""
    parts = re.split(r"^(\w+(?: \w+)?)\n-{3,}\n", inspect.getdoc(thing) or "", flags=re.MULTILINE)
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
    if isinstance(thing, type) and thing.__module__.startswith("fastopt.optimizers."):
        wanted |= {"Notes", "References"}
    return wanted


def missing(thing):
    """Return the sections, and the names of parameters, that a docstring lacks."""
    found = sections(thing)
    lacks = wanted_sections(thing) - set(found)
    where = "Attributes" if hasattr(thing, "__dataclass_fields__") else "Parameters"
    if where in found:
        described = documented_names(found[where] + found.get("Other Parameters", ""))
        lacks |= set(inspect.signature(thing).parameters) - {"self"} - described
    return lacks


@pytest.mark.parametrize("name", THINGS)
def test_docstring_has_the_sections_that_apply(name):
    assert missing(THINGS[name]) == set()


@pytest.mark.parametrize("name", THINGS)
def test_docstring_is_in_order_and_describes_nothing_that_is_not_there(name):
    found = sections(THINGS[name])
    assert list(found) == [section for section in SECTIONS if section in found]
    for section in {"Parameters", "Other Parameters"} & set(found):
        assert documented_names(found[section]) <= set(inspect.signature(THINGS[name]).parameters)


@pytest.mark.parametrize(
    "module",
    [fastopt, datasets, experiments, plotting, reference, schedules, training],
    ids=lambda module: module.__name__,
)
def test_public_modules_tell_users_nothing_about_the_files(module):
    remarks = "belong|names only|stands in|business|imported only|oracle"
    assert not re.search(remarks, module.__doc__, re.IGNORECASE)


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


@needs_sources
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_readmes_adam_in_numpy_is_what_one_call_does(dtype):
    """The first block and the second, on the same parameters: equal to the last bit."""
    by_hand, call = (block for _, block in blocks(README)[:2])
    rng = np.random.default_rng(0)
    start = {"W": rng.standard_normal((30, 20)).astype(dtype), "b": np.zeros(20, dtype)}
    mine, ours = ({key: p.copy() for key, p in start.items()} for _ in range(2))
    m, v = ({key: np.zeros_like(p) for key, p in start.items()} for _ in range(2))
    coefficients = {"lr": 0.01, "beta1": 0.9, "beta2": 0.999}
    optimizer = fastopt.Adam(**coefficients)
    for t in range(1, 21):
        grads = {key: rng.standard_normal(p.shape).astype(dtype) for key, p in start.items()}
        exec(
            by_hand,
            {"math": math, "np": np, "t": t, "m": m, "v": v, **coefficients}
            | {"params": mine, "grads": grads},
        )
        exec(call, {"optimizer": optimizer, "params": ours, "grads": grads})
    for key, p in start.items():
        assert not np.array_equal(ours[key], p)
        assert np.array_equal(ours[key], mine[key])
        assert np.array_equal(optimizer.m[key], m[key])
        assert np.array_equal(optimizer.v[key], v[key])


@needs_sources
def test_program_in_the_readme():
    """It runs alone, as someone copies it."""
    _, _, (language, program) = blocks(README)
    assert language == "python"
    command = [sys.executable, "-W", "error", "-c", program]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d*", out)]
    assert numbers == pytest.approx([1, -2, 3, 0.5], abs=1e-3)


@needs_sources
def test_readme_is_short_and_its_links_work_wherever_it_is_shown():
    text = README.read_text(encoding="utf-8")
    assert text.count("\n") <= 130
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^]]+\]: (\S+)$", text, re.M)
    assert len(targets) > 15
    headings = {anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.M)}
    for target in targets:
        if target.startswith("#"):
            assert target[1:] in headings
            continue
        assert target.startswith("https://"), target
        for base in (REPOSITORY, PICTURES):
            if target.startswith(base):
                path, _, fragment = target.removeprefix(base).partition("#")
                assert (ROOT / path).is_file(), target
                page = (ROOT / path).read_text(encoding="utf-8") if fragment else ""
                heads = {anchor(heading) for heading in re.findall(r"^#+ (.*)$", page, re.M)}
                assert not fragment or fragment in heads, target
    used = set(re.findall(r"\]\[([^]]+)\]", text))
    assert used == set(re.findall(r"^\[([^]]+)\]: ", text, re.M))


def anchor(heading):
    """Return what a link to a heading ends with."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@needs_sources
def test_names_in_the_readme_exist():
    text = README.read_text(encoding="utf-8")
    section = text[text.index("## What is in it") : text.index("## How fast")]
    names = re.findall(r"`(\w+(?:\.\w+)*)[`(]", section)
    assert len(names) > 20
    for name in names:
        thing = fastopt.SGD if name == "update" else fastopt
        for part in name.split("."):
            thing = getattr(thing, part)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_own_their_text(page):
    """What is read on a page stands there: the README is for strangers, and may be cut freely."""
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"\{(?:literal)?include\} (?:\.\./)+README\.md", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_of_the_page(page):
    """They run from the top of the page to its end; those with a prompt show what comes out."""
    names = {"__name__": "__main__"}
    if SKLEARN in page.read_text(encoding="utf-8"):
        pytest.importorskip("sklearn")
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


def public_names():
    """Return the full names of all that `__all__` names, in the package and its public modules."""
    names = set()
    for name in fastopt.__all__:
        thing = getattr(fastopt, name)
        if inspect.ismodule(thing):
            names |= {f"fastopt.{name}.{inner}" for inner in thing.__all__}
        else:
            names.add(f"fastopt.{name}")
    names |= {f"{SKLEARN}.{name}" for name in ("MLPClassifier", "MLPRegressor")}
    return names | {"fastopt.training.History"}  # which users get, and don't make


def api_page(page):
    """Return what a page of the API describes, with the members it lists, and what it sums up."""
    described, summed_up = {}, set()
    module = directive = name = ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"\.\. ([\w-]+):: ?(.*)$", line):
            directive, name = found.groups()
            if directive == "currentmodule":
                module = name
            elif directive == "optimizers":  # made by conf.py, which describes members once
                of_all = {f"{module}.{each}" for each in fastopt.optimizers.__all__}
                summed_up |= of_all
                members = set(name.split(", ")) - {""}
                described |= {each: set(members) for each in of_all}
            elif directive in ("autoclass", "autofunction", "autodata", "data", "autoprotocol"):
                name = f"{module}.{name}"
                described[name] = set()
        elif found := re.match(r" +:members: (.*)$", line):
            described[name] |= set(found[1].split(", "))
        elif found := re.match(r" +\.\. auto(?:method|property):: (\w+)$", line):
            described[name].add(found[1])
        elif directive == "autosummary" and (found := re.match(r" +([\w.]+)$", line)):
            summed_up.add(f"{module}.{found[1]}")
        elif line.startswith("```"):
            directive = ""
    return described, summed_up


API = {page.stem: api_page(page) for page in PAGES if page.parent.name == "api"}
DESCRIBED = {name: members for described, _ in API.values() for name, members in described.items()}


@needs_sources
def test_api_pages_describe_every_public_name_once():
    assert set(DESCRIBED) == public_names()
    assert sum(len(described) for described, _ in API.values()) == len(DESCRIBED)


@needs_sources
def test_api_pages_begin_with_a_summary_of_what_they_describe():
    pages = {stem: page for stem, page in API.items() if stem != "index"}
    assert len(pages) >= 6
    for described, summed_up in pages.values():
        top = {name for name in summed_up if name in DESCRIBED}
        assert top == set(described)


@needs_sources
def test_api_pages_describe_every_method():
    checked = 0
    for name, members in DESCRIBED.items():
        if name.startswith(SKLEARN) and not HAS_SKLEARN:
            continue
        thing = fastopt
        for part in name.split(".")[1:]:
            thing = getattr(thing, part)
        is_alias = type(thing) is types.GenericAlias  # which Python 3.10 takes for a class
        if is_alias or not inspect.isclass(thing) or name.startswith("fastopt.reference."):
            continue
        methods = {method for method, _ in own_methods(thing)}
        if name == "fastopt.TwoLayerNet":  # the page says: those of MultiLayerNet
            methods -= DESCRIBED["fastopt.MultiLayerNet"]
        if name == "fastopt.training.History":  # which the Trainer calls
            methods.clear()
        properties = {
            key for key, _ in inspect.getmembers(thing, lambda a: isinstance(a, property))
        }
        assert methods <= members <= methods | properties, name
        checked += 1
    assert checked > 10


@needs_sources
def test_rule_shown_to_contributors_is_the_one_that_is_compiled():
    readme = (ROOT / "csrc" / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```cython\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    rules = ROOT / "csrc" / "fastopt" / "kernels" / "rules.pxi"
    assert shown in rules.read_text(encoding="utf-8")


@needs_sources
def test_citation_names_this_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {fastopt.__version__}\n" in text
