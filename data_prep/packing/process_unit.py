"""One work unit -> one shard: read slabs, regrid, take moments (first pass) or write z-scores (second pass).

Shapes: T time steps, C channels, H rows, W columns of the target grid.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.packing.disk_usage import DiskUsage, free_bytes
from climax_hpc.data_prep.packing.first_pass import FirstPass
from climax_hpc.data_prep.packing.statistics import Moments, moments_of
from climax_hpc.data_prep.packing.target_grid import TargetGrid
from climax_hpc.data_prep.packing.work_units import PackPlan, Series, SourcePlan, WorkUnit
from climax_hpc.data_prep.sources.open_input import opened, set_chunk_cache
from climax_hpc.data_prep.sources.read_file import InputFile, read_fields
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import iso, within
from climax_hpc.fields.grid import Grid
from climax_hpc.fields.variables import channels_of
from climax_hpc.shards.chunk_table import header_checksum
from climax_hpc.shards.manifest import ShardEntry
from climax_hpc.shards.shard import SCHEMA_VERSION, Header, ShardWriter
from climax_hpc.utils.files import reserve, sha256, write_atomically
from climax_hpc.utils.provenance import package_version

Array = NDArray[np.float64]
Fields = NDArray[np.float32]
_BLOCK_BYTES = 64 << 20  # float64 fields of all channels of one block, on the finer of the two grids
_MAX_BLOCK = 64


@dataclass(frozen=True, eq=False)
class PackContext:
    """What every rank needs to work on any unit."""

    plan: PackPlan
    config: PackConfig
    output: Path
    hashes: dict[str, str]
    """Input file -> sha256."""
    sizes: DiskUsage

    def first_pass(self, unit: WorkUnit) -> FirstPass:
        """What the first pass keeps of a unit."""
        inputs = {file: self.hashes[file] for file in self.plan.sources[unit.source].input_files()}
        made_by = [package_version(), SCHEMA_VERSION, self.config.settings()]
        return FirstPass(self.output, unit.file, [*made_by, inputs, unit.start, unit.stop])

    def trained(self, source: SourcePlan) -> NDArray[np.bool_]:
        """True (T,) for the steps of the training period.

        Raises:
            UserError: none; the message gives the source's own period.
        """
        inside = within(
            source.seconds, source.calendar, None if self.config.train_period is None else self.config.train
        )
        if not inside.any():
            first, last = (iso(source.seconds[i], source.calendar)[:10] for i in (0, -1))
            raise UserError(
                f"train_period: {' … '.join(self.config.train)} holds no step of {source.name}, which runs from "
                f"{first} to {last}; widen it, or leave the source out with `exclude_sources`"
            )
        return inside


def blocks(context: PackContext, source: SourcePlan, start: int, stop: int) -> Iterator[tuple[int, Fields]]:
    """Regridded fields of steps start … stop-1 in physical units, as (first step, (T, C, H, W)) block by block.

    Memory is bounded by the block, whatever the size of files and shards. float32 is the precision of CMIP6 files.
    """
    target = source.target
    cells = max(
        int(np.prod(grid.shape))
        for grid in (target.grid, *(f.orientation.grid for s in source.series for f in s.all_files()))
    )
    size = _block_steps(cells, source)
    with _Files(Path(context.plan.root)) as files:
        for first in range(start, stop, size):
            last = min(first + size, stop)
            fields_TCHW = np.empty((last - first, len(source.channels), *target.grid.shape), np.float32)
            for series in source.series:
                at = [source.channels.index(name) for name in series.channels]
                fields_TCHW[:, at] = _read_series(context, files, series, first, last, target)
            yield first, fields_TCHW


def _block_steps(cells: int, source: SourcePlan) -> int:
    """Time steps of one block of fields with that many cells."""
    return int(np.clip(_BLOCK_BYTES // (8 * cells * len(source.channels)), 1, _MAX_BLOCK))


def _read_series(
    context: PackContext, files: "_Files", series: Series, first: int, last: int, target: TargetGrid
) -> NDArray[Any]:
    """One variable over a range of steps, across file ends: (T, levels, H, W)."""
    parts = []
    for grid, fields in _native(files, series, first, last):
        stacked = target.mapping(grid, context.config.regrid)(fields.reshape(-1, *fields.shape[2:]))
        parts.append(stacked.reshape(*fields.shape[:2], *target.grid.shape))
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _native(files: "_Files", series: Series, first: int, last: int) -> Iterator[tuple[Grid, Array]]:
    """A range of steps on the grid of the files, run by run: (T, levels, H, W).

    Derived variables are computed there, cell by cell and before regridding, because they are not linear.
    """
    if series.derivation is not None:
        parts = [np.concatenate([f for _, f in _native(files, i, first, last)]) for i in series.ingredients]
        pressure_pa = 100.0 * np.array(series.levels, np.float64)[:, None, None]
        yield series.files[0].orientation.grid, series.derivation.compute(*parts, pressure_pa)
        return
    file_of, step_of = series.file_of_step[first:last], series.step_in_file[first:last]
    breaks = np.flatnonzero((np.diff(file_of) != 0) | (np.diff(step_of) != 1)) + 1
    for run in np.split(np.arange(last - first), breaks):
        source = series.files[file_of[run[0]]]
        dataset = files.open(source)
        start, stop = int(step_of[run[0]]), int(step_of[run[-1]]) + 1
        yield source.orientation.grid, read_fields(dataset, source, series.levels, start, stop)


class _Files:
    """The input files that a unit has open; one per variable at a time."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: dict[str, tuple[str, Any, ExitStack]] = {}

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *_: object) -> None:
        for _file, _dataset, stack in self._open.values():
            stack.close()

    def open(self, source: InputFile) -> Any:
        """The data set of a file; closes the variable's previous file."""
        held = self._open.get(source.variable_id)
        if held is not None and held[0] == source.file:
            return held[1]
        if held is not None:
            held[2].close()
        stack = ExitStack()
        dataset = stack.enter_context(opened(self._root / source.file, source.file))
        set_chunk_cache(dataset, source.name)
        self._open[source.variable_id] = (source.file, dataset, stack)
        return dataset


