"""Files of kilobytes that claim gigabytes are refused at once, by pack and by predict's reader; real files pass."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import zarr

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.packing.work_units import make_plan
from climax_hpc.data_prep.sources.claimed_size import check_claim
from climax_hpc.data_prep.sources.open_zarr import open_zarr
from climax_hpc.errors import UserError
from climax_hpc.inference.open_files import open_files

Settings = Callable[..., PackConfig]


def claiming(path: Path, **sizes: int) -> None:
    """Replace a file by one of the same header whose axes have these sizes, and hold nothing."""
    with netCDF4.Dataset(path) as before:
        header = {name: before.getncattr(name) for name in before.ncattrs()}
    lengths = {"time": 4, "lat": 8, "lon": 16} | sizes
    kinds = {"time": "days since 1850-01-01", "lat": "degrees_north", "lon": "degrees_east"}
    with netCDF4.Dataset(path, "w") as file:
        file.setncatts(header)
        for name, length in lengths.items():
            file.createDimension(name, length)
            file.createVariable(name, "f8", (name,), chunksizes=(min(length, 1000),)).units = kinds[name]
        file.createVariable("tas", "f4", tuple(lengths), chunksizes=(1, 8, 16)).units = "K"


@pytest.mark.parametrize(
    "sizes", [{"time": 10**9}, {"lat": 10**8}, {"lon": 10**8}, {"time": 10**7}, {"lat": 10**5, "lon": 10**5}]
)
def test_axes_that_nothing_stands_behind(cmip6: Any, settings: Settings, sizes: dict[str, int]) -> None:
    path = cmip6("tas")
    claiming(path, **sizes)
    start = time.monotonic()
    for read in (lambda: make_plan(settings()), lambda: open_files([path])):
        with pytest.raises(UserError, match=r"claims .*B, but only .* kB are stored: it is damaged or incomplete"):
            read()
    assert time.monotonic() - start < 5


def test_a_chunk_that_claims_more_than_it_holds(tmp_path: Path) -> None:
    array = zarr.open_array(str(tmp_path / "x.zarr" / "tas"), mode="w", shape=(8 << 20,), chunks=(8 << 20,), dtype="f8")
    zarr.open_group(str(tmp_path / "x.zarr"), mode="a")
    array[:] = 1.0
    with pytest.raises(UserError, match=r"x.zarr: tas of shape \(8388608,\) claims 67.1 MB"):
        open_zarr(tmp_path / "x.zarr", "x.zarr").variables["tas"][:]


@pytest.mark.parametrize(("stored", "refused"), [(10_000, True), (100_000, False)])
def test_what_compression_explains_is_accepted(stored: int, refused: bool) -> None:
    if refused:
        with pytest.raises(UserError, match="a: b of shape"):
            check_claim("b", (50_000_000,), 4, stored, "a")
    else:
        check_claim("b", (50_000_000,), 4, stored, "a")
    check_claim("b", (1000, 1000), 8, 0, "a")  # small enough in any case


def test_constant_fields_are_packed(cmip6: Any, settings: Settings) -> None:
    """As of a forcing that an experiment leaves out, compressed."""
    path = cmip6("tas")
    with netCDF4.Dataset(path, "a") as file:
        file["tas"][:] = np.float32(280.0)
    pack(settings(allow_constant=True))


def test_long_attributes_are_read_in_part(cmip6: Any, settings: Settings) -> None:
    path = cmip6("tas")
    with netCDF4.Dataset(path, "a") as file:
        file.setncattr("institution_id", "N" * 10**7)
        file["tas"].setncattr("units", "K" * 10**7)
    with pytest.raises(UserError, match="10000 characters; units have at most 80"):
        make_plan(settings())


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.nc")
    with pytest.raises(UserError, match=r"x\.nc is a (pipe|FIFO), not a file"):
        open_files([tmp_path / "x.nc"])
