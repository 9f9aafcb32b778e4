"""The optimizers' mathematics: bit for bit that of their twins, which is that of the formulas.

What inputs are accepted and refused is in test_input_contract.py.
"""

import copy
import inspect
import pickle

import numpy as np
import pytest
from helpers.arrays import NoArithmetic, lay_out, over_many_magnitudes
from helpers.marks import every_dtype
from helpers.twins import assert_same, run_both
from numpy.testing import assert_array_equal
from optimizer_table import DIGITS, GRADIENTS, TABLE, every_optimizer

import fastopt
from fastopt import reference
from fastopt._step import rules

# 16 float32 fill the widest vector register: 0, 1, W-1, W, W+1, 3W+5 for it and its halves, then
# what reaches past caches
SIZES = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 29, 53, 1000, 4097, 300_001]


def test_the_table_has_a_row_for_every_optimizer():
    names = [row.name for row in TABLE]
    assert len(names) == len({*names})
    assert {*names} == {*fastopt.optimizers.__all__} == {*reference.optimizers.__all__}


@every_optimizer
def test_rule_of_the_twin_names_what_the_kernels_row_names(row):
    """In its order, by which the compiled rule reads its operands and coefficients."""
    assert row.twin._rule_name == row.compiled._rule_name
    names = [*inspect.signature(row.twin._rule).parameters]
    assert names == ["self", "p", "g", *row.states, *row.coefficients]
    assert ("p", "g", *row.states) == rules[row.compiled._rule_name][1]


@every_optimizer
def test_golden_values_are_those_of_the_formulas(row):
    exact = row.exact()
    assert float(exact) == row.golden, f"{row.name} in {DIGITS} digits: {exact}"


@every_optimizer
def test_golden_value(row):
    for optimizer in (row.compiled(), row.twin()):
        params = {"p": np.array([1.0])}
        for g in map(float, GRADIENTS):
            optimizer.update(params, {"p": np.array([g])})
        assert params["p"][0] == pytest.approx(row.golden, rel=1e-14)


@every_optimizer
@every_dtype
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("settings", ["default", "other"])
def test_equals_twin_at_every_size(row, dtype, size, settings):
    p = over_many_magnitudes(np.random.default_rng(size), size, dtype)
    run_both(
        row,
        {"p": p.copy()},
        {"p": p.copy()},
        steps=3 if size > 10_000 else 12,
        settings={} if settings == "default" else row.settings,
    )


@every_optimizer
@every_dtype
def test_equals_twin_over_many_steps(row, dtype):
    p = over_many_magnitudes(np.random.default_rng(3), (37, 11), dtype)
    run_both(row, {"p": p.copy()}, {"p": p.copy()}, steps=2000)


@every_optimizer
@every_dtype
def test_equals_twin_with_subnormal_numbers(row, dtype):
    p = over_many_magnitudes(np.random.default_rng(3), 533, dtype)
    scale = 1e-38 if dtype == "float32" else 1e-307
    run_both(row, {"p": p.copy()}, {"p": p.copy()}, steps=50, scale=scale)


@every_optimizer
def test_equals_twin_on_a_dict_of_everything(row):
    rng = np.random.default_rng(5)

    def params():
        rng = np.random.default_rng(6)
        base = over_many_magnitudes(rng, (14, 12), "float32")
        return {
            "W": over_many_magnitudes(rng, (7, 5), "float32"),
            "fortran": np.asfortranarray(over_many_magnitudes(rng, (7, 5), "float64")),
            "rank 3": over_many_magnitudes(rng, (2, 3, 4), "float64"),
            "empty": np.empty((0, 3), "float32"),
            "strided": base[::2, 1::3],
            "backwards": base[1::2, ::-3],
            "transposed": over_many_magnitudes(rng, (2, 3, 4), "float32").transpose(1, 2, 0),
            "0-d": np.array(0.5),
            "0-d float32": np.array(0.5, np.float32),
            "float": -7.0,
            "scalar": np.float32(2.0),
            "float64 scalar": np.float64(2.0),
            ("any", "key"): over_many_magnitudes(rng, 3, "float64"),
            7: over_many_magnitudes(rng, 1, "float32"),
        }

    ours, theirs = params(), params()
    arrays = {key: p for key, p in ours.items() if isinstance(p, np.ndarray)}
    compiled, twin = row.compiled(**row.settings), row.twin(**row.settings)
    for step in range(20):
        grads = {key: over_many_magnitudes(rng, np.shape(p), "float64") for key, p in ours.items()}
        if step % 2:  # the dtype and layout of the parameter every second time
            grads = {
                key: np.array(g, np.asarray(ours[key]).dtype, order="F") for key, g in grads.items()
            }
        compiled.update(ours, grads)
        twin.update(theirs, grads)
    assert_same(compiled, twin, ours, theirs)
    for key, p in theirs.items():
        assert type(ours[key]) is type(p)
    for key, p in arrays.items():
        assert ours[key] is p, f"{key!r} was replaced, not updated in place"


