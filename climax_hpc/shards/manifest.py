"""manifest.json: what a packed data set holds, written last and atomically; read back and checked."""

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
    """Relative to the data set."""
    sha256: str
    header_xxh3: str
    """`chunk_table.header_checksum`: what readers check when they open the file."""
    bytes: int
    steps: int
    first: str
    """First time, ISO 8601 in the calendar of the source."""
    last: str
    segment: int
    """Shards of one segment follow one another without a gap."""


@dataclass(frozen=True, kw_only=True)
class ClimatologyEntry:
    """The climatology of a source."""

    file: str
    sha256: str
    header_xxh3: str
    """`chunk_table.header_checksum`."""
    slots: int


@dataclass(frozen=True, kw_only=True)
class SourceEntry:
    """One source: its channels, grid, statistics and shards."""

    identity: dict[str, str]
    frequency: str
    step_hours: float
    calendar: str
    channels: list[str]
    static: list[str]
    grid: dict[str, Any]
    statistics: dict[str, dict[str, float]]
    shards: list[ShardEntry]
    climatology: ClimatologyEntry | None
    gaps: list[dict[str, str]]
    dropped_steps: int = 0
    """Steps left out because some variable lacks them."""
    derived: dict[str, str] = field(default_factory=dict)
    """Channel -> formula, for channels computed from others because no input file holds them."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A packed data set."""

    settings: dict[str, Any]
    sources: dict[str, SourceEntry]
    skipped: list[dict[str, str]]
    climax_hpc_version: str = ""
    schema: str = field(default=SCHEMA)
    schema_version: int = field(default=SCHEMA_VERSION)


def write_manifest(dataset: Path, manifest: Manifest) -> Path:
    """Write manifest.json into the folder of the data set; the path written."""
    path = dataset / FILE_NAME
    order = ("schema", "schema_version", "climax_hpc_version", "settings", "sources", "skipped")
    content = asdict(manifest)
    write_json(path, {key: content[key] for key in order})
    return path


def read_manifest(dataset: Path) -> Manifest:
    """The manifest of a packed data set.

    Raises:
        UserError: absent, not JSON, of another schema, or with keys missing or unknown.
    """
    path = dataset / FILE_NAME
    mend = "pack the data set again, or restore the file from a copy"
    if not path.is_file():
        raise UserError(f"{dataset}: holds no {FILE_NAME}, so it is not a (finished) data set; run `climax-hpc pack`")
    content = read_json(path, f"the manifest of a packed data set; {mend}")
    try:
        found = (content["schema"], content["schema_version"])
        if found != (SCHEMA, SCHEMA_VERSION):
            raise UserError(f"{path}: is {found[0]} version {found[1]}, not {SCHEMA} version {SCHEMA_VERSION}; {mend}")
        content["sources"] = {name: _source(entry) for name, entry in content["sources"].items()}
        return Manifest(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is damaged ({error}); {mend}") from error


def _source(entry: dict[str, Any]) -> SourceEntry:
    shards = [_shard(shard) for shard in entry["shards"]]
    climatology = None if entry["climatology"] is None else ClimatologyEntry(**entry["climatology"])
    return SourceEntry(**{**entry, "shards": shards, "climatology": climatology})


def _shard(entry: dict[str, Any]) -> ShardEntry:
    """One shard; data sets packed before `segment` had its name call it `stretch`."""
    renamed = {"segment" if key == "stretch" else key: value for key, value in entry.items()}
    return ShardEntry(**renamed)
