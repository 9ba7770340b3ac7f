"""Choices of the study: the best by validation scores, written as configs; none can see the test period."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from climax_hpc.config.parser import default_settings, read_config
from climax_hpc.config.training import FinetuneConfig
from climax_hpc.errors import UserError
from climax_hpc.evaluation.output import EVALUATION_FILE
from climax_hpc.experiments.study.__main__ import QUESTIONS, chosen_questions, estimate
from climax_hpc.experiments.study.commands import Study
from climax_hpc.experiments.study.headline import evaluations
from climax_hpc.experiments.study.runner import Step, with_needs
from climax_hpc.experiments.study.select import Group, config_file, main, read_choice, select
from climax_hpc.experiments.study.sizes import FULL, QUICK, StudySize
from climax_hpc.fields.periods import period_hours
from climax_hpc.utils.files import write_json

AN_EVALUATION = Path(__file__).parents[2] / "compatibility/commit_3b8de63/evaluation/evaluation.json"
Z500, T2M = "geopotential_500", "2m_temperature"
TEST = ("2005-10-16", "2006-03-14")


def write_evaluation(folder: Path, scores: dict[str, float], period: tuple[str, str] = ("2004", "2004")) -> Path:
    """An evaluation of models whose RMSE are these multiples of climatology's, which differs by variable."""
    content = json.loads(AN_EVALUATION.read_text())
    model, variable = (next(iter(content[key].values())) for key in ("models", "variables"))
    units = {Z500: 500.0, T2M: 2.0}
    content |= {
        "lead_hours": [24], "models": dict.fromkeys(scores, model), "baselines": {"climatology": ""},
        "variables": dict.fromkeys(units, variable),
        "scores": {
            label: {v: {"24": {"rmse": x * unit}} for v, unit in units.items()}
            for label, x in (scores | {"climatology": 1.0}).items()
        },
    }  # fmt: skip
    content["settings"]["period"] = list(period)
    del content["intervals"], content["comparison"]
    folder.mkdir(parents=True)
    write_json(folder / EVALUATION_FILE, content)
    return folder


def group(**candidates: dict[str, Any]) -> Group:
    return Group(base="study_network", task_base="study_network", candidates=candidates)


def test_the_lowest_score_is_chosen_and_becomes_a_config(tmp_path: Path) -> None:
    made = write_evaluation(tmp_path / "evaluation", {"a": 0.8, "b": 0.7, "c": 0.9})
    candidates = {
        "a": {"optimizer.lr": 1.0}, "b": {"optimizer.lr": 2.0, "data.lead_exponent": 3.0}, "c": {"optimizer.lr": 4.0},
    }  # fmt: skip
    select(made, {"one": group(**candidates)}, tmp_path / "choice", TEST)
    found = read_choice(tmp_path / "choice")["one"]
    assert (found["chosen"], found["settings"]) == ("b", candidates["b"])
    assert found["scores"] == pytest.approx({"a": 0.8, "b": 0.7, "c": 0.9})
    base = FinetuneConfig(**_config("study_network", tmp_path))
    whole, task = (str(config_file(tmp_path / "choice", "one", task=task)) for task in (False, True))
    chosen = FinetuneConfig(**_config(whole, tmp_path))
    assert (chosen.optimizer.lr, chosen.data.lead_exponent) == (2.0, 3.0)
    assert chosen.model == base.model
    other_task = FinetuneConfig(**_config(task, tmp_path))
    assert (other_task.optimizer.lr, other_task.data) == (2.0, base.data)


def _config(name: str, folder: Path) -> dict[str, Any]:
    return vars(read_config(FinetuneConfig, "finetune", [f"--config={name}", f"--run_folder={folder / 'run'}"]))


def test_a_choice_builds_on_an_earlier_one(tmp_path: Path) -> None:
    made = write_evaluation(tmp_path / "evaluation", {"a": 0.8})
    select(made, {"one": group(a={"optimizer.weight_decay": 0.5})}, tmp_path / "first", TEST)
    base = {"base": str(tmp_path / "first/one.yaml"), "task_base": str(tmp_path / "first/one-task.yaml")}
    select(made, {"two": Group(**base, candidates={"a": {"optimizer.lr": 3.0}})}, tmp_path / "second", TEST)
    found = yaml.safe_load((tmp_path / "second/two.yaml").read_text())["optimizer"]
    assert (found["weight_decay"], found["lr"]) == (0.5, 3.0)


