"""One work unit -> one shard: moments of its fields (first pass), then their z-scores (second pass).

Shapes: T time steps, C channels, S static fields, H rows, W columns of the target grid.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data_prep.packing.context import PackContext
from climax_hpc.data_prep.packing.disk_usage import chunk_layout, free_bytes
from climax_hpc.data_prep.packing.field_blocks import Array, Fields, read_blocks, steps_per_block
from climax_hpc.data_prep.packing.plan import SourcePlan, WorkUnit
from climax_hpc.data_prep.packing.statistics import Moments, moments_of
from climax_hpc.data_prep.sources.input_root import identity_entry
from climax_hpc.data_prep.sources.open_input import opened
from climax_hpc.data_prep.sources.read_file import read_fields
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import iso
from climax_hpc.fields.variables import channels_of
from climax_hpc.shards.chunk_table import header_checksum
from climax_hpc.shards.manifest import ShardEntry, StaticEntry
from climax_hpc.shards.shard import Header, ShardWriter
from climax_hpc.shards.static_file import static_entry, static_file, write_static
from climax_hpc.utils.atomic import write_atomically
from climax_hpc.utils.files import reserve, sha256


def measure_work_unit(context: PackContext, unit: WorkUnit) -> list[Moments]:
    """Moments of each channel over the training steps of a work unit; its fields are kept for the second pass."""
    source = context.plan.sources[unit.source]
    training_T = context.in_training_period(source)
    totals = [Moments()] * len(source.channels)
    if not training_T[unit.start : unit.stop].any():
        return totals
    first_pass = context.first_pass(unit)
    known = first_pass.moments()
    if known is not None:
        return known
    # Without room for more than the data set, nothing is kept and the input is read twice.
    room = free_bytes(context.output) > context.disk_usage.needed + context.disk_usage.kept.get(unit.file, 0)
    for first, fields_TCHW in read_blocks(context, source, unit.start, unit.stop):
        training_TCHW = fields_TCHW[training_T[first : first + len(fields_TCHW)]]
        totals = [total.merge(moments_of(training_TCHW[:, c])) for c, total in enumerate(totals)]
        if context.config.keep_first_pass and room:
            first_pass.keep(fields_TCHW)
    first_pass.finish(totals)
    return totals


def _fields_of(context: PackContext, unit: WorkUnit) -> Iterator[tuple[int, Fields]]:
    """The blocks of a work unit: those that the first pass kept, the rest from the input."""
    source = context.plan.sources[unit.source]
    shape = (unit.stop - unit.start, len(source.channels), *source.target.grid.shape)
    done = 0
    size = steps_per_block(int(np.prod(source.target.grid.shape)), source)
    for first, fields_TCHW in context.first_pass(unit).fields(shape, size):
        yield unit.start + first, fields_TCHW
        done = first + len(fields_TCHW)
    yield from read_blocks(context, source, unit.start + done, unit.stop)


def header_of(context: PackContext, source: SourcePlan, mean: Array, std: Array) -> Header:
    """The header shared by all files of a source."""
    methods = {c: s.files[0].cell_methods for s in source.series for c in s.channels}
    return Header(
        source=source.name,
        frequency=source.frequency,
        step_hours=source.step_hours,
        calendar=source.calendar,
        identity=source.identity,
        inputs=[{"file": file, **identity_entry(context.hashes[file])} for file in source.input_files()],
        regrid=context.config.regrid,
        cell_methods={c: methods[c] for c in source.channels},
        channels=source.channels,
        mean=mean,
        std=std,
        grid=source.target.grid,
    )


def write_static_fields(context: PackContext, source: SourcePlan, header: Header) -> StaticEntry | None:
    """Write the file of the static fields of a source, or keep that of an interrupted run; None if it has none."""
    if not source.static_channels:
        return None
    name = static_file(source.name)
    path, record = context.output / name, context.record(source, name)
    known = record.finished_shard()
    if known is None or not path.is_file() or sha256(path) != known:
        path.parent.mkdir(parents=True, exist_ok=True)
        fields = dict(zip(source.static_channels, static_fields(context, source), strict=True))
        write_atomically(path, lambda temporary: write_static(temporary, header, fields))
        record.finish_shard(sha256(path))
    return static_entry(context.output, source.name)


def static_fields(context: PackContext, source: SourcePlan) -> NDArray[np.float32]:
    """Static fields (S, H, W) in registry units.

    Raises:
        UserError: a field cannot be read, or is missing everywhere.
    """
    grid = source.target.grid
    fields = {"latitude": np.repeat(grid.lat[:, None], len(grid.lon), axis=1)}
    for f in source.static:
        name = channels_of(f.variable_id)[0].name
        if name in source.static_channels:
            with opened(context.plan.root / f.file, f.file) as dataset:
                native = read_fields(dataset, f, [None], 0, 1)[:, 0]
            fields[name] = source.target.mapping(f.orientation.grid, context.config.regrid)(native)[0]
            if np.isnan(fields[name]).all():
                raise UserError(
                    f"{f.file}: {name} of {source.name} is missing (NaN) in every cell; leave it out with `variables`, "
                    "or download the file again"
                )
    stacked = [fields[name] for name in source.static_channels]
    return np.asarray(stacked, np.float32).reshape(len(stacked), *grid.shape)


def write_work_unit(context: PackContext, unit: WorkUnit, header: Header) -> ShardEntry:
    """Write one shard, or keep the one that an interrupted run with the same settings finished.

    Raises:
        UserError: an input cannot be read; a z-score is beyond the range of the dtype.
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
        reserve(path, context.disk_usage.shards[unit.file])
    dtype, compression = context.config.dtype, context.config.compression
    writer = ShardWriter(path, header, {"time": hours}, dtype, compression, chunk_layout(source, context.config))
    try:
        for first, fields_TCHW in _fields_of(context, unit):
            z_TCHW = _scaled(fields_TCHW, header, dtype)
            for i, z_CHW in enumerate(z_TCHW):
                writer.write(first - unit.start + i, z_CHW)
    finally:
        writer.close()


def _scaled(fields_TCHW: Fields, header: Header, dtype: str) -> NDArray[Any]:
    """z-scores (T, C, H, W) in the dtype of the shard.

    Raises:
        UserError: a z-score is beyond the range of the dtype.
    """
    z_TCHW = (fields_TCHW - header.mean[:, None, None]) / header.std[:, None, None]
    with np.errstate(over="ignore"):
        stored_TCHW = z_TCHW.astype(dtype)
    infinite = np.isinf(stored_TCHW).any(axis=(0, 2, 3))
    if infinite.any():
        raise UserError(
            f"{header.source}: {header.channels[int(np.argmax(infinite))]} has z-scores beyond "
            f"{np.finfo(dtype).max:g}, the range of {dtype}; use dtype: float32, or a train_period in which it varies "
            "as much as in the other years"
        )
    return stored_TCHW
