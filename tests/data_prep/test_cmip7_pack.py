"""Packing CMIP7: the sample in both forms gives the same fields; the shipped config takes ClimaX's seven levels."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from climax_hpc.cli import main
from climax_hpc.config.parser import read_config
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.packing.work_units import make_plan
from climax_hpc.data_prep.verify import verify

from .cmip7_form import as_cmip7, sample_files

Settings = Callable[..., PackConfig]
LEVELS = [925.0, 850.0, 700.0, 600.0, 500.0, 250.0, 50.0]  # plev7h of CMIP7_coordinate.json
SAMPLE_PARTS = ("tas_*JCM-A*_2001*", "uas_*JCM-A*_2001*", "ta_*JCM-A*_200[12]*", "orog_fx_JCM-A_*", "sftlf_fx_JCM-A_*")
NAMES = "sha256", "header_xxh3", "bytes"
"""Entries of a manifest that depend on the names of files and sources."""


def without_names(manifest: Path, experiment: str) -> dict[str, Any]:
    """A manifest without names of files and experiments, and without what is computed from them."""
    content = json.loads(manifest.read_text().replace(experiment, "EXPERIMENT"))
    for source in content["sources"].values():
        assert source.pop("identity")["experiment_id"] == "EXPERIMENT"
        for entry in [*source["shards"], source["climatology"], source["static_file"]]:
            for key in NAMES:
                entry.pop(key, None)  # a climatology states no size
    del content["sha256"]
    return content


def arrays(folder: Path) -> dict[str, bytes]:
    """Every array of every file of a data set as bytes, by the number of the file and the name of the array."""
    found = {}
    for number, path in enumerate(sorted(folder.rglob("*.h5"))):
        with h5py.File(path) as file:
            for name, array in file.items():
                if array.dtype.kind in "fiu":
                    found[f"{number} {name}"] = np.asarray(array[()]).tobytes()
    return found


@pytest.mark.parametrize("version", ["v20250622", "20251104"])
def test_cmip7_and_cmip6_form_of_the_sample_give_the_same_fields(tmp_path: Path, version: str) -> None:
    files = sample_files(*SAMPLE_PARTS)
    assert len(files) == 6
    (tmp_path / "six").mkdir()
    for path in files:
        shutil.copyfile(path, tmp_path / "six" / path.name)
        as_cmip7(path, tmp_path / "seven", version=version)
    six, seven = (
        pack(PackConfig(input=str(tmp_path / form), output=str(tmp_path / f"{form}_packed"))).parent
        for form in ("six", "seven")
    )
    verify(six), verify(seven)
    assert without_names(seven / "manifest.json", "scen7-m") == without_names(six / "manifest.json", "piClim-control")
    fields = arrays(six)
    assert {"0 fields", "2 static", "0 mean", "0 std", "0 time"} <= fields.keys()
    assert len(fields["0 fields"]) > 100_000
    assert arrays(seven) == fields
    (source,) = verify(seven).sources.values()
    assert source.static == ["land_sea_mask", "orography", "latitude"]
    assert source.identity["mip_era"] == "CMIP7"


def write_historical(cmip6: Any, seven: Path) -> None:
    """A CMIP7 download of one model: what `cmip7_historical` packs, and what lies beside it."""
    short: dict[str, Any] = {"source": "UKCM2-0-LL", "times": cmip6.six_hourly(6)}
    for variable_id in ("zg", "ua", "va", "ta", "hus"):
        as_cmip7(cmip6(variable_id, plev_hpa=LEVELS, **short), seven, experiment="historical")
    three = cmip6("ta", plev_hpa=[850.0, 500.0, 250.0], **short)
    as_cmip7(three, seven, experiment="historical", branding="tpt-p3-hxy-air")
    as_cmip7(cmip6("psl", **short), seven, experiment="historical")
    as_cmip7(cmip6("ta", plev_hpa=LEVELS, **short), seven, experiment="scen7-h")


def test_the_shipped_cmip7_config_packs_seven_levels(cmip6: Any, tmp_path: Path) -> None:
    seven, output = tmp_path / "seven", tmp_path / "out"
    write_historical(cmip6, seven)
    folders = [f"--input={seven}", f"--output={output}"]
    plan = make_plan(read_config(PackConfig, "pack", ["--config", "cmip7_historical", *folders]))
    assert [s.name for s in plan.sources] == ["UKCM2-0-LL_historical_r1i1p1f1"]
    assert len(plan.sources[0].channels) == 35
    reasons = sorted(s.reason for s in plan.skipped)
    assert reasons == [
        "branding_suffix tpt-p3-hxy-air is not among the selected tables",
        "source UKCM2-0-LL_scen7-h_r1i1p1f1 is not selected",
        "variable psl is not among the selected variables",
    ]
    main(["pack", "--config", "cmip7_historical", *folders])
    (source,) = verify(output).sources.values()
    assert {int(name.rsplit("_", 1)[1]) for name in source.channels} == set(LEVELS)
