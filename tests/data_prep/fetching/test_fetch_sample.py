"""From the index to shards: `fetch` brings the files of the nodes, from any kind of index, and they pack the same."""

from pathlib import Path
from typing import Any

import pytest

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.fetch import fetch
from climax_hpc.data_prep.fetching.config import FetchConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.utils.files import sha256

from .fake_esgf import FakeEsgf

SAMPLE = Path(__file__).parents[3] / "data_prep" / "sample" / "CMIP6-format"
SELECTED: dict[str, Any] = {
    "sources": ["JCM-A_piClim-control_*"],
    "tables": ["6hrPlevPt", "fx"],
    "variables": ["2m_temperature", "temperature_850", "orography"],
}


@pytest.mark.parametrize("kind", ["solr", "globus", "stac"])
def test_fetched_files_are_those_of_the_node(
    kind: str, esgf: FakeEsgf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    esgf.add_tree(SAMPLE)
    esgf.page = 7  # several pages
    url = esgf.urls["node1"]
    monkeypatch.setenv("GLOBUS_SDK_SERVICE_URL_SEARCH", f"{url}/")
    index = {"solr": f"solr+{url}", "globus": "ESGF2-US-1.5-Catalog", "stac": f"stac+{url}/stac"}[kind]
    output = fetch(FetchConfig(output=str(tmp_path / kind), index=[index], **SELECTED))
    found = {path.relative_to(output).as_posix(): sha256(path) for path in output.rglob("*.nc")}
    own = {path.relative_to(SAMPLE.parent).as_posix(): path for path in SAMPLE.rglob("*.nc")}
    wanted = [p for p in own if "/JCM-A/" in p and p.split("/")[-1].split("_")[0] in ("tas", "ta", "orog")]
    assert len(wanted) > 3
    assert found == {path: sha256(own[path]) for path in wanted}


def test_fetched_files_pack_to_the_same_shards(esgf: FakeEsgf, tmp_path: Path) -> None:
    esgf.add_tree(SAMPLE)
    downloaded = fetch(FetchConfig(output=str(tmp_path / "in"), index=[f"solr+{esgf.urls['node1']}"], **SELECTED))
    packed = {}
    for name, folder in (("fetched", downloaded), ("direct", SAMPLE.parent)):
        output = tmp_path / name
        pack(PackConfig(input=str(folder), output=str(output), grid_spacing_deg=22.5, **SELECTED))
        packed[name] = {path.relative_to(output).as_posix(): sha256(path) for path in output.rglob("*.h5")}
    assert packed["fetched"] == packed["direct"]
    assert len(packed["direct"]) > 1
