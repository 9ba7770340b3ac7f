"""Arrays with a failing member, runs that must not be requeued, packing and evaluation jobs, a whole pipeline."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from climax_hpc.cli import run as command_line
from climax_hpc.launch import Resources, StagesConfig, SweepConfig, pipeline, read_status
from climax_hpc.launch.members import read_table
from climax_hpc.launch.scripts import scripts
from climax_hpc.shards.manifest import read_manifest

from ..launch.small import VARIABLES, write_evaluation, write_settings
from .conftest import Cluster, attempts, python_that, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
MPIEXEC = Path(sys.executable).with_name("mpiexec")


@pytest.mark.parametrize("way", ["requeue", "successor"])
def test_no_progress_twice_ends_the_chain(cluster: Cluster, way: str) -> None:
    run = cluster.folder / f"no progress, {way}"
    dies = python_that(cluster, "python that dies", "kill -9 $$")
    job = cluster.pretrain(run, CLIMAX_HPC_PYTHON=dies, CLIMAX_HPC_RESUME_BY=way)
    following = str(int(job) + 1) if way == "successor" else job
    wait_for(lambda: cluster.field(following, "JobState") == "FAILED", "the chain to stop")
    assert cluster.is_over(job)
    assert [a["status"] for a in attempts(run)] == [137, 137]
    assert "no progress in 2 attempts in a row (still at 0)" in cluster.log(following)
    assert cluster.field(job, "Restarts") == ("1" if way == "requeue" else "0")
    assert read_status(run).state == "failed"
    if way == "successor":
        assert cluster.field(following, "NumNodes") == "2"
        assert cluster.field(following, "TimeLimit") == "01:00:00"


def test_a_cancelled_job_stays_cancelled(cluster: Cluster) -> None:
    run = cluster.folder / "cancelled"
    waits = python_that(cluster, "python that waits", "exec sleep 600")
    job = cluster.pretrain(run, CLIMAX_HPC_PYTHON=waits)
    wait_for(lambda: attempts(run) if run.with_name("cancelled.attempts.json").exists() else None, "the job to begin")
    subprocess.run(["scancel", job], check=True)
    wait_for(lambda: cluster.is_over(job), "the cancelled job")
    assert cluster.field(job, "JobState") == "CANCELLED"
    assert cluster.field(job, "Restarts") == "0"


def test_array_with_a_failing_member(cluster: Cluster, reference: Path) -> None:
    folder = cluster.folder / "an 'array'"
    config = write_settings(cluster.folder / "fine.yaml", Path(read_dataset(cluster)), "from the table", steps=4)
    axes = '--sweep.variables=["2m_temperature","specific_humidity_850","temperature_850"]'
    command_line(["submit", "sweep", f"--settings={config}", f"--folder={folder}", axes, "--dry_run=true"])
    table = folder / "members.tsv"
    job = cluster.sbatch("finetune_array.sh", table, config, f"--checkpoint={reference}", options=("--array=0-2",))
    wait_for(lambda: cluster.is_over(job), "the array")
    states = [read_status(Path(member.run_folder)) for member in read_table(table).members]
    assert [s.state for s in states] == ["finished", "failed", "finished"], cluster.log(job)
    assert [s.step for s in states] == [4, 0, 4]
    log = next(cluster.folder.glob(f"climax-finetune-{job}_1.out")).read_text()
    assert "specific_humidity_850 is not in model.variables" in log
    assert [a["status"] for a in attempts(Path(read_table(table).members[1].run_folder))] == [2]  # not retried


def read_dataset(cluster: Cluster) -> str:
    """The data set of the cluster's config."""
    return str(yaml.safe_load(cluster.config.read_text())["data"]["dataset"])


