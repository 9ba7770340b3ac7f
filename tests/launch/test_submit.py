"""Submission: sbatch files and graphs against golden files, and settings that are refused before it."""

import getpass
import os
import re
import resource
import sys
from pathlib import Path

import pytest

from climax_hpc.cli import main, run
from climax_hpc.errors import UserError
from climax_hpc.launch import Resources, StagesConfig, SweepConfig, finetune, pipeline, pretrain, sweep
from climax_hpc.launch.arrays import array_size
from climax_hpc.launch.config import SubmitConfig
from climax_hpc.launch.executor import make_executor, submit_all
from climax_hpc.launch.scripts import scripts

GOLDEN = Path(__file__).parent.parent / "golden"
FOLDER = 'it\'s a "folder" $HOME'
WHERE = Resources(
    nodes=2, tasks_per_node=4, gpus_per_node=4, cpus_per_task=8, mem_gb=100, minutes=120, partition="gpu",
    account="m1234_g", site="perlmutter", options={"qos": "regular", "constraint": "gpu&hbm80g"}, parallel=3,
)  # fmt: skip


@pytest.fixture
def login_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose sbatch only returns job ids, from 11 on; the submitted files are compared with golden files."""
    programs = tmp_path / "bin"
    programs.mkdir()
    count = tmp_path / "count"
    (programs / "scontrol").write_text("#!/bin/sh\n")
    (programs / "scontrol").chmod(0o755)
    for name in ("sbatch", "srun"):
        (programs / name).write_text(
            f'#!/bin/sh\necho >> "{count}"\necho "Submitted batch job $((10 + $(wc -l < "{count}")))"\n'
        )
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CLIMAX_HPC_SITE", raising=False)
    monkeypatch.delenv("CLIMAX_HPC_PYTHON", raising=False)
    return tmp_path


def plain(text: str, folder: Path) -> str:
    """Generated text with everything machine-dependent replaced."""
    for found, name in (
        (str(scripts()), "SCRIPTS"),
        (sys.executable, "PYTHON"),
        (str(folder), "TMP"),
        (getpass.getuser(), "USER"),
    ):
        text = text.replace(found, name)
    return text


def compare(text: str, golden: str) -> None:
    """Compare with a golden file; CLIMAX_HPC_RENEW_GOLDEN=1 rewrites it: check the diff."""
    if os.environ.get("CLIMAX_HPC_RENEW_GOLDEN"):
        (GOLDEN / golden).write_text(text)
    assert text == (GOLDEN / golden).read_text()


def test_sbatch_file_of_a_run(login_node: Path) -> None:
    settings = {"run_folder": login_node / "run", "train.steps": 7}
    sent = pretrain("demo_pretrain", settings, folder=login_node / FOLDER, where=WHERE)
    assert sent.job.job_id == "11"
    assert sent.folder == login_node / "run"
    compare(plain((login_node / FOLDER / "11_submission.sh").read_text(), login_node), "pretrain_submission.sh")
    assert (login_node / FOLDER).stat().st_mode & 0o077 == 0  # pickles


def test_sbatch_file_of_a_sweep(login_node: Path) -> None:
    sent = sweep("demo_finetune", folder=login_node / FOLDER, where=WHERE, lead_hours=[24, 72], seeds=[1, 2])
    assert [job.job_id for job in sent.jobs] == ["11_0", "11_1", "11_2", "11_3"]
    compare(plain((login_node / FOLDER / "jobs" / "11_submission.sh").read_text(), login_node), "sweep_submission.sh")
    assert (login_node / FOLDER / "members.tsv").read_text() == sent.table.to_tsv()


def test_graph_of_a_pipeline(login_node: Path) -> None:
    stages = StagesConfig(
        pack="demo_pack", pretrain="demo_pretrain", finetune="demo_finetune", evaluate="demo_evaluate"
    )
    sent = pipeline(
        stages,
        folder=login_node / FOLDER,
        where=WHERE,
        stage_where={"pack": Resources(tasks_per_node=16, partition="cpu")},
        sweep=SweepConfig(variables=["2m_temperature"], lead_hours=["24", "6-72"]),
        override={
            "pack.output": login_node / "data",
            "pretrain.run_folder": login_node / "pre",
            "pretrain.train.steps": 9,
        },
    )
    assert {stage: len(jobs) for stage, jobs in sent.jobs.items()} == {
        "pack": 1, "pretrain": 1, "finetune": 2, "evaluate": 2, "report": 1,
    }  # fmt: skip
    compare(plain((login_node / FOLDER / "graph.tsv").read_text(), login_node), "graph.tsv")
    last = (login_node / FOLDER / "jobs" / "15_submission.sh").read_text()
    assert "#SBATCH --dependency=afterany:14\n" in last
    assert "#SBATCH --kill-on-invalid-dep=yes\n" in last
    assert "#SBATCH --ntasks-per-node=1\n" in last
    assert "#SBATCH --partition=cpu\n" in (login_node / FOLDER / "jobs" / "11_submission.sh").read_text()


def test_command_line(login_node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["submit", "finetune", "--settings=demo_finetune", f"--folder={login_node / 'jobs'}"])
    assert "finetune is job 11: climax-hpc status" in capsys.readouterr().out
    axes = ["--sweep.seeds=[1, 2]", "--settings=demo_finetune", f"--folder={login_node / FOLDER}"]
    run(["submit", "sweep", *axes, "--dry_run=true"])
    shown = capsys.readouterr().out
    assert "sbatch --array=0-1 slurm/finetune_array.sh" in shown
    run(["submit", "sweep", *axes])
    assert "2 members of" in capsys.readouterr().out
    run(["submit", "pipeline", f"--folder={login_node / 'p'}", "--stages.pretrain=demo_pretrain", "--dry_run=true"])
    assert capsys.readouterr().out.splitlines()[1].startswith("pretrain\t0\t-\t\tclimax-hpc pretrain")
    run(["submit", "pretrain", f"--folder={login_node / 'p'}", "--settings=demo_pretrain", "--dry_run=true"])
    assert capsys.readouterr().out == "climax-hpc pretrain --config demo_pretrain\n"


@pytest.mark.parametrize("limit", ["setting", "variable", "site", "slurm", "scheduler"])
def test_a_sweep_larger_than_an_array_is_split(login_node: Path, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    site = login_node / "my.env"
    site.write_text("export SBATCH_ACCOUNT=x CLIMAX_HPC_ARRAY_SIZE=2\n" if limit == "site" else "")
    where = Resources(site=str(site), array_size=2 if limit == "setting" else None)
    if limit == "variable":
        monkeypatch.setenv("CLIMAX_HPC_ARRAY_SIZE", "2")
    if limit in ("slurm", "scheduler"):
        line = "MaxArraySize            = 2" if limit == "slurm" else "SchedulerParameters = bf_max=3,max_array_tasks=2"
        (login_node / "bin" / "scontrol").write_text(f"#!/bin/sh\necho MaxJobCount = 1\necho '{line}'\n")
        (login_node / "bin" / "scontrol").chmod(0o755)
    sent = sweep("demo_finetune", folder=login_node / FOLDER, where=where, seeds=[1, 2, 3, 4, 5])
    assert [job.job_id for job in sent.jobs] == ["11_0", "11_1", "12_0", "12_1", "13"]


@pytest.mark.parametrize(("site", "size"), [("lumi", 210), ("frontier", 100), ("generic", None)])
def test_sites_limit_the_size_of_arrays(login_node: Path, site: str, size: int | None) -> None:
    assert array_size(Resources(site=site)) == size


def test_a_dry_run_shows_every_array(login_node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    axes = ["--sweep.seeds=[1, 2, 3]", "--settings=demo_finetune", f"--folder={login_node / FOLDER}"]
    run(["submit", "sweep", *axes, "--where.array_size=2", "--dry_run=true"])
    assert re.findall(r"^sbatch --array=(\S+) ", capsys.readouterr().out, re.MULTILINE) == ["0-1", "2-2"]


def test_members_of_several_arrays_depend_on_each_other(login_node: Path) -> None:
    stages = StagesConfig(pretrain="demo_pretrain", finetune="demo_finetune", evaluate="demo_evaluate")
    axes = SweepConfig(seeds=[1, 2, 3])
    sent = pipeline(stages, folder=login_node / FOLDER, where=Resources(array_size=2), sweep=axes)
    assert [job.job_id for job in sent.jobs["evaluate"]] == ["14_0", "14_1", "15"]
    rows = [line.split("\t") for line in (login_node / FOLDER / "graph.tsv").read_text().splitlines()[1:]]
    assert [row[:4] for row in rows] == [
        ["pretrain", "0", "11", ""],
        ["finetune", "0", "12_0", "afterok:11"], ["finetune", "1", "12_1", "afterok:11"],
        ["finetune", "2", "13", "afterok:11"],
        ["evaluate", "0", "14_0", "aftercorr:12"], ["evaluate", "1", "14_1", "aftercorr:12"],
        ["evaluate", "2", "15", "afterok:13"],
        ["report", "0", "16", "afterany:14:15"],
    ]  # fmt: skip


def refuse_after(
    login_node: Path, accepted: int, reason: str = "Invalid account or account/partition combination specified"
) -> Path:
    """An sbatch that takes only so many jobs; returns the record of the calls of scancel."""
    count, cancelled = login_node / "count", login_node / "cancelled"
    (login_node / "bin" / "sbatch").write_text(
        f'#!/bin/sh\necho >> "{count}"\nn=$(wc -l < "{count}")\n[ "$n" -le {accepted} ] || {{ cat >&2 <<END\n'
        f"sbatch: error: Batch job submission failed: {reason}\n"
        'END\nexit 1; }\necho "Submitted batch job $((10 + n))"\n'
    )
    (login_node / "bin" / "scancel").write_text(f'#!/bin/sh\necho "$@" >> "{cancelled}"\n')
    (login_node / "bin" / "scancel").chmod(0o755)
    return cancelled


REFUSED = "where: sbatch refused the job: Invalid account or account/partition combination specified"


def test_sbatch_refuses_a_run(login_node: Path) -> None:
    cancelled = refuse_after(login_node, 0)
    with pytest.raises(UserError, match=rf"^{REFUSED}$"):
        pretrain("demo_pretrain", folder=login_node / FOLDER, where=WHERE)
    assert not cancelled.exists()
    assert not any((login_node / FOLDER).iterdir())


def test_sbatch_refuses_a_later_array(login_node: Path) -> None:
    cancelled = refuse_after(login_node, 2)
    with pytest.raises(UserError, match=rf"^{REFUSED}; cancelled job 11, 12, submitted before it$"):
        sweep("demo_finetune", folder=login_node / FOLDER, where=Resources(array_size=2), seeds=[1, 2, 3, 4, 5])
    assert cancelled.read_text() == "11 12\n"


def test_a_sweep_waits_where_the_site_limits_queued_jobs(
    login_node: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse_after(login_node, 1, "QOSMaxSubmitJobPerUserLimit")
    pauses = {60.0: lambda: refuse_after(login_node, 9)}  # submitit sleeps too, for shorter times
    monkeypatch.setattr("climax_hpc.launch.executor.time.sleep", lambda seconds: pauses.get(seconds, list)())
    where = Resources(array_size=2)
    sent = sweep("demo_finetune", folder=login_node / FOLDER, where=where, seeds=[1, 2, 3])
    assert [job.job_id for job in sent.jobs] == ["11_0", "11_1", "13"]
    line = "1 members wait for room in the queue (QOSMaxSubmitJobPerUserLimit); keep this command running"
    assert capsys.readouterr().out == f"climax-hpc: {line}\n"


def test_sbatch_refuses_a_later_stage(login_node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cancelled = refuse_after(login_node, 1)
    stages = ["--stages.pack=demo_pack", "--stages.pretrain=demo_pretrain"]
    with pytest.raises(SystemExit):
        main(["submit", "pipeline", f"--folder={login_node / FOLDER}", *stages])
    shown = capsys.readouterr()
    assert shown.err == f"climax-hpc: error: {REFUSED}; cancelled job 11, submitted before it\n"
    assert cancelled.read_text() == "11\n"
    assert not (login_node / FOLDER / "graph.tsv").exists()


def test_bad_settings_submit_nothing(login_node: Path) -> None:
    folder = login_node / "jobs"
    with pytest.raises(UserError, match=r"did you mean train\.steps"):
        finetune("demo_finetune", {"train.stepz": 3}, folder=folder)
    with pytest.raises(UserError, match="there is no file 'demo_finetun'"):
        sweep("demo_finetun", folder=folder)
    with pytest.raises(UserError, match="did you mean 2m_temperature"):
        sweep("demo_finetune", folder=folder, variables=["2m_temprature"])
    with pytest.raises(UserError, match=r"stages\.evaluate: needs stages\.finetune"):
        pipeline(StagesConfig(evaluate="demo_evaluate"), folder=folder)
    with pytest.raises(UserError, match="at least one stage"):
        pipeline(StagesConfig(), folder=folder)
    with pytest.raises(UserError, match="begin with a stage"):
        pipeline(StagesConfig(pack="demo_pack"), folder=folder, override={"output": "x"})
    with pytest.raises(UserError, match="same executor"):
        pipeline(StagesConfig(pack="demo_pack"), folder=folder, stage_where={"pack": Resources(executor="local")})
    assert not (login_node / "count").exists()
    assert not folder.exists()


def test_no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no sbatch on this machine"):
        pretrain("demo_pretrain", folder=tmp_path / "jobs")
    assert not (tmp_path / "jobs").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can create a folder of another user")
def test_folder_of_another_user(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    os.chown(tmp_path / "jobs", 12345, 12345)
    with pytest.raises(UserError, match="belongs to another user"):
        pretrain("demo_pretrain", folder=tmp_path / "jobs", where=Resources(executor="local"))
    assert not any((tmp_path / "jobs").iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"executor": "slrm"}, "did you mean slurm"),
        ({"nodes": 0}, "must be at least 1"),
        ({"executor": "local", "nodes": 2}, r"where\.nodes must be 1 on executor local"),
        ({"executor": "debug", "tasks_per_node": 2}, r"where\.tasks_per_node must be 1"),
        (
            {"minutes": 5, "signal_seconds": 300},
            r"where\.signal_seconds must be between 0 and the time limit \(300 s\)",
        ),
        ({"minutes": 5, "signal_seconds": 270}, r"leaves less than 60 s of the time limit \(300 s\) to work in"),
        ({"array_size": 0}, "array_size, minutes must be at least 1"),
    ],
)
def test_bad_resources(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Resources(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"what": "pretain"}, "did you mean pretrain"),
        ({"settings": None}, r"settings: name the config of pretrain"),
        ({"what": "sweep", "settings": None}, r"settings: name the config of finetune"),
        ({"stage_where": {"pak": Resources()}}, "did you mean pack"),
    ],
)
def test_bad_submissions(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SubmitConfig(**({"what": "pretrain", "folder": "f", "settings": "s"} | change))  # type: ignore[arg-type]


def test_a_job_that_cannot_be_stored_leaves_no_file(tmp_path: Path) -> None:
    where = Resources(executor="local")
    executor = make_executor(tmp_path / "jobs", where, "climax-pretrain")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            submit_all(executor, where, [print])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "jobs").iterdir()) == []


def test_debug_runs_what_is_submitted(login_node: Path) -> None:
    settings = ["--settings", str(login_node / "none.yaml"), "--where.executor", "debug"]
    with pytest.raises(UserError, match=r"none\.yaml"):
        run(["submit", "pretrain", "--folder", str(login_node / "jobs"), *settings])
