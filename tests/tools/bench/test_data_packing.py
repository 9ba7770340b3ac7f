"""The packing benchmarks run, compare the same work, and show no speed if the results differ."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.packing.work_units import make_plan
from climax_hpc.kernels.benchmarking import Row, WrongResult
from climax_hpc.tools.bench import data_packing
from climax_hpc.tools.bench.cmip6_input import write_input

pytestmark = pytest.mark.slow

MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Eight time steps of input instead of eighty."""
    monkeypatch.setattr(data_packing, "_STEPS", 8)
    monkeypatch.setattr(data_packing, "_STEPS_PER_SHARD", 2)
    monkeypatch.setattr(data_packing, "_LONG_STEPS", 16)
    data_packing.input_files.cache_clear()
    yield
    data_packing.input_files.cache_clear()


def check(rows: list[Row], case: str, against: str) -> None:
    assert [(row.case, row.metric, row.against, row.unit) for row in rows] == [(case, "time", against, "s")]
    assert all(row.ours > 0 and row.baseline > 0 for row in rows)


def test_regridding_and_shard_writing() -> None:
    check(data_packing.rows_of("regrid", 1), "regrid", "matmul")
    check(data_packing.rows_of("shard_write", 1), "shard_write", "write")


def test_the_input_is_one_series_of_steps(tmp_path: Path) -> None:
    write_input(tmp_path, 8)
    plan = make_plan(PackConfig(input=str(tmp_path), output=str(tmp_path / "out")))
    (source,) = plan.sources
    assert np.diff(source.seconds).tolist() == [6 * 3600] * 7
    assert len(source.channels) == 11
    with pytest.raises(ValueError, match="steps = 9: must be a multiple of 4"):
        write_input(tmp_path, 9)


@pytest.mark.mpi
@pytest.mark.skipif(MPIEXEC is None, reason="mpiexec is not installed")
def test_packing_against_the_script(small: None) -> None:
    both, one = data_packing.rows_of("pack", 1)
    check([both], "pack", "script")
    check([one], "pack_1rank", "script")


@pytest.mark.exhaustive
@pytest.mark.mpi
@pytest.mark.skipif(MPIEXEC is None, reason="mpiexec is not installed")
def test_two_ranks_against_one(small: None) -> None:
    check(data_packing.rows_of("pack_2ranks", 1), "pack_2ranks", "one_rank")


@pytest.mark.mpi
@pytest.mark.skipif(MPIEXEC is None, reason="mpiexec is not installed")
def test_no_speed_is_shown_for_other_fields(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_packing, "regridder", lambda *grids: lambda fields: np.zeros((1, 32, 64)))
    with pytest.raises(WrongResult, match="script gives different fields"):
        data_packing.rows_of("pack", 1)
