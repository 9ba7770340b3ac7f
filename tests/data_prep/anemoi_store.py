"""Writes small stores in the form of anemoi-datasets; `make adapters` opens them with the package itself."""

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

LAT, LON = np.linspace(90.0, -90.0, 7), np.arange(0.0, 360.0, 30.0)
UNITS = {
    "2t": "K", "10u": "m s**-1", "msl": "Pa", "t": "K", "z": "m**2 s**-2", "q": "kg kg**-1", "tp": "m",
    "lsm": "(0 - 1)", "cos_julian_day": "dimensionless", "2d": "K",
}  # fmt: skip
BASE = {"2t": 280.0, "10u": 3.0, "msl": 1e5, "t": 260.0, "z": 5e4, "q": 5e-3, "tp": 2e-3, "lsm": 0.5, "2d": 270.0}
NAMES = ("10u", "2d", "2t", "cos_julian_day", "lsm", "msl", "q_700", "t_500", "t_850", "tp", "z", "z_500", "z_850")


def write_anemoi(
    path: Path,
    names: tuple[str, ...] = NAMES,
    *,
    steps: int = 8,
    hours: int = 6,
    missing: tuple[int, ...] = (),
    members: int = 1,
    lat: NDArray[np.float64] | None = None,
    lon: NDArray[np.float64] | None = None,
    metadata: dict[str, dict[str, Any]] | None = None,
    zarr_format: int = 2,
    **attributes: Any,
) -> NDArray[np.float32]:
    """A store at `path`; its values (dates, variables, members, cells), NaN at the missing dates.

    `lat`, `lon`: positions of the cells; without them, rows from north to south. `metadata`: more of
    `variables_metadata`; `attributes`: instead of the usual ones, None leaves one out.
    """
    if lat is None or lon is None:
        lat, lon = (axis.ravel() for axis in np.meshgrid(LAT, LON, indexing="ij"))
        attributes = {"field_shape": [len(LAT), len(LON)]} | attributes
    dates = np.datetime64("2020-01-01T00", "s") + np.arange(steps) * np.timedelta64(hours, "h")
    draws = np.random.default_rng(0).standard_normal((steps, len(names), members, len(lat)))
    base = np.array([BASE.get(stem(name), 0.0) for name in names])
    spread = np.where(base > 1, 1.0, 0.1 * base)[:, None, None]
    values = (base[:, None, None] + spread * draws).astype(np.float32)
    for v, name in enumerate(names):
        if name in ("lsm", "z"):
            values[:, v] = values[0, v]
    values[list(missing)] = np.nan
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)  # type: ignore[arg-type]
    data = group.create_array(
        "data", shape=values.shape, chunks=(1, *values.shape[1:]), dtype="float32", fill_value=np.nan
    )
    for t in sorted(set(range(steps)) - set(missing)):
        data[t] = values[t]
    with np.errstate(all="ignore"):
        present = np.delete(values, list(missing), axis=0).astype(np.float64)
    statistics = {"mean": np.mean, "stdev": np.std, "minimum": np.min, "maximum": np.max}
    arrays = {"dates": dates, "latitudes": lat, "longitudes": lon}
    arrays |= {key: of(present, axis=(0, 2, 3)) for key, of in statistics.items()}
    for key, array in arrays.items():
        group.create_array(key, data=array, fill_value=0)
    about = {name: {"units": UNITS.get(stem(name), ""), "mars": mars(name)} for name in names if stem(name) in BASE}
    about |= {name: {"computed_forcing": True, "units": "dimensionless"} for name in names if name.startswith("cos_")}
    usual = {
        "variables": list(names),
        "variables_metadata": {name: known | (metadata or {}).get(name, {}) for name, known in about.items()},
        "frequency": f"{hours}h",
        "missing_dates": [str(dates[t]) for t in missing],
        "dimensions": ["dates", "variables", "ensembles", "values"],
        "resolution": None,
        "version": "0.22",
    }
    group.attrs.update({key: value for key, value in (usual | attributes).items() if value is not None})
    return values


def stem(name: str) -> str:
    """The name without its level."""
    return name.split("_")[0] if name.rsplit("_", 1)[-1].isdigit() else name


def mars(name: str) -> dict[str, Any]:
    """ECMWF's keywords of a variable."""
    on_level = stem(name) != name
    level = {"levtype": "pl", "levelist": int(name.split("_")[1])} if on_level else {"levtype": "sfc"}
    return {"param": stem(name)} | level
