"""What `update` accepts and refuses: each refusal names the key, and nothing has changed after it.

Every row holds for the compiled optimizers and the twins, but for overlaps in memory: the twins
update one parameter after the other, the compiled core refuses what depends on that order.
"""

import array
import collections
import pickle
import types
import weakref
from decimal import Decimal
from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
from helpers.arrays import LAYOUTS, WRITABLE, lay_out, read_only
from helpers.errors import (
    assert_same_contents,
    assert_unchanged,
    contents,
    snapshot,
    step_refused,
)
from numpy.testing import assert_array_equal
from optimizer_table import TABLE, every_optimizer

import fastopt
from fastopt import _checks, reference

every_class = pytest.mark.parametrize(
    ("row", "cls"),
    [(row, cls) for row in TABLE for cls in (row.compiled, row.twin)],
    ids=[f"{row.name}-{kind}" for row in TABLE for kind in ("compiled", "twin")],
)


class Tensor:
    """Something with an array in it, as other libraries have."""

    def __array__(self, dtype=None, copy=None):
        return np.ones(3)


# key → parameter, gradient, exception, what the message must say
REFUSED = {
    "no gradient": (np.ones(3), ..., KeyError, "no gradient for parameter 'bad'"),
    "gradient with one entry too few": (np.ones(3), np.ones(2), ValueError, r"\(2,\).*\(3,\)"),
    "gradient that would broadcast": (np.ones((3, 2)), np.ones(2), ValueError, "shape"),
    "gradient transposed": (np.ones((3, 2)), np.ones((2, 3)), ValueError, r"\(2, 3\).*\(3, 2\)"),
    "gradient with an axis of one": (np.ones(3), np.ones((3, 1)), ValueError, "shape"),
    "number as gradient of an array": (np.ones(3), 1.0, ValueError, "shape"),
    "array as gradient of a float": (1.0, np.ones(1), ValueError, "shape"),
    "complex gradient": (np.ones(3), np.ones(3, complex), TypeError, "complex128"),
    "object gradient": (np.ones(3), np.ones(3, object), TypeError, "object"),
    "string gradient": (np.ones(3), np.array(["1"] * 3), TypeError, "<U1"),
    "complex gradient of another shape": (np.ones(3), np.ones(2, complex), TypeError, "complex"),
    "list as gradient": (np.ones(3), [1.0] * 3, TypeError, "list|array"),
    "tensor as gradient": (np.ones(3), Tensor(), TypeError, "Tensor"),
    "masked gradient": (np.ones(3), np.ma.masked_array(np.ones(3)), TypeError, "bad"),
    "integer parameter": (np.ones(3, int), np.ones(3), TypeError, "int64"),
    "bool parameter": (np.ones(3, bool), np.ones(3), TypeError, "bool"),
    "complex parameter": (np.ones(3, complex), np.ones(3), TypeError, "complex128"),
    "object parameter": (np.ones(3, object), np.ones(3), TypeError, "object"),
    "string parameter": (np.array(["a"]), np.ones(1), TypeError, "<U1"),
    "structured parameter": (np.ones(3, "f8,f8"), np.ones(3), TypeError, "f8"),
    "half parameter": (np.ones(3, np.float16), np.ones(3), TypeError, "float16"),
    # zeros: else the bytes that a long double does not use, compared below, are of no known value
    "long double parameter": (np.zeros(3, np.longdouble), np.ones(3), TypeError, "bad"),
    "Python int": (1, 1.0, TypeError, "bad"),
    "Python bool": (True, 1.0, TypeError, "bad"),
    "Python complex": (1j, 1.0, TypeError, "bad"),
    "NumPy integer": (np.int32(1), 1.0, TypeError, "bad"),
    "half scalar": (np.float16(1), 1.0, TypeError, "bad"),
    "None parameter": (None, 1.0, TypeError, "bad"),
    "list parameter": ([1.0], np.ones(1), TypeError, "bad"),
    "tensor parameter": (Tensor(), np.ones(3), TypeError, "bad"),
    "masked parameter": (np.ma.masked_array(np.ones(3)), np.ones(3), TypeError, "bad"),
    "read-only parameter": (read_only(np.ones(3)), np.ones(3), ValueError, "'bad' is read-only"),
    "broadcast parameter": (np.broadcast_to(1.0, 3), np.ones(3), ValueError, "read-only"),
}


def started(cls):
    """Return an optimizer after two steps, and what it stepped on."""
    optimizer, params = cls(), {"a": np.ones(4), "f": 1.5, "z": np.ones((2, 3), np.float32)}
    for _ in range(2):
        optimizer.update(params, {"a": np.ones(4), "f": 0.5, "z": np.ones((2, 3))})
    return optimizer, params


@every_class
@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("position", ["first", "last"])
def test_refused_input_changes_nothing(row, cls, case, position):
    p, g, exception, message = REFUSED[case]
    optimizer, params = started(cls)
    grads = {"a": np.ones(4), "f": 1.0, "z": np.ones((2, 3)), "new": np.ones(2)}
    params["new"] = np.ones(2)
    params = {"bad": p, **params} if position == "first" else {**params, "bad": p}
    if g is not ...:
        grads["bad"] = g
    with step_refused(exception, message, optimizer, params, grads) as caught:
        optimizer.update(params, grads)
    assert "'bad'" in str(caught.value)
    del params["bad"]
    optimizer.update(params, grads)  # and it goes on


