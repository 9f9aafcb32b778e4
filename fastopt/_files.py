"""Writing a file whole or not at all; what is written is no concern of this module."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write to; what stands there at the end of the block moves to `path`.

    Until then nothing changes at `path`, and after an exception, Ctrl-C included, nothing is left.
    """
    target = Path(path).resolve()  # through a symbolic link to the file behind it
    # A folder of its own, not a file by tempfile: that would keep its permissions, owner only
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fastopt-") as folder:
        part = Path(folder) / target.name
        yield part
        part.replace(target)
