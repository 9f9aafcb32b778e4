"""Files that appear whole or not at all, whatever is written and whatever goes wrong."""

import errno
import gc
import os
import stat
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from fastopt import _archive, _files
from fastopt._files import replacing


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    return path


def needs_links(folder):
    try:
        (folder / "link").symlink_to("target")
    except OSError:
        pytest.skip("no symbolic links here")
    return folder / "link"


def replace(path, meanwhile=lambda: None):
    with replacing(path) as file:
        file.write(b"new")
        meanwhile()


class TestReplacing:
    @pytest.mark.skipif(os.name != "posix", reason="permissions by umask")
    def test_gives_a_file_the_usual_permissions(self, tmp_path):
        (tmp_path / "plain").write_text("x")
        with replacing(tmp_path / "replaced") as file:
            file.write(b"x")
        modes = {path.stat().st_mode for path in tmp_path.iterdir()}
        assert len(modes) == 1

    @pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
    def test_keeps_the_permissions_of_what_it_replaces(self, mode, tmp_path):
        path = tmp_path / "a"
        path.write_text("old")
        path.chmod(mode)
        with replacing(path) as file:
            file.write(b"new")
            assert (tmp_path / "a.tmp").stat().st_mode & 0o077 == 0
        assert path.read_text() == "new"
        assert path.stat().st_mode & 0o777 == mode

    def test_other_hard_links_keep_the_old_content(self, tmp_path):
        (tmp_path / "a").write_text("old")
        (tmp_path / "b").hardlink_to(tmp_path / "a")
        with replacing(tmp_path / "a") as file:
            file.write(b"new")
        assert (tmp_path / "a").read_text() == "new"
        assert (tmp_path / "b").read_text() == "old"

    def test_writes_through_a_link(self, tmp_path):
        (tmp_path / "target").write_text("old")
        link = needs_links(tmp_path)
        with replacing(link) as file:
            file.write(b"new")
        assert link.is_symlink()
        assert (tmp_path / "target").read_text() == "new"
        assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "target"]

    def test_writes_through_a_link_to_what_is_not_there_yet(self, tmp_path):
        link = needs_links(tmp_path)
        with replacing(link) as file:
            file.write(b"new")
        assert (tmp_path / "target").read_text() == "new"

    def test_takes_the_place_of_a_temporary_that_was_left(self, path):
        left = path.with_name("a.tmp")
        left.write_bytes(b"half of something")
        with replacing(path) as file:
            file.write(b"new")
        assert path.read_bytes() == b"new"
        assert not left.exists()

    def test_never_writes_through_a_link_that_stands_for_the_temporary(self, path):
        victim = path.with_name("target")
        victim.write_bytes(b"victim")
        needs_links(path.parent).rename(path.with_name("a.tmp"))
        with replacing(path) as file:
            file.write(b"new")
        assert victim.read_bytes() == b"victim"
        assert path.read_bytes() == b"new"
        assert not path.is_symlink()

    @pytest.mark.skipif(os.name != "posix", reason="elsewhere a file that is open stays")
    @pytest.mark.parametrize("in_time", [False, True])
    def test_never_renames_the_temporary_of_another_process(self, in_time, path, monkeypatch):
        """Two save at once: who comes first is told so, and the other's file is left alone."""
        part = path.with_name("a.tmp")

        def interfere():
            part.unlink()
            part.write_bytes(b"half of another's")

        if in_time:
            monkeypatch.setattr(_files, "_sync", lambda descriptor: interfere())
        with pytest.raises(OSError, match="another process has replaced") as caught:
            replace(path, lambda: None if in_time else interfere())
        assert caught.value.errno == errno.EBUSY
        assert path.read_bytes() == b"old"
        assert part.read_bytes() == b"half of another's"

    def test_a_temporary_that_another_process_has_just_made(self, path, monkeypatch):
        part = path.with_name("a.tmp")
        part.write_bytes(b"another's")
        monkeypatch.setattr(Path, "unlink", lambda self: None)  # it came after that
        with pytest.raises(OSError, match="another process is writing"), replacing(path):
            pass
        monkeypatch.undo()
        assert part.read_bytes() == b"another's"
        assert path.read_bytes() == b"old"

    def test_a_folder_where_the_file_or_its_temporary_would_be(self, path):
        with pytest.raises(OSError, match=path.parent.name), replacing(path.parent):
            pass
        path.with_name("a.tmp").mkdir()
        with pytest.raises(OSError, match=r"a\.tmp"), replacing(path):
            pass
        assert path.read_bytes() == b"old"

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
    def test_what_is_no_regular_file_is_not_replaced(self, tmp_path):
        os.mkfifo(tmp_path / "a")
        with pytest.raises(OSError, match="no regular file"), replacing(tmp_path / "a"):
            pass
        assert stat.S_ISFIFO((tmp_path / "a").stat().st_mode)

    def test_missing_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"there is no such folder.*none"):
            replace(tmp_path / "none" / "a")