@every_class
@pytest.mark.parametrize("bad", [[1.0], None, 3, "W", np.ones(3)], ids=str)
def test_params_and_grads_must_be_mappings(row, cls, bad):
    optimizer, params = started(cls)
    before = snapshot(optimizer, params)
    with pytest.raises(TypeError, match="params must be a mapping"):
        optimizer.update(bad, {})
    with pytest.raises(TypeError, match="grads must be a mapping"):
        optimizer.update(params, bad)
    assert_unchanged(before, optimizer, params)


with_state = pytest.mark.parametrize(
    ("row", "cls"),
    [(row, cls) for row in TABLE if row.states for cls in (row.compiled, row.twin)],
    ids=[f"{row.name}-{k}" for row in TABLE if row.states for k in ("compiled", "twin")],
)

STATES = {
    "shape": (np.ones(5), ValueError, r"\(5,\)"),
    "dtype": (np.ones(4, np.float32), ValueError, "float32"),
    "read-only": (read_only(np.ones(4)), ValueError, "read-only"),
    "list": ([1.0] * 4, TypeError, "list"),
    "masked": (np.ma.masked_array(np.ones(4)), TypeError, "a"),
}


@with_state
@pytest.mark.parametrize("case", STATES)
def test_state_that_does_not_fit_changes_nothing(row, cls, case):
    state, exception, message = STATES[case]
    for name in row.states:
        optimizer, params = started(cls)
        getattr(optimizer, name)["a"] = state
        grads = {"z": np.ones((2, 3)), "f": 1.0, "a": np.ones(4)}
        with step_refused(exception, message, optimizer, params, grads) as caught:
            optimizer.update(params, grads)
        assert f"{name}['a']" in str(caught.value)


@with_state
@pytest.mark.parametrize("changed", [np.ones(5), np.ones((2, 2)), np.ones(4, np.float32), 1.0])
def test_parameter_that_outgrew_its_state_is_refused(row, cls, changed):
    optimizer, params = started(cls)
    params["a"] = changed
    grads = {"a": np.ones(np.shape(changed)), "f": 1.0, "z": np.ones((2, 3))}
    with step_refused(ValueError, f"{row.states[0]}\\['a'\\]", optimizer, params, grads):
        optimizer.update(params, grads)
    for name in row.states:
        del getattr(optimizer, name)["a"]
    optimizer.update(params, grads)


@every_optimizer
@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
def test_array_reshaped_in_place_is_noticed(row):
    optimizer, p, grads = row.compiled(), np.ones(6), {"p": np.ones(6)}
    optimizer.update({"p": p}, grads)
    view = p.view()
    view.shape = (2, 3)
    with step_refused(ValueError, "shape", optimizer, {"p": view}, grads):
        optimizer.update({"p": view}, grads)
    p.flags.writeable = False
    with step_refused(ValueError, "read-only", optimizer, {"p": p}, grads):
        optimizer.update({"p": p}, grads)


@every_optimizer
@pytest.mark.parametrize("layout", WRITABLE)
@pytest.mark.parametrize("grad_layout", [*LAYOUTS, "broadcast"])
def test_any_layouts_of_parameter_and_gradient_equal_the_twin(row, layout, grad_layout):
    rng = np.random.default_rng(0)
    start, g = rng.standard_normal((2, 4, 5)).astype(np.float32)
    g = np.broadcast_to(g[:1], g.shape) if grad_layout == "broadcast" else lay_out(g, grad_layout)
    ours, theirs, kept = {"p": lay_out(start, layout)}, {"p": start.copy()}, g.copy()
    p, compiled, twin = ours["p"], row.compiled(), row.twin()
    for _ in range(3):
        compiled.update(ours, {"p": g})
        twin.update(theirs, {"p": kept})
    assert ours["p"] is p
    assert_array_equal(p, theirs["p"])
    assert_array_equal(g, kept)
    for name in row.states:
        assert_array_equal(getattr(compiled, name)["p"], getattr(twin, name)["p"], strict=True)


@every_class
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_empty_arrays_are_no_error(row, cls, shape, dtype):
    optimizer, params = cls(), {"empty": np.ones(shape, dtype), "p": np.ones(2)}
    for _ in range(3):
        optimizer.update(params, {"empty": np.ones(shape), "p": np.ones(2)})
    assert np.all(params["p"] < 1)
    for name in row.states:
        state = getattr(optimizer, name)["empty"]
        assert (state.shape, state.dtype) == (shape, dtype)
    optimizer, params = cls(), {"empty": np.ones(shape, dtype)}
    optimizer.update(params, {"empty": np.ones(shape)})  # and where there is nothing else
    with step_refused(ValueError, "shape", optimizer, params, {"empty": np.ones((1, *shape))}):
        optimizer.update(params, {"empty": np.ones((1, *shape))})


