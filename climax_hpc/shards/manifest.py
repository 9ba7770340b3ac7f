"""manifest.json, which lists all files of a packed data set: written last and atomically, checked when read."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import STEP_HOURS, iso_to_hours, step_index, to_seconds
from climax_hpc.fields.grid import Grid
from climax_hpc.utils.files import parse_json, read_bytes
from climax_hpc.utils.names import Name, RelativePath
from climax_hpc.utils.typed_json import SEAL, Count, Number, Sha256, check_schema, check_seal, typed, write_sealed

SCHEMA = "climax_hpc/dataset"
SCHEMA_VERSION = 3
"""Read too: version 2, which has no files of static fields, and version 1, which lacks the file's own hash as well."""
FILE_NAME = "manifest.json"
_FIX = "pack the data set again, or restore the file from a copy"
_WHAT = f"the manifest of a packed data set; {_FIX}"
_STATISTICS = {"mean", "std", "min", "max", "missing_share"}
HeaderChecksum = Annotated[str, Field(pattern=r"^[0-9a-f]{16}@\d+-\d+(,\d+-\d+)*$")]
"""See `chunk_table.header_checksum`."""


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One shard of a source."""

    file: RelativePath
    """Path relative to the data set."""
    sha256: Sha256
    """Of the whole file."""
    header_xxh3: HeaderChecksum
    """`chunk_table.header_checksum`, which readers check before they open the file."""
    bytes: Count
    """Size of the file."""
    steps: Annotated[int, Field(ge=1)]
    """Number of time steps."""
    first: str
    """First time, ISO 8601 in the calendar of the source."""
    last: str
    """Last time."""
    segment: Count
    """Number of the contiguous segment that the shard belongs to."""

    @property
    def length(self) -> int:
        """Number of chunks."""
        return self.steps

    @property
    def contents(self) -> str:
        """What it holds, for messages."""
        return f"time steps 0 … {self.steps - 1}"


@dataclass(frozen=True, kw_only=True)
class ClimatologyEntry:
    """The climatology of a source."""

    file: RelativePath
    """Path relative to the data set."""
    sha256: Sha256
    """Of the whole file."""
    header_xxh3: HeaderChecksum
    """`chunk_table.header_checksum`, which readers check before they open the file."""
    slots: Annotated[int, Field(ge=1)]
    """Number of entries: days of the year times hours, or months."""

    @property
    def length(self) -> int:
        """Number of chunks."""
        return self.slots

    @property
    def contents(self) -> str:
        """What it holds, for messages."""
        return f"slots 0 … {self.slots - 1}"


@dataclass(frozen=True, kw_only=True)
class StaticEntry:
    """The file of the static fields of a source."""

    file: RelativePath
    """Path relative to the data set."""
    sha256: Sha256
    """Of the whole file."""
    header_xxh3: HeaderChecksum
    """`chunk_table.header_checksum`: the file holds no chunks, so that it covers all bytes."""
    bytes: Count
    """Size of the file."""

    @property
    def contents(self) -> str:
        """What it holds, for messages."""
        return "static fields"


FileEntry = ShardEntry | ClimatologyEntry | StaticEntry
"""The entry of any file of a source."""


@dataclass(frozen=True, kw_only=True)
class SourceEntry:
    """One source: its channels, grid, statistics and shards."""

    identity: dict[str, str]
    """Metadata of the input files: `source_id`, `institution_id`, `experiment_id`, …"""
    frequency: str
    """CMIP6 frequency: 1hr, 3hr, 6hr, day, mon or yr."""
    step_hours: Annotated[Number, Field(ge=0)]
    """Time step [h]; 0 for months and years."""
    calendar: str
    """CF calendar."""
    channels: list[str]
    """Registry names of the variables in `/fields`, in order."""
    static: list[str]
    """Registry names of the static fields."""
    grid: dict[str, Any]
    """`Grid.to_dict`."""
    statistics: dict[str, dict[str, Number]]
    """Channel -> mean, std, min, max, missing_share over the training period [physical units]."""
    shards: list[ShardEntry]
    climatology: ClimatologyEntry | None
    """None where it was switched off."""
    static_file: StaticEntry | None = None
    """None without static fields, and in data sets before version 3, whose shards hold them."""
    gaps: list[dict[str, str]]
    """`after`, `before`: last time before and first time after each gap."""
    dropped_steps: Count = 0
    """Time steps left out because some variable lacks them."""
    derived: dict[str, str] = field(default_factory=dict)
    """Channel -> formula, for channels that no input file holds and that were computed from others."""

    def __post_init__(self) -> None:
        if STEP_HOURS.get(self.frequency) != self.step_hours:
            raise ValueError(f"frequency {self.frequency} and step_hours {self.step_hours:g} do not match")
        Grid.from_dict(self.grid)
        for key in ("channels", "static"):
            _check_once(getattr(self, key), key)
        if not self.channels or not self.shards:
            raise ValueError("there is no channel or no shard")
        if set(self.statistics) != set(self.channels) or any(set(s) != _STATISTICS for s in self.statistics.values()):
            raise ValueError(f"statistics must hold {', '.join(sorted(_STATISTICS))} of every channel")
        if any(s["std"] <= 0 or not s["min"] <= s["max"] for s in self.statistics.values()):
            raise ValueError("statistics: a std is not above 0, or a min above its max")
        _check_times(self)

    @property
    def files(self) -> list[FileEntry]:
        """Entries of the shards, then of the climatology and of the static fields."""
        return [*self.shards, *(entry for entry in (self.climatology, self.static_file) if entry is not None)]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A packed data set."""

    settings: dict[str, Any]
    """`PackConfig` without paths."""
    sources: Annotated[dict[Name, SourceEntry], Field(min_length=1)]
    """Full name of a source -> its entry."""
    skipped: list[dict[str, str]]
    """`file`, `reason`: input files that were not packed."""
    climax_hpc_version: str = ""
    """Version that packed the data set."""
    schema: str = field(default=SCHEMA)
    schema_version: int = field(default=SCHEMA_VERSION)
    sha256: Sha256 | None = None
    """Of the manifest itself (`typed_json.SEAL`); None before it is written, and in version 1."""

    def __post_init__(self) -> None:
        _check_once([entry.file for source in self.sources.values() for entry in source.files], "file")


