"""`climax-hpc evaluate` with ensembles, end to end on a small data set: what is written, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from climax_hpc.config.ensembles import EnsembleScoresConfig
from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.config.parser import to_dict
from climax_hpc.errors import UserError
from climax_hpc.evaluation.ensembles.build import check_settings_are_used
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.evaluation.output import read_evaluation
from climax_hpc.evaluation.scorecard import Scorecard

from ...synthetic import with_vivid_members
from ...training.processes import run_commands

Z500, T2M = "geopotential_500", "2m_temperature"
CLIMATOLOGY, DRESSED, PERTURBED = "climatological ensemble", "dressed anomaly", "perturbed anomaly"
ALL = EnsembleScoresConfig(
    baselines=["climatology", "dressed", "perturbed"], baseline_members=4, forecasts=["anomaly"], window_days=3
)


@pytest.fixture(scope="module")
def shared(make_dataset: Callable[..., Path], make_evaluation: Callable[..., EvaluateConfig]) -> EvaluateConfig:
    config = make_evaluation(
        make_dataset(), map_lead_hours=48, resamples=100, lead_hours=(24, 72), spectra=False, start_every_hours=24
    )
    checkpoints = {"both": [str(path) for path in config.models.values()]}
    return replace(config, ensembles=replace(ALL, checkpoints=checkpoints))


@pytest.fixture(scope="module")
def written(shared: EvaluateConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate(replace(shared, run_folder=str(tmp_path_factory.mktemp("run") / "evaluation"))).parent


def test_what_is_written_is_read_again(written: Path, shared: EvaluateConfig) -> None:
    content = read_evaluation(written)
    labels = ["both", CLIMATOLOGY, DRESSED, PERTURBED]
    assert list(content["ensembles"]) == labels
    assert [content["ensembles"][label]["members"] for label in labels] == [2, 4, 4, 4]
    assert content["ensembles"]["both"]["checkpoints"].keys() == set(shared.models.values())
    assert list(content["models"]) == ["anomaly", "full"]
    for label in labels:
        for lead in ("24", "72"):
            values, ends = (content[f"ensemble_{what}"][label][Z500][lead] for what in ("scores", "intervals"))
            assert content["scores"][label][Z500][lead]["rmse"] == pytest.approx(values["rmse"])
            assert ends["crps"][0] <= values["crps"] <= ends["crps"][1]
            assert 0 < values["fair_crps"] < values["crps"]
            ranks = content["rank_histograms"][label][Z500][lead]
            assert sum(ranks["frequency"]) == pytest.approx(1)
            assert values["outliers"] == pytest.approx(ranks["frequency"][0] + ranks["frequency"][-1])
            diagram = content["reliability"][label][Z500][lead]["95"]
            assert sum(diagram["forecasts"]) == pytest.approx(1)
            seen = sum(f * (o or 0) for f, o in zip(diagram["forecasts"], diagram["observed"], strict=True))
            assert seen == pytest.approx(diagram["base_rate"])
    assert content["energy_scores"][DRESSED]["scores"]["24"]["energy_score"] > 0


def test_comparisons_are_differences_of_what_is_listed(written: Path) -> None:
    content = read_evaluation(written)
    compared, scores = content["ensemble_comparison"], content["ensemble_scores"]
    assert set(compared) == {CLIMATOLOGY, DRESSED, PERTURBED, "anomaly", "full", "damped persistence"}
    of_dressed = compared[CLIMATOLOGY][DRESSED][T2M]["24"]["fair_crps"]
    mine, other = (scores[label][T2M]["24"]["fair_crps"] for label in (DRESSED, CLIMATOLOGY))
    assert of_dressed["difference"] == pytest.approx(mine - other)
    assert of_dressed["relative"] == pytest.approx((mine - other) / other)
    single = content["scores"]["anomaly"][T2M]["24"]  # the CRPS of a deterministic forecast is its MAE
    for name, same in (("crps", "mae"), ("fair_crps", "mae"), ("unbiased_rmse", "rmse")):
        found = compared["anomaly"][DRESSED][T2M]["24"][name]
        assert found["difference"] == pytest.approx(scores[DRESSED][T2M]["24"][name] - single[same])
        assert found["interval"][0] <= found["difference"] <= found["interval"][1]
    energy = content["energy_scores"][DRESSED]["comparison"]["anomaly"]["24"]["energy_score"]
    assert energy["difference"] < 0


def test_the_other_scores_are_those_without_ensembles(
    written: Path, shared: EvaluateConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = evaluate(replace(shared, run_folder=str(tmp_path / "e"), ensembles=EnsembleScoresConfig()))
    content, with_ensembles = json.loads(plain.read_text()), read_evaluation(written)
    assert "ensembles" not in content
    assert "fair CRPS" not in capsys.readouterr().out
    for label in ("anomaly", "full", "persistence"):
        for lead in ("24", "72"):  # batches of other sizes
            assert with_ensembles["scores"][label][Z500][lead] == pytest.approx(
                content["scores"][label][Z500][lead], rel=1e-4
            )


def test_the_table_on_the_terminal(written: Path, shared: EvaluateConfig, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(replace(shared, run_folder=str(written)))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("fair CRPS, spread/skill of ensembles (members of both: 2, ") for line in lines)
    assert "Z500 fair CRPS [m² s⁻²]" in lines
    row = lines[lines.index("Z500 spread/skill") + 1]
    assert row.startswith("both ")
    assert len(row.split()) == 3
    assert Scorecard.load(written).models == ["anomaly", "full"]


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_do_not_matter(shared: EvaluateConfig, written: Path, tmp_path: Path, threads: int) -> None:
    other = evaluate(replace(shared, run_folder=str(tmp_path / "e"), batch_size=7, threads=threads))
    one, two = read_evaluation(written), read_evaluation(other.parent)
    for label in (CLIMATOLOGY, DRESSED, PERTURBED, "both"):
        for lead in ("24", "72"):  # float32 forecasts of batches of other sizes differ in the last bits
            a, b = (x["ensemble_scores"][label][T2M][lead] for x in (one, two))
            assert b == pytest.approx(a, rel=1e-3, abs=1e-6)
    for lead in ("24", "72"):  # no network has a part in it
        a, b = (x["ensemble_scores"][CLIMATOLOGY][T2M][lead] for x in (one, two))
        assert a == b


@pytest.fixture
def noisy(shared: EvaluateConfig, make_checkpoint: Callable[..., Path]) -> str:
    """A checkpoint with noise whose members differ."""
    folder = make_checkpoint(Path(shared.dataset), noise_dim=3)
    return str(with_vivid_members(folder))


def test_a_network_with_members(shared: EvaluateConfig, noisy: str, tmp_path: Path) -> None:
    """Its label is among the models, and climatology and the deterministic model's dressed forecast come with it."""
    models = {"noisy": noisy, "anomaly": shared.models["anomaly"]}
    config = replace(shared, models=models, members=3, lead_hours=(24,), resamples=0)
    config = replace(config, ensembles=EnsembleScoresConfig(window_days=3, percentiles=()))
    content = read_evaluation(evaluate(replace(config, run_folder=str(tmp_path / "e"))).parent)
    assert list(content["ensembles"]) == ["noisy", CLIMATOLOGY, DRESSED]
    assert [one["members"] for one in content["ensembles"].values()] == [3, 3, 3]
    assert content["ensembles"]["noisy"]["kind"] == "network"
    values = content["ensemble_scores"]["noisy"][Z500]["24"]
    assert values["spread"] > 0
    assert content["scores"]["noisy"][Z500]["24"]["rmse"] == pytest.approx(values["rmse"])
    for absent in ("ensemble_intervals", "ensemble_comparison", "reliability"):
        assert absent not in content
    one = replace(config, members=1, run_folder=str(tmp_path / "one"))
    assert "ensembles" not in read_evaluation(evaluate(one).parent)


