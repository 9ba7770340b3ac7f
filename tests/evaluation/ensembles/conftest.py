"""The data set of the ensemble tests, packed once for each file, and its source."""

from collections.abc import Callable
from pathlib import Path

import pytest

from climax_hpc.data.dataset import DataSet
from climax_hpc.data.packed_source import PackedSource


@pytest.fixture(scope="module")
def dataset(make_dataset: Callable[..., Path]) -> Path:
    return make_dataset()


@pytest.fixture(scope="module")
def source(dataset: Path) -> PackedSource:
    return DataSet(dataset).select(None)[0]
