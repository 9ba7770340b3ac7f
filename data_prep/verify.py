"""`climax-hpc verify`: checks every byte of a packed data set against its manifest; names the first bad time step."""

import json
from pathlib import Path

import h5py
import numpy as np

from climax_hpc.data_prep.config import VerifyConfig
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import iso
from climax_hpc.shards.manifest import (
    FILE_NAME,
    ClimatologyEntry,
    FileEntry,
    Manifest,
    ShardEntry,
    SourceEntry,
    StaticEntry,
    read_manifest,
)
from climax_hpc.shards.open_listed import open_listed
from climax_hpc.shards.shard import RESTORE
from climax_hpc.shards.static_file import stored_static
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
    tasks = [(name, source, entry) for name, source in manifest.sources.items() for entry in source.files]
    paths = [dataset / entry.file for *_, entry in tasks]
    progress = Progress("verify", [p.stat().st_size / 1e6 if p.is_file() else 0.0 for p in paths], "MB", shown=shown)
    for i, task in enumerate(tasks):
        _verify_file(dataset, *task)
        progress(i, None)
    if unlisted := sorted(set(dataset.glob("*/*.h5")) - set(paths)):
        raise UserError(
            f"{unlisted[0]}: is not in {FILE_NAME}: its entry was removed, or the file is no part of the data set; "
            "restore the manifest from a copy, or move the file elsewhere"
        )
    return manifest


def _verify_file(dataset: Path, name: str, source: SourceEntry, entry: FileEntry) -> None:
    path = dataset / entry.file
    with open_listed(dataset, entry) as file:
        step = None if isinstance(entry, StaticEntry) else first_bad_step(file)
        if step is not None:
            raise UserError(f"{path}: {_when(file, source, step)} does not match its checksum; {RESTORE}")
        _compare(file, path, name, source, entry)
    if sha256(path) != entry.sha256:
        raise UserError(f"{path} ({entry.contents}): was changed after packing (sha256 differs); {RESTORE}")


def _when(file: h5py.File, source: SourceEntry, step: int) -> str:
    if "time" not in file:
        return f"slot {step}"
    stamp = (
        iso(round(float(file["time"][step]) * 3600), source.calendar) if step < len(file["time"]) else "beyond the end"
    )
    return f"time step {step} ({stamp})"


def _compare(file: h5py.File, path: Path, name: str, source: SourceEntry, entry: FileEntry) -> None:
    """Compare the contents with the manifest: one of version 1 does not notice itself that it was edited."""
    found = {
        "source": file.attrs["source"] == name,
        "identity": json.loads(file.attrs["identity"]) == source.identity,
        **{key: file.attrs[key] == getattr(source, key) for key in ("frequency", "step_hours", "calendar")},
        "grid": all(np.array_equal(file[key][:], np.array(values)) for key, values in source.grid.items()),
    }
    cells = (len(source.grid["lat"]), len(source.grid["lon"]))
    if isinstance(entry, StaticEntry) or source.static_file is None:  # else in a file of their own
        fields = stored_static(file)
        found["static"] = list(fields) == source.static
        found["shape of /static"] = all(field.shape == cells for field in fields.values())
    if not isinstance(entry, StaticEntry):
        statistics = [source.statistics[c] for c in source.channels]
        found["shape of /fields"] = file["fields"].shape == (entry.length, len(source.channels), *cells)
        found["channels"] = [c.decode() for c in file["channel"][:]] == source.channels
        found["mean"] = np.array_equal(file["mean"][:], [s["mean"] for s in statistics])
        found["std"] = np.array_equal(file["std"][:], [s["std"] for s in statistics])
    if isinstance(entry, ShardEntry):
        first, last = (iso(round(float(file["time"][i]) * 3600), source.calendar) for i in (0, -1))
        found |= {"first time": first == entry.first, "last time": last == entry.last}
    if not isinstance(entry, ClimatologyEntry):
        found["bytes"] = path.stat().st_size == entry.bytes
    wrong = [key for key, same in found.items() if not same]
    if wrong:
        raise UserError(f"{path}: {', '.join(wrong)} differ from manifest.json: the manifest was edited; {RESTORE}")
