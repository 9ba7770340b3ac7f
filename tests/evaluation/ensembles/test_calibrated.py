"""Calibrated ensembles in `climax-hpc evaluate`: what is written and refused, and that ranks do not matter."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from climax_hpc.config.ensembles import EnsembleScoresConfig
from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.config.parser import to_dict
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sample
from climax_hpc.errors import UserError
from climax_hpc.evaluation.baselines.base import ChannelReader, valid_times
from climax_hpc.evaluation.ensembles.base import EnsembleModel
from climax_hpc.evaluation.ensembles.calibrated import CalibratedEnsemble
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.evaluation.output import read_evaluation
from climax_hpc.fields.grid import latitude_weights

from ...synthetic import with_vivid_members

NAMES = ("geopotential_500", "2m_temperature")
Z500, T2M = NAMES
LABEL = "calibrated noisy"
PAST = [Sample(time_index=t, lead_steps=4) for t in range(0, 40, 2)]
LATER = [Sample(time_index=150, lead_steps=4), Sample(time_index=161, lead_steps=4)]


class NearTheTruth(EnsembleModel):
    """The truth plus a bias and noise that depends on the sample; counts what it forecasts."""

    kind, description, variables, members = "network", "near the truth", NAMES, 3

    def __init__(self, source: PackedSource) -> None:
        self._reader, self.forecasts = ChannelReader(source, NAMES), 0

    def forecast_members(self, samples: Sequence[Sample]) -> Tensor:
        self.forecasts += len(samples)
        found = []
        for sample, truth in zip(samples, self._reader.fields(valid_times(samples)), strict=True):
            generator = torch.Generator().manual_seed(sample.time_index)
            common, own = (torch.randn(n, 2, 8, 16, generator=generator) for n in (1, 3))
            found.append(truth + 0.5 + 0.4 * common + 0.1 * own)
        return torch.stack(found)


def calibrated(source: PackedSource, batch_size: int = 8) -> tuple[CalibratedEnsemble, NearTheTruth]:
    given = NearTheTruth(source)
    found = CalibratedEnsemble(
        given, ChannelReader(source, NAMES), {4: PAST}, latitude_weights(source.grid), label="it", period="2001",
        batch_size=batch_size,
    )  # fmt: skip
    return found, given


def test_batches_change_no_bit_and_each_lead_time_is_fitted_once(source: PackedSource) -> None:
    (one, given), (other, _) = calibrated(source), calibrated(source, batch_size=100)
    expected = one.forecast_members(LATER)
    assert given.forecasts == len(PAST) + len(LATER)
    for sample, members in zip(LATER, expected, strict=True):
        assert torch.equal(other.forecast_members([sample])[0], members)
    assert given.forecasts == len(PAST) + len(LATER)
    beside = one.members_beside({"it": given.forecast_members(LATER)}, LATER)
    assert torch.equal(beside, expected)
    assert given.forecasts == len(PAST) + 2 * len(LATER)  # by this test, not for the calibrated ensemble


def test_the_bias_goes_and_the_spread_grows(source: PackedSource) -> None:
    found, given = calibrated(source)
    truth = ChannelReader(source, NAMES).fields(valid_times(LATER))
    before, after = given.forecast_members(LATER), found.forecast_members(LATER)
    assert abs(float((before.mean(dim=1) - truth).mean()) - 0.5) < 0.1
    assert abs(float((after.mean(dim=1) - truth).mean())) < 0.1
    # The error of the mean has the variance 0.4² + 0.1²/3, so s² = 3/4 (16 + 1/3).
    grown = (after - after.mean(dim=1, keepdim=True)) / (before - before.mean(dim=1, keepdim=True))
    torch.testing.assert_close(grown.median(), torch.tensor(3.5), rtol=0.05, atol=0)


@pytest.fixture(scope="module")
def shared(
    dataset: Path, make_evaluation: Callable[..., EvaluateConfig], make_checkpoint: Callable[..., Path]
) -> EvaluateConfig:
    """A network whose members differ, and a deterministic one."""
    config = make_evaluation(
        dataset, map_lead_hours=24, resamples=100, lead_hours=(24, 72), spectra=False, start_every_hours=24
    )
    noisy = str(with_vivid_members(make_checkpoint(dataset, noise_dim=3)))
    return replace(
        config,
        models={"noisy": noisy, "anomaly": config.models["anomaly"]},
        members=3,
        ensembles=EnsembleScoresConfig(
            baselines=["dressed", "calibrated"], baseline_members=4, window_days=3, percentiles=()
        ),
    )


@pytest.fixture(scope="module")
def written(shared: EvaluateConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate(replace(shared, run_folder=str(tmp_path_factory.mktemp("run") / "evaluation"))).parent


def test_what_is_written(written: Path) -> None:
    content = read_evaluation(written)
    assert {label: one["kind"] for label, one in content["ensembles"].items()} == {
        "noisy": "network", "dressed anomaly": "dressed", LABEL: "calibrated",
    }  # fmt: skip
    about = content["ensembles"][LABEL]
    assert about["members"] == 3
    assert "noisy without its bias in each cell" in about["description"]
    assert "forecasts of each lead time in 2001 … 2003" in about["description"]
    for variable in NAMES:
        for lead in ("24", "72"):
            of_network, found = (content["ensemble_scores"][label][variable][lead] for label in ("noisy", LABEL))
            assert abs(found["spread_skill"] - 1) < min(0.3, abs(of_network["spread_skill"] - 1))
            assert found["fair_crps"] < of_network["fair_crps"]
            assert content["scores"][LABEL][variable][lead]["rmse"] == pytest.approx(found["rmse"])
            low, high = content["ensemble_intervals"][LABEL][variable][lead]["fair_crps"]
            assert low <= found["fair_crps"] <= high
            pair = content["ensemble_comparison"]["dressed anomaly"][LABEL][variable][lead]["fair_crps"]
            assert pair["interval"][0] <= pair["difference"] <= pair["interval"][1]


def test_batches_do_not_matter(shared: EvaluateConfig, written: Path, tmp_path: Path) -> None:
    other = evaluate(replace(shared, run_folder=str(tmp_path / "e"), batch_size=7, threads=2))
    one, two = read_evaluation(written), read_evaluation(other.parent)
    for lead in ("24", "72"):  # float32 forecasts of batches of other sizes differ in the last bits
        a, b = (x["ensemble_scores"][LABEL][T2M][lead] for x in (one, two))
        assert b == pytest.approx(a, rel=1e-3, abs=1e-6)


def test_other_seasons_than_those_of_the_errors_are_named(
    shared: EvaluateConfig, written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Segments begin on 1 January; valid times of the test are 2 to 12 January."""
    assert not any(one["caveats"] for one in read_evaluation(written)["ensembles"].values())
    week = ("2003-01-02", "2003-01-08")
    half = replace(shared.ensembles, dressing_period=week, calibration_period=("2003", "2003"))
    config = replace(shared, run_folder=str(tmp_path / "e"), lead_hours=(24,), ensembles=half)
    found = read_evaluation(evaluate(config).parent)["ensembles"]
    (caveat,) = found["dressed anomaly"]["caveats"]
    assert caveat == (
        "'dressed anomaly' has its bias and spread from the calendar days 01-02 … 01-08: 4 of 11 valid times lie "
        "outside of them, such as 2004-01-09T00:00:00, where both may differ."
    )
    assert found[LABEL]["caveats"] == found["noisy"]["caveats"] == []
    assert f"evaluate: warning: {caveat}" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"calibration_period": ("2004", "2004")},
            r"ensembles.calibration_period overlaps period: errors of the test ",
        ),
        (
            {"dressing_period": ("2003", "2004"), "baselines": ["calibrated"], "baseline_members": None},
            r"ensembles.calibration_period overlaps",
        ),
        (
            {"calibration_period": ("2001-01-01", "2001-01-08")},
            r"ensembles.calibration_period: 7 forecasts at 24 h are",
        ),
    ],
)
def test_bad_periods_are_refused(shared: EvaluateConfig, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    config = replace(shared, run_folder=str(tmp_path / "e"), ensembles=replace(shared.ensembles, **changes))
    with pytest.raises(UserError, match=message):
        evaluate(config)
    assert not (tmp_path / "e").exists()


def test_the_training_period_is_named_where_it_is_the_default(shared: EvaluateConfig, tmp_path: Path) -> None:
    config = replace(shared, run_folder=str(tmp_path / "e"), train_period=("2001", "2004"))
    config = replace(config, ensembles=replace(shared.ensembles, baselines=["calibrated"], baseline_members=None))
    with pytest.raises(UserError, match=r"train_period, which is ensembles.calibration_period where that is null"):
        evaluate(config)


def test_without_members_there_is_nothing_to_calibrate(shared: EvaluateConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ensembles.baselines: nothing has members that could be calibrated: set memb"):
        evaluate(replace(shared, run_folder=str(tmp_path / "e"), members=1))
    with pytest.raises(UserError, match=r"ensembles.calibration_forecasts must be at least 10"):
        EnsembleScoresConfig(calibration_forecasts=9)


@pytest.mark.parametrize("number", [0, 9])
def test_a_variable_that_hardly_ever_has_a_truth_is_refused(source: PackedSource, number: int) -> None:
    known = valid_times(PAST)[:number]

    class WithoutTruth(ChannelReader):
        def fields(self, time_indices: Sequence[int]) -> Tensor:
            found = super().fields(time_indices)
            found[[t not in known for t in time_indices], 1] = torch.nan
            return found

    found = CalibratedEnsemble(
        NearTheTruth(source), WithoutTruth(source, NAMES), {4: PAST}, latitude_weights(source.grid), label="it",
        period="2001", batch_size=8,
    )  # fmt: skip
    message = rf"calibration_period: {number} forecasts of 2m_temperature in 2001 have a truth, too few to calibrate on"
    with pytest.raises(UserError, match=message):
        found.forecast_members(LATER)


@pytest.mark.slow
def test_ranks_do_not_matter(shared: EvaluateConfig, written: Path, tmp_path: Path) -> None:
    """Two ranks share the lead times: the same bits."""
    settings = to_dict(replace(shared, run_folder=str(tmp_path / "two")))
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(settings))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = ["-m", "climax_hpc", "evaluate", "--config", str(tmp_path / "two.yaml")]
    done = subprocess.run([*launcher, *words], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    alone, two = read_evaluation(written), read_evaluation(tmp_path / "two")
    for key in (key for key in alone if key.startswith("ensemble")):
        assert two[key] == alone[key], key
