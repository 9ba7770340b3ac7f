"""Stores of anemoi-datasets: fields, levels, missing dates, sums, and grids that are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from climax_hpc.data.dataset import DataSet
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.packing.work_units import make_plan
from climax_hpc.data_prep.sources.anemoi import discover_anemoi
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import STANDARD_GRAVITY
from climax_hpc.inference.initial_conditions import ShardInitialConditions

from ..anemoi_store import LAT, LON, NAMES, write_anemoi

Plan = Callable[..., Any]
INSTANTS = tuple(name for name in NAMES if name != "tp")
CHANNELS = {
    "2m_temperature": "2t",
    "10m_u_component_of_wind": "10u",
    "mean_sea_level_pressure": "msl",
    "geopotential_500": "z_500",
    "geopotential_850": "z_850",
    "temperature_500": "t_500",
    "temperature_850": "t_850",
    "specific_humidity_700": "q_700",
}


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., PackConfig]:
    """Settings that keep grid and precision of the stores in the folder `in`."""

    def make(**changed: Any) -> PackConfig:
        usual: dict[str, Any] = {"layout": "anemoi", "grid_spacing_deg": None, "dtype": "float32", "climatology": False}
        return PackConfig(input=str(tmp_path / "in"), output=str(tmp_path / "out"), **usual | changed)

    return make


def why_left_out(folder: Path) -> str:
    """Why the only store below a folder is not packed."""
    entries, (skipped,) = discover_anemoi(folder)
    assert not entries
    assert skipped.file == "a.zarr"
    return skipped.reason


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")  # dates in format 3
def test_packed_fields_are_those_of_the_store(
    config: Callable[..., PackConfig], tmp_path: Path, zarr_format: int
) -> None:
    values = write_anemoi(tmp_path / "in/era.zarr", INSTANTS, missing=(2, 3), zarr_format=zarr_format)
    dataset = DataSet(pack(config()).parent)
    (source,) = dataset.select(None)
    assert source.name == "era_anemoi_r1"
    states = ShardInitialConditions(source)
    np.testing.assert_array_equal(source.grid.lat, LAT[::-1])
    kept = [0, 1, 4, 5, 6, 7]
    assert sorted(source.channels) == sorted(CHANNELS)
    found = np.stack([states.read(t) for t in range(source.steps)])
    for c, channel in enumerate(source.channels):
        expected = values[kept, INSTANTS.index(CHANNELS[channel]), 0].reshape(6, 7, 12)[:, ::-1]
        np.testing.assert_allclose(found[:, c], expected, rtol=2e-6, atol=1e-6 * expected.std())  # float32 z-scores
    hours = (source.hours - source.hours[0]).tolist()
    assert hours == [6.0 * t for t in kept]
    orography = values[0, INSTANTS.index("z"), 0].reshape(7, 12)[::-1] / STANDARD_GRAVITY
    np.testing.assert_allclose(states.static["orography"], orography, rtol=1e-6)


def test_the_equator_and_greenwich_are_no_missing_values(tmp_path: Path) -> None:
    """zarr gives coordinates the fill value 0, which xarray's rule reads as missing."""
    write_anemoi(tmp_path / "in/a.zarr", INSTANTS)
    assert 0.0 in LAT
    assert 0.0 in LON
    entries, _ = discover_anemoi(tmp_path / "in")
    assert {e.variable_id for e in entries} == {"tas", "uas", "psl", "ta", "zg", "hus", "sftlf", "orog"}
    assert {e.frequency for e in entries} == {"6hr", "fx"}


def test_the_input_may_be_the_store(config: Callable[..., PackConfig], tmp_path: Path) -> None:
    write_anemoi(tmp_path / "era.zarr", ("2t",))
    plan = make_plan(PackConfig(input=str(tmp_path / "era.zarr"), output=str(tmp_path / "out"), layout="anemoi"))
    assert [(s.name, s.channels) for s in plan.sources] == [("era_anemoi_r1", ["2m_temperature"])]


def test_forcings_and_unknown_variables_are_listed(config: Callable[..., PackConfig], tmp_path: Path) -> None:
    write_anemoi(tmp_path / "in/a.zarr", INSTANTS)
    reasons = {s.variable_id: s.reason for s in make_plan(config()).skipped}
    assert reasons["cos_julian_day"].startswith("cos_julian_day is computed by anemoi from date and position")
    assert reasons["2d"] == "variable 2d is not in the registry"


