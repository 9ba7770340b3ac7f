"""`make pretrained`: what the card says is what was measured, steps are commands, and a trial runs through."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from climax_hpc import cli
from climax_hpc.checkpoint import packaged, safetensors_file
from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.cli import SUBCOMMANDS
from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.config.parser import read_config
from climax_hpc.config.training import PretrainConfig
from climax_hpc.errors import UserError
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.experiments.study import runner
from climax_hpc.experiments.study.commands import Study
from climax_hpc.experiments.study.runner import Step, with_needs
from climax_hpc.experiments.weights import __main__ as command
from climax_hpc.experiments.weights.measured import MOST_ROWS, training_of
from climax_hpc.experiments.weights.recipe import LEADS, NAME, Recipe
from climax_hpc.fields.variables import lookup
from climax_hpc.utils.formatting import format_score
from climax_hpc.utils.references import load

Z500 = "geopotential_500"


def test_every_step_is_a_command_whose_settings_are_accepted(tmp_path: Path) -> None:
    for quick in (False, True):
        for step in with_needs(Recipe.of(tmp_path, quick=quick, ranks=2).steps):
            assert step.words[0] == "climax_hpc"
            verb = step.words[1]
            read_config(load(SUBCOMMANDS[verb].config), f"climax-hpc {verb}", step.words[2:])


def test_the_recipe_forecasts_what_the_corpora_hold_and_never_sees_the_target(tmp_path: Path) -> None:
    recipe = Recipe.of(tmp_path, quick=False, ranks=1)
    config = read_config(PretrainConfig, "climax-hpc pretrain", recipe.pretrain.words[2:])
    channels = next(word for word in recipe.study.simulations[0].words if word.startswith("--variables="))
    moving = {name for name in config.model.variables if lookup(name).can_be_forecast}
    assert moving == set(json.loads(channels.removeprefix("--variables=")))
    assert recipe.study.size.target not in (config.data.sources or [])
    assert config.data.period
    assert config.data.validation_period
    assert config.data.period[1] < config.data.validation_period[0]
    assert max(LEADS) <= config.data.max_lead_hours


def test_the_number_of_processes_is_no_other_training(tmp_path: Path) -> None:
    one, two = (Recipe.of(tmp_path, quick=False, ranks=ranks).pretrain for ranks in (1, 2))
    assert one.key == two.key
    assert two.command.startswith("torchrun --standalone --nproc_per_node 2 -m climax_hpc pretrain ")
    assert one.command.startswith("climax-hpc pretrain ")


def test_another_config_is_another_training(tmp_path: Path) -> None:
    step = Recipe.of(tmp_path, quick=False, ranks=1).pretrain
    assert replace(step, config=step.config.replace("lr: 4.0e-3", "lr: 3.0e-3")).key != step.key
    assert "lr: 4.0e-3" in step.config


@pytest.fixture(scope="module")
def measured(
    make_dataset: Callable[..., Path],
    make_evaluation: Callable[..., EvaluateConfig],
    tmp_path_factory: pytest.TempPathFactory,
) -> Recipe:
    """A recipe whose steps have left their outputs: an untrained network, a hand-made log, real evaluations."""
    folder = tmp_path_factory.mktemp("recipe")
    data = make_dataset({"JCM-A_synthetic_r1i1p1f1": {}, "JCM-C_synthetic_r1i1p1f1": {}})
    recipe = Recipe.of(folder, quick=True, ranks=1)
    made = make_evaluation(data)
    stored = load_checkpoint(made.models["anomaly"])
    recipe.folder.mkdir(parents=True)
    safetensors_file.write(recipe.export.output, stored.metadata.to_dict(), stored.weights)
    for step in recipe.evaluations.values():
        scored = make_evaluation(
            data, run_folder=str(step.output), models={NAME: str(recipe.export.output)}, resamples=100
        )
        step.output.parent.mkdir(exist_ok=True)
        evaluate(scored)
    _write_run(recipe.pretrain.output, data)
    return recipe


def _write_run(run: Path, data: Path) -> None:
    run.mkdir()
    settings = {
        "data": {"dataset": str(data), "sources": ["JCM-A"], "micro_batch_size": 4, "micro_batches_per_step": 2,
                 "period": ["2001", "2002"], "validation_period": ["2003", "2003"],
                 "min_lead_hours": 6, "max_lead_hours": 72},
        "model": {"blocks": "conv"}, "optimizer": {"kind": "muon", "lr": 0.004},
        "train": {"seed": 1, "ema_decay": 0.99},
    }  # fmt: skip
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    about = {"git_commit": "0123456789abcdef", "packages": {"torch": "2.11"}, "device": "a processor", "ranks": 2}
    (run / "provenance.json").write_text(json.dumps(about))
    rows: list[dict[str, float]] = []
    for step in range(1, 501):
        rows.append({"step": step, "loss": 1 / step, "learning_rate": 0.004, "samples_per_second": 16.0})
        rows += [{"step": step, "validation_loss": 2 / step}] if step % 100 == 0 else []
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def written(measured: Recipe, tmp_path: Path) -> Path:
    command.write_weights(measured, tmp_path / NAME)
    packaged.verify_packaged(tmp_path / NAME)
    return tmp_path / NAME


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def test_scores_are_those_of_the_evaluations_and_the_card_shows_them(measured: Recipe, written: Path) -> None:
    scores, card = read(written, packaged.SCORES), (written / packaged.CARD).read_text()
    assert scores["weights_sha256"] == load_checkpoint(written / packaged.MODEL).weights_sha256
    assert scores["weights_sha256"][:16] in card
    for title, step in measured.evaluations.items():
        evaluation, found = Scorecard.load(step.output), scores["evaluations"][title]
        for label in (NAME, "persistence", "climatology", "damped persistence"):
            expected = [evaluation.value(label, Z500, lead) for lead in evaluation.lead_hours]
            assert found["rmse"][Z500][label] == expected
            shown = ".*".join(re.escape(format_score(value)) for value in expected)
            assert re.search(rf"{label}.*{shown}", card.replace("\n", " "))
        assert f"{found['forecasts']} forecasts" in card


def test_the_card_counts_the_cases_that_are_not_better(written: Path) -> None:
    scores, card = read(written, packaged.SCORES), (written / packaged.CARD).read_text()
    for found in scores["evaluations"].values():
        lost = {v: [h for i, h in enumerate(found["lead_hours"])
                    if min(found["rmse"][v][b][i] for b in found["baselines"]) <= found["rmse"][v][NAME][i]]
                for v in found["rmse"]}  # fmt: skip
        assert lost == found["not_better"]
        cases = len(found["rmse"]) * len(found["lead_hours"])
        better = cases - sum(map(len, lost.values()))
        assert f"is better than every baseline in {better} of {cases} cases" in " ".join(card.split())


def test_time_and_losses_are_those_of_the_log(written: Path) -> None:
    training, card = read(written, packaged.TRAINING), " ".join((written / packaged.CARD).read_text().split())
    assert training["hours"] == pytest.approx(500 * 8 / 16 / 3600)
    assert training["samples"] == 4000
    assert len(training["log"]) <= MOST_ROWS
    assert training["log"][-1] == {"step": 500, "loss": 0.002, "learning_rate": 0.004, "samples_per_second": 16.0}
    assert "4.2 min of computing on 2 processes (a processor)" in card
    assert "0.0040 after step 500" in card
    assert "coarse climate model's weather, not Earth's" in card
    assert list(training["states"]) == ["JCM-A_synthetic_r1i1p1f1"]


def test_a_run_that_was_resumed_counts_its_time_once(measured: Recipe, tmp_path: Path) -> None:
    """`RunFolder` removes the lines after the checkpoint that a run resumes from, so every step is there once."""
    found = training_of(measured.pretrain.output, [Step(name="a", words=("climax_hpc", "x"), output=tmp_path)])
    assert found["commands"] == ["climax-hpc x"]
    assert [row["step"] for row in found["validation"]] == [100, 200, 300, 400, 500]


def test_weights_too_large_for_the_package_are_refused(
    measured: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "LARGEST", 1000)
    with pytest.raises(UserError, match=r"more than the 1 kB for weights in the package: make the network .* smaller"):
        command.write_weights(measured, tmp_path / NAME)
    assert not (tmp_path / NAME).exists()


def test_weights_that_were_not_scored_are_refused(measured: Recipe, tmp_path: Path) -> None:
    other = Recipe(study=Study(size=measured.study.size, folder=tmp_path), ranks=1)
    (tmp_path / "weights").symlink_to(measured.folder)
    stored = load_checkpoint(measured.export.output)
    before = measured.export.output.read_bytes()
    changed = {name: tensor + 1 for name, tensor in stored.weights.items()}
    safetensors_file.write(measured.export.output, stored.metadata.to_dict(), changed)
    try:
        with pytest.raises(UserError, match="is not what was scored"):
            command.write_weights(other, tmp_path / NAME)
    finally:
        measured.export.output.write_bytes(before)


class MostlyHere(runner._Running):
    """Only the first step as a process, which takes seconds to start; the others in this one."""

    def __init__(self, step: Step, records: runner.StepRecords, lock: int) -> None:
        self.here = step.name != "pack"
        if not self.here:
            super().__init__(step, records, lock)
            return
        self.step, self._records = step, records
        records.begin(step)
        cli.run(step.words[1:])

    def has_ended(self) -> bool:
        return self.here or super().has_ended()

    def close(self) -> None:
        if self.here:
            self._records.end(self.step, finished=True, seconds=1.0)
        else:
            super().close()


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["one", pytest.param("all", marks=pytest.mark.exhaustive)])
def test_a_trial_from_the_sample_to_the_folder(
    processes: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if processes == "one":
        monkeypatch.setattr(runner, "_Running", MostlyHere)
    words = ["--quick", "--folder", str(tmp_path), "--jobs", "1"]
    command.run(words)
    folder = tmp_path / "pretrained" / NAME
    packaged.verify_packaged(folder)
    found = load_checkpoint(folder / packaged.MODEL)
    assert found.metadata.step == 4
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    command.run(words)  # all steps are done
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    command.run([*words, "--list"])
    assert "to do" not in capfd.readouterr().out.splitlines()[-1]
