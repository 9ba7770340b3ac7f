"""Times of states from files: the bounds of means decide, as in pack; climatologies and extremes are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from climax_hpc.errors import UserError
from climax_hpc.inference.open_files import open_files
from climax_hpc.inference.xarray_input import XarrayInitialConditions

STARTS = np.arange(6.0)


def write(folder: Path, name: str, place: float, hours: int = 24, named: bool = True, **attributes: Any) -> xr.Dataset:
    """Means of 24 or 6 h whose values count the steps; `place`: that of the stamps in their intervals."""
    starts = STARTS * hours / 24
    units = {"units": "days since 2001-01-01", "calendar": "noleap"}
    base, step, unit = (280.0, 1.0, "K") if name == "tas" else (1e5, 10.0, "Pa")
    values = np.broadcast_to(base + step * STARTS[:, None, None], (6, 8, 16))
    cells = {"lat": np.arange(-78.75, 90, 22.5), "lon": np.arange(0, 360, 22.5)}
    times = ("time", starts + place * hours / 24, units | ({"bounds": "time_bnds"} if named else {}))
    ds = xr.Dataset(
        {
            name: (("time", "lat", "lon"), values, {"units": unit, "cell_methods": "time: mean"} | attributes),
            "time_bnds": (("time", "bnds"), np.stack([starts, starts + hours / 24], axis=-1)),
        },
        cells | {"time": times},
    )
    ds.to_netcdf(folder / f"{name}.nc")
    return ds


@pytest.mark.parametrize("hours", [24, 6])
@pytest.mark.parametrize("named", [True, False])
def test_ends_and_starts_of_intervals_are_one_time(tmp_path: Path, hours: int, named: bool) -> None:
    write(tmp_path, "tas", 1.0, hours, named)
    write(tmp_path, "psl", 0.0, hours, named)
    states = XarrayInitialConditions(open_files([tmp_path]), "x")
    assert len(states.hours) == 6
    for t in range(6):
        tas, psl = states.read(t).mean((1, 2))
        assert (tas - 280, (psl - 1e5) / 10) == pytest.approx((t, t))
    assert states.hours[0] % 24 == hours / 2


@pytest.mark.parametrize("coords", [True, "all"])
def test_order_of_times_and_decoding_do_not_matter(tmp_path: Path, coords: Any) -> None:
    write(tmp_path, "tas", 1.0)
    ds = xr.open_dataset(tmp_path / "tas.nc", decode_coords=coords).isel(time=[3, 0, 5, 1])
    states = XarrayInitialConditions([ds], "x")
    assert [states.read(t).mean() - 280 for t in range(4)] == [0, 1, 3, 5]
    assert set(states.hours % 24) == {12}


def test_instants_keep_their_stamps(tmp_path: Path) -> None:
    write(tmp_path, "tas", 1.0, cell_methods="time: point")
    assert XarrayInitialConditions(open_files([tmp_path]), "x").hours[0] % 24 == 0


@pytest.mark.parametrize(("branding", "hour"), [("tpt-h2m-hxy-u", 0), ("tavg-h2m-hxy-u", 12)])
def test_a_branding_says_what_cell_methods_leave_out(tmp_path: Path, branding: str, hour: int) -> None:
    ds = write(tmp_path, "tas", 1.0, cell_methods="area: mean").assign_attrs(branding_suffix=branding)
    assert XarrayInitialConditions([xr.decode_cf(ds)], "x").hours[0] % 24 == hour


def test_climatologies_and_extremes_are_refused(tmp_path: Path) -> None:
    ds = write(tmp_path, "tas", 0.5, named=False)
    ds["time"].attrs["climatology"] = "time_bnds"
    with pytest.raises(UserError, match="x: tas: its time axis is that of a climatology"):
        XarrayInitialConditions([xr.decode_cf(ds)], "x")
    del ds["time"].attrs["climatology"]
    with pytest.raises(UserError, match="x: tas: its branding_suffix is tmax-h2m-hxy-u"):
        XarrayInitialConditions([xr.decode_cf(ds.assign_attrs(branded_variable="tas_tmax-h2m-hxy-u"))], "x")


def test_stamps_outside_their_bounds_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "tas", 1.5)
    with pytest.raises(UserError, match="x: tas: time step 0 is stamped 2001-01-02T12:00:00, but its bounds"):
        XarrayInitialConditions(open_files([tmp_path]), "x")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"mip_era": "CMIP7", "region": "nh"}, "its region is nh, expected glb"),
        ({"branding_suffix": "tavg-h2m-hxy-u", "region": "30S-90S"}, "its region is 30S-90S, expected glb"),
        ({"branding_suffix": "tavg-h2m-hxy-lnd"}, r"tavg-h2m-hxy-lnd \(lnd: values of land only\), expected u or air"),
        ({"branding_suffix": "tpt-h2m-hxy-u"}, "tpt-h2m-hxy-u, but the cell_methods of tas are 'time: mean'"),
    ],
)
def test_parts_of_the_globe_and_of_cells_are_refused_as_in_pack(
    tmp_path: Path, attributes: dict[str, str], message: str
) -> None:
    ds = write(tmp_path, "tas", 0.5)
    with pytest.raises(UserError, match=f"x: tas: .*{message}"):
        XarrayInitialConditions([xr.decode_cf(ds.assign_attrs(attributes))], "x")


@pytest.mark.parametrize("attributes", [{"mip_era": "CMIP7", "region": "glb"}, {"region": "Europe: 35 to 75 N"}])
def test_the_globe_of_cmip7_and_the_region_of_other_files_pass(tmp_path: Path, attributes: dict[str, str]) -> None:
    ds = write(tmp_path, "tas", 0.5)
    assert len(XarrayInitialConditions([xr.decode_cf(ds.assign_attrs(attributes))], "x").hours) == 6
