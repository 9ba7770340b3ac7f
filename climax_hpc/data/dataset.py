"""Packed data sets: the manifest and its sources, read-only."""

from collections.abc import Sequence
from pathlib import Path

from climax_hpc.data.packed_source import PackedSource
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import Grid, check_same_cells
from climax_hpc.shards.manifest import FILE_NAME, read_manifest
from climax_hpc.shards.shard import RESTORE
from climax_hpc.utils.files import sha256


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

    def __init__(self, folder: str | Path, *, files: Path | None = None) -> None:
        """Read the manifest; `files`: the folder of the shards, if not `folder` (`climax_hpc.data.staging`).

        Raises:
            UserError: the folder has no manifest, or a damaged one.
        """
        self.folder = Path(folder).expanduser()
        manifest = read_manifest(self.folder)
        self.manifest_sha256 = sha256(self.folder / FILE_NAME)
        fix = RESTORE if files is None else "delete it; the next run copies it again"
        self.sources = {
            name: PackedSource(files or self.folder, name, entry, fix=fix) for name, entry in manifest.sources.items()
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
