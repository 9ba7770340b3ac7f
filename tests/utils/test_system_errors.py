"""Files that the system does not let a library read are not called damaged."""

import fcntl
from pathlib import Path

import h5py
import netCDF4
import pytest

from climax_hpc.data_prep.sources.open_input import opened
from climax_hpc.errors import UserError
from climax_hpc.utils.system_errors import number_of, refuse_system_error


def test_a_file_that_another_program_is_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The NetCDF library says only "HDF error" of a lock that it does not get."""
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    path = tmp_path / "tas.nc"
    with netCDF4.Dataset(path, "w") as dataset:
        dataset.createDimension("lat", 2)
        dataset.createVariable("tas", "f4", ("lat",))
    with path.open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        line = r"tas.nc: .*; another program is writing it: wait until it ends"
        with pytest.raises(UserError, match=line), opened(path, "tas.nc"):
            pass
    with opened(path, "tas.nc") as dataset:
        assert "tas" in dataset.variables


def test_damage_is_not_blamed_on_locks(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(OSError, match="Unable") as caught:
        h5py.File(path)
    refuse_system_error(caught.value, path)  # no error: the content is the reason


@pytest.mark.parametrize("number", [11, 37])
def test_the_number_in_the_text_of_hdf5(number: int, tmp_path: Path) -> None:
    error = OSError(f"Unable to synchronously open file (unable to lock file, errno = {number}, error message = '…')")
    assert number_of(error) == number
    with pytest.raises(UserError, match="HDF5_USE_FILE_LOCKING=FALSE"):
        refuse_system_error(error, tmp_path / "x.h5")