@every_class
@pytest.mark.parametrize(
    "grad", [0.5, 1, True, np.float32(0.5), np.array(0.5), np.int8(1)], ids=repr
)
@pytest.mark.parametrize("kind", [float, np.float32, np.float64, np.array])
def test_plain_numbers_and_0_d_arrays(row, cls, kind, grad):
    optimizer, params = cls(), {"x": kind(2.0)}
    before = params["x"]
    twin, twin_params = row.twin(), {"x": np.array([2.0], np.asarray(before).dtype)}
    for _ in range(3):
        optimizer.update(params, {"x": grad})
        twin.update(twin_params, {"x": np.array([float(grad)])})
    assert type(params["x"]) is type(before)
    assert np.asarray(params["x"]).dtype == np.asarray(before).dtype
    assert params["x"] == twin_params["x"][0] < 2
    assert (params["x"] is before) == (kind is np.array)  # an array in place, a number replaced
    for name in row.states:
        assert getattr(optimizer, name)["x"] == getattr(twin, name)["x"][0]


@every_class
def test_gradients_without_a_parameter_are_ignored(row, cls):
    optimizer, params = cls(), {"p": np.ones(2)}
    stranger = read_only(np.ones(3, complex))
    optimizer.update(params, {"other": stranger, "p": np.ones(2), "list": [1]})
    assert np.all(params["p"] < 1)
    assert all([*getattr(optimizer, name)] == ["p"] for name in row.states)


@every_class
def test_new_key_in_a_refused_step_gets_no_state(row, cls):
    optimizer, params = started(cls)
    params = {"new": np.ones(2), **params}
    grads = {"new": np.ones(2), "a": np.ones(4), "f": 1.0, "z": np.ones(3)}
    with step_refused(ValueError, "gradient of 'z'", optimizer, params, grads):
        optimizer.update(params, grads)
    grads["z"] = np.ones((2, 3))
    optimizer.update(params, grads)
    fresh, alone = cls(), {"new": np.ones(2)}
    if hasattr(fresh, "iter"):
        fresh.iter = optimizer.iter - 1
    fresh.update(alone, grads)
    assert_array_equal(params["new"], alone["new"])


@every_class
def test_frozen_parameter_keeps_its_state(row, cls):
    optimizer, params = started(cls)
    held = {"a": params["a"], "f": params["f"]}
    values = contents(held)
    states = {name: contents(getattr(optimizer, name)) for name in row.states}
    optimizer.update(params, {"a": None, "f": None, "z": np.ones((2, 3))})
    assert_same_contents(values, contents(held))
    assert params["f"] is held["f"]
    for name, old in states.items():
        assert [(k, s, b) for k, s, b in old if k != "z"] == [
            (k, s, b) for k, s, b in contents(getattr(optimizer, name)) if k != "z"
        ]


buffer = np.arange(40, dtype=float)
OVERLAPS = {
    "one array under two keys": lambda b: ({"a": b, "b": b}, {"a": b * 1, "b": b * 1}),
    "views that overlap": lambda b: ({"a": b[:9], "b": b[8:]}, {"a": b[:9] * 1, "b": b[8:] * 1}),
    "strided views that overlap": lambda b: (
        {"a": b[::2], "b": b[::3]},
        {"a": b[::2] * 1, "b": b[::3] * 1},
    ),
    "gradient in another parameter": lambda b: (
        {"a": b[:9], "b": b[9:18]},
        {"a": b[9:18], "b": b[:9] * 1},
    ),
    "gradient shifted in its own parameter": lambda b: (
        {"a": b[:9], "b": 1.0},
        {"a": b[1:10], "b": 1},
    ),
    "gradient backwards in its own parameter": lambda b: (
        {"a": b, "b": 1.0},
        {"a": b[::-1], "b": 1},
    ),
}


@every_optimizer
@pytest.mark.parametrize("case", OVERLAPS)
def test_overlapping_memory_is_refused(row, case):
    values = buffer.copy()
    params, grads = OVERLAPS[case](values)
    optimizer = row.compiled()
    for _ in range(2):  # the second time it must not be taken for known
        with step_refused(ValueError, "overlap in memory", optimizer, params, grads) as caught:
            optimizer.update(params, grads)
        assert_array_equal(values, buffer)
        assert "'a'" in str(caught.value)


@every_optimizer
def test_overlap_that_comes_later_is_noticed(row):
    optimizer, values = row.compiled(), buffer.copy()
    params = {"a": values[:9], "b": values[9:18]}
    grads = {"a": np.ones(9), "b": np.ones(9)}
    for _ in range(3):
        optimizer.update(params, grads)
    bad = {"a": grads["a"], "b": values[:9]}
    with step_refused(
        ValueError, "parameter 'a' and the gradient of 'b' overlap", optimizer, params, bad
    ):
        optimizer.update(params, bad)
    bad = {"a": params["a"], "b": values[8:17]}
    with step_refused(ValueError, "parameter 'a' and parameter 'b' overlap", optimizer, bad, grads):
        optimizer.update(bad, grads)
    optimizer.update(params, grads)


