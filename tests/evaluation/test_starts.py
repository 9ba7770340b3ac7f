"""`start_every_hours`: fewer starts, the same scores of those that are left, blocks that span the same time."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.data.dataset import DataSet
from climax_hpc.errors import UserError
from climax_hpc.evaluation.bootstrap import runs_of
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.tasks.registry import find_task
from climax_hpc.utils.files import read_json

T2M = "2m_temperature"


@pytest.fixture(scope="module")
def config(
    make_dataset: Callable[..., Path],
    make_evaluation: Callable[..., EvaluateConfig],
    tmp_path_factory: pytest.TempPathFactory,
) -> EvaluateConfig:
    made = make_evaluation(make_dataset(), lead_hours=(24,), map_lead_hours=24, block_hours=24.0, resamples=100)
    return replace(made, run_folder=str(tmp_path_factory.mktemp("starts") / "evaluation"))


def content_of(config: EvaluateConfig, **changes: Any) -> dict[str, Any]:
    return dict(read_json(evaluate(replace(config, **changes)), "an evaluation"))


def test_only_these_starts_are_scored_and_blocks_keep_their_length(config: EvaluateConfig) -> None:
    content = content_of(config, start_every_hours=12.0)
    source = DataSet(config.dataset).select(None)[0]
    # The held-out 48 six-hourly steps begin at index 144, at midnight: 44 starts at 24 h, every second of them is left.
    starts = [i for i in range(144, 188) if source.date(i).hour in (0, 12)]
    assert content["pairs"] == {"24": len(starts)} == {"24": 22}
    c = source.channels.index(T2M)
    error = np.stack([source.read(i + 4)[c].astype(np.float64) - source.read(i)[c] for i in starts]) * source.std_C[c]
    from_plain = np.sqrt(((error**2).mean((0, 2)) * _weights(source)).sum())
    assert content["scores"]["persistence"][T2M]["24"]["rmse"] == pytest.approx(from_plain)
    assert content["block_hours"] == {"24": 24.0} == content_of(config)["block_hours"]


def _weights(source: Any) -> Any:
    edges = np.deg2rad(np.linspace(-90, 90, source.grid.shape[0] + 1))
    area_H = np.diff(np.sin(edges))
    return area_H / area_H.sum()


def test_starts_apart_are_successive_for_the_bootstrap() -> None:
    thinned = [i for i in range(144, 188) if i % 2 == 0]
    assert runs_of([i // 2 for i in thinned]) == [22]
    assert runs_of(thinned) == [1] * 22


@pytest.mark.parametrize(
    ("every", "message"),
    [
        (0.0, "start_every_hours must be above 0"),
        (9.0, "start_every_hours: 9 h is not a multiple of the 6 h step"),
        (6000.0, "start_every_hours: no forecast of the period starts at a multiple of 6000 h"),
    ],
)
def test_impossible_spacings_are_refused(config: EvaluateConfig, every: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(replace(config, start_every_hours=every))


def test_tasks_without_starts_refuse_it() -> None:
    assert "start_every_hours" in find_task("forecast").evaluate_keys
    assert json.dumps(find_task("downscaling").evaluate_keys).count("start_every") == 0
