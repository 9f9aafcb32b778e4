"""load_mnist: what it returns, what it refuses, and its download against a server on this machine.

Nothing here reaches the network; what needs the whole set is skipped where the set is absent.
"""

import doctest
import gzip
import hashlib
import os
import socketserver
import struct
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fastopt.datasets
from fastopt.datasets import _download, _mnist, load_mnist

WHOLE = Path(__file__).resolve().parents[2] / "shared" / "mnist"
needs_whole = pytest.mark.skipif(not WHOLE.is_dir(), reason="the whole MNIST set is not here")

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
NAMES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)


def idx(array):
    """Encode a uint8 array as an idx file."""
    array = np.asarray(array, np.uint8)
    return (
        bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + bytes(array)
    )


@pytest.fixture(scope="module")
def arrays():
    """Return a small set, by file name."""
    rng = np.random.default_rng(0)
    return {
        TRAIN_IMAGES: rng.integers(0, 256, (20, 28, 28), np.uint8),
        TRAIN_LABELS: np.arange(20, dtype=np.uint8) % 10,
        TEST_IMAGES: rng.integers(0, 256, (5, 28, 28), np.uint8),
        TEST_LABELS: np.array([9, 0, 3, 3, 1], np.uint8),
    }


@pytest.fixture
def folder(tmp_path, arrays):
    """Return a folder with that set, as plain files."""
    for name, array in arrays.items():
        (tmp_path / name).write_bytes(idx(array))
    return tmp_path


def compress(folder, *names):
    for name in names:
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()


def raw(source):
    """Load `source` as stored: uint8 images (N, 28, 28) and digits, by file name."""
    (x, t), (u, s) = load_mnist(normalize=False, flatten=False, source=source)
    return dict(zip(NAMES, (x[:, 0], t, u[:, 0], s), strict=True))


def assert_same_set(found, wanted):
    for name in NAMES:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


# What is returned


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("one_hot", [True, False])
def test_options_decide_shape_and_dtype(normalize, flatten, one_hot):
    train, test = load_mnist(normalize, flatten, one_hot)
    for (x, t), size in ((train, 6000), (test, 1000)):
        assert x.shape == ((size, 784) if flatten else (size, 1, 28, 28))
        assert x.dtype == (np.float32 if normalize else np.uint8)
        assert (x.min(), x.max()) == (0, 1 if normalize else 255)
        assert t.shape == ((size, 10) if one_hot else (size,))
        assert t.dtype == (np.float32 if one_hot else np.uint8)


def test_options_keep_the_content(folder, arrays):
    (x, t), _ = load_mnist(one_hot_label=True, source=folder)
    wanted = arrays[TRAIN_IMAGES].reshape(20, 784).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(x, wanted)
    np.testing.assert_array_equal(t, np.eye(10, dtype=np.float32)[arrays[TRAIN_LABELS]])


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("from_folder", [True, False])
def test_arrays_are_the_callers_own(folder, normalize, from_folder):
    source = folder if from_folder else "sample"
    loaded, again = (load_mnist(normalize, source=source) for _ in range(2))
    for array, other in zip(sum(loaded, ()), sum(again, ()), strict=True):
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.flags.aligned
        assert not np.shares_memory(array, other)


def test_options_after_labels_are_by_name_only():
    with pytest.raises(TypeError):
        load_mnist(True, True, False, "sample")


@pytest.mark.parametrize("name", ["normalize", "flatten", "one_hot_label"])
@pytest.mark.parametrize("flag", ["full", Path("folder"), 1, None])
def test_flags_that_are_no_bools_are_refused(name, flag):
    with pytest.raises(TypeError, match=rf"^{name}=.* not a bool; .* source="):
        load_mnist(**{name: flag})


def test_source_without_its_name_is_refused():
    with pytest.raises(TypeError, match=r"normalize='full' is a str, not a bool"):
        load_mnist("full")


def test_flags_may_be_of_numpy():
    (x, _), _ = load_mnist(np.False_, np.True_, np.bool_(False))
    assert x.dtype == np.uint8


def test_docstring_example():
    example = doctest.DocTestFinder().find(load_mnist, globs={})[0]
    assert doctest.DocTestRunner().run(example).failed == 0


# The sample


def test_sample_looks_like_mnist():
    _, t_train, _, t_test = raw("sample").values()
    for t in (t_train, t_test):
        counts = np.bincount(t, minlength=10) / len(t)
        assert len(counts) == 10
        assert counts.min() > 0.07