def test_members_without_noise_are_refused(shared: EvaluateConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"members = 3: none of the models has noise \(model.noise_dim is 0\)"):
        evaluate(replace(shared, run_folder=str(tmp_path / "e"), members=3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forecasts": ["anomly"]}, r"ensembles.forecasts: 'anomly' is no label; did you mean anomaly\?; there are"),
        ({"forecasts": []}, r"ensembles.baselines: dressed: no forecast is to be dressed; name one in"),
        ({"forecasts": ["persistence"]}, r"ensembles.baselines: perturbed: no deterministic model is to be perturbed;"),
        ({"references": ["fall"]}, r"ensembles.references: 'fall' is no label; did you mean full\?"),
        ({"dressing_period": ("2004", "2004")}, r"ensembles.dressing_period overlaps period: errors of the test"),
        ({"baseline_members": 40}, r"ensemble of 40 members has only \d+ times of train_period near 2004-"),
        ({"dressing_errors": 3}, r"3 forecasts at 24 h are too few to dress 4 members"),
        ({"checkpoints": {"full": ["a", "b"]}}, r"ensembles.checkpoints: the label 'full' is that of a model"),
    ],
)
def test_bad_settings_are_refused(
    shared: EvaluateConfig, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if "checkpoints" in changes:
        changes = {"checkpoints": {"full": list(shared.models.values())}}
    config = replace(shared, run_folder=str(tmp_path / "e"), ensembles=replace(ALL, **changes))
    with pytest.raises(UserError, match=message):
        evaluate(config)
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("baselines", "changes", "message"),
    [
        (
            None,
            {"forecasts": ["full"]},
            r"forecasts: nothing that is scored uses it: add dressed or perturbed to ensem",
        ),
        (
            ["climatology"],
            {"dressing_period": ("2003", "2003")},
            r"dressing_period: .* add dressed or calibrated to en",
        ),
        (
            ["calibrated"],
            {"dressing_period": ("2003", "2003"), "calibration_period": ("2002", "2002")},
            r"dressing_period: nothing that is scored uses it: add dressed to ensembles.baselines, or leave dressing_p",
        ),
        (
            None,
            {"seed": 3},
            r"seed: nothing .* add climatology or dressed or perturbed to ensembles.baselines, or leave",
        ),
        (["calibrated"], {"seed": 3}, r"seed: nothing that is scored uses it"),
        (["dressed"], {"perturbation": 0.2}, r"perturbation: nothing that is scored uses it: add perturbed to ensemb"),
        (["dressed"], {"calibration_period": ("2003", "2003")}, r"calibration_period: .*: add calibrated to ensembles"),
    ],
)
def test_settings_that_nothing_uses_are_refused(
    shared: EvaluateConfig, tmp_path: Path, baselines: Any, changes: dict[str, Any], message: str
) -> None:
    ensembles = EnsembleScoresConfig(baselines=baselines, **changes)
    with pytest.raises(UserError, match=rf"^ensembles\.{message}"):
        evaluate(replace(shared, run_folder=str(tmp_path / "e"), ensembles=ensembles))
    assert not (tmp_path / "e").exists()


