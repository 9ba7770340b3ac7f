"""The compliance checker on forecasts in both NetCDF layouts, and on the sample in the form of CMIP7.

CMIP's plugin looks most attributes up in a vocabulary that `esgvoc use cmip7@latest` downloads from GitHub. Without it
those checks fail for every file; the others are run.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.config.inference import PredictConfig
from climax_hpc.inference.predict import predict

from ..data_prep.cmip7_form import as_cmip7, sample_files
from .conftest import INSTALLED, Aside

pytestmark = pytest.mark.adapters
CHECKER = INSTALLED / "compliance/bin/cchecker.py"
JUSTIFIED = {
    "cf": [
        r"variable 2m_temperature\w* should begin with a letter",  # ClimaX's name; cmip has CMIP's
        r"cell_methods name component realization does not match",  # CF 7.3 allows a standard name; not the checker
    ],
    "cmip": [],
    "cmip7": [
        r"global attribute history should exist",  # shipped files of the sample have none
        r'Conventions global attribute does not contain "CF-1.11"',  # CMIP7 wants 1.12, newer than the checker
        r"temperature related standard_name and it is recommended",  # recommended since CF 1.11; the sample is older
        r"calendar attribute of proleptic_gregorian and it is recommended",  # likewise since CF 1.12
    ],
}
"""Layout -> findings that stay, with the reason."""
VOCABULARY = re.compile(r"vocabulary|registry|DRS|unable to find project|ESGF|CV collection|Universe", re.IGNORECASE)
PACKED = re.compile(r"int16|got '-32768'|chunk size|cell_measures|attribute: 'experiment'")
"""The sample is stored as int16 in small chunks, to be small; it has no areas of cells, and its runs no title."""


def findings(aside: Aside, files: list[Path], test: str, out: Path) -> dict[str, dict[str, Any]]:
    """Path of each file -> the report of the checker."""
    assert files
    found = {}
    for path in files:  # one at a time: for several the report has another form
        aside(
            "compliance", CHECKER, "-t", test, "-f", "json", "-o", out, path, statuses=(0, 1)
        )  # 1: it found something
        (found[path.name],) = json.loads(out.read_text()).values()
    return found


def messages(report: dict[str, Any], *priorities: str) -> list[str]:
    """What the checker says of one file."""
    return [text for key in priorities for entry in report[key] for text in entry["msgs"]]


ALL = ("high_priorities", "medium_priorities", "low_priorities")


@pytest.mark.parametrize("layout", ["cf", "cmip"])
@pytest.mark.parametrize("members", [1, 2])
def test_forecasts_follow_cf(
    aside: Aside, make_dataset: Callable[..., Path], make_checkpoint: Callable[..., Path], tmp_path: Path, layout: Any,
    members: int,
) -> None:  # fmt: skip
    dataset = make_dataset(dtype="float32")
    models = {f"m{seed}": str(make_checkpoint(dataset, mode="full", seed=seed)) for seed in range(members)}
    config = PredictConfig(
        models=models, input=str(dataset), output=str(tmp_path / "out"), period=("2004-01-03", "2004-01-03"),
        start_every_hours=24, lead_hours=(6, 24), layout=layout,
    )  # fmt: skip
    if members > 1 and layout == "cf":
        statistics = {"statistics": ["mean", "spread", "minimum", "maximum"], "quantiles": [0.1, 0.9]}
        config = replace(config, **statistics, exceedance={"2m_temperature": [273.15], "geopotential_500": [5e4]})
    files = sorted(predict(config).rglob("*.nc"))
    for name, report in findings(aside, files, "cf:1.11", tmp_path / "report.json").items():
        left = [m for m in messages(report, *ALL) if not any(re.search(known, m) for known in JUSTIFIED[layout])]
        assert left == [], name
        assert report["scored_points"] > 100


def test_the_sample_in_the_form_of_cmip7_follows_cf(aside: Aside, tmp_path: Path) -> None:
    files = [as_cmip7(path, tmp_path / "seven") for path in sample_files("tas_*JCM-A*_2001*", "orog_fx_JCM-A_*")]
    for name, report in findings(aside, files, "cf:1.11", tmp_path / "report.json").items():
        left = [m for m in messages(report, *ALL) if not any(re.search(known, m) for known in JUSTIFIED["cmip7"])]
        assert left == [], name


def test_the_sample_in_the_form_of_cmip7_has_cmips_attributes(aside: Aside, tmp_path: Path) -> None:
    files = [as_cmip7(path, tmp_path / "seven") for path in sample_files("tas_*JCM-A*_2001*")]
    for name, report in findings(aside, files, "wcrp_cmip7:1.0", tmp_path / "report.json").items():
        said = messages(report, *ALL)
        assert not [m for m in said if re.search(r"global attribute .* is missing", m, re.IGNORECASE)], name
        assert [m for m in said if not VOCABULARY.search(m) and not PACKED.search(m)] == [], name