@every_optimizer
def test_state_that_overlaps_is_refused(row):
    for name in row.states:
        optimizer, params = row.compiled(), {"a": np.ones(3), "b": np.ones(3)}
        grads = {"a": np.ones(3), "b": np.ones(3)}
        optimizer.update(params, grads)
        getattr(optimizer, name)["b"] = params["a"]
        message = rf"parameter 'a' and state {name}\['b'\] overlap"
        with step_refused(ValueError, message, optimizer, params, grads):
            optimizer.update(params, grads)


@every_optimizer
def test_gradient_in_a_state_is_refused(row):
    for name in row.states:
        optimizer, params = row.compiled(), {"a": np.ones(3), "b": np.ones(3)}
        optimizer.update(params, {"a": np.ones(3), "b": np.ones(3)})
        grads = {"a": np.ones(3), "b": getattr(optimizer, name)["a"]}
        message = rf"state {name}\['a'\] and the gradient of 'b' overlap"
        for _ in range(2):
            with step_refused(ValueError, message, optimizer, params, grads):
                optimizer.update(params, grads)


@every_optimizer
def test_elements_that_overlap_are_refused(row):
    params = {"p": np.lib.stride_tricks.as_strided(np.ones(10), (4, 4), (8, 8))}
    optimizer, grads = row.compiled(), {"p": np.ones((4, 4))}
    with step_refused(ValueError, "elements of parameter 'p' overlap", optimizer, params, grads):
        optimizer.update(params, grads)


@every_optimizer
def test_elements_that_overlap_later_are_refused(row):
    optimizer, p = row.compiled(), np.arange(4.0)
    states = {name: np.zeros(4) for name in row.states}
    for name, state in states.items():
        getattr(optimizer, name)["p"] = state
    optimizer.update({"p": p}, {"p": np.ones(4)})
    kept = p.copy()
    for name, state in states.items():
        getattr(optimizer, name)["p"] = np.lib.stride_tricks.as_strided(state, (3, 2), (8, 8))
    overlapping = np.lib.stride_tricks.as_strided(
        p, (3, 2), (8, 8)
    )  # of the same first and last byte
    params, grads = {"p": overlapping}, {"p": np.ones((3, 2))}
    with step_refused(ValueError, "elements of parameter 'p' overlap", optimizer, params, grads):
        optimizer.update(params, grads)
    assert_array_equal(p, kept)


class Negated(dict):
    """A dict that answers with something else than it holds."""

    def __getitem__(self, key):
        return -super().__getitem__(key)


@every_optimizer
def test_gradients_are_what_the_mapping_answers(row):
    ours, theirs = {"p": np.ones(3)}, {"p": np.ones(3)}
    row.compiled().update(ours, Negated(p=np.ones(3)))
    row.twin().update(theirs, Negated(p=np.ones(3)))
    assert_array_equal(ours["p"], theirs["p"])
    assert np.all(ours["p"] > 1)


@every_optimizer
def test_interleaved_views_do_not_overlap(row):
    base, twin_base = np.ones((6, 6)), np.ones((6, 6))
    compiled, twin = row.compiled(), row.twin()
    rng = np.random.default_rng(0)
    for _ in range(3):
        grads = {"even": rng.standard_normal((6, 3)), "odd": rng.standard_normal((6, 3))}
        compiled.update({"even": base[:, ::2], "odd": base[:, 1::2]}, grads)
        twin.update({"even": twin_base[:, ::2], "odd": twin_base[:, 1::2]}, grads)
    assert_array_equal(base, twin_base)


@every_optimizer
@pytest.mark.parametrize("gradients", ["apart", "between"])
def test_many_interleaved_views(row, gradients):
    """More than are compared two by two; the gradients may lie among them."""
    n, rng = 40, np.random.default_rng(0)
    matrix = rng.standard_normal((6, 2 * n)).astype(np.float32)
    before = matrix.copy()
    params = {i: matrix[:, i] for i in range(n)}
    theirs = {i: matrix[:, i].copy() for i in range(n)}
    if gradients == "between":
        grads = {i: matrix[:, n + i] for i in range(n)}
    else:
        grads = dict(enumerate(rng.standard_normal((n, 6))))
    compiled, twin = row.compiled(), row.twin()
    for _ in range(3):
        compiled.update(params, grads)
        twin.update(theirs, grads)
    assert_array_equal(matrix[:, :n].T, [*theirs.values()])
    assert_array_equal(matrix[:, n:], before[:, n:])

    shifted = {**params, 7: matrix[:, 8]}
    with step_refused(ValueError, "parameter 7 and parameter 8 overlap", compiled, shifted, grads):
        compiled.update(shifted, grads)
    shifted = {**grads, 7: matrix[:, 8]}
    with step_refused(ValueError, "parameter 8 and the gradient of 7", compiled, params, shifted):
        compiled.update(params, shifted)
    straddling = {**params, 7: matrix.view(np.uint8)[:, 30:34].view(np.float32)[:, 0]}
    with step_refused(
        ValueError, "parameter 7 and parameter 8 overlap", compiled, straddling, grads
    ):
        compiled.update(straddling, grads)
    halfway = {**grads, 7: matrix.view(np.uint8)[:, 30:34].view(np.float32)[:, 0]}
    with step_refused(
        ValueError, r"parameter [78] and the gradient of 7", compiled, params, halfway
    ):
        compiled.update(params, halfway)


