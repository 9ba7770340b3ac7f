"""Roll-out fine-tuning: the gradient through all steps; roll-outs and direct forecasts in one evaluation."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.config.inference import PredictConfig
from climax_hpc.config.training import DataConfig
from climax_hpc.data.batch_builder import SourceBatchBuilder
from climax_hpc.data.normalisation_fit import fit_normalisation
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sample, Sampler
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.inference.forecaster import Forecaster
from climax_hpc.inference.predict import predict
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_error
from climax_hpc.model import ModelConfig, build_network
from climax_hpc.training.data_setup import sample_times
from climax_hpc.training.loss import batch_loss

from .forecasts import CHANNELS, MODEL, Train, evaluation, refused, trainer

SMALL = MODEL | {"height": 8, "width": 16}
STEPS = {"rollout_steps": 3, "min_lead_hours": 6.0, "max_lead_hours": 6.0}
SAMPLES = [Sample(time_index=2, lead_steps=1), Sample(time_index=60, lead_steps=1)]


@pytest.fixture(scope="module")
def dataset(make_dataset: Callable[..., Path]) -> Path:
    """One channel has missing cells, which stay missing through all steps."""
    hole = np.zeros((8, 16), bool)
    hole[3, 4:9] = True
    return make_dataset(channels=CHANNELS, dtype="float32", missing={CHANNELS[0]: hole})


@pytest.fixture(scope="module")
def train(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    return trainer(dataset, tmp_path_factory.mktemp("rollout"))


@pytest.fixture(scope="module")
def rolled(train: Train) -> Path:
    """Fine-tuned with partitioned gradients, so that the engine's backward passes through three forward ones."""
    globe = train("globe", "pretrain", model=SMALL)
    config = {"data": STEPS | {"random_roll": True}, "model": SMALL, "train": {"zero_stage": 2}}
    return train("rolled", checkpoint=str(globe), **config)


