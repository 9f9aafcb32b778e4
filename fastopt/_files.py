"""Writing a file whole or not at all; what is written is no concern of this module."""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["replacing"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a file to write to; at the end of the block, what is in it takes the place of `path`.

    It is NAME.tmp in the same folder, where one left by a killed process is removed first. Until
    the end nothing changes at `path`, and after an exception, Ctrl-C included, nothing is left. A
    symbolic link is followed, and a file that is replaced keeps its permissions. Its other hard
    links keep the old content. Before it is renamed the file is on the disk.
    """
    target = Path(os.path.realpath(path))
    old_mode = _mode(target)
    part = target.with_name(f"{target.name}.tmp")
    file = None
    try:
        # Nobody else may read what will take the place of a private file
        file = _create(part, 0o666 if old_mode is None else 0o600)
        yield file
        file.flush()
        if old_mode is not None:
            _chmod(file, part, old_mode)
        _sync(file.fileno())
        if not _is_at(file, part):
            raise OSError(errno.EBUSY, "another process has replaced the file", str(part))
        file.close()  # Windows renames no open file
        part.replace(target)
    except BaseException as error:
        # Ctrl-C may come when there is a file, and no name for it yet
        if file is not None or not isinstance(error, OSError):
            _discard(file, part)
        raise
    _sync_folder(target.parent)


def _create(part: Path, mode: int) -> BinaryIO:
    """Return a new file, open for writing; what stood there is removed, a link as a link."""
    with suppress(FileNotFoundError):
        part.unlink()
    try:
        return open(part, "xb", opener=functools.partial(os.open, mode=mode))
    except FileExistsError:
        raise OSError(errno.EBUSY, "another process is writing the file", str(part)) from None


def _discard(file: BinaryIO | None, part: Path) -> None:
    """Remove the file, unless another process's has taken its place."""
    is_ours = file is None or file.closed or _is_at(file, part)
    try:
        with suppress(OSError):  # of a full disk, once more
            if file is not None:
                file.close()
    finally:
        if is_ours:
            with suppress(OSError):
                part.unlink()


def _mode(target: Path) -> int | None:
    """Return the permissions of the file that stands there; None if there is none."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        if not target.parent.is_dir():
            missing = str(target.parent)
            raise FileNotFoundError(errno.ENOENT, "there is no such folder", missing) from None
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(target))
    return stat.S_IMODE(mode)


def _chmod(file: BinaryIO, part: Path, mode: int) -> None:
    """Set the permissions, where possible of the open file, whatever its name has become."""
    if hasattr(os, "fchmod"):
        os.fchmod(file.fileno(), mode)
    else:
        part.chmod(mode)


def _is_at(file: BinaryIO, part: Path) -> bool:
    """Tell whether the open file is what stands under the name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), part.lstat())
    except FileNotFoundError:
        return False


def _sync(descriptor: int) -> None:
    """Wait until the file is on the disk."""
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS, where fsync leaves it in the disk's cache
        with suppress(OSError):  # a disk that knows no such command
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    """Have the new name on the disk, too, where a folder can be synced.

    An error is none of the caller's: the file is there, and whole.
    """
    if os.name != "posix":
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