def test_interleaved_views_do_not_take_the_square_of_their_number(monkeypatch):
    asked = []
    monkeypatch.setattr(np, "shares_memory", lambda *args, **kwargs: asked.append(args))
    matrix = np.ones((3, 1000))
    params = {i: matrix[:, i] for i in range(1000)}
    fastopt.SGD().update(params, {i: np.ones(3) for i in params})
    assert not asked


@every_optimizer
def test_own_gradient_may_have_other_strides_where_no_step_is_taken(row):
    ours, theirs = {"p": np.ones((1, 4))}, {"p": np.ones((1, 4))}
    view = np.lib.stride_tricks.as_strided(ours["p"], (1, 4), (8, 8))
    row.compiled().update(ours, {"p": view})
    row.twin().update(theirs, {"p": theirs["p"]})
    assert_array_equal(ours["p"], theirs["p"])


@every_optimizer
def test_parameter_as_its_own_gradient_equals_twin(row):
    for make in (lambda: np.arange(60.0), lambda: np.arange(120.0)[::2]):
        ours, theirs = {"p": make()}, {"p": make()}
        compiled, twin = row.compiled(), row.twin()
        for _ in range(3):
            compiled.update(ours, ours)
            twin.update(theirs, theirs)
        assert_array_equal(ours["p"], theirs["p"])


@every_optimizer
def test_gradients_may_share_memory(row):
    ours, theirs = ({"a": np.ones(5), "b": np.ones(5)} for _ in range(2))
    g = np.linspace(-1, 1, 5)
    row.compiled().update(ours, {"a": g, "b": g})
    row.twin().update(theirs, {"a": g, "b": g})
    assert_array_equal(ours["b"], theirs["b"])


@every_class
@pytest.mark.parametrize(
    "kind", [collections.OrderedDict, collections.UserDict, types.MappingProxyType]
)
def test_any_mapping_will_do(row, cls, kind):
    p = np.ones(3)
    params, grads = {"p": p}, {"p": np.ones(3)}
    cls().update(kind(params), kind(grads))
    assert np.all(p < 1)
    if kind is not types.MappingProxyType:
        numbers = kind({"x": 1.0})
        cls().update(numbers, {"x": 1.0})
        assert numbers["x"] < 1


@every_class
def test_number_in_a_mapping_that_can_not_be_written_changes_nothing(row, cls):
    optimizer, params = started(cls)
    before = snapshot(optimizer, params)
    with pytest.raises(TypeError, match=r"'f'.*mappingproxy"):
        optimizer.update(
            types.MappingProxyType(params), {"a": np.ones(4), "f": 1.0, "z": np.ones((2, 3))}
        )
    assert_unchanged(before, optimizer, params)


@every_class
def test_empty_mapping_is_a_step(row, cls):
    optimizer = cls()
    optimizer.update({}, {})
    assert getattr(optimizer, "iter", 1) == 1


@every_class
def test_key_whose_comparison_raises_changes_nothing(row, cls):
    class Key:
        def __hash__(self):
            return 1

        def __eq__(self, other):
            raise RuntimeError("this key does not compare")

    optimizer, params = started(cls)
    params[Key()] = np.ones(3)
    grads = {"a": np.ones(4), "f": 1.0, "z": np.ones((2, 3)), Key(): np.ones(3)}
    with step_refused(RuntimeError, "does not compare", optimizer, params, grads):
        optimizer.update(params, grads)


class Lie:
    """Something that says it is an array, as a mock with a specification does."""

    @property
    def __class__(self):
        return np.ndarray


class Array(np.ndarray):
    """An array that weak references can be made to."""


ALIVE = np.ones(4).view(Array)
LIES = {
    "mock": lambda: mock.Mock(spec=np.ndarray),
    "class": Lie,
    "proxy": lambda: weakref.proxy(ALIVE),
    "proxy of nothing": lambda: weakref.proxy(np.ones(4).view(Array)),
}


@every_optimizer
@pytest.mark.parametrize("lie", LIES)
def test_what_only_says_it_is_an_array_is_refused(row, lie):
    optimizer, params = started(row.compiled)
    grads = {"a": np.ones(4), "f": 1.0, "z": np.ones((2, 3)), "bad": np.ones(4)}
    lying = {**params, "bad": LIES[lie]()}
    with step_refused(TypeError, "'bad'", optimizer, lying, grads):
        optimizer.update(lying, grads)
    with pytest.raises(TypeError, match="gradient of 'bad' must be an array or a number"):
        optimizer.update({**params, "bad": np.ones(4)}, {**grads, "bad": LIES[lie]()})
    for name in row.states:
        getattr(optimizer, name)["a"] = LIES[lie]()
        with pytest.raises(TypeError, match=rf"{name}\['a'\] must be an array"):
            optimizer.update(params, grads)
        del getattr(optimizer, name)["a"]


class Calling:
    """A key that has something done when it is compared; all have one hash."""

    def __init__(self, name, call=lambda: None):
        self.name, self.call = name, call

    def __hash__(self):
        return 1

    def __eq__(self, other):
        self.call()
        return isinstance(other, Calling) and self.name == other.name

    def __repr__(self):
        return f"Calling({self.name!r})"


