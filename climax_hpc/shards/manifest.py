"""manifest.json, which lists all files of a packed data set: written last and atomically, checked when read."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from climax_hpc.errors import UserError
from climax_hpc.utils.files import read_json, write_json

SCHEMA = "climax_hpc/dataset"
SCHEMA_VERSION = 1
FILE_NAME = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One shard of a source."""

    file: str
    """Path relative to the data set."""
    sha256: str
    """Of the whole file."""
    header_xxh3: str
    """`chunk_table.header_checksum`, which readers check before they open the file."""
    bytes: int
    """Size of the file."""
    steps: int
    """Number of time steps."""
    first: str
    """First time, ISO 8601 in the calendar of the source."""
    last: str
    """Last time."""
    segment: int
    """Number of the contiguous segment that the shard belongs to."""


@dataclass(frozen=True, kw_only=True)
class ClimatologyEntry:
    """The climatology of a source."""

    file: str
    """Path relative to the data set."""
    sha256: str
    """Of the whole file."""
    header_xxh3: str
    """`chunk_table.header_checksum`, which readers check before they open the file."""
    slots: int
    """Number of entries: days of the year times hours, or months."""


@dataclass(frozen=True, kw_only=True)
class SourceEntry:
    """One source: its channels, grid, statistics and shards."""

    identity: dict[str, str]
    """Metadata of the input files: `source_id`, `institution_id`, `experiment_id`, …"""
    frequency: str
    """CMIP6 frequency: 1hr, 3hr, 6hr, day, mon or yr."""
    step_hours: float
    """Time step [h]; 0 for months and years."""
    calendar: str
    """CF calendar."""
    channels: list[str]
    """Registry names of the variables in `/fields`, in order."""
    static: list[str]
    """Registry names of the static fields."""
    grid: dict[str, Any]
    """`Grid.to_dict`."""
    statistics: dict[str, dict[str, float]]
    """Channel -> mean, std, min, max, missing_share over the training period [physical units]."""
    shards: list[ShardEntry]
    climatology: ClimatologyEntry | None
    """None where it was switched off."""
    gaps: list[dict[str, str]]
    """`after`, `before`: last time before and first time after each gap."""
    dropped_steps: int = 0
    """Time steps left out because some variable lacks them."""
    derived: dict[str, str] = field(default_factory=dict)
    """Channel -> formula, for channels that no input file holds and that were computed from others."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A packed data set."""

    settings: dict[str, Any]
    """`PackConfig` without paths."""
    sources: dict[str, SourceEntry]
    """Full name of a source -> its entry."""
    skipped: list[dict[str, str]]
    """`file`, `reason`: input files that were not packed."""
    climax_hpc_version: str = ""
    """Version that packed the data set."""
    schema: str = field(default=SCHEMA)
    schema_version: int = field(default=SCHEMA_VERSION)


def write_manifest(dataset: Path, manifest: Manifest) -> Path:
    """Write manifest.json into the folder of the data set; the path of the file."""
    path = dataset / FILE_NAME
    order = ("schema", "schema_version", "climax_hpc_version", "settings", "sources", "skipped")
    content = asdict(manifest)
    write_json(path, {key: content[key] for key in order})
    return path


def read_manifest(dataset: Path) -> Manifest:
    """The manifest of a packed data set.

    Raises:
        UserError: absent, not JSON, of another schema, or with missing or unknown keys.
    """
    path = dataset / FILE_NAME
    fix = "pack the data set again, or restore the file from a copy"
    if not path.is_file():
        raise UserError(f"{dataset}: holds no {FILE_NAME}, so it is not a finished data set; run `climax-hpc pack`")
    content = read_json(path, f"the manifest of a packed data set; {fix}")
    try:
        found = (content["schema"], content["schema_version"])
        if found != (SCHEMA, SCHEMA_VERSION):
            raise UserError(f"{path}: is {found[0]} version {found[1]}, not {SCHEMA} version {SCHEMA_VERSION}; {fix}")
        content["sources"] = {name: _source(entry) for name, entry in content["sources"].items()}
        return Manifest(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is damaged ({error}); {fix}") from error


def _source(entry: dict[str, Any]) -> SourceEntry:
    shards = [_shard(shard) for shard in entry["shards"]]
    climatology = None if entry["climatology"] is None else ClimatologyEntry(**entry["climatology"])
    return SourceEntry(**{**entry, "shards": shards, "climatology": climatology})


def _shard(entry: dict[str, Any]) -> ShardEntry:
    """One shard; data sets packed before `segment` had its name call it `stretch`."""
    renamed = {"segment" if key == "stretch" else key: value for key, value in entry.items()}
    return ShardEntry(**renamed)
