"""`ClimaXPrognostic`: the methods of earth2studio's protocol, and the numbers of `ClimaX.forecast`.

The protocol is stated again here; `make adapters` runs the model in earth2studio itself.
"""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pytest
import torch
import xarray as xr

import climax_hpc
from climax_hpc.data.dataset import DataSet
from climax_hpc.errors import UserError
from climax_hpc.inference.earth2studio import ClimaXPrognostic, CoordinatesError, earth2studio_name
from climax_hpc.inference.initial_conditions import ShardInitialConditions

from ..earth2studio_states import CLIMATE, SMALL, as_dataset, as_tensor

pytestmark = pytest.mark.filterwarnings("ignore:.*does not record which lead times")
START = "2004-01-01T00"


@runtime_checkable
class PrognosticModel(Protocol):
    """earth2studio.models.px.base.PrognosticModel of version 0.19."""

    def __call__(self, x: torch.Tensor, coords: OrderedDict[str, Any]) -> tuple[torch.Tensor, OrderedDict[str, Any]]:
        """One step."""

    def create_iterator(
        self, x: torch.Tensor, coords: OrderedDict[str, Any]
    ) -> Iterator[tuple[torch.Tensor, OrderedDict[str, Any]]]:
        """The initial state and all steps."""

    def input_coords(self) -> OrderedDict[str, Any]:
        """Coordinates of the input."""

    def output_coords(self, input_coords: OrderedDict[str, Any]) -> OrderedDict[str, Any]:
        """Coordinates of the output."""

    def to(self, device: Any) -> "PrognosticModel":
        """The model on a device."""


@pytest.fixture(scope="module")
def real_dates(make_dataset: Callable[..., Path]) -> Path:
    """A packed data set in the calendar of numpy's dates, on the grid of the checkpoints."""
    return make_dataset(dtype="float32", calendar="standard")


@pytest.fixture(scope="module")
def fine(make_dataset: Callable[..., Path]) -> Path:
    """The same with the variables and the grid of the weights in the package."""
    return make_dataset(dtype="float32", calendar="standard", shape=(32, 64), channels=SMALL, climate=CLIMATE)


def states_of(dataset: Path) -> xr.Dataset:
    return as_dataset(ShardInitialConditions(DataSet(dataset).select(None)[0]), START)


def forecasts(prognostic: ClimaXPrognostic, states: xr.Dataset, times: list[int], steps: int) -> list[Any]:
    x, coords = as_tensor(prognostic, states, times)
    return list(islice(prognostic.create_iterator(x, coords), steps + 1))


def test_it_has_the_methods_of_the_protocol(checkpoints: dict[str, str]) -> None:
    prognostic = ClimaXPrognostic(climax_hpc.ClimaX.from_pretrained(checkpoints["full"]))
    assert isinstance(prognostic, PrognosticModel)
    for name in ("__call__", "create_iterator", "input_coords", "output_coords", "to"):
        found, expected = (inspect.signature(getattr(kind, name)) for kind in (ClimaXPrognostic, PrognosticModel))
        assert list(found.parameters) == list(expected.parameters)
    coords = prognostic.input_coords()
    assert list(coords) == ["batch", "time", "lead_time", "variable", "lat", "lon"]
    assert coords["variable"].tolist() == ["t2m", "z500", "u850", "t850"]
    assert coords["lead_time"].tolist() == [0]
    assert (np.diff(coords["lat"]) < 0).all()
    assert (np.diff(coords["lon"]) > 0).all()
    assert coords["batch"].shape == coords["time"].shape == (0,)
    assert prognostic.output_coords(coords)["lead_time"] == np.timedelta64(6, "h")
    assert prognostic.to("cpu") is prognostic


@pytest.mark.parametrize("mode", ["full", "anomaly"])
def test_the_numbers_are_those_of_forecast(checkpoints: dict[str, str], real_dates: Path, mode: str) -> None:
    model, states = climax_hpc.ClimaX.from_pretrained(checkpoints[mode]), states_of(real_dates)
    prognostic = ClimaXPrognostic(model, climatology=real_dates, step="12h")
    found = forecasts(prognostic, states, [1, 4], 2)
    expected = model.forecast(states.isel(time=[1, 4]), lead=["12h", "24h"], climatology=real_dates)
    assert len(found) == 3
    initial, about = found[0]
    np.testing.assert_allclose(initial[1, 0, 0].numpy(), states["2m_temperature"][4, ::-1], rtol=1e-6)
    assert about["lead_time"].tolist() == [0]
    for number, (x, coords) in enumerate(found[1:]):
        assert coords["lead_time"] == np.timedelta64(12 * (number + 1), "h")
        assert x.shape == (2, 1, 4, 8, 16)
        for place, name in enumerate(("2m_temperature", "geopotential_500", "u_component_of_wind_850")):
            assert coords["variable"][place] == earth2studio_name(name)
            wanted = expected[name][:, number, ::-1]
            np.testing.assert_allclose(x[:, 0, place], wanted, rtol=1e-6, atol=1e-6 * float(wanted.std()))