def measure_work_unit(context: PackContext, unit: WorkUnit) -> list[Moments]:
    """Moments of each channel over the training steps of a unit; its fields are kept for the second pass."""
    source = context.plan.sources[unit.source]
    trained = context.trained(source)
    totals = [Moments()] * len(source.channels)
    if not trained[unit.start : unit.stop].any():
        return totals
    first_pass = context.first_pass(unit)
    known = first_pass.moments()
    if known is not None:
        return known
    # A file system with room for the data set alone must do: then the input is read twice.
    room = free_bytes(context.output) > context.sizes.needed + context.sizes.kept.get(unit.file, 0)
    for first, fields_TCHW in blocks(context, source, unit.start, unit.stop):
        kept = fields_TCHW[trained[first : first + len(fields_TCHW)]]
        totals = [total.merge(moments_of(kept[:, c])) for c, total in enumerate(totals)]
        if context.config.keep_first_pass and room:
            first_pass.keep(fields_TCHW)
    first_pass.finish(totals)
    return totals


def _fields_of(context: PackContext, unit: WorkUnit) -> Iterator[tuple[int, Fields]]:
    """The blocks of a unit, as the first pass kept them, and from the input from where on it did not."""
    source = context.plan.sources[unit.source]
    shape = (unit.stop - unit.start, len(source.channels), *source.target.grid.shape)
    done = 0
    size = _block_steps(int(np.prod(source.target.grid.shape)), source)
    for first, fields_TCHW in context.first_pass(unit).fields(shape, size):
        yield unit.start + first, fields_TCHW
        done = first + len(fields_TCHW)
    yield from blocks(context, source, unit.start + done, unit.stop)


