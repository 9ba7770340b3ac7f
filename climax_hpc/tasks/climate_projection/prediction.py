"""`climax-hpc predict` with `task: projection`: yearly fields of a packed scenario as CF-compliant NetCDF.

Dimensions: N years · O variables · H, W grid.
"""

from pathlib import Path

from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.config.inference import PredictConfig
from climax_hpc.config.training import require
from climax_hpc.data.dataset import DataSet
from climax_hpc.distributed import process_group
from climax_hpc.inference.cf import ForecastContent, yearly_layout
from climax_hpc.inference.ensemble import in_common
from climax_hpc.inference.initial_conditions import choose_source
from climax_hpc.inference.writers import create_netcdf
from climax_hpc.shards.manifest import FILE_NAME
from climax_hpc.tasks.climate_projection.model import ProjectionModel
from climax_hpc.tasks.climate_projection.yearly_data import projected_years
from climax_hpc.utils.atomic import write_atomically
from climax_hpc.utils.files import made_folder


def predict(config: PredictConfig) -> Path:
    """Project every year of `period` that has all its years of input, and return the NetCDF file.

    Raises:
        UserError: bad input; nothing is written.
    """
    process_group.check_single_process("predict")
    checkpoints = {label: load_checkpoint(path) for label, path in config.models.items()}
    require(
        isinstance(config.input, str) and (Path(config.input) / FILE_NAME).is_file(),
        "input: a climate projection reads a packed data set; pack inputs_<experiment>.nc with `climax-hpc pack "
        "--config climatebench` first (no outputs are needed)",
    )
    require(
        config.rollout_hours is None and config.climatology is None and config.regrid is None,
        "rollout_hours, climatology, regrid: do not apply to a climate projection; leave them out",
    )
    path = Path(config.output)
    require(path.suffix == ".nc", f"output: {path} must end in .nc: a climate projection is one NetCDF file")
    source = choose_source(DataSet(str(config.input)), config.source, "source")
    models = {
        label: ProjectionModel(p, process_group.device(), batch_size=config.batch_size, precision=config.precision)
        for label, p in checkpoints.items()
    }
    names = tuple(in_common([set(m.variables) for m in models.values()], config.variables, "project", source.name))
    years = projected_years(source, config.period, max(model.years for model in models.values()))
    content = ForecastContent(
        variables=names,
        grid=source.grid,
        calendar=source.calendar,
        lead_hours=(),
        members=tuple(
            f"{label} ({p.metadata.config.kind}, step {p.metadata.step}, weights sha256 {p.weights_sha256[:16]})"
            for label, p in checkpoints.items()
        ),
        attributes={
            "title": "Climate projection of a ClimaX-type model",
            "input": source.name,
            "comment": f"Yearly means from the forcings of a year and the {max(m.years for m in models.values()) - 1} "
            "before it; departures from the pre-industrial control where the training data were (ClimateBench's are).",
        },
    )
    shape = yearly_layout(content, [float(source.hours[t]) for t in years])
    fields = {label: model.project(source, years) for label, model in models.items()}

    def write(target: Path) -> None:
        with create_netcdf(target, shape) as file:
            for member, (label, fields_NOHW) in enumerate(fields.items()):
                for name in names:
                    at = (slice(None), member) if len(models) > 1 else (slice(None),)
                    file.variables[name][at] = fields_NOHW[:, models[label].variables.index(name)]

    with made_folder(path.parent, "output"):
        write_atomically(path, write)
    first, last = (source.date(t).year for t in (years[0], years[-1]))
    print(f"predict: {source.name}, {first} … {last}, {len(models)} members: {path}", flush=True)
    return path
