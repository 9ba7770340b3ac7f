"""What the GCM's driver is told, and what it writes into every file: variables, periods, attributes."""

import datetime as dt
import json
from pathlib import Path

from climax_hpc.data_prep.simulation.config import (
    AVAILABLE,
    NOMINAL_RESOLUTION,
    STEP,
    SimulateConfig,
    Source,
    kept_period,
    segments,
    starts_of,
)
from climax_hpc.data_prep.simulation.ensemble import (
    HOUR,
    INITIALIZATION,
    ensemble_record,
    ensemble_words,
)
from climax_hpc.data_prep.simulation.jcm_parameter_sets import DESCRIPTIONS, PARAMETER_SETS
from climax_hpc.data_prep.simulation.jcm_venv import JCM_VERSION
from climax_hpc.fields.variables import in_registry_order, lookup

MIP_ERA = "CMIP6-format"  # top folder of the tree; not "CMIP6", so that nobody mistakes the files for a CMIP6 product
INSTITUTION_ID, ACTIVITY_ID, EXPERIMENT_ID, GRID_LABEL = "climax-hpc", "RFMIP", "piClim-control", "gn"
RECORD = "simulation_settings"
"""Global attribute of every file: all that determines the fields, as JSON."""
BLOCK_DAYS = 10  # days per compiled call of the model; output of a block stays well below 1 GB up to T42
GRID_SHAPE = {21: (32, 64), 31: (48, 96), 42: (64, 128)}
"""Truncation -> latitudes, longitudes."""
COMMENT = (
    "Output of jcm (SPEEDY physics on the Dinosaur spectral core) with a climatological, yearly repeated sea surface "
    "temperature and sea ice, in the file format of CMIP6. NOT a CMIP6 product and not prepared by a CMIP6 centre: "
    "mip_era, institution_id and source_id are not registered; experiment_id piClim-control is the nearest CMIP6 name "
    "(prescribed climatological sea surface temperature), not a claim to follow its protocol. No diurnal cycle. "
    "Values on pressure levels below the ground are extrapolated. The years label an unforced climate."
)


def drs_member(parameter_set: str, member: int = 1, initialization: int = 1) -> Path:
    """The member's folder below `output`: mip_era/activity/institution/source/experiment/member."""
    label = _variant_label(member, initialization)
    return Path(MIP_ERA, ACTIVITY_ID, INSTITUTION_ID, parameter_set, EXPERIMENT_ID, label)


def _variant_label(member: int, initialization: int = 1) -> str:
    return f"r{member}i{initialization}p1f1"


def variables(config: SimulateConfig) -> dict[str, list[float]]:
    """CMIP6 variable -> pressure levels [Pa], descending as in CMIP6 (empty at the surface)."""
    wanted: dict[str, list[float]] = {}
    for name in _channels(config):
        variable = lookup(name)
        levels = wanted.setdefault(str(variable.cmip6), [])
        if variable.level_hpa is not None:
            levels.append(100.0 * variable.level_hpa)
    return {name: sorted(levels, reverse=True) for name, levels in wanted.items()}


def _channels(config: SimulateConfig) -> list[str]:
    """Registry names that change in time, in their order there."""
    wanted = in_registry_order(AVAILABLE if config.variables is None else config.variables)
    return [name for name in wanted if lookup(name).cmip6 is not None and not lookup(name).static]


def record(source: Source) -> dict[str, object]:
    """All settings that determine the fields of a source; two simulations with the same record are the same."""
    config = source.config
    start, end = kept_period(config)
    return {
        "start": config.start,
        "days": (end - start).days,
        "window": config.window,
        "spin_up_days": config.spin_up_days,
        "seed": source.seed,
        "truncation": config.truncation,
        "layers": config.layers,
        "quantise": config.quantise,
        "channels": _channels(config),
        "parameters": PARAMETER_SETS[source.parameter_set],
        "jcm": JCM_VERSION,
    } | ({} if config.members is None else {"ensemble": ensemble_record(config, starts_of(config))})


