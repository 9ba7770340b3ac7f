"""Intervals, comparisons, regions and spectra: on one and several processes, and in the report."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from climax_hpc.config.inference import EvaluateConfig, ReportConfig
from climax_hpc.config.parser import to_dict
from climax_hpc.data.dataset import DataSet
from climax_hpc.errors import UserError
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.evaluation.spectra import SpectrumSums
from climax_hpc.fields.grid import latitude_weights
from climax_hpc.tasks.registry import report

from ..training.processes import run_commands

Z500 = "geopotential_500"


@pytest.fixture(scope="module")
def config(
    make_dataset: Callable[..., Path],
    make_evaluation: Callable[..., EvaluateConfig],
    tmp_path_factory: pytest.TempPathFactory,
) -> EvaluateConfig:
    return make_evaluation(
        make_dataset(shape=(12, 16)),
        run_folder=str(tmp_path_factory.mktemp("statistics") / "evaluation"),
        map_lead_hours=24,
        regions=["Europe", "Arctic"],
        resamples=200,
        batch_size=7,
    )


@pytest.fixture(scope="module")
def card(config: EvaluateConfig) -> Scorecard:
    return Scorecard.load(evaluate(config).parent)


def test_intervals_hold_their_scores(card: Scorecard) -> None:
    for label in (*card.models, *card.baselines):
        for variable in card.variables:
            for metric in ("rmse", "mae", "bias", "acc"):
                value = card.value(label, variable, 24, metric)
                interval = card.interval(label, variable, 24, metric)
                if value is None:
                    assert interval is None
                else:
                    assert interval is not None
                    assert interval[0] <= value <= interval[1]
    assert card.content["block_hours"]["24"] >= 6


def test_comparison_is_with_the_reference(card: Scorecard) -> None:
    assert card.reference == "damped persistence"
    found = card.difference("full", Z500, 24)
    assert found is not None
    mine, other = (card.value(label, Z500, 24) or 0 for label in ("full", "damped persistence"))
    assert found["rmse"] == pytest.approx(mine - other)
    assert found["relative"] == pytest.approx(mine / other - 1)
    assert card.is_significant(found)  # an untrained network is far worse
    assert card.difference("damped persistence", Z500, 24) is None


def test_climax_averages_and_activity_of_persistence(config: EvaluateConfig, card: Scorecard) -> None:
    source = DataSet(config.dataset).select(None)[0]
    c = source.channels.index(Z500)
    z, normal = (
        np.stack([read(t)[c].astype(np.float64) for t in range(144, 192)]) * source.std_C[c]
        for read in (source.read, source.read_climatology)
    )
    weight = np.repeat(latitude_weights(source.grid)[:, None], 16, axis=1) / 192
    found = card.content["other_scores"]["persistence"][Z500]["24"]
    rmse_T = np.sqrt((weight * (z[:-4] - z[4:]) ** 2).sum(axis=(1, 2)))
    assert found["rmse_climax"] == pytest.approx(rmse_T.mean())
    a, b = z[:-4] - normal[4:], z[4:] - normal[4:]
    pooled = (weight * a * b).sum() / np.sqrt((weight * a * a).sum() * (weight * b * b).sum())
    assert found["acc_climax"] == pytest.approx(pooled)
    assert found["activity"] == pytest.approx(np.sqrt((weight * a * a).sum() / 44))
    assert found["activity_truth"] == pytest.approx(np.sqrt((weight * b * b).sum() / 44))
    assert card.content["other_scores"]["climatology"][Z500]["24"]["activity"] == 0


def test_spectra_of_truth_and_persistence(config: EvaluateConfig, card: Scorecard) -> None:
    source = DataSet(config.dataset).select(None)[0]
    c = source.channels.index(Z500)
    z = np.stack([source.read(t)[c].astype(np.float64) for t in range(144, 192)]) * source.std_C[c]
    for label, fields in (("truth", z[4:]), ("persistence", z[:-4])):
        sums = SpectrumSums([Z500], source.grid.lat, latitude_weights(source.grid))
        sums.add(torch.from_numpy(fields[:, None]))
        np.testing.assert_allclose(card.spectra["24"][label][Z500], sums.spectra()[Z500])
    assert list(card.spectra) == ["6", "24", "72"]


def test_regions_are_scored_on_their_cells(config: EvaluateConfig, card: Scorecard) -> None:
    source = DataSet(config.dataset).select(None)[0]
    c = source.channels.index(Z500)
    z = np.stack([source.read(t)[c].astype(np.float64) for t in range(144, 192)]) * source.std_C[c]
    rows = source.grid.lat >= 60
    weight = np.repeat(latitude_weights(source.grid)[rows, None], 16, axis=1)
    error = ((z[:-4] - z[4:]) ** 2)[:, rows].mean(axis=0)
    arctic = card.of_region("Arctic")
    assert arctic.value("persistence", Z500, 24) == pytest.approx(np.sqrt((error * weight).sum() / weight.sum()))
    assert arctic.interval("persistence", Z500, 24) is not None
    assert set(card.regions) == {"Europe", "Arctic"}


@pytest.mark.slow
def test_ranks_do_not_matter(config: EvaluateConfig, card: Scorecard, tmp_path: Path) -> None:
    settings = to_dict(replace(config, run_folder=str(tmp_path / "ranks")))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    command = ["evaluate", "--config", str(tmp_path / "config.yaml")]
    statuses, _, errors = run_commands(command, ranks=2, folder=tmp_path)
    assert statuses == [0, 0], errors[-2000:]
    found = json.loads((tmp_path / "ranks" / "evaluation.json").read_text())
    for key in ("scores", "intervals", "comparison", "regions", "spectra", "other_scores", "pairs"):
        assert found[key] == card.content[key], key
    assert found["provenance"]["ranks"] == 2


def test_report_shows_the_statistics(card: Scorecard, config: EvaluateConfig, tmp_path: Path) -> None:
    text = report(
        ReportConfig(evaluation=config.run_folder, output=str(tmp_path / "r.html"), headline=[Z500])
    ).read_text()
    for part in (
        "Comparison with damped persistence",
        "<h2>Power spectra</h2>",
        "<h2>Regions</h2>",
        "<summary>Europe</summary>",
    ):
        assert part in text
    assert "95 % confidence intervals of a moving-block bootstrap over the start times (200 draws)" in text
    assert "RMSE of full relative to damped persistence" in text


def test_statistics_are_optional(config: EvaluateConfig, tmp_path: Path) -> None:
    bare = replace(config, run_folder=str(tmp_path / "e"), resamples=0, spectra=False, regions=[], lead_hours=(24,))
    found = Scorecard.load(evaluate(bare).parent)
    assert "intervals" not in found.content
    assert found.reference is None
    assert found.spectra == {}
    text = report(
        ReportConfig(evaluation=bare.run_folder, output=str(tmp_path / "r.html"), headline=[Z500])
    ).read_text()
    assert "confidence intervals" not in text
    assert "<h2>Power spectra</h2>" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resamples": 10}, "resamples must be 0, or at least 100"),
        ({"confidence": 1.0}, "confidence must lie in"),
        ({"block_hours": 0.0}, "block_hours must be above 0"),
        ({"regions": ["Europa"]}, "unknown region 'Europa'; use Europe"),
    ],
)
def test_bad_values(config: EvaluateConfig, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(config, **change)  # type: ignore[arg-type]


def test_unknown_reference(config: EvaluateConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reference: 'persistance' is no label; did you mean persistence"):
        evaluate(replace(config, run_folder=str(tmp_path / "e"), reference="persistance"))
    assert not (tmp_path / "e").exists()
