"""Rewrites files of CMIP6 as CMOR writes them for CMIP7: names, folders and attributes; the fields stay as they are.

Folders and names follow drs_specs.yaml of CMIP7-CVs, attributes its attr_specs.yaml. The sample has two of the seven
levels that `p7h` stands for, and source_id and institution_id are not registered.
"""

import shutil
from pathlib import Path

import netCDF4

SAMPLE = Path(__file__).parents[2] / "data_prep/sample/CMIP6-format"
LEVEL_GRID_AREA = {
    "tas": "h2m-hxy-u", "uas": "h10m-hxy-u", "vas": "h10m-hxy-u",
    **dict.fromkeys(("ta", "ua", "va", "zg", "hus"), "p7h-hxy-air"),
}  # fmt: skip
"""Variable -> branding without its first label, as in CMIP7_atmos.json; `u-hxy-u` for the others."""
_LABELS = ("temporal_label", "vertical_label", "horizontal_label", "area_label")
_INDEX = ("realization_index", "initialization_index", "physics_index", "forcing_index")


def sample_files(*patterns: str) -> list[Path]:
    """Files of the shipped sample whose names match one of the patterns."""
    return sorted(path for pattern in patterns for path in SAMPLE.rglob(pattern))


def as_cmip7(
    path: Path,
    root: Path,
    *,
    branding: str = "",
    experiment: str = "scen7-m",
    version: str = "v20250622",
    keep_date: bool = True,
    without: tuple[str, ...] = (),
    **changes: str,
) -> Path:
    """The file in the form of CMIP7 below `root`; its path.

    `branding`: instead of the usual one; `without`: attributes left out; `changes`: attributes of other values, which
    are in folder and name too. `keep_date`: the name ends with the range of dates of the old one.
    """
    target = root / path.name
    root.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    with netCDF4.Dataset(target, "a") as file:
        variable_id, frequency = file.variable_id, file.frequency.removesuffix("Pt")
        own = LEVEL_GRID_AREA.get(variable_id, "u-hxy-u")
        branding = branding or f"{_temporal_label(frequency, file[variable_id].cell_methods)}-{own}"
        attributes = _attributes(file, experiment, branding, frequency) | changes
        for name in file.ncattrs():
            if name in ("table_id", *_INDEX, *without):
                file.delncattr(name)
        file.setncatts({key: value for key, value in attributes.items() if key not in without})
    keys = ("variable_id", "branding_suffix", "frequency", "region", "grid_label", "source_id")
    keys = (*keys, "experiment_id", "variant_label")
    dates = [path.stem.split("_")[-1]] if keep_date and path.stem[-1].isdigit() else []
    parts = (
        "drs_specs", "mip_era", "activity_id", "institution_id", "source_id", "experiment_id", "variant_label",
        "region", "frequency", "variable_id", "branding_suffix", "grid_label",
    )  # fmt: skip
    folder = root.joinpath(*(attributes[key] for key in parts), version)
    folder.mkdir(parents=True, exist_ok=True)
    return target.rename(folder / f"{'_'.join([*(attributes[key] for key in keys), *dates])}.nc")


def _temporal_label(frequency: str, cell_methods: str) -> str:
    if frequency == "fx":
        return "ti"
    return "tpt" if "time: point" in cell_methods else "tavg"


def _attributes(file: netCDF4.Dataset, experiment: str, branding: str, frequency: str) -> dict[str, str]:
    """Global attributes that CMOR adds or writes otherwise for CMIP7; folders and names are made of them."""
    old = {name: str(file.getncattr(name)) for name in file.ncattrs()}
    number = {letter: old.get(key, "1") for letter, key in zip("ripf", _INDEX, strict=True)}
    kept = {key: old[key] for key in ("source_id", "variable_id", "variant_label")}
    return kept | {
        "Conventions": "CF-1.12",
        "mip_era": "CMIP7",
        "drs_specs": "MIP-DRS7",
        "data_specs_version": "MIP-DS7.1.0.0",
        "activity_id": "ScenarioMIP" if experiment.startswith("scen7") else "CMIP",
        "institution_id": old.get("institution_id", "TEST"),
        "experiment_id": experiment,
        "branding_suffix": branding,
        "branded_variable": f"{old['variable_id']}_{branding}",
        **dict(zip(_LABELS, branding.split("-"), strict=False)),
        "frequency": frequency,
        "region": "glb",
        "grid_label": "g100",
        "license_id": "CC-BY-4.0",
        "tracking_id": "hdl:21.14107/00000000-0000-4000-8000-000000000000",
        **{key: f"{letter}{number[letter]}" for letter, key in zip("ripf", _INDEX, strict=True)},
    }
