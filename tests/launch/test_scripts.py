"""The batch scripts: shellcheck, constants, refused input, and their calls of Python."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from climax_hpc.cli import SUBCOMMANDS
from climax_hpc.distributed import signals
from climax_hpc.distributed.launcher import LAUNCHERS
from climax_hpc.errors import UserError
from climax_hpc.launch.constants import batch_scripts, updated
from climax_hpc.launch.members import Member, MemberTable, write_table
from climax_hpc.launch.scripts import CONFIGS, folder_of, scripts
from climax_hpc.utils.references import load

SCRIPTS = ("pack.sh", "pretrain.sh", "finetune_array.sh", "evaluate.sh")
FOLDER = scripts()
EXIT = signals.EXIT_REQUEUE
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
def test_every_script_gives_slurm_the_same_options(script: str) -> None:
    text = (FOLDER / script).read_text()
    options = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert "--open-mode=append" in options
    assert "--requeue" in options
    assert any(option.startswith("--signal=B:") for option in options)
    assert os.access(FOLDER / script, os.X_OK)
    # A copy in a spool folder must work, so nothing may depend on the location of the script.
    assert not any(word in text for word in ("dirname", "BASH_SOURCE", "$0"))


@pytest.mark.parametrize("path", batch_scripts(), ids=lambda path: path.name)
def test_signal_and_exit_status_are_those_of_the_package(path: Path) -> None:
    text = path.read_text()
    assert updated(text) == text, "run python -m climax_hpc.launch.constants"


def test_another_signal_and_status_reach_every_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "WARNING_SIGNAL", signal.SIGUSR2)
    monkeypatch.setattr(signals, "EXIT_REQUEUE", 99)
    monkeypatch.setattr(signals, "EXIT_RESTART", 98)
    texts = {path.name: updated(path.read_text()) for path in batch_scripts()}
    for name in SCRIPTS:
        assert "#SBATCH --signal=B:USR2@" in texts[name]
    assert "\nwarning_signal=USR2\nexit_requeue=99\nexit_restart=98\n" in texts["job.sh"]
    for name, text in texts.items():
        assert not re.search(r"\b(USR1|75|77)\b", text), f"{name} contains a signal or status that is not generated"


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
    assert "/usr/bin/false cannot import climax_hpc: activate its environment" in done.stderr


@pytest.mark.parametrize(
    ("script", "arguments", "extra", "message"),
    [
        ("pretrain.sh", [], {}, "usage: sbatch slurm/pretrain.sh CONFIG"),
        ("finetune_array.sh", ["t.tsv", "demo_finetune"], {}, "not an array job: submit it with sbatch --array=0-LAST"),
        ("finetune_array.sh", ["t.tsv", "demo_finetune"], {"SLURM_ARRAY_TASK_ID": "0"}, "cannot read the table t.tsv"),
        ("pretrain.sh", ["nothing"], {}, "there is no file 'nothing'"),
        ("pretrain.sh", ["demo_pretrain", "--train.stepz", "3"], {}, "did you mean train.steps"),
        ("pretrain.sh", ["demo_pretrain"], {"CLIMAX_HPC_SITE": "atlantis"}, "CLIMAX_HPC_SITE: cannot read"),
        ("pretrain.sh", ["demo_pretrain"], {"CLIMAX_HPC_RESTARTS": "-1"}, "CLIMAX_HPC_RESTARTS=-1: must be a number"),
        ("pretrain.sh", ["demo_pretrain"], {"CLIMAX_HPC_SPARE_NODES": "1"}, "SPARE_NODES=1: must be a number"),
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run_folder: [x", "my.yaml: is not YAML"),
        ("", "config my.yaml: "),
        ("- a", "my.yaml: holds no settings"),
        (
            "run_folder: x\ntrain: {stepz: 3}",
            "config my.yaml: unknown config key 'train.stepz'; did you mean train.steps",
        ),
        ("run_folder: x\ntrain: {steps: many}", "config my.yaml: train.steps: 'many' is not valid"),
        (None, "there is no file 'my.yaml'"),
    ],
)
def test_a_broken_config_is_named(
    text: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at a requeue, after somebody has edited or removed it."""
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("my.yaml").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        folder_of("pretrain", ["--config", "my.yaml"])


def test_begin_and_end(tmp_path: Path) -> None:
    run = tmp_path / "a run"
    begun = ask("begin", "5", "pretrain", "--config", "demo_pretrain", f"--run_folder={run}")
    assert (begun.returncode, begun.stdout) == (0, f"{run}\n")
    assert ask("end", "5", str(run), str(EXIT), "10").returncode == EXIT
    assert ask("begin", "5", "pretrain", "--config", "demo_pretrain", f"--run_folder={run}").returncode == 0
    stopped = ask("end", "5", str(run), str(EXIT), "10")
    assert stopped.returncode == 1
    assert "no progress in 2 attempts in a row" in stopped.stdout


def test_a_lost_rank_is_started_again_in_its_job(tmp_path: Path) -> None:
    run = tmp_path / "run"
    ask("begin", "5", "pretrain", "--config", "demo_pretrain", f"--run_folder={run}")
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "latest").write_text("step_00000010\n")
    done = ask("end", "5", str(run), "137", "10")
    assert done.returncode == signals.EXIT_RESTART
    assert "its ranks start again in this job (restart 1 of at most 10)" in done.stdout
    assert ask("end", "5", str(run), str(signals.EXIT_RESTART), "0").returncode == EXIT  # stalled: other nodes


@pytest.mark.parametrize("site", [path.name for path in sorted(FOLDER.glob("sites/*.env"))])
def test_site_files_can_be_sourced_anywhere(site: str, tmp_path: Path) -> None:
    """Without modules, under `set -u` as in a job; test_sites.py checks what they set."""
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


def test_ranks_of_the_submitting_process_do_not_reach_the_job() -> None:
    """sbatch exports the environment of its caller, which may be a process with a rank."""
    names = [name for launcher in LAUNCHERS for name in launcher.variables]
    stale = {name: "0" for name in names if not name.startswith("SLURM_")}
    code = f'CLIMAX_HPC_SLURM={FOLDER}; set -eu; . "$CLIMAX_HPC_SLURM/environment.sh" && env'

    def of_job(**given: str) -> set[str]:
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, env=CLEAN | given, check=True)
        return {line.partition("=")[0] for line in done.stdout.splitlines()}

    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    assert len(stale) > 20
    assert not of_job(**stale, **meeting) & (stale.keys() | meeting.keys())
    assert of_job(**meeting) >= meeting.keys()  # set by the user: docs/guides/slurm.md
