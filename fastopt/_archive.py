"""A tree of plain data and arrays as one file, and back: the format, its writer and its reader.

What is saved of optimizers, nets and generators does not belong here.

The file is what `numpy.savez` would write, a zip of uncompressed members: `0.npy`, `1.npy`, …
hold the arrays, `manifest.npy` the JSON text of everything else. A manifest leaves no freedom to
the rest of the file: where its members lie, their headers and the zip's directory follow from it,
byte by byte. So the reader trusts nothing but the manifest, whose checksum it compares: it computes
what the writer would have written, and refuses what differs. A size that is a lie is found before
anything is allocated for it.

A tree is None, bool, int, float, str and arrays, in lists, tuples and dicts. Of these JSON has no
tuples, arrays, NaN and numbers of any size: they are objects of one name, as in
``{"tuple": [1, 2]}``, ``{"array": 0}``. So are dicts, whose keys need not be strings:
``{"dict": [["W1", {"array": 0}]]}``.
"""

from __future__ import annotations

import json
import math
import operator
import os
import re
import stat
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastopt._files import replacing

__all__ = ["read", "write"]

FORMAT = 1
_MAX_DEPTH = 100
_KINDS = "biufc"  # of arrays: bool, integers, real and complex numbers
_MAX_COLLISIONS = 100
_MAX_INT = 2**53  # of JSON: beyond, not every reader is exact
_MANIFEST = "manifest.npy"

_BLOCK = 1 << 21  # bytes; some of them fit the cache
_BLOCKS = 4  # that may wait to be written
_SMALL = 1 << 16  # bytes of a member that is put together first: its checksum comes before it


def write(path: str | os.PathLike[str], tree: Any) -> None:
    """Write a tree, whole or not at all.

    TypeError: something in it can't be saved; ValueError: it contains itself, or is too deep.
    Either names the place.
    """
    encoder = _Encoder()
    content = encoder.encoded(tree, ())
    with replacing(path) as file, _Output(file) as output:
        _write_members(output, content, encoder.arrays)


def read(path: str | os.PathLike[str]) -> Any:
    """Return the tree of a file; ValueError: it is no such file, or damaged.

    Arrays have the byte order of the machine that wrote them.
    """
    with open(path, "rb", opener=_opened_at_once) as file:
        try:
            return _read_tree(file)
        except (ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"{os.fspath(path)!r} can't be loaded: {error}") from error


def _opened_at_once(path: str, flags: int) -> int:
    """Return a descriptor; of a pipe, too, instead of waiting for its other end."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


# ---- a tree as JSON ----


class _Encoder:
    """Turns a tree into what JSON has, and collects its arrays."""

    def __init__(self) -> None:
        self.arrays: list[NDArray[Any]] = []
        self._around: set[int] = set()  # ids of the containers around what is encoded

    def encoded(self, value: Any, place: tuple[Any, ...]) -> Any:
        kind = type(value)
        if kind in _LEAVES:
            return _LEAVES[kind](value)
        if kind is np.ndarray or isinstance(value, np.memmap):
            return {"array": self._number_of(value, place)}
        if isinstance(value, np.generic):
            return {"scalar": self._number_of(np.asarray(value), place)}
        if kind in (list, tuple) or isinstance(value, dict):
            return self._encoded_container(value, place)
        raise TypeError(f"{_shown(place)} can't be saved: it is of type {kind.__qualname__}")

    def _number_of(self, array: NDArray[Any], place: tuple[Any, ...]) -> int:
        """Return the number of the array's member."""
        dtype = array.dtype
        # Types from elsewhere call themselves real, but bytes to NumPy, which their text tells
        if dtype.kind not in _KINDS or np.dtype(dtype.str) != dtype:
            raise TypeError(f"{_shown(place)} can't be saved: its dtype is {dtype}")
        if not _is_sound(array):
            raise ValueError(f"{_shown(place)} can't be saved: some bools are neither 0 nor 1")
        self.arrays.append(array)
        return len(self.arrays) - 1

    def _encoded_container(self, value: Any, place: tuple[Any, ...]) -> Any:
        if id(value) in self._around:
            raise ValueError(f"{_shown(place)} can't be saved: it contains itself")
        if len(place) >= _MAX_DEPTH:
            raise ValueError(f"{_shown(place[:1])} can't be saved: it is nested too deep")
        self._around.add(id(value))
        try:
            if isinstance(value, dict):
                return {"dict": self._encoded_items(value, place)}
            if _is_json(value):
                items = list(value)
            else:
                items = [self.encoded(each, (*place, i)) for i, each in enumerate(value)]
            return items if type(value) is list else {"tuple": items}
        finally:
            self._around.discard(id(value))

    def _encoded_items(self, value: dict[Any, Any], place: tuple[Any, ...]) -> list[Any]:
        if _collide([*value]):
            raise ValueError(f"{_shown(place)} can't be saved: its keys have too few hashes")
        pairs = []
        for key, each in value.items():
            inner = (*place, key)
            plain = _plain_key(key, inner, len(place))
            pairs.append([self.encoded(plain, inner), self.encoded(each, inner)])
        return pairs