@every_optimizer
def test_strided_parameter_leaves_its_surroundings_alone(row):
    base = np.ones((9, 9))
    untouched = np.ones((9, 9), bool)
    untouched[::2, 3::-1] = False
    optimizer = row.compiled()
    optimizer.update({"p": base[::2, 3::-1]}, {"p": np.ones((5, 4))})
    assert np.all(base[untouched] == 1)
    assert np.all(base[~untouched] < 1)


@every_optimizer
@pytest.mark.parametrize("kind", ["unaligned", "byte-swapped", "memmap"])
def test_unusual_memory_equals_twin(row, kind, tmp_path):
    def array(name):
        values = over_many_magnitudes(np.random.default_rng(1), 37, "float64")
        if kind != "memmap":
            return lay_out(values, kind)
        p = np.memmap(tmp_path / name, "float64", "w+", shape=37)
        p[:] = values
        return p

    ours, theirs = {"p": array("ours")}, {"p": array("theirs")}
    compiled, twin = row.compiled(), row.twin()
    rng = np.random.default_rng(2)
    for _ in range(5):
        grads = {"p": over_many_magnitudes(rng, 37, "float64")}
        compiled.update(ours, grads)
        twin.update(theirs, grads)
    assert_array_equal(ours["p"], theirs["p"])


@every_optimizer
@every_dtype
def test_nan_and_infinity_propagate_as_in_numpy(row, dtype):
    big = np.finfo(dtype).max
    values = np.array([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, big, -big], dtype)
    p, g = (a.ravel().copy() for a in np.meshgrid(values, values))
    ours, theirs = {"p": p.copy()}, {"p": p.copy()}
    compiled, twin = row.compiled(), row.twin()
    for _ in range(4):
        compiled.update(ours, {"p": g})
        twin.update(theirs, {"p": g})
    assert_same(compiled, twin, ours, theirs)
    assert_array_equal(np.signbit(ours["p"]), np.signbit(theirs["p"]))


@every_optimizer
@pytest.mark.parametrize("grad_dtype", ["float16", "int8", "uint64", "bool", "longdouble"])
def test_gradient_is_cast_to_the_parameter_first(row, grad_dtype):
    g = np.random.default_rng(4).integers(0, 100, 19).astype(grad_dtype)
    ours, theirs = {"p": np.ones(19, np.float32)}, {"p": np.ones(19, np.float32)}
    row.compiled().update(ours, {"p": g})
    row.twin().update(theirs, {"p": g})
    assert_array_equal(ours["p"], theirs["p"], strict=True)


@every_optimizer
def test_gradient_overflowing_in_the_cast_is_infinite_and_silent(row):
    want = {"p": np.ones(3, np.float32)}
    row.twin().update(want, {"p": np.array([np.inf, 1.0, -np.inf], np.float32)})
    for cls in (row.compiled, row.twin):
        params = {"p": np.ones(3, np.float32)}
        cls().update(params, {"p": np.array([1e300, 1.0, -1e300])})
        assert_array_equal(params["p"], want["p"])


@every_optimizer
def test_gradient_of_none_skips_the_parameter(row):
    for optimizer in (row.compiled(), row.twin()):
        params = {"p": np.ones(3), "frozen": np.ones(3), "table": np.arange(3)}
        optimizer.update(params, {"p": np.ones(3), "frozen": None, "table": None})
        assert_array_equal(params["frozen"], np.ones(3))
        assert np.all(params["p"] < 1)
        assert all("frozen" not in getattr(optimizer, name) for name in row.states)


@every_optimizer
def test_new_key_starts_at_zero_while_others_go_on(row):
    ours, theirs = {"a": np.ones(5)}, {"a": np.ones(5)}
    compiled, twin = row.compiled(), row.twin()
    for step in range(6):
        if step == 3:
            ours["b"], theirs["b"] = np.ones((2, 2)), np.ones((2, 2))
        grads = {key: np.full(p.shape, 0.1 * (step + 1)) for key, p in ours.items()}
        compiled.update(ours, grads)
        twin.update(theirs, grads)
    assert_same(compiled, twin, ours, theirs)


