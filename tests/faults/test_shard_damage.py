"""Random bit flips and cuts in shards: `verify` and the loader report each, with file, time step and fix."""

from pathlib import Path

import numpy as np
import pytest

from climax_hpc.data.dataset import DataSet
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.verify import verify
from climax_hpc.errors import UserError
from climax_hpc.shards.manifest import read_manifest

from ..data_prep.conftest import six_hourly, write_cmip6


@pytest.fixture(params=[("none", "auto"), ("gzip", "auto"), ("none", "1x3"), ("gzip", "1x3")], ids="-".join)
def shard(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A shard of 12 steps of two channels on 8 × 16 cells, the only one of its data set."""
    for variable_id in ("tas", "psl"):
        write_cmip6(tmp_path / "in", variable_id, times=six_hourly(12))
    settings = PackConfig(
        input=str(tmp_path / "in"),
        output=str(tmp_path / "out"),
        grid_spacing_deg=22.5,
        climatology=False,
        compression=request.param[0],
        chunks=request.param[1],
    )
    dataset = pack(settings).parent
    return dataset / next(iter(read_manifest(dataset).sources.values())).shards[0].file


def assert_reported(path: Path, check: object) -> None:
    with pytest.raises(UserError) as error:
        check()  # type: ignore[operator]
    message = str(error.value)
    assert str(path) in message
    assert "time step" in message
    assert "pack" in message or "restore" in message


def read_everything(dataset: Path) -> None:
    for source in DataSet(dataset).select(None):
        for step in range(len(source.hours)):
            source.read(step)


def damage_and_check(path: Path, count: int) -> None:
    dataset, whole = path.parents[1], path.read_bytes()
    read_everything(dataset)
    rng = np.random.default_rng(0)
    for i in range(count):
        if i % 4:
            spoilt = bytearray(whole)
            spoilt[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        else:
            spoilt = bytearray(whole[: rng.integers(len(whole))])
        path.write_bytes(spoilt)
        assert_reported(path, lambda: verify(dataset))
        assert_reported(path, lambda: read_everything(dataset))
    path.write_bytes(whole)
    verify(dataset)


def test_twenty_flips_and_cuts_are_reported(shard: Path) -> None:
    damage_and_check(shard, 20)


@pytest.mark.faults
def test_four_hundred_flips_and_cuts_are_reported(shard: Path) -> None:
    damage_and_check(shard, 400)