@every_optimizer
@pytest.mark.parametrize("change", ["resize", "read-only", "shape"])
@pytest.mark.parametrize("victim", ["parameter", "state"])
@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
def test_array_changed_by_a_key_while_it_is_checked(row, change, victim):
    """Even where the change comes after the array was looked at."""
    optimizer, victims = row.compiled(), [np.ones(100_000)]
    params = {"a": victims[0], Calling("key"): np.ones(3)}
    optimizer.update(params, {"a": np.ones(100_000), Calling("key"): np.ones(3)})
    if victim == "state":
        victims = [getattr(optimizer, name)["a"] for name in row.states]

    def alter():
        for victim_array in victims:
            if change == "resize":
                victim_array.resize(1, refcheck=False)
            elif change == "read-only":
                victim_array.flags.writeable = False
            else:
                victim_array.shape = (100, 1000)

    if not victims:
        return  # a rule without states
    grads = {"a": np.ones(100_000), Calling("key", alter): np.ones(3)}
    before = [array.copy() for array in params.values()]
    with pytest.raises((RuntimeError, ValueError), match=r"'a'.*(changed|shape|read-only)"):
        optimizer.update(params, grads)
    for p, kept in zip(params.values(), before, strict=True):
        assert_array_equal(p.ravel(), kept.ravel()[: p.size])
    assert optimizer._stepper.steps == 1


class Frozen(dict):
    """A dict that takes so many items anew, and refuses the next one."""

    def __init__(self, items, most):
        super().__init__(items)
        self.most = most

    def __setitem__(self, key, value):
        if not self.most:
            self.most = 99  # and is then open again
            raise TypeError(f"{key!r} stays as it is")
        self.most -= 1
        super().__setitem__(key, value)


@every_class
@pytest.mark.parametrize("most", [0, 1])
def test_mapping_that_refuses_a_number_leaves_all_as_it_was(row, cls, most):
    optimizer, params = started(cls)
    params = Frozen({**params, "new": 0.5, "w": np.ones(3)}, most)
    grads = {"a": np.ones(4), "f": 1.0, "z": np.ones((2, 3)), "new": 1.0, "w": np.ones(3)}
    with step_refused(TypeError, "stays as it is", optimizer, params, grads):
        optimizer.update(params, grads)
    optimizer.update(params, grads)
    assert params["f"] < 1.5
    assert np.all(params["w"] < 1)


@with_state
def test_key_that_can_not_be_compared_once_leaves_no_state(row, cls):
    """Whichever of the comparisons it is that raises: the last are those of entering its state."""
    outcomes = []
    for nth in range(20):
        optimizer, left = cls(), [nth]
        first, second = Calling("first"), Calling("second")
        optimizer.update({first: np.ones(2)}, {first: np.ones(2)})

        def count(left=left):
            left[0] -= 1
            if left[0] == -1:
                raise RuntimeError("not now")

        first.call = second.call = count
        params = {"new": np.ones(2), second: np.ones(2)}
        try:
            optimizer.update(params, {"new": np.ones(2), second: np.ones(2)})
        except RuntimeError:
            outcomes.append("refused")
            assert all([*getattr(optimizer, name)] == [first] for name in row.states)
            assert all(np.all(p == 1) for p in params.values())
        else:
            outcomes.append("taken")
    assert outcomes[0] == "refused"
    assert outcomes[-1] == "taken"


def test_update_inside_an_update_is_refused():
    optimizer = fastopt.SGD()

    class Key:
        def __hash__(self):
            return 1

        def __eq__(self, other):
            optimizer.update({"p": np.ones(3)}, {"p": np.ones(3)})

    with pytest.raises(RuntimeError, match="in the middle of another update"):
        optimizer.update({Key(): np.ones(3)}, {Key(): np.ones(3)})
    optimizer.update({"p": np.ones(3)}, {"p": np.ones(3)})


# how a hyper-parameter is checked → what it refuses
OUT_OF_RANGE = {
    _checks.non_negative: [-1e-9, -1, float("nan"), float("inf"), -float("inf"), 10**400],
    _checks.fraction: [-0.1, 1.0, 1.5, 2, float("nan")],
    _checks.count: [-1, 1.5, float("nan"), float("inf"), 2**53, 10**400],
}
NO_NUMBERS = [
    "0.1", b"1", bytearray(b"1"), memoryview(b"0.5"), array.array("b", b"1"), np.array("0.5"),
    np.array(b"0"), None, True, np.True_, np.array(True), [0.1], 1j, np.ones(1), np.ones(2),
]  # fmt: skip


@every_class
def test_hyperparameters_are_checked_when_set(row, cls):
    checks = {name: declared.check for name, declared in cls._hypers.items()}
    assert {*row.settings} <= {*checks}
    for name, check in {**checks, "iter": _checks.count}.items():
        optimizer, params = started(cls)
        before = snapshot(optimizer, params)
        for values, exception in ((OUT_OF_RANGE[check], ValueError), (NO_NUMBERS, TypeError)):
            for value in values:
                with pytest.raises(exception, match=name):
                    setattr(optimizer, name, value)
                if name != "iter":
                    with pytest.raises(exception, match=name):
                        cls(**{name: value})
                assert_unchanged(before, optimizer, params)