def global_attributes(source: Source) -> dict[str, object]:
    """Global attributes of every file; the driver adds the versions of jcm and jax."""
    config, name = source.config, source.parameter_set
    changed = {f"{g}.{p}": v for g, values in PARAMETER_SETS[name].items() for p, v in values.items()}
    resolution = f"T{config.truncation}L{config.layers}"
    rows, columns = GRID_SHAPE[config.truncation]
    return {
        "Conventions": "CF-1.7",
        "title": f"{name}: output of the GCM jcm in CMIP6 format (not a CMIP6 product)",
        "comment": COMMENT,
        "mip_era": MIP_ERA,
        "activity_id": ACTIVITY_ID,
        "institution_id": INSTITUTION_ID,
        "institution": "made with climax_hpc; no modelling centre",
        "source_id": name,
        "source": f"{name}: jcm {resolution}, {DESCRIPTIONS[name]}",
        "source_type": "AGCM",
        "experiment_id": EXPERIMENT_ID,
        "sub_experiment_id": "none",
        "variant_label": _variant_label(source.realization),
        "realization_index": source.realization,
        "initialization_index": 1,
        "physics_index": 1,
        "forcing_index": 1,
        "product": "model-output",
        "realm": "atmos",
        "grid_label": GRID_LABEL,
        "grid": f"native Gaussian grid {columns}x{rows}",
        "nominal_resolution": NOMINAL_RESOLUTION[config.truncation],
        "license": "MIT",
        "parameter_set": json.dumps(changed, sort_keys=True),
        "truncation": resolution,
        "seed": source.seed,
        "spin_up_days": config.spin_up_days,
        RECORD: json.dumps(record(source), sort_keys=True),
        "creation_date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def driver_settings(source: Source, folder: Path) -> dict[str, object]:
    """The driver's settings as plain data: climax_hpc is not installed in the driver's environment.

    Args:
        source: what to simulate.
        folder: of an unfinished simulation; the driver writes the member and the state of the model there.
    """
    config = source.config
    start, _ = kept_period(config)
    kept = segments(config)
    facets = {
        "source_id": source.parameter_set,
        "experiment_id": EXPERIMENT_ID,
        "variant_label": _variant_label(source.realization),
        "grid_label": GRID_LABEL,
        "version": config.version or dt.datetime.now(dt.UTC).strftime("v%Y%m%d"),
    }
    # Six hours early: jcm saves at the end of each interval, and the first instant kept is 00 UTC.
    begin = start - dt.timedelta(days=config.spin_up_days) - STEP
    whole_days = -(-(kept[-1][1] - begin) // dt.timedelta(days=1))
    block_days = min(BLOCK_DAYS, whole_days)
    return {
        "folder": str(folder / "member"),
        "state": str(folder / "state" / "model"),
        "parameters": PARAMETER_SETS[source.parameter_set],
        "truncation": config.truncation,
        "layers": config.layers,
        "seed": source.seed,
        "begin": begin.isoformat(),
        "block_days": block_days,
        "blocks": -(-whole_days // block_days),
        "segments": [[first.isoformat(), last.isoformat()] for first, last in kept],
        "variables": variables(config),
        "quantise": config.quantise,
        "attributes": global_attributes(source),
        "facets": facets,
        "ensemble": None if config.members is None else _ensemble_settings(source, folder, facets),
    }


def _ensemble_settings(source: Source, folder: Path, facets: dict[str, str]) -> dict[str, object]:
    """What the driver is told of the members: their starts, and what differs in the files of each."""
    config = source.config
    assert config.members is not None
    starts = starts_of(config)
    hours = config.member_hours
    return {
        **ensemble_record(config, starts),
        "segments": [[(one + STEP).isoformat(), (one + hours * HOUR).isoformat()] for one in starts],
        "writers": [
            {
                "folder": str(ensemble_folder(folder, member)),
                "facets": facets | {"variant_label": _variant_label(member, INITIALIZATION)},
                "attributes": {
                    "variant_label": _variant_label(member, INITIALIZATION),
                    "realization_index": member,
                    "initialization_index": INITIALIZATION,
                    "variant_info": ensemble_words(config),
                    "parent_source_id": source.parameter_set,
                    "parent_variant_label": _variant_label(source.realization),
                },
            }
            for member in range(1, config.members + 1)
        ],
    }


def ensemble_folder(folder: Path, member: int) -> Path:
    """Where the driver writes a member of an ensemble, below the folder of an unfinished simulation."""
    return folder / f"ensemble-{member}"
