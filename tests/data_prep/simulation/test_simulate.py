"""The simulator without the GCM: settings, segments of time, vertical interpolation, writing."""

import datetime as dt
import inspect
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from climax_hpc.config.parser import read_config
from climax_hpc.data_prep.simulation import jcm_output, jcm_vertical
from climax_hpc.data_prep.simulation.config import AVAILABLE, STEP, SimulateConfig, segments, sources
from climax_hpc.data_prep.simulation.driver_settings import driver_settings, variables
from climax_hpc.data_prep.simulation.jcm_parameter_sets import DESCRIPTIONS, PARAMETER_SETS
from climax_hpc.data_prep.simulation.jcm_variables import LEVEL_VARIABLES, SURFACE_VARIABLES, VARIABLES
from climax_hpc.data_prep.simulation.machine import memory_of
from climax_hpc.data_prep.sources.conversions import conversion
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import REGISTRY, lookup

FACETS = {"source_id": "JCM-A", "experiment_id": "piClim-control", "variant_label": "r1i1p1f1", "grid_label": "gn"}
FACETS |= {"version": "v20260101"}


def config(**changes: Any) -> SimulateConfig:
    return SimulateConfig(**{"output": "unused", "days": 10, **changes})


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"parameter_set": "JCM-X"}, "did you mean JCM-"),
        ({"parameter_set": "speedy"}, "choose from JCM-A, JCM-B, JCM-C, JCM-D, JCM-E"),
        ({"truncation": 63}, "use 21, 31 or 42"),
        ({"layers": 4}, "at least 5"),
        ({"days": None}, "exactly one"),
        ({"years": 1}, "exactly one"),
        ({"days": 0}, "days: 0 is too small; give 1 or more"),
        ({"days": None, "years": -1}, "years: -1 is too small"),
        ({"spin_up_days": -1}, "spin_up_days"),
        ({"realization": 0}, "realization: 0 is too small; give 1"),
        ({"seed": -3}, "seed: -3"),
        ({"start": "2001-1-1"}, "YYYY-MM-DD"),
        ({"start": "2001-02-30"}, "is not a date"),
        ({"window": "01-01"}, "MM-DD:MM-DD"),
        ({"window": "02-29:03-10"}, "02-28"),
        ({"window": "07-01:07-30"}, "no day in the kept period"),
        ({"version": "latest"}, "vYYYYMMDD"),
        ({"variables": ["geopotential_501"]}, "did you mean geopotential_50"),
        ({"variables": ["relative_humidity_500"]}, "the GCM has no relative_humidity_500"),
        ({"variables": ["2m_temperature", "2m_temperature"]}, "2m_temperature repeated"),
        ({"variables": ["orography"]}, "none of them changes in time"),
        ({"variables": []}, "none of them changes in time"),
        ({"parameter_set": ["JCM-A", "JCM-X"]}, "unknown 'JCM-X'; did you mean JCM-"),
        ({"parameter_set": ["JCM-B", "JCM-A", "JCM-B"]}, "parameter_set: JCM-B repeated"),
        ({"parameter_set": []}, "parameter_set: the list is empty"),
        ({"realization": [1, 0]}, "realization: 0 is too small"),
        ({"realization": [2, 2]}, "realization: 2 repeated"),
        ({"realization": [1, 2], "seed": 5}, "seed: realisations with the same seed have the same weather"),
        ({"jobs": 0}, "jobs: 0 is too small; give 1 or more"),
    ],
)
def test_invalid_settings_are_refused_with_the_fix(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as refused:
        config(**changes)
    assert "\n" not in str(refused.value)


def test_every_field_of_the_configuration_is_explained() -> None:
    source = Path(inspect.getfile(SimulateConfig)).read_text()
    for field in fields(SimulateConfig):
        after = source[source.index(f"    {field.name}: ") :].splitlines()[1]
        assert after.strip().startswith('"""'), field.name


def test_every_parameter_set_is_described() -> None:
    assert set(DESCRIPTIONS) == set(PARAMETER_SETS)


def test_a_config_names_every_member_of_every_parameter_set() -> None:
    named = sources(config(parameter_set=["JCM-C", "JCM-A"], realization=[3, 1]))
    assert [one.label for one in named] == ["JCM-C r3", "JCM-C r1", "JCM-A r3", "JCM-A r1"]
    assert [one.seed for one in named] == [3, 1, 3, 1]
    assert [one.seed for one in sources(config(parameter_set=["JCM-C", "JCM-A"], seed=0))] == [0, 0]


def test_lists_are_read_from_the_command_line() -> None:
    words = ["--output=o", "--days=1", "--parameter_set=[JCM-B, JCM-C]", "--realization=[1, 2]"]
    read = read_config(SimulateConfig, "simulate", words)
    assert (read.parameter_set, read.realization) == (["JCM-B", "JCM-C"], [1, 2])
    read = read_config(SimulateConfig, "simulate", [*words[:2], "--parameter_set=JCM-B", "--realization=2"])
    assert (read.parameter_set, read.realization) == ("JCM-B", 2)


# ---------------------------------------------------------------- segments of time


def test_window_gives_one_segment_a_year() -> None:
    kept = segments(config(days=None, years=3, window="01-01:01-30"))
    assert [a.isoformat() for a, _ in kept] == ["2001-01-01T00:00:00", "2002-01-01T00:00:00", "2003-01-01T00:00:00"]
    assert all((b - a) / STEP + 1 == 120 for a, b in kept)


def test_window_over_new_year_is_one_segment() -> None:
    kept = segments(config(start="2001-06-01", days=None, years=1, window="12-15:01-15"))
    assert kept == [(dt.datetime(2001, 12, 15), dt.datetime(2002, 1, 15, 18))]


def test_without_a_window_segments_are_calendar_years_with_their_leap_day() -> None:
    kept = segments(config(start="2003-12-31", days=None, years=2))
    assert kept[0] == (dt.datetime(2003, 12, 31), dt.datetime(2003, 12, 31, 18))
    assert kept[1] == (dt.datetime(2004, 1, 1), dt.datetime(2004, 12, 31, 18))
    steps = sum((b - a) / STEP + 1 for a, b in kept)
    assert steps == 4 * (dt.date(2005, 12, 31) - dt.date(2003, 12, 31)).days


@pytest.mark.parametrize(("days", "spin_up"), [(1, 0), (3, 1), (30, 180), (365, 200), (7, 6)])
def test_the_integration_covers_the_kept_period(days: int, spin_up: int) -> None:
    settings: Any = driver_settings(sources(config(days=days, spin_up_days=spin_up))[0], Path("f"))
    begin = dt.datetime.fromisoformat(settings["begin"])
    first_save = begin + STEP
    end = begin + dt.timedelta(days=settings["blocks"] * settings["block_days"])
    assert first_save == dt.datetime(2001, 1, 1) - dt.timedelta(days=spin_up)
    last = dt.datetime.fromisoformat(settings["segments"][-1][1])
    assert last <= end < last + dt.timedelta(days=settings["block_days"])
    json.dumps(settings)  # plain data only: the driver's environment has no climax_hpc


@pytest.mark.parametrize(("truncation", "said"), [(21, "2.2 GB at T21"), (42, "4.3 GB at T42")])
def test_the_memory_in_the_docs_is_what_the_number_of_jobs_assumes(truncation: int, said: str) -> None:
    guide = " ".join((Path(__file__).parents[3] / "docs/guides/simulate.md").read_text().split())
    assert said.startswith(f"{memory_of(config(days=None, years=2, truncation=truncation)) / 1e9:.1f} GB")
    assert said in guide


def test_only_the_requested_levels_are_written_in_descending_order() -> None:
    wanted = variables(config(variables=["geopotential_50", "2m_temperature", "geopotential_850", "orography"]))
    assert wanted == {"tas": [], "zg": [85000.0, 5000.0]}


def test_all_available_channels_are_known_to_the_writer() -> None:
    assert set(variables(config())) == {*LEVEL_VARIABLES, *SURFACE_VARIABLES} & {v.cmip6 for v in REGISTRY.values()}
    for name in AVAILABLE:
        variable_id = str(lookup(name).cmip6)
        conversion(variable_id, VARIABLES[variable_id].units, "written")  # refuses units that the packer cannot read


# ---------------------------------------------------------------- from sigma to pressure

SIGMA = np.array([0.025, 0.095, 0.20, 0.34, 0.51, 0.685, 0.835, 0.95])  # SPEEDY's full levels
LEVELS = np.array([5000.0, 25000.0, 50000.0, 60000.0, 70000.0, 85000.0, 92500.0])


def analytic(lnp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Temperature linear in log-pressure and the height that is hydrostatic with it, for a surface at 1000 hPa."""
    x = lnp - np.log(1e5)
    a, b = 288.0, 31.0
    return a + b * x, -jcm_vertical.GAS_CONSTANT / jcm_vertical.GRAVITY * (a * x + 0.5 * b * x**2)


@pytest.fixture
def column() -> np.ndarray:
    """Log-pressure (T=2, K=8, H=1, W=3) over surfaces between 600 and 1040 hPa."""
    ps = np.array([[[60000.0, 99000.0, 104000.0]], [[75000.0, 92600.0, 101325.0]]])
    return jcm_vertical.log_pressure(ps, SIGMA)


def test_heights_and_temperatures_linear_in_log_pressure_are_exact(column: np.ndarray) -> None:
    ta, zg = analytic(column)
    want_ta, want_zg = analytic(np.log(LEVELS))
    inside = np.log(LEVELS)[None, :, None, None] <= column[:, -1:]
    got_ta = jcm_vertical.interpolate_temperature(ta, column, LEVELS)
    got_zg = jcm_vertical.interpolate_height(zg, ta, column, LEVELS)
    assert inside.sum() > 30
    # Rounding only: the scheme is exact for this atmosphere.
    np.testing.assert_allclose(
        got_ta[inside], np.broadcast_to(want_ta[None, :, None, None], got_ta.shape)[inside], 1e-12
    )
    np.testing.assert_allclose(
        got_zg[inside], np.broadcast_to(want_zg[None, :, None, None], got_zg.shape)[inside], 1e-11
    )


def test_below_the_ground_temperature_and_height_follow_the_lapse_rate(column: np.ndarray) -> None:
    ta, zg = analytic(column)
    got_ta = jcm_vertical.interpolate_temperature(ta, column, LEVELS)[0, -1, 0, 0]
    got_zg = jcm_vertical.interpolate_height(zg, ta, column, LEVELS)[0, -1, 0, 0]
    fallen = zg[0, -1, 0, 0] - got_zg
    assert fallen > 1000  # 925 hPa below a surface at 600 hPa
    assert got_ta - ta[0, -1, 0, 0] == pytest.approx(0.0065 * fallen, rel=1e-9)


def test_winds_keep_the_outermost_value_beyond_the_levels(column: np.ndarray) -> None:
    wind = np.broadcast_to(np.arange(8.0)[None, :, None, None], column.shape)
    got = jcm_vertical.interpolate(wind, column, np.array([100.0, 120000.0]))
    assert (got[:, 0] == 0).all()
    assert (got[:, 1] == 7).all()


def test_sea_level_pressure_of_the_standard_atmosphere() -> None:
    height = np.array([[0.0, 500.0, 3000.0]])
    t_surface = 288.15 - 0.0065 * height
    exponent = jcm_vertical.GRAVITY / jcm_vertical.GAS_CONSTANT / 0.0065
    ps = 101325.0 * (t_surface / 288.15) ** exponent
    t_bottom = t_surface * 0.95 ** (1 / exponent)
    got = jcm_vertical.sea_level_pressure(ps[None], t_bottom[None], 0.95, height)
    np.testing.assert_allclose(got, 101325.0, rtol=1e-9)


# ---------------------------------------------------------------- files


def six_hourly(first: str, count: int) -> jcm_output.Times:
    start = np.datetime64(first).astype("datetime64[s]")
    return start + np.arange(count) * np.timedelta64(6 * 3600, "s")


def write(folder: Path, name: str, values: np.ndarray, quantise: bool = True, plev: Any = None) -> Path:
    times = six_hourly("2001-12-31", values.shape[0])
    field = jcm_output.Field(name=name, metadata=vars(VARIABLES[name]), values=values, times=times, plev=plev)
    return jcm_output.write_field(folder, field, FACETS, {"source_id": "JCM-A"}, quantise)


def test_file_names_follow_the_drs() -> None:
    timed = jcm_output.relative_path("zg", six_hourly("2001-01-01", 120), FACETS)
    assert timed == Path(
        "6hrPlevPt/zg/gn/v20260101/zg_6hrPlevPt_JCM-A_piClim-control_r1i1p1f1_gn_200101010000-200101301800.nc"
    )
    fixed = jcm_output.relative_path("orog", None, FACETS)
    assert fixed == Path("fx/orog/gn/v20260101/orog_fx_JCM-A_piClim-control_r1i1p1f1_gn.nc")


@pytest.mark.parametrize("quantise", [True, False])
def test_files_are_read_back_as_written(tmp_path: Path, quantise: bool) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 12, (5, 2, 6, 12))
    path = write(tmp_path, "va", values, quantise, plev=np.array([85000.0, 50000.0]))
    with xr.open_dataset(path) as dataset:
        assert dataset["va"].dims == ("time", "plev", "lat", "lon")
        assert str(dataset["time"].values[-1])[:16] == "2002-01-01T00:00"
        worst = np.abs(dataset["va"].values - values).max()
    # int16: half a quantum; float32: 24-bit mantissa of values below 64.
    assert worst <= (0.025 + 1e-9 if quantise else 64 * 2.0**-24)


def test_values_that_do_not_fit_the_packing_are_refused() -> None:
    with pytest.raises(ValueError, match="quantise: false"):
        jcm_output.pack(np.array([0.0, 1.0]), 1e-7, 0.0, "pr")
    with pytest.raises(ValueError, match="does not fit"):
        jcm_output.pack(np.array([np.nan, 1.0]), 1.0, 0.0, "zg")


@pytest.mark.parametrize("rows", [32, 48, 64])
def test_gaussian_cells_tile_the_sphere_and_enclose_their_latitudes(rows: int) -> None:
    bounds = jcm_output.gaussian_bounds(rows)
    sines, weights = np.polynomial.legendre.leggauss(rows)
    latitudes = np.rad2deg(np.arcsin(sines))
    assert bounds[0, 0] == -90
    assert bounds[-1, 1] == 90
    assert (bounds[1:, 0] == bounds[:-1, 1]).all()
    assert ((bounds[:, 0] < latitudes) & (latitudes < bounds[:, 1])).all()
    np.testing.assert_allclose(np.diff(np.sin(np.deg2rad(bounds)), axis=1)[:, 0], weights, atol=1e-12)
