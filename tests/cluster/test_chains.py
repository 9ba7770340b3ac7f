"""Chains of attempts that must stop, or must not: too little time, quick restarts, what is gone or broken."""

import shlex
import shutil
from pathlib import Path

import pytest

from climax_hpc.distributed.signals import EXIT_REQUEUE
from climax_hpc.launch import read_status

from .conftest import Cluster, attempts, python_that, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def saving(run: Path) -> str:
    """Shell commands that save one more step of a run."""
    latest = shlex.quote(str(run / "checkpoints" / "latest"))
    step = f'n=$(sed s/step_// {latest} 2>/dev/null || echo 0); n=$((n + 1)); echo "step_$n" > {latest}'
    return f"mkdir -p {shlex.quote(str(run / 'checkpoints'))}; {step}"


def stops_on_signal(run: Path) -> str:
    """Shell commands that wait for a stop signal, then save a step."""
    return f"stop() {{ {saving(run)}; exit {EXIT_REQUEUE}; }}; trap stop USR1 TERM; while :; do sleep 0.2; done"


def submit(cluster: Cluster, run: Path, instead: str, *options: str, config: Path | None = None, way: str = "") -> str:
    """Submit a pretraining on one task, whose training is replaced by shell commands.

    Slurm's proctrack/linuxproc sends no signal to a process with a blank in its name.
    """
    python = python_that(cluster, f"python_of_{run.name.replace(' ', '_')}", instead)
    environment = {"CLIMAX_HPC_PYTHON": python} | ({"CLIMAX_HPC_RESUME_BY": way} if way else {})
    settings = (config or cluster.config, f"--run_folder={run}")
    return cluster.sbatch("pretrain.sh", *settings, options=options or ("--time=60",), **environment)


def test_a_time_limit_shorter_than_the_warning(cluster: Cluster) -> None:
    """--time=4 is less than the 300 s of --signal: Slurm warns at once."""
    run = cluster.folder / "no_time"
    job = submit(cluster, run, stops_on_signal(run), "--time=4")
    wait_for(lambda: cluster.is_over(job), "the job without time")
    assert [a["status"] for a in attempts(run)] == [EXIT_REQUEUE], cluster.log(job)
    assert cluster.field(job, "JobState") == "FAILED"
    assert cluster.field(job, "Restarts") == "0"
    assert "s before the time limit of 240 s, which leaves less than 60 s to work in" in cluster.log(job)
    assert read_status(run).state == "failed"


def test_quick_restarts_are_bounded(cluster: Cluster) -> None:
    """Every attempt saves a step, and ends at once."""
    run = cluster.folder / "quick"
    job = submit(cluster, run, f"{saving(run)}; exit {EXIT_REQUEUE}", way="successor")
    last = str(int(job) + 4)
    wait_for(lambda: cluster.field(last, "JobState") == "FAILED", "the fifth attempt")
    assert [a["after"] for a in attempts(run)] == [1, 2, 3, 4, 5]
    assert "5 starts within 10 minutes (now at 5)" in cluster.log(last)
    assert cluster.field(str(int(last) + 1), "JobState") == ""


def test_units_of_the_first_pass_of_a_pack_are_progress(cluster: Cluster) -> None:
    """Killed with 60, then with 160 units kept, then finished."""
    output = cluster.folder / "packed in three"
    records = shlex.quote(str(output / ".first_pass"))
    units = f"mkdir -p {records}; for i in $(seq $n); do : > {records}/$i.h5.json; done"
    count = f"n=$(ls {records} 2>/dev/null | wc -l); case $n in 0) n=60;; 60) n=160;; *) exit 0;; esac"
    python = python_that(cluster, "python that packs", f"{count}; {units}; kill -9 $$", subcommand="pack")
    job = cluster.sbatch(
        "pack.sh", "demo_pack", f"--output={output}", CLIMAX_HPC_PYTHON=python, CLIMAX_HPC_RESUME_BY="successor"
    )
    last = str(int(job) + 2)
    wait_for(lambda: cluster.field(last, "JobState") == "COMPLETED", "the third attempt")
    assert [(a["before"], a["after"]) for a in attempts(output)] == [(0, 60), (60, 160), (160, 160)]


def lose_everything(run: Path, config: Path) -> None:
    shutil.rmtree(run)
    run.with_name(f"{run.name}.attempts.json").unlink()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("purged", lambda run, config: shutil.rmtree(run), "is gone, or its checkpoints: an earlier attempt reached 1"),
        ("all purged", lose_everything, "is gone, and so is the record of earlier attempts"),
        ("edited", lambda run, config: config.write_text("run_folder: ["), "edited.yaml: is not YAML"),
        ("misspelt", lambda run, config: config.write_text("a: 1"), "misspelt.yaml: unknown config key 'a'"),
    ],
)
def test_a_requeued_job_refuses_what_is_gone_or_broken(
    cluster: Cluster, name: str, change: object, message: str
) -> None:
    run, config = cluster.folder / name, cluster.folder / f"{name}.yaml"
    shutil.copy(cluster.config, config)
    job = submit(cluster, run, f"{saving(run)}; exit {EXIT_REQUEUE}", config=config)
    wait_for(lambda: cluster.field(job, "Restarts") == "1", "the job to be requeued", pause=0.02)
    assert callable(change)
    change(run, config)
    wait_for(lambda: cluster.is_over(job), "the second attempt")
    assert cluster.field(job, "JobState") == "FAILED", cluster.log(job)
    assert message in cluster.log(job)
    assert cluster.field(job, "Restarts") == "1"
    assert cluster.log(job).count("climax-hpc: error: ") == 1
