"""ClimateBench in the layout of its archive, on NorESM2's 96 × 144 cells, with synthetic files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
from numpy.typing import NDArray

from climax_hpc.config.parser import read_config
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.packing.work_units import make_plan
from climax_hpc.data_prep.verify import verify
from climax_hpc.errors import UserError
from climax_hpc.shards.manifest import read_manifest

from ..packed import physical

Settings = Callable[..., PackConfig]
LAT, LON = np.linspace(-90, 90, 96), np.arange(144) * 2.5
OUTPUTS = ("tas", "diurnal_temperature_range", "pr", "pr90")
CHANNELS = [
    "2m_temperature",
    "total_precipitation_rate",
    "cumulative_co2_emissions",
    "methane_emissions",
    "sulfur_dioxide_emissions",
    "black_carbon_emissions",
    "diurnal_temperature_range",
    "precipitation_rate_90th_percentile",
]


def write_inputs(folder: Path, experiment: str, years: NDArray[Any], aerosols: bool = True) -> dict[str, NDArray[Any]]:
    """Dimensions time, latitude, longitude; CO2 and CH4 one number per year; no units, as in the archive."""
    rng = np.random.default_rng(len(experiment))
    shape = (len(years), 96, 144)
    values = {
        "CO2": np.cumsum(rng.uniform(1, 3, len(years))),
        "CH4": rng.uniform(0.1, 0.4, len(years)),
        "SO2": rng.uniform(0, 1e-9, shape) * aerosols,
        "BC": rng.uniform(0, 1e-11, shape) * aerosols,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with netCDF4.Dataset(folder / f"inputs_{experiment}.nc", "w") as file:
        for name, axis in (("time", years), ("latitude", LAT), ("longitude", LON)):
            file.createDimension(name, len(axis))
            file.createVariable(name, "i8" if name == "time" else "f8", (name,))[:] = axis
        for name, field in values.items():
            file.createVariable(name, "f8", ("time", "latitude", "longitude")[: field.ndim])[:] = field
    return values


def write_outputs(
    folder: Path, experiment: str, years: NDArray[Any], members: int = 3, dated: bool = False
) -> dict[str, NDArray[Any]]:
    """Dimensions member, time, lat, lon; the first member lacks years of one variable, as in the historical files."""
    rng = np.random.default_rng(members)
    shape = (members, len(years), 96, 144)
    values = {
        "tas": 250 + 40 * np.cos(np.deg2rad(LAT))[:, None] + rng.standard_normal(shape),
        "diurnal_temperature_range": rng.uniform(2, 12, shape),
        "pr": rng.uniform(0, 1e-4, shape),
        "pr90": rng.uniform(0, 3e-4, shape),
    }
    values["diurnal_temperature_range"][0, :2] = np.nan
    folder.mkdir(parents=True, exist_ok=True)
    with netCDF4.Dataset(folder / f"outputs_{experiment}.nc", "w") as file:
        for name, axis in (("member", np.arange(members) + 1), ("time", years), ("lat", LAT), ("lon", LON)):
            file.createDimension(name, len(axis))
            file.createVariable(name, "f8" if name in ("lat", "lon") else "i8", (name,))[:] = axis
        if dated:
            file["time"].setncatts({"units": "days since 1850-01-01", "calendar": "noleap"})
            file["time"][:] = (years - 1850) * 365
        file.createVariable("quantile", "f8", ())[:] = 0.9
        for name, field in values.items():
            file.createVariable(name, "f8", ("member", "time", "lat", "lon"))[:] = field
    return values


@pytest.mark.parametrize("dated", [False, True])
def test_inputs_and_outputs_are_one_yearly_source(settings: Settings, tmp_path: Path, dated: bool) -> None:
    years = np.arange(2015, 2021)
    inputs = write_inputs(tmp_path / "in", "ssp126", years)
    outputs = write_outputs(tmp_path / "in", "ssp126", years, dated=dated)
    config = settings(layout="climatebench", grid_spacing_deg=None, climatology=False)
    folder = pack(config).parent
    name = "NorESM2-LM_ssp126_mean"
    source = read_manifest(folder).sources[name]
    assert source.channels == CHANNELS
    assert (source.frequency, source.step_hours, source.calendar, source.gaps) == ("yr", 0.0, "noleap", [])
    assert (source.shards[0].first, source.shards[0].last) == ("2015-07-02T12:00:00", "2020-07-02T12:00:00")
    assert (len(source.grid["lat"]), len(source.grid["lon"])) == (96, 144)
    fields = physical(folder, name)
    mean = {v: np.nanmean(outputs[v], axis=0) for v in OUTPUTS}
    assert np.isfinite(mean["diurnal_temperature_range"]).all()
    expected = {
        "2m_temperature": mean["tas"],
        "total_precipitation_rate": mean["pr"],
        "cumulative_co2_emissions": inputs["CO2"][:, None, None] * np.ones((96, 144)),
        "methane_emissions": inputs["CH4"][:, None, None] * np.ones((96, 144)),
        "sulfur_dioxide_emissions": inputs["SO2"],
        "black_carbon_emissions": inputs["BC"],
        "diurnal_temperature_range": mean["diurnal_temperature_range"],
        "precipitation_rate_90th_percentile": mean["pr90"],
    }
    for i, channel in enumerate(CHANNELS):
        spread = expected[channel].std()
        assert np.allclose(fields[:, i], expected[channel], rtol=1e-6, atol=1e-5 * spread), channel
    with h5py.File(folder / source.shards[0].file) as file:
        assert file["lat_bnds"][0].tolist() == pytest.approx([-90, -90 + 90 / 95])


def test_the_shipped_config_packs_the_experiments_of_the_benchmark(tmp_path: Path) -> None:
    """Historical files are in both folders; hist-GHG has no aerosols, piControl no inputs, 1pctCO2 no outputs."""
    for experiment in ("historical", "ssp126", "ssp370", "ssp585", "hist-GHG", "hist-aer"):
        years = np.arange(2010, 2014) if experiment.startswith("hist") else np.arange(2015, 2019)
        write_inputs(tmp_path / "in/train_val", experiment, years, aerosols=experiment != "hist-GHG")
        write_outputs(tmp_path / "in/train_val", experiment, years, members=1 + (experiment == "historical"))
    write_inputs(tmp_path / "in/train_val", "1pctCO2", np.arange(1, 5))
    write_outputs(tmp_path / "in/train_val", "piControl", np.arange(1, 5), members=1)
    for experiment, start in (("historical", 2010), ("ssp245", 2015)):
        write_inputs(tmp_path / "in/test", experiment, np.arange(start, start + 4))
        write_outputs(tmp_path / "in/test", experiment, np.arange(start, start + 4))
    config = read_config(
        PackConfig, "pack", ["--config", "climatebench", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]
    )
    manifest = verify(pack(config).parent)
    experiments = ("hist-GHG", "hist-aer", "historical", "ssp126", "ssp245", "ssp370", "ssp585")
    assert list(manifest.sources) == [f"NorESM2-LM_{e}_mean" for e in experiments]
    assert all(s.channels == CHANNELS for s in manifest.sources.values())
    off = manifest.sources["NorESM2-LM_hist-GHG_mean"].statistics["sulfur_dioxide_emissions"]
    assert (off["mean"], off["std"], off["min"], off["max"]) == (0, 1, 0, 0)
    repeated = [s for s in manifest.skipped if s["file"] == "train_val/inputs_historical.nc"]
    assert repeated[0]["reason"] == "test/inputs_historical.nc has the same name and is used"


def test_constant_forcings_are_refused_unless_allowed(settings: Settings, tmp_path: Path) -> None:
    write_inputs(tmp_path / "in", "hist-GHG", np.arange(2000, 2004), aerosols=False)
    with pytest.raises(UserError, match=r"is constant \(0\) in the training period, .*or set allow_constant: true"):
        pack(settings(layout="climatebench", grid_spacing_deg=None))


def test_a_year_that_one_file_lacks_is_a_gap(settings: Settings, tmp_path: Path) -> None:
    write_inputs(tmp_path / "in", "ssp126", np.arange(2015, 2025))
    write_outputs(tmp_path / "in", "ssp126", np.array([2015, 2016, 2017, 2020, 2021]))
    plan = make_plan(settings(layout="climatebench")).sources[0]
    assert plan.segment_starts == [0, 3]
    assert plan.dropped_steps == 5
    assert plan.gaps() == [{"after": "2017-07-02T12:00:00", "before": "2020-07-02T12:00:00"}]


def test_other_files_are_refused_or_skipped(settings: Settings, cmip6: Any, tmp_path: Path) -> None:
    cmip6("tas")
    with pytest.raises(
        UserError, match=r"contains no inputs_<experiment>\.nc or outputs_<experiment>\.nc; give the folder"
    ):
        make_plan(settings(layout="climatebench"))
    write_inputs(tmp_path / "in", "ssp126", np.arange(2015, 2019))
    plan = make_plan(settings(layout="climatebench"))
    assert [s.reason for s in plan.skipped] == ["it is not named as a ClimateBench file"]