@every_optimizer
def test_rebound_and_removed_arrays_are_noticed(row):
    compiled, twin = row.compiled(), row.twin()
    ours, theirs = ({key: np.ones(40) for key in "abc"} for _ in range(2))
    rng = np.random.default_rng(0)
    for step in range(8):
        if step == 2:
            ours["a"], theirs["a"] = ours["a"] * 2, theirs["a"] * 2
        if step == 4:
            del ours["b"], theirs["b"]
        if step == 6:
            ours["b"], theirs["b"] = np.zeros(40), np.zeros(40)
        grads = {key: rng.standard_normal(40) for key in ours}
        compiled.update(ours, grads)
        twin.update(theirs, grads)
        assert_same(compiled, twin, ours, theirs)


@every_optimizer
def test_state_can_be_saved_and_given_back(row):
    ours, theirs = {"p": np.ones(9)}, {"p": np.ones(9)}
    first, twin = row.compiled(**row.settings), row.twin(**row.settings)
    grads = {"p": np.linspace(-1, 1, 9)}
    for _ in range(3):
        first.update(ours, grads)
    second = row.compiled(**row.settings)
    for name in row.states:
        setattr(second, name, {key: s.tolist() for key, s in getattr(first, name).items()})
        setattr(second, name, {"p": np.array(getattr(second, name)["p"])})
    if hasattr(first, "iter"):
        second.iter = first.iter
    for _ in range(3):
        second.update(ours, grads)
    for _ in range(6):
        twin.update(theirs, grads)
    assert_same(second, twin, ours, theirs)


@every_optimizer
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_go_on_alike(row, duplicate):
    optimizer = row.compiled(**row.settings)
    params, grads = {"p": np.ones(9)}, {"p": np.linspace(-1, 1, 9)}
    optimizer.update(params, grads)
    twin, twin_params = duplicate(optimizer), copy.deepcopy(params)
    assert repr(twin) == repr(optimizer)
    optimizer.update(params, grads)
    twin.update(twin_params, grads)
    assert_same(optimizer, twin, params, twin_params)
    for name in row.states:
        assert getattr(optimizer, name)["p"] is not getattr(twin, name)["p"]


@every_optimizer
def test_hyperparameters_may_change_between_steps(row):
    ours, theirs = {"p": np.ones(17, np.float32)}, {"p": np.ones(17, np.float32)}
    compiled, twin = row.compiled(), row.twin()
    for step in range(10):
        for name, value in row.settings.items():
            for optimizer in (compiled, twin):
                setattr(optimizer, name, value / (step + 1))
        grads = {"p": np.linspace(-1, 1, 17, dtype=np.float32)}
        compiled.update(ours, grads)
        twin.update(theirs, grads)
    assert_same(compiled, twin, ours, theirs)


@every_optimizer
def test_defaults_are_those_of_the_twin(row):
    assert repr(row.compiled()) == repr(row.twin())


def test_coefficients_are_rounded_once_from_double():
    # 1 - float32(0.999) is off by 1.3e-5 relative; float32(1 - 0.999) is not
    optimizer = fastopt.Adam()
    optimizer.update({"p": np.ones(1, np.float32)}, {"p": np.ones(1, np.float32)})
    assert optimizer.v["p"][0] == np.float32(1 - 0.999)


def test_adam_counts_its_steps():
    for optimizer in (fastopt.Adam(), reference.Adam()):
        params = {"p": 1.0}
        for step in range(1, 4):
            optimizer.update(params, {"p": 0.5})
            assert optimizer.iter == step


def test_state_has_the_layout_of_its_parameter():
    optimizer = fastopt.Adam()
    params = {"C": np.ones((3, 4), np.float32), "F": np.ones((3, 4), order="F")}
    optimizer.update(params, {key: np.ones((3, 4)) for key in params})
    assert optimizer.m["C"].flags.c_contiguous
    assert optimizer.m["F"].flags.f_contiguous
    assert optimizer.m["C"].dtype == np.float32


@every_optimizer
@every_dtype
def test_the_compiled_path_is_taken(row, dtype):
    def arrays():
        return {
            "p": np.ones(9, dtype).view(NoArithmetic),
            "q": np.ones(4, dtype).view(NoArithmetic),
        }

    params, optimizer = arrays(), row.compiled()
    for _ in range(3):
        optimizer.update(params, arrays())
    assert np.all(params["p"].view(np.ndarray) < 1)
    with pytest.raises(AssertionError, match="asked to compute"):
        np.add(params["p"], 1)  # the twin, too, would have failed


