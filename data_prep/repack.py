"""`climax-hpc repack`: the same data set with other chunks; every chunk is compared with its checksum on the way.

A shard is finished when it has been flushed and renamed, so that an interrupted repack resumes by shard.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import h5py

from climax_hpc.config.paths import with_expanded_paths
from climax_hpc.data_prep.config import RepackConfig
from climax_hpc.data_prep.packing.first_pass import FirstPass
from climax_hpc.data_prep.packing.output_folder import OutputFolder, written_by
from climax_hpc.data_prep.packing.work_queue import WorkQueue
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import Grid
from climax_hpc.shards.chunk_layout import AUTO, ChunkLayout, choose_layout
from climax_hpc.shards.chunk_table import header_checksum
from climax_hpc.shards.manifest import (
    FILE_NAME,
    ClimatologyEntry,
    FileEntry,
    Manifest,
    ShardEntry,
    SourceEntry,
    StaticEntry,
    read_manifest,
    write_manifest,
)
from climax_hpc.shards.open_listed import open_listed
from climax_hpc.shards.shard import RESTORE, SCHEMA_VERSION, ShardWriter, read_header
from climax_hpc.shards.static_file import static_entry, static_file, stored_static, write_static
from climax_hpc.shards.stored_chunks import StoredChunks, layout_of
from climax_hpc.utils.atomic import write_atomically
from climax_hpc.utils.files import reserve, sha256
from climax_hpc.utils.progress import Progress
from climax_hpc.utils.provenance import package_version


@dataclass(frozen=True, kw_only=True)
class RepackTask:
    """One file to write again."""

    source: str
    entry: FileEntry
    """The file to read."""
    file: str
    """The file to write, relative to the output."""
    layout: ChunkLayout | None
    """Chunks of the new file; None: that of the static fields, which has none."""
    bytes: int
    """Expected size of the new file; that of the old one where it is compressed."""


def repack(config: RepackConfig) -> Path:
    """Write a data set again with other chunks; returns the path of the new manifest.

    Raises:
        UserError: the data set is damaged, the output is in use, or the disk is too small; finished shards are kept.
    """
    return repack_with(WorkQueue.join(), with_expanded_paths(config))


def repack_with(queue: WorkQueue, config: RepackConfig) -> Path:
    """`repack` on the ranks of a work queue."""
    dataset, folder = Path(config.dataset), Path(config.output)
    manifest = queue.on_root(lambda: read_manifest(dataset))
    output = queue.on_root(lambda: _output(dataset, folder))
    with written_by(queue, output, folder, keep_finished=True):
        tasks = queue.on_root(lambda: _tasks(dataset, manifest, config.chunks))
        queue.on_root(output.claim)
        queue.on_root(lambda: output.check_room(sum(task.bytes for task in tasks)))
        key = {"repack": sha256(dataset / FILE_NAME), "chunks": config.chunks}
        queue.on_root(lambda: output.begin(key, {}, [task.file for task in tasks]))
        progress = Progress("repack", [task.bytes / 1e6 for task in tasks], "MB", queue.is_root)
        entries = queue.map(lambda i: _repacked(dataset, folder, tasks[i], key), len(tasks), progress)
        path = queue.on_root(lambda: write_manifest(folder, _new_manifest(manifest, entries, config.chunks)))
        if queue.is_root:
            output.finish()
            _summarise(dataset, folder, tasks)
        return path


def _output(dataset: Path, folder: Path) -> OutputFolder:
    """The output, which must not lie in the data set."""
    if folder.resolve() == dataset.resolve() or dataset.resolve() in folder.resolve().parents:
        raise UserError(f"output: {folder} lies in the data set {dataset}; choose another folder")
    return OutputFolder(folder)


def _tasks(dataset: Path, manifest: Manifest, chunks: str) -> list[RepackTask]:
    """Every file of the data set, with its new chunks.

    Raises:
        UserError: a file is absent, or damaged outside its chunks.
    """
    tasks = []
    for name, source in manifest.sources.items():
        layout: ChunkLayout | None = None
        for entry in source.files:  # shards first: the climatology has their layout
            if isinstance(entry, StaticEntry):
                continue
            with open_listed(dataset, entry) as file:
                fields = file["fields"]
                before, itemsize = layout_of(fields), fields.dtype.itemsize
                layout = layout or choose_layout(before.shape, itemsize, chunks)
                cells = layout.per_step * layout.chunk_cells - before.per_step * before.chunk_cells
                length = (dataset / entry.file).stat().st_size
                more = 0 if fields.compression else len(fields) * cells * itemsize
            size = max(0, length + more)
            tasks.append(RepackTask(source=name, entry=entry, file=entry.file, layout=layout, bytes=size))
        if source.static:
            tasks.append(_static_task(name, source))
    return tasks


def _static_task(name: str, source: SourceEntry) -> RepackTask:
    """The file of the static fields, which older data sets have in their shards."""
    rows, columns = Grid.from_dict(source.grid).shape
    size = source.static_file.bytes if source.static_file else 4 * len(source.static) * rows * columns
    entry = source.static_file or source.shards[0]
    return RepackTask(source=name, entry=entry, file=static_file(name), layout=None, bytes=size)


def _repacked(dataset: Path, folder: Path, task: RepackTask, key: dict[str, str]) -> FileEntry:
    """Write one file, or keep the one that an interrupted run with the same key finished; its new entry."""
    entry, path = task.entry, folder / task.file
    record = FirstPass(folder, task.file, [package_version(), SCHEMA_VERSION, key, entry.sha256])
    known = record.finished_shard()
    digest = sha256(path) if known is not None and path.is_file() else None
    if digest is None or digest != known:
        path.parent.mkdir(parents=True, exist_ok=True)
        failed: OSError | None = None
        with open_listed(dataset, entry) as file:
            try:
                write_atomically(path, lambda temporary: _write(file, task, temporary))
            except OSError as error:  # of the output: raised here, it would be taken for damage of the input
                failed = error
        if failed is not None:
            raise failed
        digest = sha256(path)
        record.finish_shard(digest)
    if isinstance(entry, StaticEntry) or task.layout is None:
        return static_entry(folder, task.source)
    header = header_checksum(path)
    if isinstance(entry, ShardEntry):
        return replace(entry, bytes=path.stat().st_size, sha256=digest, header_xxh3=header)
    return replace(entry, sha256=digest, header_xxh3=header)


def _write(file: h5py.File, task: RepackTask, path: Path) -> None:
    """Copy the steps of an open file into a new one, or its static fields.

    Raises:
        UserError: a chunk does not match its checksum.
    """
    if isinstance(task.entry, StaticEntry):
        shutil.copyfile(file.filename, path)
        return
    header, axis = read_header(file)
    if task.layout is None:
        write_static(path, header, stored_static(file))
        return
    fields, chunks = file["fields"], StoredChunks(file)
    compression = "gzip" if fields.compression else "none"
    if compression == "none":
        reserve(path, task.bytes)
    writer = ShardWriter(path, header, axis, fields.dtype.name, compression, task.layout)
    try:
        for step in range(len(chunks)):
            fields_CHW = chunks.read_step(step)
            if fields_CHW is None:
                raise UserError(f"{file.filename}: time step {step} does not match its checksum; {RESTORE}")
            writer.write(step, fields_CHW)
    finally:
        writer.close()


def _new_manifest(manifest: Manifest, entries: list[FileEntry], chunks: str) -> Manifest:
    """The manifest with new entries of its files; statistics and all else stay."""
    new = {entry.file: entry for entry in entries}
    settings = {key: value for key, value in manifest.settings.items() if key != "chunks"}
    if chunks != AUTO:
        settings["chunks"] = chunks
    sources = {name: _with_entries(name, source, new) for name, source in manifest.sources.items()}
    return replace(manifest, settings=settings, sources=sources)


def _with_entries(name: str, source: SourceEntry, new: dict[str, FileEntry]) -> SourceEntry:
    files = {static_file(name)} | {old.file for old in source.files}
    entries = [entry for file, entry in new.items() if file in files]
    return replace(
        source,
        shards=[entry for entry in entries if isinstance(entry, ShardEntry)],
        climatology=next((entry for entry in entries if isinstance(entry, ClimatologyEntry)), None),
        static_file=next((entry for entry in entries if isinstance(entry, StaticEntry)), None),
    )


def _summarise(dataset: Path, folder: Path, tasks: list[RepackTask]) -> None:
    for name, layout in {task.source: task.layout for task in tasks if task.layout is not None}.items():
        cut = f"{layout.per_step} chunks of at most {layout.channels} channels × {layout.rows} rows"
        print(f"{name}: {'one chunk' if layout.is_whole else cut} per time step")
    before = sum((dataset / file).stat().st_size for file in {task.entry.file for task in tasks})
    after = sum((folder / task.file).stat().st_size for task in tasks)
    print(
        f"repacked {len(tasks)} files, {before / 1e6:.1f} MB as {after / 1e6:.1f} MB: {folder / FILE_NAME}", flush=True
    )
