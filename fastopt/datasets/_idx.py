"""The idx format: one file, gzipped or not, to one uint8 array, with everything in it checked.

What the files of a data set are called and what they mean is not known here.
"""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

_GZIP_MAGIC = b"\x1f\x8b"
_UINT8 = 0x08  # the third byte of an idx file is its type
_MOST_DEFLATED = 1032  # bytes that one byte of deflate data can stand for: 258 in two bits
_CHUNK = 1 << 20


def read_idx(path: Path, item_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read the idx file `path`, an array of shape (N, *item_shape) with N > 0; it is read-only.

    No more is decompressed, and no more memory taken, than the header announces.

    Raises
    ------
    ValueError
        When the content is anything but that; the text says what was found.
    """
    with path.open("rb") as file:
        # Recognised by content, not by name: browsers unpack a download and leave it its .gz, or
        # the reverse. An idx file begins with two zero bytes, so there is no doubt.
        is_gzip = file.read(2) == _GZIP_MAGIC
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if not is_gzip:
            return _read(path, file, item_shape, least=size, most=size)
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                return _read(path, stream, item_shape, least=0, most=size * _MOST_DEFLATED)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise unusable(path, f"its gzip data are damaged ({error})") from error


def _read(
    path: Path,
    stream: IO[bytes] | gzip.GzipFile,
    item_shape: tuple[int, ...],
    *,
    least: int,
    most: int,
) -> NDArray[np.uint8]:
    """Read the content, of which is known between how many bytes it holds."""
    ndim = 1 + len(item_shape)
    start = _header_size(ndim)
    shape = _header_shape(path, stream.read(start), ndim)
    if shape[1:] != item_shape or shape[0] == 0:
        found, wanted = _times(shape), _times(("N", *item_shape))
        raise unusable(path, f"it holds {found} values, not {wanted} with N > 0")
    size = start + math.prod(shape)
    announced = f"the {size:,} that its header announces"
    if not least <= size <= most:
        holds = f"{most:,}" if least == most else f"at most {most:,}"
        raise unusable(path, f"it holds {holds} bytes, not {announced}")
    content = np.empty(shape, np.uint8)
    filled = _fill(content.reshape(-1).data, stream)
    if start + filled < size:
        raise unusable(path, f"it holds {start + filled:,} bytes, not {announced}")
    if stream.read(1):  # at the end, this has the checksum of gzip verified
        raise unusable(path, f"it holds more bytes than {announced}")
    content.flags.writeable = False
    return content


def _fill(memory: memoryview, stream: IO[bytes] | gzip.GzipFile) -> int:
    """Read into memory until it is full or the stream ends; return the number of bytes."""
    filled = 0
    while chunk := stream.read(min(_CHUNK, len(memory) - filled)):
        memory[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    return filled


def unusable(path: Path, problem: str) -> ValueError:
    """Build the error for a file that is there but is not what it should be."""
    return ValueError(f"{path} can't be used: {problem}; replace it with an undamaged copy")


def _header_shape(path: Path, content: bytes, ndim: int) -> tuple[int, ...]:
    magic = bytes((0, 0, _UINT8, ndim))
    if content[:4] != magic:
        raise unusable(
            path,
            f"it begins with the bytes {content[:4].hex(' ') or '(none)'}, "
            f"not with {magic.hex(' ')} (idx, uint8, {ndim} dimensions)",
        )
    size = _header_size(ndim)
    if len(content) < size:
        raise unusable(path, f"it ends after {len(content)} bytes, within its header of {size}")
    return struct.unpack_from(f">{ndim}I", content, offset=4)


def _header_size(ndim: int) -> int:
    return 4 + 4 * ndim


def _times(shape: tuple[object, ...]) -> str:
    return " × ".join(map(str, shape))
