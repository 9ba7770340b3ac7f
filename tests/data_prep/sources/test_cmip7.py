"""CMIP7: brandings, regions, versions and facets; CMIP6Plus is packed as CMIP6 is, input4MIPs is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import pytest

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.packing.work_units import make_plan
from climax_hpc.data_prep.sources.cmip6 import discover_cmip6
from climax_hpc.errors import UserError

from ..cmip7_form import as_cmip7

Settings = Callable[..., PackConfig]
Cmip7 = Callable[..., Path]


@pytest.fixture
def cmip7(cmip6: Any, tmp_path: Path) -> Cmip7:
    """Writes a file in the form of CMIP7 into the folder `in`; `form`: arguments of `as_cmip7`."""

    def write(variable_id: str = "tas", form: dict[str, Any] | None = None, **options: Any) -> Path:
        cmip6.root = tmp_path / "six"
        path = as_cmip7(cmip6(variable_id, **options), tmp_path / "in", **(form or {}))
        path.rename(path.with_name(path.name.replace("_scen7", f"{options.get('part', '')}_scen7")))
        return path

    return write


def reason(settings: Settings) -> str:
    """Why the file beside `psl` is not packed; it is not among the files of the plan."""
    plan = make_plan(settings())
    assert plan.sources[0].channels == ["mean_sea_level_pressure"]
    (skipped,) = plan.skipped
    assert skipped.file.endswith(".nc")
    return skipped.reason


# ------------------------------------------------------------------ brandings


def test_one_of_two_brandings_is_chosen_by_the_config(cmip7: Cmip7, cmip6: Any, settings: Settings) -> None:
    cmip7("tas")
    one = cmip7("ta", plev_hpa=[850, 500])
    assert make_plan(settings()).sources[0].channels == ["2m_temperature", "temperature_500", "temperature_850"]
    other = cmip7("ta", {"branding": "tpt-p3-hxy-air"}, plev_hpa=[850, 500], times=cmip6.six_hourly(4))
    with pytest.raises(UserError) as caught:
        pack(settings())
    text = str(caught.value)
    assert "ta comes from tpt-p3-hxy-air/g100 (" in text
    assert " and tpt-p7h-hxy-air/g100 (" in text
    assert one.name in text
    assert other.name in text
    assert "expected one table or branding_suffix: select it with `tables`" in text
    for chosen, steps in (["*-p3-*", 4], ["tpt-p7h-hxy-air", 8]):
        source = make_plan(settings(tables=[chosen])).sources[0]
        assert (source.channels, len(source.seconds)) == (["temperature_500", "temperature_850"], steps)


def test_an_instant_and_a_mean_of_cmip7_are_two_data_sets(cmip7: Cmip7, settings: Settings) -> None:
    cmip7("tas")
    cmip7("tas", cell_methods="area: time: mean")
    with pytest.raises(UserError, match=r"tas comes from tavg-h2m-hxy-u/g100 \(.* and tpt-h2m-hxy-u/g100 \("):
        make_plan(settings())
    for label, kind in (("tavg", "mean"), ("tpt", "point")):
        (series,) = make_plan(settings(tables=[f"{label}-*"])).sources[0].series
        assert f"time: {kind}" in series.files[0].cell_methods


@pytest.mark.parametrize(
    ("label", "meaning"),
    [
        ("tminavg", "means of daily minima"),
        ("tmaxavg", "means of daily maxima"),
        ("tmin", "minima of intervals"),
        ("tmax", "maxima of intervals"),
        ("tclm", "a climatology of months"),
        ("tstat", "a label that is not in CMIP7's vocabulary"),
    ],
)
@pytest.mark.parametrize("left", ["branding_suffix", "branded_variable", "temporal_label"])
def test_extremes_and_climatologies_of_cmip7_are_no_means(
    cmip7: Cmip7, settings: Settings, label: str, meaning: str, left: str
) -> None:
    attributes = {"branding_suffix", "branded_variable", *(("temporal_label",) if left == "branding_suffix" else ())}
    path = cmip7("tas", {"branding": f"{label}-h2m-hxy-u", "without": tuple(attributes - {left})})
    path.rename(path.with_name("tas.nc"))
    cmip7("psl")
    text = reason(settings)
    assert text.startswith(f"its branding_suffix is {label}-h2m-hxy-u ({label}: {meaning}), expected tpt (instants), ")


def test_a_branding_without_a_grid_is_listed(cmip7: Cmip7, settings: Settings) -> None:
    cmip7("tas", {"branding": "tavg-h2m-hm-u"}, cell_methods="area: time: mean")
    cmip7("psl")
    assert reason(settings).startswith("its branding_suffix is tavg-h2m-hm-u (hm: ")


@pytest.mark.parametrize(
    ("label", "meaning"),
    [
        ("lnd", "values of land only"),
        ("sea", "values of sea only"),
        ("si", "values of sea ice only"),
        ("crp", "values of a part of each cell"),
    ],
)
def test_values_of_a_part_of_each_cell_are_listed(cmip7: Cmip7, settings: Settings, label: str, meaning: str) -> None:
    cmip7("tas", {"branding": f"tpt-h2m-hxy-{label}"})
    cmip7("psl")
    found = f"its branding_suffix is tpt-h2m-hxy-{label} ({label}: {meaning}), expected u or air for tas; leave it out"
    assert reason(settings) == found


def test_the_sea_surface_temperature_of_the_sea_is_packed(cmip7: Cmip7, settings: Settings) -> None:
    cmip7("tos", {"branding": "tpt-u-hxy-sea"})
    assert make_plan(settings()).sources[0].channels == ["sea_surface_temperature"]


@pytest.mark.parametrize(("label", "methods"), [("tpt", "area: time: mean"), ("tavg", "area: mean time: point")])
def test_cell_methods_that_contradict_the_branding_are_listed(
    cmip7: Cmip7, settings: Settings, label: str, methods: str
) -> None:
    cmip7("tas", {"branding": f"{label}-h2m-hxy-u"}, cell_methods=methods)
    cmip7("psl")
    expected = {"tpt": "time: point", "tavg": "time: mean"}[label]
    assert f"{label}-h2m-hxy-u, but the cell_methods of tas are '{methods}', expected '{expected}'" in reason(settings)


@pytest.mark.parametrize("methods", ["", "area: mean"])
def test_the_branding_of_cmip7_stands_in_for_absent_cell_methods(
    cmip7: Cmip7, settings: Settings, methods: str
) -> None:
    cmip7("tas", {"branding": "tavg-h2m-hxy-u"}, cell_methods=methods)
    cmip7("psl")
    (tas,) = make_plan(settings(variables=["2m_temperature"])).sources[0].series
    assert tas.files[0].cell_methods == f"{methods} time: mean".strip()
    with pytest.raises(UserError, match=r"mixes instantaneous fields \(.*psl_tpt.* and time means \(.*tas_tavg"):
        make_plan(settings())


# ------------------------------------------------------------------ facets


@pytest.mark.parametrize("region", ["nh", "sh", "ata", "grl", "30S-90S"])
def test_a_region_of_cmip7_that_is_not_the_globe_is_listed(cmip7: Cmip7, settings: Settings, region: str) -> None:
    cmip7("tas", {"region": region})
    cmip7("psl")
    assert reason(settings).startswith(f"its region is {region}, expected glb (the globe): take the global file")


@pytest.mark.parametrize("era", ["CMIP7", "CMIP6"])  # without its era, a branding without a table is CMIP7
@pytest.mark.parametrize(("facet", "example"), [("branding_suffix", "such as tavg-h2m-hxy-u"), ("region", "glb")])
def test_a_cmip7_file_without_branding_or_region_is_listed(
    cmip7: Cmip7, settings: Settings, facet: str, example: str, era: str
) -> None:
    labels = ("branded_variable", "temporal_label", "vertical_label", "horizontal_label", "area_label")
    without = (facet, *(labels if facet == "branding_suffix" else ()))
    path = cmip7("tas", {"without": without, "mip_era": era})
    path.rename(path.with_name("tas_6hr_glb_g100_TEST-1_scen7-m_r1i1p1f1.nc" if era == "CMIP7" else "tas.nc"))
    cmip7("psl")
    absent = f"{facet} ({example}): not a CMIP7 file"
    if (facet, era) == ("branding_suffix", "CMIP6"):
        absent = "table_id: not a CMIP6 file"
    assert reason(settings) == f"its header and name lack {absent}"


def test_header_and_name_of_two_brandings_are_listed(cmip7: Cmip7, settings: Settings) -> None:
    path = cmip7("tas")
    path.rename(path.with_name(path.name.replace("tpt-h2m", "tavg-h2m")))
    cmip7("psl")
    assert "(branding_suffix tpt-h2m-hxy-u and tavg-h2m-hxy-u): rename it" in reason(settings)


def test_facets_of_cmip7_are_read_from_the_name(cmip7: Cmip7, tmp_path: Path) -> None:
    path = cmip7("tas")
    with netCDF4.Dataset(path, "a") as file:
        for name in file.ncattrs():
            file.delncattr(name)
    (entry,), _ = discover_cmip6(tmp_path / "in")
    found = (entry.source, entry.branding, entry.grid_label, entry.frequency, entry.version)
    assert found == ("TEST-1_scen7-m_r1i1p1f1", "tpt-h2m-hxy-u", "g100", "6hr", "v20250622")


@pytest.mark.parametrize(("old", "new"), [("v20250622", "20251104"), ("20250622", "v20251104")])
def test_the_newer_version_of_cmip7_counts_in_both_forms(
    cmip7: Cmip7, settings: Settings, tmp_path: Path, old: str, new: str
) -> None:
    for version in (old, new):
        cmip7("tas", {"version": version})
    plan = make_plan(settings())
    assert [f"/{new}/" in file for file in plan.sources[0].input_files()] == [True]
    assert [s.reason for s in plan.skipped] == [f"version {old} is replaced by {new}"]


# ------------------------------------------------------------------ CMIP6Plus and input4MIPs


def test_cmip6plus_is_packed_as_cmip6_is(cmip6: Any, settings: Settings) -> None:
    path = cmip6("tas", table="APmon", frequency="mon", times=cmip6.mid_months(3), cell_methods="area: time: mean")
    with netCDF4.Dataset(path, "a") as file:
        file.mip_era = "CMIP6Plus"
        file.delncattr("frequency")
    source = make_plan(settings(tables=["APmon"])).sources[0]
    assert (source.frequency, source.identity["mip_era"]) == ("mon", "CMIP6Plus")


@pytest.mark.parametrize("era", ["CMIP6", "CMIP6Plus", "CMIP7"])
@pytest.mark.parametrize("where", ["header", "name"])
def test_input4mips_belongs_to_no_run(cmip6: Any, settings: Settings, era: str, where: str) -> None:
    """As the forcing MRI-JRA55-do: a header without experiment, member and table, a name of another form."""
    path = cmip6("tas", source="MRI-JRA55-do-1-5-0", frequency="3hrPt")
    with netCDF4.Dataset(path, "a") as file:
        for name in ("experiment_id", "variant_label", "table_id"):
            file.delncattr(name)
        file.setncatts({"mip_era": era, "target_mip": "OMIP", "dataset_category": "atmosphericState"})
        if where == "header":
            file.activity_id = "input4MIPs"
    path.rename(path.with_name("tas_input4MIPs_atmosphericState_OMIP_MRI-JRA55-do-1-5-0_gr_200001010000-20000102.nc"))
    cmip6("psl")
    text = reason(settings)
    assert text.startswith({"header": "its activity_id is input4MIPs", "name": "its name says input4MIPs"}[where])
    assert ", expected the output of a model run: its header lacks experiment_id, variant_label, " in text


def test_input4mips_with_all_facets_is_packed(cmip6: Any, settings: Settings) -> None:
    path = cmip6("tas")
    with netCDF4.Dataset(path, "a") as file:
        file.activity_id = "input4MIPs"
    path.rename(path.with_name("tas_input4MIPs_atmosphericState_OMIP_TEST-1_gr_185001010000-185001021800.nc"))
    assert make_plan(settings()).sources[0].channels == ["2m_temperature"]