def _plain_key(key: Any, place: tuple[Any, ...], depth: int) -> Any:
    """Return a key with its ints and strings as Python's own."""
    if isinstance(key, str):
        return str(key)
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return operator.index(key)
    if type(key) is tuple and depth < _MAX_DEPTH:
        return tuple(_plain_key(part, place, depth + 1) for part in key)
    raise TypeError(
        f"{_shown(place)} can't be saved: a key must be a string, an int or a tuple of these, "
        f"got {key!r}"
    )


def _shown(place: tuple[Any, ...]) -> str:
    """Return where in the tree something is, as one would write it."""
    if not place:
        return "the tree"
    first, *others = place
    head = first if isinstance(first, str) else f"[{first!r}]"
    return head + "".join(f"[{key!r}]" for key in others)


def _is_json(values: Any) -> bool:
    """Tell whether these are finite floats alone: long columns are, and need no look at each."""
    return set(map(type, values)) == {float} and all(map(math.isfinite, values))


def _encoded_text(value: str) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON makes one character of two surrogates
        return {"text": value.encode("utf-8", "surrogatepass").hex()}
    return value


def _encoded_int(value: int) -> Any:
    return value if abs(value) <= _MAX_INT else {"int": hex(value)}


def _encoded_float(value: float) -> Any:
    return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}


_LEAVES: dict[type, Callable[[Any], Any]] = {
    type(None): lambda value: value,
    bool: lambda value: value,
    str: _encoded_text,
    int: _encoded_int,
    float: _encoded_float,
}


class _Decoder:
    """Turns what `_Encoder` made into the tree again; a member is read where it is named."""

    def __init__(self, read_member: Callable[[int], NDArray[Any]], count: int) -> None:
        self._read_member = read_member
        self._count = count
        self._next = 0
        self._decoders: dict[str, Callable[[Any, int], Any]] = {
            "array": self._array,
            "scalar": self._scalar,
            "tuple": self._tuple,
            "dict": self._dict,
            "text": lambda node, depth: _unhexed(node).decode("utf-8", "surrogatepass"),
            "int": lambda node, depth: int(_matching(r"-?0x[0-9a-f]+", node), 16),
            "float": lambda node, depth: struct.unpack(">d", _unhexed(node, 8))[0],
        }

    def decoded(self, node: Any, depth: int = 0) -> Any:
        if type(node) is list:
            return self._list(node, depth)
        if type(node) is not dict:
            return node
        if len(node) != 1 or next(iter(node)) not in self._decoders:
            raise ValueError(f"its manifest has an object of names {_brief([*node])}")
        ((name, inner),) = node.items()
        return self._decoders[name](inner, depth)

    def finish(self) -> None:
        if self._next != self._count:
            raise ValueError(f"it has {self._count} arrays, and its manifest names {self._next}")

    def _list(self, node: Any, depth: int) -> list[Any]:
        if type(node) is not list:
            raise ValueError(f"its manifest has {_brief(node)} for a list")
        if depth >= _MAX_DEPTH:
            raise ValueError("its manifest is nested too deep")
        if set(map(type, node)) == {float}:
            return node
        return [self.decoded(each, depth + 1) for each in node]

    def _tuple(self, node: Any, depth: int) -> tuple[Any, ...]:
        return tuple(self._list(node, depth))

    def _dict(self, node: Any, depth: int) -> dict[Any, Any]:
        if type(node) is not list or depth >= _MAX_DEPTH:
            raise ValueError("its manifest has a dict that is none, or is nested too deep")
        pairs = [self._pair(each, depth + 1) for each in node]
        if _collide([key for key, _ in pairs]):
            raise ValueError("its manifest has keys that make a dict slow")
        tree = dict(pairs)
        if len(tree) < len(pairs):
            raise ValueError("its manifest has a key twice")
        return tree

    def _pair(self, node: Any, depth: int) -> tuple[Any, Any]:
        if type(node) is not list or len(node) != 2:
            raise ValueError(f"its manifest has {_brief(node)} for a key and its value")
        key = self.decoded(node[0], depth)
        if not _is_key(key):
            raise ValueError(f"its manifest has the key {_brief(key)}")
        return key, self.decoded(node[1], depth)

    def _array(self, node: Any, depth: int) -> NDArray[Any]:
        if type(node) is not int or node != self._next or node >= self._count:
            raise ValueError(f"its manifest has array {_brief(node)} where {self._next} is next")
        self._next += 1
        return self._read_member(node)

    def _scalar(self, node: Any, depth: int) -> Any:
        array = self._array(node, depth)
        if array.ndim:
            raise ValueError(f"its manifest has an array of shape {array.shape} for a number")
        return array[()]