def write_manifest(dataset: Path, manifest: Manifest) -> Path:
    """Write manifest.json into the folder of the data set; the path of the file."""
    path = dataset / FILE_NAME
    content = asdict(manifest) | {"schema": SCHEMA, "schema_version": SCHEMA_VERSION}
    order = ("schema", "schema_version", "climax_hpc_version", "settings", "sources", "skipped")
    write_sealed(path, {key: content[key] for key in order})
    return path


def manifest_bytes(dataset: Path) -> bytes:
    """The manifest of a packed data set as it is in its file.

    Raises:
        UserError: absent.
    """
    path = dataset / FILE_NAME
    if not path.is_file():
        raise UserError(f"{dataset}: holds no {FILE_NAME}, so it is not a finished data set; run `climax-hpc pack`")
    return read_bytes(path, _WHAT)


def read_manifest(dataset: Path, raw: bytes | None = None) -> Manifest:
    """The manifest of a packed data set; `raw`: its `manifest_bytes`, if they were read before.

    Raises:
        UserError: absent, not JSON, of another schema, edited, or with keys or values that a manifest cannot have.
    """
    path = dataset / FILE_NAME
    raw = manifest_bytes(dataset) if raw is None else raw
    content = parse_json(raw, path, _WHAT)
    version = check_schema(content, SCHEMA, SCHEMA_VERSION, str(path), _FIX)
    if version == 1:
        _rename_stretches(content)
    manifest: Manifest = typed(content, Manifest, str(path), _FIX)
    if version > 1 or SEAL in content:
        check_seal(raw, manifest.sha256, str(path), _FIX)
    return manifest


def _rename_stretches(content: Any) -> None:
    """Data sets packed before `segment` had its name call it `stretch`."""
    sources = content.get("sources")
    for source in sources.values() if isinstance(sources, dict) else ():
        shards = source.get("shards") if isinstance(source, dict) else None
        for shard in shards if isinstance(shards, list) else ():
            if isinstance(shard, dict) and "stretch" in shard:
                shard["segment"] = shard.pop("stretch")


def _check_once(names: Iterable[str], what: str) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"{what} {repeated[0]!r} is listed twice")


def _check_times(source: SourceEntry) -> None:
    """First and last times against numbers of steps and segments."""
    hours = iso_to_hours([text for s in source.shards for text in (s.first, s.last)], source.calendar)
    seconds = to_seconds(hours)
    seconds_N2 = seconds.reshape(-1, 2)
    index_N2 = step_index(seconds, source.calendar, source.frequency).reshape(-1, 2)
    steps_N, segment_N = (np.array([getattr(s, key) for s in source.shards]) for key in ("steps", "segment"))
    wrong_N = index_N2[:, 1] - index_N2[:, 0] + 1 != steps_N
    if wrong_N.any():
        shard = source.shards[int(wrong_N.argmax())]
        raise ValueError(f"{shard.file} has {shard.steps} steps from {shard.first} to {shard.last}")
    order_N = seconds_N2[:, 0].argsort()
    after_M = index_N2[order_N[1:], 0] - index_N2[order_N[:-1], 1]
    same_M = np.diff(segment_N[order_N]) == 0
    wrong_M = (after_M < 1) | (same_M != (after_M == 1))
    if wrong_M.any():
        first, second = (source.shards[int(i)] for i in order_N[int(wrong_M.argmax()) :][:2])
        raise ValueError(
            f"segments {first.segment} and {second.segment}: the shards {first.first} … {first.last} and "
            f"{second.first} … {second.last} overlap, or their segments do not follow the gaps between them"
        )
