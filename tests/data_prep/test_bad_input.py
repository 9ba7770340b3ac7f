"""Every kind of invalid input: one line that names the file or key and the fix, and an empty output folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.packing.output_folder import STATE
from climax_hpc.errors import UserError

Settings = Callable[..., PackConfig]


@pytest.fixture
def refused(settings: Settings, tmp_path: Path) -> Callable[..., str]:
    """A function that packs, expects a matching error and an empty output folder, and returns the message."""

    def check(pattern: str, **changes: Any) -> str:
        with pytest.raises(UserError, match=pattern) as caught:
            pack(settings(**changes))
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    return check


def test_misspelt_variable(refused: Any, cmip6: Any) -> None:
    refused("unknown variable '2m_temprature'; did you mean 2m_temperature", variables=["2m_temprature"])


def test_absent_variable(refused: Any, cmip6: Any) -> None:
    cmip6("tas")
    refused(
        r"variables: no source contains surface_pressure \(CMIP6 ps\); the nearest are .*2m_temperature",
        variables=["2m_temperature", "surface_pressure"],
    )


@pytest.mark.parametrize("extra", [{}, {"sources": ["TEST-1_*"]}])
def test_only_absent_variables(refused: Any, cmip6: Any, extra: dict[str, Any]) -> None:
    cmip6("tas")
    cmip6("ts")
    refused(
        r"variables: no source contains geopotential_500 \(CMIP6 zg\); the nearest are 2m_temperature, skin_temp",
        variables=["geopotential_500"],
        **extra,
    )


def test_absent_level(refused: Any, cmip6: Any) -> None:
    cmip6("ta", plev_hpa=[850, 500])
    cmip6("tas")
    refused(
        r"variables: temperature_925: .*ta_6hr.*\.nc has no level 925 hPa, only 850, 500 hPa; request one of these",
        variables=["2m_temperature", "temperature_925"],
    )


def test_units_that_do_not_convert(refused: Any, cmip6: Any) -> None:
    cmip6("tas", units="kg")
    refused(r"tas_6hr.*\.nc: tas in 'kg' does not convert to 'K' .*; correct the `units` attribute")


def test_mixed_calendars(refused: Any, cmip6: Any) -> None:
    cmip6("tas", calendar="noleap")
    cmip6("psl", calendar="360_day")
    refused(r"TEST-1_.*: mixes calendars \(360_day in .*psl.*, noleap in .*tas.*\); remove the files of one")


def test_names_of_the_gregorian_calendar_are_equivalent(settings: Settings, cmip6: Any) -> None:
    cmip6("tas", calendar="standard")
    cmip6("psl", calendar="proleptic_gregorian")
    assert pack(settings()).is_file()


@pytest.mark.parametrize(
    ("order", "what"),
    [([0, 1, 1, 2], r"repeats at step 2 \(1850-01-01T06"), ([0, 2, 1, 3], "runs backwards at step 2")],
)
def test_time_axis_that_repeats_or_runs_backwards(refused: Any, cmip6: Any, order: list[int], what: str) -> None:
    cmip6("tas", times=cmip6.six_hourly(4)[order])
    refused(rf"tas_6hr.*\.nc: its time axis {what}.*; sort it, remove the repeated step")


def test_files_that_overlap_in_time(refused: Any, cmip6: Any) -> None:
    cmip6("tas", times=cmip6.six_hourly(8), part="_a")
    cmip6("tas", times=cmip6.six_hourly(8, start_day=1), part="_b")
    refused(r"tas.*_b\.nc: overlaps .*tas.*_a\.nc in time \(both contain 1850-01-02T00.*remove one")


def test_variables_without_a_common_step(refused: Any, cmip6: Any) -> None:
    cmip6("tas")
    cmip6("psl", times=cmip6.six_hourly(8, start_day=365))
    refused(r"have no time step in common \(psl 1851-01-01.*tas 1850-01-01.*\); leave one out with `variables`")


def test_time_stamps_of_different_phase(refused: Any, cmip6: Any) -> None:
    cmip6("tas")
    cmip6("psl", times=cmip6.six_hourly(8) + 0.125)
    refused(r"shifted against each other \(offsets of 0 h in .*tas.* and 3 h in .*psl")


def test_time_means_mixed_with_instantaneous_fields(refused: Any, settings: Settings, cmip6: Any) -> None:
    cmip6("tas")
    cmip6("psl", table="6hrPlev", frequency="6hr", times=cmip6.six_hourly(8) + 0.125, cell_methods="area: time: mean")
    refused(r"mixes instantaneous fields \(.*tas.*\) and time means \(.*psl.*\); .*allow_mixed_cell_methods: true")
    assert pack(settings(allow_mixed_cell_methods=True)).is_file()


def test_one_variable_from_two_tables(refused: Any, settings: Settings, cmip6: Any) -> None:
    cmip6("tas")
    cmip6("tas", table="6hrPlev", frequency="6hr")
    refused(r"tas comes from 6hrPlev/gn \(.*\) and 6hrPlevPt/gn \(.*\), expected one table .*: select it with `tables`")
    assert pack(settings(tables=["6hrPlevPt"])).is_file()


def _curvilinear(path: Path) -> None:
    with netCDF4.Dataset(path, "a") as file:
        for old, new in (("lat", "j"), ("lon", "i")):
            file.renameDimension(old, new)
            file.renameVariable(old, f"{new}_index")
            file.renameVariable(f"{old}_bnds", f"{new}_bnds")
        for name, kind in (("latitude", "latitude"), ("longitude", "longitude")):
            file.createVariable(name, "f8", ("j", "i")).standard_name = kind


def test_curvilinear_grid(refused: Any, settings: Settings, cmip6: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _curvilinear(cmip6("tos"))
    refused(r"nothing to pack \(.*tos_6hr.*\.nc: its grid is curvilinear .*cdo remapcon.*choose another input")
    cmip6("tas")
    assert pack(settings()).is_file()
    assert "skipped tos_6hr" in capsys.readouterr().out


def test_requested_variable_on_a_curvilinear_grid(refused: Any, cmip6: Any) -> None:
    _curvilinear(cmip6("tos"))
    cmip6("tas")
    refused(r"no source contains sea_surface_temperature \(.*curvilinear.*cdo", variables=["sea_surface_temperature"])


def test_unstructured_grid(refused: Any, cmip6: Any) -> None:
    path = cmip6("psl")
    with netCDF4.Dataset(path, "a") as file:
        file.createDimension("ncells", 50)
        for name in ("latitude", "longitude"):
            file.createVariable(name, "f8", ("ncells",))[:] = np.arange(50)
        file.createVariable("tas", "f4", ("time", "ncells")).units = "K"
        file.variable_id = "tas"
    refused(r"psl_6hr.*\.nc: its grid is unstructured .*cdo remapcon")


def test_regional_grid(refused: Any, cmip6: Any) -> None:
    cmip6("tas", lat=np.arange(30.0, 60), lon=np.arange(0.0, 40))
    refused(r"tas_6hr.*\.nc: it covers only 30\.0…59\.0° N, 0\.0…39\.0° E; regional grids.*use the global file")


@pytest.mark.parametrize("share", [0.2, 0.8, 0.99])
def test_truncated_netcdf(refused: Any, cmip6: Any, share: float) -> None:
    path: Path = cmip6("tas")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refused(r"tas_6hr.*\.nc: .*truncated.*download it again")


def test_damage_found_only_when_fields_are_read(refused: Any, cmip6: Any) -> None:
    path: Path = cmip6("tas", chunks=(1, 12, 24))
    cmip6.damage(path, "tas", 5)
    refused(r"tas_6hr.*\.nc: cannot read steps .* of tas .*download it again")


def test_nan_only_field(refused: Any, cmip6: Any) -> None:
    cmip6("psl")
    cmip6("tas", values=np.full((8, 12, 24), np.nan))
    refused(
        r"tas_6hr.*\.nc: 2m_temperature of TEST-1_.* is missing \(NaN\) in the whole.*leave it out with `variables`"
    )


def test_nan_only_static_field(refused: Any, settings: Settings, cmip6: Any) -> None:
    cmip6("tas")
    cmip6("sftlf", table="fx", frequency="fx", units="%", values=np.full((12, 24), np.nan))
    refused(
        r"sftlf_fx.*\.nc: land_sea_mask of TEST-1_.* is missing \(NaN\) in every cell; leave it out with `variables`"
    )
    assert pack(settings(variables=["2m_temperature"])).is_file()


def test_constant_field(refused: Any, cmip6: Any) -> None:
    cmip6("tas", values=np.full((8, 12, 24), 288.0))
    refused(r"tas_6hr.*\.nc: 2m_temperature of TEST-1_.* is constant \(288\).*leave it out")


@pytest.mark.parametrize("dry_run", [False, True])
def test_training_period_without_data(refused: Any, cmip6: Any, dry_run: bool) -> None:
    cmip6("tas")
    refused(
        r"train_period: 1999 … 2000 contains no time step of TEST-1_.*, .* 1850-01-01 to 1850-01-02; widen the",
        train_period=["1999", "2000"],
        dry_run=dry_run,
    )


def test_z_scores_beyond_float16(refused: Any, cmip6: Any) -> None:
    values = np.random.default_rng(0).standard_normal((8, 12, 24)) * 1e-4
    values[:4] += 200  # float32 keeps these differences of 1e-4
    values[4:] += 300
    cmip6("tas", values=values, times=np.concatenate([cmip6.six_hourly(4), cmip6.six_hourly(4, start_day=365)]))
    refused(
        "2m_temperature has z-scores beyond 65504, the range of float16; use dtype: float32",
        dtype="float16",
        train_period=["1850", "1850"],
    )


def test_input_without_files(refused: Any, tmp_path: Path) -> None:
    refused(r"input: .*/in is not a folder; give the folder of the input files")
    refused(r"input: @sampel is not a folder; @sample is the shipped sample", input="@sampel")
    (tmp_path / "in").mkdir()
    refused(r"/in: contains neither NetCDF files \(\*\.nc\) nor zarr stores; give the folder")
    (tmp_path / "in" / "manifest.json").touch()
    refused(r"input: .*/in is a packed data set already; give the folder of the files before packing")


def test_output_that_is_not_empty(settings: Settings, cmip6: Any, tmp_path: Path) -> None:
    cmip6("tas")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"output: .*/out is not empty \(thesis\.tex\); choose another output"):
        pack(settings())
    assert (tmp_path / "out" / "thesis.tex").read_text() == "precious"


def test_folders_created_for_the_output_are_removed_with_it(settings: Settings, cmip6: Any, tmp_path: Path) -> None:
    cmip6("tas", values=np.full((8, 12, 24), 288.0))
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="is constant"):
        pack(settings(output=str(tmp_path / "mine" / "x" / "y")))
    assert not list((tmp_path / "mine").iterdir())
    with pytest.raises(UserError, match="is constant"):
        pack(settings(output=str(tmp_path / "mine")))
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.parametrize("below", ["", "x", "x/y"])
def test_output_on_or_below_a_file(settings: Settings, cmip6: Any, tmp_path: Path, below: str) -> None:
    cmip6("tas")
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UserError, match=r"output: .*/notes is a file.*; choose another output"):
        pack(settings(output=str(tmp_path / "notes" / below)))
    assert (tmp_path / "notes").read_text() == "mine"


def test_output_that_cannot_be_created(settings: Settings, cmip6: Any, tmp_path: Path) -> None:
    cmip6("tas")
    with pytest.raises(UserError, match=r"output: cannot create folder .*: File name too long; .* give a shorter"):
        pack(settings(output=str(tmp_path / "out" / ("x" * 300))))
    assert not (tmp_path / "out").exists()


def test_output_that_contains_a_data_set(settings: Settings, cmip6: Any) -> None:
    cmip6("tas")
    manifest = pack(settings())
    before = manifest.read_bytes()
    with pytest.raises(UserError, match=r"output: .*/out already contains a data set; choose another output"):
        pack(settings())
    assert manifest.read_bytes() == before


def test_output_of_an_interrupted_pack_with_other_settings(settings: Settings, cmip6: Any, tmp_path: Path) -> None:
    cmip6("tas")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / STATE).write_text('{"settings": {}, "inputs": {}}')
    with pytest.raises(UserError, match=r"interrupted pack with other .*dtype.*use the same ones"):
        pack(settings())
    assert (tmp_path / "out" / STATE).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid_spacing_deg": 7.0}, "does not divide 180"),
        ({"regrid": "nearest"}, "regrid: 'nearest' is not one of conservative, bilinear"),
        ({"dtype": "float8"}, "dtype: 'float8' is not one of"),
        ({"frequency": "6hrPt"}, "frequency: '6hrPt' is not one of"),
        ({"steps_per_shard": 0}, "steps_per_shard: 0 is below 1"),
        ({"train_period": ["2001"]}, r'train_period: .* is not \[first, last\]; write \["1850", "2005"\]$'),
        ({"train_period": ["2003", "2001"]}, "2003 … 2001 is empty"),
        ({"train_period": ["soon", "2001"]}, "'soon' is not a date"),
        ({"sources": []}, "sources: an empty list selects nothing"),
        ({"output": ""}, "output: is empty"),
    ],
)
def test_invalid_settings(settings: Settings, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings(**changes)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"tas": 0.0}, "accumulated_hours: tas: 0 h is not a period; use for example 24"),
        ({"tas": -3.0}, "accumulated_hours: tas: -3 h is not a period"),
        ({"tas": 1e5}, "accumulated_hours: tas: 100000 h is not a period"),
        ({"tsa": 24.0}, "accumulated_hours: the input contains no variable 'tsa'; "),
    ],
)
def test_accumulation_periods(refused: Any, cmip6: Any, stated: dict[str, float], message: str) -> None:
    cmip6("tas")
    refused(message, accumulated_hours=stated)