def _collide(keys: list[Any]) -> bool:
    """Tell whether many keys have one hash: a dict of them takes the square of the time.

    Strings are safe; ints and tuples can be chosen so.
    """
    return len(keys) - len(set(map(hash, keys))) > _MAX_COLLISIONS


def _is_key(key: Any) -> bool:
    return type(key) in (str, int) or (type(key) is tuple and all(map(_is_key, key)))


def _matching(pattern: str, text: Any) -> str:
    if type(text) is not str or not re.fullmatch(pattern, text):
        raise ValueError(f"its manifest has {_brief(text)} where {pattern} is wanted")
    return text


def _unhexed(text: Any, n_bytes: int | None = None) -> bytes:
    found = bytes.fromhex(_matching("(?:[0-9a-f]{2})*", text))
    if n_bytes not in (None, len(found)):
        raise ValueError(f"its manifest has {_brief(text)} for {n_bytes} bytes")
    return found


def _brief(value: Any) -> str:
    """Return what a hostile file holds, as far as it fits a message."""
    text = ascii(value) if isinstance(value, (str, int)) and not _is_long(value) else ""
    return text or f"something of type {type(value).__name__}"


def _is_long(value: str | int) -> bool:
    return len(value) > 40 if isinstance(value, str) else value.bit_length() > 64


# ---- members ----


class _Member(NamedTuple):
    """What the manifest says of an array."""

    dtype: str
    shape: tuple[int, ...]
    order: str  # "C" or "F"
    crc: int  # of the member in the zip, NumPy's header included

    @classmethod
    def of(cls, array: NDArray[Any]) -> _Member:
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        return cls(array.dtype.str, array.shape, "F" if fortran else "C", 0)

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def header(self) -> bytes:
        """Return the head of a .npy file, of format 1.0."""
        text = (
            f"{{'descr': {self.dtype!r}, 'fortran_order': {self.order == 'F'}, "
            f"'shape': {self.shape}, }}"
        )
        padding = -(10 + len(text) + 1) % 64
        return struct.pack("<6sBBH", b"\x93NUMPY", 1, 0, len(text) + padding + 1) + (
            text + " " * padding + "\n"
        ).encode("ascii")


def _is_sound(array: NDArray[Any]) -> bool:
    """Tell whether all bools are 0 or 1: NumPy counts on it, and writes beyond arrays otherwise."""
    return array.dtype.kind != "b" or not array.size or bool(array.view(np.uint8).max() <= 1)


def _manifest(content: Any, members: Iterable[_Member]) -> bytes:
    """Return the JSON text of the manifest."""
    listed = [
        {"dtype": each.dtype, "shape": each.shape, "order": each.order, "crc32": each.crc}
        for each in members
    ]
    manifest = {"format": FORMAT, "members": listed, "content": content}
    return json.dumps(manifest, allow_nan=False, separators=(",", ":")).encode("ascii")


def _read_manifest(text: bytes) -> tuple[Any, list[_Member]]:
    """Return content and members; everything about a member is checked but its size."""
    manifest = json.loads(
        text.decode("ascii"),
        object_pairs_hook=_object,
        parse_int=_parsed_int,
        parse_float=_parsed_float,
        parse_constant=_parsed_float,
    )
    if type(manifest) is not dict or type(manifest.get("format")) is not int:
        raise ValueError("its manifest doesn't say the format")
    if manifest["format"] != FORMAT:
        raise ValueError(f"it has format {manifest['format']}, this fastopt reads {FORMAT}")
    _check_fields(manifest, ["format", "members", "content"])
    if type(manifest["members"]) is not list:
        raise ValueError("its manifest has no list of arrays")
    members = [_read_member(i, each) for i, each in enumerate(manifest["members"])]
    return manifest["content"], members


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its manifest has a name twice")
    return found