def test_evaluate_as_a_job_with_a_site_file_and_a_container(cluster: Cluster, reference: Path) -> None:
    """The "container" records its arguments and runs them: every Python of the job must run inside it."""
    config = write_evaluation(cluster.folder / "evaluate.yaml", Path(read_dataset(cluster)))
    folder = cluster.folder / "an evaluation"
    container, notes = cluster.folder / "my container", cluster.folder / "notes"
    container.write_text(f'#!/bin/sh\nshift\necho "$2 $3 $4" >> {shlex.quote(str(notes))}\nexec "$@"\n')
    container.chmod(0o755)
    site = cluster.folder / "my site.env"
    site.write_text(f"CLIMAX_HPC_WRAP=({shlex.quote(str(container))} exec)\nexport CLIMAX_HPC_TASKS_PER_NODE=1\n")
    models = json.dumps({"a model": str(reference)})
    job = cluster.sbatch(
        "evaluate.sh", config, f"--run_folder={folder}", f"--models={models}",
        options=("--nodes=2",), CLIMAX_HPC_SITE=str(site), CLIMAX_HPC_SLURM=str(scripts()),
    )  # fmt: skip
    wait_for(lambda: cluster.is_over(job), "the evaluation")
    assert (folder / "evaluation.json").is_file(), cluster.log(job)
    words = ["-m climax_hpc.launch begin", "-m climax_hpc evaluate", "-m climax_hpc.launch end"]
    assert notes.read_text().splitlines() == words


@pytest.mark.mpi
@pytest.mark.skipif(not MPIEXEC.exists(), reason="mpi4py needs the MPI of its own environment: install climax_hpc[mpi]")
def test_pack_over_both_nodes(cluster: Cluster) -> None:
    output = cluster.folder / "packed"
    settings = (f"--output={output}", '--sources=["JCM-A_piClim-control_r1i1p1f1"]', '--variables=["2m_temperature"]')
    both = ("--nodes=2", "--ntasks-per-node=1")
    job = cluster.sbatch("pack.sh", "demo_pack", *settings, options=both, SLURM_MPI_TYPE="pmi2")
    wait_for(lambda: cluster.is_over(job), "packing")
    assert list(read_manifest(output).sources) == ["JCM-A_piClim-control_r1i1p1f1"], cluster.log(job)
    assert cluster.field(job, "NumTasks") == "2"
    assert cluster.log(job).count("packed 1 sources") == 1  # ranks that do not find each other pack one each


def test_pipeline_from_cmip6_to_report(cluster: Cluster) -> None:
    """The packaged sample: packed, pretrained on both nodes, fine-tuned three times, one of which fails."""
    folder, base = cluster.folder / "pipeline", cluster.folder
    sizes = {"height": 32, "width": 64, "patch": 8, "embed_dim": 16, "depth": 1, "heads": 2, "output_mode": "anomaly"}
    model = {"model": sizes | {"variables": ["orography", "latitude", *VARIABLES]}}
    data = {
        "dataset": "from the pipeline",
        "period": ["2001", "2003"],
        "micro_batch_size": 2,
        "micro_batches_per_step": 2,
    }
    stages = StagesConfig(
        pack="demo_pack",
        pretrain=str(write_settings(base / "p.yaml", base, folder / "pre", steps=4, data=data, **model)),
        finetune=str(write_settings(base / "f.yaml", base, "from the table", steps=4, data=data, **model)),
        evaluate=str(write_evaluation(base / "e.yaml", base)),
    )
    sent = pipeline(
        stages,
        folder=folder,
        where=Resources(),
        stage_where={"pretrain": Resources(nodes=2)},
        sweep=SweepConfig(variables=["2m_temperature", "specific_humidity_850", "geopotential_500"], lead_hours=["24"]),
        override={"pack.output": folder / "data", "pack.sources": '["JCM-C_piClim-control_r1i1p1f1"]'},
    )
    outcomes = sent.wait()
    log = "\n".join(path.read_text()[-1500:] for path in sorted((folder / "jobs").glob("*_log.err")))
    assert {stage: [o.ok for o in found] for stage, found in outcomes.items()} == {
        "pack": [True], "pretrain": [True], "finetune": [True, False, True], "evaluate": [True, False, True],
        "report": [True],
    }, log  # fmt: skip
    assert "specific_humidity_850 is not in model.variables" in outcomes["finetune"][1].message
    results = sent.results()
    assert results.column("state") == ["finished", "failed", "finished"]
    assert all(float(results.column("rmse")[i]) > 0 for i in (0, 2))
    assert len(list(folder.glob("report_*.html"))) == 2
    assert (folder / "results.tsv").read_text() == results.to_tsv()
    os.stat(folder / "results.md")
