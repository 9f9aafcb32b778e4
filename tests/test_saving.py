"""`save` and `load`: into what they are given, all or nothing, whatever happens to the process.

The format of the file is tested in test_archive.py.
"""

import math
import os
import random
import subprocess
import sys
import time
import types
from collections import OrderedDict, UserDict

import numpy as np
import pytest
from helpers.errors import Refusing, refused
from helpers.long import CORRUPTIONS, IS_LONG, KILLS, SEED
from helpers.trees import assert_same_tree

import fastopt
from fastopt import _archive
from fastopt.saving import checked_params


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.npz"


def some_params():
    rng = np.random.default_rng(1)
    return {
        "W": rng.standard_normal((4, 3)),
        "F": np.asfortranarray(rng.standard_normal((4, 3)).astype("f4")),
        "view": rng.standard_normal((6, 6))[::2, 1::2],
        ("b", 0): rng.standard_normal(3),
        7: np.zeros((0, 2)),
        "zero-d": np.array(1.5),
        "float": 0.25,
        "scalar": np.float32(0.1),
    }


def other_params():
    """Return the same with other values."""
    params = some_params()
    for key, value in params.items():
        if isinstance(value, np.ndarray):
            value[...] = -1
        else:
            params[key] = type(value)(-1)
    return params


class Foreign:
    """Somebody's object: it loads what it likes, and checks while it does."""

    def __init__(self, **state):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        if state.keys() != self.state.keys():
            raise ValueError(f"no state of mine: {[*state]}")
        self.state = state


class Own(Foreign):
    """One that can check first, as fastopt's do."""

    params = None

    def _checked_state(self, state, params=None):
        self.params = params
        if state.get("class") != "Own":
            raise ValueError(f"class is {state.get('class')!r}, wanted 'Own'")
        return lambda: self.state.update(state)

    def load_state_dict(self, state):
        self._checked_state(state)()


