"""One file: units, calendars, levels, orientation, missing values, and reading in slabs."""

from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest

from climax_hpc.data_prep.sources.open_input import opened
from climax_hpc.data_prep.sources.read_file import inspect_variable, read_fields
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import iso, step_index

from ..conftest import write_cmip6


def read(root: Path, path: Path, variable_id: str, levels: list[int | None], start: int = 0, stop: int = 8) -> Any:
    file = path.relative_to(root).as_posix()
    with opened(path, file) as dataset:
        return read_fields(dataset, inspect_variable(root, file, variable_id), levels, start, stop)


def test_levels_are_found_by_pressure_within_one_percent(cmip6: Any) -> None:
    values = 200 + np.arange(2 * 4 * 12 * 24.0).reshape(2, 4, 12, 24) / 16
    path = cmip6("ta", times=cmip6.six_hourly(2), plev_hpa=[1000, 853, 503, 400], values=values)
    found = inspect_variable(cmip6.root, path.relative_to(cmip6.root).as_posix(), "ta")
    assert found.levels == {500: 2, 850: 1}
    fields = read(cmip6.root, path, "ta", [500, 850], 0, 2)
    assert np.array_equal(fields, values[:, [2, 1]])


@pytest.mark.parametrize("orientation", ["down", "west"])
def test_fields_come_in_ascending_order(cmip6: Any, orientation: str) -> None:
    lat, lon = np.arange(-82.5, 90, 15), np.arange(0, 360, 15.0)
    field = 270 + lat[:, None] / 2 + lon[None, :] / 32
    expected = np.broadcast_to(field, (8, 12, 24))
    if orientation == "down":
        path = cmip6("tas", lat=lat[::-1], values=expected[:, ::-1])
    else:
        path = cmip6(
            "tas", lon=np.roll(np.where(lon >= 180, lon - 360, lon), 12), values=np.roll(expected, 12, axis=-1)
        )
    assert np.array_equal(read(cmip6.root, path, "tas", [None])[:, 0], expected)
    assert inspect_variable(cmip6.root, path.relative_to(cmip6.root).as_posix(), "tas").orientation.grid.lon[0] == 0


def test_fill_values_are_nan_and_packed_integers_decoded(cmip6: Any) -> None:
    path = cmip6("tas")
    with netCDF4.Dataset(path, "a") as file:
        packed = file.createVariable("packed", "i2", ("time", "lat", "lon"), fill_value=-32768)
        packed.setncatts({"scale_factor": 0.01, "add_offset": 270.0})
        packed.set_auto_maskandscale(False)
        packed[:] = 123
        packed[3, 4, 5] = -32768
        file.renameVariable("tas", "old")
        file.renameVariable("packed", "tas")
        file["tas"].units = "K"
    fields = read(cmip6.root, path, "tas", [None], 2, 5)
    assert fields.shape == (3, 1, 12, 24)
    assert np.argwhere(np.isnan(fields)).tolist() == [[1, 0, 4, 5]]
    assert np.nanmax(np.abs(fields - 271.23)) < 1e-9


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "standard", "proleptic_gregorian", "gregorian", "365_day"])
def test_months_follow_one_another_in_every_calendar(cmip6: Any, calendar: str) -> None:
    stamps = np.arange(26) * 30.4 + 15
    path = cmip6("tas", times=stamps, calendar=calendar, table="Amon", frequency="mon")
    found = inspect_variable(cmip6.root, path.relative_to(cmip6.root).as_posix(), "tas")
    assert (np.diff(step_index(found.seconds, found.calendar, "mon")) == 1).all()
    assert iso(found.seconds[0], found.calendar) == "1850-01-16T00:00:00"


def test_rounded_time_stamps_are_decoded_to_the_minute(cmip6: Any) -> None:
    times = np.float32(np.arange(8) * 0.25).astype(float) + 1e-7
    path = cmip6("tas", times=times, time_units="days since 2000-01-01 00:00:00", calendar="standard")
    found = inspect_variable(cmip6.root, path.relative_to(cmip6.root).as_posix(), "tas")
    assert (np.diff(found.seconds) == 6 * 3600).all()
    assert iso(found.seconds[1], "standard") == "2000-01-01T06:00:00"


def test_a_damaged_chunk_is_reported_in_one_line(cmip6: Any, tmp_path: Path) -> None:
    path = cmip6("tas", chunks=(1, 12, 24))
    cmip6.damage(path, "tas", 5)
    with pytest.raises(UserError, match=r"tas_6hr.*\.nc: cannot read steps 0–7 of tas.*download it again") as caught:
        read(cmip6.root, path, "tas", [None])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data_format", ["NETCDF4", "NETCDF3_CLASSIC"])
def test_truncated_files_are_refused(cmip6: Any, data_format: str) -> None:
    path: Path = cmip6("tas", data_format=data_format)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    with pytest.raises(UserError, match=r"tas_6hr.*\.nc: .*truncated.*download it again"):
        inspect_variable(cmip6.root, path.relative_to(cmip6.root).as_posix(), "tas")


def test_infinite_values_are_refused(cmip6: Any) -> None:
    values = np.ones((8, 12, 24))
    values[5, 0, 0] = np.inf
    path = cmip6("tas")
    with netCDF4.Dataset(path, "a") as file:
        file["tas"][:] = values
    with pytest.raises(UserError, match="tas is infinite at step 5"):
        read(cmip6.root, path, "tas", [None])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_packing_that_gives_no_values_is_refused(tmp_path: Path, value: float) -> None:
    path = write_cmip6(tmp_path)
    with netCDF4.Dataset(path, "a") as file:
        file["tas"].scale_factor = value
    with pytest.raises(UserError, match="gives no values"), opened(path, path.name):
        pass


def test_names_of_attributes_that_are_not_utf_8_are_refused(cmip6: Any) -> None:
    """The library reports them while it opens the file, without the file's name."""
    path = cmip6("tas", data_format="NETCDF3_CLASSIC")
    path.write_bytes(path.read_bytes().replace(b"units", b"un\xe9ts", 1))
    said = r"tas_6hr.*\.nc: its header is damaged \(.*utf-8.*download it again"
    with pytest.raises(UserError, match=said), opened(path, path.name):
        pass