def _parsed_int(text: str) -> int:
    if len(text) > 20:  # of thousands of digits Python takes the square of that time
        raise ValueError("its manifest has an int too long")
    return int(text)


def _parsed_float(text: str) -> float:
    number = float(text) if len(text) <= 40 else math.nan
    if not math.isfinite(number):
        raise ValueError("its manifest has a number that is none")
    return number


def _check_fields(found: Any, wanted: list[str]) -> None:
    if type(found) is not dict or [*found] != wanted:
        raise ValueError(f"its manifest must have the fields {', '.join(wanted)}")


def _read_member(number: int, found: Any) -> _Member:
    _check_fields(found, ["dtype", "shape", "order", "crc32"])
    shape, crc = found["shape"], found["crc32"]
    _check_dtype(number, _matching(rf"[<>|][{_KINDS}][0-9]{{1,2}}", found["dtype"]))
    if type(shape) is not list or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"array {number} has a shape that is none")
    if len(shape) > 64:
        raise ValueError(f"array {number} has {len(shape)} dimensions")
    _matching("[CF]", found["order"])
    if type(crc) is not int or not 0 <= crc < 2**32:
        raise ValueError(f"array {number} has a checksum that is none")
    return _Member(found["dtype"], tuple(shape), found["order"], crc)


def _check_dtype(number: int, text: str) -> None:
    try:
        fits = np.dtype(text).str == text
    except TypeError:
        fits = False
    if not fits:
        raise ValueError(f"array {number} has dtype {text!r}, which NumPy has not on this machine")


# ---- the zip ----
# Written and read here rather than by zipfile: that one puts a header after the other on the way to
# the disk, takes checksum and writing in turns, and when reading believes what it is told.

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")

_MAX_32 = 0xFFFFFFFF  # a field of this value says that a field of 64 bits has it
_MAX_16 = 0xFFFF
_DATE = 0x21  # 1980-01-01: the same tree makes the same file
_CRC_AT = 14  # in a local header


class _Entry(NamedTuple):
    """Where a member is in the zip."""

    name: str
    crc: int
    size: int
    offset: int

    @property
    def end(self) -> int:
        return self.offset + len(self.local()) + self.size

    def local(self) -> bytes:
        """Return the header before the member."""
        is_large = self.size >= _MAX_32
        extra = struct.pack("<2H2Q", 1, 16, self.size, self.size) if is_large else b""
        size = _MAX_32 if is_large else self.size
        return (
            _LOCAL.pack(
                b"PK\3\4", 45 if is_large else 20, 0, 0, 0, _DATE,
                self.crc, size, size, len(self.name), len(extra),
            )
            + self.name.encode("ascii")
            + extra
        )  # fmt: skip

    def central(self) -> bytes:
        """Return the entry in the zip's directory."""
        is_large, is_far = self.size >= _MAX_32, self.offset >= _MAX_32
        numbers = [self.size, self.size] * is_large + [self.offset] * is_far
        extra = b""
        if numbers:
            extra = struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers), *numbers)
        size, version = (_MAX_32 if is_large else self.size), (45 if numbers else 20)
        return (
            _CENTRAL.pack(
                b"PK\1\2", version, version, 0, 0, 0, _DATE, self.crc, size, size,
                len(self.name), len(extra), 0, 0, 0, 0, _MAX_32 if is_far else self.offset,
            )
            + self.name.encode("ascii")
            + extra
        )  # fmt: skip


def _directory(entries: list[_Entry]) -> bytes:
    """Return what follows the members, to the end of the file."""
    directory = b"".join(each.central() for each in entries)
    count, size, offset = len(entries), len(directory), entries[-1].end
    end = b""
    if count >= _MAX_16 or max(size, offset) >= _MAX_32:
        end = _END_64.pack(
            b"PK\6\6", _END_64.size - 12, 45, 45, 0, 0, count, count, size, offset
        ) + _LOCATOR.pack(b"PK\6\7", 0, offset + size, 1)
    count, size, offset = min(count, _MAX_16), min(size, _MAX_32), min(offset, _MAX_32)
    return directory + end + _END.pack(b"PK\5\6", 0, 0, count, count, size, offset, 0)


