"""One more metric and one more baseline, each in one module, reach evaluation.json and the report."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from climax_hpc.cli import run
from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.config.parser import to_dict
from climax_hpc.evaluation import baselines
from climax_hpc.evaluation.metrics import METRICS

Z500 = "geopotential_500"
METRIC = """
import numpy as np

from climax_hpc.evaluation.metrics import Metric

METRIC = Metric(
    name="error_std",
    title="error without bias",
    compute=lambda means: np.sqrt(np.maximum(means.mean("square_error") - means.mean("error") ** 2, 0)),
    better="lower",
    optimum=0,
    description="the standard deviation of the error",
    tasks=("forecast",),
)
"""
BASELINE = """
from climax_hpc.evaluation.baselines.base import Baseline, ChannelReader, starts, valid_times


class Midway:
    def __init__(self, data):
        self.variables, self._reader = data.variables, ChannelReader(data.source, data.variables, data.window_steps)

    def forecast(self, samples):
        return (self._reader.fields(starts(samples)) + self._reader.climatology(valid_times(samples))) / 2


BASELINE = Baseline(
    label="midway",
    description="the mean of persistence and climatology",
    description_of_means="the same of means",
    place=9,
    build=Midway,
)
"""


@pytest.fixture
def config(
    make_dataset: Callable[..., Path], make_evaluation: Callable[..., EvaluateConfig], tmp_path: Path
) -> EvaluateConfig:
    found = make_evaluation(make_dataset(), lead_hours=(24, 48), map_lead_hours=48, resamples=100)
    return replace(found, run_folder=str(tmp_path / "evaluation"))


def evaluate_and_report(config: EvaluateConfig, folder: Path) -> tuple[dict[str, Any], str]:
    """evaluation.json and the page, by the command line."""
    (folder / "evaluate.yaml").write_text(yaml.safe_dump(to_dict(config)))
    run(["evaluate", "--config", str(folder / "evaluate.yaml")])
    page = folder / "report.html"
    run(["report", "--evaluation", config.run_folder, "--output", str(page)])
    return json.loads((Path(config.run_folder) / "evaluation.json").read_text()), page.read_text()


def test_a_metric_of_one_module(config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one_more_metric.py").write_text(METRIC)
    monkeypatch.syspath_prepend(str(tmp_path))
    metric = import_module("one_more_metric").METRIC
    monkeypatch.setitem(METRICS, metric.name, metric)
    content, page = evaluate_and_report(config, tmp_path)
    found = content["scores"]["persistence"][Z500]["24"]
    assert found["error_std"] == pytest.approx((found["rmse"] ** 2 - found["bias"] ** 2) ** 0.5)
    low, high = content["intervals"]["persistence"][Z500]["24"]["error_std"]
    assert low <= found["error_std"] <= high
    assert "error without bias [m² s⁻²]" in page


def test_a_baseline_of_one_module(config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "more_baselines"
    folder.mkdir()
    (folder / "midway.py").write_text(BASELINE)
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, str(folder)])
    try:
        content, page = evaluate_and_report(replace(config, reference="midway"), tmp_path)
    finally:
        sys.modules.pop(f"{baselines.__name__}.midway", None)
    assert list(content["baselines"]) == ["persistence", "climatology", "damped persistence", "midway"]
    assert content["comparison"]["reference"] == "midway"
    rmse = {label: scores[Z500]["24"]["rmse"] for label, scores in content["scores"].items()}
    assert 0 < rmse["midway"] < rmse["persistence"]
    assert "the mean of persistence and climatology" in page
    assert page.count("midway") > 10
