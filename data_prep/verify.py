"""`climax-hpc verify`: checks every byte of a packed data set against its manifest; names the first bad time step."""

import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from climax_hpc.data_prep.config import VerifyConfig
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import iso
from climax_hpc.shards.manifest import FILE_NAME, ClimatologyEntry, Manifest, ShardEntry, SourceEntry, read_manifest
from climax_hpc.shards.open_listed import open_listed
from climax_hpc.shards.shard import RESTORE
from climax_hpc.shards.stored_chunks import first_bad_step
from climax_hpc.utils.files import sha256
from climax_hpc.utils.progress import Progress


def verify_command(config: VerifyConfig) -> None:
    """`verify` for the command line; prints what was checked."""
    manifest = verify(Path(config.dataset))
    shards = [shard for source in manifest.sources.values() for shard in source.shards]
    print(
        f"{config.dataset}: {len(manifest.sources)} sources, {len(shards)} shards, "
        f"{sum(s.steps for s in shards)} steps, {sum(s.bytes for s in shards) / 1e6:.1f} MB: unchanged since packing"
    )


def verify(dataset: str | Path, *, shown: bool = True) -> Manifest:
    """Check sha256, chunk checksums and contents of every file of a data set; returns its manifest.

    `shown`: print progress.

    Raises:
        UserError: a file was changed after packing; the message names the first file, time step and the fix.
    """
    dataset = Path(dataset)
    manifest = read_manifest(dataset)
    tasks = list(_tasks(manifest))
    paths = [dataset / _entry(source, shard).file for _, source, shard in tasks]
    progress = Progress("verify", [p.stat().st_size / 1e6 if p.is_file() else 0.0 for p in paths], "MB", shown=shown)
    for i, (name, source, shard) in enumerate(tasks):
        _verify_file(dataset, name, source, shard)
        progress(i, None)
    if unlisted := sorted(set(dataset.glob("*/*.h5")) - set(paths)):
        raise UserError(
            f"{unlisted[0]}: is not in {FILE_NAME}: its entry was removed, or the file is no part of the data set; "
            "restore the manifest from a copy, or move the file elsewhere"
        )
    return manifest


def _tasks(manifest: Manifest) -> Iterator[tuple[str, SourceEntry, ShardEntry | None]]:
    for name, source in manifest.sources.items():
        yield from ((name, source, shard) for shard in source.shards)
        if source.climatology is not None:
            yield name, source, None


def _entry(source: SourceEntry, shard: ShardEntry | None) -> ShardEntry | ClimatologyEntry:
    """The entry of a shard; None: of the climatology."""
    entry = shard if shard is not None else source.climatology
    assert entry is not None
    return entry


def _verify_file(dataset: Path, name: str, source: SourceEntry, shard: ShardEntry | None) -> None:
    """Check one shard; None: the climatology of the source."""
    entry = _entry(source, shard)
    path, steps = dataset / entry.file, f"time steps 0 … {entry.length - 1}" if shard is not None else "all slots"
    with open_listed(dataset, entry) as file:
        step = first_bad_step(file)
        if step is not None:
            raise UserError(f"{path}: {_when(file, source, step)} does not match its checksum; {RESTORE}")
        _compare(file, path, name, source, shard)
    if sha256(path) != entry.sha256:
        raise UserError(f"{path} ({steps}): was changed after packing (sha256 differs); {RESTORE}")


def _when(file: h5py.File, source: SourceEntry, step: int) -> str:
    if "time" not in file:
        return f"slot {step}"
    stamp = (
        iso(round(float(file["time"][step]) * 3600), source.calendar) if step < len(file["time"]) else "beyond the end"
    )
    return f"time step {step} ({stamp})"


def _compare(file: h5py.File, path: Path, name: str, source: SourceEntry, shard: ShardEntry | None) -> None:
    """Compare the contents with the manifest: one of version 1 does not notice itself that it was edited."""
    shape = (_entry(source, shard).length, len(source.channels), len(source.grid["lat"]), len(source.grid["lon"]))
    statistics = [source.statistics[c] for c in source.channels]
    found = {
        "shape of /fields": file["fields"].shape == shape,
        "source": file.attrs["source"] == name,
        "channels": [c.decode() for c in file["channel"][:]] == source.channels,
        "static": [c.decode() for c in file["static_channel"][:]] == source.static,
        "identity": json.loads(file.attrs["identity"]) == source.identity,
        **{key: file.attrs[key] == getattr(source, key) for key in ("frequency", "step_hours", "calendar")},
        "mean": np.array_equal(file["mean"][:], [s["mean"] for s in statistics]),
        "std": np.array_equal(file["std"][:], [s["std"] for s in statistics]),
        "grid": all(np.array_equal(file[key][:], np.array(values)) for key, values in source.grid.items()),
    }
    if shard is not None:
        first, last = (iso(round(float(file["time"][i]) * 3600), source.calendar) for i in (0, -1))
        found |= {"first time": first == shard.first, "last time": last == shard.last}
        found["bytes"] = path.stat().st_size == shard.bytes
    wrong = [key for key, same in found.items() if not same]
    if wrong:
        raise UserError(f"{path}: {', '.join(wrong)} differ from manifest.json: the manifest was edited; {RESTORE}")
