"""The batch scripts as files: shellcheck, what they refuse, and what they ask Python."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from climax_hpc.cli import SUBCOMMANDS, load
from climax_hpc.distributed.launcher import LAUNCHERS
from climax_hpc.errors import UserError
from climax_hpc.launch.members import Member, MemberTable, write_table
from climax_hpc.launch.scripts import CONFIGS, folder_of, scripts

SCRIPTS = ("pack.sh", "pretrain.sh", "finetune_array.sh", "evaluate.sh")
FOLDER = scripts()
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "CLIMAX_HPC_"))} | {
    "CLIMAX_HPC_PYTHON": sys.executable
}


def ask(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "climax_hpc.launch", *words], capture_output=True, text=True, env=CLEAN
    )


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck: apt-get install shellcheck")
def test_shellcheck() -> None:
    files = sorted([*FOLDER.glob("*.sh"), *FOLDER.glob("sites/*.env")])
    assert len(files) >= 9
    done = subprocess.run(["shellcheck", *map(str, files)], capture_output=True, text=True, cwd=FOLDER)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_tells_slurm_the_same(script: str) -> None:
    text = (FOLDER / script).read_text()
    options = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert "--open-mode=append" in options
    assert "--requeue" in options
    assert any(option.startswith("--signal=B:USR1@") for option in options)
    assert os.access(FOLDER / script, os.X_OK)
    # A copy in a spool folder must work: nothing may depend on where the script lies.
    assert not any(word in text for word in ("dirname", "BASH_SOURCE", "$0"))


def test_jobs_read_the_configs_of_the_command_line() -> None:
    for subcommand, config in CONFIGS.items():
        assert load(SUBCOMMANDS[subcommand].config) is config


def test_a_subcommand_that_does_not_run_as_a_job() -> None:
    with pytest.raises(UserError, match="'pretrian' does not run as a job; did you mean pretrain"):
        folder_of("pretrian", [])


@pytest.mark.parametrize("script", SCRIPTS)
def test_not_a_batch_job(script: str, tmp_path: Path) -> None:
    spooled = tmp_path / "slurm_script"
    shutil.copy(FOLDER / script, spooled)
    done = subprocess.run(["bash", str(spooled), "config"], capture_output=True, text=True, env=CLEAN, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip() == "climax-hpc: error: this is a batch script: submit it with sbatch"


def test_no_python_with_climax_hpc(tmp_path: Path) -> None:
    missing = CLEAN | {"CLIMAX_HPC_PYTHON": "/usr/bin/false"}
    done = subprocess.run(
        ["bash", str(FOLDER / "pretrain.sh")], capture_output=True, text=True, env=missing, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "/usr/bin/false has no climax_hpc: activate its environment" in done.stderr


@pytest.mark.parametrize(
    ("script", "arguments", "extra", "message"),
    [
        ("pretrain.sh", [], {}, "usage: sbatch slurm/pretrain.sh CONFIG"),
        ("finetune_array.sh", ["t.tsv", "demo_finetune"], {}, "not an array: sbatch --array=0-LAST"),
        ("finetune_array.sh", ["t.tsv", "demo_finetune"], {"SLURM_ARRAY_TASK_ID": "0"}, "cannot read the table t.tsv"),
        ("pretrain.sh", ["nothing"], {}, "no config file 'nothing'"),
        ("pretrain.sh", ["demo_pretrain", "--train.stepz", "3"], {}, "did you mean train.steps"),
        ("pretrain.sh", ["demo_pretrain"], {"CLIMAX_HPC_SITE": "atlantis"}, "CLIMAX_HPC_SITE: cannot read"),
    ],
)
def test_bad_input_ends_before_srun(
    script: str, arguments: list[str], extra: dict[str, str], message: str, tmp_path: Path
) -> None:
    environment = CLEAN | {"SLURM_JOB_ID": "1"} | extra
    done = subprocess.run(
        ["bash", str(FOLDER / script), *arguments], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("climax-hpc: error: ") == 1
    assert not any(tmp_path.iterdir())


def test_words(tmp_path: Path) -> None:
    assert ask("where").stdout.strip() == str(FOLDER)
    table = MemberTable(
        members=(Member(index=0, run_folder=str(tmp_path / 'it\'s "a" run'), settings={"optimizer.lr": "1 e"}),)
    )
    write_table(table, tmp_path / "t.tsv")
    assert ask("row", str(tmp_path / "t.tsv"), "0").stdout.split("\0")[:-1] == table.row(0).arguments()
    assert "no row 1" in ask("row", str(tmp_path / "t.tsv"), "1").stderr
    assert "unknown word 'rows'" in ask("rows").stderr
    for words in ((), ("row",), ("end", "5")):
        refused = ask(*words)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_begin_and_end(tmp_path: Path) -> None:
    run = tmp_path / "a run"
    begun = ask("begin", "5", "pretrain", "--config", "demo_pretrain", f"--run_folder={run}")
    assert (begun.returncode, begun.stdout) == (0, f"{run}\n")
    assert ask("end", "5", str(run), "75").returncode == 75
    assert ask("begin", "5", "pretrain", "--config", "demo_pretrain", f"--run_folder={run}").returncode == 0
    stopped = ask("end", "5", str(run), "75")
    assert stopped.returncode == 1
    assert "no progress in 2 attempts in a row" in stopped.stdout


@pytest.mark.parametrize("site", [path.name for path in sorted(FOLDER.glob("sites/*.env"))])
def test_site_files_can_be_sourced_anywhere(site: str, tmp_path: Path) -> None:
    """Without modules, under `set -u` as in the job, with the variables that the page names."""
    code = '. "$1" && env'
    done = subprocess.run(
        ["bash", "-c", f'CLIMAX_HPC_SLURM={FOLDER}; CLIMAX_HPC_SITE={site.removesuffix(".env")}; set -eu; {code}', "-",
         str(FOLDER / "environment.sh")],
        capture_output=True, text=True, env=CLEAN | {"SLURM_CPUS_PER_TASK": "3", "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert found["SRUN_CPUS_PER_TASK"] == "3"
    assert found["TRITON_CACHE_DIR"].startswith(str(tmp_path))
    if site != "generic.env":
        assert int(found["CLIMAX_HPC_TASKS_PER_NODE"]) in (4, 8)
        assert found["NCCL_SOCKET_IFNAME"].startswith("hsn")


def test_ranks_of_the_submitting_process_do_not_reach_the_job() -> None:
    """A process that has trained, or was started by a launcher, calls sbatch, which exports its whole environment."""
    stale = {name: "0" for names in LAUNCHERS.values() for name in names if not name.startswith("SLURM_")}
    code = f'CLIMAX_HPC_SLURM={FOLDER}; set -eu; . "$CLIMAX_HPC_SLURM/environment.sh" && env'

    def of_job(**given: str) -> set[str]:
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, env=CLEAN | given, check=True)
        return {line.partition("=")[0] for line in done.stdout.splitlines()}

    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    assert len(stale) == 9
    assert not of_job(**stale, **meeting) & (stale.keys() | meeting.keys())
    assert of_job(**meeting) >= meeting.keys()  # given by a person: docs/guides/slurm.md
