"""Mean by day of year and hour over the training period (61-day window), or by month for monthly data.

Shapes: K slots, D days of the year, C channels, H rows, W columns. Memory: one channel at a time, D x H x W.
Read from the finished shards, so that it is the mean of exactly what a model is trained on.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from climax_hpc.data_prep.calendars import DAYS_IN_YEAR, Seconds, to_dates
from climax_hpc.data_prep.manifest import ClimatologyEntry, ShardEntry
from climax_hpc.data_prep.pack import Job
from climax_hpc.data_prep.shard import Header, ShardWriter
from climax_hpc.data_prep.worklist import SourcePlan
from numpy.typing import NDArray

from climax_hpc.files import sha256, write_atomically

HALF_WINDOW_DAYS = 30  # 61 days, WeatherBench 2
FILE_NAME = "climatology.h5"
_MID_MONTH = (15, 46, 74, 105, 135, 166, 196, 227, 258, 288, 319, 349)  # day of year of the 15th, without leap day
Index = NDArray[np.int64]


def slots_of(seconds: Seconds, calendar: str, step_hours: float) -> tuple[Index, Index]:
    """Day of year and hour (T,) of each step; for months the 15th of the month in a year of 365 days, hour 0."""
    dates = to_dates(seconds, calendar)
    if step_hours == 0:
        return np.array([_MID_MONTH[d.month - 1] for d in dates], np.int64), np.zeros(len(dates), np.int64)
    return np.array([d.dayofyr for d in dates], np.int64), np.array([d.hour for d in dates], np.int64)


def write_climatology(job: Job, source: SourcePlan, header: Header, shards: list[ShardEntry]) -> ClimatologyEntry:
    """Write climatology.h5 of a source from its shards."""
    name = f"{source.name}/{FILE_NAME}"
    path = job.output / name
    day, hour = slots_of(source.seconds, source.calendar, source.step_hours)
    slots = sorted(set(zip(day.tolist(), hour.tolist(), strict=True)))
    days = DAYS_IN_YEAR.get(source.calendar, 366)
    trained = job.trained(source)
    half_window = 0 if source.step_hours == 0 else HALF_WINDOW_DAYS
    axis = {
        "day_of_year": np.array([d for d, _ in slots], np.int32),
        "hour": np.array([h for _, h in slots], np.int32),
    }

    def write(temporary: Path) -> None:
        writer = ShardWriter(temporary, header, axis, "float32")
        try:
            with _scratch(temporary, (len(slots), len(header.channels), *header.grid.shape)) as fields_KCHW:
                with _Steps([job.output / shard.file for shard in shards]) as steps:
                    for c in range(len(header.channels)):
                        for h in sorted({h for _, h in slots}):
                            chosen = np.flatnonzero(trained & (hour == h))
                            means_DHW = _window_means(steps, c, chosen, day[chosen], days, half_window)
                            for k in (k for k, (_, slot_hour) in enumerate(slots) if slot_hour == h):
                                fields_KCHW[k, c] = means_DHW[slots[k][0] - 1]
                for k in range(len(slots)):
                    writer.write(k, fields_KCHW[k])
        finally:
            writer.close()

    write_atomically(path, write)
    return ClimatologyEntry(file=name, sha256=sha256(path), slots=len(slots))


@contextmanager
def _scratch(beside: Path, shape: tuple[int, ...]) -> Iterator[NDArray[np.float32]]:
    """An array on disk: channels are made one by one, but chunks hold all channels."""
    path = beside.with_name(f".scratch{beside.name}")
    try:
        yield np.memmap(path, np.float32, "w+", shape=shape)
    finally:
        path.unlink(missing_ok=True)


class _Steps:
    """Single channels of single time steps of a source, by positional reads in its shards."""

    def __init__(self, paths: list[Path]) -> None:
        self._where: list[tuple[int, int]] = []
        self._descriptors = []
        for path in paths:
            with h5py.File(path, "r") as file:
                fields = file["fields"]
                self._type, self._shape = fields.dtype, fields.shape[2:]
                offsets = [fields.id.get_chunk_info(i).byte_offset for i in range(len(fields))]
            self._descriptors.append(os.open(path, os.O_RDONLY))
            self._where += [(self._descriptors[-1], offset) for offset in offsets]

    def __enter__(self) -> "_Steps":
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)

    def read(self, step: int, channel: int) -> NDArray[np.float64]:
        """The field (H, W) of one channel."""
        descriptor, offset = self._where[step]
        count = int(np.prod(self._shape)) * self._type.itemsize
        raw = os.pread(descriptor, count, offset + channel * count)
        return np.frombuffer(raw, self._type).reshape(self._shape).astype(np.float64)


def _window_means(
    steps: _Steps, channel: int, chosen: Index, day: Index, days: int, half_window: int
) -> NDArray[np.float64]:
    """Means (D, H, W) of the chosen steps within `half_window` days of each day of the year, round the year."""
    total: NDArray[np.float64] | None = None
    for step, d in zip(chosen.tolist(), day.tolist(), strict=True):
        field = steps.read(step, channel)
        if total is None:
            total, count = np.zeros((days, *field.shape)), np.zeros((days, *field.shape))
        valid = ~np.isnan(field)
        total[d - 1] += np.where(valid, field, 0.0)
        count[d - 1] += valid
    if total is None:
        return np.full((days, *steps.read(0, channel).shape), np.nan)
    sums, counts = (_circular_window(a, half_window) for a in (total, count))
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0.5)


def _circular_window(values: NDArray[np.float64], half: int) -> NDArray[np.float64]:
    """Sums of 2 · half + 1 neighbours along the first axis, the last beside the first."""
    if half == 0:
        return values
    ring = np.concatenate([values[-half:], values, values[:half]])
    running = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(ring, axis=0)])
    return running[2 * half + 1 :] - running[: -(2 * half + 1)]