def test_sample_carries_its_licence():
    with np.load(_mnist._SAMPLE, allow_pickle=False) as sample:
        attribution = str(sample["attribution"][()])
    licence = _mnist._SAMPLE.with_name("LICENSE-MNIST.md").read_text(encoding="utf-8")
    for text in (attribution, licence):
        for part in ("LeCun", "Cortes", "Burges", "creativecommons.org/licenses/by-sa/3.0/"):
            assert part in text
    assert _mnist._SAMPLE.stat().st_size < 2_000_000


@needs_whole
def test_sample_is_every_tenth_of_the_whole():
    tenths = {name: array[::10] for name, array in raw(WHOLE).items()}
    assert_same_set(raw("sample"), tenths)


@needs_whole
def test_whole_set_is_the_original():
    sums = {
        TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }
    loaded = raw(WHOLE)
    assert {n: hashlib.sha256(idx(a)).hexdigest() for n, a in loaded.items()} == sums


# A folder of files


@pytest.mark.parametrize("gzipped", [(), NAMES, (TRAIN_IMAGES, TEST_LABELS)])
def test_folder_plain_gzipped_or_mixed(folder, arrays, gzipped):
    compress(folder, *gzipped)
    assert_same_set(raw(folder), arrays)
    assert_same_set(raw(str(folder)), arrays)


def test_misnamed_compression_is_told_by_content(folder, arrays):
    (folder / TRAIN_IMAGES).rename(folder / f"{TRAIN_IMAGES}.gz")
    (folder / TEST_LABELS).write_bytes(gzip.compress(idx(arrays[TEST_LABELS])))
    assert_same_set(raw(folder), arrays)


def test_a_path_called_sample_is_a_folder(folder, arrays, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "sample").mkdir()
    for name in NAMES:
        (folder / name).rename(folder / "sample" / name)
    assert_same_set(raw(Path("sample")), arrays)
    assert len(raw("sample")[TRAIN_IMAGES]) == 6000


IMAGES, LABELS = np.zeros((20, 28, 28)), np.zeros(20)
DAMAGE = {
    "empty": (TRAIN_IMAGES, b"", r"begins with the bytes \(none\), not with 00 00 08 03"),
    "text": (TRAIN_LABELS, b"<html>", "begins with the bytes 3c 68 74 6d, not with 00 00 08 01"),
    "float type": (TRAIN_IMAGES, b"\0\0\x0d\3" + idx(IMAGES)[4:], "00 00 0d 03, not with 00 00 08"),
    "labels for images": (TRAIN_IMAGES, idx(LABELS), "00 00 08 01, not with 00 00 08 03 .* 3 dim"),
    "images for labels": (TEST_LABELS, idx(IMAGES), "00 00 08 03, not with 00 00 08 01 .* 1 dim"),
    "header cut": (TEST_IMAGES, idx(IMAGES)[:10], "ends after 10 bytes, within its header of 16"),
    "27 columns": (TEST_IMAGES, idx(IMAGES[..., 1:]), "20 × 28 × 27 values, not N × 28 × 28"),
    "no images": (TRAIN_IMAGES, idx(IMAGES[:0]), "0 × 28 × 28 values, not N × 28 × 28 with N > 0"),
    "cut": (TRAIN_IMAGES, idx(IMAGES)[:-1], "15,695 bytes, not the 15,696 that its header"),
    "too long": (TRAIN_LABELS, idx(LABELS) + b"\0", "29 bytes, not the 28 that its header"),
    "label 10": (TRAIN_LABELS, idx([*range(10), 10, *range(9)]), "its label 10 is 10, not a digit"),
    "gzip cut": (TRAIN_IMAGES, gzip.compress(idx(IMAGES))[:-9], "its gzip data are damaged"),
    "gzip header cut": (TRAIN_IMAGES, b"\x1f\x8b\x08", "its gzip data are damaged"),
    "gzip garbage": (TEST_LABELS, b"\x1f\x8b\x08" + bytes(range(99)), "its gzip data are damaged"),
    "gzip sum": (
        TRAIN_LABELS,
        gzip.compress(idx(LABELS))[:-8] + bytes(8),
        "its gzip data are damaged .*CRC",
    ),
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(("name", "content", "problem"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_file_is_refused(folder, suffix, name, content, problem):
    (folder / name).unlink()
    damaged = folder / f"{name}{suffix}"
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match=problem) as caught:
        load_mnist(source=folder)
    assert str(damaged) in str(caught.value)
    assert "replace it" in str(caught.value)


class CountingGzipFile(gzip.GzipFile):
    """Notes how many bytes have been decompressed."""

    total = 0

    def read(self, size=-1):
        content = super().read(size)
        type(self).total += len(content)
        return content


def test_a_gzip_file_is_not_read_beyond_what_its_header_announces(folder, arrays, monkeypatch):
    bomb = gzip.compress(idx(arrays[TRAIN_LABELS]) + bytes(64 << 20))
    assert len(bomb) < 1 << 17
    (folder / TRAIN_LABELS).write_bytes(bomb)
    monkeypatch.setattr(CountingGzipFile, "total", 0)
    monkeypatch.setattr(gzip, "GzipFile", CountingGzipFile)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="holds more bytes than the 28 that its header ann"):
            load_mnist(source=folder)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    # The images, the labels' header and values, and one byte more
    assert CountingGzipFile.total == 28 + 1


@pytest.mark.parametrize("gzipped", [False, True])
def test_a_header_that_announces_more_than_there_can_be_costs_nothing(folder, gzipped):
    announced = bytes((0, 0, 8, 3)) + struct.pack(">3I", 2**32 - 1, 28, 28) + bytes(50)
    content = gzip.compress(announced) if gzipped else announced
    (folder / TRAIN_IMAGES).write_bytes(content)
    holds = f"at most {1032 * len(content):,}" if gzipped else "66"
    with pytest.raises(ValueError, match=f"holds {holds} bytes, not the 3,367,254,359,296 that"):
        load_mnist(source=folder)


def test_several_gzip_members_are_one_file(folder, arrays):
    content = idx(arrays[TRAIN_IMAGES])
    (folder / TRAIN_IMAGES).write_bytes(
        gzip.compress(content[:1000]) + gzip.compress(content[1000:])
    )
    assert_same_set(raw(folder), arrays)


def test_another_number_of_labels_is_refused(folder, arrays):
    (folder / TRAIN_LABELS).write_bytes(idx(arrays[TRAIN_LABELS][:19]))
    with pytest.raises(ValueError, match=r"20 images but .* 19 labels; replace") as caught:
        load_mnist(source=folder)
    assert str(folder / TRAIN_IMAGES) in str(caught.value)
    assert str(folder / TRAIN_LABELS) in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"neither {name} nor {name}.gz") as caught:
        load_mnist(source=folder)
    assert str(folder) in str(caught.value)
    assert "put it there" in str(caught.value)