def test_settings_are_used_where_the_defaults_use_them(shared: EvaluateConfig) -> None:
    """Dressed forecasts come with checkpoints; networks with noise use the seed, and calibrations the period."""
    check_settings_are_used(replace(shared, ensembles=replace(ALL, perturbation=0.2, seed=3)), noise=False)
    some = EnsembleScoresConfig(checkpoints={"both": ["a", "b"]}, seed=3, dressing_period=("2003", "2003"))
    check_settings_are_used(replace(shared, ensembles=some), noise=False)
    check_settings_are_used(replace(shared, ensembles=EnsembleScoresConfig(seed=3)), noise=True)
    calibrated = EnsembleScoresConfig(baselines=["calibrated"], dressing_period=("2003", "2003"))
    check_settings_are_used(replace(shared, ensembles=calibrated), noise=False)
    with pytest.raises(UserError, match=r"^ensembles\.dressing_period: nothing that is scored uses it"):
        check_settings_are_used(replace(shared, ensembles=replace(some, checkpoints={}, seed=0)), noise=True)


def test_an_unknown_reference_is_refused(shared: EvaluateConfig, tmp_path: Path) -> None:
    config = replace(shared, run_folder=str(tmp_path / "e"), reference="dressed anomoly")
    with pytest.raises(UserError, match=r"reference: 'dressed anomoly' is no label; did you mean dressed anomaly\?"):
        evaluate(config)


def test_an_ensemble_may_be_the_reference(shared: EvaluateConfig, tmp_path: Path) -> None:
    config = replace(shared, run_folder=str(tmp_path / "e"), reference=DRESSED)
    content = read_evaluation(evaluate(config).parent)
    assert content["comparison"]["reference"] == DRESSED
    assert content["comparison"]["differences"]["anomaly"][Z500]["24"]["rmse"] == pytest.approx(
        content["scores"]["anomaly"][Z500]["24"]["rmse"] - content["scores"][DRESSED][Z500]["24"]["rmse"]
    )


def test_missing_cells_are_left_out_for_all(
    make_dataset: Callable[..., Path], make_evaluation: Callable[..., EvaluateConfig], tmp_path: Path
) -> None:
    missing = np.zeros((8, 16), bool)
    missing[:3, 2:9] = True
    config = make_evaluation(
        make_dataset(missing={T2M: missing}), lead_hours=(24,), map_lead_hours=24, resamples=0, ensembles=ALL
    )
    content = read_evaluation(evaluate(replace(config, run_folder=str(tmp_path / "e"))).parent)
    for label in (CLIMATOLOGY, DRESSED, PERTURBED):
        values = content["ensemble_scores"][label][T2M]["24"]
        assert all(value is not None for value in values.values())
        assert content["energy_scores"][label]["scores"]["24"]["energy_score"] > 0


@pytest.mark.slow
def test_ranks_do_not_matter(shared: EvaluateConfig, written: Path, noisy: str, tmp_path: Path) -> None:
    """Two ranks that share out the forecasts have the same bits; two that make each together, the same scores."""
    config = replace(shared, models={**shared.models, "noisy": noisy}, members=3)
    alone = read_evaluation(evaluate(replace(config, run_folder=str(tmp_path / "alone"))).parent)
    runs = []
    for name, sequence_parallel in (("apart", 1), ("together", 2)):
        settings = to_dict(replace(config, run_folder=str(tmp_path / name), sequence_parallel=sequence_parallel))
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(settings))
        runs.append(["evaluate", "--config", str(tmp_path / f"{name}.yaml")])
    statuses, _, errors = run_commands(*runs, ranks=2, folder=tmp_path)
    assert statuses == [0, 0], errors[-2000:]
    apart, together = (read_evaluation(tmp_path / name) for name in ("apart", "together"))
    keys = [key for key in alone if key.startswith("ensemble")] + ["rank_histograms", "reliability", "energy_scores"]
    assert len(keys) == 8
    for key in keys:
        assert apart[key] == alone[key], key
    for label, scores in alone["ensemble_scores"].items():
        for lead, values in scores[Z500].items():
            assert together["ensemble_scores"][label][Z500][lead] == pytest.approx(values, rel=1e-3, abs=1e-5)
