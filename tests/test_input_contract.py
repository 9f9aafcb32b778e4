"""What `update` accepts and refuses: each refusal names the key, and nothing has changed after it.

Every row holds for the compiled optimizers and the twins, but for overlaps in memory: the twins
update one parameter after the other, the compiled core refuses what depends on that order.
"""

import collections
import copy
import types

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from optimizer_table import TABLE, every_optimizer

import fastopt

every_class = pytest.mark.parametrize(
    ("row", "cls"),
    [(row, cls) for row in TABLE for cls in (row.compiled, row.twin)],
    ids=[f"{row.name}-{kind}" for row in TABLE for kind in ("compiled", "twin")],
)


def read_only(array):
    array.flags.writeable = False
    return array


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
    "long double parameter": (np.ones(3, np.longdouble), np.ones(3), TypeError, "bad"),
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


def snapshot(optimizer, params):
    arrays = {key: np.array(p) for key, p in params.items()}
    return copy.deepcopy(arrays), copy.deepcopy(
        {name: value for name, value in vars(optimizer).items() if name != "_stepper"}
    )


def assert_unchanged(before, optimizer, params):
    arrays, attributes = before
    assert list(params) == list(arrays)
    for key, p in arrays.items():
        if p.dtype != object:
            assert_array_equal(params[key], p)
    for name, value in attributes.items():
        now = getattr(optimizer, name)
        if isinstance(value, dict):
            assert list(now) == list(value)
            for key, state in value.items():
                assert_array_equal(now[key], state)
        else:
            assert now == value


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
    before = snapshot(optimizer, params)
    with pytest.raises(exception, match=message) as caught:
        optimizer.update(params, grads)
    assert "'bad'" in str(caught.value)
    assert_unchanged(before, optimizer, params)
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
        before = snapshot(optimizer, params)
        with pytest.raises(exception, match=message) as caught:
            optimizer.update(params, {"z": np.ones((2, 3)), "f": 1.0, "a": np.ones(4)})
        assert f"{name}['a']" in str(caught.value)
        assert_unchanged(before, optimizer, params)


@with_state
@pytest.mark.parametrize("changed", [np.ones(5), np.ones((2, 2)), np.ones(4, np.float32), 1.0])
def test_parameter_that_outgrew_its_state_is_refused(row, cls, changed):
    optimizer, params = started(cls)
    params["a"] = changed
    grads = {"a": np.ones(np.shape(changed)), "f": 1.0, "z": np.ones((2, 3))}
    before = snapshot(optimizer, params)
    with pytest.raises(ValueError, match=f"{row.states[0]}\\['a'\\]"):
        optimizer.update(params, grads)
    assert_unchanged(before, optimizer, params)
    for name in row.states:
        del getattr(optimizer, name)["a"]
    optimizer.update(params, grads)


@every_optimizer
@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
def test_array_reshaped_in_place_is_noticed(row):
    optimizer, p, g = row.compiled(), np.ones(6), np.ones(6)
    optimizer.update({"p": p}, {"p": g})
    view = p.view()
    view.shape = (2, 3)
    with pytest.raises(ValueError, match="shape"):
        optimizer.update({"p": view}, {"p": g})
    p.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        optimizer.update({"p": p}, {"p": g})


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
        with pytest.raises(ValueError, match="overlap in memory") as caught:
            optimizer.update(params, grads)
        assert_array_equal(values, buffer)
        assert "'a'" in str(caught.value)
        assert all(getattr(optimizer, name) == {} for name in row.states)


@every_optimizer
def test_overlap_that_comes_later_is_noticed(row):
    optimizer, values = row.compiled(), buffer.copy()
    params = {"a": values[:9], "b": values[9:18]}
    grads = {"a": np.ones(9), "b": np.ones(9)}
    for _ in range(3):
        optimizer.update(params, grads)
    with pytest.raises(ValueError, match="parameter 'a' and the gradient of 'b' overlap"):
        optimizer.update(params, {"a": grads["a"], "b": values[:9]})
    with pytest.raises(ValueError, match="parameter 'a' and parameter 'b' overlap"):
        optimizer.update({"a": params["a"], "b": values[8:17]}, grads)
    optimizer.update(params, grads)


@every_optimizer
def test_state_that_overlaps_is_refused(row):
    for name in row.states:
        optimizer, params = row.compiled(), {"a": np.ones(3), "b": np.ones(3)}
        optimizer.update(params, {"a": np.ones(3), "b": np.ones(3)})
        getattr(optimizer, name)["b"] = params["a"]
        with pytest.raises(ValueError, match=rf"parameter 'a' and state {name}\['b'\] overlap"):
            optimizer.update(params, {"a": np.ones(3), "b": np.ones(3)})


@every_optimizer
def test_elements_that_overlap_are_refused(row):
    p = np.lib.stride_tricks.as_strided(np.ones(10), (4, 4), (8, 8))
    with pytest.raises(ValueError, match="elements of parameter 'p' overlap"):
        row.compiled().update({"p": p}, {"p": np.ones((4, 4))})


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
    with pytest.raises(ValueError, match="elements of parameter 'p' overlap"):
        optimizer.update({"p": overlapping}, {"p": np.ones((3, 2))})
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
    values = [np.array(p) for p in params.values()]
    with pytest.raises(RuntimeError, match="does not compare"):
        optimizer.update(params, grads)
    for p, value in zip(params.values(), values, strict=True):
        assert_array_equal(p, value)


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


OUT_OF_RANGE = {
    "lr": [-1e-9, -1, float("nan"), float("inf"), -float("inf"), 10**400],
    "momentum": [-0.1, 1.0, 1.5, float("nan")],
    "decay_rate": [-0.1, 1.0, 2, float("nan")],
    "beta1": [-0.1, 1.0, float("nan")],
    "beta2": [-0.1, 1.0, float("nan")],
    "iter": [-1, 1.5, float("nan"), float("inf"), 2**53 + 1, 10**400],
}
NO_NUMBERS = ["0.1", bytearray(b"1"), None, True, np.True_, [0.1], 1j, np.ones(2)]


@every_class
def test_hyperparameters_are_checked_when_set(row, cls):
    names = [name for name in OUT_OF_RANGE if hasattr(cls(), name)]
    assert {*row.settings} <= {*names}
    for name in names:
        optimizer = cls()
        before = getattr(optimizer, name)
        for values, exception in ((OUT_OF_RANGE[name], ValueError), (NO_NUMBERS, TypeError)):
            for value in values:
                with pytest.raises(exception, match=name):
                    setattr(optimizer, name, value)
                if name != "iter":
                    with pytest.raises(exception, match=name):
                        cls(**{name: value})
                assert getattr(optimizer, name) == before


@every_class
@pytest.mark.parametrize("name", ["learning_rate", "Lr", "eps", "weight_decay"])
def test_unknown_attributes_are_refused(row, cls, name):
    with pytest.raises(AttributeError, match=f"{row.name} has no '{name}'; it has lr"):
        setattr(cls(), name, 0.1)

    class Mine(cls):
        pass

    setattr(Mine(), name, 0.1)  # whoever writes a class of their own knows what they add


@every_class
def test_hyperparameters_take_any_number(row, cls):
    for value in (0, np.float32(0.5), np.array(0.25), 0.1):
        assert type(cls(lr=value).lr) is float
    cls(lr=0).update({"p": np.ones(3)}, {"p": np.ones(3)})
