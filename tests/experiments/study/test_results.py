"""Verdicts and page of the study, from hand-made scores and from real evaluations of a small study."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.errors import UserError
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.evaluation.output import EVALUATION_FILE
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.experiments.study import amount, controls, downscaling, headline, levers, projection, rates, sources
from climax_hpc.experiments.study.__main__ import chosen_questions
from climax_hpc.experiments.study.commands import Study
from climax_hpc.experiments.study.comparison import compare
from climax_hpc.experiments.study.networks import CLIMAX, PRETRAINED, RESNET, SCRATCH, VIT
from climax_hpc.experiments.study.rates import chosen_rate, finetune_rates, scratch_rates
from climax_hpc.experiments.study.recipe import AS_IS, OWN, recipe
from climax_hpc.experiments.study.results import write_results
from climax_hpc.experiments.study.runner import Step, StepRecords, with_needs
from climax_hpc.experiments.study.scores import Scores, Verdict
from climax_hpc.experiments.study.select import main as select
from climax_hpc.experiments.study.select import read_choice
from climax_hpc.experiments.study.sizes import Lever, StudySize
from climax_hpc.experiments.study.text import lead, listed, signed_percent
from climax_hpc.utils.files import write_json
from climax_hpc.utils.formatting import format_score

Z500 = "geopotential_500"
AN_EVALUATION = Path(__file__).parents[2] / "compatibility/commit_3b8de63/evaluation/evaluation.json"


def card(scores: Mapping[str, tuple[float, float, float]], differences: Mapping[str, tuple[float, float]]) -> Scorecard:
    """One variable, one lead: label -> (RMSE, low, high); label -> interval of its RMSE minus that of the first."""
    labels = list(scores)
    return Scorecard(
        content={
            "models": {label: {} for label in labels},
            "baselines": {},
            "lead_hours": [24],
            "scores": {k: {Z500: {"24": {"rmse": v[0]}}} for k, v in scores.items()},
            "intervals": {k: {Z500: {"24": {"rmse": list(v[1:])}}} for k, v in scores.items()},
            "comparison": {
                "reference": labels[0],
                "differences": {k: {Z500: {"24": {"rmse": 0.0, "interval": list(v)}}} for k, v in differences.items()},
            },
        }
    )


@pytest.mark.parametrize(
    ("theirs", "difference", "verdict"),
    [
        ((12.0, 11.5, 12.5), (1.0, 3.0), Verdict.BETTER),
        ((10.5, 9.5, 11.5), (0.1, 0.9), Verdict.PAIRED),
        ((10.5, 9.5, 11.5), (-0.1, 1.1), Verdict.OPEN),
        ((9.5, 8.5, 10.5), (-0.9, -0.1), Verdict.WORSE),
        ((8.0, 7.0, 8.5), (-3.0, -1.0), Verdict.WORSE),
    ],
)
def test_verdicts(theirs: tuple[float, float, float], difference: tuple[float, float], verdict: Verdict) -> None:
    scores = Scores(cards=(card({"mine": (10.0, 9.0, 11.0), "theirs": theirs}, {"theirs": difference}),))
    assert scores.verdict("theirs", Z500, 24) is verdict
    found = compare(scores, "theirs", [Z500], [24])
    assert (found.ahead, found.behind) == (
        int(verdict in (Verdict.BETTER, Verdict.PAIRED)), int(verdict is Verdict.WORSE),
    )  # fmt: skip


def test_intervals_hold_those_of_every_seed_so_one_bad_seed_undoes_a_verdict() -> None:
    good = card({"mine": (10.0, 9.0, 11.0), "theirs": (13.0, 12.0, 14.0)}, {"theirs": (2.0, 4.0)})
    bad = card({"mine": (12.0, 11.0, 13.0), "theirs": (13.0, 12.5, 14.0)}, {"theirs": (-0.5, 2.0)})
    assert Scores(cards=(good,)).verdict("theirs", Z500, 24) is Verdict.BETTER
    both = Scores(cards=(good, bad))
    assert both.rmse("mine", Z500, 24) == 11.0
    assert both.interval("mine", Z500, 24) == (9.0, 13.0)
    assert both.difference("theirs", Z500, 24) == (-4.0, 0.5)
    assert both.verdict("theirs", Z500, 24) is Verdict.OPEN
    assert both.cell("mine", Z500, 24) == "**11.00** [9.000, 13.00]"
    assert both.ratio("mine", "theirs", [Z500], 24) == pytest.approx(11 / 13)


def test_words() -> None:
    assert [lead(h) for h in (6, 24, 36, 48, 240)] == ["6 h", "24 h", "36 h", "2 d", "10 d"]
    assert [listed(x) for x in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["none", "a", "a and b", "a, b and c"]
    assert [signed_percent(x) for x in (0.93, 1.004)] == ["−7.0 %", "+0.4 %"]


def test_an_unknown_question_is_refused_with_the_nearest() -> None:
    assert [q.name for q in chosen_questions("sources, headline")] == ["headline", "sources"]
    with pytest.raises(UserError, match=r"--steps: unknown question 'headlines'; did you mean headline\?"):
        chosen_questions("headlines")


SMALL = StudySize(
    name="small",
    corpora=None,
    sources=("JCM-A", "JCM-B"),
    source_numbers=(1, 2),
    train_period=("2001", "2003"),
    validation_period=("2004-01-01", "2004-01-05"),
    test_period=("2004-01-06", "2004-01-31"),
    amounts={"1/3": ("2003", "2003"), "1": ("2001", "2003")},
    few="1/3",
    seeds=(1, 2),
    few_seeds=(1,),
    lever_pretrain_steps=(7,),
    scratch_rates=(1e-3, 2e-3),
    finetune_rates=(1e-4, 2e-4),
    lead_hours=(24, 72),
    few_lead_hours=(24,),
    validation_lead_hours=(24,),
    variables=(Z500, "2m_temperature"),
    networks=(CLIMAX, VIT, RESNET),
    levers=(
        Lever(label="scaled", settings={"model.init": "scaled"}, optional=False),
        Lever(label="weights", settings={"data.lead_exponent": 1.0}),
    ),
    resamples=100,
)
QUESTIONS = [q.QUESTION for q in (levers, rates, headline, amount, sources, controls)]


@pytest.fixture(scope="module")
def study(
    tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path], make_checkpoint: Callable[..., Path]
) -> Study:
    """A study with real evaluations and choices of untrained networks on synthetic data."""
    made, data = Study(size=SMALL, folder=tmp_path_factory.mktemp("study")), make_dataset()
    checkpoints = [make_checkpoint(data, seed=seed) for seed in range(3)]
    records = StepRecords(made.folder)
    for step in with_needs([step for question in QUESTIONS for step in question.steps(made)]):
        records.begin(step)
        if step.name == "pack":
            made.dataset.symlink_to(data, target_is_directory=True)
        if step.name.startswith("evaluate/"):
            _evaluate(step, checkpoints)
        if step.name.startswith("select/"):
            select(step.words[1:])
        records.end(step, finished=True, seconds=60.0)
    return made


def _evaluate(step: Step, checkpoints: list[Path]) -> None:
    """The evaluation that the step asks for, with these checkpoints instead of its training runs."""
    words = [word.removeprefix("--").split("=", 1) for word in step.words[2:]]
    settings: dict[str, Any] = {key: yaml.safe_load(value) for key, value in words}
    labels = list(settings["models"])
    settings["models"] = {label: str(checkpoints[i % len(checkpoints)]) for i, label in enumerate(labels)}
    evaluate(EvaluateConfig(**settings))


def test_the_page_holds_what_the_evaluations_found(study: Study, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "results.md"
    write_results(study, QUESTIONS, page, tmp_path / "docs" / "results.json")
    text = page.read_text()
    for question in QUESTIONS:
        assert f"## {question.title}" in text
        image = tmp_path / "docs" / "images" / f"study_{question.name}.png"
        assert image.read_bytes().startswith(b"\x89PNG")
        assert f"(images/{image.name})" in text
    scores = Scores.load(headline.folders(study))
    others = ("ResNet (pretrained)", "ClimaX vit (from scratch)", "persistence", "climatology", "damped persistence")
    for label in (PRETRAINED, SCRATCH, *others):
        assert re.search(rf"\| {re.escape(label)} \| .*{re.escape(format_score(scores.rmse(label, Z500, 72)))}", text)
    assert not re.search(r"\bnan\b|[{}]", text)


def test_the_page_claims_what_the_verdicts_are(study: Study, tmp_path: Path) -> None:
    write_results(study, [headline.QUESTION], tmp_path / "results.md", tmp_path / "results.json")
    text = (tmp_path / "results.md").read_text()
    scores = Scores.load(headline.folders(study))
    for other in (SCRATCH, "persistence", "climatology", "damped persistence"):
        verdicts = [scores.verdict(other, v, 72) for v in SMALL.variables]
        line = next(line for line in text.splitlines() if line.startswith(f"- {other}: "))
        assert ("cases; intervals do not overlap**" in line) == all(v is Verdict.BETTER for v in verdicts)
        assert ("**not better in all" in line) == any(v in (Verdict.OPEN, Verdict.WORSE) for v in verdicts)
    assert "Where it is not better, and why" in text  # untrained networks are not better than damped persistence


def test_levers_and_rates_on_the_page_are_those_of_the_choices(study: Study, tmp_path: Path) -> None:
    lever_text, rate_text = (question.section(study).text for question in (levers.QUESTION, rates.QUESTION))
    chosen = read_choice(recipe(study).output)[OWN]["chosen"]
    assert f"**{chosen}** has the lowest score" in lever_text
    for label in ("scaled", "weights", "all", "all without weights", "all, pretrained 7 steps", "all, roll-out"):
        assert f"| {label} | " in lever_text
    assert f"| {AS_IS} | " not in lever_text
    assert rate_text.count("**") == 2 * 2 * len(SMALL.networks)  # a rate in bold per network, both ways
    for choice, tried in ((scratch_rates(study), SMALL.scratch_rates), (finetune_rates(study), SMALL.finetune_rates)):
        assert all(chosen_rate(choice, network) in tried for network in SMALL.networks)


def test_projections_are_judged_by_the_paired_intervals(tmp_path: Path) -> None:
    made = Study(size=SMALL, folder=tmp_path)
    labels, variables = [PRETRAINED, SCRATCH, "pattern scaling"], ["2m_temperature", "total_precipitation_rate"]
    better, open_, worse = {"interval": [0.5, 1.5]}, {"interval": [-0.5, 0.5]}, {"interval": [-1.5, -0.5]}
    step, of_scratch = projection.QUESTION.steps(made)
    content = {
        "variables": {v: {} for v in variables},
        "scores": {k: {v: {"total": 1.0 + i} for v in variables} for i, k in enumerate(labels)},
        "intervals": {k: {v: {"total": [0.8 + i, 1.2 + i]} for v in variables} for i, k in enumerate(labels)},
        "comparison": {"differences": {SCRATCH: dict.fromkeys(variables, better),
                                       "pattern scaling": dict(zip(variables, (better, open_), strict=True))}},
    }  # fmt: skip
    of_the_other = {PRETRAINED: dict.fromkeys(variables, worse),
                    "pattern scaling": dict.fromkeys(variables, open_)}  # fmt: skip
    for one, differences in ((step, content["comparison"]["differences"]), (of_scratch, of_the_other)):
        one.output.mkdir(parents=True)
        write_json(one.output / EVALUATION_FILE, content | {"comparison": {"differences": differences}})
    found = projection.QUESTION.section(made)
    assert f"against {SCRATCH}: better in 2 of 2 variables" in found.text
    assert "against pattern scaling: better in 1 of 2 variables" in found.text
    assert [(row.question, row.against, row.verdict) for row in projection.verdicts(made)] == [
        ("projection", SCRATCH, "ahead"), ("projection", SCRATCH, "ahead"), ("projection", "pattern scaling", "ahead"),
        ("projection", "pattern scaling", "open"), *[("projection from scratch", PRETRAINED, "lost")] * 2,
        *[("projection from scratch", "pattern scaling", "open")] * 2,
    ]  # fmt: skip
    assert {row.lead_hours for row in projection.verdicts(made)} == {None}
    assert f"| {PRETRAINED} | **1.000** [0.800, 1.200] | **1.000** [0.800, 1.200] |" in found.text
    assert [len(panel.patches) for panel in found.figure.axes] == [3, 3]
    assert [panel.patches[2].get_height() for panel in found.figure.axes] == [3.0, 3.0]


def test_downscaling_is_drawn_against_interpolation(tmp_path: Path) -> None:
    made = Study(size=SMALL, folder=tmp_path)
    values = {PRETRAINED: 1.0, SCRATCH: 2.0, "bilinear, bias-corrected": 4.0}
    steps = downscaling.QUESTION.steps(made)
    known = {k: {v: {"0": {"rmse": x}} for v in SMALL.variables} for k, x in values.items()}
    spread = {k: {v: {"0": {"rmse": [0.9 * x, 1.1 * x]}} for v in SMALL.variables} for k, x in values.items()}
    further = {"0": {"rmse": 1.0, "interval": [0.5, 1.5], "relative": 0.5}}
    differences = {k: dict.fromkeys(SMALL.variables, further) for k in values if k != PRETRAINED}
    other = json.loads(AN_EVALUATION.read_text())
    model, variable = (next(iter(other[key].values())) for key in ("models", "variables"))
    content = other | {
        "lead_hours": [0], "scores": known, "intervals": spread, "variables": dict.fromkeys(SMALL.variables, variable),
        "models": {PRETRAINED: model, SCRATCH: model}, "baselines": {"bilinear, bias-corrected": ""},
        "comparison": {"reference": PRETRAINED, "differences": differences},
    }  # fmt: skip
    lower = {"0": {"rmse": -1.0, "interval": [-1.5, -0.5], "relative": -0.5}}
    of_the_other = {k: dict.fromkeys(SMALL.variables, lower if k == PRETRAINED else further) for k in values}
    for one, against in zip(steps, ((PRETRAINED, differences), (SCRATCH, of_the_other)), strict=True):
        models = dict.fromkeys([against[0], PRETRAINED, SCRATCH], model)
        compared = {"reference": against[0], "differences": {k: v for k, v in against[1].items() if k != against[0]}}
        one.output.mkdir(parents=True)
        write_json(one.output / EVALUATION_FILE, content | {"models": models, "comparison": compared})
    found = downscaling.QUESTION.section(made)
    assert f"- against {SCRATCH}: better in 2 of 2 cases (paired intervals), worse in 0" in found.text
    rows = [row for row in downscaling.verdicts(made) if row.against == SCRATCH]
    assert [(row.verdict, row.lead_hours, row.ratio) for row in rows] == [("ahead", None, 0.5)] * 2
    rows = [row for row in downscaling.verdicts(made) if row.question == "downscaling from scratch"]
    assert [(row.verdict, row.ratio) for row in rows if row.against == PRETRAINED] == [("lost", 2.0)] * 2
    assert f"| {PRETRAINED} | **1.000** [0.9000, 1.100] |" in found.text
    assert [bar.get_height() for bar in found.figure.axes[0].patches] == [0.25, 0.5, 1.0]


def test_a_missing_evaluation_is_refused(tmp_path: Path, study: Study) -> None:
    elsewhere = Study(size=SMALL, folder=tmp_path)
    elsewhere.dataset.symlink_to(study.dataset)
    with pytest.raises(UserError, match=r"evaluation\.json"):
        write_results(elsewhere, [headline.QUESTION], tmp_path / "results.md", tmp_path / "results.json")
