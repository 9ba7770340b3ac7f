"""Folders whose content is believed are private: those of others, open ones and links are refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from climax_hpc.errors import UserError
from climax_hpc.utils.private_folders import CACHES, check_kernel_caches, private_folder


def test_a_new_folder_is_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        private_folder(tmp_path / "a" / "b", "key")
    finally:
        os.umask(before)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    private_folder(tmp_path / "a" / "b", "key")


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755, 0o500])
def test_folders_that_others_may_read_are_accepted(tmp_path: Path, mode: int) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(mode)
    private_folder(tmp_path / "a", "key")


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o702, 0o777, 0o1777, 0o2770, 0o707])
def test_folders_that_others_may_write_are_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(mode)
    with pytest.raises(UserError, match=rf"key: .*a can be written by others \(mode {mode:04o}; chmod 700"):
        private_folder(tmp_path / "a", "key")


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(
        UserError, match=r"key: .*a belongs to another user \(number \d+\), .*: choose a folder of your own"
    ):
        private_folder(tmp_path / "a", "key")


@pytest.mark.parametrize("target", ["there", "absent", "file"])
def test_a_link_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "there").mkdir(mode=0o700)
    (tmp_path / "file").touch()
    (tmp_path / "a").symlink_to(tmp_path / target)
    with pytest.raises(UserError, match=r"key: .*a is a link, "):
        private_folder(tmp_path / "a", "key")
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(("mode", "accepted"), [(0o777, False), (0o1777, True), (0o775, True), (0o722, False)])
@pytest.mark.parametrize("linked", [False, True])
def test_a_folder_in_an_open_one_is_refused(tmp_path: Path, mode: int, accepted: bool, linked: bool) -> None:
    """Who may write to the folder above can rename ours and make another, unless the sticky bit is set."""
    (tmp_path / "open" / "a" / "b").mkdir(parents=True)
    (tmp_path / "open").chmod(mode)
    (tmp_path / "link").symlink_to(tmp_path / "open")
    folder = tmp_path / ("link" if linked else "open") / "a" / "b"
    if accepted:
        check_kernel_caches({"TRITON_CACHE_DIR": str(folder)})
        return
    with pytest.raises(
        UserError, match=r"TRITON_CACHE_DIR: .*b could be replaced by another user, at .*/(open|link)/a,"
    ):
        check_kernel_caches({"TRITON_CACHE_DIR": str(folder)})


def test_a_sticky_folder_keeps_only_parts_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open" / "theirs" / "b").mkdir(parents=True)
    (tmp_path / "open").chmod(0o1777)
    real = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        found = real(path)
        return os.stat_result([*found[:4], 12345, *found[5:]]) if path.name == "theirs" else found

    monkeypatch.setattr(Path, "lstat", lstat)
    with pytest.raises(UserError, match=r"could be replaced by another user, at .*open/theirs"):
        check_kernel_caches({"TRITON_CACHE_DIR": str(tmp_path / "open" / "theirs" / "b")})


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "a", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match=r"key: (cannot create folder|.*file is not a folder)"):
            private_folder(folder, "key")


@pytest.mark.parametrize("variable", CACHES)
def test_every_cache_of_compiled_code_is_checked(tmp_path: Path, variable: str) -> None:
    check_kernel_caches({variable: str(tmp_path / "new" / "cache")})
    assert (tmp_path / "new" / "cache").stat().st_mode & 0o777 == 0o700
    (tmp_path / "new" / "cache").chmod(0o777)
    with pytest.raises(UserError, match=rf"{variable}: .* can be written by others"):
        check_kernel_caches({variable: str(tmp_path / "new" / "cache")})


def test_torchs_own_cache_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr("getpass.getuser", lambda: "me")
    check_kernel_caches({})
    assert not any(tmp_path.iterdir())
    (tmp_path / "torchinductor_me").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"TORCHINDUCTOR_CACHE_DIR: .*torchinductor_me is a link"):
        check_kernel_caches({})


def test_a_command_refuses_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    command = [sys.executable, "-m", "climax_hpc", "variables"]
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path / "cache" / "triton")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("climax-hpc: error: TRITON_CACHE_DIR: ")
