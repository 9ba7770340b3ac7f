"""Facets that tell data sets apart: two runs are never one series, extremes and climatologies are not means."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import pytest

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.packing.work_units import make_plan
from climax_hpc.data_prep.sources.cmip6 import discover_cmip6
from climax_hpc.data_prep.sources.coordinates import Unusable
from climax_hpc.data_prep.sources.intervals import member_methods, refuse_statistics, time_methods

Settings = Callable[..., PackConfig]


def stated(path: Path, name: str = "", **attributes: str) -> Path:
    """The file with these global attributes, under another name if one is given."""
    with netCDF4.Dataset(path, "a") as file:
        file.setncatts(attributes)
    return path.rename(path.with_name(name)) if name else path


def names(settings: Settings, **changes: Any) -> list[str]:
    return [source.name for source in make_plan(settings(**changes)).sources]


@pytest.mark.parametrize("where", ["header", "name"])
def test_start_years_are_part_of_the_member(cmip6: Any, settings: Settings, where: str) -> None:
    for number, year in enumerate(("s1960", "s1961")):
        path = cmip6("tas", times=cmip6.six_hourly(8, 365.0 * number), part=f"_{number}")
        if where == "header":
            stated(path, sub_experiment_id=year)
        else:
            stated(path, path.name.replace("r1i1p1f1", f"{year}-r1i1p1f1"))
    assert names(settings) == ["TEST-1_historical_s1960-r1i1p1f1", "TEST-1_historical_s1961-r1i1p1f1"]
    assert make_plan(settings()).sources[0].identity["sub_experiment_id"] == "s1960"


def test_sub_experiment_none_changes_no_name(cmip6: Any, settings: Settings) -> None:
    stated(cmip6("tas"), sub_experiment_id="none", institution_id="X", mip_era="CMIP6")
    assert names(settings) == ["TEST-1_historical_r1i1p1f1"]
    assert "sub_experiment_id" not in make_plan(settings()).sources[0].identity


@pytest.mark.parametrize("facet", ["institution_id", "mip_era", "driving_source_id", "forcing_index"])
def test_runs_that_differ_in_another_facet_are_two_sources(cmip6: Any, settings: Settings, facet: str) -> None:
    for number, value in enumerate(("A", "B C")):
        stated(cmip6("tas", times=cmip6.six_hourly(8, 10.0 * number), part=f"_{number}"), **{facet: value})
    assert names(settings) == ["TEST-1_historical_r1i1p1f1_A", "TEST-1_historical_r1i1p1f1_B-C"]
    assert names(settings, sources=["*_A"]) == ["TEST-1_historical_r1i1p1f1_A"]


def test_a_newer_version_of_another_run_replaces_nothing(cmip6: Any, settings: Settings) -> None:
    stated(cmip6("tas", version="v20190101"), institution_id="A")
    stated(cmip6("tas", version="v20210101"), institution_id="B")
    assert names(settings) == ["TEST-1_historical_r1i1p1f1_A", "TEST-1_historical_r1i1p1f1_B"]


def test_grids_of_one_variable_are_two_sources(cmip6: Any, settings: Settings) -> None:
    cmip6("psl", grid_label="gr")
    assert names(settings) == ["TEST-1_historical_r1i1p1f1"]
    cmip6("tas", grid_label="gn")
    assert names(settings) == ["TEST-1_historical_r1i1p1f1"]
    cmip6("tas", grid_label="gr", times=cmip6.six_hourly(8, 1.0))
    assert names(settings) == ["TEST-1_historical_r1i1p1f1_gn", "TEST-1_historical_r1i1p1f1_gr"]


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [("r1i1p1f1", "r2i1p1f1", "variant_label r1i1p1f1 and r2i1p1f1"), ("historical", "ssp585", "experiment_id")],
)
def test_header_and_name_that_differ_are_listed(cmip6: Any, old: str, new: str, what: str) -> None:
    path = cmip6("tas")
    path.rename(path.with_name(path.name.replace(old, new)))
    entries, skipped = discover_cmip6(cmip6.root)
    assert not entries
    assert f"its header and its name differ ({what}" in skipped[0].reason


# ------------------------------------------------------------------ statistics


@pytest.mark.parametrize(
    "cell_methods",
    [
        "time: minimum",
        "area: mean time: maximum within days time: mean over days",
        "area: time: maximum (interval: 6 hours)",
        "time: standard_deviation",
        "time: mean within years time: mean over years",
    ],
)
def test_other_statistics_than_means_and_instants_are_listed(cmip6: Any, settings: Settings, cell_methods: str) -> None:
    cmip6("tas", cell_methods=cell_methods)
    cmip6("psl")
    plan = make_plan(settings())
    assert plan.sources[0].channels == ["mean_sea_level_pressure"]
    assert cell_methods in plan.skipped[0].reason


@pytest.mark.parametrize(
    ("cell_methods", "methods"),
    [
        ("area: mean time: point", ("point",)),
        ("time: mean", ("mean",)),
        ("area: time: mean (interval: 1 hour comment: maximum of time: steps)", ("mean",)),
        ("time:mean", ("mean",)),
        ("time: minimum within days time: mean over days", ("minimum", "mean")),
        ("area: maximum where land", ()),
        ("", ()),
    ],
)
def test_methods_over_time(cell_methods: str, methods: tuple[str, ...]) -> None:
    assert time_methods(cell_methods) == methods


@pytest.mark.parametrize(
    ("cell_methods", "methods"),
    [
        ("realization: standard_deviation", ("standard_deviation",)),
        ("time: mean realization: mean", ("mean",)),
        ("time: mean (interval: 1 day) realization: time: maximum", ("maximum",)),
        ("Number: Range", ("range",)),
        ("realization: sum", ("sum",)),
        ("area: time: mean", ()),
        ("", ()),
    ],
)
def test_statistics_over_members_are_refused_but_means(cell_methods: str, methods: tuple[str, ...]) -> None:
    assert member_methods(cell_methods) == methods
    if methods in ((), ("mean",)):
        refuse_statistics(cell_methods)
    else:
        with pytest.raises(Unusable, match=f"its values are a {methods[0]} over the members of an ensemble, no state"):
            refuse_statistics(cell_methods)
