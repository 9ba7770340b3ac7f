"""Layouts of input folders: every entry of the table works, and a new entry packs through the command line."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from climax_hpc.cli import run
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.sources.cmip6 import discover_cmip6
from climax_hpc.data_prep.sources.layouts import LAYOUTS, discover
from climax_hpc.errors import UserError
from climax_hpc.shards.manifest import read_manifest


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_refuses_an_empty_folder(layout: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="contains n"):
        discover(layout, tmp_path)


def test_an_unknown_layout_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="layout: 'grib' is not one of cmip6, era5, anemoi, climatebench, climate4r"):
        PackConfig(input="in", output="out", layout="grib")


def test_a_new_layout_packs_through_the_command_line(
    cmip6: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cmip6("tas")
    module = ModuleType("temporary_layout")
    module.find = discover_cmip6  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "temporary_layout", module)
    monkeypatch.setitem(LAYOUTS, "temporary", "temporary_layout:find")
    output = tmp_path / "out"
    run(
        ["pack", "--layout", "temporary", "--input", str(cmip6.root), "--output", str(output), "--climatology", "false"]
    )
    assert read_manifest(output).sources["TEST-1_historical_r1i1p1f1"].channels == ["2m_temperature"]
