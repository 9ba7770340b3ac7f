"""`climax-hpc pair`: lists the common time steps of a coarse and a fine data set in one JSON file, for downscaling.

Both are ordinary packed data sets, each on its own grid; no field is copied. Per pair of sources the file lists the
segments of consecutive steps that both have: first step in the coarse source, first step in the fine source, length.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from climax_hpc.config.paths import ConfigPath, check_outside
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import Seconds, iso, same_calendar, step_index, to_seconds
from climax_hpc.shards.manifest import FILE_NAME, SourceEntry, read_manifest
from climax_hpc.shards.open_listed import open_listed
from climax_hpc.utils.files import made_folder, parse_json, read_bytes, sha256
from climax_hpc.utils.typed_json import Count, Sha256, check_schema, check_seal, typed, write_sealed

SCHEMA, SCHEMA_VERSION = "climax_hpc/pairs", 2
"""Version 1, which lacks the file's own hash, is read too."""
_FIX = "run `climax-hpc pair` again"
Index = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """Which data sets to pair.

    Raises:
        UserError: an invalid value.
    """

    coarse: ConfigPath
    """Folder of the packed data set of inputs."""
    fine: ConfigPath
    """Folder of the packed data set of targets, of smaller cells."""
    output: ConfigPath
    """JSON file to write; it refers to both data sets relative to its own folder."""
    sources: dict[str, str] | None = None
    """Fine source -> coarse source, full names; null: sources of the same name, or the only source of each."""

    def __post_init__(self) -> None:
        for key in ("coarse", "fine", "output"):
            if not getattr(self, key):
                raise UserError(f"{key}: is empty; give a {'file' if key == 'output' else 'folder'}")
        check_outside(self.output, (self.coarse, self.fine))
        if self.sources is not None and not self.sources:
            raise UserError("sources: an empty mapping pairs nothing; leave it out to pair sources of the same name")


@dataclass(frozen=True, kw_only=True)
class SharedSegment:
    """Consecutive steps that both sources have."""

    coarse_start: Count
    """Step of the coarse source, counted over all its shards."""
    fine_start: Count
    steps: Annotated[int, Field(ge=1)]
    first: str
    """First time, ISO 8601 in the calendar of the fine source."""
    last: str


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A coarse and a fine source with their common time steps."""

    coarse: str
    fine: str
    frequency: str
    segments: list[SharedSegment]

    def steps(self) -> tuple[Index, Index]:
        """Time indices (T,) in the coarse source and (T,) in the fine source, of equal times."""
        return (
            np.concatenate([np.arange(s.coarse_start, s.coarse_start + s.steps) for s in self.segments]),
            np.concatenate([np.arange(s.fine_start, s.fine_start + s.steps) for s in self.segments]),
        )


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The contents of a pairs file; paths are absolute."""

    coarse: Path
    fine: Path
    pairs: list[Pair]


@dataclass(frozen=True, kw_only=True)
class _StoredPair:
    """A pair as it is stored, where segments are called `runs`."""

    coarse: str
    fine: str
    frequency: str
    runs: Annotated[list[SharedSegment], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class _StoredDataSet:
    dataset: str
    """Folder, relative to that of the file."""
    manifest_sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class _StoredPairs:
    """The content of a pairs file."""

    schema: str
    schema_version: int
    coarse: _StoredDataSet
    fine: _StoredDataSet
    pairs: Annotated[list[_StoredPair], Field(min_length=1)]
    sha256: Sha256 | None = None
    """Of the file itself (`typed_json.SEAL`); None in version 1."""


def pair(config: PairConfig) -> Path:
    """Write the pairs of two data sets; returns the path of the file.

    Raises:
        UserError: not data sets, or sources that do not match (name, frequency, calendar, grid, times).
    """
    folders = {"coarse": Path(config.coarse), "fine": Path(config.fine)}
    manifests = {kind: read_manifest(folder) for kind, folder in folders.items()}
    names = _names(manifests["coarse"].sources, manifests["fine"].sources, config)
    found = []
    for fine, coarse in names:
        entries = {"coarse": manifests["coarse"].sources[coarse], "fine": manifests["fine"].sources[fine]}
        _refuse_mismatch(coarse, fine, entries["coarse"], entries["fine"])
        found.append(_pair(folders, coarse, fine, entries["coarse"], entries["fine"]))
    output = Path(config.output)
    content: dict[str, Any] = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION}
    for kind, folder in folders.items():
        place = os.path.relpath(folder.resolve(), output.parent.resolve())
        content[kind] = {"dataset": Path(place).as_posix(), "manifest_sha256": sha256(folder / FILE_NAME)}
    with made_folder(output.parent, "output"):
        write_sealed(output, content | {"pairs": [_to_json(p) for p in found]})
    for p in found:
        count = sum(s.steps for s in p.segments)
        print(f"{p.coarse} -> {p.fine}: {count} steps in {len(p.segments)} segments ({p.frequency})")
    print(f"paired {len(found)} sources: {output}", flush=True)
    return output


def read_pairs(path: Path) -> Pairs:
    """Read a pairs file and check that its data sets are unchanged.

    Raises:
        UserError: the file is absent, damaged or of another schema; a data set is absent or was packed again.
    """
    what = f"pairs for downscaling; {_FIX}"
    raw = read_bytes(path, what)
    content = parse_json(raw, path, what)
    version = check_schema(content, SCHEMA, SCHEMA_VERSION, str(path), _FIX)
    stored: _StoredPairs = typed(content, _StoredPairs, str(path), _FIX)
    if version > 1 or stored.sha256 is not None:
        check_seal(raw, stored.sha256, str(path), _FIX)
    folders = {}
    for kind, data in (("coarse", stored.coarse), ("fine", stored.fine)):
        folder = folders[kind] = (path.parent / data.dataset).resolve()
        read_manifest(folder)
        if sha256(folder / FILE_NAME) != data.manifest_sha256:
            raise UserError(f"{path}: the {kind} data set {folder} was packed again since; {_FIX}")
    pairs = [Pair(coarse=p.coarse, fine=p.fine, frequency=p.frequency, segments=p.runs) for p in stored.pairs]
    return Pairs(coarse=folders["coarse"], fine=folders["fine"], pairs=pairs)


