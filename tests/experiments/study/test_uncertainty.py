"""The study's ensembles: which targets are met follows from the scores, whatever they are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.experiments.study import uncertainty
from climax_hpc.experiments.study.commands import Study
from climax_hpc.experiments.study.ensemble_scores import ScoresOfEnsembles
from climax_hpc.experiments.study.sizes import FULL, QUICK
from climax_hpc.experiments.study.uncertainty import (
    CALIBRATED,
    CALIBRATED_TWO,
    CLIMATOLOGICAL,
    DETERMINISTIC,
    DRESSED,
    DRESSED_LONGER,
    ENSEMBLE,
    LONGER,
    TWO,
)

Z500 = "geopotential_500"
LEADS = ("24", "96")


def content(*, crps: float, spread: float, rmse: float, truth: bool = False) -> dict[str, Any]:
    """An evaluation in which the error of the deterministic forecast is 10, CRPS of the dressed 7, its RMSE 14.

    The dressed forecast of the network that was trained longer has a CRPS of 6.5.
    Calibrated, all scores of the ensemble are 0.9 of what they are without, of two networks 0.8.
    """
    factors = {ENSEMBLE: 1.0, CALIBRATED: 0.9, TWO: 1.0, CALIBRATED_TWO: 0.8}
    others = {DRESSED: 7.0, DRESSED_LONGER: 6.5, CLIMATOLOGICAL: 20.0}
    labels = {label: crps * factor for label, factor in factors.items()} | others

    def table(values: dict[str, Any]) -> dict[str, Any]:
        return {Z500: dict.fromkeys(LEADS, values)}

    def against(**others: float) -> dict[str, Any]:
        own = {label: {"fair_crps": crps * f, "unbiased_rmse": rmse * f} for label, f in factors.items()}
        found = {}
        for label, values in (own | {DRESSED_LONGER: {"fair_crps": 6.5, "unbiased_rmse": 14.0}}).items():
            changes = {name: values[name] - others[name] for name in others}
            found[label] = table(
                {
                    name: {"difference": d, "interval": [d - 0.1, d + 0.1], "relative": d / others[name]}
                    for name, d in changes.items()
                }
            )
        return found

    scored = {"fair_crps": [0.9, 1.1], "spread_skill": [0.9, 1.1]}
    found: dict[str, Any] = {
        "models": {ENSEMBLE: {}, DETERMINISTIC: {}, LONGER: {}},
        "baselines": {},
        "variables": [Z500],
        "lead_hours": [24, 96],
        "ensembles": {label: {"members": 8} for label in labels},
        "ensemble_scores": {k: table({"fair_crps": v, "spread_skill": spread}) for k, v in labels.items()},
        "ensemble_intervals": {
            k: table({n: [v * e for e in ends] for n, ends in scored.items()}) for k, v in labels.items()
        },
        "ensemble_comparison": {
            DRESSED: against(fair_crps=7.0),
            DRESSED_LONGER: against(fair_crps=6.5),
            DETERMINISTIC: against(fair_crps=10.0, unbiased_rmse=14.0),
        },
        "scores": {DETERMINISTIC: table({"rmse": 14.0, "mae": 10.0})},
    }  # fmt: skip
    if truth:
        scores = {"crps_difference": 1.0, "spread_skill": 1.5 * spread, "spread_ratio": 9.0}
        judged = (*factors, DRESSED)
        found["divergence"] = {
            "members": 6,
            "starts": dict.fromkeys(LEADS, 15),
            "scores": {k: table(scores) for k in judged},
            "intervals": {k: table({n: [v, v] for n, v in scores.items()}) for k in judged},
        }
    return found


def targets(study: Study, monkeypatch: pytest.MonkeyPatch, *, column: int = 1, **scores: Any) -> list[bool]:
    """Which of the four targets the page calls met by the ensemble; by it calibrated, in column 2; by two, in 3."""
    made = content(truth=study.true_ensemble is not None, **scores)
    monkeypatch.setattr(ScoresOfEnsembles, "load", classmethod(lambda cls, folders: cls(contents=(made,))))
    text = uncertainty.section(study).text
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if "met**: " in line or "not met: " in line]
    return [row[column].startswith("**met**") for row in rows]


@pytest.mark.parametrize(
    ("scores", "met"),
    [
        ({"crps": 6.0, "spread": 1.0, "rmse": 13.0}, [True, True, True, True]),
        ({"crps": 7.05, "spread": 1.0, "rmse": 13.0}, [False, True, True, True]),
        ({"crps": 9.5, "spread": 1.0, "rmse": 14.0}, [False, False, True, True]),
        ({"crps": 6.0, "spread": 0.7, "rmse": 14.5}, [True, True, False, False]),
    ],
)
def test_targets_are_judged_by_the_scores(
    scores: dict[str, float], met: list[bool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study = Study(size=replace(QUICK, variables=(Z500,)), folder=tmp_path)
    assert targets(study, monkeypatch, **scores) == met


def test_the_calibrated_ensemble_is_judged_by_scores_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study = Study(size=replace(QUICK, variables=(Z500,)), folder=tmp_path)
    scores = {"crps": 7.05, "spread": 1.0, "rmse": 14.5}
    assert targets(study, monkeypatch, **scores) == [False, True, True, False]
    assert targets(study, monkeypatch, column=2, **scores) == [True, True, True, True]
    assert targets(study, monkeypatch, column=2, **(scores | {"crps": 8.0})) == [False, True, True, True]
    assert targets(study, monkeypatch, column=3, **(scores | {"crps": 8.0})) == [True, True, True, True]


def test_with_an_ensemble_of_the_truth_the_spread_is_judged_against_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study = Study(size=replace(FULL, variables=(Z500,), ensemble_lead_hours=(24, 96)), folder=tmp_path)
    assert study.true_ensemble is not None
    assert targets(study, monkeypatch, crps=6.0, spread=1.0, rmse=13.0) == [True, True, False, True]
    assert targets(study, monkeypatch, crps=6.0, spread=0.7, rmse=13.0) == [True, True, True, True]


def test_what_the_further_steps_alone_give(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    study = Study(size=replace(QUICK, variables=(Z500,)), folder=tmp_path)
    made = content(crps=7.5, spread=1.0, rmse=13.0)  # 6.75 when calibrated, 6 with two networks
    monkeypatch.setattr(ScoresOfEnsembles, "load", classmethod(lambda cls, folders: cls(contents=(made,))))
    text = uncertainty.section(study).text
    lines = text[text.index("**What the further steps alone give.**") :].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if "by paired intervals" in line]
    assert [row[:2] for row in rows] == [
        [DRESSED_LONGER, DRESSED], [CALIBRATED, DRESSED_LONGER], [CALIBRATED_TWO, DRESSED_LONGER],
    ]  # fmt: skip
    assert rows[0][2].startswith("better in 2 of 2 cases")
    assert rows[1][2].startswith(
        "better in 0 of 2 cases by paired intervals, worse in 2; mean over the variables +3.8 %"
    )
    assert rows[2][2].startswith("better in 2 of 2 cases")


def test_two_networks_are_scored_in_an_evaluation_of_their_own(tmp_path: Path) -> None:
    own, together, *others = uncertainty.evaluations(Study(size=FULL, folder=tmp_path))
    assert len(others) == 2 * (len(FULL.ensemble_seeds) - 1)
    trained = {step.output.name for step in together.needs if "trainings" in str(step.output)}
    assert trained == {"deterministic-seed1", "ensemble-seed1", "ensemble-short-seed1", "longer-seed1"}
    assert "--members=8" in own.words
    assert "--members=4" in together.words
    for key in ("period", "start_every_hours", "lead_hours", "truth_members", "ensembles.dressing_period"):
        assert (
            [word for word in own.words if word.startswith(f"--{key}=")]
            == [word for word in together.words if word.startswith(f"--{key}=")]
            != []
        )


def test_joined_scores_are_those_of_either_evaluation() -> None:
    first, second = (
        ScoresOfEnsembles(contents=(content(crps=crps, spread=1.0, rmse=14.0, truth=True),)) for crps in (5.0, 6.0)
    )
    joined = first.with_labels_of(second, (TWO,))
    assert joined.value(ENSEMBLE, Z500, 24) == 5.0
    assert joined.value(TWO, Z500, 24) == 6.0
    assert joined.paired(TWO, DRESSED, Z500, 24).relative == pytest.approx(-1 / 7)
    assert joined.paired(ENSEMBLE, DRESSED, Z500, 24).relative == pytest.approx(-2 / 7)
    assert first.value(TWO, Z500, 24) == 5.0  # unchanged


def test_all_forms_of_the_network_have_the_same_data_and_three_start_from_the_first(tmp_path: Path) -> None:
    study = Study(size=FULL, folder=tmp_path)
    steps = uncertainty.trainings(study, 1)
    first, own = steps[DETERMINISTIC], set()
    for step in (steps[ENSEMBLE], uncertainty.short(study, 1), steps[LONGER]):
        assert first in step.needs
        assert f"--checkpoint={first.output}" in step.words
        own |= {w for w in step.words if w.startswith("--data.")} - set(first.words)
        assert not any("2005" in word or "2006" in word for word in (*first.words, *step.words))
    assert own == {"--data.lead_exponent=4.0"}
    keys = {w.partition("=")[0] for w in {*steps[ENSEMBLE].words} ^ {*steps[LONGER].words}}
    assert keys == {"--run_folder", "--model.noise_dim", "--train.members"}
