"""The whole MNIST set from the network: where it is kept, where it comes from, its checksums.

Nothing here looks into the files beyond their checksums.
"""

import hashlib
import os
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError

from fastopt._progress import byte_bar

# The first author's own site no longer serves the files.
ADDRESSES = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
SHA256 = {
    "train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    ),
}
TIMEOUT = 20.0  # seconds without a sign of life, when connecting and between two reads
_CHUNK = 1 << 16
_BY_HAND = (
    "download the four files by hand and pass the folder that holds them: load_mnist(source=FOLDER)"
)


def fetch_mnist() -> Path:
    """Return the cache folder once every file of `SHA256` is in it with the right checksum.

    Raises
    ------
    ConnectionError
        When no address gave a file; the text lists them with their reasons.
    OSError
        When there is no cache folder that can be written to.
    """
    folder = cache_folder()
    wanted = [name for name in SHA256 if not _is_intact(folder / name)]
    if wanted:
        _fetch_into(folder, wanted)
    return folder


def cache_folder() -> Path:
    """Return where the files are kept: $FASTOPT_CACHE/mnist, or the platform's user cache."""
    if named := os.environ.get("FASTOPT_CACHE"):
        return Path(named) / "mnist"
    try:
        return _user_cache() / "fastopt" / "mnist"
    except RuntimeError as error:  # as in a container whose user has no home
        raise OSError(f"no cache folder ({error}); set FASTOPT_CACHE, or {_BY_HAND}") from error


def _user_cache() -> Path:
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local) if local else Path.home() / "AppData" / "Local"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return Path(xdg) if Path(xdg).is_absolute() else Path.home() / ".cache"


def _is_intact(path: Path) -> bool:
    return path.is_file() and _sha256(path.read_bytes()) == SHA256[path.name]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _fetch_into(folder: Path, names: list[str]) -> None:
    # A folder of one's own: unique under concurrent downloads, gone on any exception, and the
    # file made in it has the usual permissions, which a file made by tempfile has not.
    with _making(folder), _temporary(folder) as temporary:
        for name in names:
            content = _download(name)
            with _writing_to(folder):
                part = Path(temporary) / name
                part.write_bytes(content)
                part.replace(folder / name)


@contextmanager
def _making(folder: Path) -> Iterator[None]:
    """Make a folder and its parents; those of them that stay empty are gone after the block."""
    with _writing_to(folder):
        new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with _writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for path in new:
            with suppress(OSError):  # it holds files, as it should
                path.rmdir()


def _temporary(folder: Path) -> tempfile.TemporaryDirectory[str]:
    with _writing_to(folder):
        return tempfile.TemporaryDirectory(prefix="download-", dir=folder)


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            f"can't write to the cache folder {folder} ({error}); "
            f"set FASTOPT_CACHE to a folder that can be written to, or {_BY_HAND}"
        ) from error


def _download(name: str) -> bytes:
    """Return the content of the file `name` from the first address that has it undamaged."""
    failures = []
    for address in ADDRESSES:
        try:
            content = _receive(address + name)
        except (OSError, HTTPException, ValueError) as error:  # ValueError: a redirect to no URL
            failures.append(f"{address}{name}: {_reason(error)}")
            continue
        if (found := _sha256(content)) == SHA256[name]:
            return content
        failures.append(f"{address}{name}: its SHA-256 is {found}, not {SHA256[name]}")
    raise ConnectionError(
        "\n  ".join([f"{name} can't be downloaded:", *failures]) + f"\nTry again, or {_BY_HAND}"
    )


def _receive(url: str) -> bytes:
    content = bytearray()
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        total: int | None = response.length
        with byte_bar(url, total) as advance:
            while chunk := response.read(_CHUNK):
                content += chunk
                advance(len(chunk))
    if total is not None and len(content) < total:
        raise ConnectionError(f"connection cut after {len(content):,} of {total:,} bytes")
    return bytes(content)


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        error.close()  # it is also the response, with an open socket
        return f"HTTP {error.code} {error.reason}"
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer for {TIMEOUT:g} s"
    return str(cause) or type(cause).__name__
