"""Settings of `climax-hpc convert`, apart from it so that `--help` and mistakes do not wait for torch."""

from dataclasses import dataclass

from climax_hpc.config.paths import ConfigPath
from climax_hpc.config.training import require
from climax_hpc.utils.bounds import bounded


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """`climax-hpc convert SOURCE --output FILE`: weights and config in one safetensors file, without pickles."""

    source: ConfigPath
    """Run folder, checkpoint folder, converted .safetensors file, or original ClimaX file (.ckpt, .pt, .pth)."""
    output: ConfigPath
    """File to write; must end in .safetensors."""
    height: int | None = bounded(None, 100_000)
    """Rows of a new grid, to which the position embedding is interpolated; null: unchanged."""
    width: int | None = bounded(None, 100_000)
    """Columns of a new grid; null: unchanged."""
    normalisation: ConfigPath | None = None
    """Original files only, which do not store their normalisation: a packed data set, a folder with ClimaX's
    normalize_mean.npz and normalize_std.npz, or a YAML file {variable: {mean, std}}."""
    variables: list[str] | None = None
    """Original files only: variable names in the order of the file; null: the 48 of ClimaX, or the four forcings of a
    climate projection."""
    projected: str | None = None
    """Original climate projections only: the variable that the file predicts, such as tas or pr90."""
    heads: int | None = bounded(None, 1024)
    """Original files only: attention heads, which the file does not store; null: 16, as in all released models."""
    original_height: int | None = bounded(None, 100_000)
    """Original files only: rows of the grid of the file; null: half its columns."""
    original_width: int | None = bounded(None, 100_000)
    """Original files only: columns of the grid of the file."""
    overwrite: bool = False
    """Replace an existing output file."""

    def __post_init__(self) -> None:
        require(self.output.endswith(".safetensors"), f"output: {self.output} must end in .safetensors")
        for pair in (("height", "width"), ("original_height", "original_width")):
            given = [getattr(self, key) is not None for key in pair]
            require(all(given) or not any(given), f"{pair[0]}, {pair[1]}: give both or neither")
        sizes = (self.height, self.width, self.original_height, self.original_width, self.heads)
        require(all(n is None or n >= 1 for n in sizes), "height, width and heads must be at least 1")
