"""`climax-hpc predict` with `task: downscaling`: coarse fields -> CF-compliant fine fields, NetCDF or zarr.

Several models form an ensemble. Times are those of the coarse data, in its calendar.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.config.inference import PredictConfig
from climax_hpc.distributed import process_group
from climax_hpc.errors import UserError
from climax_hpc.inference.cf import FileLayout, ForecastContent, as_dataset, layout_in_time
from climax_hpc.inference.ensemble import in_common
from climax_hpc.inference.initial_conditions import choose_starts
from climax_hpc.inference.open_input import open_input
from climax_hpc.model.output_modes import ANOMALY_NOTE
from climax_hpc.tasks.downscaling.coarse_input import CoarseReader, UnpackedReader
from climax_hpc.tasks.downscaling.models import TrainedDownscaler
from climax_hpc.tasks.downscaling.pairs import PairedData, PairedSource
from climax_hpc.utils.atomic import write_atomically, write_folder_atomically
from climax_hpc.utils.files import check_is_folder, made_folder
from climax_hpc.utils.provenance import git_commit


def predict(config: PredictConfig) -> Path:
    """Downscale every time of `input` within `period` and return the file or store written.

    Raises:
        UserError: bad input; no partial output is left.
    """
    process_group.check_single_process("predict")
    _check(config)
    paired = _paired(config)
    driver, packed = open_input(config, paired.coarse.grid)  # the coarse grid of the training pairs
    checkpoints = {label: load_checkpoint(path) for label, path in config.models.items()}
    models = {
        label: TrainedDownscaler(
            checkpoint,
            driver,
            paired.fine,
            variables=config.variables,
            device=process_group.device(),
            precision=config.precision,
        )
        for label, checkpoint in checkpoints.items()
    }
    variables = tuple(
        in_common([set(m.variables) for m in models.values()], config.variables, "downscale", driver.name)
    )
    steps = choose_starts(driver, config.period, config.start_every_hours)
    content = ForecastContent(
        variables=variables,
        grid=paired.fine.grid,
        calendar=driver.calendar,
        lead_hours=(),
        members=tuple(f"{label}: {checkpoints[label].path}" for label in models),
        attributes={
            "title": "Fields downscaled by ClimaX-type models",
            "input": f"{driver.name} of {config.input}" if packed else driver.name,
            "fine_grid": f"that of {paired.name}",
            "git_commit": git_commit(),
        }
        | ({"comment": ANOMALY_NOTE} if any(m.needs_climatology for m in models.values()) else {}),
    )
    shape = layout_in_time(content, [float(driver.hours[t]) for t in steps])
    climatology = any(model.needs_climatology for model in models.values())
    if climatology:
        paired.fine.check_calendar(driver.calendar)
    reader = (
        CoarseReader(packed, climatology=climatology)
        if packed
        else UnpackedReader(driver, paired.coarse, climatology=climatology)
    )
    fields = _fields(models, reader, steps, variables, config.batch_size)
    return _write(Path(config.output), shape, fields)


def _check(config: PredictConfig) -> None:
    if config.climatology is None:
        raise UserError(
            "climatology: downscaling needs the file of `climax-hpc pair` that the models were trained with, which "
            "defines the fine grid and its static fields"
        )
    if config.rollout_hours is not None:
        raise UserError("rollout_hours: does not apply to downscaling; leave it out")
    path = Path(config.output)
    if path.suffix not in (".nc", ".zarr"):
        raise UserError(f"output: {path} must end in .nc or .zarr: downscaling writes all times to one file or store")
    if path.exists():
        raise UserError(f"output: {path} already exists; remove it, or choose another name")
    check_is_folder(path.parent, "output")


def _paired(config: PredictConfig) -> PairedSource:
    data = PairedData(str(config.climatology))
    chosen = data.select([config.climatology_source] if config.climatology_source else None)
    if len(chosen) > 1:
        raise UserError(f"climatology_source: {data.path} pairs {', '.join(data.sources)}; name one")
    return chosen[0]


def _fields(
    models: Mapping[str, TrainedDownscaler],
    reader: CoarseReader | UnpackedReader,
    steps: list[int],
    variables: tuple[str, ...],
    size: int,
) -> dict[str, NDArray[np.float32]]:
    """Fields by variable: (T[, member], H, W) in float32."""
    parts = []
    for first in range(0, len(steps), size):
        coarse = reader.read(steps[first : first + size])
        members = [m.fine(coarse)[:, [m.variables.index(v) for v in variables]] for m in models.values()]
        parts.append(np.stack(members, axis=1).astype(np.float32))
        print(f"predict: {min(first + size, len(steps))}/{len(steps)} times", flush=True)
    whole = np.concatenate(parts)
    return {name: whole[:, 0, i] if len(models) == 1 else whole[:, :, i] for i, name in enumerate(variables)}


def _write(path: Path, shape: FileLayout, fields: Mapping[str, Any]) -> Path:
    """Write the whole file or store, or nothing."""
    dataset: xr.Dataset = as_dataset(shape, fields)

    def write(temporary: Path) -> None:
        if path.suffix == ".zarr":
            dataset.to_zarr(temporary, zarr_format=2, consolidated=True)
        else:
            dataset.to_netcdf(temporary, format="NETCDF4", unlimited_dims=["time"])

    with made_folder(path.parent, "output"):
        (write_folder_atomically if path.suffix == ".zarr" else write_atomically)(path, write)
    print(f"predict: {path}", flush=True)
    return path