class TestErrors:
    """Nothing is left of a file that could not be written, and the old one is untouched."""

    def check(self, path, content=b"old"):
        gc.collect()
        assert path.read_bytes() == content
        assert [*path.parent.iterdir()] == [path]
        for thread in threading.enumerate():
            if thread.name.startswith("fastopt.save"):  # Ctrl-C came where it would be waited for
                thread.join(30)
                assert not thread.is_alive()

    @pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, ValueError, FileExistsError])
    def test_in_the_block(self, error, path):
        def fail():
            raise error

        with pytest.raises(error):
            replace(path, fail)
        self.check(path)

    @pytest.mark.parametrize(
        ("owner", "name", "error"),
        [
            *((owner, name, OSError(errno.EIO, "broken"))
              for owner, name in [(os, "fsync"), (_files, "_chmod"), (Path, "replace")]),
            *((owner, name, KeyboardInterrupt())
              for owner, name in [(os, "fsync"), (Path, "replace"), (_files, "_is_at"),
                                  (os, "open")]),
        ],
        ids=lambda case: case if isinstance(case, str) else "",
    )  # fmt: skip
    def test_on_the_way_to_the_disk(self, owner, name, error, path, monkeypatch):
        def fail(*_, **__):
            monkeypatch.undo()
            raise error

        monkeypatch.setattr(owner, name, fail)
        with pytest.raises(type(error)), replacing(path) as file:
            file.write(b"new")
        self.check(path)

    @pytest.mark.skipif(os.name != "posix", reason="folders can't be synced elsewhere")
    def test_of_the_folder_comes_too_late_to_matter(self, path, monkeypatch):
        monkeypatch.setattr(os, "fsync", fails_for_folders(os.fsync))
        with replacing(path) as file:
            file.write(b"new")
        self.check(path, b"new")

    @pytest.mark.skipif(os.name != "posix", reason="fcntl is POSIX's")
    def test_a_disk_that_syncs_its_cache_by_a_command_of_its_own(self, path, monkeypatch):
        asked = []
        fcntl = type("fcntl", (), {"F_FULLFSYNC": 51, "fcntl": lambda *args: asked.append(args)})
        monkeypatch.setattr(_files, "fcntl", fcntl)
        with replacing(path) as file:
            file.write(b"new")
        assert [args[1] for args in asked] == [51]

    @pytest.mark.parametrize("tree", [1, [np.zeros(5), np.zeros(3 * _archive._BLOCK // 8)]])
    def test_ctrl_c_at_any_line(self, tree, path):
        """As it comes between any two lines of the two modules; afterwards all is old, or new."""
        _archive.write(path.with_name("new"), tree)
        new = path.with_name("new").read_bytes()
        path.with_name("new").unlink()
        n, finished = 0, False
        while not finished:
            n += 1 if n < 60 else 7
            path.write_bytes(b"old")
            finished = interrupted_at(n, lambda: _archive.write(path, tree))
            is_new = path.read_bytes() == new
            self.check(path, new if is_new else b"old")
            assert is_new or not finished
        assert n > 100


def fails_for_folders(fsync):
    def sync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "broken")
        fsync(descriptor)

    return sync


def interrupted_at(n, work):
    """Do it with Ctrl-C at the n-th line of the two modules; return whether it was done before."""
    files = (_files.__file__, _archive.__file__)
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if frame.f_code.co_filename not in files:
            return None
        count += event == "line"
        if count == n and event == "line":
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return False
    finally:
        sys.settrace(before)
    return True
