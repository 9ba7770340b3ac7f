"""`evaluate` against an ensemble of the truth: which starts, the same sums as by hand, and refusals."""

import io
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.sampler import Sample
from climax_hpc.errors import UserError
from climax_hpc.evaluation.divergence import DIVERGENCE
from climax_hpc.evaluation.divergence_table import numbered
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.evaluation.true_ensemble import TrueEnsemble, choose_members, times_of_starts
from climax_hpc.fields.grid import latitude_weights
from climax_hpc.inference.forecaster import Forecaster
from climax_hpc.utils.files import read_json

CONTROL = "JCM-C_synthetic_r1i1p1f1"
MEMBERS = [f"JCM-C_synthetic_r{number}i2p1f1" for number in (1, 2, 3)]
T2M = "2m_temperature"
START = 8  # steps after 1 January: the members begin one step later
YEARS = ("2003", "2004")


@pytest.fixture(scope="module")
def dataset(make_dataset: Callable[..., Path]) -> Path:
    """The control."""
    return make_dataset()


@pytest.fixture(scope="module")
def ensemble(make_dataset: Callable[..., Path]) -> Path:
    """Three members that start on 3 January of 2003 and 2004 and are 24 h long."""
    own = {"first_year": 2003, "years": 2, "steps_per_year": 4, "offset_hours": 6.0 * (START + 1)}
    own |= {"train_period": YEARS, "climatology": False, "shards_per_segment": 1}
    return make_dataset(sources_of(own), seed=1)