class TestRoundTrip:
    def test_into_what_is_given(self, path):
        rng = np.random.default_rng(5)
        optimizer, net, trainer = Own(**{"class": "Own", "iter": 3}), Foreign(p=1), Foreign(e=2)
        saved = some_params()
        fastopt.save(
            path, params=saved, optimizer=optimizer, net=net, trainer=trainer, rng=rng,
            epoch=3, losses=[0.5, math.nan],
        )  # fmt: skip
        wanted = rng.standard_normal(5)
        optimizer.state, net.state, trainer.state = {"class": "Own"}, {"p": 0}, {"e": 0}
        params = other_params()
        arrays = {key: p for key, p in params.items() if isinstance(p, np.ndarray)}
        rest = fastopt.load(
            path, params=params, optimizer=optimizer, net=net, trainer=trainer, rng=rng
        )
        assert_same_tree(rest, {"epoch": 3, "losses": [0.5, math.nan]})
        assert all(params[key] is array for key, array in arrays.items())
        for key, value in saved.items():
            assert type(params[key]) is type(value)
            assert np.asarray(params[key]).tobytes() == np.asarray(value).tobytes(), key
        assert optimizer.state == {"class": "Own", "iter": 3}
        assert optimizer.params is params
        assert (net.state, trainer.state) == ({"p": 1}, {"e": 2})
        assert (rng.standard_normal(5) == wanted).all()

    def test_what_is_not_given_is_returned(self, path):
        rng = np.random.default_rng(5)
        params = {"W": np.arange(6.0).reshape(2, 3), 0: 1.5}
        fastopt.save(path, params=params, optimizer=Foreign(iter=3), rng=rng, note="x", none=None)
        want = {
            "params": params, "optimizer": {"iter": 3}, "rng": rng.bit_generator.state,
            "note": "x", "none": None,
        }  # fmt: skip
        assert_same_tree(fastopt.load(path), want)
        del want["params"]
        assert_same_tree(fastopt.load(path, params=params), want)

    def test_values(self, path):
        values = {
            "a": {"b": [1, 2.5, "c", None, True, math.inf]}, "array": np.arange(3),
            "pair": (1, np.float32(2)), "ordered": OrderedDict(z=1, a=2), "with space": 1,
        }  # fmt: skip
        fastopt.save(path, **values)
        assert_same_tree(fastopt.load(path), {**values, "ordered": {"z": 1, "a": 2}})

    def test_nothing(self, path):
        fastopt.save(path)
        assert fastopt.load(path) == {}

    def test_any_mapping(self, path):
        params = UserDict(a=np.ones(3), b=2.0)
        fastopt.save(path, params=params)
        params["a"][:], params["b"] = 0, 0.0
        fastopt.load(path, params=params)
        assert params["a"].tolist() == [1, 1, 1]
        assert params["b"] == 2.0
        fixed = types.MappingProxyType({"a": np.zeros(3)})
        fastopt.save(path, params={"a": np.ones(3)})
        fastopt.load(path, params=fixed)
        assert fixed["a"].tolist() == [1, 1, 1]

    def test_keys_that_are_numbers_of_numpy(self, path):
        params = {np.int64(1): np.ones(2), ("a", np.uint8(3)): np.ones(2)}
        fastopt.save(path, params=params)
        fastopt.load(path, params=params)
        assert [*fastopt.load(path)["params"]] == [1, ("a", 3)]

    def test_bits_of_nan(self, path):
        bits = np.random.default_rng(0).integers(0, 2**31, 100, "u4") | np.uint32(0x7F800001)
        fastopt.save(path, params={"a": bits.view("f4")})
        params = {"a": np.zeros(100, "f4")}
        fastopt.load(path, params=params)
        assert params["a"].view("u4").tolist() == bits.tolist()

    def test_arrays_of_the_other_byte_order(self, path):
        array = np.arange(12.0).reshape(3, 4)
        fastopt.save(path, params={"a": array.byteswap().view(array.dtype.newbyteorder())})
        params = {"a": np.zeros((3, 4))}
        fastopt.load(path, params=params)
        assert (params["a"] == array).all()
        fastopt.save(path, params=params)
        params = {"a": np.zeros((3, 4), array.dtype.newbyteorder())}
        fastopt.load(path, params=params)
        assert (params["a"] == array).all()

    def test_a_net_of_params_alone(self, path):
        net = types.SimpleNamespace(params={"W": np.ones(3)})
        fastopt.save(path, net=net)
        net.params["W"][:] = 0
        fastopt.load(path, net=net)
        assert net.params["W"].tolist() == [1, 1, 1]
        assert_same_tree(fastopt.load(path), {"net": {"params": net.params}})

    def test_parameters_of_the_net_are_beside_the_optimizer(self, path):
        net = types.SimpleNamespace(params={"W": np.ones(3)})
        optimizer = Own(**{"class": "Own"})
        fastopt.save(path, net=net, optimizer=optimizer)
        fastopt.load(path, net=net, optimizer=optimizer)
        assert optimizer.params is net.params
        fastopt.load(path, optimizer=optimizer)
        assert optimizer.params is None

    def test_overridden_load_state_dict_is_called(self, path):
        class Mine(Own):
            def load_state_dict(self, state):
                self.state = {"mine": state}

        optimizer = Mine(**{"class": "Own"})
        fastopt.save(path, optimizer=optimizer)
        fastopt.load(path, optimizer=optimizer)
        assert optimizer.state == {"mine": {"class": "Own"}}

    @pytest.mark.parametrize("as_type", [str, lambda p: p, os.path.relpath])
    def test_the_name_is_taken_as_it_is(self, as_type, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("a.npz", "a", "a.tmp", "ä b.ckpt"):
            fastopt.save(as_type(tmp_path / name), a=1)
            assert [*tmp_path.iterdir()] == [tmp_path / name]
            assert fastopt.load(as_type(tmp_path / name)) == {"a": 1}
            (tmp_path / name).unlink()


class TestWrongArguments:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"optimizer": fastopt.Adam}, "optimizer must be an instance, got the class Adam"),
            ({"optimizer": {}}, r"optimizer must have state_dict\(\) and load_state_dict"),
            ({"trainer": 1}, "trainer must have state_dict"),
            ({"net": object()}, "net must have .* or a mapping params; got object"),
            ({"net": types.SimpleNamespace(params=[1])}, "or a mapping params; got"),
            ({"params": "checkpoint.npz"}, "params must be a mapping of keys to arrays, got str"),
            ({"params": [np.ones(3)]}, "params must be a mapping of keys to arrays, got list"),
            ({"params": dict}, "params must be an instance"),
            ({"rng": 0}, "rng must be a numpy.random.Generator, got int"),
            ({"rng": np.random.RandomState(0)}, "numpy.random.Generator, got RandomState"),
            ({"rng": np.random.PCG64(0)}, "numpy.random.Generator, got PCG64"),
            ({"rng": np.random.Generator}, "rng must be an instance"),
        ],
        ids=lambda case: "" if isinstance(case, str) else next(iter(case)),
    )
    def test_type(self, given, message, path):
        fastopt.save(path, a=1)
        before = path.read_bytes()
        with pytest.raises(TypeError, match=message):
            fastopt.save(path, **given)
        with pytest.raises(TypeError, match=message):
            fastopt.load(path, **given)
        assert path.read_bytes() == before

    @pytest.mark.parametrize("path", [None, 3, {"a": np.ones(3)}, b"a.npz"])
    def test_path(self, path):
        with pytest.raises(TypeError, match=r"path must be a str or os\.PathLike, got "):
            fastopt.save(path)
        with pytest.raises(TypeError, match=r"path must be a str or os\.PathLike, got "):
            fastopt.load(path)

    def test_by_place(self, path):
        with pytest.raises(TypeError):
            fastopt.save(path, {"a": np.ones(3)})
        with pytest.raises(TypeError):
            fastopt.save({"a": np.ones(3)}, path)

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"a": [1.0]}, r"params\['a'\] must be an array, a float or a NumPy scalar, got list"),
            ({"a": 1}, r"params\['a'\] .* got int"),
            ({("a", 0): None}, r"params\[\('a', 0\)\] .* got NoneType"),
            ({"a": np.ma.ones(3)}, r"params\['a'\] .* got MaskedArray"),
            ({"a": np.array([None])}, r"params\['a'\] can't be saved: its dtype is object"),
            ({1.5: np.ones(3)}, r"params\[1.5\] can't be saved: a key must be"),
            ({True: np.ones(3)}, r"params\[True\] can't be saved: a key must be"),
        ],
        ids=lambda case: "" if isinstance(case, str) else repr(case),
    )
    def test_params_that_cannot_be_saved(self, params, message, path):
        with pytest.raises(TypeError, match=message):
            fastopt.save(path, params=params)
        assert not path.exists()

    def test_state_that_cannot_be_saved(self, path):
        with pytest.raises(TypeError, match=r"^optimizer\['lr'\] can't be saved: .*function"):
            fastopt.save(path, optimizer=Foreign(lr=lambda t: t))

    def test_missing_folder(self, path):
        with pytest.raises(FileNotFoundError, match=r"there is no such folder.*none"):
            fastopt.save(path.parent / "none" / "a.npz", a=1)
        with pytest.raises(FileNotFoundError, match=r"none"):
            fastopt.load(path.parent / "none" / "a.npz")