def gradients(
    source: PackedSource, mode: str, *, by_hand: bool, **model: Any
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Loss and gradients of one batch; `by_hand` writes each step out with climatology, r and s."""
    norm = fit_normalisation([source], mode=mode, period=("2001", "2003"), min_lead_hours=6, max_lead_hours=48)
    names = (*CHANNELS, "orography", "latitude")
    builder = SourceBatchBuilder(
        source, norm, inputs=names, outputs=CHANNELS[::-1], device=torch.device("cpu"), rollout_steps=3
    )  # fmt: skip
    batch = builder.build_batch(SAMPLES)
    torch.manual_seed(0)
    network = build_network(ModelConfig(**(SMALL | {"output_mode": mode} | model))).double().train()
    weight_H = torch.linspace(0.5, 1.5, 8, dtype=torch.float64)
    batch = SimpleNamespace(**{
        key: value.double() if isinstance(value, torch.Tensor) else value for key, value in vars(batch).items()
    })  # fmt: skip
    if not by_hand:
        engine = partial(network)
        engine.module = network  # type: ignore[attr-defined]
        loss = batch_loss(engine, batch, weight_H)  # type: ignore[arg-type]
    else:
        state, losses = batch.x_BVHW, []
        for k in range(3):
            net = network(state, batch.lead_hours_B, names, CHANNELS[::-1])
            target, unit = batch.y_BKOHW[:, k], 1.0
            if mode == "anomaly":
                unit = batch.s_BO[..., None, None]
                net = batch.r_BO[..., None, None] * state[:, [1, 0]].nan_to_num(0) + unit * net
            losses.append(lat_weighted_error(net / unit, target / unit, weight_H)[0])
            following = net[:, [1, 0]].masked_fill(batch.x_BVHW[:, :2].isnan(), torch.nan)
            state = torch.cat([following, batch.x_BVHW[:, 2:]], dim=1)
        loss = sum(losses) / 3
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("mode", ["full", "anomaly"])
def test_the_gradient_passes_through_every_step(source: PackedSource, mode: str) -> None:
    loss, found = gradients(source, mode, by_hand=False)
    expected_loss, expected = gradients(source, mode, by_hand=True)
    assert torch.isfinite(loss)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=0)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    checkpointed, again = gradients(source, mode, by_hand=False, activation_checkpointing=True)
    torch.testing.assert_close(checkpointed, loss, rtol=1e-12, atol=0)
    for ours, theirs in zip(again, found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_targets_are_those_of_every_step(source: PackedSource) -> None:
    norm = fit_normalisation([source], mode="full", period=("2001", "2003"), min_lead_hours=6, max_lead_hours=48)
    options: dict[str, Any] = {"inputs": CHANNELS, "outputs": CHANNELS, "device": torch.device("cpu")}
    builder, plain = (
        SourceBatchBuilder(source, norm, **options, rollout_steps=3),
        SourceBatchBuilder(source, norm, **options),
    )
    batch = builder.build_batch(SAMPLES)
    assert batch.y_BKOHW is not None
    for k in range(3):
        later = [Sample(time_index=s.time_index, lead_steps=(k + 1) * s.lead_steps) for s in SAMPLES]
        torch.testing.assert_close(
            batch.y_BKOHW[:, k], plain.build_batch(later).y_BOHW, equal_nan=True
        )  # fmt: skip
    times = sample_times(source, DataConfig(dataset="d", **STEPS), ("2001", "2003"), CHANNELS)
    sampler = Sampler({source.name: times}, seed=0, micro_batch_size=8, micro_batches_per_step=8)
    starts = [
        s.time_index % 48
        for micro_batch in sampler.micro_batches(0) + sampler.micro_batches(1)
        for s in micro_batch.samples
    ]
    assert max(starts) == 48 - 3 - 1


def test_direct_and_rolled_out_forecasts_in_one_scorecard(
    dataset: Path, source: PackedSource, rolled: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (rolled / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite([row["loss"] for row in rows if "loss" in row]).all()
    both = {"direct": rolled, "rolled": rolled}
    config = evaluation(dataset, tmp_path / "e", both, rollout_hours={"rolled": 6.0}, lead_hours=(6, 18))
    scores = json.loads(evaluate(config).read_text())["scores"]
    assert scores["direct"]["geopotential_500"]["6"] == pytest.approx(scores["rolled"]["geopotential_500"]["6"])
    assert scores["direct"]["geopotential_500"]["18"] != scores["rolled"]["geopotential_500"]["18"]
    model = Forecaster(
        load_checkpoint(rolled), source, variables=None, device=torch.device("cpu"), rollout_hours=6.0
    )  # fmt: skip
    z_OHW = model.forecast([Sample(time_index=148, lead_steps=3), Sample(time_index=149, lead_steps=1)])[0].numpy()
    written = predict(
        PredictConfig(
            models={"rolled": str(rolled)},
            input=str(dataset),
            output=str(tmp_path / "a.nc"),
            lead_hours=(18,),
            rollout_hours=6.0,
            period=("2004-01-02", "2004-01-02"),
            start_every_hours=24,
        )
    )
    with xr.open_dataset(written, decode_timedelta=False) as found:
        for name in CHANNELS:
            c, o = source.channels.index(name), model.variables.index(name)
            expected = z_OHW[o] * source.std_C[c] + source.mean_C[c]
            np.testing.assert_allclose(found[name].values[0], expected, rtol=1e-5)


def test_what_cannot_be_rolled_out(
    train: Train, rolled: Path, dataset: Path, tmp_path: Path, make_checkpoint: Callable[..., Path]
) -> None:
    data = STEPS | {"out_variables": [CHANNELS[0]]}
    refused(
        lambda: train("x", data=data, model=SMALL),
        "data.rollout_steps: the model on source .* takes geopotential_500 as input but does not",
    )
    refused(lambda: DataConfig(dataset="d", rollout_steps=2), "all steps have the same length: set data.min_lead_hours")
    refused(
        lambda: DataConfig(dataset="d", **STEPS, window_hours=48),
        "cannot start from a mean over data.window_hours",
    )
    refused(lambda: DataConfig(dataset="d", rollout_steps=0), "must be at least 1")
    models = {"a": rolled}
    refused(
        lambda: evaluation(dataset, tmp_path, models, rollout_hours={"b": 6.0}),
        "models has no label 'b'",
    )
    refused(lambda: evaluation(dataset, tmp_path, models, rollout_hours={"a": 9.0}), "24 h is not a multiple of")
    odd = evaluation(dataset, tmp_path / "e", models, rollout_hours={"a": 4.0})
    refused(lambda: evaluate(odd), "rollout_hours: 4 h is not a multiple of the 6 h step of source")
