"""Fixtures of the tests of forecasts; each module has its own `dataset`."""

from pathlib import Path

import pytest

from climax_hpc.data.dataset import DataSet
from climax_hpc.data.packed_source import PackedSource


@pytest.fixture(scope="module")
def source(dataset: Path) -> PackedSource:
    """The only source of the module's data set."""
    return DataSet(dataset).select(None)[0]
