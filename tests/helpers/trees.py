"""Trees of plain data and arrays as files hold them: how two are compared, and files that lie.

What is saved of optimizers, nets and generators does not belong here.
"""

import copy
import json
import math
import struct
import zlib

import numpy as np

from fastopt import _archive


def assert_same_tree(got, want):
    """Compare bit by bit: types, order of keys, byte order and order of arrays, NaN's bits."""
    assert type(got) is type(want)
    if isinstance(want, (np.ndarray, np.generic)):
        assert got.dtype == want.dtype
        assert got.dtype.str == want.dtype.str
        assert got.shape == want.shape
        if want.dtype.kind in "fc" and want.dtype == np.result_type(want, "longdouble"):
            np.testing.assert_array_equal(got, want)  # of 16 bytes some may be padding
        else:
            assert got.tobytes() == want.tobytes()
        assert got.flags.c_contiguous or got.flags.f_contiguous == want.flags.f_contiguous
    elif isinstance(want, dict):
        assert list(got) == list(want)
        assert list(map(type, got)) == list(map(type, want))
        for key in want:
            assert_same_tree(got[key], want[key])
    elif isinstance(want, (list, tuple)):
        assert len(got) == len(want)
        for each, wanted in zip(got, want, strict=True):
            assert_same_tree(each, wanted)
    elif isinstance(want, float):
        assert struct.pack(">d", got) == struct.pack(">d", want)
    else:
        assert got == want


MEMBER = {"dtype": "<f8", "shape": [2], "order": "C"}
CONTENT = {"dict": [["a", {"array": 0}]]}


def npy(member=MEMBER, data=bytes(16)):
    """Return a member as it is in the zip, with a header as it is, or of the manifest's kind."""
    if isinstance(member, bytes):
        return member + data
    shape = tuple(member["shape"])
    return _archive._Member(member["dtype"], shape, member["order"], 0).header() + data


def manifest(content=CONTENT, members=(MEMBER,), arrays=None, **others):
    """Return the text of a manifest whose checksums are right."""
    arrays = [npy() for _ in members] if arrays is None else arrays
    listed = [
        {**each, "crc32": zlib.crc32(array)} for each, array in zip(members, arrays, strict=True)
    ]
    return json.dumps({"format": 1, "members": listed, "content": content, **others})


def zipped(text, arrays=None, names=None):
    """Return a file that is right but for what its manifest says and its members hold."""
    text = text.encode() if isinstance(text, str) else text
    arrays = [npy()] if arrays is None else arrays
    last = _archive._manifest_member(len(text)).header() + text
    names = names or [f"{i}.npy" for i in range(len(arrays))]
    entries, out = [], b""
    for name, data in [*zip(names, arrays, strict=True), ("manifest.npy", last)]:
        entry = _archive._Entry(name, zlib.crc32(data), len(data), len(out))
        entries.append(entry)
        out += entry.local() + data
    return out + _archive._directory(entries)


def lying(member, n_bytes=16, content=CONTENT):
    """Return a file whose manifest says something of an array that isn't so."""
    try:
        array = npy({**MEMBER, **member}, bytes(n_bytes))
    except (TypeError, AttributeError):
        array = npy(data=bytes(n_bytes))
    return zipped(manifest(content, [{**MEMBER, **member}], [array]), [array])


PIECES = [
    None, True, 0, -1, 1, 3, 2**31, 2**63, 2**64, 1.5, "", "x", "<f8", "|O", ">f4", "|b1", "F", [],
    [1], [2, 3], [0, 2**62], [[]], {}, {"array": 0}, {"array": 1}, {"scalar": 3}, {"tuple": []},
    {"dict": []}, {"dict": [["a", 1]]}, {"int": "0x1"}, {"float": "7ff8000000000000"},
    {"text": "eda080"},
]  # fmt: skip


def places(node, place=()):
    """Yield the place of each node of a JSON tree but its root."""
    items = enumerate(node) if isinstance(node, list) else getattr(node, "items", tuple)()
    for key, inner in items:
        yield (*place, key)
        yield from places(inner, (*place, key))


def at(node, place):
    for key in place:
        node = node[key]
    return node


def misshape(tree, chance):
    """Change a JSON tree at one place: nodes replaced, moved, wrapped, doubled, left out."""
    place, other = chance.choice([*places(tree)]), chance.choice([*places(tree)])
    around, key = at(tree, place[:-1]), place[-1]
    piece = copy.deepcopy(chance.choice([at(tree, other), chance.choice(PIECES)]))
    match chance.randrange(5):
        case 0:
            around[key] = piece
        case 1:
            del around[key]
        case 2 if isinstance(around, list):
            around.insert(key, piece)
        case 2:
            around[chance.choice(["x", "array", "tuple", "dict", "format", "crc32"])] = piece
        case 3:
            around[key] = {chance.choice(["tuple", "dict", "array", "int"]): around[key]}
        case 4:
            around[key] = [around[key]]


def nested(depth):
    """Return lists in lists."""
    tree = []
    for _ in range(depth - 1):
        tree = [tree]
    return tree


def some_tree(rng):
    """Return a tree with something of everything, its arrays random."""
    return {
        "params": {
            "W": rng.standard_normal((5, 7)),
            "F": np.asfortranarray(rng.standard_normal((3, 4)).astype("float32")),
            ("a", 0): rng.standard_normal(3)[::2],
            1: np.float32(0.1),
            "number": math.pi,
            "empty": np.zeros((0, 3)),
        },
        "losses": [0.5, math.nan, -math.inf, -0.0],
        "text": "ä\ud800",
        "big": 10**50,
        "flags": (True, None, np.array([True, False]), np.int8(-3)),
    }
