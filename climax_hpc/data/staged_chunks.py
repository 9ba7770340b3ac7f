"""Copies some chunks of a shard to a file of the same length, each at its place; holes in place of the others."""

from collections.abc import Sequence
from pathlib import Path

from xxhash import xxh3_64_intdigest

from climax_hpc.data.field_part import FieldPart, chunks_of
from climax_hpc.errors import UserError
from climax_hpc.shards.chunk_filters import filters_of, inflated
from climax_hpc.shards.chunk_table import chunk_table, header_spans
from climax_hpc.shards.manifest import ClimatologyEntry, ShardEntry
from climax_hpc.shards.open_listed import open_listed
from climax_hpc.shards.shard import RESTORE
from climax_hpc.shards.stored_chunks import checksums_of, layout_of
from climax_hpc.utils.files import open_plain

_BLOCK = 8 << 20


def copy_chunks(folder: Path, entry: ShardEntry | ClimatologyEntry, parts: Sequence[FieldPart], copy: Path) -> None:
    """Write what is outside the chunks, and the chunks that hold these parts, each compared with its checksum.

    Args:
        folder: where the files of the manifest lie.
        entry: of a shard or climatology.
        parts: of every time step.
        copy: the file that is written.

    Raises:
        UserError: the file is absent, or differs from the manifest or its own checksums.
    """
    packed = folder / entry.file
    with open_listed(folder, entry) as file:
        fields = file["fields"]
        layout, table, filters = layout_of(fields), chunk_table(fields), filters_of(fields, str(packed))
        chunks = chunks_of(layout, parts)
        checksums, itemsize = checksums_of(file, layout).ravel().tolist(), fields.dtype.itemsize
    with open_plain(packed) as source, copy.open("wb") as target:
        target.truncate(packed.stat().st_size)
        for start, end in header_spans(entry.header_xxh3):
            for at in range(start, end, _BLOCK):
                source.seek(at)
                target.seek(at)
                target.write(source.read(min(_BLOCK, end - at)))
        for n in range(len(table.step_N)):
            step, number = divmod(n, layout.per_step)
            if number not in chunks:
                continue
            source.seek(table.offset_N[n])
            raw = source.read(table.size_N[n])
            if not _is_sound(raw, filters, int(table.mask_N[n]), itemsize, checksums[n]):
                raise UserError(f"{packed}: time step {step} does not match its checksum, so it was changed; {RESTORE}")
            target.seek(table.offset_N[n])
            target.write(raw)


def _is_sound(raw: bytes, filters: Sequence[int], mask: int, itemsize: int, checksum: int) -> bool:
    try:
        return xxh3_64_intdigest(inflated(raw, filters, mask, itemsize)) == checksum
    except ValueError:
        return False