# ---- writing ----


class _Output:
    """A file that is written in blocks, by a thread where there are several.

    A block holds a copy: what is summed up and what is written are the same bytes, even if somebody
    changes an array meanwhile, and the checksum finds them in the cache.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._block = memoryview(bytearray(_BLOCK))
        self._filled = 0
        self._offset = 0
        self._has_threads = True
        self._pool: ThreadPoolExecutor | None = None
        self._writing: deque[tuple[Future[None], memoryview]] = deque()
        self._checksums: list[tuple[int, int]] = []

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if error[0] is None:
                self._finish()
        finally:
            if self._pool is not None:
                self._pool.shutdown()

    @property
    def position(self) -> int:
        return self._offset + self._filled

    def write(self, data: bytes | memoryview, crc: int = 0) -> int:
        """Append bytes; return their checksum, going on from that of what came before."""
        data = memoryview(data)
        while data:
            n = min(len(data), _BLOCK - self._filled)
            part = self._block[self._filled : self._filled + n]
            part[:] = data[:n]
            self._filled += n
            if self._filled == _BLOCK:
                self._pass_on()
            crc = zlib.crc32(part, crc)
            data = data[n:]
        return crc

    def put_checksum(self, offset: int, crc: int) -> None:
        """Fill in, at the end, a checksum that was not known when its header was written."""
        self._checksums.append((offset, crc))

    def _pass_on(self) -> None:
        """Have the block written, and go on with another one."""
        block, offset = self._block, self._offset
        self._filled = 0
        self._offset += _BLOCK
        future = self._submitted(block, offset)
        if future is None:
            self._wait()
            self._write_block(block, offset)
            return
        self._writing.append((future, block))
        if self._writing[0][0].done() or len(self._writing) > _BLOCKS:
            future, self._block = self._writing.popleft()
            future.result()
        else:
            self._block = memoryview(bytearray(_BLOCK))

    def _submitted(self, block: memoryview, offset: int) -> Future[None] | None:
        """Hand a block to the thread; None if there can't be one."""
        if not self._has_threads:
            return None
        self._pool = self._pool or ThreadPoolExecutor(1, "fastopt.save")
        try:
            return self._pool.submit(self._write_block, block, offset)
        except RuntimeError:  # there are too many, or the interpreter is about to end
            self._has_threads = False
            return None

    def _write_block(self, block: memoryview, offset: int) -> None:
        self._file.write(block)
        if hasattr(os, "posix_fadvise"):  # have the disk begin at once, not with the sync
            with suppress(OSError):
                os.posix_fadvise(self._file.fileno(), offset, len(block), os.POSIX_FADV_DONTNEED)

    def _wait(self) -> None:
        while self._writing:
            self._writing.popleft()[0].result()

    def _finish(self) -> None:
        self._wait()
        self._file.write(self._block[: self._filled])
        for offset, crc in self._checksums:
            self._file.seek(offset)
            self._file.write(struct.pack("<I", crc))


def _write_members(output: _Output, content: Any, arrays: list[NDArray[Any]]) -> None:
    members, entries = [], []
    for number, array in enumerate(arrays):
        member = _Member.of(array)
        entry = _write_member(output, f"{number}.npy", member, _bytes_of(array, member.order))
        members.append(member._replace(crc=entry.crc))
        entries.append(entry)
    text = _manifest(content, members)
    if len(text) >= _MAX_32 - 128:
        raise ValueError("the tree can't be saved: without its arrays it has 4 GB")
    entries.append(_write_member(output, _MANIFEST, _manifest_member(len(text)), memoryview(text)))
    output.write(_directory(entries))


def _manifest_member(size: int) -> _Member:
    return _Member("|u1", (size,), "C", 0)


def _bytes_of(array: NDArray[Any], order: str) -> memoryview:
    """Return the bytes in the order in which they are saved: the array's own where they lie so."""
    contiguous = np.ascontiguousarray(array.T if order == "F" else array)
    return contiguous.reshape(-1).view(np.uint8).data


def _write_member(output: _Output, name: str, member: _Member, data: memoryview) -> _Entry:
    header = member.header()
    entry = _Entry(name, 0, len(header) + len(data), output.position)
    if entry.size <= _SMALL:
        whole = header + bytes(data)
        entry = entry._replace(crc=zlib.crc32(whole))
        output.write(entry.local() + whole)
        return entry
    output.write(entry.local())
    entry = entry._replace(crc=output.write(data, output.write(header)))
    output.put_checksum(entry.offset + _CRC_AT, entry.crc)
    return entry


