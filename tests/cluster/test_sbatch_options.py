"""What reaches ranks and successors of the options and the environment of sbatch, and what sbatch refuses."""

import shlex
import subprocess
from pathlib import Path

import pytest

from climax_hpc.errors import UserError
from climax_hpc.launch import Resources, StagesConfig, pipeline, pretrain, sweep

from ..launch.small import write_settings
from .conftest import Cluster, attempts, python_that, wait_for
from .test_jobs import read_dataset

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_a_successor_keeps_every_option(cluster: Cluster) -> None:
    run = cluster.folder / "options"
    dies = python_that(cluster, "python that dies again", "kill -9 $$")
    options = ("--job-name=a/b c", "--comment=x=y z", "--mem=123", "--output=my log-%j.out", "--nice=7", "--exclusive",
               "--signal=B:USR1@120")  # fmt: skip
    job = cluster.pretrain(run, options=options, CLIMAX_HPC_PYTHON=dies, CLIMAX_HPC_RESUME_BY="successor")
    following = str(int(job) + 1)
    wait_for(lambda: cluster.field(following, "JobState") == "FAILED", "the chain to stop")
    shown = [
        subprocess.run(["scontrol", "show", "job", j], capture_output=True, text=True).stdout for j in (job, following)
    ]
    same = ("JobName=a/b c\n", "Comment=x=y z \n", "MinMemoryNode=123M", "Nice=7", "OverSubscribe=NO", "NumNodes=2",
            "NumTasks=2", "TimeLimit=01:00:00")  # fmt: skip
    assert [[field for field in same if field not in text] for text in shown] == [[], []]
    logs = [(cluster.folder / f"my log-{j}.out").read_text() for j in (job, following)]
    assert "failed with status 137 at 0 after one attempt; requeueing" in logs[0]
    assert "no progress in 2 attempts in a row" in logs[1]


@pytest.mark.parametrize("script", ["pretrain.sh", "pack.sh"])
def test_a_job_name_with_a_slash_has_a_log(cluster: Cluster, script: str) -> None:
    job = cluster.sbatch(script, "no such config", options=("--job-name=a/b",))
    wait_for(lambda: cluster.is_over(job), "the job with a slash")
    assert "there is no file 'no such config'" in cluster.log(job)


def test_a_list_of_exported_variables_does_not_void_the_site_file(cluster: Cluster) -> None:
    run, site = cluster.folder / "exported", cluster.folder / "exported.env"
    site.write_text("export OF_THE_SITE=42\n")
    seen = cluster.folder / "environment of rank"
    python = python_that(cluster, "python that shows", f'env > {shlex.quote(str(seen))}" $SLURM_PROCID"; exit 0')
    names = "CLIMAX_HPC_SITE,CLIMAX_HPC_PYTHON,PATH,SLURM_CONF"
    options = (f"--export={names}",)
    job = cluster.pretrain(run, options=options, CLIMAX_HPC_PYTHON=python, CLIMAX_HPC_SITE=str(site), NOT_LISTED="1")
    wait_for(lambda: cluster.is_over(job), "the job with listed variables")
    for rank in (0, 1):
        lines = Path(f"{seen} {rank}").read_text().splitlines()
        assert "OF_THE_SITE=42" in lines, cluster.log(job)
        assert "SLURM_KILL_BAD_EXIT=0" in lines
        assert "NOT_LISTED=1" not in lines


def test_tasks_per_node_of_the_site_need_the_cores(cluster: Cluster) -> None:
    run, site = cluster.folder / "cores", cluster.folder / "cores.env"
    site.write_text("export CLIMAX_HPC_TASKS_PER_NODE=3\n")
    python = python_that(cluster, "python that counts", "exit 0")
    environment = {"CLIMAX_HPC_PYTHON": python, "CLIMAX_HPC_SITE": str(site)}
    arguments = ("pretrain.sh", cluster.config, f"--run_folder={run}")
    job = cluster.sbatch(*arguments, **environment)
    whole = cluster.sbatch(*arguments, options=("--exclusive",), **environment)
    wait_for(lambda: cluster.is_over(job) and cluster.is_over(whole), "both jobs")
    line = "needs 3 cores of each node, the job has 1: submit it with --exclusive or --ntasks-per-node=3"
    assert cluster.log(job) == f"climax-hpc: error: CLIMAX_HPC_TASKS_PER_NODE=3 {line}\n"
    assert cluster.field(job, "JobState") == "FAILED"
    assert [a["status"] for a in attempts(run)] == [0], cluster.log(whole)


def test_sbatch_refuses(cluster: Cluster) -> None:
    nowhere = Resources(partition="nowhere")
    with pytest.raises(UserError, match=r"^where: sbatch refused the job: .*[Ii]nvalid partition"):
        pretrain(cluster.config, {"run_folder": cluster.folder / "x"}, folder=cluster.folder / "j", where=nowhere)
    stages = StagesConfig(pack="demo_pack", pretrain=str(cluster.config))
    hold = Resources(options={"hold": True})  # type: ignore[dict-item]
    with pytest.raises(UserError, match=r"refused .*; cancelled job \d+, submitted before it$"):
        pipeline(stages, folder=cluster.folder / "p", where=hold, stage_where={"pretrain": nowhere})
    wait_for(lambda: not subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout, "an empty queue")
    assert [path.name for path in (cluster.folder / "p").iterdir()] == ["jobs"]


def test_a_sweep_of_several_arrays(cluster: Cluster) -> None:
    config = write_settings(cluster.folder / "arrays.yaml", Path(read_dataset(cluster)), "from the table", steps=2)
    where = Resources(array_size=2)
    sent = sweep(config, folder=cluster.folder / "arrays", where=where, variables=["2m_temperature"], seeds=[1, 2, 3])
    assert len({job.job_id.split("_")[0] for job in sent.jobs}) == 2
    assert sent.results().column("state") == ["finished"] * 3
