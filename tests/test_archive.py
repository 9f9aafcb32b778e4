"""The file format: every tree comes back as it was, and every file that is wrong is refused."""

import copy
import io
import json
import math
import os
import random
import sys
import threading
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.long import CORRUPTIONS, SEED
from helpers.processes import run
from helpers.trees import (
    MEMBER,
    assert_same_tree,
    lying,
    manifest,
    misshape,
    nested,
    npy,
    some_tree,
    zipped,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastopt import _archive
from fastopt._archive import read, write

DTYPES = [
    "bool", "i1", "u1", *(f"{order}{kind}" for order in "<>" for kind in
    ("i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")),
    "longdouble", "clongdouble",
]  # fmt: skip

text = st.text(st.characters(exclude_categories=()), max_size=5)
keys = st.recursive(text | st.integers(), lambda inner: st.lists(inner, max_size=3).map(tuple))
arrays = hnp.arrays(
    st.sampled_from(DTYPES).map(np.dtype), hnp.array_shapes(min_dims=0, min_side=0, max_side=3)
)
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | text | arrays
    | arrays.map(np.asfortranarray) | arrays.filter(lambda a: a.size).map(lambda a: a.flat[0])
)  # fmt: skip
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=20,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.npz"


def through(path, tree):
    write(path, tree)
    return read(path)


