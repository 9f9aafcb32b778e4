"""Writing a file whole or not at all; what is written is no concern of this module."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["replacing"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write to; what stands there at the end of the block moves to `path`.

    Until then nothing changes at `path`, and after an exception, Ctrl-C included, nothing is left.
    A symbolic link is followed, and a file that is replaced keeps its permissions. Its other hard
    links keep the old content.
    """
    target = Path(path).resolve()
    # A folder of its own, closed to others; a new file in it has the usual permissions, which one
    # made by tempfile has not
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fastopt-") as folder:
        part = Path(folder) / target.name
        yield part
        with suppress(FileNotFoundError):  # there is no old file
            shutil.copymode(target, part)
        part.replace(target)
