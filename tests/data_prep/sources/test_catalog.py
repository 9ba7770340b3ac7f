"""Discovery of files, their facets, and their grouping into sources."""

from collections.abc import Callable
from typing import Any

import netCDF4
import numpy as np
import pytest

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.packing.work_units import make_plan
from climax_hpc.data_prep.sources.catalog import group
from climax_hpc.data_prep.sources.cmip6 import discover_cmip6
from climax_hpc.data_prep.sources.skipped import skipped_lines
from climax_hpc.errors import UserError

Settings = Callable[..., PackConfig]


def test_runs_of_a_model_are_separate_sources_with_their_nearest_static_fields(cmip6: Any, settings: Settings) -> None:
    for experiment, member in (("historical", "r1i1p1f1"), ("historical", "r2i1p1f1"), ("ssp126", "r1i1p1f1")):
        cmip6("tas", experiment=experiment, member=member)
    cmip6("orog", table="fx", frequency="fx", member="r2i1p1f1")
    cmip6("orog", table="fx", frequency="fx", experiment="ssp126")
    cmip6("areacella", table="fx", frequency="fx")
    sources, skipped = group(discover_cmip6(cmip6.root)[0], settings().selection)
    static = {s.name: [f"{e.experiment_id}/{e.variant_label}" for e in s.static] for s in sources}
    assert static == {
        "TEST-1_historical_r1i1p1f1": ["historical/r2i1p1f1"],
        "TEST-1_historical_r2i1p1f1": ["historical/r2i1p1f1"],
        "TEST-1_ssp126_r1i1p1f1": ["ssp126/r1i1p1f1"],
    }
    assert [s.reason for s in skipped] == ["variable areacella is not in the registry"]


def test_facets_missing_in_the_header_are_read_from_the_file_name(cmip6: Any, settings: Settings) -> None:
    path = cmip6("tas")
    with netCDF4.Dataset(path, "a") as file:
        for name in file.ncattrs():
            file.delncattr(name)
    entries, _ = discover_cmip6(cmip6.root)
    assert (entries[0].source, entries[0].variable_id) == ("TEST-1_historical_r1i1p1f1", "tas")
    assert (entries[0].table_id, entries[0].frequency, entries[0].version) == ("6hrPlevPt", "6hr", "v20200101")
    path.rename(path.with_name("anything.nc"))
    entries, skipped = discover_cmip6(cmip6.root)
    assert not entries
    assert "lack source_id" in skipped[0].reason


def test_the_newest_version_replaces_older_ones(cmip6: Any, settings: Settings) -> None:
    cmip6("tas", version="v20190101")
    new = cmip6("tas", version="v20210101")
    sources, skipped = group(discover_cmip6(cmip6.root)[0], settings().selection)
    assert [e.file for e in sources[0].entries] == [new.relative_to(cmip6.root).as_posix()]
    assert "replaced by v20210101" in skipped[0].reason


def test_sources_are_selected_by_pattern(cmip6: Any, settings: Settings) -> None:
    for source in ("A-1", "A-2", "B-1"):
        cmip6("tas", source=source)
    plan = make_plan(settings(sources=["A-*"], exclude_sources=["A-2_*"]))
    assert [s.name for s in plan.sources] == ["A-1_historical_r1i1p1f1"]
    with pytest.raises(UserError, match=r"sources: no source 'A1_.*'.*there are A-1_historical_r1i1p1f1"):
        make_plan(settings(sources=["A1_historical_r1i1p1f1"]))


def test_several_frequencies_need_a_choice(cmip6: Any, settings: Settings) -> None:
    cmip6("tas")
    cmip6("tas", table="Amon", frequency="mon", times=cmip6.mid_months(3))
    with pytest.raises(UserError, match=r"several frequencies \(6hr, mon\); choose one, for example frequency: 6hr"):
        make_plan(settings())
    assert make_plan(settings(frequency="mon")).sources[0].step_hours == 0


