"""Packed data sets, read-only: sources, their times, verified reads of single time steps."""

import os
from bisect import bisect_right
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import cftime
import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from climax_hpc.data.order import SourceTimes
from climax_hpc.data_prep.manifest import FILE_NAME, SourceEntry, read_manifest
from climax_hpc.data_prep.shard import RESTORE, open_shard
from climax_hpc.errors import UserError
from climax_hpc.files import sha256
from climax_hpc.grid import Grid
from climax_hpc.periods import TIME_UNITS, period_hours

_MOST_OPEN_FILES = 32  # of one source; it may have more shards than `ulimit -n` allows


class _Descriptor:
    """An open file; closed when the last reader lets go of it."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class ChunkFile:
    """The chunks of `/fields` of one shard: offsets asked of HDF5 once, then positional reads, each checked."""

    def __init__(self, path: Path, descriptor_of: "Callable[[str], _Descriptor]") -> None:
        self._path, self._descriptor_of = str(path), descriptor_of
        with open_shard(path, str(path)) as file:
            fields = file["fields"]
            self._chunk_shape, self.dtype = fields.chunks[1:], fields.dtype
            self._offsets = [fields.id.get_chunk_info(i).byte_offset for i in range(fields.shape[0])]
            self._checksums = file["checksum"][:]

    def read(self, index: int) -> NDArray[Any]:
        """The fields (C, H, W) of one time step.

        Raises:
            UserError: the bytes do not match their checksum.
        """
        chunk_CHW = np.empty(self._chunk_shape, self.dtype)
        file = self._descriptor_of(self._path)  # held while reading: another thread may push it out of the cache
        count = os.preadv(file.number, [chunk_CHW.data], self._offsets[index])
        if count != chunk_CHW.nbytes or xxhash.xxh3_64_intdigest(chunk_CHW.data) != int(self._checksums[index]):
            raise UserError(
                f"{self._path}: time step {index} does not match its checksum, so the file was changed or damaged "
                f"after packing: {RESTORE}"
            )
        return chunk_CHW


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A run of time steps without a gap, in time indices of its source."""

    first: int
    steps: int