class TestWhatDoesNotFit:
    @pytest.mark.parametrize("name", ["params", "optimizer", "net", "trainer", "rng"])
    def test_section_that_is_not_there(self, name, path):
        fastopt.save(path, epoch=3, losses=[1.0])
        targets = {"params": {}, "rng": np.random.default_rng(0)}
        with pytest.raises(KeyError, match=rf"checkpoint\.npz.* has no {name}; it has epoch, los"):
            fastopt.load(path, **{name: targets.get(name, Foreign())})

    @pytest.mark.parametrize(
        ("change", "exception", "message"),
        [
            ({"new": np.ones(2)}, KeyError, r"has no params\['new'\]"),
            ({"W": None}, ValueError, r"has params\['W'\], too.*no place"),
            ({"W": np.ones(12)}, ValueError, r"params\['W'\] has shape \(12,\), .* has \(4, 3\)"),
            ({"W": np.ones((4, 3), "f4")}, ValueError, r"\['W'\] has dtype float32, .* float64"),
            ({"W": np.ones((4, 3), "i8")}, ValueError, r"\['W'\] has dtype int64"),
            ({"W": 1.0}, ValueError, r"\['W'\] is of type float, in the file of type ndarray"),
            ({"float": np.ones(())}, ValueError, r"\['float'\] is of type ndarray, .* type float"),
            ({"float": np.float64(1)}, ValueError, r"\['float'\] is of type float64, .* float"),
            ({"scalar": 1.0}, ValueError, r"\['scalar'\] is of type float, .* float32"),
            ({"scalar": np.float64(1)}, ValueError, r"\['scalar'\] is of type float64, .* float32"),
            ({"W": np.broadcast_to(1.0, (4, 3))}, ValueError, r"\['W'\] is read-only"),
            ({"W": [1.0]}, TypeError, r"\['W'\] must be an array, a float or a NumPy scalar"),
        ],
        ids=lambda case: repr(case)[:30] if isinstance(case, dict) else "",
    )
    def test_params(self, change, exception, message, path):
        fastopt.save(path, params=some_params())
        params = {**other_params(), **change}
        params = {key: value for key, value in params.items() if value is not None}
        with refused(exception, message, params) as caught:
            fastopt.load(path, params=params)
        if exception is not TypeError:
            assert "checkpoint.npz" in str(caught.value)
        net = types.SimpleNamespace(params=params)
        fastopt.save(path, net=types.SimpleNamespace(params=some_params()))
        with refused(exception, message.replace(" params", " net.params"), params):
            fastopt.load(path, net=net)

    def test_numbers_in_a_mapping_that_is_fixed(self, path):
        fastopt.save(path, params={"a": np.ones(2), "b": 1.0})
        params = {"a": np.zeros(2), "b": 0.0}
        with refused(TypeError, "params must be mutable to replace the number 'b'", params):
            fastopt.load(path, params=types.MappingProxyType(params))

    def test_sections_that_are_something_else(self, path):
        fastopt.save(path, a=1)
        for tree in ([], {1: 2}, {"params": [1]}, {"params": 1, "a": 2}, {"rng": 3}, {"net": 3}):
            _archive.write(path, tree)
            for name, target in [
                ("params", {}), ("rng", np.random.default_rng(0)),
                ("net", types.SimpleNamespace(params={})),
            ]:  # fmt: skip
                with pytest.raises((ValueError, KeyError), match=r"checkpoint\.npz"):
                    fastopt.load(path, **{name: target})

    def test_net_of_another_kind(self, path):
        fastopt.save(path, net=Foreign(params={"W": np.ones(3)}, step=3))
        net = types.SimpleNamespace(params={"W": np.zeros(3)})
        with refused(ValueError, "npz.*net has params alone", net.params):
            fastopt.load(path, net=net)

    @pytest.mark.parametrize("target", [Own(**{"class": "Own"}), Foreign(x=1)])
    def test_state_that_its_owner_refuses(self, target, path):
        before = dict(target.state)
        fastopt.save(path, params=some_params(), optimizer=Foreign(other=1))
        params = other_params()
        with refused(ValueError, r"checkpoint\.npz'.*(wanted 'Own'|no state of mine)", params):
            fastopt.load(path, params=params, optimizer=target)
        assert target.state == before