class TestRoundTrip:
    @given(tree=trees)
    def test_any_tree(self, tree, tmp_path_factory):
        path = tmp_path_factory.getbasetemp() / "any.npz"
        assert_same_tree(through(path, tree), tree)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_every_dtype_shape_and_order(self, dtype, path):
        rng = np.random.default_rng(0)
        shapes = [(), (1,), (5,), (3, 4), (2, 3, 4), (0,), (3, 0, 2), (1, 5), (5, 1)]
        tree = []
        for shape in shapes:
            array = np.asarray(rng.integers(0, 2, shape)).astype(dtype)
            tree += [array, np.asfortranarray(array), array[()]]
        assert_same_tree(through(path, tree), tree)

    def test_bits_of_nan(self, path):
        rng = np.random.default_rng(0)
        bits = rng.integers(0, 2**52, 100, "u8") | np.uint64(0x7FF << 52)
        assert through(path, bits.view("f8")).view("u8").tolist() == bits.tolist()
        number = float(bits.view("f8")[7])
        assert_same_tree(through(path, [number, -number, math.nan]), [number, -number, math.nan])

    @pytest.mark.parametrize(
        "view",
        [
            lambda a: a[::2], lambda a: a[:, ::-1], lambda a: a[1:, 1:], lambda a: a.T[::2],
            lambda a: a.transpose(1, 0, 2), lambda a: np.broadcast_to(a[:1], a.shape),
            lambda a: a[1, 2, 3:4], lambda a: a[0, :, 0],
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("n", [4, 70])  # put together first, and in blocks
    def test_views_come_back_as_c(self, view, n, path):
        array = view(np.arange(n**3 * 1.0).reshape(n, n, n))
        assert_same_tree(through(path, array), np.array(array, order="C")[()])

    def test_read_only_arrays_and_maps_of_files(self, path, tmp_path):
        array = np.arange(100_000.0)
        array.flags.writeable = False
        mapped = np.memmap(tmp_path / "map", "f8", "w+", shape=(300, 400))
        mapped[:] = 3
        got = through(path, [array, mapped])
        assert_same_tree(got, [array, np.full((300, 400), 3.0)])
        assert got[0].flags.writeable
        del mapped

    @pytest.mark.parametrize(
        "size", [_archive._SMALL - 200, _archive._SMALL, _archive._BLOCK - 300, _archive._BLOCK,
                 3 * _archive._BLOCK + 1],
    )  # fmt: skip
    def test_sizes_around_the_blocks(self, size, path):
        rng = np.random.default_rng(0)
        tree = [rng.integers(0, 256, size + i, "u1") for i in range(-70, 71, 35)]
        assert_same_tree(through(path, tree), tree)
        assert zipfile.ZipFile(path).testzip() is None

    @pytest.mark.parametrize(
        "value", [0, 2**53, 2**53 + 1, -(2**64), 10**10_000, -(10**10_000)], ids=lambda n: n % 97
    )
    def test_ints(self, value, path):
        assert through(path, {value: value}) == {value: value}

    @pytest.mark.parametrize(
        "text", ["", "ä€😀", '\0\n"\\', "\ud83d\ude00", "\udc80a", "😀\ud83d"], ids=ascii
    )
    def test_text(self, text, path):
        assert_same_tree(through(path, {text: text}), {text: text})

    def test_numbers_of_numpy_in_keys_and_what_is_a_dict(self, path):
        class Own(dict):
            pass

        tree = Own({np.int64(3): 1, ("a", np.uint8(2)): 2, np.str_("s"): 3})
        assert_same_tree(through(path, tree), {3: 1, ("a", 2): 2, "s": 3})

    def test_the_same_object_twice(self, path):
        array, inner = np.arange(3), [1]
        tree = {"a": array, "b": array, "c": inner, "d": (inner, inner)}
        assert_same_tree(through(path, tree), tree)

    def test_as_deep_as_may_be(self, path):
        assert through(path, nested(_archive._MAX_DEPTH)) == nested(_archive._MAX_DEPTH)

    def test_many_small_arrays(self, path):
        tree = {i: np.full(100, i, "f4") for i in range(1000)}
        assert_same_tree(through(path, tree), tree)

    def test_the_same_tree_makes_the_same_file(self, path):
        write(path, some_tree(np.random.default_rng(0)))
        first = path.read_bytes()
        write(path, some_tree(np.random.default_rng(0)))
        assert path.read_bytes() == first

    def test_zip64(self, path, monkeypatch):
        """Limits brought down, so that what is meant for 4 GB happens to a few bytes."""
        for name, limit in [("_MAX_32", None), ("_MAX_16", 3)]:
            tree = [np.arange(n, dtype="u1") for n in (10, 100, 200)]
            with monkeypatch.context() as patch:
                patch.setattr(_archive, name, limit or _archive._MAX_32)
                assert_same_tree(through(path, tree), tree)


class TestOtherReaders:
    def test_numpy(self, path):
        tree = some_tree(np.random.default_rng(0))
        write(path, tree)
        with np.load(path, allow_pickle=False) as file:
            text = json.loads(file["manifest"].tobytes())
            assert file.files == [*map(str, range(len(text["members"]))), "manifest"]
            assert_same_tree(file["0"], tree["params"]["W"])
            assert_same_tree(file["1"], tree["params"]["F"])
        assert text["content"]["dict"][0][1]["dict"][0] == ["W", {"array": 0}]

    def test_zipfile(self, path):
        write(path, some_tree(np.random.default_rng(0)))
        with zipfile.ZipFile(path) as file:
            assert file.testzip() is None
            assert all(each.compress_type == zipfile.ZIP_STORED for each in file.infolist())
            for number, each in enumerate(file.infolist()[:-1]):
                with file.open(each) as member:
                    assert member.read(8) == b"\x93NUMPY\1\0", number

    def test_file_of_a_machine_of_the_other_byte_order(self, path):
        """It is the same, but for the byte order of its arrays."""
        other = ">" if sys.byteorder == "little" else "<"
        array = np.arange(12.0).reshape(3, 4)
        got = through(path, {"a": array.astype(f"{other}f8")})["a"]
        assert got.dtype == np.dtype(f"{other}f8")
        assert (got == array).all()


class Elsewhere(np.ndarray):
    pass


class TestWhatCannotBeSaved:
    @pytest.mark.parametrize(
        ("tree", "message"),
        [
            ({"params": {"W1": object()}}, r"params\['W1'\] can't be saved: .*of type object"),
            ({"params": {("a", 0): {1}}}, r"params\[\('a', 0\)\] can't"),
            ({"a": [1, (2, b"x")]}, r"a\[1\]\[1\] can't be saved: .*bytes"),
            ({"a": np.array([None])}, r"^a can't be saved: its dtype is object"),
            ({"a": np.array(["x"])}, "its dtype is <U1"),
            ({"a": np.zeros(2, "f8,f4")}, "its dtype is "),
            ({"a": np.zeros(2, "M8[s]")}, "its dtype is datetime64"),
            ({"a": np.timedelta64(3, "s")}, "its dtype is timedelta64"),
            ({"a": np.str_("x")}, "its dtype is <U1"),
            ({"a": np.ma.masked_array([1.0])}, "of type MaskedArray"),
            ({"a": np.zeros(2).view(Elsewhere)}, "of type Elsewhere"),
            ({"a": 1j}, "of type complex"),
            ({"a": {True: 1}}, r"a\[True\] can't be saved: a key must be .* got True"),
            ({"a": {1.0: 1}}, r"a\[1.0\]"),
            ({"a": {("x", None): 1}}, r"a\[\('x', None\)\]"),
            ({"a": {np.True_: 1}}, r"a\[np.True_\]|a\[True\]"),
            (lambda: 1, "the tree can't be saved: it is of type function"),
            ([print], r"\[0\] can't"),
        ],
        ids=lambda case: case if isinstance(case, str) else "",
    )
    def test_type(self, tree, message, path):
        path.write_bytes(b"old")
        with pytest.raises(TypeError, match=message):
            write(path, tree)
        assert path.read_bytes() == b"old"
        assert [*path.parent.iterdir()] == [path]

    def test_cycles(self, path):
        tree = {"a": [1]}
        tree["a"].append(tree)
        with pytest.raises(ValueError, match=r"a\[1\] can't be saved: it contains itself"):
            write(path, tree)
        assert not path.exists()

    @pytest.mark.parametrize("tree", [nested(101), nested(10_000), {"a": {"b": nested(99)}}])
    def test_too_deep(self, tree, path):
        with pytest.raises(ValueError, match="nested too deep"):
            write(path, tree)
        assert not path.exists()

    def test_keys_of_one_hash(self, path):
        with pytest.raises(ValueError, match="a can't be saved: its keys have too few hashes"):
            write(path, {"a": dict.fromkeys(i * (2**61 - 1) for i in range(200))})

    def test_bools_that_are_none(self, path):
        with pytest.raises(ValueError, match="neither 0 nor 1"):
            write(path, {"a": np.array([0, 2], "u1").view("?")})


# ---- files that are wrong ----


def with_data(array, **member):
    return zipped(manifest(members=[{**MEMBER, **member}], arrays=[array]), [array])


def with_content(content, n=1):
    return zipped(manifest(content, [MEMBER] * n), [npy()] * n)


def with_manifest(**fields):
    """Return a file whose manifest has other fields; None for one that is left out."""
    found = {**json.loads(manifest()), **fields}
    return zipped(json.dumps({key: value for key, value in found.items() if value is not None}))


def with_member(**fields):
    (found,) = json.loads(manifest())["members"]
    found = {key: value for key, value in {**found, **fields}.items() if value is not None}
    return with_manifest(members=[found])


def changed(data, old, new, nth=0):
    """Return a file with bytes replaced, where they are found the nth time."""
    at = -1
    for _ in range(nth + 1):
        at = data.index(old, at + 1)
    assert len(old) == len(new)
    return data[:at] + new + data[at + len(new) :]


VALID = zipped(manifest())


def deflated(text=None, size=2**27):
    """Return a zip with compressed members, one of them much larger than the file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("0.npy", npy(data=bytes(size)))
        text = manifest().encode() if text is None else text
        file.writestr("manifest.npy", _archive._manifest_member(len(text)).header() + text)
    return out.getvalue()


def savez(**arrays):
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def overlapping():
    """Return a file with two members at one place."""
    members, array = [MEMBER, MEMBER], npy()
    text = manifest({"tuple": [{"array": 0}, {"array": 1}]}, members).encode()
    last = _archive._manifest_member(len(text)).header() + text
    crc = zlib.crc32(array)
    first = _archive._Entry("0.npy", crc, len(array), 0)
    second = first._replace(name="1.npy")
    third = _archive._Entry("manifest.npy", zlib.crc32(last), len(last), first.end)
    data = first.local() + array + third.local() + last
    return data + _archive._directory([first, second, third])


def large_header(text):
    """Return a file whose array has a header that is costly to evaluate."""
    text += " " * (-(10 + len(text) + 1) % 64) + "\n"
    header = b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode()
    return with_data(header + bytes(16))


def central(data, field, new):
    """Return a file with a field of the first entry of its directory changed."""
    at = data.index(b"PK\1\2") + field
    return data[:at] + new + data[at + len(new) :]


def local(data, field, new):
    return data[:field] + new + data[field + len(new) :]


def end(data, field, new):
    at = len(data) - 22 + field
    return data[:at] + new + data[at + len(new) :]


MAX_32, MAX_64 = b"\xff" * 4, b"\xff" * 8
HUGE_INT = "1" * 1_000_000

HOSTILE = {
    "empty": b"",
    "text": b"hello, world\n" * 100,
    "pickle": b"\x80\x04\x95\x06\x00\x00\x00\x00\x00\x00\x00\x8c\x02hi\x94.",
    "one array": npy(),
    "savez": savez(a=np.zeros(3)),
    "savez with a manifest": savez(**{"0": np.zeros(2), "manifest": np.zeros(9, "u1")}),
    "empty zip": savez(),
    # what the manifest says of arrays
    "object dtype": lying({"dtype": "|O"}),
    "text dtype": lying({"dtype": "<U4"}),
    "void dtype": lying({"dtype": "|V8"}),
    "dates": lying({"dtype": "<M8[s]"}),
    "structured dtype": with_member(dtype=[["a", "<f8"]]),
    "dtype with fields": with_member(dtype="f8,f8"),
    "dtype of three bytes": with_member(dtype="<i3"),
    "dtype of no byte order": with_member(dtype="|f8"),
    "dtype of native byte order": with_member(dtype="=f8"),
    "long dtype": with_member(dtype="<f8" * 10**6),
    "huge shape": lying({"shape": [2**62]}),
    "huge shape of few bytes": lying({"shape": [2**40]}),
    "shape × itemsize beyond 64 bits": lying({"shape": [2**32, 2**32]}),
    "negative shape": lying({"shape": [-1]}),
    "negative shapes": lying({"shape": [-1, -2]}),
    "empty and too large": lying({"shape": [0, 2**62, 2**62]}, 0),
    "empty and beyond 64 bits": lying({"shape": [0, 2**63]}, 0),
    "65 dimensions": lying({"shape": [1] * 64 + [2]}),
    "100,000 dimensions": with_member(shape=[1] * 100_000),
    "shape of floats": with_member(shape=[2.0]),
    "shape of bools": with_member(shape=[2, True]),
    "shape of text": with_member(shape="2"),
    "no shape": with_member(shape=None),
    "null shape": zipped(manifest().replace("[2]", "null")),
    "too small a shape": lying({"shape": [1]}),
    "too large a shape": lying({"shape": [3]}),
    "order": lying({"order": "A"}),
    "order that is none": with_member(order=1),
    "order that isn't that of the header": with_member(order="F"),
    "checksum": with_member(crc32=0),
    "checksum of text": with_member(crc32="0"),
    "checksum that is a bool": with_member(crc32=True),
    "negative checksum": with_member(crc32=-1),
    "large checksum": with_member(crc32=2**32),
    "no checksum": with_member(crc32=None),
    "a field too many": with_member(note="x"),
    "a member that is none": with_manifest(members=[[]]),
    "members that are none": with_manifest(members=True),
    "a member too few": with_manifest(members=[]),
    "a member too many": zipped(manifest(members=[MEMBER, MEMBER])),
    "a billion members": zipped(manifest(), [npy()] * 2),
    "bools that are none": with_data(
        npy({**MEMBER, "dtype": "|b1"}, b"\0\2"), dtype="|b1"
    ),
    # what it says otherwise
    "no manifest's text": zipped(""),
    "no JSON": zipped("{"),
    "not ASCII": zipped('"ä"'),
    "JSON behind JSON": zipped(manifest() + "{}"),
    "a manifest that is none": zipped("[]"),
    "no format": with_manifest(format=None),
    "format 2": with_manifest(format=2),
    "format that is a bool": with_manifest(format=True),
    "format that is a float": with_manifest(format=1.0),
    "format of text": with_manifest(format="1"),
    "no content": with_manifest(content=None),
    "a name too many": with_manifest(note=1),
    "a name twice": zipped(manifest()[:-1] + ', "format": 1}'),
    "deep JSON": zipped("[" * 10**6),
    "deep objects of JSON": zipped('{"a":' * 10**6),
    "deep content": with_content([*nested(101), {"array": 0}]),
    "deeper content": zipped(manifest().replace('{"dict"', '[' * 500 + '{"dict"')),
    "an int of a million digits": zipped(manifest({"tuple": [{"array": 0}, 1]}).replace(
        "1]", HUGE_INT + "]")),
    "a format of a million digits": zipped(manifest().replace(
        '"format": 1', '"format": ' + HUGE_INT)),
    "a shape of a million digits": zipped(manifest().replace("[2]", f"[{HUGE_INT}]")),
    "a float of a million digits": zipped(manifest([{"array": 0}, 5.5]).replace(
        "5.5", "5." + HUGE_INT)),
    "NaN": with_content([{"array": 0}, math.nan]),
    "infinity": with_content([{"array": 0}, math.inf]),
    "infinity by digits": zipped(manifest([{"array": 0}, 5.5]).replace("5.5", "1e999")),
    "an array not named": with_content([]),
    "an array named twice": with_content([{"array": 0}, {"array": 0}]),
    "arrays in another order": with_content([{"array": 1}, {"array": 0}], 2),
    "an array that isn't there": with_content([{"array": 0}, {"array": 1}]),
    "array -1": with_content([{"array": -1}]),
    "an array named by a bool": with_content([{"array": False}]),
    "an array named by a float": with_content([{"array": 0.0}]),
    "an array for a number": with_content([{"scalar": 0}]),
    "an unknown name": with_content([{"array": 0}, {"pickle": "x"}]),
    "two names": with_content([{"array": 0, "scalar": 0}]),
    "no name": with_content([{"array": 0}, {}]),
    "a tuple that is none": with_content([{"array": 0}, {"tuple": {}}]),
    "a dict that is none": with_content([{"array": 0}, {"dict": {"a": 1}}]),
    "a key without a value": with_content([{"array": 0}, {"dict": [["a"]]}]),
    "a key twice": with_content([{"array": 0}, {"dict": [["a", 1], ["a", 2]]}]),
    "a number twice as a key": with_content(
        [{"array": 0}, {"dict": [[5, 1], [{"int": "0x5"}, 2]]}]),
    "keys of one hash": with_content([{"array": 0}, {"dict": [
        [{"int": hex(i * (2**61 - 1))}, 1] for i in range(10_000)]}]),
    "a list as a key": with_content([{"array": 0}, {"dict": [[[], 1]]}]),
    "a bool as a key": with_content([{"array": 0}, {"dict": [[True, 1]]}]),
    "an array as a key": with_content({"dict": [[{"array": 0}, 1]]}),
    "null as a key": with_content([{"array": 0}, {"dict": [[None, 1]]}]),
    "a float as part of a key": with_content([{"array": 0}, {"dict": [[{"tuple": [1.5]}, 1]]}]),
    "an int that is none": with_content([{"array": 0}, {"int": "1_0"}]),
    "an int of another base": with_content([{"array": 0}, {"int": "0b1"}]),
    "a float of 3 bytes": with_content([{"array": 0}, {"float": "7ff000"}]),
    "a float that is none": with_content([{"array": 0}, {"float": 1.5}]),
    "text that is none": with_content([{"array": 0}, {"text": "ff"}]),
    "text of no hex": with_content([{"array": 0}, {"text": "zz"}]),
    # the zip
    "deflated": deflated(size=16),
    "a deflated bomb": deflated(),
    "a bomb for a manifest": deflated(bytes(2**27), 16),
    "compressed, it says": central(VALID, 10, b"\x08\0"),
    "encrypted": central(VALID, 8, b"\1\0"),
    "encrypted, by the local header": local(VALID, 6, b"\1\0"),
    "a descriptor": local(VALID, 6, b"\x08\0"),
    "overlapping members": overlapping(),
    "a name with a path": zipped(manifest(), names=["../0.npy"]),
    "a name with a path, as long": zipped(manifest(), names=["../ab"]),
    "an absolute name": zipped(manifest(), names=["/0.npy"]),
    "another name": zipped(manifest(), names=["1.npy"]),
    "a name twice in the zip": zipped(
        manifest([{"array": 0}, {"array": 1}], [MEMBER] * 2), [npy()] * 2, ["0.npy", "0.npy"]
    ),
    "another name in the local header": changed(VALID, b"0.npy", b"1.npy"),
    "another name in the directory": changed(VALID, b"0.npy", b"1.npy", 1),
    "a comment": end(VALID, 20, b"\2\0") + b"hi",
    "junk behind": VALID + b"x",
    "junk in front": b"x" + VALID,
    "junk before the directory": changed(VALID, b"PK\1\2", b"PK\1\2")[: VALID.index(b"PK\1\2")]
    + b"x" + VALID[VALID.index(b"PK\1\2") :],
    "no members in the end record": end(VALID, 8, b"\0\0\0\0"),
    "65,535 members in the end record": end(VALID, 8, MAX_32),
    "several disks": end(VALID, 4, b"\1\0"),
    "a directory beyond the file": end(VALID, 16, b"\xf0\xff\xff\xff"),
    "a large directory": end(VALID, 12, b"\xf0\xff\xff\xff"),
    "a directory of 64 bits": end(VALID, 12, MAX_64),
    "sizes of 64 bits": central(VALID, 20, MAX_64),
    "an offset of 64 bits": central(VALID, 42, MAX_32),
    "a manifest's sizes of 64 bits": changed(
        VALID, VALID[-60:-52], MAX_64,
    ),
    "a size in the local header": local(VALID, 18, b"\xf0\xff\xff\xff"),
    "an extra field": central(VALID, 30, b"\4\0"),
    "a date": local(VALID, 10, b"\1\2\3\4"),
    # the arrays
    "data": changed(VALID, bytes(16), b"\1" + bytes(15)),
    "a header that isn't the manifest's": with_data(npy({**MEMBER, "dtype": "<i8"})),
    "a header costly to evaluate": large_header("(" * 9000 + ")" * 9000),
    "a header with a large power": large_header("{'descr': '<f8', 'shape': 9**9**9}"),
    "a header of version 2": with_data(b"\x93NUMPY\2\0" + npy()[8:]),
}  # fmt: skip


class TestWrongFiles:
    def test_what_they_are_made_from_is_right(self, path):
        path.write_bytes(VALID)
        assert_same_tree(read(path), {"a": np.zeros(2)})

    @pytest.mark.parametrize("name", HOSTILE)
    def test_is_refused(self, name, path):
        data = HOSTILE[name]
        path.write_bytes(data)
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=r"^'.*a\.npz' can't be loaded: ") as caught:
                read(path)
            assert len(str(caught.value)) < 500 + len(str(path))
            assert tracemalloc.get_traced_memory()[1] < 2e6 + 40 * len(data)
        finally:
            tracemalloc.stop()

    def test_each_is_refused_for_what_is_wrong(self, path):
        """Some, so that not all of them fail at the same early check."""
        reasons = {
            "object dtype": "where", "huge shape": "more bytes than there are",
            "too small a shape": "more bytes than its manifest tells",
            "65 dimensions": "65 dimensions", "format 2": "format 2, this fastopt reads 1",
            "deep content": "nested too deep", "deep JSON": "recursion|overflow",
            "an array named twice": "where 1 is next", "a key twice": "twice",
            "keys of one hash": "slow",
            "bools that are none": "array 0 is damaged", "data": "array 0 is damaged",
            "overlapping members": "more bytes", "a name with a path, as long": "directory",
            "encrypted": "directory", "a descriptor": "header", "a comment": "directory",
            "savez": "no file that", "a header costly to evaluate": "header|bytes",
        }  # fmt: skip
        for name, reason in reasons.items():
            path.write_bytes(HOSTILE[name])
            with pytest.raises(ValueError, match=reason):
                read(path)

    @pytest.mark.parametrize("seed", [SEED])
    def test_manifest_changed_at_random(self, seed, path):
        """With its checksum right again: what is still accepted is a tree that can be saved."""
        chance = random.Random(seed)
        write(path, some_tree(np.random.default_rng(0)))
        with zipfile.ZipFile(path) as file:
            *arrays, last = map(file.read, file.namelist())
        right, n_refused = json.loads(last[last.index(b'{"format') :]), 0
        for _ in range(CORRUPTIONS):
            tree = copy.deepcopy(right)
            for _ in range(chance.choice([1, 1, 2, 3])):
                misshape(tree, chance)
            path.write_bytes(zipped(json.dumps(tree), arrays))
            try:
                got = read(path)
            except ValueError as error:
                assert "a.npz" in str(error)  # noqa: PT017 - not each one is refused
                n_refused += 1
            else:
                assert_same_tree(through(path, got), got)
        assert n_refused > CORRUPTIONS / 2

    def test_truncated_anywhere(self, path):
        tree = some_tree(np.random.default_rng(0))
        write(path, tree)
        data = path.read_bytes()
        for n in [*range(0, len(data), 29), *range(len(data) - 180, len(data))]:
            path.write_bytes(data[:n])
            with pytest.raises(ValueError, match=r"a\.npz"):
                read(path)

    def test_not_there(self, path):
        with pytest.raises(FileNotFoundError, match=r"a\.npz"):
            read(path)

    def test_a_folder(self, tmp_path):
        descriptors = open_descriptors()
        with pytest.raises(OSError):  # noqa: PT011 - which one depends on the system
            read(tmp_path)
        assert open_descriptors() == descriptors

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
    def test_a_pipe_does_not_wait_for_a_writer(self, path):
        os.mkfifo(path)
        with pytest.raises(ValueError, match="no regular file"):
            read(path)

    @pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no devices")
    def test_a_device(self):
        with pytest.raises(ValueError, match="no regular file"):
            read("/dev/zero")

    @pytest.mark.skipif(os.name != "posix", reason="limits of memory are POSIX's")
    @pytest.mark.parametrize("name", ["a deflated bomb", "huge shape of few bytes", "deep JSON"])
    def test_takes_little_memory_of_the_process(self, name, path):
        """Also of what Python's own account doesn't show."""
        path.write_bytes(HOSTILE[name])
        code = (
            "import resource, sys; import numpy; from fastopt._archive import read\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            f"try: read({str(path)!r})\n"
            "except ValueError: pass\n"
            "else: sys.exit('it was read')\n"
            "unit = 1 if sys.platform == 'darwin' else 1024\n"
            "more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit\n"
            "assert more < 60e6, more"
        )
        done = run(code)
        assert done.returncode == 0, done.stderr


def open_descriptors():
    folder = Path("/dev/fd")
    return len([*folder.iterdir()]) if folder.is_dir() else 0


# ---- writing ----


class TestWriting:
    LARGE = 3 * _archive._BLOCK // 8

    def test_changed_meanwhile_by_another_thread_is_readable(self, path):
        """What is summed up is what is written."""
        array = np.zeros(self.LARGE)
        stop = threading.Event()

        def change():
            while not stop.is_set():
                array[:] += 1

        thread = threading.Thread(target=change)
        thread.start()
        try:
            for _ in range(10):
                write(path, [array])
                read(path)
        finally:
            stop.set()
            thread.join()

    def test_no_thread_is_left(self, path):
        before = threading.active_count()
        write(path, [np.zeros(self.LARGE)])
        assert threading.active_count() == before

    def test_error_in_the_thread(self, path, monkeypatch):
        def write_block(output, block, offset):
            raise OSError(28, "no space left")

        write(path, 1)
        monkeypatch.setattr(_archive._Output, "_write_block", write_block)
        before = threading.active_count()
        with pytest.raises(OSError, match="no space left"):
            write(path, [np.zeros(self.LARGE)])
        assert threading.active_count() == before
        assert [*path.parent.iterdir()] == [path]
        assert read(path) == 1

    def test_without_another_thread(self, path, monkeypatch):
        def start(thread):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", start)
        tree = [np.arange(self.LARGE * 1.0), np.arange(self.LARGE)]
        assert_same_tree(through(path, tree), tree)

    def test_at_the_end_of_the_interpreter(self, path):
        code = (
            "import atexit, numpy as np, fastopt\n"
            f"atexit.register(fastopt.save, {str(path)!r}, a=np.arange({self.LARGE}))\n"
        )
        done = run(code)
        assert (done.returncode, done.stderr) == (0, "")
        assert_same_tree(read(path), {"a": np.arange(self.LARGE)})

    @pytest.mark.skipif(os.name != "posix", reason="limits of files are POSIX's")
    def test_disk_that_becomes_full(self, path):
        write(path, 1)
        code = (
            "import resource, threading, numpy as np\n"
            "from fastopt._archive import write\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))\n"
            f"try: write({str(path)!r}, np.zeros({self.LARGE}))\n"
            "except OSError: pass\n"
            "else: raise SystemExit('it was written')\n"
            "assert threading.active_count() == 1\n"
        )
        done = run(code)
        assert done.returncode == 0, done.stderr
        assert [*path.parent.iterdir()] == [path]
        assert read(path) == 1