def test_levels_of_a_model_are_no_pressure_levels(config: Callable[..., PackConfig], tmp_path: Path) -> None:
    write_anemoi(tmp_path / "in/a.zarr", ("2t", "t_137"), metadata={"t_137": {"mars": {"levtype": "ml"}}})
    plan = make_plan(config())
    assert plan.sources[0].channels == ["2m_temperature"]
    assert [s.reason for s in plan.skipped] == ["variable t_137 is not in the registry"]


# ------------------------------------------------------------------ sums and statistics


def test_hourly_sums_are_rates(config: Callable[..., PackConfig], tmp_path: Path) -> None:
    values = write_anemoi(tmp_path / "in/a.zarr", ("tp",), hours=1)
    (source,) = DataSet(pack(config()).parent).select(None)
    found = ShardInitialConditions(source).read(0)[0]
    np.testing.assert_allclose(found, values[0, 0, 0].reshape(7, 12)[::-1] / 3.6, rtol=2e-6)  # 1000 kg m-3 / 3600 s


def test_other_sums_need_their_period(config: Callable[..., PackConfig], tmp_path: Path) -> None:
    write_anemoi(tmp_path / "in/a.zarr", ("tp",))
    with pytest.raises(
        UserError, match=r"a.zarr/data: tp is a sum over a period .* set accumulated_hours: \{tp: HOURS"
    ):
        make_plan(config())
    (series,) = make_plan(config(accumulated_hours={"tp": 6})).sources[0].series
    assert series.files[0].scale == pytest.approx(1 / 21.6)


@pytest.mark.parametrize(("period", "hours"), [([0, 6], 6), (["0h", "3h"], 3), (["6", "12"], 6)])
def test_the_store_may_state_the_period(
    config: Callable[..., PackConfig], tmp_path: Path, period: list[Any], hours: float
) -> None:
    write_anemoi(tmp_path / "in/a.zarr", ("tp",), metadata={"tp": {"process": "accumulation", "period": period}})
    (series,) = make_plan(config()).sources[0].series
    assert series.files[0].scale == pytest.approx(1000 / (3600 * hours))
    assert series.files[0].cell_methods == "time: mean"


@pytest.mark.parametrize("period", [[0, 0], [6, 0], ["P1D", "P2D"], [0], "6h", None])
def test_a_period_that_says_nothing_is_no_period(
    config: Callable[..., PackConfig], tmp_path: Path, period: Any
) -> None:
    write_anemoi(tmp_path / "in/a.zarr", ("tp",), metadata={"tp": {"process": "accumulation", "period": period}})
    with pytest.raises(UserError, match="tp is a sum over a period"):
        make_plan(config())


def test_extremes_are_listed(config: Callable[..., PackConfig], tmp_path: Path) -> None:
    write_anemoi(tmp_path / "in/a.zarr", ("2t", "msl"), metadata={"2t": {"process": "maximum", "period": [0, 6]}})
    plan = make_plan(config())
    assert plan.sources[0].channels == ["mean_sea_level_pressure"]
    assert plan.skipped[0].reason.startswith("2t: its values are a maximum over time")


# ------------------------------------------------------------------ refused stores


def test_a_reduced_grid_is_refused(tmp_path: Path) -> None:
    rows = [(lat, n) for lat, n in ((60.0, 8), (20.0, 12), (-20.0, 12), (-60.0, 8))]
    lat = np.concatenate([np.full(n, lat) for lat, n in rows])
    lon = np.concatenate([np.arange(n) * 360.0 / n for _, n in rows])
    write_anemoi(tmp_path / "in/a.zarr", ("2t",), lat=lat, lon=lon, field_shape=[40])
    expected = r"its 40 cells (field_shape [40]) are no rows of latitudes times columns of longitudes: a reduced "
    assert why_left_out(tmp_path / "in").startswith(expected)
    with pytest.raises(UserError, match="reduced Gaussian or unstructured grid, expected a regular one"):
        make_plan(PackConfig(input=str(tmp_path / "in"), output=str(tmp_path / "out"), layout="anemoi"))


