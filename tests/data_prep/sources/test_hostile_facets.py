"""Facets of a header become the name of a folder: files whose facets could lead elsewhere are listed, not packed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import pytest

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.packing.work_units import make_plan
from climax_hpc.errors import UserError

FACETS = ("source_id", "experiment_id", "variant_label", "sub_experiment_id")
HOSTILE = ["../../x", "{absolute}/x", "..", "a/b", "a\nb", "\x1b[2J", "a..b", "x" * 300, "a b", "a\\..\\b", "é", "~/x"]


def with_facet(path: Path, facet: str, value: str) -> None:
    """A file whose header has this facet; its name, which would contradict it, has none."""
    with netCDF4.Dataset(path, "a") as file:
        file.setncattr(facet, value)
    path.rename(path.with_name(f"{path.stem.split('_')[0]}.nc"))


@pytest.mark.parametrize(
    ("facet", "value"),
    [*((facet, value) for facet in FACETS for value in HOSTILE), ("source_id", ".x"), ("source_id", "-x")],
)
def test_no_facet_leads_out_of_the_output(
    cmip6: Any, settings: Callable[..., PackConfig], tmp_path: Path, facet: str, value: str
) -> None:
    with_facet(cmip6("tas"), facet, value.format(absolute=tmp_path))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"nothing to pack \(.*/tas.nc: the name of its source: ") as caught:
        pack(settings())
    assert len(str(caught.value)) < 700
    assert sorted(tmp_path.rglob("*")) == before


def test_other_files_are_packed(cmip6: Any, settings: Callable[..., PackConfig]) -> None:
    with_facet(cmip6("psl"), "source_id", "../../x")
    cmip6("tas")
    plan = make_plan(settings())
    assert [source.name for source in plan.sources] == ["TEST-1_historical_r1i1p1f1"]
    assert [s.file.rsplit("/", 1)[-1] for s in plan.skipped] == ["psl.nc"]


def test_further_facets_are_kept_short_and_printable(cmip6: Any, settings: Callable[..., PackConfig]) -> None:
    path = cmip6("tas")
    with netCDF4.Dataset(path, "a") as file:
        file.setncatts({"institution_id": "N" * 10_000, "activity_id": "\x1b[2J a\nb"})
    identity = make_plan(settings()).sources[0].identity
    assert identity["institution_id"] == "N" * 200 + "…"
    assert identity["activity_id"] == "?[2J a b"
