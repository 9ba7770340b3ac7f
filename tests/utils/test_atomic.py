"""Output files are whole or absent, have the permissions of the umask, and errors carry number and path."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from climax_hpc.errors import UserError
from climax_hpc.utils.atomic import (
    AtomicFile,
    remove_temporaries,
    temporary_beside,
    write_atomically,
    write_folder_atomically,
    write_together,
)

from ..faults.places import limited, mounted

VALUES = np.arange(1e5)


def hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = VALUES


def netcdf(path: Path) -> None:
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("x", len(VALUES))
        file.createVariable("x", "f8", "x")[:] = VALUES


def safetensors(path: Path) -> None:
    save_file({"x": torch.from_numpy(VALUES)}, path)


def pytorch(path: Path) -> None:
    torch.save(torch.from_numpy(VALUES), path)


def plain(path: Path) -> None:
    path.write_bytes(VALUES.tobytes())


WRITERS = (hdf5, netcdf, safetensors, pytorch, plain)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_library_reports_a_full_disk_with_number_and_path(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "x").write_text("before")
    with limited(tmp_path), pytest.raises(OSError, match=r"File too large: '.*/x'") as caught:
        write_atomically(tmp_path / "x", write)
    assert caught.value.errno == errno.EFBIG
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x", "before")]
    with mounted(tmp_path / "small", "size=100k") as place:
        with pytest.raises(OSError, match=r"No space left on device: '.*/small/x'"):
            write_atomically(place / "x", write)
        assert not list(place.iterdir())


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_permissions_are_those_of_the_umask(write: Callable[[Path], None], tmp_path: Path) -> None:
    for mask, mode in ((0o027, 0o640), (0o002, 0o664), (0o022, 0o644)):
        before = os.umask(mask)
        write_atomically(tmp_path / "x", write)
        os.umask(before)
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode


def test_files_that_belong_together_are_all_replaced_or_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")

    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match=r"Input/output error: '.*/b'"):
        write_together({tmp_path / "a": plain, tmp_path / "b": fail})
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "old")]


def test_errors_about_other_files_and_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        write_atomically(tmp_path / "x", lambda path: (tmp_path / "elsewhere").read_text())
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "x", lambda path: 1 / 0)
    assert not list(tmp_path.iterdir())


def test_folders_are_whole_or_absent(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.mkdir()
        plain(path / "a")

    with mounted(tmp_path / "small", "size=100k") as place:
        with pytest.raises(OSError, match=r"No space left on device: '.*/small/x'"):
            write_folder_atomically(place / "x", write)
        assert not list(place.iterdir())
    write_folder_atomically(tmp_path / "x", write)
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["a"]


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: is a device, pipe or socket"):
        AtomicFile(tmp_path / "pipe")
    with pytest.raises(IsADirectoryError):
        AtomicFile(tmp_path)
    with pytest.raises(OSError, match="File name too long"):
        AtomicFile(tmp_path / ("x" * 256))
    write_atomically(tmp_path / ("x" * 255), plain)


def test_only_own_left_overs_are_removed(tmp_path: Path) -> None:
    left = AtomicFile(tmp_path / "x").temporary
    for name in (".x.1234.tmp", ".climax_hpc-notes", "climax_hpc-a.tmp"):
        (tmp_path / name).touch()
    folder = temporary_beside(tmp_path / "y")
    folder.mkdir()
    for path in (folder / "inner", tmp_path / ".A_2001.h5.1234.tmp", tmp_path / ".manifest.json.7.tmp"):
        path.touch()
    assert left.exists()
    remove_temporaries(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".climax_hpc-notes", ".x.1234.tmp", "climax_hpc-a.tmp"]
