"""The shipped configs of ClimaX's five pretraining sources, on files in their layout; real CMIP6 end to end.

The files are made for the test: facets, table, levels and calendar of each source, and a coarse grid of its kind.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from climax_hpc.cli import main
from climax_hpc.config.parser import read_config
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.packing.work_units import make_plan
from climax_hpc.data_prep.verify import verify
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import REGISTRY

LEVELS = [925, 850, 700, 600, 500, 250, 50]  # plev7h of the table 6hrPlevPt
GAUSSIAN = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(12)[0]))
WITH_POLES = np.linspace(-90, 90, 13)
FULL = {"tas": 0, "uas": 0, "vas": 0, "zg": LEVELS, "ua": LEVELS, "va": LEVELS, "ta": LEVELS, "hus": LEVELS}
THREE = [850, 500, 250]
# config: source_id, calendar, latitudes, variables of the paper's table (ClimaX, arXiv 2301.10343), number of channels
SOURCES: dict[str, tuple[str, str, Any, dict[str, Any], int]] = {
    "cmip6_mpi_esm": ("MPI-ESM1-2-HR", "proleptic_gregorian", GAUSSIAN, FULL, 38),
    "cmip6_tai_esm": (
        "TaiESM1",
        "noleap",
        WITH_POLES,
        {"tas": 0, "zg": LEVELS[:6], "hus": LEVELS[:6], "ua": THREE, "va": THREE, "ta": THREE},
        22,
    ),
    "cmip6_awi_esm": ("AWI-ESM-1-1-LR", "standard", GAUSSIAN[::-1], FULL, 38),
    "cmip6_hammoz": ("MPI-ESM-1-2-HAM", "proleptic_gregorian", GAUSSIAN, FULL, 38),
    "cmip6_cmcc": (
        "CMCC-CM2-HR4",
        "noleap",
        WITH_POLES,
        {"zg": LEVELS, "ua": LEVELS, "va": LEVELS, "ta": THREE},
        24,
    ),
}


def shipped(name: str, root: Path, output: Path, *more: str) -> PackConfig:
    return read_config(PackConfig, "pack", ["--config", name, f"--input={root}", f"--output={output}", *more])


def write_source(cmip6: Any, name: str, **changes: Any) -> None:
    source_id, calendar, lat, variables, _ = SOURCES[name]
    common = {"source": source_id, "calendar": calendar, "lat": lat, "times": cmip6.six_hourly(6), "bounds": False}
    for variable_id, levels in variables.items():
        cmip6(variable_id, plev_hpa=levels or None, **(common | changes))


@pytest.mark.parametrize("name", SOURCES)
def test_a_shipped_config_selects_exactly_the_variables_of_its_source(cmip6: Any, tmp_path: Path, name: str) -> None:
    source_id, calendar, _, variables, count = SOURCES[name]
    write_source(cmip6, name)
    lat = SOURCES[name][2]
    beside: dict[str, Any] = {"source": source_id, "calendar": calendar, "lat": lat, "times": cmip6.six_hourly(6)}
    cmip6("psl", **beside)  # other contents of a download must not be packed
    cmip6("hur", plev_hpa=LEVELS, **beside)
    cmip6("orog", source=source_id, lat=lat, table="fx", frequency="fx")
    cmip6("tas", **(beside | {"experiment": "ssp585"}))
    cmip6("ta", **(beside | {"member": "r2i1p1f1"}), plev_hpa=LEVELS)
    cmip6("zg", table="6hrPlev", frequency="6hr", cell_methods="time: mean", plev_hpa=LEVELS, **beside)
    plan = make_plan(shipped(name, cmip6.root, tmp_path / "out"))
    expected = [
        v.name
        for v in REGISTRY.values()
        if v.cmip6 in variables and (v.level_hpa is None or v.level_hpa in variables[v.cmip6])
    ]
    assert [s.name for s in plan.sources] == [f"{source_id}_historical_r1i1p1f1"]
    assert plan.sources[0].channels == expected
    assert len(expected) == count
    assert plan.sources[0].static_channels == []
    assert plan.sources[0].frequency == "6hr"


def test_a_shipped_config_packs_from_the_command_line(cmip6: Any, tmp_path: Path) -> None:
    write_source(cmip6, "cmip6_cmcc")
    main(["pack", "--config", "cmip6_cmcc", "--input", str(cmip6.root), "--output", str(tmp_path / "out")])
    source = verify(tmp_path / "out").sources["CMCC-CM2-HR4_historical_r1i1p1f1"]
    assert len(source.channels) == 24
    assert len(source.grid["lat"]) == 32
    assert sum(s.steps for s in source.shards) == 6


def test_a_level_that_the_download_lacks_is_named(cmip6: Any, tmp_path: Path) -> None:
    write_source(cmip6, "cmip6_mpi_esm")
    cmip6("zg", source="MPI-ESM1-2-HR", calendar="proleptic_gregorian", lat=GAUSSIAN, plev_hpa=LEVELS[:6])
    with pytest.raises(UserError, match=r"variables: geopotential_50: .*zg_6hrPlevPt.* has no level 50 hPa, only 925"):
        make_plan(shipped("cmip6_mpi_esm", cmip6.root, tmp_path / "out"))


# ------------------------------------------------------------------ real CMIP6


@pytest.mark.shared_data
def test_all_the_real_cmip6_packs_end_to_end(
    shared_data: Path,
    tmp_path: Path,
    settings: Callable[..., PackConfig],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All CMIP6 in ../shared/data: experiments of ACCESS-ESM1-5 and CanESM5, monthly, several members."""
    folder = pack(settings(input=str(shared_data), grid_spacing_deg=5.625, dtype="float16")).parent
    manifest = verify(folder)
    steps = {name: sum(s.steps for s in source.shards) for name, source in manifest.sources.items()}
    assert steps == {
        "ACCESS-ESM1-5_1pctCO2_r1i1p1f1": 960,
        "ACCESS-ESM1-5_abrupt-4xCO2_r1i1p1f1": 300,
        "ACCESS-ESM1-5_hist-GHG_r1i1p1f1": 252,
        "ACCESS-ESM1-5_hist-GHG_r2i1p1f1": 252,
        "ACCESS-ESM1-5_historical_r1i1p1f1": 180,
        "ACCESS-ESM1-5_historical_r2i1p1f1": 180,
        "ACCESS-ESM1-5_piControl_r1i1p1f1": 960,
        "ACCESS-ESM1-5_ssp126_r1i1p1f1": 132,
        "CanESM5_historical_r13i1p1f1": 60,
    }
    historical = manifest.sources["ACCESS-ESM1-5_historical_r1i1p1f1"]
    assert historical.channels == ["2m_temperature", "total_precipitation_rate", "skin_temperature"]
    assert historical.static == ["land_sea_mask", "latitude"]
    reasons = {s["reason"].split(" (")[0] for s in manifest.skipped if s["file"].startswith("climate-ref")}
    assert reasons == {
        *(f"variable {v} is not in the registry" for v in ("areacella", "gpp", "rlut", "rsdt", "rsut")),
        "its grid is curvilinear",
        "its name does not end in .nc",
    }
    others = [
        s["reason"] for s in manifest.skipped if s["file"].startswith("WAM2layers/") and s["file"].endswith(".nc")
    ]
    assert all("not a CMIP6 file" in reason for reason in others)
    for source in manifest.sources.values():
        for name, statistics in source.statistics.items():
            if name != "total_precipitation_rate":
                assert 270 < statistics["mean"] < 290, (name, statistics)  # without area weights polar cells count much
    capsys.readouterr()
    main(
        [
            "inspect",
            str(folder),
            "--output",
            str(tmp_path / "pictures"),
            "--sources",
            '["CanESM5_historical_r13i1p1f1"]',
        ]
    )
    text = capsys.readouterr().out
    assert "monthly, noleap calendar, 1870-01-16T12:00 … 1874-12-16T12:00, 60 steps" in text
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2
