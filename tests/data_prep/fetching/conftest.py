"""A fake ESGF for a test, and a fetch from it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.data_prep.fetch import fetch
from climax_hpc.data_prep.fetching.config import FetchConfig

from .fake_esgf import FakeEsgf, serving

RUN = "CMIP6/CMIP/TEST/TEST-1/historical/r1i1p1f1"


@pytest.fixture
def esgf() -> Iterator[FakeEsgf]:
    """An empty ESGF with two data nodes; the index is at the address of the first."""
    with serving(FakeEsgf()) as fake:
        yield fake


@pytest.fixture
def settings(esgf: FakeEsgf, tmp_path: Path) -> Callable[..., FetchConfig]:
    """A config for `TEST-1`; keywords change it."""

    def make(**changes: Any) -> FetchConfig:
        defaults: dict[str, Any] = {
            "output": str(tmp_path / "out"),
            "sources": ["TEST-1_historical_r1i1p1f1"],
            "tables": ["6hrPlevPt"],
            "variables": ["2m_temperature"],
            "index": [f"solr+{esgf.urls['node1']}"],
            "retry_seconds": 0.01,
            "retries": 2,
            "stall_seconds": 10.0,
        }
        return FetchConfig(**defaults | changes)

    return make


@pytest.fixture
def fetched(settings: Callable[..., FetchConfig]) -> Callable[..., list[str]]:
    """Fetch with changed settings; the paths of the files below the output, hidden ones too."""

    def run(**changes: Any) -> list[str]:
        output = fetch(settings(**changes))
        return sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())

    return run


def tas(version: str = "v20200101", table: str = "6hrPlevPt", part: str = "", variable: str = "tas") -> str:
    """Path of a file of TEST-1 in its DRS tree."""
    name = f"{variable}_{table}_TEST-1_historical_r1i1p1f1_gn{part}.nc"
    return f"{RUN}/{table}/{variable}/gn/{version}/{name}"