def test_the_weights_in_the_package_take_two_states(fine: Path) -> None:
    model, states = climax_hpc.ClimaX.from_pretrained("jcm-small"), states_of(fine)
    prognostic = ClimaXPrognostic(model, climatology=fine)
    assert (prognostic.input_coords()["lead_time"] / np.timedelta64(1, "h")).tolist() == [-6, 0]
    (_, (x, coords)) = forecasts(prognostic, states, [2], 1)
    assert x.shape == (1, 1, 14, 32, 64)
    expected = model.forecast(states.isel(time=[1, 2]), lead="6h", climatology=fine)
    for place, name in enumerate(SMALL):
        assert coords["variable"][place] == earth2studio_name(name)
        np.testing.assert_allclose(x[0, 0, place], expected[name][0, 0, ::-1], rtol=1e-5, atol=1e-4)
    long = ClimaXPrognostic(model, climatology=fine, step=246)
    with pytest.warns(UserWarning, match="the model was trained on leads of 6 … 240 h in steps of 6 h: 246 h is out"):
        long(*as_tensor(long, states, [1]))


def test_further_dimensions_and_later_lead_times(checkpoints: dict[str, str], real_dates: Path) -> None:
    """An ensemble has a dimension before time; the output of one call can be the input of the next."""
    model, states = climax_hpc.ClimaX.from_pretrained(checkpoints["anomaly"]), states_of(real_dates)
    prognostic = ClimaXPrognostic(model, climatology=real_dates)
    x, coords = as_tensor(prognostic, states, [1, 4])
    many = torch.stack([x, x * 1.01, x * 0.99])
    once, about = prognostic(many, OrderedDict({"ensemble": np.arange(3)} | coords))
    assert list(about)[:2] == ["ensemble", "time"]
    assert once.shape == (3, 2, 1, 4, 8, 16)
    single, _ = prognostic(x, coords)
    torch.testing.assert_close(once[0], single)
    assert float((once[1] - single).abs().max()) > 0.1
    twice, about = prognostic(once, about)
    assert about["lead_time"] == np.timedelta64(12, "h")
    rolled = model.forecast(states.isel(time=[1, 4]), lead="12h", rollout="6h", climatology=real_dates)
    np.testing.assert_allclose(twice[0, :, 0, 0], rolled["2m_temperature"][:, 0, ::-1], rtol=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"variable": np.array(["t2m", "z500", "u850", "t500"])},
            r"variable is t2m, z500, u850, t500, expected t2m, z",
        ),
        ({"lat": np.linspace(-78.75, 78.75, 8)}, r"lat is -78.75 … 78.75 \(8\), expected 78.75 … -78.75 \(8\)"),
        ({"lead_time": np.array([0, 6], "timedelta64[h]")}, "lead_time is "),
        ({"lon": None}, "the dimensions are time, lead_time, variable, lat, expected any and then time"),
    ],
)
def test_other_coordinates_are_refused(
    checkpoints: dict[str, str], real_dates: Path, changed: dict[str, Any], message: str
) -> None:
    prognostic = ClimaXPrognostic(climax_hpc.ClimaX.from_pretrained(checkpoints["full"]), climatology=real_dates)
    x, coords = as_tensor(prognostic, states_of(real_dates), [1])
    coords = OrderedDict((key, value) for key, value in (coords | changed).items() if value is not None)
    with pytest.raises(ValueError, match=message):
        prognostic(x, coords)
    with pytest.raises(CoordinatesError, match=message):
        prognostic.output_coords(coords)


def test_a_tensor_of_another_shape_is_refused(checkpoints: dict[str, str], real_dates: Path) -> None:
    prognostic = ClimaXPrognostic(climax_hpc.ClimaX.from_pretrained(checkpoints["full"]), climatology=real_dates)
    x, coords = as_tensor(prognostic, states_of(real_dates), [1])
    with pytest.raises(CoordinatesError, match="its shape"):
        prognostic(x[..., :-1], coords)


def test_impossible_values_are_refused(checkpoints: dict[str, str], real_dates: Path) -> None:
    """Geopotential height in the place of geopotential, for example."""
    prognostic = ClimaXPrognostic(climax_hpc.ClimaX.from_pretrained(checkpoints["full"]), climatology=real_dates)
    x, coords = as_tensor(prognostic, states_of(real_dates), [1])
    x[:, :, 1] /= 9.80665
    with pytest.raises(UserError, match="x: z500: geopotential_500 has 128 of 128 values outside"):
        prognostic(x, coords)


def test_models_and_settings_that_do_not_fit_are_refused(
    checkpoints: dict[str, str], dataset: Path, real_dates: Path, fine: Path
) -> None:
    one, anomaly = (climax_hpc.ClimaX.from_pretrained(checkpoints[label]) for label in ("full", "anomaly"))
    both = climax_hpc.ClimaX.from_pretrained([checkpoints["full"], checkpoints["other"]])
    with pytest.raises(UserError, match="holds 2 checkpoints; give earth2studio one at a time"):
        ClimaXPrognostic(both)
    with pytest.raises(UserError, match="has calendar noleap, the input standard"):
        ClimaXPrognostic(anomaly, climatology=dataset)
    with pytest.raises(UserError, match="is on another grid than the model"):
        ClimaXPrognostic(anomaly, climatology=fine)
    with pytest.raises(UserError, match="which needs the climatology of the input"):
        ClimaXPrognostic(anomaly)
    with pytest.raises(UserError, match="step: '0h' is not above 0 h"):
        ClimaXPrognostic(one, step="0h")
    with pytest.warns(UserWarning, match="was trained with land_sea_mask, orography, which `climatology` lacks"):
        ClimaXPrognostic(one)
    with pytest.raises(UserError, match="earth2studio has no name for diurnal_temperature_range"):
        earth2studio_name("diurnal_temperature_range")