def header_of(context: PackContext, source: SourcePlan, mean: Array, std: Array) -> Header:
    """The header that all shards of a source share."""
    methods = {c: s.files[0].cell_methods for s in source.series for c in s.channels}
    return Header(
        source=source.name,
        frequency=source.frequency,
        step_hours=source.step_hours,
        calendar=source.calendar,
        identity=source.identity,
        inputs=[{"file": file, "sha256": context.hashes[file]} for file in source.input_files()],
        regrid=context.config.regrid,
        cell_methods={c: methods[c] for c in source.channels},
        channels=source.channels,
        mean=mean,
        std=std,
        grid=source.target.grid,
        static_channels=source.static_channels,
        static=static_fields(context, source),
    )


def static_fields(context: PackContext, source: SourcePlan) -> NDArray[np.float32]:
    """Fields without time (S, H, W) in registry units.

    Raises:
        UserError: a field that cannot be read, or is missing everywhere.
    """
    grid = source.target.grid
    fields = {"latitude": np.repeat(grid.lat[:, None], len(grid.lon), axis=1)}
    for f in source.static:
        name = channels_of(f.variable_id)[0].name
        if name in source.static_channels:
            with opened(Path(context.plan.root) / f.file, f.file) as dataset:
                native = read_fields(dataset, f, [None], 0, 1)[:, 0]
            fields[name] = source.target.mapping(f.orientation.grid, context.config.regrid)(native)[0]
            if np.isnan(fields[name]).all():
                raise UserError(
                    f"{f.file}: {name} of {source.name} is missing (NaN) everywhere; leave it out with `variables`, "
                    "or download the file again"
                )
    stacked = [fields[name] for name in source.static_channels]
    return np.asarray(stacked, np.float32).reshape(len(stacked), *grid.shape)


def write_work_unit(context: PackContext, unit: WorkUnit, header: Header) -> ShardEntry:
    """Write one shard, or keep the one that an interrupted run of the same settings has finished.

    Raises:
        UserError: an input that cannot be read; a z-score beyond the range of the type.
    """
    source = context.plan.sources[unit.source]
    path = context.output / unit.file
    first_pass = context.first_pass(unit)
    known = first_pass.finished_shard()
    digest = sha256(path) if known is not None and path.is_file() else None
    if digest is None or digest != known:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: _write_shard(context, unit, header, temporary))
        digest = sha256(path)
        first_pass.finish_shard(digest)
    return ShardEntry(
        file=unit.file,
        sha256=digest,
        header_xxh3=header_checksum(path),
        bytes=path.stat().st_size,
        steps=unit.stop - unit.start,
        first=iso(source.seconds[unit.start], source.calendar),
        last=iso(source.seconds[unit.stop - 1], source.calendar),
        segment=unit.segment,
    )


def _write_shard(context: PackContext, unit: WorkUnit, header: Header, path: Path) -> None:
    source = context.plan.sources[unit.source]
    hours = source.seconds[unit.start : unit.stop] / 3600
    if context.config.compression == "none":
        reserve(path, context.sizes.shards[unit.file])
    writer = ShardWriter(path, header, {"time": hours}, context.config.dtype, context.config.compression)
    try:
        for first, fields_TCHW in _fields_of(context, unit):
            z_TCHW = _scaled(fields_TCHW, header, context.config.dtype)
            for i, z_CHW in enumerate(z_TCHW):
                writer.write(first - unit.start + i, z_CHW)
    finally:
        writer.close()


def _scaled(fields_TCHW: Fields, header: Header, dtype: str) -> NDArray[Any]:
    """z-scores in the type of the shard.

    Raises:
        UserError: one is beyond the range of the type.
    """
    z_TCHW = (fields_TCHW - header.mean[:, None, None]) / header.std[:, None, None]
    with np.errstate(over="ignore"):
        stored_TCHW = z_TCHW.astype(dtype)
    infinite = np.isinf(stored_TCHW).any(axis=(0, 2, 3))
    if infinite.any():
        raise UserError(
            f"{header.source}: {header.channels[int(np.argmax(infinite))]} has z-scores beyond "
            f"{np.finfo(dtype).max:g}; use dtype: float32, or a train_period in which it varies as much as elsewhere"
        )
    return stored_TCHW
