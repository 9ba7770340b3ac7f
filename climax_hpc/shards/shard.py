"""The file format of docs/concepts/shards.md: writes a shard chunk by chunk, opens it.

Shapes: T time steps (or K entries of a climatology), C channels, H rows, W columns; a chunk holds c channels and r rows
of a time step.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from climax_hpc.errors import UserError
from climax_hpc.fields.grid import Grid
from climax_hpc.fields.periods import TIME_UNITS
from climax_hpc.shards.chunk_filters import DEFLATE_LEVEL, deflated
from climax_hpc.shards.chunk_layout import ChunkLayout
from climax_hpc.utils.system_errors import refuse_system_error

SCHEMA = "climax_hpc/shard"
SCHEMA_VERSION = 3
"""Static fields are in a file of their own. Versions 1 (one chunk per time step) and 2 (several) hold them in every
shard, and are read too."""
_READ_VERSIONS = range(1, SCHEMA_VERSION + 1)
RESTORE = "restore it from a copy, or pack again into another folder"
TEXT = h5py.string_dtype("utf-8")
LIBVER = ("v110", "v110")  # a fixed file layout: the same bytes with every later version of HDF5
_PAGE, _MOST_PAGES = 4096, 16  # bytes of a page; pages that chunks are aligned to at most
_NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable."  # NetCDF-4: without coordinates


@dataclass(frozen=True, kw_only=True, eq=False)
class Header:
    """What the files of a source say of it; `identity` to `calendar` as in `manifest.SourceEntry`."""

    source: str
    """Full name of the source."""
    frequency: str
    step_hours: float
    calendar: str
    identity: dict[str, str]
    inputs: list[dict[str, str]]
    """`file` (relative to the input folder) and `sha256`."""
    regrid: str
    """Method of regridding."""
    cell_methods: dict[str, str]
    """Channel -> CF `cell_methods` of its input."""
    channels: list[str]
    """Registry names."""
    mean: NDArray[np.float64]
    """(C,), subtracted before storing, physical units."""
    std: NDArray[np.float64]
    """(C,), divided by before storing, physical units."""
    grid: Grid


class ShardWriter:
    """Writes `/fields` chunk by chunk with their checksums; one per shard or climatology.

    HDF5 lays out the file; uncompressed chunks are then written to their offsets directly, at the speed of the disk.
    """

    def __init__(
        self,
        path: Path,
        header: Header,
        axis: dict[str, NDArray[Any]],
        dtype: str,
        compression: str = "none",
        layout: ChunkLayout | None = None,
    ) -> None:
        """`axis`: `time` (T,) hours since 1850 for a shard, `day_of_year` and `hour` (K,) for a climatology.

        `compression`: `none`, or `gzip` for HDF5's filters shuffle and gzip on every chunk. `layout`: chunks of a time
        step; None: one.
        """
        steps, (rows, columns) = len(next(iter(axis.values()))), header.grid.shape
        first = next(iter(axis))
        self._shape = (len(header.channels), rows, columns)
        self._layout = layout or ChunkLayout(shape=self._shape, channels=self._shape[0], rows=rows)
        self._type = np.dtype(dtype).newbyteorder("<")
        self._gzip = compression == "gzip"
        size = self._layout.chunk_cells * self._type.itemsize
        self._file = h5py.File(path, "w", libver=LIBVER, alignment_threshold=size, alignment_interval=_alignment(size))
        _write_coordinates(self._file, header, axis)
        self._fields = self._create_fields(steps)
        for i, name in enumerate((first, "channel", "lat", "lon")):
            self._fields.dims[i].attach_scale(self._file[name])
        self._fields.attrs["long_name"] = "z-scores: physical value = fields * std + mean"
        self._checksums_TN = np.zeros((steps, self._layout.per_step), np.uint64)
        self._offsets: dict[tuple[int, ...], int] = {}
        if not self._gzip:
            self._fields.id.chunk_iter(self._note_offset)
        self._descriptor = os.open(path, os.O_WRONLY)
        if self._offsets:  # one allocation costs less than one per chunk
            os.posix_fallocate(self._descriptor, min(self._offsets.values()), steps * self._layout.per_step * size)

    def _create_fields(self, steps: int) -> h5py.Dataset:
        """`/fields`; space for uncompressed chunks is allocated at once."""
        chunks = (1, *self._layout.chunk_shape)
        options: dict[str, Any] = {"chunks": chunks, "track_times": False, "fillvalue": np.nan}
        if self._gzip:
            options |= {"shuffle": True, "compression": "gzip", "compression_opts": DEFLATE_LEVEL}
        else:
            options["dcpl"] = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            options["dcpl"].set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            options["fill_time"] = "never"
        return self._file.create_dataset("fields", (steps, *self._shape), self._type, **options)

    def _note_offset(self, chunk: h5py.h5d.StoreInfo) -> None:
        self._offsets[tuple(chunk.chunk_offset)] = chunk.byte_offset

    def write(self, step: int, fields_CHW: NDArray[Any]) -> None:
        """Write one time step; values are cast to the data type of the shard."""
        stored = np.ascontiguousarray(fields_CHW, self._type)
        if stored.shape != self._shape:
            raise ValueError(f"fields have shape {stored.shape}, the shard {self._shape}")
        for number in range(self._layout.per_step):
            channels, rows = self._layout.cells_of(number)
            chunk = stored if self._layout.is_whole else self._filled(stored[channels, rows])
            self._write_chunk(step, number, (step, channels.start, rows.start, 0), chunk)

    def _filled(self, cells_crW: NDArray[Any]) -> NDArray[Any]:
        """A chunk of full size: the cells, and NaN where it reaches beyond the fields."""
        if cells_crW.shape == self._layout.chunk_shape:
            return np.ascontiguousarray(cells_crW)
        chunk = np.full(self._layout.chunk_shape, np.nan, self._type)
        chunk[: cells_crW.shape[0], : cells_crW.shape[1]] = cells_crW
        return chunk

    def _write_chunk(self, step: int, number: int, place: tuple[int, int, int, int], chunk: NDArray[Any]) -> None:
        raw = chunk.data.cast("B")
        self._checksums_TN[step, number] = xxhash.xxh3_64_intdigest(raw)
        if self._gzip:  # filtered here, because HDF5 would copy the chunk three times
            with _system_errors():
                self._fields.id.write_direct_chunk(place, deflated(np.asarray(raw), self._type.itemsize))
            return
        offset = self._offsets[place]
        done = os.pwrite(self._descriptor, raw, offset)
        while done < len(raw):  # short writes happen on a nearly full disk and on network file systems
            done += os.pwrite(self._descriptor, raw[done:], offset + done)

    def close(self) -> None:
        """Write the checksums and close the file.

        Raises:
            OSError: the disk is full; `write` raises it too.
        """
        os.close(self._descriptor)
        with _system_errors():
            whole = self._layout.is_whole
            write_dataset(self._file, "checksum", self._checksums_TN[:, 0] if whole else self._checksums_TN)
            self._file.close()


def _alignment(chunk_bytes: int) -> int:
    """Bytes of which the offsets of chunks are multiples: the most that leaves no gaps between chunks, up to 64 KiB.

    An unaligned chunk makes the kernel touch one more page at each end. Kernels also keep a file in blocks of several
    pages, in place of single ones, as far as offset and size of a write allow (measured: a quarter of its time).
    """
    if chunk_bytes % _PAGE:
        return 1
    return _PAGE * math.gcd(chunk_bytes // _PAGE, _MOST_PAGES)


@contextmanager
def _system_errors() -> Iterator[None]:
    """Raise OSError with its errno: HDF5 reports a full disk as RuntimeError or OSError with errno only in the text."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = re.search(r"errno = (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def write_dataset(file: h5py.File, name: str, values: Any, dtype: Any = None, **attributes: Any) -> h5py.Dataset:
    """Write an array with its attributes; the bytes do not depend on the time."""
    dataset = file.create_dataset(name, data=values, dtype=dtype, track_times=False)
    for key, value in attributes.items():
        dataset.attrs[key] = value
    return dataset


def _write_coordinates(file: h5py.File, header: Header, axis: dict[str, NDArray[Any]]) -> None:
    write_attributes(file, header)
    first = next(iter(axis))
    for name, values in axis.items():
        time = {"units": TIME_UNITS, "calendar": header.calendar, "standard_name": "time"} if name == "time" else {}
        write_dataset(file, name, values, **time)
    write_dataset(file, "channel", header.channels, TEXT)
    write_dataset(file, "mean", header.mean)
    write_dataset(file, "std", header.std)
    for name in (first, "channel"):
        file[name].make_scale(name)
    dimensions = {"mean": ("channel",), "std": ("channel",)}
    attach_scales(file, dimensions | {name: (first,) for name in axis if name != first})
    write_grid(file, header.grid)


def write_grid(file: h5py.File, grid: Grid) -> None:
    """Write the coordinates of the cells and their bounds."""
    write_dataset(file, "lat", grid.lat, units="degrees_north", standard_name="latitude", bounds="lat_bnds")
    write_dataset(file, "lon", grid.lon, units="degrees_east", standard_name="longitude", bounds="lon_bnds")
    write_dataset(file, "lat_bnds", grid.lat_bnds)
    write_dataset(file, "lon_bnds", grid.lon_bnds)
    file.create_dataset("edge", (2,), ">f4", track_times=False)
    for name in ("lat", "lon"):
        file[name].make_scale(name)
    file["edge"].make_scale(f"{_NO_VARIABLE:<53}{2:10d}")
    attach_scales(file, {"lat_bnds": ("lat", "edge"), "lon_bnds": ("lon", "edge")})


def attach_scales(file: h5py.File, dimensions: Mapping[str, tuple[str, ...]]) -> None:
    """Attach the scales of its dimensions to each array."""
    for name, scales in dimensions.items():
        for i, scale in enumerate(scales):
            file[name].dims[i].attach_scale(file[scale])


def write_attributes(file: h5py.File, header: Header) -> None:
    """Write the attributes of a file of a source."""
    found = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "source": header.source,
        "frequency": header.frequency,
        "step_hours": header.step_hours,
        "calendar": header.calendar,
        "identity": json.dumps(header.identity, sort_keys=True),
        "inputs": json.dumps(header.inputs),
        "regrid": header.regrid,
        "cell_methods": json.dumps(header.cell_methods),
    }
    for key, value in found.items():
        file.attrs[key] = value


