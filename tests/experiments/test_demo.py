"""`climax-hpc demo`: the whole chain on the shipped sample, quick, in a folder of the user's choice."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from climax_hpc.cli import SUBCOMMANDS, run
from climax_hpc.config.parser import read_config, to_dict
from climax_hpc.errors import UserError
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.experiments.demo import DemoConfig, demo, stages_of
from climax_hpc.utils.references import load

QUICKER = ("--train.steps=4", "--optimizer.warmup_steps=2", "--train.log_every=2")


class FirstOfAKind:
    """In place of `subprocess` in the demo: the first alone and the first of torchrun as processes, others here."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def run(self, command: Sequence[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run one stage."""
        program = command[2]
        if program not in self.started:
            self.started.append(program)
            return subprocess.run(command, env=env)
        run(command[command.index("climax_hpc") + 1 :])
        return subprocess.CompletedProcess(command, 0)


@pytest.mark.slow
@pytest.mark.parametrize("all_as_processes", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_sample_to_report(
    all_as_processes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("climax_hpc.experiments.demo._QUICK_TRAINING", QUICKER)
    stages = FirstOfAKind()
    if not all_as_processes:
        monkeypatch.setattr("climax_hpc.experiments.demo.subprocess", stages)
    run(["demo", "--quick=true", "--run_folder=some where/demo"])
    assert stages.started == ([] if all_as_processes else ["climax_hpc", "torch.distributed.run"])
    assert not Path("runs").exists()
    folder = Path("some where/demo")
    manifest = json.loads((folder / "data/manifest.json").read_text())
    steps = {name.split("_")[0]: sum(s["steps"] for s in e["shards"]) for name, e in manifest["sources"].items()}
    assert steps == {"JCM-A": 360, "JCM-B": 360, "JCM-C": 480}
    card = Scorecard.load(folder / "evaluation")
    # Untrained, the anomaly output is damped persistence plus little; a wrong unit or a wrong time would show here.
    *untrained, packaged = card.models
    assert len(untrained) == 2
    for name in ("geopotential_500", "2m_temperature"):
        damped = card.value("damped persistence", name, 24, "rmse")
        for label in untrained:
            assert card.value(label, name, 24, "rmse") == pytest.approx(damped, rel=0.15)
        assert card.value(packaged, name, 24, "rmse") < 0.7 * damped
    page = (folder / "report.html").read_text()
    assert page.count("<svg") + page.count("data:image/png;base64,") >= 4
    assert f"open {(folder / 'report.html').resolve()}" in capfd.readouterr().out
    monkeypatch.setattr("climax_hpc.experiments.demo._run", lambda stages: None)
    run(["demo", "--quick=true", "--run_folder=some where/demo"])  # another takes every file for its own
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["demo.json"]


def test_every_stage_is_a_plain_command() -> None:
    commands = [" ".join(stage.words) for stage in stages_of(DemoConfig())]
    torchrun = "torch.distributed.run --standalone --nproc_per_node 2 -m climax_hpc"
    assert commands == [
        "climax_hpc pack --config demo_pack",
        "climax_hpc verify --dataset runs/demo/data",
        f"{torchrun} pretrain --config demo_pretrain",
        f"{torchrun} finetune --config demo_finetune",
        f"{torchrun} finetune --config demo_finetune --checkpoint null --run_folder runs/demo/scratch",
        f"{torchrun} finetune --config demo_weights",
        "climax_hpc evaluate --config demo_evaluate",
        "climax_hpc report --config demo_report",
    ]


@pytest.mark.parametrize("quick", [False, True])
def test_another_folder_moves_every_path(quick: bool, tmp_path: Path) -> None:
    config = DemoConfig(run_folder=str(tmp_path), quick=quick)
    for stage in stages_of(config):
        words = list(stage.words[stage.words.index("climax_hpc") + 1 :])
        name = words.pop(0)
        settings = json.dumps(to_dict(read_config(load(SUBCOMMANDS[name].config), name, words)))
        assert f"{tmp_path}/" in settings
        assert "runs/demo" not in settings


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    config = DemoConfig(run_folder=str(tmp_path))
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match=r"run_folder: .* is not empty and no demo wrote it: remove it, or choose"):
        demo(config)
    assert (tmp_path / "data").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"run_folder: .*file is a file, so it cannot hold"):
        demo(replace(config, run_folder=str(tmp_path / "file" / "demo")))


def test_an_earlier_demo_is_replaced_and_a_failing_stage_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "demo.json").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "regional").mkdir()
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 3))
    with pytest.raises(SystemExit) as stop:
        demo(DemoConfig(run_folder=str(tmp_path)))
    assert stop.value.code == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.json", "regional"]
    assert "the demo stopped in stage 1 (pack the CMIP6 sample), exit status 3" in capsys.readouterr().err


@pytest.mark.parametrize("theirs", ["data/notes.txt", "pretrain/checkpoints/old.zip", "evaluation/sub/maps.npz"])
def test_files_of_others_inside_an_earlier_demo_stay(
    theirs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [
        "demo.json", "demo.png", "data/manifest.json", "data/A/A_2001010100_2001013018.h5", "scratch/config.yaml",
        "data/.climax_hpc-0a.tmp", "pretrain/.climax_hpc.lock", "scratch/checkpoints/.step_00000020.partial/a/b.pt",
    ]  # fmt: skip
    for name in own:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    stranger = tmp_path / theirs
    stranger.parent.mkdir(parents=True, exist_ok=True)
    stranger.touch()
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 3))
    with pytest.raises(UserError, match=rf"{theirs} is not of a demo: move it"):
        demo(DemoConfig(run_folder=str(tmp_path)))
    assert all((tmp_path / name).exists() for name in own)
    stranger.unlink()
    with pytest.raises(SystemExit):
        demo(DemoConfig(run_folder=str(tmp_path)))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["demo.json"]
