"""The idx format: one file, gzipped or not, to one uint8 array, with everything in it checked.

What the files of a data set are called and what they mean is not known here.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_GZIP_MAGIC = b"\x1f\x8b"
_UINT8 = 0x08  # the third byte of an idx file is its type


def read_idx(path: Path, item_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read the idx file `path`, an array of shape (N, *item_shape) with N > 0; it is read-only.

    Raises
    ------
    ValueError
        When the content is anything but that; the text says what was found.
    """
    content = _decompressed(path)
    shape = _header_shape(path, content, ndim=1 + len(item_shape))
    if shape[1:] != item_shape or shape[0] == 0:
        found, wanted = _times(shape), _times(("N", *item_shape))
        raise unusable(path, f"it holds {found} values, not {wanted} with N > 0")
    start = _header_size(len(shape))
    size = start + math.prod(shape)
    if len(content) != size:
        raise unusable(
            path, f"it holds {len(content):,} bytes, not the {size:,} that its header announces"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def unusable(path: Path, problem: str) -> ValueError:
    """Build the error for a file that is there but is not what it should be."""
    return ValueError(f"{path} can't be used: {problem}; replace it with an undamaged copy")


def _decompressed(path: Path) -> bytes:
    content = path.read_bytes()
    # Told by content, not by name: browsers unpack a download and leave it its .gz, or the reverse.
    # An idx file begins with two zero bytes, so there is no doubt.
    if not content.startswith(_GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise unusable(path, f"its gzip data are damaged ({error})") from error


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