@pytest.mark.parametrize("module", [fastopt, reference], ids=["fastopt", "reference"])
def test_steps_are_counted_as_far_as_they_can_be_set(module):
    optimizer, params = started(module.Adam)
    optimizer.iter = 2**53 - 2
    optimizer.update(params, {key: 0 * p for key, p in params.items()})
    assert optimizer.iter == 2**53 - 1
    before = snapshot(optimizer, params)
    with pytest.raises(ValueError, match=r"from 0 to 2\*\*53 - 1, got 9007199254740992"):
        optimizer.update(params, {key: 0 * p for key, p in params.items()})
    assert_unchanged(before, optimizer, params)


@every_class
@pytest.mark.parametrize("name", ["Lr", "weight_decays"])
def test_unknown_names_are_refused(row, cls, name):
    with pytest.raises(AttributeError, match=f"{row.name} has no '{name}'; it has lr, "):
        setattr(cls(), name, 0.1)
    with pytest.raises(TypeError, match=f"{row.name} got an unknown keyword '{name}'; it takes lr"):
        cls(**{name: 0.1})

    class Mine(cls):
        pass

    setattr(Mine(), name, 0.1)  # whoever writes a class of their own knows what they add


# what other libraries call it, what it is here, where there is such a thing
ELSEWHERE = {
    "momentum": ("the class Momentum", "lr"),
    "nesterov": ("the class Nesterov", "lr"),
    "learning_rate": ("lr", "lr"),
    "betas": ("beta1 and beta2", "beta1"),
    "beta_1": ("beta1", "beta1"),
    "rho": ("decay_rate", "decay_rate"),
    "alpha": ("decay_rate|lr", "lr"),
    "epsilon": ("eps", "eps"),
    "mu": ("momentum", "momentum"),
}


@every_class
@pytest.mark.parametrize("name", ELSEWHERE)
def test_names_of_other_libraries_are_translated(row, cls, name):
    alias, needed = ELSEWHERE[name]
    if hasattr(cls(), name):
        return  # it is its own
    hint = rf" \(here: ({alias})\); " if hasattr(cls(), needed) else "; "
    with pytest.raises(AttributeError, match=f"has no '{name}'{hint}it has lr"):
        setattr(cls(), name, 0.1)
    if hint != "; ":
        with pytest.raises(AttributeError, match=f"has no '{name}'{hint}it has lr"):
            getattr(cls(), name)
    with pytest.raises(TypeError, match=f"unknown keyword '{name}'{hint}it takes lr"):
        cls(**{name: 0.1})


@every_class
@pytest.mark.parametrize("text", ["0.1", b"0.1"])
def test_text_is_no_parameters(row, cls, text):
    with pytest.raises(TypeError, match="lr must be a number"):
        cls(text)


@every_class
def test_names_of_other_libraries_are_not_offered(row, cls):
    assert not {"step", "zero_grad", "learning_rate", "betas"} & {*dir(cls())}
    assert {"lr", "iter", "update", *row.states} <= {*dir(cls())}


@every_class
@pytest.mark.parametrize("method", ["step", "zero_grad", "apply_gradients"])
def test_methods_of_other_libraries_point_to_update(row, cls, method):
    with pytest.raises(AttributeError, match=rf"no '{method}' \(here: .*update\(params, grads\)"):
        getattr(cls(), method)()


@every_class
@pytest.mark.parametrize("params", [{"p": np.ones(3)}, [np.ones(3)], np.ones(3)], ids=str)
def test_parameters_given_to_the_constructor_are_refused(row, cls, params):
    with pytest.raises(TypeError, match=r"not given the parameters: update\(params, grads\) is"):
        cls(params)
    with pytest.raises(TypeError, match="not given the parameters"):
        cls(params, lr=0.1)


@every_class
def test_constructor_takes_each_once(row, cls):
    names = list(row.settings)
    by_place = cls(*row.settings.values())
    assert {name: getattr(by_place, name) for name in names} == row.settings
    with pytest.raises(TypeError, match="'lr' twice"):
        cls(0.1, lr=0.1)
    with pytest.raises(TypeError, match="positional arguments"):
        cls(*[0.1] * 9)


@every_class
def test_hyperparameters_take_any_number(row, cls):
    numbers = (0, 0.1, np.float32(0.5), np.int8(0), np.array(0.25), Fraction(1, 4), Decimal("0.5"))
    for value in numbers:
        assert type(cls(lr=value).lr) is float
    cls(lr=0).update({"p": np.ones(3)}, {"p": np.ones(3)})


@every_optimizer
@pytest.mark.parametrize("change", ["reorder", "remove"])
def test_gradients_that_change_the_parameters_when_asked_get_to_their_own(row, change):
    """What the step is over is what the mapping held at first, key by key."""

    class Meddling(dict):
        def __getitem__(self, key):
            if change == "reorder":
                params["z"] = params.pop("z")
            else:
                params.pop("y", None)
            return super().__getitem__(key)

    params = {"z": np.ones(2), "y": np.ones(2)}
    held, theirs = dict(params), {"z": np.ones(2), "y": np.ones(2)}
    grads = {"z": np.ones(2), "y": np.full(2, 10.0)}
    row.compiled().update(params, Meddling(grads))
    row.twin().update(theirs, grads)
    for key, p in theirs.items():
        assert_array_equal(held[key], p)


