"""`climax-hpc inspect DATASET`: prints the table; with an output folder, writes it and two figures per source."""

from dataclasses import dataclass
from pathlib import Path

from climax_hpc.config.paths import ConfigPath
from climax_hpc.errors import UserError
from climax_hpc.shards.manifest import read_manifest
from climax_hpc.tools.inspect.table import describe
from climax_hpc.utils.atomic import write_together
from climax_hpc.utils.bounds import bounded
from climax_hpc.utils.files import text_writer
from climax_hpc.utils.folder_lock import locked_folder


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """`climax-hpc inspect`.

    Raises:
        UserError: an invalid value.
    """

    dataset: ConfigPath
    """Folder of a packed data set (`climax-hpc pack`)."""
    output: ConfigPath | None = None
    """Folder for `table.txt` and, per source, `<source>_means.png` and `<source>_series.png`; null: print only."""
    sources: list[str] | None = None
    """Sources to show, by full name; null: all."""
    steps: int = bounded(1000, 1_000_000)
    """Time steps read per source for the figures, evenly spaced; 0: all."""

    def __post_init__(self) -> None:
        if not self.dataset:
            raise UserError("dataset is empty; give the folder of a packed data set")
        if self.steps < 0:
            raise UserError(f"steps = {self.steps}: must be 0 (all) or positive, for example 1000")


def inspect(config: InspectConfig) -> None:
    """Print the contents of a data set, and draw the figures.

    Raises:
        UserError: not a data set, an unknown source, or a missing or damaged shard.
    """
    dataset = Path(config.dataset)
    manifest = read_manifest(dataset)
    unknown = [name for name in config.sources or () if name not in manifest.sources]
    if unknown:
        raise UserError(f"sources: {unknown[0]!r} is not in {dataset}; available: {', '.join(manifest.sources)}")
    names = config.sources or list(manifest.sources)
    text = describe(dataset, manifest, names)
    print(text)
    if config.output is None:
        return
    from climax_hpc.report.style import figure_style, png_writer  # importing matplotlib takes a second
    from climax_hpc.tools.inspect.figures import draw_source

    folder = Path(config.output)
    with locked_folder(folder, "output"), figure_style(for_page=False):
        writes = {folder / "table.txt": text_writer(text + "\n")}
        for name in names:
            figures = draw_source(dataset, name, manifest.sources[name], folder, config.steps)
            writes |= {path: png_writer(figure) for path, figure in figures.items()}
        write_together(writes)
    for path in writes:
        print(f"wrote {path}", flush=True)