class Source:
    """One source of a data set; its times are numbered 0 … T-1 through all its shards."""

    def __init__(self, folder: Path, name: str, entry: SourceEntry) -> None:
        self.name = name
        self._folder, self._entry = folder, entry
        self.channels, self.static_names = entry.channels, entry.static
        self.step_hours, self.calendar = entry.step_hours, entry.calendar
        self.grid = Grid(**{key: np.asarray(values) for key, values in entry.grid.items()})
        self._shards = sorted(entry.shards, key=lambda s: s.first)
        self._first = list(accumulate((s.steps for s in self._shards), initial=0))
        self._open: dict[str, ChunkFile] = {}
        self._descriptor_of = lru_cache(maxsize=_MOST_OPEN_FILES)(_Descriptor)
        self._slot_of: dict[int, int] = {}

    @property
    def mean_C(self) -> NDArray[np.float64]:
        """Mean (C,) of the shards' z-scores [physical units]."""
        return np.array([self._entry.statistics[c]["mean"] for c in self.channels])

    @property
    def std_C(self) -> NDArray[np.float64]:
        """Standard deviation (C,) of the shards' z-scores [physical units]."""
        return np.array([self._entry.statistics[c]["std"] for c in self.channels])

    @cached_property
    def hours(self) -> NDArray[np.float64]:
        """Time (T,) of every step, hours since 1850-01-01 in the source's calendar."""
        parts = []
        for shard in self._shards:
            with self._opened(shard.file) as file:
                parts.append(file["time"][:])
        return np.concatenate(parts)

    @cached_property
    def stretches(self) -> list[Stretch]:
        """Stretches without gaps, in time order."""
        spans: dict[int, list[int]] = {}
        for shard, first in zip(self._shards, self._first, strict=False):
            span = spans.setdefault(shard.stretch, [first, 0])
            span[1] += shard.steps
        return [Stretch(first=first, steps=steps) for first, steps in sorted(spans.values())]

    @cached_property
    def static(self) -> dict[str, NDArray[np.float32]]:
        """Static fields (H, W) by name, physical units; latitude is always there."""
        rows, columns = self.grid.shape
        fields = {"latitude": np.repeat(self.grid.lat.astype(np.float32)[:, None], columns, axis=1)}
        if self.static_names:
            with self._opened(self._shards[0].file) as file:
                fields |= dict(zip(self.static_names, file["static"][:], strict=True))
        assert all(field.shape == (rows, columns) for field in fields.values())
        return fields

    def within(self, period: tuple[str, str] | None) -> list[Stretch]:
        """The stretches cut to a period (first and last date, inclusive, partial dates allowed).

        Raises:
            UserError: nothing lies in the period; the message gives the source's own first and last date.
        """
        if period is None:
            return self.stretches
        lower, upper = period_hours(period, self.calendar)
        cut = []
        for stretch in self.stretches:
            hours = self.hours[stretch.first : stretch.first + stretch.steps]
            inside = np.flatnonzero((hours >= lower) & (hours < upper))
            if len(inside):
                cut.append(Stretch(first=stretch.first + int(inside[0]), steps=len(inside)))
        if not cut:
            first, last = self.date(0), self.date(len(self.hours) - 1)
            raise UserError(
                f"source {self.name} has no step in {period[0]} … {period[1]}; it runs from {first} to {last}"
            )
        return cut

    def times(self, period: tuple[str, str] | None, min_lead_hours: float, max_lead_hours: float) -> SourceTimes:
        """What the sample order needs: stretches inside the period and lead times in steps.

        Raises:
            UserError: monthly data, or no lead time in the range is a multiple of the time step.
        """
        if self.step_hours <= 0:
            raise UserError(f"source {self.name} is monthly: lead times in hours need data of a fixed time step")
        shortest = int(np.ceil(min_lead_hours / self.step_hours - 1e-9))
        longest = int(np.floor(max_lead_hours / self.step_hours + 1e-9))
        if longest < max(shortest, 1):
            raise UserError(
                f"no lead time in {min_lead_hours:g} … {max_lead_hours:g} h is a multiple of the {self.step_hours:g} h "
                f"step of source {self.name}: widen data.min_lead_hours … data.max_lead_hours"
            )
        return SourceTimes(
            stretches=tuple((s.first, s.steps) for s in self.within(period)),
            min_lead_steps=max(shortest, 1),
            max_lead_steps=longest,
        )

    def date(self, time_index: int) -> cftime.datetime:
        """Calendar date of a time index."""
        return cftime.num2date(self.hours[time_index], TIME_UNITS, calendar=self.calendar)

    def read(self, time_index: int) -> NDArray[Any]:
        """The z-scores (C, H, W) of one time step, as stored (float16 or float32); NaN is missing."""
        shard = bisect_right(self._first, time_index) - 1
        return self._file(self._shards[shard].file).read(time_index - self._first[shard])

    def read_climatology(self, time_index: int) -> NDArray[np.float32]:
        """The climatology (C, H, W) of the day of year and hour of a time index, in the shards' z-scores."""
        if time_index not in self._slot_of:  # a calendar date takes longer than the read
            date = self.date(time_index)
            self._slot_of[time_index] = self._slots[(date.dayofyr, date.hour)]
        return self._file(self._climatology_file).read(self._slot_of[time_index])

    @property
    def _climatology_file(self) -> str:
        if self._entry.climatology is None:
            raise UserError(
                f"source {self.name} was packed without a climatology, which anomalies and ACC need: "
                "pack it with climatology: true"
            )
        return self._entry.climatology.file

    @cached_property
    def _slots(self) -> dict[tuple[int, int], int]:
        with self._opened(self._climatology_file) as file:
            return {
                key: k
                for k, key in enumerate(zip(file["day_of_year"][:].tolist(), file["hour"][:].tolist(), strict=True))
            }

    def _opened(self, name: str) -> AbstractContextManager[h5py.File]:
        return open_shard(self._folder / name, str(self._folder / name))

    def _file(self, name: str) -> ChunkFile:
        if name not in self._open:
            self._open[name] = ChunkFile(self._folder / name, self._descriptor_of)
        return self._open[name]


class DataSet:
    """A packed data set: the sources of its manifest."""

    def __init__(self, folder: str | Path) -> None:
        """Open the manifest.

        Raises:
            UserError: the folder has no manifest, or a damaged one.
        """
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        self.manifest_sha256 = sha256(self.folder / FILE_NAME)
        self.sources = {name: Source(self.folder, name, entry) for name, entry in manifest.sources.items()}

    def select(self, names: list[str] | None) -> list[Source]:
        """Sources by full name or CMIP6 source_id, in name order; all where None."""
        if names is None:
            return [self.sources[name] for name in sorted(self.sources)]
        return [self.sources[name] for name in sorted({self.full_name(name) for name in names})]

    def full_name(self, name: str) -> str:
        """Full name of a source given by full name or by source_id.

        Raises:
            UserError: none, or more than one, fits.
        """
        fits = [full for full in self.sources if name in (full, full.split("_")[0])]
        if len(fits) != 1:
            found = "several sources fit" if fits else "no source"
            raise UserError(f"{found} {name!r} in {self.folder}; it holds {', '.join(sorted(self.sources))}")
        return fits[0]