def read_header(file: h5py.File) -> tuple[Header, dict[str, NDArray[Any]]]:
    """Header and axis of an open shard or climatology, as `ShardWriter` takes them."""
    texts = {key: str(file.attrs[key]) for key in ("source", "frequency", "calendar", "regrid")}
    listed: dict[str, Any] = {key: json.loads(file.attrs[key]) for key in ("identity", "inputs", "cell_methods")}
    header = Header(
        source=texts["source"],
        frequency=texts["frequency"],
        calendar=texts["calendar"],
        regrid=texts["regrid"],
        **listed,
        step_hours=float(file.attrs["step_hours"]),
        channels=[text.decode() for text in file["channel"][:]],
        mean=file["mean"][:],
        std=file["std"][:],
        grid=Grid(**{name: file[name][:] for name in ("lat", "lon", "lat_bnds", "lon_bnds")}),
    )
    axes = ("time",) if "time" in file else ("day_of_year", "hour")
    return header, {name: file[name][:] for name in axes}


@contextmanager
def open_shard(path: Path, name: str) -> Iterator[h5py.File]:
    """The open HDF5 file of a shard.

    Raises:
        UserError: absent, not HDF5, truncated, or of another schema.
    """
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise UserError(f"{name}: does not exist; {RESTORE}") from None
    except OSError as error:
        refuse_system_error(error, path)
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: cannot be opened ({reason}), so no time step can be read; {RESTORE}") from error
    try:
        schema, version = file.attrs.get("schema"), file.attrs.get("schema_version")
        if schema != SCHEMA or version not in _READ_VERSIONS:
            wanted = f"{SCHEMA} version {' or '.join(map(str, _READ_VERSIONS))}"
            raise UserError(
                f"{name}: is {schema} version {version}, not {wanted}, so no time step can be read; {RESTORE}"
            )
        yield file
    finally:
        file.close()
