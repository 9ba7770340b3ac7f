"""A job with a spare node that loses one of the others: it stays in its allocation, and training resumes there."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import INTERRUPT_AT, STEPS, Cluster, attempts, losses, step_times, wait_for
from .lab import Lab

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture
def three_nodes(cluster: Cluster) -> Iterator[Cluster]:
    """A second cluster beside that of the session."""
    with Lab(("node1", "node2", "node3")) as lab, pytest.MonkeyPatch.context() as patch:
        for name, value in lab.environment.items():
            patch.setenv(name, value)
        yield Cluster(lab, cluster.folder, cluster.config)


def test_a_spare_node_takes_the_place_of_a_lost_one(
    three_nodes: Cluster, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = three_nodes.folder / "with a spare node"
    job = three_nodes.sbatch(
        "pretrain.sh", three_nodes.config, f"--run_folder={run}", CLIMAX_HPC_SPARE_NODES="1",
        options=("--nodes=3", "--ntasks-per-node=1", "--no-kill", "--time=60"),
    )  # fmt: skip
    wait_for(lambda: len(losses(run)) >= INTERRUPT_AT, f"{INTERRUPT_AT} steps")
    ranks = three_nodes.ranks(job)
    assert sorted(ranks) == [0, 1]  # the third node is idle
    lost = three_nodes.lab.processes_of("node2")
    assert ranks[1] in lost
    for process in lost:
        os.kill(process, signal.SIGKILL)
    killed = time.time()
    wait_for(lambda: three_nodes.is_over(job), "the run that lost a node")
    log = three_nodes.log(job)
    assert losses(run) == losses(reference), log
    assert len(losses(run)) == STEPS
    first, second = attempts(run)
    assert (first["status"] in (0, 2), second["in_job"], second["status"]) == (False, True, 0)
    assert three_nodes.field(job, "Restarts") == "0"
    assert "its ranks start again in this job" in log
    seconds = next(time for time in step_times(run) if time > second["began"]) - killed
    with capsys.disabled():
        print(f"\nloss of a node to the next step on a spare one: {seconds:.1f} s, load {os.getloadavg()[0]:.1f}")
