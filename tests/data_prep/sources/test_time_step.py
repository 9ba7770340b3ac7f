"""The time step is measured: headers that disagree with the axis are named, and no step is believed from the header."""

from collections.abc import Callable
from typing import Any

import netCDF4
import numpy as np
import pytest
from numpy.typing import NDArray

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.packing.work_units import make_plan
from climax_hpc.data_prep.verify import verify
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import frequency_of

from .test_intervals import END, MONTHS, set_bounds

Settings = Callable[..., PackConfig]
YEARS = 365.0 * np.arange(1, 13)


def write(cmip6: Any, times: NDArray[np.float64], header: str = "mon", **options: Any) -> Any:
    """A file of means with this header whose axis holds these days, without bounds."""
    return cmip6("tas", times=times, frequency=header, table="X", cell_methods="time: mean", **options)


@pytest.mark.parametrize("step", [None, 365.0])
@pytest.mark.parametrize("header", ["mon", "yr", "yrPt", "unknown", "day", "annual"])
def test_years_are_packed_as_years(
    cmip6: Any, settings: Settings, capsys: pytest.CaptureFixture[str], header: str, step: float | None
) -> None:
    path = write(cmip6, YEARS - 180, header=header)
    if step:
        set_bounds(path, np.stack([YEARS - 365, YEARS], axis=-1))
    folder = pack(settings()).parent
    (source,) = verify(folder).sources.values()
    assert (source.frequency, [shard.steps for shard in source.shards], source.gaps) == ("yr", [12], [])
    note = f"{path.name}: the header says frequency {header}, but the time steps are 365 days: packed as yr"
    assert (note in capsys.readouterr().out) == (not header.startswith("yr"))


def test_years_in_files_of_one_step_each(cmip6: Any, settings: Settings) -> None:
    for number, day in enumerate(YEARS - 180):
        write(cmip6, np.array([day]), part=f"_{number:02d}")
    plan = make_plan(settings())
    assert (plan.sources[0].frequency, len(plan.work_units)) == ("yr", 1)
    assert "and 11 more: the header says frequency mon" in plan.notes[0]
    assert len(plan.notes) == 1


@pytest.mark.parametrize("header", ["12hr", "12hrPt", "unknown", "6hr"])
def test_12_hourly_data_are_packed(cmip6: Any, settings: Settings, header: str) -> None:
    cmip6("tas", times=np.arange(20) / 2, frequency=header, table="X")
    (source,) = verify(pack(settings()).parent).sources.values()
    assert (source.frequency, source.step_hours, source.gaps) == ("12hr", 12, [])


def test_a_header_that_agrees_with_the_intervals_is_right_where_months_are_left_out(
    cmip6: Any, settings: Settings
) -> None:
    januaries = END[::12]
    path = write(cmip6, januaries)
    set_bounds(path, np.stack([januaries - MONTHS[::12], januaries], axis=-1))
    plan = make_plan(settings())
    assert (plan.sources[0].frequency, plan.notes) == ("mon", [])


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("header", ["mon", "unknown"])
def test_months_are_months_wherever_the_stamp(cmip6: Any, settings: Settings, header: str, place: float) -> None:
    write(cmip6, END - MONTHS + place * MONTHS, header=header)
    plan = make_plan(settings())
    assert (plan.sources[0].frequency, plan.sources[0].gaps()) == ("mon", [])
    assert len(plan.notes) == (header == "unknown")


@pytest.mark.parametrize(
    ("header", "times", "seen"),
    [
        ("day", 5.0 * np.arange(20), "frequency day, time steps of 5 days: not supported (supported: 1hr"),
        ("mon", END[2::3] - 45, "frequency mon, time steps of 92 days: not supported"),
        ("dec", 3650.0 * np.arange(1, 9), "frequency dec, time steps of 3650 days: not supported"),
        ("subhr", np.arange(20) / 48, "frequency subhr, time steps of 0.5 h: not supported"),
        ("unknown", np.array([3.0]), "frequency unknown, one time step, whose length the file does not show"),
        ("monC", END[:12], "its frequency is monC: a climatology, not a series in time"),
        ("1hrCM", np.arange(24) / 24, "its frequency is 1hrCM: a climatology"),
    ],
)
def test_other_steps_are_refused_with_what_was_seen(
    cmip6: Any, settings: Settings, header: str, times: NDArray[np.float64], seen: str
) -> None:
    write(cmip6, times, header=header)
    with pytest.raises(UserError) as refusal:
        make_plan(settings())
    assert seen in str(refusal.value)


def test_a_time_axis_of_a_climatology_is_listed(cmip6: Any, settings: Settings) -> None:
    with netCDF4.Dataset(write(cmip6, END[:12] - 15), "a") as file:
        file["time"].climatology = "climatology_bnds"
    cmip6("psl", times=END[:12] - 15, frequency="mon", table="X", cell_methods="time: mean")
    plan = make_plan(settings())
    assert plan.sources[0].channels == ["mean_sea_level_pressure"]
    assert "its time axis is that of a climatology (climatology_bnds)" in plan.skipped[0].reason


@pytest.mark.parametrize(
    ("hours", "frequency"),
    [
        ([0, 6, 12, 24, 30, 36], "6hr"),
        ([0, 12, 24, 36], "12hr"),
        ([0, 3, 24, 27], "3hr"),
        ([0, 5, 10], None),
        ([0], None),
    ],
)
def test_the_usual_step_decides(hours: list[int], frequency: str | None) -> None:
    assert frequency_of(3600 * np.array(hours, np.int64), "standard") == frequency


def test_a_refusal_names_the_header_that_disagrees(cmip6: Any, settings: Settings) -> None:
    write(cmip6, YEARS - 180)
    cmip6("psl", times=END - 15, frequency="mon", table="X", cell_methods="time: mean")
    note = "the header says frequency mon, but the time steps are 365 days"
    with pytest.raises(UserError, match=rf"has several frequencies \(mon, yr; \S+tas_X\S+: {note}\); choose one"):
        make_plan(settings())
    plan = make_plan(settings(frequency="mon"))
    assert plan.skipped[0].reason == f"frequency yr ({note}) is not the selected one (mon)"