@every_optimizer
@pytest.mark.parametrize("size", [5, 40_000])  # with the GIL and without
def test_unchanged_arrays_are_not_checked_again(row, size):
    ours, theirs = ({f"k{i}": np.ones((size, i)) for i in range(4)} for _ in range(2))
    compiled, twin = row.compiled(), row.twin()
    for step in range(6):
        # fresh gradients in fresh dicts with keys of their own
        grads = {f"k{i}": np.full((size, i), step - 2.5) for i in range(4)}
        compiled.update(ours, grads)
        twin.update(theirs, grads)
    assert compiled._stepper.known_steps == 5
    assert_same(compiled, twin, ours, theirs)
    ours["k1"] = theirs["k1"] = np.ones((size, 1))
    compiled.update(ours, grads)
    assert compiled._stepper.known_steps == 5
    compiled.update(ours, dict(reversed(grads.items())))  # in another order
    compiled.update(ours, grads)
    assert compiled._stepper.known_steps == 7


@every_optimizer
def test_frozen_parameters_are_no_reason_to_check_again(row):
    ours, theirs = (
        {"first": np.arange(3), "a": np.ones(5), "middle": np.ones(2), "b": np.ones(4), "last": 1.0}
        for _ in range(2)
    )
    compiled, twin = row.compiled(), row.twin()
    for step in range(8):
        grads = dict.fromkeys(ours)
        grads |= {"a": np.full(5, step - 2.5), "b": np.full(4, 1.5 - step)}
        if step == 4:
            grads["middle"] = np.ones(2)
        if step == 5:
            grads["a"] = None
        compiled.update(ours, grads)
        twin.update(theirs, grads)
        for key, p in theirs.items():
            assert_array_equal(ours[key], p)
            for name in row.states:
                state, twin_state = getattr(compiled, name), getattr(twin, name)
                assert_array_equal(state.get(key, 0), twin_state.get(key, 0))
        if step == 3:
            assert compiled._stepper.known_steps == 3


def test_arrays_of_freed_dtypes_are_not_taken_for_known():
    # a dtype object of its own (metadata; an unpickled array has one, too) may be let go of, and
    # another one come to lie at its address
    buffer, grads_buffer = np.zeros(4), np.ones(4)
    dtype = np.dtype("f8", metadata={"x": 1})
    address = id(dtype)
    params, grads = {"p": buffer[:3].view(dtype)}, {"p": grads_buffer[:3].view(dtype)}
    optimizer = fastopt.SGD(lr=1.0)
    optimizer.update(params, grads)
    del dtype
    params.clear()
    grads.clear()
    kept = []
    for _ in range(1000):
        kept.append(np.dtype("i1", metadata={"x": 1}))
        if id(kept[-1]) == address:
            break
    params["p"] = buffer.view("i1")[:3].view(kept[-1])
    grads["p"] = grads_buffer.view("i1")[:3].view(kept[-1])
    with pytest.raises(TypeError, match="int8"):
        optimizer.update(params, grads)
    assert_array_equal(buffer, [-1, -1, -1, 0])


@every_optimizer
def test_unpickled_arrays_are_known_from_step_to_step(row):
    params = pickle.loads(pickle.dumps({"p": np.ones(9), "q": np.ones(3, np.float32)}))
    grads = {"p": np.ones(9), "q": np.ones(3, np.float32)}
    optimizer = row.compiled()
    for _ in range(4):
        optimizer.update(params, grads)
    assert optimizer._stepper.known_steps == 3


def test_shallow_copy_counts_its_own_steps():
    for cls in (fastopt.Adam, reference.Adam):
        optimizer, params = cls(), {"p": 1.0}
        optimizer.update(params, {"p": 1.0})
        other = copy.copy(optimizer)
        other.update(params, {"p": 1.0})
        assert (optimizer.iter, other.iter) == (1, 2)
        assert other.m is optimizer.m


def test_documentation_of_a_subclass_is_left_alone():
    class Mine(fastopt.SGD):
        def update(self, params, grads):
            """Do nothing."""

    assert Mine.update.__doc__ == "Do nothing."
    assert "state that no" in fastopt.SGD.update.__doc__


@every_optimizer
def test_update_is_documented_on_every_class(row):
    assert "state that no" in row.compiled.update.__doc__
    assert len(row.compiled.__doc__.splitlines()) > 3