@pytest.mark.parametrize("source", ["fulll", "", "no/such/folder", Path("full"), __file__])
def test_no_folder_lists_the_choices(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"is no existing folder; source is 'sample', 'full'"
    ):
        load_mnist(source=source)


@pytest.mark.parametrize("source", [None, 3, b"sample", True, np.array(["sample", "full"])])
def test_source_of_another_type_lists_the_choices(source):
    with pytest.raises(TypeError, match=r"is a \w+; source is 'sample', 'full'"):
        load_mnist(source=source)


# The download


class Server(socketserver.ThreadingTCPServer):
    """Answers /NUMBER/FILE as `answers[NUMBER]` says; `requests` lists what was asked for."""

    allow_reuse_address = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.answers = [whole, whole]
        self.requests = []
        self.released = threading.Event()  # ends the answers that keep a client waiting

    @property
    def addresses(self):
        return tuple(f"http://127.0.0.1:{self.server_address[1]}/{i}/" for i in range(2))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        _, number, name = self.path.split("/")
        self.server.requests.append((int(number), name))
        self.server.answers[int(number)](self, self.server.files[name])

    def log_message(self, *args):
        pass


def head(handler, size):
    handler.send_response(200)
    if size is not None:
        handler.send_header("Content-Length", str(size))
    handler.end_headers()


def whole(handler, content):
    head(handler, len(content))
    handler.wfile.write(content)


def without_length(handler, content):
    head(handler, None)
    handler.wfile.write(content)


def damaged(handler, content):
    whole(handler, content[:-1] + b"?")


def missing(handler, content):
    handler.send_error(404)


def redirected_to_no_url(handler, content):
    handler.send_response(302)
    handler.send_header("Location", "http://[::1/")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def cut(handler, content):
    head(handler, len(content))
    handler.wfile.write(content[:10])


def hung_up(handler, content):
    pass


def stalled(handler, content):
    handler.server.released.wait(30)


def stalled_halfway(handler, content):
    cut(handler, content)
    stalled(handler, content)


