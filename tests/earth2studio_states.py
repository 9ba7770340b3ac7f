"""States of packed sources as xarray data sets and as tensors of earth2studio."""

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
import xarray as xr

from climax_hpc.fields.calendars import to_dates
from climax_hpc.fields.variables import lookup
from climax_hpc.inference.earth2studio import ClimaXPrognostic, earth2studio_name
from climax_hpc.inference.initial_conditions import ShardInitialConditions

SMALL = (
    "2m_temperature", "10m_u_component_of_wind", "10m_v_component_of_wind", "geopotential_250", "geopotential_500",
    "geopotential_850", "u_component_of_wind_250", "u_component_of_wind_500", "u_component_of_wind_850",
    "v_component_of_wind_250", "v_component_of_wind_500", "v_component_of_wind_850", "temperature_500",
    "temperature_850",
)  # fmt: skip
"""The dynamic variables of the weights in the package, `jcm-small`."""
CLIMATE = {"geopotential_250": (1e5, 700.0), "geopotential_850": (14000.0, 400.0), "temperature_500": (255.0, 5.0)}
"""Their mean and spread, where `synthetic` has others."""


def as_dataset(states: ShardInitialConditions, start: str, steps: int = 6) -> xr.Dataset:
    """Some states from `start` on, every 6 h, with the static fields: registry names and units, numpy's dates."""
    dates = to_dates(np.round(states.hours * 3600).astype(np.int64), states.calendar)
    texts = [date.isoformat() for date in dates]
    first = next(i for i, text in enumerate(texts) if text.startswith(start))
    values_TCHW = np.stack([states.read(t) for t in range(first, first + steps)]).astype(np.float32)
    times = np.array(texts[first : first + steps], "datetime64[ns]")
    ds = xr.Dataset(coords={"time": times, "lat": states.grid.lat, "lon": states.grid.lon})
    for c, name in enumerate(states.channels):
        ds[name] = (("time", "lat", "lon"), values_TCHW[:, c], {"units": lookup(name).units})
    for name in ("land_sea_mask", "orography"):
        ds[name] = (("lat", "lon"), states.static[name], {"units": lookup(name).units})
    return ds


def as_source(states: xr.Dataset) -> xr.DataArray:
    """The states as earth2studio's `DataArray` source takes them: (time, variable, lat, lon), rows from the north."""
    names = [str(name) for name in states.data_vars if "time" in states[name].dims]
    stacked = np.stack([states[name].values[:, ::-1] for name in names], axis=1)
    coords: dict[str, Any] = {"time": states.time.values, "variable": [earth2studio_name(name) for name in names]}
    coords |= {"lat": states.lat.values[::-1], "lon": states.lon.values}
    return xr.DataArray(stacked, coords, ("time", "variable", "lat", "lon"))


def as_tensor(
    prognostic: ClimaXPrognostic, states: xr.Dataset, times: list[int]
) -> tuple[torch.Tensor, OrderedDict[str, Any]]:
    """The input of the model at some of the times of the states, as earth2studio fetches it."""
    about, source = prognostic.input_coords(), as_source(states)
    del about["batch"]
    about["time"] = source.time.values[times]
    x = np.stack(
        [source.sel(time=about["time"] + lead, variable=about["variable"]).values for lead in about["lead_time"]], 1
    )
    return torch.from_numpy(x), about
