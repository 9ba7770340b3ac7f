"""Files of kilobytes that claim gigabytes are refused at once, by pack and by predict's reader; real files pass."""

import bz2
import gzip
import lzma
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
from climax_hpc.data_prep.sources import claimed_size
from climax_hpc.data_prep.sources.claimed_size import check_claim
from climax_hpc.data_prep.sources.open_rda import open_rda
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


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_an_rda_file_that_expands_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(claimed_size, "_WHOLE_BYTES", 1 << 20)  # a large one would take time to write
    path = tmp_path / "NCEP_Iberia_tas.rda"
    path.write_bytes(compress(b"RDX3\nX\n" + bytes(8 << 20)))
    with pytest.raises(UserError, match=r"^a: its .*B expand to more than .*B, which no grid does: it is damaged"):
        open_rda(path, "a")


@pytest.mark.parametrize("kind", ["compact_intseq", "compact_realseq"])
@pytest.mark.parametrize("length", [3.0, 1e8])
def test_a_sequence_in_an_rda_file(tmp_path: Path, kind: str, length: float) -> None:
    """R stores 1:n as n, 1 and 1."""
    path = tmp_path / "NCEP_Iberia_tas.rda"
    path.write_bytes(rda_of_a_sequence(kind.encode(), length))
    reason = "contains 0 climate4R grids" if length < 10 else "expand to more than 800 MB, which no grid does"
    with pytest.raises(UserError, match=f"^a: .*{reason}"):
        open_rda(path, "a")


def rda_of_a_sequence(kind: bytes, length: float) -> bytes:
    """R's serialisation (version 3, XDR) of a list of one object, x, in a compact form."""

    def integers(*values: int) -> bytes:
        return b"".join(value.to_bytes(4, "big") for value in values)

    def symbol(name: bytes) -> bytes:
        return integers(1, 0x40009, len(name)) + name

    head = b"RDX3\nX\n" + integers(3, 0x40300, 0x30500, 5) + b"UTF-8"
    about = integers(2) + symbol(kind) + integers(2) + symbol(b"base") + integers(2, 13, 1, 13, 254)
    state = integers(14, 3) + np.array([length, 1, 1], ">f8").tobytes()
    return head + integers(0x402) + symbol(b"x") + integers(238) + about + state + integers(254, 254)


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
