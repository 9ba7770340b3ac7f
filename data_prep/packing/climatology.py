"""Mean by day of year and hour over the training period (61-day window), or by month for monthly data.

Shapes: K climatology slots (day of year and hour), D days of the year that occur, C channels, H rows, W columns.
Memory: one channel at one hour, D x H x W. The fields are read from the finished shards, so that the climatology is the
mean of exactly the data that a model is trained on.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile

import h5py
import numpy as np
from numpy.typing import NDArray

from climax_hpc.data_prep.packing.context import PackContext
from climax_hpc.data_prep.packing.disk_usage import chunk_layout
from climax_hpc.data_prep.packing.plan import SourcePlan
from climax_hpc.fields.calendars import DAYS_IN_YEAR
from climax_hpc.shards.chunk_table import chunk_table, header_checksum
from climax_hpc.shards.climatology_index import Index, climatology_index
from climax_hpc.shards.manifest import ClimatologyEntry, ShardEntry
from climax_hpc.shards.shard import Header, ShardWriter
from climax_hpc.shards.stored_chunks import layout_of
from climax_hpc.utils.atomic import temporary_beside, write_atomically
from climax_hpc.utils.files import reserve, sha256

HALF_WINDOW_DAYS = 30  # 61 days, WeatherBench 2
FILE_NAME = "climatology.h5"


@dataclass(frozen=True, kw_only=True)
class WrittenClimatology:
    """A climatology file and its missing slots."""

    entry: ClimatologyEntry
    empty_slots: int
    """Number of slots in which a channel is missing in every cell."""


def climatology_file(source: SourcePlan) -> str:
    """Path of the climatology of a source, relative to the output."""
    return f"{source.name}/{FILE_NAME}"


def write_climatology(
    context: PackContext, source: SourcePlan, header: Header, shards: list[ShardEntry]
) -> WrittenClimatology:
    """Write climatology.h5 of a source from its shards, or keep the one that an interrupted run finished."""
    name = climatology_file(source)
    path, record = context.output / name, context.record(source, name, [s.sha256 for s in shards])
    day, hour = climatology_index(source.seconds, source.calendar, source.step_hours)
    slots = sorted(set(zip(day.tolist(), hour.tolist(), strict=True)))
    axis = {
        "day_of_year": np.array([d for d, _ in slots], np.int32),
        "hour": np.array([h for _, h in slots], np.int32),
    }
    known = record.finished_climatology()
    if known is None or not path.is_file() or sha256(path) != known[0]:
        empty_K = np.zeros(len(slots), bool)
        files = [context.output / shard.file for shard in shards]
        write_atomically(
            path, lambda temporary: _write(context, source, header, files, axis, (day, hour), empty_K, temporary)
        )
        known = sha256(path), int(empty_K.sum())
        record.finish_climatology(*known)
    entry = ClimatologyEntry(file=name, sha256=known[0], header_xxh3=header_checksum(path), slots=len(slots))
    return WrittenClimatology(entry=entry, empty_slots=known[1])


def _write(
    context: PackContext,
    source: SourcePlan,
    header: Header,
    shards: list[Path],
    axis: dict[str, NDArray[np.int32]],
    day_and_hour: tuple[Index, Index],
    empty_K: NDArray[np.bool_],
    temporary: Path,
) -> None:
    """Write the means to a temporary file; notes in `empty_K` the slots in which a channel is missing everywhere."""
    day, hour = day_and_hour
    length = DAYS_IN_YEAR.get(source.calendar, 366)
    trained_T = context.in_training_period(source)
    half_window = 0 if source.step_hours == 0 else HALF_WINDOW_DAYS
    # Slots of one hour of the day, and the training steps at that hour.
    hours = [
        (np.flatnonzero(axis["hour"] == h), np.flatnonzero(trained_T & (hour == h))) for h in np.unique(axis["hour"])
    ]
    if context.config.compression == "none":
        reserve(temporary, context.disk_usage.climatologies[source.name])
    layout = chunk_layout(source, context.config)
    writer = ShardWriter(temporary, header, axis, "float32", context.config.compression, layout)
    try:
        with _disk_array(temporary, (len(empty_K), len(header.channels), *header.grid.shape)) as fields_KCHW:
            with _ChannelReader(shards) as steps:
                for at, chosen in hours:
                    for c in range(len(header.channels)):
                        windows = _WindowMeans(day[chosen], axis["day_of_year"][at], length, half_window)
                        fields_KCHW[at, c] = windows.means(steps.read(i, c) for i in chosen.tolist())
            for k in range(len(empty_K)):
                writer.write(k, fields_KCHW[k])
                empty_K[k] = np.isnan(fields_KCHW[k]).all(axis=(1, 2)).any()
    finally:
        writer.close()


@contextmanager
def _disk_array(beside: Path, shape: tuple[int, ...]) -> Iterator[NDArray[np.float32]]:
    """An array on disk: channels are computed one by one, but chunks hold all channels."""
    path = temporary_beside(beside)
    try:
        reserve(path, 4 * int(np.prod(shape)))  # detects a full disk here; on a mapped page it would kill the process
        yield np.memmap(path, np.float32, "r+", shape=shape)
    finally:
        path.unlink(missing_ok=True)


class _ChannelReader:
    """Reads single channels of single time steps from the shards of a source."""

    def __init__(self, paths: list[Path]) -> None:
        self._where: list[tuple[int, list[int]]] = []
        self._descriptors = []
        for path in paths:
            with h5py.File(path, "r") as file:
                fields = file["fields"]
                self._type, self._layout, steps = fields.dtype, layout_of(fields), len(fields)
                if fields.compression:
                    descriptor, offset_N = _decompressed(fields, path.parent)
                    self._layout = replace(self._layout, channels=fields.shape[1], rows=fields.shape[2])
                else:
                    descriptor, offset_N = os.open(path, os.O_RDONLY), chunk_table(fields).offset_N
            self._descriptors.append(descriptor)
            self._where += [(descriptor, offsets) for offsets in offset_N.reshape(steps, -1).tolist()]

    def __enter__(self) -> "_ChannelReader":
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)

    def read(self, step: int, channel: int) -> NDArray[np.float64]:
        """The field (H, W) of one channel."""
        descriptor, offsets = self._where[step]
        layout, (_, rows, columns) = self._layout, self._layout.shape
        block, place = divmod(channel, layout.channels)
        count = layout.rows * columns * self._type.itemsize
        first = block * layout.bands
        bands = [
            os.pread(descriptor, count, offset + place * count) for offset in offsets[first : first + layout.bands]
        ]
        return np.frombuffer(b"".join(bands), self._type).reshape(-1, columns)[:rows].astype(np.float64)


def _decompressed(fields: h5py.Dataset, folder: Path) -> tuple[int, NDArray[np.int64]]:
    """A decompressed copy of a shard's steps in an unnamed temporary file: its descriptor and the steps' offsets.

    Otherwise every chunk would be decompressed once per channel.
    """
    with TemporaryFile(dir=folder) as file:
        for step in range(len(fields)):
            file.write(fields[step].data)
        file.flush()
        size = int(np.prod(fields.shape[1:])) * fields.dtype.itemsize
        return os.dup(file.fileno()), size * np.arange(len(fields))


class _WindowMeans:
    """Means over the steps within `half_window` days of each slot's day, in a periodic year of `length` days."""

    def __init__(self, day: Index, slot_day: NDArray[np.int32], length: int, half_window: int) -> None:
        """`day`: day of the year of each time step; `slot_day`: of each slot."""
        present = np.unique(day)
        self._place = np.searchsorted(present, day).tolist()
        indices = np.arange(len(present))
        late, early = present > length - half_window, present <= half_window
        self._ring = np.concatenate([indices[late], indices, indices[early]])
        ring_days = np.concatenate([present[late] - length, present, present[early] + length])
        self._first = np.searchsorted(ring_days, slot_day - half_window)
        self._after = np.searchsorted(ring_days, slot_day + half_window, side="right")
        self._days = len(present)

    def means(self, fields: Iterable[NDArray[np.float64]]) -> NDArray[np.float64] | float:
        """Means (K, H, W) of one field (H, W) per time step; NaN where no step has a value."""
        if not self._days:
            return float("nan")
        total_DHW = count_DHW = np.empty(0)
        for place, field in zip(self._place, fields, strict=True):
            if not total_DHW.size:
                total_DHW, count_DHW = np.zeros((2, self._days, *field.shape))
            valid = ~np.isnan(field)
            total_DHW[place] += np.where(valid, field, 0.0)
            count_DHW[place] += valid
        sums, counts = (self._window_sums(values) for values in (total_DHW, count_DHW))
        return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0.5)

    def _window_sums(self, values_DHW: NDArray[np.float64]) -> NDArray[np.float64]:
        running = np.zeros((len(self._ring) + 1, *values_DHW.shape[1:]))
        np.cumsum(values_DHW[self._ring], axis=0, out=running[1:])
        return running[self._after] - running[self._first]
