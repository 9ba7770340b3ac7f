"""Time limit, preemption, a killed rank, a lost node: every run reproduces the losses of an uninterrupted run."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from climax_hpc.distributed.signals import EXIT_REQUEUE
from climax_hpc.launch import Resources, pretrain, read_status
from climax_hpc.launch.single_run import SubmittedRun

from .conftest import INTERRUPT_AT, STEPS, Cluster, attempts, losses, thaw, wait_for, was_warned

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture(scope="module")
def timed_out(cluster: Cluster, reference: Path) -> tuple[Path, str, SubmittedRun]:
    """One run by sbatch and one by submitit, both warned of their time limit: (run, job, submitit run).

    The ranks are stopped from step 30 until the warning, because Slurm checks time limits only every 30 s.
    """
    by_script = cluster.folder / "run 'by' \"script\""
    job = cluster.pretrain(by_script)
    where = Resources(nodes=2, tasks_per_node=1)
    settings = {"run_folder": cluster.folder / "run by submitit"}
    by_submitit = pretrain(cluster.config, settings, folder=cluster.folder / "jobs", where=where)
    frozen = cluster.freeze({job: by_script, by_submitit.job.job_id: by_submitit.folder})
    for number in frozen:
        cluster.set_time_limit(number, 4)  # less than the 300 s of --signal remain
    for number, ranks in frozen.items():
        for rank, process in ranks.items():
            wait_for(lambda p=process: was_warned(p), f"Slurm's warning to rank {rank} of job {number}")
    for number, ranks in frozen.items():
        cluster.set_time_limit(number, 60)
        for process in ranks.values():
            thaw(process)
    wait_for(lambda: all(cluster.is_over(number) for number in frozen), "the end of both runs")
    return by_script, job, by_submitit


def test_sbatch_resumes_after_the_time_limit(
    cluster: Cluster, reference: Path, timed_out: tuple[Path, str, SubmittedRun]
) -> None:
    run, job, _ = timed_out
    assert losses(run) == losses(reference), cluster.log(job)
    assert [(a["status"], a["after"] > a["before"]) for a in attempts(run)] == [(EXIT_REQUEUE, True), (0, True)]
    assert INTERRUPT_AT <= attempts(run)[0]["after"] < STEPS
    assert cluster.field(job, "Restarts") == "1"
    assert cluster.field(job, "JobState") == "COMPLETED"
    log = cluster.log(job)  # a single file, appended to
    assert "stopped with a checkpoint" in log
    assert "finished after 2 attempts" in log


def test_submitit_resumes_after_the_time_limit(reference: Path, timed_out: tuple[Path, str, SubmittedRun]) -> None:
    run = timed_out[2]
    outcome = run.wait()
    assert outcome.ok, outcome.message
    assert losses(run.folder) == losses(reference)
    assert [a["status"] for a in attempts(run.folder)] == [EXIT_REQUEUE, 0]


def test_status_of_all_runs(cluster: Cluster, timed_out: tuple[Path, str, SubmittedRun]) -> None:
    done = subprocess.run(["climax-hpc", "status", str(cluster.folder)], capture_output=True, text=True, check=True)
    row = next(line for line in done.stdout.splitlines() if line.startswith("run 'by' \"script\""))
    assert f"{STEPS}/{STEPS}" in row
    assert "finished" in row
    assert read_status(timed_out[0]).restarts == 1


def test_starting_a_finished_run_again_ends_the_chain(
    cluster: Cluster, timed_out: tuple[Path, str, SubmittedRun]
) -> None:
    run = timed_out[0]
    before = losses(run)
    job = cluster.pretrain(run)
    wait_for(lambda: cluster.is_over(job), "the job without work")
    assert cluster.field(job, "JobState") == "COMPLETED"
    assert losses(run) == before


def test_preempted_run_resumes(cluster: Cluster, reference: Path) -> None:
    run = cluster.folder / "preempted"
    job = cluster.pretrain(run, options=("--partition=scavenge",))
    ranks = cluster.freeze({job: run})[job]
    urgent = ["sbatch", "--parsable", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
    subprocess.run(urgent, check=True, capture_output=True)
    for process in ranks.values():
        wait_for(lambda p=process: was_warned(p), "the warning before preemption")
    for process in ranks.values():
        thaw(process)
    wait_for(lambda: cluster.is_over(job), "the preempted run")
    assert losses(run) == losses(reference), cluster.log(job)
    assert [a["status"] for a in attempts(run)] == [EXIT_REQUEUE, 0]


def test_killed_rank_without_restarts(cluster: Cluster, reference: Path) -> None:
    run = cluster.folder / "killed"
    job = cluster.pretrain(run, CLIMAX_HPC_RESTARTS="0")
    ranks = cluster.freeze({job: run})[job]
    os.kill(ranks[1], signal.SIGKILL)
    thaw(ranks[0])
    wait_for(lambda: cluster.is_over(job), "the run that lost a rank")
    assert losses(run) == losses(reference), cluster.log(job)
    assert cluster.field(job, "Restarts") == "1"
    first, second = attempts(run)
    assert first["status"] not in (0, 2, EXIT_REQUEUE)
    assert first["after"] >= 20  # the last scheduled checkpoint
    assert second["status"] == 0


def test_lost_node(cluster: Cluster, reference: Path) -> None:
    run = cluster.folder / "cut off"
    job = cluster.pretrain(run)
    ranks = cluster.freeze({job: run})[job]
    node = cluster.lab.processes_of("node2")
    assert ranks[1] in node
    assert ranks[0] not in node
    for process in node:  # no process on the node responds, not even its daemon
        os.kill(process, signal.SIGSTOP)
    thaw(ranks[0])
    wait_for(lambda: cluster.field(job, "Restarts") == "1", "Slurm to give up the node and requeue the job")
    for process in node:
        os.kill(process, signal.SIGKILL)
    cluster.lab.start_node("node2")
    wait_for(lambda: cluster.is_over(job), "the run that lost a node")
    assert losses(run) == losses(reference), cluster.log(job)
    first, second = attempts(run)
    assert first["status"] not in (
        0,
        2,
        EXIT_REQUEUE,
    )  # None if Slurm ends the script before it records the end
    assert second["status"] == 0
