"""A source of a packed data set, read-only: its times, and verified reads of single time steps."""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import cftime
import numpy as np
from numpy.typing import NDArray

from climax_hpc.data.chunk_reader import ChunkFile, FileHandle, open_files
from climax_hpc.data.field_part import ALL, FieldPart, chunks_of
from climax_hpc.data.sampler import SourceTimes
from climax_hpc.data.segments import Segment
from climax_hpc.data.source_headers import SourceHeaders, read_headers
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import iso_to_hours, same_calendar
from climax_hpc.fields.grid import Grid
from climax_hpc.fields.periods import TIME_UNITS, period_hours
from climax_hpc.fields.variables import TENDENCY_HOURS, tendency_name
from climax_hpc.shards.climatology_index import climatology_index, entry_of
from climax_hpc.shards.manifest import ClimatologyEntry, FileEntry, ShardEntry, SourceEntry
from climax_hpc.shards.shard import RESTORE
from climax_hpc.utils.formatting import whole_steps

_UNKNOWN = -1  # climatology index of a time step that was not needed yet


class PackedSource:
    """One source of a data set; its time steps are numbered 0 … T-1 across all its shards."""

    def __init__(
        self,
        folder: Path,
        name: str,
        entry: SourceEntry,
        *,
        fix: str = RESTORE,
        handle_of: Callable[[str], FileHandle] | None = None,
    ) -> None:
        """`folder`: where the files of the manifest lie; `fix`: what to do about a damaged file, for messages.

        `handle_of`: see `ChunkFile`; None: a cache of its own.
        """
        self.name = name
        self._folder, self._entry, self._fix = folder, entry, fix
        self.channels, self.static_names = entry.channels, entry.static
        self.step_hours, self.calendar, self.frequency = entry.step_hours, entry.calendar, entry.frequency
        self.grid = Grid.from_dict(entry.grid)
        first_N, last_N = (
            iso_to_hours([getattr(s, at) for s in entry.shards], self.calendar) for at in ("first", "last")
        )
        order_N = first_N.argsort(kind="stable")
        self._shards = [entry.shards[i] for i in order_N]
        self._span_N2 = np.stack([first_N, last_N], axis=1)[order_N]
        self._is_even_N = [  # times that follow from the manifest, without opening the file
            self.step_hours > 0 and last - first == (shard.steps - 1) * self.step_hours
            for shard, (first, last) in zip(self._shards, self._span_N2.tolist(), strict=True)
        ]
        self._first = list(accumulate((s.steps for s in self._shards), initial=0))
        self._open: dict[str, ChunkFile] = {}
        self._handle_of = handle_of or open_files()
        self._entry_of_T = array("l", [_UNKNOWN]) * self.steps

    @property
    def steps(self) -> int:
        """Number T of time steps."""
        return self._first[-1]

    @property
    def identity(self) -> dict[str, str]:
        """Metadata of the input files: `source_id`, `institution_id`, `experiment_id`, …"""
        return dict(self._entry.identity)

    @property
    def files(self) -> list[FileEntry]:
        """Files of the source: shards in time order, then the climatology and the static fields if there are any."""
        return [*self._shards, *(entry for entry in self._entry.files if not isinstance(entry, ShardEntry))]

    @cached_property
    def headers(self) -> SourceHeaders:
        """What the files say about all time steps; set it to what another rank has read."""
        uneven = [s for s, even in zip(self._shards, self._is_even_N, strict=True) if not even]
        return read_headers(self._folder, self._entry, self._shards[0], uneven, self._fix)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the stored fields: float16 or float32."""
        return self.headers.dtype

    @property
    def chunk_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of a time step."""
        return (len(self.channels), *self.grid.shape)

    @property
    def mean_C(self) -> NDArray[np.float64]:
        """Mean (C,) that the z-scores of the shards are relative to [physical units]."""
        return np.array([self._entry.statistics[c]["mean"] for c in self.channels])

    @property
    def std_C(self) -> NDArray[np.float64]:
        """Standard deviation (C,) that the z-scores of the shards are relative to [physical units]."""
        return np.array([self._entry.statistics[c]["std"] for c in self.channels])

    @cached_property
    def hours(self) -> NDArray[np.float64]:
        """Time (T,) of every step [hours since 1850-01-01 in the calendar of the source]."""
        parts = []
        for shard, first, even in zip(self._shards, self._span_N2[:, 0].tolist(), self._is_even_N, strict=True):
            stored = first + self.step_hours * np.arange(shard.steps) if even else self.headers.hours[shard.file]
            parts.append(stored)
        return np.concatenate(parts)

    @cached_property
    def segments(self) -> list[Segment]:
        """The segments, in time order."""
        spans: dict[int, list[int]] = {}
        for shard, first in zip(self._shards, self._first, strict=False):
            span = spans.setdefault(shard.segment, [first, 0])
            span[1] += shard.steps
        return [Segment(first=first, steps=steps) for first, steps in sorted(spans.values())]

    @cached_property
    def tendency_steps(self) -> int | None:
        """Time steps over which tendencies are taken; None where 6 h are not a multiple of the time step."""
        return whole_steps(TENDENCY_HOURS, self.step_hours) if self.step_hours > 0 else None

    @cached_property
    def tendencies(self) -> list[str]:
        """Registry names of the tendencies of its channels; empty where it has no time 6 h before another."""
        return [tendency_name(name) for name in self.channels] if self.tendency_steps else []

    @cached_property
    def static(self) -> dict[str, NDArray[np.float32]]:
        """Static fields (H, W) by registry name, physical units; latitude is always among them."""
        rows, columns = self.grid.shape
        latitude_HW = np.repeat(self.grid.lat.astype(np.float32)[:, None], columns, axis=1)
        fields = {"latitude": latitude_HW} | self.headers.static
        assert all(field.shape == (rows, columns) for field in fields.values())
        return fields

    @property
    def cell_methods(self) -> dict[str, str]:
        """Channel -> CF cell methods of the input that it was packed from; empty text where that stated none."""
        return self.headers.cell_methods

    def within(self, period: tuple[str, str] | None) -> list[Segment]:
        """The segments inside a period (first and last date, both included, partial dates allowed); None: all.

        Raises:
            UserError: no time step lies in the period; names the first and last date of the source.
        """
        if period is None:
            return self.segments
        lower, upper = period_hours(period, self.calendar)
        cut = []
        for segment in self.segments:
            hours = self.hours[segment.first : segment.first + segment.steps]
            inside = np.flatnonzero((hours >= lower) & (hours < upper))
            if len(inside):
                cut.append(Segment(first=segment.first + int(inside[0]), steps=len(inside)))
        if not cut:
            first, last = self.date(0), self.date(len(self.hours) - 1)
            raise UserError(
                f"source {self.name} has no time step in {period[0]} … {period[1]}; it has {first} … {last}"
            )
        return cut

    def times(
        self,
        period: tuple[str, str] | None,
        min_lead_hours: float,
        max_lead_hours: float,
        *,
        history_steps: int = 0,
        tail_steps: int = 0,
        lead_stride_hours: float | None = None,
    ) -> SourceTimes:
        """What the sampler must know: segments inside the period; lead times, input history and tail in time steps.

        Raises:
            UserError: monthly or yearly data, or no lead time in the range is a multiple of the time step.
        """
        self.check_fixed_step()
        shortest = int(np.ceil(min_lead_hours / self.step_hours - 1e-9))
        longest = int(np.floor(max_lead_hours / self.step_hours + 1e-9))
        if longest < max(shortest, 1):
            raise UserError(
                f"no lead time in {min_lead_hours:g} … {max_lead_hours:g} h is a multiple of the {self.step_hours:g} h "
                f"step of source {self.name}: widen data.min_lead_hours … data.max_lead_hours"
            )
        return SourceTimes(
            segments=tuple((s.first, s.steps) for s in self.within(period)),
            min_lead_steps=max(shortest, 1),
            max_lead_steps=longest,
            history_steps=history_steps,
            tail_steps=tail_steps,
            lead_stride_steps=self._lead_stride(lead_stride_hours),
        )

    def check_fixed_step(self) -> None:
        """Refuse monthly and yearly data, which have no fixed time step.

        Raises:
            UserError: names the source.
        """
        if self.step_hours <= 0:
            kind = "yearly" if self.frequency == "yr" else "monthly"
            raise UserError(f"source {self.name} is {kind}: lead times in hours need data with a fixed time step")

    def _lead_stride(self, hours: float | None) -> int:
        if hours is None:
            return 1
        steps = whole_steps(hours, self.step_hours)
        if steps is None:
            raise UserError(
                f"data.lead_stride_hours: {hours:g} h is not a multiple of the {self.step_hours:g} h step of source "
                f"{self.name}; choose a multiple"
            )
        return steps

    def date(self, time_index: int) -> cftime.datetime:
        """Date of a time index in the calendar of the source."""
        return cftime.num2date(self.hours[time_index], TIME_UNITS, calendar=self.calendar)

    def part_of(self, names: Sequence[str], rows: tuple[int, int] | None = None) -> FieldPart:
        """The part of a time step with these channels, in the order of the source, and these rows; None: all rows."""
        wanted = sorted({self.channels.index(name) for name in names})
        return FieldPart(channels=None if len(wanted) == len(self.channels) else tuple(wanted), rows=rows)

    def share_of(self, parts: Iterable[FieldPart]) -> float:
        """Share of the chunks of a time step that hold any of these parts of it."""
        layout = self.headers.layout
        return len(chunks_of(layout, parts)) / layout.per_step

    def read(self, time_index: int, part: FieldPart = ALL) -> NDArray[Any]:
        """Z-scores (c, h, W) of a part of one time step as stored (float16 or float32); NaN is missing.

        Only the chunks that hold the part are read.
        """
        shard = bisect_right(self._first, time_index) - 1
        return self._file(self._shards[shard]).read(time_index - self._first[shard], part)

    def read_into(self, time_indices: Sequence[int], out_NCHW: NDArray[Any], part: FieldPart = ALL) -> None:
        """Read a part of these time steps into `out_NCHW` (N, c, h, W), of `dtype` and contiguous.

        Adjacent steps of one chunk each are read in one call.

        Raises:
            UserError: a file that is absent, truncated, or does not match its checksums.
        """
        raw, n = out_NCHW.data.cast("B"), out_NCHW[0].nbytes
        start = 0
        while start < len(time_indices):
            t = time_indices[start]
            shard = bisect_right(self._first, t) - 1
            most = min(len(time_indices), start + self._first[shard + 1] - t)
            stop = start + 1
            while stop < most and time_indices[stop] == t + stop - start:
                stop += 1
            self._file(self._shards[shard]).read_into(t - self._first[shard], raw[start * n : stop * n], part)
            start = stop

    def read_climatology(self, time_index: int, part: FieldPart = ALL) -> NDArray[np.float32]:
        """Climatology (c, h, W) of the day of year and hour of a time index, in the z-scores of the shards."""
        return self._file(self._climatology).read(self._entry_of(time_index), part)

    def check_calendar(self, calendar: str) -> None:
        """Refuse dates of a calendar whose days of the year are not those of the climatology.

        Raises:
            UserError: names both calendars.
        """
        if not same_calendar(calendar, self.calendar):
            raise UserError(
                f"climatology: that of source {self.name} has calendar {self.calendar}, the input {calendar}: their "
                "days of the year differ; give a climatology packed from data in the input's calendar"
            )

    def read_climatology_of(self, date: cftime.datetime) -> NDArray[np.float32]:
        """Climatology (C, H, W) of a date, even where the source has no such time step.

        The hour does not matter for daily means, nor the day for months.

        Raises:
            UserError: the climatology has another calendar, or no such day and hour.
        """
        self.check_calendar(date.calendar)
        day, hour = entry_of(date, self.step_hours, self.date(0).hour)
        entry = self.headers.climatology_entries.get((day, hour))
        if entry is None:
            raise UserError(
                f"the climatology of source {self.name} has no day {day} of the year at {hour:02d} h: forecast "
                "for days that the packed data hold, or pack whole years"
            )
        return self._file(self._climatology).read(entry)

    def read_climatology_into(
        self, time_indices: Sequence[int], out_NCHW: NDArray[np.float32], part: FieldPart = ALL
    ) -> None:
        """Read the climatology of these time steps into `out_NCHW` (N, c, h, W), contiguous; see `read_into`."""
        file = self._file(self._climatology)
        for t, out_CHW in zip(time_indices, out_NCHW, strict=True):
            file.read_into(self._entry_of(t), out_CHW.data.cast("B"), part)

    def _entry_of(self, time_index: int) -> int:
        entry = self._entry_of_T[time_index]
        if entry == _UNKNOWN:  # kept, because computing a calendar date takes longer than the read
            seconds = np.array([round(3600 * float(self.hours[time_index]))], np.int64)
            day, hour = climatology_index(seconds, self.calendar, self.step_hours)
            entry = self._entry_of_T[time_index] = self.headers.climatology_entries[(int(day[0]), int(hour[0]))]
        return entry

    @property
    def _climatology(self) -> ClimatologyEntry:
        if self._entry.climatology is None:
            raise UserError(
                f"source {self.name} was packed without a climatology, which anomalies and ACC need: "
                "pack it with climatology: true"
            )
        return self._entry.climatology

    def _file(self, entry: ShardEntry | ClimatologyEntry) -> ChunkFile:
        file = self._open.get(entry.file)
        if file is None:
            file = self._open[entry.file] = ChunkFile(
                self._folder, entry, shape=self.chunk_shape, handle_of=self._handle_of, fix=self._fix
            )
            expected = self.dtype if isinstance(entry, ShardEntry) else np.dtype(np.float32)
            if file.dtype != expected:
                raise UserError(f"{self._folder / entry.file}: holds {file.dtype}, not {expected}; {self._fix}")
        return file
