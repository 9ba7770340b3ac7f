"""Files are complete or absent; folders that cannot be created and JSON that cannot be read give one clear line."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from climax_hpc.errors import UserError
from climax_hpc.utils.atomic import write_atomically
from climax_hpc.utils.files import check_is_plain_file, make_folder, open_plain, read_json, sha256, write_json


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"kept": 1})

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_atomically(path, fail)
    assert read_json(path, "a test file") == {"kept": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_json_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.json does not exist: expected a list"):
        read_json(tmp_path / "a.json", "a list")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json is not readable JSON .*: expected a list"):
        read_json(tmp_path / "a.json", "a list")


def test_folders_that_cannot_be_created_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"key: .*file is a file, so it cannot hold .*; choose another key"):
        make_folder(tmp_path / "file" / "below", "key")
    with pytest.raises(UserError, match="key: cannot create folder"):
        make_folder(tmp_path / "new" / ("x" * 300), "key")
    assert not (tmp_path / "new").exists()


def test_the_paths_created_are_returned(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a" / "b", "key") == [tmp_path / "a" / "b", tmp_path / "a"]
    assert make_folder(tmp_path / "a" / "b", "key") == []


def test_sha256_of_a_folder_depends_on_names_and_content(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    first = sha256(tmp_path / "a")
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    renamed = sha256(tmp_path / "a")
    (tmp_path / "a" / "y").write_text("2")
    assert len({first, renamed, sha256(tmp_path / "a")}) == 3


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "socket"])
@pytest.mark.parametrize("read", [open_plain, lambda path: check_is_plain_file(path, "a test file")])
def test_what_is_no_file_is_not_opened(tmp_path: Path, kind: str, read: Callable[[Path], object]) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    with pytest.raises(UserError, match=rf" is a {kind}, not a file: "):
        read(path)


def test_a_file_that_is_too_large_or_too_deep(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(
        UserError, match=r"a.json has 1073741824 bytes, more than the 134217728 that are read: expected"
    ):
        read_json(path, "a list")
    for text in ("[" * 10**6, '{"a":' * 10**5, "9" * 10**5, '{"a": 1, "a": 2}', "[[]," * 10**5):
        path.write_text(text)
        with pytest.raises(UserError, match=r"a.json is not readable JSON .*: expected a list"):
            read_json(path, "a list")