class TestAllOrNothing:
    """Every target in turn doesn't fit; the others keep what they have."""

    def saved(self, path):
        fastopt.save(
            path, params=some_params(), optimizer=Own(**{"class": "Own", "iter": 9}),
            net=Foreign(a=9), trainer=Foreign(b=9), rng=np.random.default_rng(9),
        )  # fmt: skip

    @pytest.mark.parametrize("bad", ["params", "optimizer", "net", "trainer", "rng", "numbers"])
    def test_one_that_does_not_fit(self, bad, path):
        self.saved(path)
        targets = {
            "params": Refusing(other_params()), "optimizer": Own(**{"class": "Own", "iter": 0}),
            "net": Foreign(a=0), "trainer": Foreign(b=0), "rng": np.random.default_rng(0),
        }  # fmt: skip
        exception, message = ValueError, "checkpoint.npz"
        if bad == "params":
            targets["params"]["W"] = np.ones(1)
        elif bad == "optimizer":
            _archive.write(path, {**fastopt.load(path), "optimizer": {"class": "Other"}})
        elif bad == "rng":
            targets["rng"] = np.random.Generator(np.random.MT19937(0))
        elif bad == "numbers":
            targets["params"].most, exception, message = 1, TypeError, "stays as it is"
        else:
            targets[bad].state["more"] = 1
        names = ("optimizer", "net", "trainer")
        states = [dict(targets[name].state) for name in names]
        rng_before = repr(targets["rng"].bit_generator.state)
        with refused(exception, message, targets["params"]):
            fastopt.load(path, **targets)
        assert [targets[name].state for name in names] == states
        assert repr(targets["rng"].bit_generator.state) == rng_before

    def test_commit_of_params_alone(self):
        """What nets and the Trainer use of it."""
        saved, params = some_params(), Refusing(other_params())
        commit = checked_params(params, saved, "params")
        params.most = 1
        with refused(TypeError, "'scalar' stays as it is", params):
            commit()
        commit()
        assert params["scalar"] == saved["scalar"]
        assert (params["W"] == saved["W"]).all()


