"""The same under a stand-in for PBS: a job warns itself before its time limit, and its successor resumes (slow)."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from climax_hpc.launch import read_status
from climax_hpc.launch.requeue import read_chain

from ..launch.pbs import Pbs
from ..launch.small import write_settings
from .conftest import losses, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path(sys.executable).with_name("mpiexec").exists(), reason="no mpiexec beside python: climax_hpc[mpi]"
    ),
]

# Warned after 65 s; a job that is warned within the first minute is not followed by another.
_LIMIT, _WARNING = "00:03:00", "B:USR1@115"


def test_a_job_of_two_ranks_is_warned_and_its_successor_finishes(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    pbs = Pbs(tmp_path / "pbs", runs=True)
    steps = 100_000
    config = write_settings(tmp_path / "my config.yaml", make_dataset(), "not given", steps=steps)
    run = tmp_path / "a run"
    words = ("-l", f"walltime={_LIMIT}", "-l", "select=1:mpiprocs=2", "pretrain.sh", config, f"--run_folder={run}")
    done = pbs.qsub(*words, SBATCH_SIGNAL=_WARNING, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: pbs.status(1) is not None, "the warning of the first job", pause=1)
    assert pbs.status(1) == 75, pbs.output(1)
    wait_for(lambda: pbs.jobs() == 2, "the successor")
    first = read_status(run).step
    assert first
    wait_for(lambda: len(losses(run)) > first + 5 or pbs.status(2) is not None, "steps of the successor")
    assert pbs.status(2) is None, pbs.output(2)
    pbs.end(2)  # as qdel does: a checkpoint, and no further job
    wait_for(lambda: pbs.status(2) is not None, "the end of the deleted job")
    assert pbs.jobs() == 2
    assert (read_status(run).step or 0) > first
    chain = read_chain(run)
    assert chain
    assert len(chain.attempts) == 2
    assert chain.attempts[1].before == chain.attempts[0].after