def test_what_the_config_leaves_out_is_listed(cmip6: Any, settings: Settings) -> None:
    cmip6("tas")
    cmip6("tas", source="OTHER-1")
    cmip6("psl", table="Amon", frequency="mon", times=cmip6.mid_months(3))
    cmip6("ua", plev_hpa=[500])
    cmip6("ta", plev_hpa=[70])
    cmip6("zg", plev_hpa=[500, 850], part="_a")
    cmip6("zg", plev_hpa=[500], part="_b", times=cmip6.six_hourly(8, start_day=2))
    cmip6("orog", table="fx", frequency="fx", source="OTHER-1")
    plan = make_plan(settings(frequency="6hr", sources=["TEST-1_*"]))
    reasons = {s.file.rsplit("/", 1)[-1].split("_")[0]: s.reason for s in plan.skipped if "OTHER" not in s.file}
    assert reasons == {
        "psl": "frequency mon is not the selected one (6hr)",
        "ta": "has levels 70 hPa, none of which is in the registry",
        "zg": "has levels 500 hPa, not 850 hPa, which are left out of the whole source",
    }
    assert {s.reason for s in plan.skipped if "OTHER" in s.file} == {
        "source OTHER-1_historical_r1i1p1f1 is not selected",
        "a static field of another run, or of a model that is not packed",
    }
    with pytest.raises(UserError, match=r"contains mean_sea_level_pressure \(.*psl.*: frequency mon is not the sele"):
        make_plan(settings(frequency="6hr", variables=["2m_temperature", "mean_sea_level_pressure"]))


def test_variables_beside_the_one_of_a_file_are_listed(cmip6: Any, settings: Settings) -> None:
    with netCDF4.Dataset(cmip6("tas"), "a") as file:
        file.createVariable("ps", "f4", ("time", "lat", "lon")).units = "Pa"
    (skipped,) = make_plan(settings()).skipped
    assert skipped.reason == "ps beside tas: only one variable of a file is read; split it, `cdo splitname`"
    with pytest.raises(UserError, match=r"no source contains surface_pressure \(.*ps beside tas: only one variable"):
        make_plan(settings(variables=["2m_temperature", "surface_pressure"]))


def test_many_reasons_are_cut_where_they_are_printed() -> None:
    lines = skipped_lines({"file": f"a/{i}.nc", "reason": f"reason {i // 2}"} for i in range(200))
    assert lines[0] == "skipped 0.nc and 1 more: reason 0"
    assert (len(lines), lines[-1]) == (41, "skipped for 60 more reasons; `skipped` in manifest.json holds all")


def test_channels_are_in_registry_order_for_any_order_of_files(cmip6: Any, settings: Settings) -> None:
    cmip6("psl")
    cmip6("ta", plev_hpa=[1000, 850, 500])
    cmip6("zg", plev_hpa=[500.0001, 10])
    cmip6("tas")
    plan = make_plan(settings(steps_per_shard=5)).sources[0]
    assert plan.channels == [
        "2m_temperature",
        "geopotential_500",
        "temperature_500",
        "temperature_850",
        "mean_sea_level_pressure",
    ]
    assert plan.static_channels == ["latitude"]


def test_segments_are_cut_into_work_units_and_gaps_listed(cmip6: Any, settings: Settings) -> None:
    cmip6("tas", times=np.concatenate([cmip6.six_hourly(7), cmip6.six_hourly(4, start_day=10)]))
    plan = make_plan(settings(steps_per_shard=3))
    assert [(u.start, u.stop, u.segment) for u in plan.work_units] == [
        (0, 3, 0),
        (3, 6, 0),
        (6, 7, 0),
        (7, 10, 1),
        (10, 11, 1),
    ]
    assert plan.work_units[0].file == "TEST-1_historical_r1i1p1f1/TEST-1_historical_r1i1p1f1_1850010100_1850010112.h5"
    assert plan.sources[0].gaps() == [{"after": "1850-01-02T12:00:00", "before": "1850-01-11T00:00:00"}]
