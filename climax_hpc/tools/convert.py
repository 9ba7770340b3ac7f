"""`climax-hpc convert`: writes a checkpoint or an original ClimaX file as one safetensors file, also on a new grid."""

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from climax_hpc.checkpoint import safetensors_file
from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.checkpoint.metadata import CheckpointMetadata, TrainingMetadata
from climax_hpc.checkpoint.original_climax import OriginalModelInfo, read_original
from climax_hpc.checkpoint.regional import POSITIONS
from climax_hpc.config.training import require
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.normalisation_table import read_normalisation_table
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import regular_grid, uniform_grid
from climax_hpc.fields.variables import lookup
from climax_hpc.model.config import ModelConfig
from climax_hpc.model.positions import resize_positions
from climax_hpc.tools.convert_config import ConvertConfig
from climax_hpc.utils.files import check_is_folder

_ORIGINAL_ONLY = ("normalisation", "variables", "projected", "heads", "original_height", "original_width")
_PROJECTED_STD = {"total_precipitation_rate": 1 / 86400, "precipitation_rate_90th_percentile": 1 / 86400}
"""What one unit of an original projection is in the registry's: ClimaX takes precipitation in mm a day, else 1."""


def convert(config: ConvertConfig) -> None:
    """Write the file and print its contents.

    Raises:
        UserError: unreadable or damaged source, options that do not apply to it, or an output that cannot be written.
    """
    source, output = Path(config.source), Path(config.output)
    check_is_folder(output.parent, "output")
    require(output.parent.is_dir(), f"output: folder {output.parent} does not exist; create it first")
    require(config.overwrite or not output.exists(), f"output: {output} exists; replace it with --overwrite true")
    if source.is_file() and source.suffix != ".safetensors":
        metadata, weights = _from_original(source, config)
    else:
        given = [key for key in _ORIGINAL_ONLY if getattr(config, key) is not None]
        require(not given, f"{', '.join(given)}: only for original ClimaX files; {source} already stores them")
        pretrained = load_checkpoint(source)
        metadata, weights = pretrained.metadata, pretrained.weights
    if config.height is not None and config.width is not None:
        metadata, weights = on_grid(metadata, weights, (config.height, config.width))
    safetensors_file.write(output, metadata.to_dict(), weights)
    print(_summary(output, metadata, weights))


def on_grid(
    metadata: CheckpointMetadata, weights: dict[str, Tensor], grid: tuple[int, int]
) -> tuple[CheckpointMetadata, dict[str, Tensor]]:
    """The same model on another grid of equal cells: position embedding interpolated, the rest unchanged.

    Raises:
        UserError: the grid does not consist of whole patches; the network is tied to its grid.
    """
    require(
        metadata.config.kind == "climax" and not metadata.config.years,
        "height, width: only a forecast model of kind climax can be brought to another grid; leave them out",
    )
    trained = metadata.training
    require(
        trained is None or trained.region is None,
        "height, width: a regional model cannot be brought to another grid; leave them out",
    )
    new = replace(metadata.config, height=grid[0], width=grid[1])
    if POSITIONS in weights:  # `conv` blocks have none
        positions = resize_positions(weights[POSITIONS], metadata.config.patches, new.patches)
        weights = weights | {POSITIONS: positions}
    cells = uniform_grid(*grid).to_dict()
    training = replace(trained, grid=cells) if trained else None
    return replace(metadata, config=new, training=training), weights


def _from_original(path: Path, config: ConvertConfig) -> tuple[CheckpointMetadata, dict[str, Tensor]]:
    if config.normalisation is None:
        raise UserError(
            f"{path} is an original ClimaX file, which does not store the normalisation of its variables: add "
            "--normalisation with a packed data set, ClimaX's folder with normalize_mean.npz, or a YAML file"
        )
    grid = (config.original_height, config.original_width)
    model, weights = read_original(
        path,
        OriginalModelInfo(
            variables=config.variables,
            heads=config.heads or OriginalModelInfo.heads,
            grid=None if grid[0] is None or grid[1] is None else (grid[0], grid[1]),
            projected=config.projected,
        ),
    )
    units, ignored = read_normalisation_table(Path(config.normalisation), model.variables)
    if ignored:
        print(f"normalisation: ignored, because the model has no such variable: {', '.join(ignored)}")
    about = _projection_metadata if model.years else _forecast_metadata
    return about(model, units, config.normalisation), weights


def _forecast_metadata(model: ModelConfig, units: Normalisation, table: str) -> CheckpointMetadata:
    inputs = tuple(name for name in model.variables if name in units.mean)
    outputs = tuple(name for name in inputs if not lookup(name).static)
    if not outputs:
        raise UserError(
            f"normalisation: {table} has no value for any variable that the model can forecast, such as "
            f"{next((v for v in model.variables if not lookup(v).static), model.variables[0])}; give another table"
        )
    return CheckpointMetadata(step=0, config=model, normalisation=units, in_variables=inputs, out_variables=outputs)


def _projection_metadata(model: ModelConfig, units: Normalisation, table: str) -> CheckpointMetadata:
    """A projection needs all of its inputs; its outputs are not normalised in the original."""
    lacking = [name for name in model.variables if name not in units.mean]
    if lacking:
        raise UserError(f"normalisation: {table} has no value for {', '.join(lacking)}, which the projection needs")
    require(
        model.width == 2 * model.height,
        f"original_height, original_width: a grid of {model.height}×{model.width} is not one of ClimaX's; its cells "
        "are unknown",
    )
    std = {name: _PROJECTED_STD.get(name, 1.0) for name in model.projected}
    known = replace(units, mean=units.mean | dict.fromkeys(std, 0.0), std=units.std | std)
    return CheckpointMetadata(
        step=0,
        config=model,
        normalisation=known,
        in_variables=model.variables,
        out_variables=model.projected,
        training=TrainingMetadata(
            task="projection",
            min_lead_hours=0.0,
            max_lead_hours=0.0,
            lead_step_hours=0.0,
            grid=regular_grid(180 / model.height).to_dict(),
        ),
    )


def _summary(output: Path, metadata: CheckpointMetadata, weights: dict[str, Tensor]) -> str:
    model: ModelConfig = metadata.config
    without = [name for name in model.variables if name not in metadata.normalisation.mean]
    lines = [
        f"{output}: {output.stat().st_size / 1e6:.1f} MB, {sum(t.numel() for t in weights.values()) / 1e6:.2f} M "
        f"parameters, {len(model.variables)} variables, grid {model.height}×{model.width}, patch {model.patch}, "
        f"embed_dim {model.embed_dim}, depth {model.depth}, heads {model.heads}, output mode {model.output_mode}",
        f"{len(metadata.in_variables)} input variables, {len(metadata.out_variables)} forecast variables",
    ]
    if without:
        lines.append(f"without normalisation, not used as input before fine-tuning: {', '.join(without)}")
    return "\n".join(lines)