@every_class
def test_hyperparameter_that_is_set_during_a_step_counts_from_the_next_on(row, cls):
    class Setting(dict):
        def __setitem__(self, key, value):
            optimizer.lr = 0.5
            super().__setitem__(key, value)

    optimizer, params = cls(lr=0.125), Setting(x=1.0, w=np.ones(3))
    plain, want = cls(lr=0.125), {"x": 1.0, "w": np.ones(3)}
    for lr in (0.125, 0.5, 0.5):
        plain.lr = lr
        plain.update(want, {"x": 1.0, "w": np.ones(3)})
        optimizer.update(params, {"x": 1.0, "w": np.ones(3)})
        assert params["x"] == want["x"]
        assert_array_equal(params["w"], want["w"])


@every_optimizer
def test_overlap_that_comes_with_another_shape_of_the_same_bounds(row):
    step = np.lib.stride_tricks.as_strided
    matrix = np.zeros((3, 6))
    optimizer, params = row.compiled(), {"a": matrix.T[::2][:2, :2], "b": matrix[0, 4:5]}
    optimizer.update(params, {"a": np.ones((2, 2)), "b": np.ones(1)})
    for name in row.states:
        del getattr(optimizer, name)["a"]
    params["a"] = matrix.reshape(-1)[0:10:2]  # of the same bounds and first stride, and over b
    with pytest.raises(ValueError, match="'a' and parameter 'b' overlap"):
        optimizer.update(params, {"a": np.ones(5), "b": np.ones(1)})
    memory, optimizer = np.zeros(12), row.compiled()
    params = {"a": step(memory, (1, 2), (16, 48)), "b": memory[2:3]}
    optimizer.update(params, {"a": np.ones((1, 2)), "b": np.ones(1)})
    for name in row.states:
        del getattr(optimizer, name)["a"]
    params["a"] = step(memory, (4, 1), (16, 48))
    with pytest.raises(ValueError, match="overlap"):
        optimizer.update(params, {"a": np.ones((4, 1)), "b": np.ones(1)})


@with_state
def test_states_may_be_in_any_kind_of_dict(row, cls):
    optimizer, plain = cls(), cls()
    for name in row.states:
        setattr(optimizer, name, collections.OrderedDict())
    params, want = {"a": np.ones(2)}, {"a": np.ones(2)}
    for _ in range(3):
        optimizer.update(params, {"a": np.ones(2)})
        plain.update(want, {"a": np.ones(2)})
        optimizer = pickle.loads(pickle.dumps(optimizer))
    assert_array_equal(params["a"], want["a"])
    frozen = Frozen({"new": 1.0, "b": np.ones(2), **params}, 0)
    with pytest.raises(TypeError, match="stays as it is"):
        optimizer.update(frozen, {"new": 1.0, "b": np.ones(2), "a": np.ones(2)})
    assert all([*getattr(optimizer, name)] == ["a"] for name in row.states)


class Lying(np.ndarray):
    """An array that says it is of another dtype."""

    dtype = property(lambda self: np.dtype("f4"))


@every_optimizer
def test_dtype_is_that_of_the_memory(row):
    memory, theirs = np.ones((2000, 2)), {"p": np.ones(2000)}
    compiled, twin = row.compiled(), row.twin()
    for _ in range(2):
        compiled.update({"p": memory[:, 0].view(Lying)}, {"p": np.ones(2000)})
        twin.update(theirs, {"p": np.ones(2000)})
    assert_array_equal(memory[:, 0], theirs["p"])


@every_optimizer
@pytest.mark.parametrize("change", ["byte order", "strides", "shape", "values"])
@pytest.mark.filterwarnings("ignore:Setting the (shape|strides|dtype):DeprecationWarning")
def test_array_changed_by_a_mapping_while_a_number_is_replaced(row, change):
    """The mapping runs code between the checks and the first write."""
    memory = np.ones((2, 6), ">f8" if change in ("byte order", "shape") else "f8")
    w = memory[:, :3] if change != "values" else memory[:, ::2]

    class Meddling(dict):
        def __setitem__(self, key, value):
            super().__setitem__(key, value)
            if change == "byte order":
                w.dtype = w.dtype.newbyteorder()
            elif change == "strides":
                w.strides = (16, 8)
            elif change == "shape":
                w.shape = (2, 1, 3)
            else:
                w.__iadd__(100)

    optimizer, params = row.compiled(), Meddling(x=1.0, w=w, v=np.ones(2))
    grads = {"x": 1.0, "w": np.ones((2, 3)), "v": np.ones(2)}
    if change == "values":
        optimizer.update(params, grads)
        want = {"w": np.full((2, 3), 101.0)}
        row.twin().update(want, grads)
        assert_array_equal(w, want["w"])
        return
    with pytest.raises(RuntimeError, match="'w' was changed while it was checked"):
        optimizer.update(params, grads)
    assert params["x"] == 1.0
    assert_array_equal(params["v"], np.ones(2))