@pytest.mark.parametrize("period", [("2005", "2006"), ("2005-12-01", "2005-12-02"), ("2001", "2005-10-16")])
def test_an_evaluation_of_test_data_is_refused(tmp_path: Path, period: tuple[str, str]) -> None:
    made = write_evaluation(tmp_path / "evaluation", {"a": 0.8}, period)
    with pytest.raises(UserError, match="overlaps the test period 2005-10-16 to 2006-03-14"):
        select(made, {"one": group(a={})}, tmp_path / "choice", TEST)
    assert not (tmp_path / "choice").exists()


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = write_evaluation(tmp_path / "evaluation", {"a": 0.8})
    with pytest.raises(UserError, match="the evaluation has no model 'b'; it has a"):
        select(made, {"one": group(a={}, b={})}, tmp_path / "choice", TEST)
    words = ["--evaluation", str(tmp_path / "none"), "--output", str(tmp_path / "choice"), "--test_period"]
    with pytest.raises(SystemExit):
        main([*words, json.dumps(TEST), "--groups", "{}"])
    assert capsys.readouterr().err.count("\n") == 1


def steps_of(size: StudySize, folder: Path) -> list[Step]:
    study = Study(size=size, folder=folder)
    return with_needs([step for question in QUESTIONS.values() for step in question.steps(study)])


def periods_of(step: Step) -> Iterator[tuple[str, str]]:
    """All periods on the command line of a step."""
    for word in step.words:
        key, _, value = word.partition("=")
        if key.endswith("period") and key != "--test_period":
            first, last = json.loads(value)
            yield first, last


@pytest.mark.parametrize("size", [FULL, QUICK])
def test_no_choice_follows_from_test_data(size: StudySize, tmp_path: Path) -> None:
    """Neither a choice nor anything that it follows from (training, evaluation, climatology) has a test date."""
    held_out = period_hours(size.test_period, "standard")
    every = steps_of(size, tmp_path)
    choices = [step for step in every if step.name.startswith("select/")]
    assert [step.name for step in choices] == ["select/recipe", "select/rates-from-scratch",
                                               "select/rates-after-pretraining"]  # fmt: skip
    for step in with_needs(choices):
        for period in periods_of(step):
            first, last = period_hours(period, "standard")
            assert last <= held_out[0] or first >= held_out[1], (step.name, period)
        if "--data.sources" in " ".join(step.words) and size.target in " ".join(step.words):
            assert any(word.startswith("--data.period=") for word in step.words), step.name
    scored = [step for step in every if list(size.test_period) in [list(p) for p in periods_of(step)]]
    assert len(scored) > 5  # the test would fail if it did not recognise the test period
    for words in (step.words for step in every if step.name.startswith(("finetune/", "downscaling/"))):
        assert not any(json.dumps(list(size.validation_period)) in word for word in words)


def test_all_networks_of_the_headline_have_the_same_data_and_steps(tmp_path: Path) -> None:
    (first, *_) = evaluations(Study(size=FULL, folder=tmp_path))
    shared = [
        {word for word in step.words if word.startswith(("--data.", "--train.", "--optimizer."))}
        for step in first.needs
    ]
    assert len(shared) == 2 * len(FULL.networks) - 1
    assert all(words == shared[0] for words in shared)
    configs = {word.rsplit("/", 1)[-1] for step in first.needs for word in step.words if word.startswith("--config=")}
    assert configs == {f"{network.slug}.yaml" for network in FULL.networks}


@pytest.mark.parametrize("size", [FULL, QUICK])
def test_every_setting_of_every_training_run_is_a_key(size: StudySize, tmp_path: Path) -> None:
    known = {"checkpoint", "run_folder", "data.dataset", *default_settings(FinetuneConfig)}
    given = {
        word.removeprefix("--").partition("=")[0]
        for step in steps_of(size, tmp_path)
        if step.words[:2] in (("climax_hpc", "finetune"), ("climax_hpc", "pretrain"))
        for word in step.words[2:]
    }
    given |= {key for lever in size.levers for key in lever.settings} | set(size.as_is)
    assert given - known == {"config"}


def test_the_full_study_fits_into_an_hour_on_two_cores(tmp_path: Path) -> None:
    study = Study(size=FULL, folder=tmp_path)
    every = with_needs([step for question in chosen_questions(None) for step in question.steps(study)])
    total = sum(step.expected_seconds for step in every)
    assert total / 2 <= 3600
    said = estimate(every, 2)
    assert said.startswith(f"all {len(every)} steps: about {total / 60:.0f} minutes of one core (simulate ")
    assert said.endswith(f"; {total / 120:.0f} minutes with 2 quiet cores")