@pytest.fixture
def server(arrays, monkeypatch):
    """Return a server that the download takes for the real addresses, with the small set."""
    files = {f"{name}.gz": gzip.compress(idx(array)) for name, array in arrays.items()}
    with Server(files) as server:
        monkeypatch.setattr(_download, "ADDRESSES", server.addresses)
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        monkeypatch.setattr(_download, "SHA256", sums)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return the folder that the files are to be kept in; it doesn't exist yet."""
    monkeypatch.setenv("FASTOPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mnist"


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_download_once(server, cache, arrays):
    assert_same_set(raw("full"), arrays)
    assert server.requests == [(0, f"{name}.gz") for name in NAMES]
    assert names_in(cache) == set(server.files)
    assert_same_set(raw("full"), arrays)
    assert len(server.requests) == 4


def test_download_without_a_length(server, cache, arrays):
    server.answers[0] = without_length
    assert_same_set(raw("full"), arrays)
    assert len(server.requests) == 4


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_downloaded_files_have_the_usual_permissions(server, cache):
    load_mnist(source="full")
    usual = cache / "usual"
    usual.touch()
    assert {path.stat().st_mode for path in cache.iterdir()} == {usual.stat().st_mode}


FAILURES = {
    damaged: r"its SHA-256 is [0-9a-f]{64}, not [0-9a-f]{64}",
    missing: "HTTP 404 Not Found",
    redirected_to_no_url: "Invalid IPv6 URL",
    cut: r"connection cut after 10 of [\d,]+ bytes",
    hung_up: "Remote end closed connection without response",
    stalled: "no answer for 0.4 s",
    stalled_halfway: "no answer for 0.4 s",
}
failures = pytest.mark.parametrize("failure", FAILURES, ids=lambda answer: answer.__name__)


@failures
def test_second_address_is_used_when_the_first_fails(server, cache, arrays, monkeypatch, failure):
    monkeypatch.setattr(_download, "TIMEOUT", 0.4)
    server.answers[0] = failure
    wanted, *others = server.files
    cache.mkdir(parents=True)
    for name in others:
        (cache / name).write_bytes(server.files[name])
    assert_same_set(raw("full"), arrays)
    assert server.requests == [(0, wanted), (1, wanted)]
    assert names_in(cache) == set(server.files)


@failures
def test_error_lists_every_address_with_its_reason(server, cache, monkeypatch, failure):
    monkeypatch.setattr(_download, "TIMEOUT", 0.4)
    server.answers = [failure, missing]
    name = f"{TRAIN_IMAGES}.gz"
    with pytest.raises(ConnectionError, match=FAILURES[failure]) as caught:
        load_mnist(source="full")
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{name} can't be downloaded:"
    assert lines[1].startswith(f"  {server.addresses[0]}{name}: ")
    assert lines[2] == f"  {server.addresses[1]}{name}: HTTP 404 Not Found"
    assert "source=FOLDER" in lines[3]
    assert not cache.parent.exists()


def test_error_when_nobody_listens(server, cache, monkeypatch):
    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as other:
        port = other.server_address[1]
    monkeypatch.setattr(_download, "ADDRESSES", (f"http://127.0.0.1:{port}/",))
    with pytest.raises(ConnectionError, match="refused"):
        load_mnist(source="full")
    assert not cache.parent.exists()


def test_failure_leaves_a_folder_that_was_there(server, cache):
    cache.parent.mkdir()
    server.answers = [missing, missing]
    with pytest.raises(ConnectionError):
        load_mnist(source="full")
    assert list(cache.parent.iterdir()) == []


def test_files_that_came_stay_when_a_later_one_fails(server, cache, arrays):
    last = f"{TEST_LABELS}.gz"
    content = server.files[last]
    server.files[last] = b"damaged"
    with pytest.raises(ConnectionError, match=last):
        load_mnist(source="full")
    assert names_in(cache) == set(server.files) - {last}
    server.files[last] = content
    server.requests.clear()
    assert_same_set(raw("full"), arrays)
    assert server.requests == [(0, last)]


def test_damaged_file_in_the_cache_is_downloaded_again(server, cache, arrays):
    load_mnist(source="full")
    server.requests.clear()
    name = f"{TEST_IMAGES}.gz"
    # Undamaged as gzip and idx: only the checksum tells.
    (cache / name).write_bytes(gzip.compress(idx(np.zeros((5, 28, 28)))))
    assert_same_set(raw("full"), arrays)
    assert server.requests == [(0, name)]
    assert (cache / name).read_bytes() == server.files[name]


def test_damaged_file_in_the_cache_is_never_used(server, cache):
    load_mnist(source="full")
    (cache / f"{TEST_IMAGES}.gz").write_bytes(gzip.compress(idx(np.zeros((5, 28, 28)))))
    server.answers = [missing, missing]
    with pytest.raises(ConnectionError, match=TEST_IMAGES):
        load_mnist(source="full")


def test_unchecked_file_in_the_cache_is_not_used(server, cache, arrays):
    cache.mkdir(parents=True)
    (cache / TEST_IMAGES).write_bytes(idx(np.zeros((5, 28, 28))))
    assert_same_set(raw("full"), arrays)


class InterruptedBar:
    """Stands in for tqdm's bar: Ctrl-C comes after the first bytes.

    A real signal could come while tqdm takes its lock, which tqdm then never gives back.
    """

    def __init__(self, **options):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def update(self, size):
        raise KeyboardInterrupt


def test_interrupt_while_receiving_leaves_nothing(server, cache, monkeypatch):
    stand_in = SimpleNamespace(tqdm=InterruptedBar)
    monkeypatch.setitem(sys.modules, "tqdm.auto", stand_in)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(_download, "_CHUNK", 10)
    server.answers[0] = stalled_halfway
    with pytest.raises(KeyboardInterrupt):
        load_mnist(source="full")
    assert not cache.parent.exists()
    assert server.requests == [(0, f"{TRAIN_IMAGES}.gz")]


def test_interrupt_while_storing_leaves_nothing(server, cache, monkeypatch):
    def interrupt(path, target):
        assert path.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_mnist(source="full")
    assert not cache.parent.exists()


def test_concurrent_downloads(server, cache, arrays):
    with ThreadPoolExecutor(4) as pool:
        for loaded in pool.map(raw, ["full"] * 4):
            assert_same_set(loaded, arrays)
    assert names_in(cache) == set(server.files)


def test_a_terminal_shows_a_progress_bar(server, cache, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    load_mnist(source="full")
    captured = capsys.readouterr()
    assert captured.out == ""
    for name in server.files:
        assert f"{name}: 100%" in captured.err


def test_without_a_standard_error_nothing_is_shown(server, cache, arrays, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert_same_set(raw("full"), arrays)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("is_terminal", [False, True])
def test_one_line_where_there_is_no_bar(server, cache, capsys, monkeypatch, is_terminal):
    if is_terminal:
        monkeypatch.setitem(sys.modules, "tqdm", None)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    load_mnist(source="full")
    captured = capsys.readouterr()
    assert captured.out == ""
    wanted = [f"downloading {server.addresses[0]}{name}" for name in server.files]
    assert captured.err.splitlines() == wanted


def test_cache_that_cannot_be_written_says_what_to_do(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FASTOPT_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"can't write to the cache folder .* set FASTOPT_CACHE"):
        load_mnist(source="full")
    assert server.requests == []


def test_full_disk_is_not_blamed_on_the_addresses(server, cache, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"can't write .*No space left on device") as caught:
        load_mnist(source="full")
    assert not isinstance(caught.value, ConnectionError)
    assert len(server.requests) == 1
    assert not cache.parent.exists()


@pytest.mark.parametrize(
    ("platform", "variables", "wanted"),
    [
        ("linux", {"FASTOPT_CACHE": "/x", "XDG_CACHE_HOME": "/y"}, "/x/mnist"),
        ("linux", {"XDG_CACHE_HOME": "/y"}, "/y/fastopt/mnist"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/.cache/fastopt/mnist"),
        ("linux", {"FASTOPT_CACHE": "", "XDG_CACHE_HOME": ""}, "/home/.cache/fastopt/mnist"),
        ("darwin", {"XDG_CACHE_HOME": "/y"}, "/home/Library/Caches/fastopt/mnist"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/fastopt/mnist"),
        ("win32", {}, "/home/AppData/Local/fastopt/mnist"),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="the paths are POSIX's")
def test_cache_folder(monkeypatch, platform, variables, wanted):
    for name in ("FASTOPT_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/home"))
    assert _download.cache_folder() == Path(wanted)


def test_no_home_says_what_to_do(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    for name in ("FASTOPT_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(OSError, match=r"no cache folder .* set FASTOPT_CACHE"):
        load_mnist(source="full")


def test_the_real_table_is_whole():
    assert list(_download.SHA256) == [f"{name}.gz" for name in NAMES]
    assert all(len(bytes.fromhex(value)) == 32 for value in _download.SHA256.values())
    assert all(a.startswith("https://") and a.endswith("/") for a in _download.ADDRESSES)


def test_loading_the_sample_needs_no_network_code():
    code = (
        "import sys, fastopt.datasets as d; d.load_mnist(); print('urllib.request' in sys.modules)"
    )
    root = Path(fastopt.datasets.__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "False"
