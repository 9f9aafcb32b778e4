"""Files that appear whole or not at all, whatever is written and whatever goes wrong."""

import os

import pytest

from fastopt._files import replacing


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
        link = tmp_path / "link"
        try:
            link.symlink_to("target")
        except OSError:
            pytest.skip("no symbolic links here")
        with replacing(link) as file:
            file.write(b"new")
        assert link.is_symlink()
        assert (tmp_path / "target").read_text() == "new"
