"""A file of a packed data set as an xarray data set in physical units, for analysis and plots."""

from pathlib import Path

import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import to_dates, to_seconds
from climax_hpc.fields.variables import lookup
from climax_hpc.shards.open_listed import find_entry, open_listed
from climax_hpc.shards.shard import RESTORE
from climax_hpc.shards.static_file import read_static
from climax_hpc.shards.stored_chunks import first_bad_step

_Variable = tuple[tuple[str, ...], NDArray[np.float32], dict[str, str]]
"""Dimensions, values, attributes."""


def open_physical(path: str | Path) -> xr.Dataset:
    """One variable (time, lat, lon) per channel and (lat, lon) per static field: float32, registry units, in memory.

    Raises:
        UserError: not a file of a packed data set, or a damaged one.
    """
    folder, source, entry = find_entry(Path(path))
    with open_listed(folder, entry) as file:
        variables = _fields(file, path) if "fields" in file else {}
        for name, field_HW in read_static(file, folder, source).items():
            variables[name] = (("lat", "lon"), field_HW, _attributes(name))
        coordinates = {"lat": file["lat"][:], "lon": file["lon"][:]} | _first_axis(file)
        return xr.Dataset(variables, coordinates, {key: file.attrs[key] for key in ("source", "frequency", "regrid")})


def _fields(file: h5py.File, path: str | Path) -> dict[str, _Variable]:
    """The fields in time, after their checksums were compared."""
    step = first_bad_step(file)
    if step is not None:
        raise UserError(f"{path}: time step {step} does not match its checksum; {RESTORE}")
    first = "time" if "time" in file else "slot"
    values_TCHW = file["fields"][:] * file["std"][:][:, None, None] + file["mean"][:][:, None, None]
    return {
        name: ((first, "lat", "lon"), values_TCHW[:, c].astype(np.float32), _attributes(name))
        for c, name in enumerate(text.decode() for text in file["channel"][:])
    }


def _first_axis(file: h5py.File) -> dict[str, object]:
    if "fields" not in file:
        return {}
    if "time" in file:
        return {"time": to_dates(to_seconds(file["time"][:]), file["time"].attrs["calendar"])}
    return {name: ("slot", file[name][:]) for name in ("day_of_year", "hour")}


def _attributes(name: str) -> dict[str, str]:
    entry = lookup(name)
    return {"units": entry.units, "standard_name": entry.standard_name}