BIT_GENERATORS = [
    getattr(np.random, name) for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
]


class TestGenerators:
    @pytest.mark.parametrize("cls", BIT_GENERATORS)
    def test_goes_on_where_it_was(self, cls, path):
        rng = np.random.Generator(cls(3))
        for draw in (1, 3, 700):
            rng.integers(0, 10, draw, "i4")  # half a word is left
            fastopt.save(path, rng=rng)
            want = rng.integers(0, 10, 50, "i4").tolist() + rng.standard_normal(50).tolist()
            for other in (rng, np.random.Generator(cls(0))):
                fastopt.load(path, rng=other)
                got = other.integers(0, 10, 50, "i4").tolist() + other.standard_normal(50).tolist()
                assert got == want

    @pytest.mark.parametrize("cls", BIT_GENERATORS)
    def test_state_of_the_other_byte_order(self, cls, path):
        def swapped(state):
            if isinstance(state, dict):
                return {key: swapped(value) for key, value in state.items()}
            is_array = isinstance(state, np.ndarray)
            return state.astype(state.dtype.newbyteorder()) if is_array else state

        rng = np.random.Generator(cls(3))
        _archive.write(path, {"rng": swapped(rng.bit_generator.state)})
        other = np.random.Generator(cls(0))
        fastopt.load(path, rng=other)
        assert (rng.standard_normal(9) == other.standard_normal(9)).all()

    def test_another_class(self, path):
        fastopt.save(path, rng=np.random.Generator(np.random.MT19937(0)))
        rng = np.random.default_rng(0)
        with pytest.raises(ValueError, match=r"npz'.*rng has a PCG64, .* state of 'MT19937'"):
            fastopt.load(path, rng=rng)

    @pytest.mark.parametrize("cls", BIT_GENERATORS)
    def test_states_that_are_none(self, cls, path):
        """Each number of it out of bounds, each array of another shape or dtype, keys and types."""
        rng = np.random.Generator(cls(3))
        before = repr(rng.bit_generator.state)
        cases = [*spoiled(rng.bit_generator.state)]
        assert len(cases) > 10
        for state in cases:
            _archive.write(path, {"rng": state})
            with pytest.raises(ValueError, match=r"checkpoint\.npz'.*rng"):
                fastopt.load(path, rng=rng)
            assert repr(rng.bit_generator.state) == before


