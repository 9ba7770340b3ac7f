"""What to pack: the sources of a data set, their series in time, and the work units (one shard each)."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data_prep.packing.target_grid import TargetGrid
from climax_hpc.data_prep.sources.conversions import Derivation
from climax_hpc.data_prep.sources.input_root import Root
from climax_hpc.data_prep.sources.read_file import InputFile
from climax_hpc.data_prep.sources.skipped import SkippedFile
from climax_hpc.fields.calendars import Seconds, iso

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Series:
    """One variable of a source over the common time steps, read from files or computed from other series."""

    variable_id: str
    files: list[InputFile]
    """In order of time; for a derived variable those of its first ingredient."""
    levels: list[int | None]
    """Pressure levels packed [hPa]; [None] at the surface."""
    channels: list[str]
    """Registry names, one per level."""
    file_of_step: Index
    """Index into `files` (T,)."""
    step_in_file: Index
    """Step within that file (T,)."""
    derivation: Derivation | None = None
    """How a derived variable is computed; None if the files contain it."""
    ingredients: list["Series"] = field(default_factory=list)
    """The series that a derived variable is computed from, at the same levels and on the same grid."""

    def all_files(self) -> list[InputFile]:
        """Every file that the series is read from."""
        return [f for i in self.ingredients for f in i.files] if self.ingredients else self.files


@dataclass(frozen=True)
class WorkUnit:
    """Steps start … stop-1 of a source: one shard."""

    source: int
    """Index into the plan's sources."""
    start: int
    stop: int
    segment: int
    """Number of the segment of the source that contains it."""
    file: str
    """Path of the shard, relative to the data set."""


@dataclass(frozen=True, eq=False)
class SourcePlan:
    """What is known of a source before its fields are read."""

    name: str
    identity: dict[str, str]
    frequency: str
    step_hours: float
    calendar: str
    seconds: Seconds
    """Common time steps (T,), seconds since 1850."""
    segment_starts: list[int]
    """First step of each segment; a segment is contiguous in time."""
    dropped_steps: int
    """Number of steps that some but not all variables have."""
    series: list[Series]
    static: list[InputFile]
    channels: list[str]
    """Registry names in registry order: the channel axis."""
    static_channels: list[str]
    target: TargetGrid
    """The grid of its shards."""

    def derived(self) -> dict[str, str]:
        """Derived channel -> formula."""
        return {c: s.derivation.formula for s in self.series if s.derivation for c in s.channels}

    def gaps(self) -> list[dict[str, str]]:
        """Last time before (`after`) and first time behind (`before`) each gap."""
        return [
            {"after": iso(self.seconds[i - 1], self.calendar), "before": iso(self.seconds[i], self.calendar)}
            for i in self.segment_starts[1:]
        ]

    def input_files(self) -> list[str]:
        """Every input file of the source."""
        files = [f.file for s in self.series for f in s.all_files()] + [f.file for f in self.static]
        return sorted(set(files))


@dataclass(frozen=True, eq=False)
class PackPlan:
    """What to pack, in a fixed order; the same on all ranks."""

    root: Root
    """Folder of the input, or its stores."""
    sources: list[SourcePlan]
    work_units: list[WorkUnit]
    """In order of sources and time."""
    skipped: list[SkippedFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What to warn of, a line each."""
