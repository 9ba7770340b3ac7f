"""Scores on a device: fields stay there, the host reads once per batch, and float32 fields give the same scores."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.data import batch_builder
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.raw_batch import BatchSpec, RawBatch
from climax_hpc.data.sampler import Sample
from climax_hpc.evaluation import evaluate, scoring
from climax_hpc.evaluation.accumulators import Accumulator
from climax_hpc.evaluation.readback import Readback
from climax_hpc.evaluation.scoring import ForecastScoring
from climax_hpc.evaluation.stored import TRUTH

from ..meta_device import META, MetaDevice

BATCH = [Sample(time_index=144 + t, lead_steps=4) for t in range(3)]


@pytest.fixture(scope="module")
def config(make_dataset: Callable[..., Path], make_evaluation: Callable[..., EvaluateConfig]) -> EvaluateConfig:
    return make_evaluation(make_dataset(), map_lead_hours=24, lead_hours=(24.0,), regions=["Europe"])


def on(device: torch.device, config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch) -> ForecastScoring:
    """Models and baselines of the config, scored on a device."""
    monkeypatch.setattr(evaluate.process_group, "device", lambda: device)
    checkpoints = {label: load_checkpoint(path) for label, path in config.models.items()}
    source = DataSet(config.dataset).select([config.source])[0]
    return evaluate._build_scoring(config, source, checkpoints, window=None, packed_period="")


def test_the_host_reads_once_per_batch(config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[torch.device] = []
    copy = torch.Tensor.cpu
    monkeypatch.setattr(batch_builder, "read_now", read_nothing)
    with MetaDevice(monkeypatch) as device:
        scored = on(META, config, monkeypatch)
        scored._score_batch(BATCH, 24.0)
        device.waits.clear()
        monkeypatch.setattr(torch.Tensor, "cpu", lambda values: (read.append(values.device), copy(values))[1])
        parts = scored._score_batch(BATCH, 24.0)
    assert read == [META]
    assert device.waits == []
    assert parts.keys() == {*config.models, *scored.baselines, TRUTH}


def read_nothing(spec: BatchSpec, samples: Sequence[Sample], _: torch.device) -> RawBatch:
    """A batch on the device without data."""
    return spec.in_buffer(torch.empty(spec.nbytes(len(samples)), dtype=torch.uint8, device=META), len(samples))


def means(parts: dict[str, Accumulator]) -> dict[str, np.ndarray]:
    """All numbers of a batch by label."""
    found = {}
    for label, part in parts.items():
        series = [*part.globe.series.values(), *part.regions["Europe"].series.values()]
        spectra = part.spectrum.spectra() if part.spectrum else {}
        found[label] = np.concatenate([np.ravel(values) for values in (*series, *spectra.values())])
    return found


def test_float32_fields_give_the_scores_of_float64(config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = on(torch.device("cpu"), config, monkeypatch)
    exact = means(scored._score_batch(BATCH, 24.0))
    monkeypatch.setattr(scoring, "scoring_dtype", lambda _: torch.float32)
    rounded = means(scored._score_batch(BATCH, 24.0))
    for label, values in exact.items():
        assert not np.array_equal(rounded[label], values)
        np.testing.assert_allclose(rounded[label], values, rtol=1e-4, atol=1e-6 * np.abs(values).max())


def test_values_are_used_in_order_and_once() -> None:
    readback, used = Readback(), []
    readback.run()
    for shape in ((2, 3), (), (0, 4)):
        readback.want(torch.ones(shape, dtype=torch.float64), lambda values: used.append(values.shape))
    readback.run()
    readback.run()
    assert used == [(2, 3), (), (0, 4)]