def _to_json(pair_of_sources: Pair) -> dict[str, Any]:
    """The JSON form, in which segments are called `runs`."""
    content = asdict(pair_of_sources)
    return content | {"runs": content.pop("segments")}


def _names(coarse: dict[str, SourceEntry], fine: dict[str, SourceEntry], config: PairConfig) -> list[tuple[str, str]]:
    """(fine, coarse) names to pair."""
    if config.sources is not None:
        for key, held in ((0, fine), (1, coarse)):
            for names in config.sources.items():
                if names[key] not in held:
                    raise UserError(
                        f"sources: {names[key]!r} is not in {config.fine if key == 0 else config.coarse}; "
                        f"choose from {', '.join(held)}"
                    )
        return list(config.sources.items())
    same = [(name, name) for name in fine if name in coarse]
    if not same and len(fine) == len(coarse) == 1:
        return [(next(iter(fine)), next(iter(coarse)))]
    if not same:
        raise UserError(
            f"sources: {config.fine} ({', '.join(fine)}) and {config.coarse} ({', '.join(coarse)}) have no source name "
            "in common; name the pairs with sources: {FINE: COARSE}"
        )
    return same


def _refuse_mismatch(coarse_name: str, fine_name: str, coarse: SourceEntry, fine: SourceEntry) -> None:
    what = f"{coarse_name} -> {fine_name}"
    for key in ("frequency", "calendar"):
        values = getattr(coarse, key), getattr(fine, key)
        if values[0] != values[1] and not (key == "calendar" and same_calendar(*values)):
            raise UserError(f"{what}: {key} {values[0]} and {values[1]} do not match; pack both with the same {key}")
    heights = _row_height(coarse), _row_height(fine)
    if heights[0] <= heights[1]:
        exchanged = heights[0] < heights[1]
        raise UserError(
            f"{what}: the coarse source has rows of {heights[0]:.3g}°, the fine one of {heights[1]:.3g}°; "
            f"{'exchange `coarse` and `fine`' if exchanged else 'give data with larger cells as `coarse`'}"
        )
    rows = [np.asarray(s.grid["lat_bnds"]) for s in (coarse, fine)]
    if rows[0].min() >= rows[1].max() or rows[1].min() >= rows[0].max() or not _share_longitudes(coarse, fine):
        raise UserError(f"{what}: the two cover different parts of the globe; pack both for one region")


def _row_height(source: SourceEntry) -> float:
    edges = np.asarray(source.grid["lat_bnds"])
    return float(np.median(edges[:, 1] - edges[:, 0]))


def _share_longitudes(coarse: SourceEntry, fine: SourceEntry) -> bool:
    (a0, a1), (b0, b1) = ((s.grid["lon_bnds"][0][0], s.grid["lon_bnds"][-1][1]) for s in (coarse, fine))
    return any(min(a1, b1 + turn) > max(a0, b0 + turn) for turn in (-720, -360, 0, 360, 720))


def _pair(folders: dict[str, Path], coarse: str, fine: str, coarse_of: SourceEntry, fine_of: SourceEntry) -> Pair:
    """The time steps of two sources that represent the same instant, day, month or year."""
    seconds = {"coarse": _seconds(folders["coarse"], coarse_of), "fine": _seconds(folders["fine"], fine_of)}
    numbers = {
        kind: time_numbers(s, fine_of.calendar, fine_of.frequency, fine_of.step_hours) for kind, s in seconds.items()
    }
    _, at_coarse, at_fine = np.intersect1d(numbers["coarse"], numbers["fine"], return_indices=True)
    if not len(at_fine):
        spans = [f"{s.shards[0].first[:16]} … {s.shards[-1].last[:16]}" for s in (coarse_of, fine_of)]
        raise UserError(
            f"{coarse} -> {fine}: no time step in common ({spans[0]} and {spans[1]}); pack overlapping periods"
        )
    following = step_index(seconds["fine"][at_fine], fine_of.calendar, fine_of.frequency)
    breaks = np.flatnonzero((np.diff(at_coarse) != 1) | (np.diff(at_fine) != 1) | (np.diff(following) != 1)) + 1
    segments = [
        SharedSegment(
            coarse_start=int(at_coarse[at[0]]),
            fine_start=int(at_fine[at[0]]),
            steps=len(at),
            first=iso(seconds["fine"][at_fine[at[0]]], fine_of.calendar),
            last=iso(seconds["fine"][at_fine[at[-1]]], fine_of.calendar),
        )
        for at in np.split(np.arange(len(at_fine)), breaks)
    ]
    return Pair(coarse=coarse, fine=fine, frequency=fine_of.frequency, segments=segments)


def time_numbers(seconds: Seconds, calendar: str, frequency: str, step_hours: float) -> Index:
    """What identifies each time step: the instant if the step is below a day, else the day, month or year."""
    return seconds if 0 < step_hours < 24 else step_index(seconds, calendar, frequency)


def _seconds(dataset: Path, source: SourceEntry) -> Seconds:
    return np.concatenate(list(_times(dataset, source)))


def _times(dataset: Path, source: SourceEntry) -> Iterator[Seconds]:
    for shard in source.shards:
        with open_listed(dataset, shard) as file:
            yield to_seconds(file["time"][:])
