"""Forecasts with earth2studio: `python run_earth2studio.py WEIGHTS DATASET STATES.nc OUT.nc TIME …`."""

import sys
from collections import OrderedDict

import numpy as np
import xarray as xr
from earth2studio.io import XarrayBackend
from earth2studio.models.px import PrognosticModel
from earth2studio.run import deterministic, ensemble

from climax_hpc import ClimaX
from climax_hpc.inference.earth2studio import ClimaXPrognostic


class Source:
    """A data source of earth2studio over a file."""

    def __init__(self, path: str) -> None:
        self.states = xr.open_dataarray(path)

    def __call__(self, time: object, variable: object) -> xr.DataArray:
        return self.states.sel(time=time, variable=variable)


def same(x: object, coords: object) -> tuple[object, object]:
    """No perturbation."""
    return x, coords


weights, dataset, states, out, *times = sys.argv[1:]
model = ClimaXPrognostic(ClimaX.from_pretrained(weights), climatology=dataset)
assert isinstance(model, PrognosticModel)
io = deterministic(times, 2, model, Source(states), XarrayBackend(), verbose=False)
io.root.to_netcdf(out)
many = ensemble(times, 1, 3, model, Source(states), XarrayBackend(), same, batch_size=2, verbose=False)
first = io.root.isel(lead_time=slice(0, 2))
for name, field in many.root.data_vars.items():
    assert field.dims == ("ensemble", *first[name].dims), field.dims
    np.testing.assert_allclose(field.isel(ensemble=2), first[name], rtol=1e-6, atol=1e-5)
assert OrderedDict(model.input_coords()).keys() >= set(first.dims)