def spoiled(state):
    """Yield states with one thing wrong."""
    yield {**state, "more": 1}
    for key, value in state.items():
        yield {name: each for name, each in state.items() if name != key}
        if isinstance(value, dict):
            others = spoiled(value)
        elif isinstance(value, np.ndarray):
            others = [value[:-1], np.append(value, value[:1]), value.astype("f8"), value.tolist()]
        elif isinstance(value, int):
            others = [-1, 2**200, float(value), True, None, "1", 2**128, -(2**63)]
            others += [625, 2**31] if key == "pos" else []
            others += [5, 2**31] if key == "buffer_pos" else []
            others += [2] if key == "has_uint32" else []
        else:
            others = ["PCG32", None, 1]
        for other in others:
            yield {**state, key: other}


class TestDamage:
    @pytest.mark.parametrize("seed", [SEED])
    def test_random_damage_is_refused_or_read_back(self, seed, path):
        """Bits, bytes, runs, pieces cut out, put in and exchanged."""
        chance = random.Random(seed)
        rng = np.random.default_rng(7)
        fastopt.save(path, params=some_params(), rng=rng, optimizer=Own(**{"class": "Own"}), a=[1])
        data, tree = path.read_bytes(), fastopt.load(path)
        optimizer, params = Own(**{"class": "Own", "kept": 1}), other_params()
        state = repr(rng.bit_generator.state)
        n_refused = 0
        for i in range(CORRUPTIONS):
            bad = damaged(bytearray(data), chance)
            path.write_bytes(bad)
            if bytes(bad) == data:
                assert_same_tree(fastopt.load(path), tree)
                continue
            with refused(ValueError, r"checkpoint\.npz", params):
                fastopt.load(path, params=params, rng=rng, optimizer=optimizer)
            assert optimizer.state == {"class": "Own", "kept": 1}, i
            assert repr(rng.bit_generator.state) == state
            n_refused += 1
        assert n_refused > CORRUPTIONS * 0.9


def damaged(data, chance):
    """Return bytes with some damage."""
    a, b, c = sorted(chance.randrange(len(data) + 1) for _ in range(3))
    n = chance.choice([1, 2, 4, 16, 300])
    at = chance.randrange(len(data))
    match chance.randrange(8):
        case 0:
            data[at] ^= 1 << chance.randrange(8)
        case 1:
            for _ in range(n):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case 2:
            data[at : at + n] = chance.randbytes(len(data[at : at + n]))
        case 3:
            data[at : at + n] = bytes([chance.choice([0, 255])]) * len(data[at : at + n])
        case 4:
            del data[at:]
        case 5:
            del data[at : at + n]
        case 6:
            data[at:at] = chance.choice([chance.randbytes(n), data[a : a + n]])
        case 7:
            data[a:c] = data[b:c] + data[a:b]
    return data


SAVER = """
import sys
import numpy as np
import fastopt

path, arrays = sys.argv[1], {i: np.zeros(300_000) for i in range(3)}
print("ready", flush=True)
for n in range(1, 10**9):
    for array in arrays.values():
        array[:] = n
    fastopt.save(path, params=arrays, n=n)
"""


@pytest.mark.parametrize("seed", [SEED])
def test_killed_at_any_moment(seed, path):
    """There is an old file or a new one, whole, and beside it one temporary at most."""
    chance = random.Random(seed)
    with_temporary = 0
    for _ in range(KILLS):
        fastopt.save(path, params={i: np.zeros(300_000) for i in range(3)}, n=0)
        command = [sys.executable, "-c", SAVER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(chance.random() * 0.05)
            process.kill()
        loaded = fastopt.load(path)
        assert all((array == loaded["n"]).all() for array in loaded["params"].values())
        names = {each.name for each in path.parent.iterdir()}
        assert names <= {path.name, f"{path.name}.tmp"}
        with_temporary += len(names) == 2
        fastopt.save(path, n=0)  # which takes the temporary's place
        assert [*path.parent.iterdir()] == [path]
    assert with_temporary or not IS_LONG
