"""`climax-hpc simulate`: runs a real general circulation model (jcm) and writes its output as CMIP6-DRS NetCDF."""

import datetime as dt
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from climax_hpc.data_prep.simulation.config import (
    AVAILABLE,
    NOMINAL_RESOLUTION,
    STEP,
    SimulateConfig,
    kept_period,
    segments,
)
from climax_hpc.data_prep.simulation.jcm_parameter_sets import DESCRIPTIONS, PARAMETER_SETS
from climax_hpc.data_prep.simulation.jcm_venv import default_venv, ensure_venv, run_streaming
from climax_hpc.distributed.signals import terminated_as_exit
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import in_registry_order, lookup

MIP_ERA = "CMIP6-format"  # top folder of the tree; not "CMIP6", so that nobody mistakes the files for a CMIP6 product
INSTITUTION_ID, ACTIVITY_ID, EXPERIMENT_ID, GRID_LABEL = "climax-hpc", "RFMIP", "piClim-control", "gn"
DRIVER = Path(__file__).with_name("jcm_driver.py")
BLOCK_DAYS = 10  # days per compiled call of the model; output of a block stays well below 1 GB up to T42
GRID_SIZE = {21: "64x32", 31: "96x48", 42: "128x64"}  # longitudes × latitudes
COMMENT = (
    "Output of jcm (SPEEDY physics on the Dinosaur spectral core) with a climatological, yearly repeated sea surface "
    "temperature and sea ice, in the file format of CMIP6. NOT a CMIP6 product and not prepared by a CMIP6 centre: "
    "mip_era, institution_id and source_id are not registered; experiment_id piClim-control is the nearest CMIP6 name "
    "(prescribed climatological sea surface temperature), not a claim to follow its protocol. No diurnal cycle. "
    "Values on pressure levels below the ground are extrapolated. The years label an unforced climate."
)


def drs_member(config: SimulateConfig) -> Path:
    """The member's folder below `output`: mip_era/activity/institution/source/experiment/member."""
    return Path(MIP_ERA, ACTIVITY_ID, INSTITUTION_ID, config.parameter_set, EXPERIMENT_ID, f"r{config.member}i1p1f1")


def variables(config: SimulateConfig) -> dict[str, list[float]]:
    """CMIP6 variable -> pressure levels [Pa], descending as in CMIP6 (empty at the surface)."""
    wanted: dict[str, list[float]] = {}
    for name in in_registry_order(AVAILABLE if config.channels is None else config.channels):
        variable = lookup(name)
        if variable.cmip6 is None or variable.static:
            continue
        levels = wanted.setdefault(variable.cmip6, [])
        if variable.level_hpa is not None:
            levels.append(100.0 * variable.level_hpa)
    return {name: sorted(levels, reverse=True) for name, levels in wanted.items()}


def global_attributes(config: SimulateConfig) -> dict[str, object]:
    """Global attributes of every file; the driver adds the versions of jcm and jax."""
    changed = {f"{g}.{p}": v for g, values in PARAMETER_SETS[config.parameter_set].items() for p, v in values.items()}
    resolution = f"T{config.truncation}L{config.layers}"
    return {
        "Conventions": "CF-1.7",
        "title": f"{config.parameter_set}: output of the GCM jcm in CMIP6 format (not a CMIP6 product)",
        "comment": COMMENT,
        "mip_era": MIP_ERA,
        "activity_id": ACTIVITY_ID,
        "institution_id": INSTITUTION_ID,
        "institution": "made with climax_hpc; no modelling centre",
        "source_id": config.parameter_set,
        "source": f"{config.parameter_set}: jcm {resolution}, {DESCRIPTIONS[config.parameter_set]}",
        "source_type": "AGCM",
        "experiment_id": EXPERIMENT_ID,
        "sub_experiment_id": "none",
        "variant_label": f"r{config.member}i1p1f1",
        "realization_index": config.member,
        "initialization_index": 1,
        "physics_index": 1,
        "forcing_index": 1,
        "product": "model-output",
        "realm": "atmos",
        "grid_label": GRID_LABEL,
        "grid": f"native Gaussian grid {GRID_SIZE[config.truncation]}",
        "nominal_resolution": NOMINAL_RESOLUTION[config.truncation],
        "license": "MIT",
        "parameter_set": json.dumps(changed, sort_keys=True),
        "truncation": resolution,
        "seed": config.member if config.seed is None else config.seed,
        "spin_up_days": config.spin_up_days,
        "creation_date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def driver_settings(config: SimulateConfig, folder: Path) -> dict[str, object]:
    """The driver's settings as plain data: climax_hpc is not installed in the driver's environment."""
    start, _ = kept_period(config)
    kept = segments(config)
    # Six hours early: jcm saves at the end of each interval, and the first instant kept is 00 UTC.
    begin = start - dt.timedelta(days=config.spin_up_days) - STEP
    whole_days = -(-(kept[-1][1] - begin) // dt.timedelta(days=1))
    block_days = min(BLOCK_DAYS, whole_days)
    return {
        "folder": str(folder),
        "parameters": PARAMETER_SETS[config.parameter_set],
        "truncation": config.truncation,
        "layers": config.layers,
        "seed": config.member if config.seed is None else config.seed,
        "begin": begin.isoformat(),
        "block_days": block_days,
        "blocks": -(-whole_days // block_days),
        "segments": [[first.isoformat(), last.isoformat()] for first, last in kept],
        "variables": variables(config),
        "quantise": config.quantise,
        "attributes": global_attributes(config),
        "facets": {
            "source_id": config.parameter_set,
            "experiment_id": EXPERIMENT_ID,
            "variant_label": f"r{config.member}i1p1f1",
            "grid_label": GRID_LABEL,
            "version": config.version or dt.datetime.now(dt.UTC).strftime("v%Y%m%d"),
        },
    }


def simulate(config: SimulateConfig, report: Callable[[str], None] = print) -> Path:
    """Run the simulation; returns the root of the tree (`config.output`), the input of `climax-hpc pack`.

    The member is written to a temporary folder and renamed when it is complete.

    Raises:
        UserError: the member exists, the GCM's environment cannot be created, or the model failed.
    """
    output = Path(config.output).resolve()
    member = output / drs_member(config)
    if member.exists():
        raise UserError(f"{member}: already exists; delete it, or choose another member or output")
    with terminated_as_exit():
        python = ensure_venv(Path(config.venv) if config.venv else default_venv(), report)
        _run(config, python, output, member, report)
    report(f"wrote {member}")
    return output


def _run(config: SimulateConfig, python: Path, output: Path, member: Path, report: Callable[[str], None]) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        # Beside `output`, not in it, so that `climax-hpc pack` never finds what a killed run leaves.
        workspace = Path(tempfile.mkdtemp(prefix=f".{output.name}-{config.parameter_set}-partial-", dir=output.parent))
    except OSError as error:
        raise UserError(f"output: {output}: {error.strerror}; choose a folder that you can write to") from error
    try:
        settings = workspace / "settings.json"
        settings.write_text(json.dumps(driver_settings(config, workspace / "member"), indent=1))
        prefix = f"{config.parameter_set} r{config.member}"
        argv = [str(python), str(DRIVER), str(settings)]
        status, tail = run_streaming(argv, lambda line: report(f"{prefix}: {line}"))
        if status:
            raise UserError(f"simulate: the GCM failed (exit status {status}): {tail}")
        member.parent.mkdir(parents=True, exist_ok=True)
        if member.exists():
            raise UserError(f"{member}: was written by another process meanwhile; its output is kept")
        shutil.move(workspace / "member", member)  # a rename, unless `output` is a mount point
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
