"""A coordinate name added to the one table is read by `pack` and by `predict`, through the command line."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from climax_hpc.cli import run
from climax_hpc.data.dataset import DataSet
from climax_hpc.data_prep.sources.coordinates import COORDINATES
from climax_hpc.errors import UserError
from climax_hpc.inference.open_files import open_files
from climax_hpc.inference.xarray_input import XarrayInitialConditions

from .conftest import as_cmip6

NEW = {"lat": "breite", "lon": "laenge", "level": "druckflaeche", "time": "zeit"}
CHANNELS = "[2m_temperature, temperature_850, geopotential_500, u_component_of_wind_850]"


@pytest.fixture
def odd(physical: xr.Dataset) -> xr.Dataset:
    """Coordinates under names that the table lacks, without CF attributes that would give them away."""
    names = {"lat": "breite", "lon": "laenge", "plev": "druckflaeche", "time": "zeit"}
    ds = as_cmip6(physical).rename(names)
    ds["druckflaeche"].attrs = {"units": "Pa"}
    return ds


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, name in NEW.items():
        monkeypatch.setitem(COORDINATES, kind, replace(COORDINATES[kind], names=(*COORDINATES[kind].names, name)))


def write(ds: xr.Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.to_netcdf(path)
    return path


def predict(ds: xr.Dataset, checkpoint: str, folder: Path) -> list[xr.Dataset]:
    file = write(ds, folder / "input.nc")
    arguments = ["--models", f"{{m: {checkpoint}}}", "--input", str(file), "--output", str(folder / "out")]
    run(["predict", *arguments, "--period", "['2004-01-02', '2004-01-02']", "--lead_hours", "[6]"])
    return [xr.load_dataset(path, decode_timedelta=False) for path in sorted((folder / "out").glob("*.nc"))]


def pack(ds: xr.Dataset, folder: Path) -> DataSet:
    for name in ("tas", "ta", "zg", "ua"):
        variable = ds[[name]].assign({name: ds[name].assign_attrs(cell_methods="time: point")})
        write(variable, folder / "in" / f"{name}_6hrPlevPt_TEST_historical_r1i1p1f1_gn.nc")
    arguments = ["--input", str(folder / "in"), "--output", str(folder / "out"), "--grid_spacing_deg", "null"]
    run(["pack", *arguments, "--variables", CHANNELS, "--climatology", "false"])
    return DataSet(folder / "out")


def fields(dataset: DataSet) -> np.ndarray:
    source = dataset.select(None)[0]
    return np.stack([source.read(t) for t in range(source.steps)])


def test_unknown_names_are_refused(odd: xr.Dataset, checkpoints: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tas lies on no latitude-longitude grid"):
        predict(odd, checkpoints["full"], tmp_path)
    with pytest.raises(UserError, match="it has no latitudes and longitudes"):
        pack(odd, tmp_path)


@pytest.mark.usefixtures("registered")
def test_a_registered_name_predicts(
    odd: xr.Dataset, physical: xr.Dataset, checkpoints: dict[str, str], tmp_path: Path
) -> None:
    found = predict(odd, checkpoints["full"], tmp_path / "odd")
    expected = predict(as_cmip6(physical), checkpoints["full"], tmp_path / "usual")
    assert len(found) == 4
    for ours, usual in zip(found, expected, strict=True):
        xr.testing.assert_equal(ours, usual)


@pytest.mark.usefixtures("registered")
def test_a_registered_name_packs(odd: xr.Dataset, physical: xr.Dataset, tmp_path: Path) -> None:
    found = fields(pack(odd, tmp_path / "odd"))
    assert np.array_equal(found, fields(pack(as_cmip6(physical), tmp_path / "usual")))


def test_coordinates_of_the_copernicus_store_predict(
    physical: xr.Dataset, checkpoints: dict[str, str], tmp_path: Path
) -> None:
    """Times named `valid_time`, next to scalar coordinates that are not axes of the fields."""
    usual = as_cmip6(physical)
    store = usual.rename(time="valid_time", plev="pressure_level", lat="latitude", lon="longitude")
    store = store.assign_coords(number=0, pressure_level=[850.0, 500.0])
    for ours, expected in zip(
        predict(store, checkpoints["full"], tmp_path / "store"),
        predict(usual, checkpoints["full"], tmp_path / "usual"),
        strict=True,
    ):
        xr.testing.assert_equal(ours, expected)


@pytest.mark.parametrize("units", ["1", "m"])
def test_levels_that_are_not_pressure_are_refused(
    physical: xr.Dataset, checkpoints: dict[str, str], tmp_path: Path, units: str
) -> None:
    ds = as_cmip6(physical)
    ds["plev"] = ("plev", [850.0, 500.0], {"units": units})
    with pytest.raises(UserError, match=rf"input\.nc: ta: its levels \(plev in '{units}'\) are not pressure"):
        predict(ds, checkpoints["full"], tmp_path)


@pytest.mark.parametrize(
    ("values", "attributes", "message"),
    [
        ([850.0, 500.0], {"units": "Pa"}, "hPa is probably meant"),
        ([0.85, 0.5], {"standard_name": "atmosphere_sigma_coordinate", "units": "1"}, "atmosphere_sigma_coordinate"),
        ([1.5, 5.5], {"units": "km"}, "are not pressure"),
        ([850.0, 500.0], {"units": "hPa", "formula_terms": "a: a b: b ps: ps"}, "formula_terms"),
    ],
)
def test_both_doors_refuse_the_same_levels(
    physical: xr.Dataset, checkpoints: dict[str, str], tmp_path: Path,
    values: list[float], attributes: dict[str, str], message: str,
) -> None:  # fmt: skip
    ds = as_cmip6(physical)
    ds["plev"] = ("plev", values, attributes)
    with pytest.raises(UserError, match=message):
        predict(ds, checkpoints["full"], tmp_path)
    with pytest.raises(UserError, match=message):
        pack(ds, tmp_path)


def test_a_single_level_without_dimension_is_read(physical: xr.Dataset, tmp_path: Path) -> None:
    usual = as_cmip6(physical)
    for name, level in (("ta", 85000.0), ("zg", 50000.0)):
        write(usual[[name]].sel(plev=level), tmp_path / "in" / f"{name}.nc")
    write(usual[["tas"]], tmp_path / "in" / "tas.nc")
    states = XarrayInitialConditions(open_files([tmp_path / "in"]), "in")
    assert states.channels == ["2m_temperature", "geopotential_500", "temperature_850"]


def test_a_level_that_contradicts_the_name_is_refused(
    physical: xr.Dataset, checkpoints: dict[str, str], tmp_path: Path
) -> None:
    ds = physical.assign(geopotential_500=physical.geopotential_500.expand_dims(plev=[85000.0]))
    ds["plev"].attrs = {"units": "Pa"}
    with pytest.raises(UserError, match=r"geopotential_500 lies at 850 hPa \(plev\), unlike its name"):
        predict(ds, checkpoints["full"], tmp_path)


def test_extremes_are_no_states(physical: xr.Dataset, checkpoints: dict[str, str], tmp_path: Path) -> None:
    ds = as_cmip6(physical)
    ds["tas"].attrs["cell_methods"] = "area: mean time: maximum within days"
    with pytest.raises(UserError, match=r"tas: its values are a maximum over time, not a mean or an instant"):
        predict(ds, checkpoints["full"], tmp_path)


@pytest.mark.parametrize("facet", ["source_id", "variant_label", "sub_experiment_id", "experiment_id"])
def test_files_of_two_runs_are_refused(physical: xr.Dataset, tmp_path: Path, facet: str) -> None:
    ds = as_cmip6(physical)
    for name, value in (("tas", "A"), ("zg", "B"), ("orog", "C")):
        write(ds[[name]].assign_attrs({facet: value}), tmp_path / "in" / f"{name}.nc")
    with pytest.raises(UserError, match=rf"in: its files are of several runs \({facet} A and B\); give those of one"):
        XarrayInitialConditions(open_files([tmp_path / "in"]), "in")
    (tmp_path / "in" / "zg.nc").unlink()
    assert XarrayInitialConditions(open_files([tmp_path / "in"]), "in").channels == ["2m_temperature"]