@pytest.mark.parametrize("shape", [[7, 12], None, [84]])
def test_the_grid_is_found_with_and_without_its_shape(tmp_path: Path, shape: list[int] | None) -> None:
    lat, lon = (axis.ravel() for axis in np.meshgrid(LAT, LON, indexing="ij"))
    write_anemoi(tmp_path / "in/a.zarr", ("2t",), lat=lat, lon=lon, field_shape=shape)
    assert len(discover_anemoi(tmp_path / "in")[0]) == 1


@pytest.mark.parametrize("order", ["columns first", "shuffled", "wrong shape"])
def test_cells_in_another_order_are_refused(tmp_path: Path, order: str) -> None:
    lat, lon = np.meshgrid(LAT, LON, indexing="xy" if order == "columns first" else "ij")
    places = np.random.default_rng(1).permutation(84) if order == "shuffled" else np.arange(84)
    shape = [12, 7] if order == "wrong shape" else [7, 12]
    write_anemoi(tmp_path / "in/a.zarr", ("2t",), lat=lat.ravel()[places], lon=lon.ravel()[places], field_shape=shape)
    assert "expected a regular one" in why_left_out(tmp_path / "in")


def test_several_members_are_refused(tmp_path: Path) -> None:
    write_anemoi(tmp_path / "in/a.zarr", ("2t",), members=3)
    assert why_left_out(tmp_path / "in").startswith("it holds 3 members of an ensemble, expected 1; create it with one")


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"variables": ["2t"]}, "its attribute `variables` has 1 names, expected 2 different ones"),
        ({"variables": ["2t", "2t"]}, "its attribute `variables` has 2 names, expected 2 different ones"),
        ({"variables": "2t"}, "its attribute `variables` has no names"),
        ({"missing_dates": ["soon"]}, r"its attribute `missing_dates` is ['soon'], expected dates"),
        ({"missing_dates": 5}, "its attribute `missing_dates` is 5, expected dates"),
        ({"missing_dates": "2020-01-01"}, "its attribute `missing_dates` is 2020-01-01, expected dates"),
        ({"missing_dates": {"a": 1}}, "its attribute `missing_dates` is {'a': 1}, expected dates"),
        ({"field_shape": ["seven", 12]}, "its attribute `field_shape` is ['seven', 12], expected whole numbers"),
        ({"field_shape": [None, 12]}, "its attribute `field_shape` is [None, 12], expected whole numbers"),
        ({"field_shape": [7.5, 12]}, "its attribute `field_shape` is [7.5, 12], expected whole numbers"),
        ({"field_shape": "7 by 12"}, "its attribute `field_shape` is 7 by 12, expected whole numbers"),
        ({"variables": None}, "is no store of anemoi-datasets: it lacks data"),
    ],
)
def test_attributes_that_contradict_the_arrays_are_refused(
    tmp_path: Path, attributes: dict[str, Any], reason: str
) -> None:
    write_anemoi(tmp_path / "in/a.zarr", ("2t", "msl"), **attributes)
    assert why_left_out(tmp_path / "in").startswith(reason)


def test_dates_of_another_number_are_refused(tmp_path: Path) -> None:
    write_anemoi(tmp_path / "in/a.zarr", ("2t",))
    group = zarr.open_group(tmp_path / "in/a.zarr", mode="a")
    group.create_array("dates", data=np.arange(8.0), overwrite=True)
    assert why_left_out(tmp_path / "in").startswith(
        "its array `dates` holds 8 values of type float64, expected 8 dates"
    )


def test_other_layouts_list_the_arrays_of_a_refused_store(tmp_path: Path) -> None:
    write_anemoi(tmp_path / "in/a.zarr", ("2t",), members=3)
    with pytest.raises(UserError, match="variable data is not in the registry"):
        make_plan(PackConfig(input=str(tmp_path / "in"), output=str(tmp_path / "out"), layout="era5"))


def test_an_absent_chunk_is_refused(config: Callable[..., PackConfig], tmp_path: Path) -> None:
    write_anemoi(tmp_path / "in/a.zarr", ("2t",))
    (tmp_path / "in/a.zarr/data/3.0.0.0").unlink()
    with pytest.raises(UserError, match=r"chunk 3.0.0.0 of data is absent"):
        pack(config())
