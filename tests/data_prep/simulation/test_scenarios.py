"""The toy climate: its laws against hand-derived cases, its files against the published layout and the packer."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from climax_hpc.data_prep.simulation.energy_balance import (
    Emissions,
    aerosol_forcing,
    area_mean,
    cell_area,
    global_total,
    greenhouse_forcing,
    response,
    warming,
)
from climax_hpc.data_prep.simulation.scenarios import EXPERIMENTS, emissions_of, write_scenarios
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import regular_grid

GRID = regular_grid(22.5)


def test_a_constant_forcing_ends_in_the_steady_state_after_two_time_scales() -> None:
    """Steady state F/lambda; early on only the surface layer warms: dT/dt = F/C at first (Geoffroy et al. 2013)."""
    warmed = warming(np.full(20_000, 3.7))
    assert warmed[-1] == pytest.approx(3.7 / 1.13, rel=1e-6)
    assert 0.8 * 3.7 / 7.3 < warmed[0] < 3.7 / 7.3
    fine, year = np.zeros(2), 1.0 / 2_000  # explicit Euler with steps short enough for an error below 1e-3
    for _ in range(3 * 2_000):
        surface, deep = fine
        fine = fine + year * np.array(
            [(3.7 - 1.13 * surface - 0.73 * (surface - deep)) / 7.3, 0.73 * (surface - deep) / 106.0]
        )
    assert warmed[2] == pytest.approx(fine[0], rel=1e-3)


def test_forcings_of_hand_derived_cases() -> None:
    """Twice the CO2: 5.35 ln 2. Steady CH4 emissions: burden = emissions x lifetime. 110 Tg of SO2: -1 W m-2."""
    doubling = 7.82 * 278 / 0.45
    nothing = np.zeros((1, *GRID.shape))
    once = Emissions(co2_Y=np.array([doubling]), ch4_Y=np.zeros(1), so2_YHW=nothing, bc_YHW=nothing)
    assert greenhouse_forcing(once)[0] == pytest.approx(5.35 * np.log(2))
    long = Emissions(co2_Y=np.zeros(300), ch4_Y=np.full(300, 0.3), so2_YHW=nothing, bc_YHW=nothing)
    assert greenhouse_forcing(long)[-1] == pytest.approx(0.036 * (np.sqrt(722 + 300 / 2.75 * 9.1) - np.sqrt(722)))
    so2 = np.full((1, *GRID.shape), 110e9 / (cell_area(GRID).sum() * 365 * 86400))
    assert cell_area(GRID).sum() == pytest.approx(4 * np.pi * 6.371e6**2)
    assert global_total(so2, GRID)[0] == pytest.approx(110)
    cooled = Emissions(co2_Y=np.zeros(1), ch4_Y=np.zeros(1), so2_YHW=so2, bc_YHW=nothing)
    assert aerosol_forcing(cooled, GRID)[0] == pytest.approx(-1.0)


def test_patterns_keep_the_global_warming_and_polar_amplification() -> None:
    _, gases = emissions_of("hist-GHG", GRID)
    fields = response(gases, GRID)
    assert area_mean(fields["tas"], GRID) == pytest.approx(warming(greenhouse_forcing(gases)))
    assert fields["tas"][-1, -1].mean() > 1.5 * area_mean(fields["tas"], GRID)[-1]
    _, aerosols = emissions_of("hist-aer", GRID)
    assert (area_mean(response(aerosols, GRID)["tas"], GRID)[100:] < 0).all()
    assert list(fields) == ["tas", "diurnal_temperature_range", "pr", "pr90"]
    assert {field.shape for field in fields.values()} == {(165, *GRID.shape)}


def test_files_have_the_published_layout(tmp_path: Path) -> None:
    paths = write_scenarios(tmp_path / "in", grid=GRID, members=2, first_year=2000)
    assert sorted(p.name for p in paths) == sorted(f"{k}_{e}.nc" for k in ("inputs", "outputs") for e in EXPERIMENTS)
    inputs, outputs = (xr.open_dataset(tmp_path / f"in/{kind}_ssp245.nc") for kind in ("inputs", "outputs"))
    assert inputs["CO2"].dims == ("time",)
    assert inputs["SO2"].dims == ("time", "latitude", "longitude")
    assert outputs["pr90"].dims == ("member", "time", "lat", "lon")
    assert outputs.sizes["member"] == 2
    assert outputs["time"].values[[0, -1]].tolist() == [2015, 2100]
    past = xr.open_dataset(tmp_path / "in/inputs_historical.nc")
    assert past["time"].values[[0, -1]].tolist() == [2000, 2014]
    assert 0 < float(inputs["CO2"][0] - past["CO2"][-1]) < 60, "scenarios go on from the past"


def test_members_differ_and_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    def tas(folder: str, **settings: float) -> xr.DataArray:
        write_scenarios(tmp_path / folder, grid=GRID, experiments=["hist-aer"], first_year=1990, **settings)  # type: ignore[arg-type]
        return xr.open_dataset(tmp_path / folder / "outputs_hist-aer.nc")["tas"]

    first, again, other, calm = tas("a"), tas("b"), tas("c", seed=1), tas("d", noise=0)
    assert (first == again).all()
    assert not (first == other).all()
    assert 0.15 < float((first[0] - first[1]).std()) / np.sqrt(2) < 0.35
    assert (calm == calm[0]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experiments": ["ssp999"]}, "unknown experiment 'ssp999'; choose from historical, ssp126"),
        ({"members": 0}, "use members >= 1 and a first_year from 1850 to 2014"),
        ({"first_year": 2020}, "use members >= 1 and a first_year from 1850 to 2014"),
    ],
)
def test_invalid_arguments_are_refused(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    write: Callable[..., object] = write_scenarios
    with pytest.raises(UserError, match=message):
        write(tmp_path, grid=GRID, **settings)
