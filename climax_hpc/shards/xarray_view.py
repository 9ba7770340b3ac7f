"""A shard or climatology as an xarray data set in physical units, for analysis and plots."""

from pathlib import Path

import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import to_dates
from climax_hpc.fields.variables import lookup
from climax_hpc.shards.open_listed import find_entry, open_listed
from climax_hpc.shards.shard import RESTORE
from climax_hpc.shards.stored_chunks import first_bad_step


def open_physical(path: str | Path) -> xr.Dataset:
    """One variable (time, lat, lon) per channel and (lat, lon) per static field: float32, registry units, in memory.

    Raises:
        UserError: not a file of a packed data set, or a damaged one.
    """
    folder, entry = find_entry(Path(path))
    with open_listed(folder, entry) as file:
        step = first_bad_step(file)
        if step is not None:
            raise UserError(f"{path}: time step {step} does not match its checksum; {RESTORE}")
        first = "time" if "time" in file else "slot"
        values_TCHW = file["fields"][:] * file["std"][:][:, None, None] + file["mean"][:][:, None, None]
        coordinates = {"lat": file["lat"][:], "lon": file["lon"][:]} | _first_axis(file)
        variables: dict[str, tuple[tuple[str, ...], NDArray[np.float32], dict[str, str]]] = {}
        for c, name in enumerate(_names(file, "channel")):
            variables[name] = ((first, "lat", "lon"), values_TCHW[:, c].astype(np.float32), _attributes(name))
        for s, name in enumerate(_names(file, "static_channel")):
            variables[name] = (("lat", "lon"), file["static"][s], _attributes(name))
        return xr.Dataset(variables, coordinates, {key: file.attrs[key] for key in ("source", "frequency", "regrid")})


def _first_axis(file: h5py.File) -> dict[str, object]:
    if "time" in file:
        seconds = np.round(file["time"][:] * 3600).astype(np.int64)
        return {"time": to_dates(seconds, file["time"].attrs["calendar"])}
    return {name: ("slot", file[name][:]) for name in ("day_of_year", "hour")}


def _names(file: h5py.File, name: str) -> list[str]:
    return [text.decode() for text in file[name][:]]


def _attributes(name: str) -> dict[str, str]:
    entry = lookup(name)
    return {"units": entry.units, "standard_name": entry.standard_name}