def sources_of(own: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict.fromkeys(MEMBERS, own)


@pytest.fixture
def config(
    dataset: Path, ensemble: Path, make_evaluation: Callable[..., EvaluateConfig], tmp_path: Path
) -> EvaluateConfig:
    made = make_evaluation(
        dataset, lead_hours=(6, 24), map_lead_hours=24, resamples=100, period=YEARS, train_period=("2001", "2002"),
        truth_members=["*i2p1f1"], truth_dataset=str(ensemble),
    )  # fmt: skip
    return replace(made, source=CONTROL, run_folder=str(tmp_path / "evaluation"), spectra=False)


def test_a_member_begins_one_step_after_its_start(dataset: Path, ensemble: Path) -> None:
    control, members = DataSet(dataset).sources[CONTROL], choose_members(str(ensemble), MEMBERS)
    starts = [float(control.hours[index]) for index in (96 + START, 144 + START)]
    assert times_of_starts(members[0], members[0].segments) == {
        (start, 6.0 * (step + 1)): 4 * number + step for number, start in enumerate(starts) for step in range(4)
    }
    truth = TrueEnsemble(members, control, [T2M])
    assert len(truth) == 3
    assert truth.has(starts[1], 24.0)
    assert not truth.has(starts[1], 30.0)
    assert not truth.has(starts[1] + 6, 6.0)
    c = control.channels.index(T2M)
    found = truth.fields([(starts[1], 12.0)])[0, 2, 0] + control.mean_C[c]
    physical = members[2].read(5)[c] * members[2].std_C[c] + members[2].mean_C[c]
    np.testing.assert_allclose(found, physical, rtol=1e-6)


def with_gap(folder: Path, target: Path, names: Sequence[str], year: str) -> Path:
    """A copy of an ensemble of one shard a step, in which these members lack the second step of the run of a year."""
    shutil.copytree(folder, target)
    content = json.loads((target / "manifest.json").read_text())
    for name in names:
        shards = content["sources"][name]["shards"]
        run = [shard for shard in shards if shard["first"].startswith(year)]
        shards.remove(run[1])
        for shard in shards:
            shard["segment"] = 2 * shard["segment"] + (shard in run[2:])
    (target / "manifest.json").write_text(json.dumps(content))
    return target


@pytest.mark.parametrize("names", [MEMBERS[1:2], MEMBERS])
def test_the_rest_of_a_run_after_a_gap_is_no_start(
    config: EvaluateConfig, make_dataset: Callable[..., Path], tmp_path: Path, names: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Forecasts of 6 h from 12 h after the start would otherwise be compared with members at 18 h."""
    own = {"first_year": 2003, "years": 2, "steps_per_year": 4, "offset_hours": 6.0 * (START + 1)}
    whole = make_dataset(sources_of(own | {"climatology": False, "shards_per_segment": 4}), seed=1)
    broken = with_gap(whole, tmp_path / "broken", names, "2003")
    control, members = DataSet(config.dataset).sources[CONTROL], choose_members(str(broken), MEMBERS)
    start = float(control.hours[96 + START])
    truth = TrueEnsemble(members, control, [T2M])
    held = [truth.has(start, 6.0 * step) for step in (1, 2, 3, 4)]
    assert held == [True, False, False, False]  # the lead times after the gap belong to no start
    assert not truth.has(start + 12, 6.0)
    assert truth.has(float(control.hours[144 + START]), 24.0)
    content = read_json(evaluate(replace(config, truth_dataset=str(broken))), "an evaluation")["divergence"]
    assert content["starts"] == {"6": 2, "24": 1}
    assert content["left_out"] == [f"{name} from 2003-01-03T18:00:00" for name in names]
    assert (
        f"evaluate: truth_members: {len(names)} segments begin within 24 h, the length of a run, after the start of "
        "another: they are its rest after a gap, and are left out (JCM-C_synthetic_r"
    ) in capsys.readouterr().out


def test_the_divergence_is_that_of_the_forecasts_at_those_starts(config: EvaluateConfig) -> None:
    printed = io.StringIO()
    with redirect_stdout(printed):
        content: dict[str, Any] = dict(read_json(evaluate(config), "an evaluation"))
    found = content["divergence"]
    assert (found["members"], found["sources"], found["starts"]) == (3, MEMBERS, {"6": 2, "24": 2})
    assert found["scores"].keys() == found["intervals"].keys() == content["scores"].keys()
    control, members = DataSet(config.dataset).sources[CONTROL], choose_members(str(config.truth_dataset), MEMBERS)
    c = control.channels.index(T2M)
    weight_H = latitude_weights(control.grid)[:, None]
    weight_H = weight_H / (weight_H.sum() * control.grid.shape[1])
    apart, own = [], []
    for year, index in enumerate((96 + START, 144 + START)):
        true = [one.read(4 * year + 3)[c].astype(float) * one.std_C[c] + one.mean_C[c] for one in members]
        forecast = control.read(index)[c].astype(float) * control.std_C[c] + control.mean_C[c]
        apart.append(np.mean([(abs(forecast - one) * weight_H).sum() for one in true]))
        own.append(np.mean([(abs(true[a] - true[b]) * weight_H).sum() for a, b in ((0, 1), (0, 2), (1, 2))]))
    scores = found["scores"]["persistence"][T2M]["24"]
    assert scores["crps"] == pytest.approx(np.mean(apart), rel=1e-5)
    assert scores["crps_of_truth"] == pytest.approx(np.mean(own) / 2, rel=1e-5)
    assert scores["spread_ratio"] == 0
    assert scores.keys() == DIVERGENCE.keys()
    assert len(found["wavenumbers"]["persistence"][T2M]["24"]["ratio"]) == 9
    difference = found["comparison"]["damped persistence"]["persistence"][T2M]["24"]["crps"]
    assert difference == pytest.approx(scores["crps"] - found["scores"]["damped persistence"][T2M]["24"]["crps"])
    assert "Against 3 members of the truth, 2 starts:" in printed.getvalue()


def test_members_of_a_forecast_are_scored_as_an_ensemble(
    config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for networks with noise: the forecast, and two more beside it."""

    one = Forecaster.forecast_members

    def forecast_members(self: Forecaster, *given: Any) -> torch.Tensor:
        middle = one(self, *given)
        return torch.cat([middle - 1, middle, middle + 1], dim=1)

    monkeypatch.setattr(Forecaster, "forecast_members", forecast_members)
    found = read_json(evaluate(config), "an evaluation")["divergence"]
    std = DataSet(config.dataset).sources[CONTROL].std_C[0]
    scores = found["scores"]["anomaly"][T2M]["6"]
    assert scores["spread_ratio"] * scores["true_spread"] == pytest.approx(std, rel=1e-4)


def test_members_count_in_a_batch(config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two starts, and an ensemble of two members with `batch_size: 2`: one start at a time."""
    paths, sizes = list(config.models.values()), list[int]()
    one = Forecaster.forecast_members

    def forecast_members(self: Forecaster, samples: Sequence[Sample], *given: Any) -> torch.Tensor:
        sizes.append(len(samples))
        return one(self, samples, *given)

    monkeypatch.setattr(Forecaster, "forecast_members", forecast_members)
    ensembles = replace(config.ensembles, checkpoints={"both": paths}, baselines=[])
    evaluate(replace(config, batch_size=2, ensembles=ensembles, lead_hours=(24,)))
    assert set(sizes) == {1}


def test_lead_times_that_the_members_do_not_reach_are_left_out_and_named(
    config: EvaluateConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    content = read_json(evaluate(replace(config, lead_hours=(6.0, 30.0))), "an evaluation")
    assert list(content["divergence"]["starts"]) == ["6"]
    assert list(content["scores"]["persistence"][T2M]) == ["6", "30"]
    assert "evaluate: truth_members: the members hold no forecast of 30 h, whose divergence is left out" in (
        capsys.readouterr().out
    )


def test_without_members_nothing_is_written_of_it(config: EvaluateConfig) -> None:
    assert "divergence" not in read_json(
        evaluate(replace(config, truth_members=[], truth_dataset=None)), "an evaluation"
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"truth_members": ["JCM-X*"]}, "truth_members: no source of .* is 'JCM-X\\*'; it holds JCM-C_synthetic_r1i2"),
        ({"truth_members": MEMBERS[:1]}, "is one member; a distribution needs 2 or more"),
        ({"lead_hours": (30.0,)}, "truth_members: no forecast of 30 h starts where the members do"),
        ({"truth_members": [], "truth_dataset": "d"}, "truth_dataset: name its sources in truth_members"),
        ({"sequence_parallel": 2}, "truth_members: set sequence_parallel to 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(config: EvaluateConfig, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as refused:
        evaluate(replace(config, **changes))
    assert "\n" not in str(refused.value)


def test_members_that_are_not_like_the_control_are_refused(
    dataset: Path, ensemble: Path, make_dataset: Callable[..., Path]
) -> None:
    control = DataSet(dataset).sources[CONTROL]
    members = choose_members(str(ensemble), MEMBERS)
    with pytest.raises(UserError, match="JCM-C_synthetic_r1i2p1f1 lacks 10m_u_component_of_wind; exclude them"):
        TrueEnsemble(members, control, ["10m_u_component_of_wind"])
    coarse = make_dataset(sources_of({"shape": (4, 8)}))
    with pytest.raises(UserError, match="pack both on one grid"):
        TrueEnsemble(choose_members(str(coarse), MEMBERS), control, [T2M])
    other = make_dataset(sources_of({"calendar": "360_day"}))
    with pytest.raises(UserError, match="another time step or calendar"):
        TrueEnsemble(choose_members(str(other), MEMBERS), control, [T2M])
    later = make_dataset({MEMBERS[0]: {}, MEMBERS[1]: {"offset_hours": 4800.0}})
    with pytest.raises(UserError, match="the members share no start"):
        TrueEnsemble(choose_members(str(later), MEMBERS[:2]), control, [T2M])


def test_the_starts_that_lie_closest_are_successive() -> None:
    assert numbered([40, 80, 160, 200]) == [0, 1, 3, 4]
    assert numbered([7]) == [0]
