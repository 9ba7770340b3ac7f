"""A killed rank: training resumes in the same job within 30 s; what failures cost, measured, and the goodput."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from climax_hpc.launch import read_status

from .conftest import Cluster, attempts, losses, step_times, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
STEPS, EVERY, KILL_AT = 40, 5, 17
LIMIT = 30.0  # [s] from the kill to the next optimiser step, on a machine without other work
# All checkpoints are kept, so that many are measured.
SETTINGS = (f"--train.steps={STEPS}", f"--train.checkpoint_every={EVERY}", "--train.keep_checkpoints=50")


def kill_a_rank(cluster: Cluster, run: Path, **environment: str) -> tuple[str, float]:
    """Submit a run and kill -9 its second rank after some steps and a checkpoint; job, and seconds to the next step."""
    job = cluster.pretrain(run, *SETTINGS, **environment)
    wait_for(lambda: len(losses(run)) >= KILL_AT, f"{KILL_AT} steps")
    ranks = cluster.ranks(job)
    os.kill(ranks[1], signal.SIGKILL)
    killed = time.time()
    wait_for(lambda: len(attempts(run)) == 2, "the second attempt")
    began = attempts(run)[1]["began"]
    wait_for(lambda: step_times(run)[-1] > began, "the next step")
    seconds = next(time for time in step_times(run) if time > began) - killed
    wait_for(lambda: cluster.is_over(job), "the end of the run")
    return job, seconds


@pytest.fixture(scope="module")
def restarted(cluster: Cluster) -> tuple[Path, str, float]:
    """A run that lost a rank and started again inside its job: folder, job, seconds from the kill to the next step."""
    run = cluster.folder / "restarted"
    return run, *kill_a_rank(cluster, run)


def test_a_lost_rank_starts_again_in_the_same_job(cluster: Cluster, restarted: tuple[Path, str, float]) -> None:
    run, job, seconds = restarted
    log = cluster.log(job)
    first, second = attempts(run)
    assert (second["in_job"], second["status"]) == (True, 0), log
    assert first["status"] not in (0, 2)
    assert KILL_AT - 2 * EVERY < first["after"] < STEPS  # a checkpoint before the kill
    assert cluster.field(job, "Restarts") == "0"
    assert cluster.field(job, "JobState") == "COMPLETED"
    assert "its ranks start again in this job (restart 1 of at most 10)" in log
    assert len(losses(run)) == STEPS
    assert read_status(run).state == "finished"
    crowd = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # other work on this machine
    assert seconds < LIMIT * crowd, f"{seconds:.1f} s from the kill to the next step, load {crowd:.1f}\n{log}"


def test_goodput_from_what_was_measured(
    cluster: Cluster, restarted: tuple[Path, str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    """1024 nodes that fail every 3 h in simulation, with the durations of this cluster."""
    requeued = cluster.folder / "requeued"
    job, seconds = kill_a_rank(cluster, requeued, CLIMAX_HPC_RESTARTS="0")
    assert cluster.field(job, "Restarts") == "1", cluster.log(job)
    runs = [str(restarted[0]), str(requeued)]
    measured = subprocess.run(
        [sys.executable, "-m", "climax_hpc.launch.recovery", *runs], capture_output=True, text=True
    )
    assert measured.returncode == 0, measured.stderr
    durations, plan = cluster.folder / "recovery.json", cluster.folder / "goodput.json"
    durations.write_text(measured.stdout)
    words = ["plan", "--goodput=true", "--nodes=1024", f"--failures.measured={durations}", f"--json={plan}"]
    done = subprocess.run(["climax-hpc", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with capsys.disabled():
        print(f"\nkill -9 to the next step: {restarted[2]:.1f} s in the same job, {seconds:.1f} s requeued")
        print(measured.stdout + done.stdout)
    best = json.loads(plan.read_text())["best"]
    assert best["simulated"]["goodput"] >= 0.95
    assert best["formula"] >= 0.95
