"""earth2studio itself runs the weights in the package, with the numbers of `ClimaX.forecast`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import climax_hpc
from climax_hpc.data.dataset import DataSet
from climax_hpc.inference.earth2studio import earth2studio_name
from climax_hpc.inference.initial_conditions import ShardInitialConditions

from ..earth2studio_states import CLIMATE, SMALL, as_dataset, as_source
from .conftest import HERE, Aside

pytestmark = pytest.mark.adapters


def test_deterministic_and_ensemble_runs(aside: Aside, make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    dataset = make_dataset(dtype="float32", calendar="standard", shape=(32, 64), channels=SMALL, climate=CLIMATE)
    states = as_dataset(ShardInitialConditions(DataSet(dataset).select(None)[0]), "2004-01-03T00")
    as_source(states).to_netcdf(tmp_path / "states.nc")
    times = [str(time)[:19] for time in states.time.values[[1, 3]]]
    arguments = ("jcm-small", dataset, tmp_path / "states.nc", tmp_path / "out.nc")
    aside("earth2studio", HERE / "run_earth2studio.py", *arguments, *times)
    found = xr.open_dataset(tmp_path / "out.nc", decode_timedelta=True)
    assert (found.lead_time / np.timedelta64(1, "h")).values.tolist() == [0, 6, 12]
    model = climax_hpc.ClimaX.from_pretrained("jcm-small")
    expected = model.forecast(states, lead=["6h", "12h"], climatology=dataset)
    expected = expected.sel(forecast_reference_time=states.time.values[[1, 3]])
    for name in SMALL:
        theirs = found[earth2studio_name(name)].transpose("time", "lead_time", "lat", "lon")
        np.testing.assert_allclose(theirs[:, 1:], expected[name][:, :, ::-1], rtol=1e-6, atol=1e-4)
        np.testing.assert_array_equal(theirs[:, 0], states[name].values[[1, 3], ::-1])