# ---- reading ----


def _read_tree(file: BinaryIO) -> Any:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    manifest = _find_manifest(file, status.st_size)
    data = _exactly(file, manifest.offset, manifest.end - manifest.offset)
    content, members, entries = _checked_layout(manifest, data)
    if _exactly(file, manifest.end, status.st_size - manifest.end) != _directory(entries):
        raise ValueError("its directory doesn't fit its manifest")

    def read_member(number: int) -> NDArray[Any]:
        return _read_array(file, number, members[number], entries[number])

    decoder = _Decoder(read_member, len(members))
    tree = decoder.decoded(content)
    decoder.finish()
    return tree


_FOREIGN = "it is no file that fastopt.save wrote, or not the whole of it"


def _find_manifest(file: BinaryIO, size: int) -> _Entry:
    """Return the entry of the manifest, the directory's last, as far as the file's end tells."""
    tail = _exactly(file, max(0, size - _LONGEST_END), min(size, _LONGEST_END))
    at = tail.rfind(_MANIFEST.encode("ascii"))
    start = at - _CENTRAL.size
    if start < 0:
        raise ValueError(_FOREIGN)
    fields = _CENTRAL.unpack_from(tail, start)
    crc, n, offset = fields[7], fields[8], fields[16]
    if offset == _MAX_32 and len(tail) >= at + len(_MANIFEST) + 12:
        (offset,) = struct.unpack_from("<Q", tail, at + len(_MANIFEST) + 4)
    entry = _Entry(_MANIFEST, crc, n, offset)
    central = entry.central()
    if tail[start : start + len(central)] != central or entry.end > size:
        raise ValueError(_FOREIGN)
    return entry


# The manifest's entry and all that may follow it
_LONGEST_END = _CENTRAL.size + len(_MANIFEST) + 12 + _END_64.size + _LOCATOR.size + _END.size


def _checked_layout(manifest: _Entry, data: bytes) -> tuple[Any, list[_Member], list[_Entry]]:
    """Return what the manifest says, and where the members have to be for it."""
    head = manifest.local()
    text = _without_header(data[len(head) :])
    if data[: len(head)] != head or zlib.crc32(data[len(head) :]) != manifest.crc:
        raise ValueError("its manifest is damaged")
    content, members = _read_manifest(text)
    entries: list[_Entry] = []
    offset = 0
    for number, member in enumerate(members):
        size = len(member.header()) + member.n_bytes
        entry = _Entry(f"{number}.npy", member.crc, size, offset)
        if size > manifest.offset or entry.end > manifest.offset:
            raise ValueError(f"array {number} would need more bytes than there are")
        entries.append(entry)
        offset = entry.end
    if offset != manifest.offset:
        raise ValueError("it has more bytes than its manifest tells of")
    return content, members, [*entries, manifest]


def _without_header(data: bytes) -> bytes:
    """Return what is behind the manifest's own header."""
    for n in range(64, 129, 64):
        header = _manifest_member(len(data) - n).header()
        if len(header) == n and data[:n] == header:
            return data[n:]
    raise ValueError(_FOREIGN)


def _read_array(file: BinaryIO, number: int, member: _Member, entry: _Entry) -> NDArray[Any]:
    head = entry.local() + member.header()
    if _exactly(file, entry.offset, len(head)) != head:
        raise ValueError(f"the header of array {number} doesn't fit the manifest")
    array = np.empty(member.shape, member.dtype, "F" if member.order == "F" else "C")
    crc = zlib.crc32(member.header())
    for block in _blocks(array.reshape(-1, order="A").view(np.uint8).data):
        if file.readinto(block) != len(block):  # type: ignore[attr-defined]
            raise ValueError("it became shorter while it was read")
        crc = zlib.crc32(block, crc)
    if crc != member.crc or not _is_sound(array):
        raise ValueError(f"array {number} is damaged")
    return array


def _blocks(data: memoryview) -> Iterator[memoryview]:
    for i in range(0, len(data), _BLOCK):
        yield data[i : i + _BLOCK]


def _exactly(file: BinaryIO, offset: int, n: int) -> bytes:
    file.seek(offset)
    data = file.read(n)
    if len(data) != n:
        raise ValueError("it became shorter while it was read")
    return data
