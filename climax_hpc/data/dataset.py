"""Packed data sets: the manifest and its sources, read-only."""

import hashlib
from collections.abc import Sequence
from copy import copy
from pathlib import Path

from climax_hpc.data.chunk_reader import open_files
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import Grid, check_same_cells
from climax_hpc.shards.manifest import manifest_bytes, read_manifest
from climax_hpc.shards.shard import RESTORE


def check_grids(
    sources: Sequence[PackedSource], height: int, width: int, cells: Grid | None = None, model: str = "the model"
) -> None:
    """Refuse sources on another grid than the model's, or on different grids.

    `cells`: grid that the model was trained on, if known; `model`: its name in messages.

    Raises:
        UserError: names the source, its grid and the fix.
    """
    expected, other = (cells, model) if cells else (sources[0].grid, f"source {sources[0].name}")
    for source in sources:
        if source.grid.shape != (height, width):
            raise UserError(
                f"source {source.name} lies on a grid of {source.grid.shape[0]} × {source.grid.shape[1]}, the model on "
                f"{height} × {width}: set model.height and model.width, or pack with another grid_spacing_deg"
            )
        check_same_cells(
            source.grid, expected, f"source {source.name}", other, "pack it on that grid (grid_spacing_deg)"
        )


class DataSet:
    """A packed data set: the sources in its manifest."""

    def __init__(self, folder: str | Path, *, manifest: bytes | None = None) -> None:
        """Read the manifest; `manifest`: its bytes, if they were read before.

        Raises:
            UserError: the folder has no manifest, or a damaged one.
        """
        self.folder = Path(folder).expanduser()
        raw = manifest_bytes(self.folder) if manifest is None else manifest
        self.manifest_sha256 = hashlib.sha256(raw).hexdigest()
        self._entries = read_manifest(self.folder, raw).sources
        self.sources = self._sources(self.folder, RESTORE)

    def in_folder(self, files: Path, copied: Sequence[PackedSource]) -> "DataSet":
        """The data set with its shards in another folder (`climax_hpc.data.staging`).

        `copied`: the sources that are there; their headers are those of this data set, whose first shard may not be.
        """
        moved = copy(self)
        moved.sources = moved._sources(files, "delete it; the next run copies it again")
        for source in copied:
            moved.sources[source.name].headers = source.headers
        return moved

    def _sources(self, files: Path, fix: str) -> dict[str, PackedSource]:
        handle_of = open_files()  # one cache for all: a run reads its sources in turn
        return {
            name: PackedSource(files, name, entry, fix=fix, handle_of=handle_of)
            for name, entry in self._entries.items()
        }

    def select(self, names: list[str] | None) -> list[PackedSource]:
        """Sources by full name or CMIP6 source_id, in order of their names; None: all.

        Raises:
            UserError: see `full_name`.
        """
        if names is None:
            return [self.sources[name] for name in sorted(self.sources)]
        return [self.sources[name] for name in sorted({self.full_name(name) for name in names})]

    def full_name(self, name: str) -> str:
        """Full name of a source, from its full name or its CMIP6 source_id.

        Raises:
            UserError: no source has it, or several have.
        """
        fits = [full for full in self.sources if name in (full, full.split("_")[0])]
        if len(fits) != 1:
            found = "several sources match" if fits else "no source"
            raise UserError(f"{found} {name!r} in {self.folder}; it holds {', '.join(sorted(self.sources))}")
        return fits[0]
