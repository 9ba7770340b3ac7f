"""Means over a window: their steps, missing values, no mean across a gap, the lead times that are drawn."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from climax_hpc.data.batch_builder import SourceBatchBuilder
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.normalisation_fit import fit_normalisation
from climax_hpc.data.sampler import Sample, Sampler
from climax_hpc.errors import UserError
from climax_hpc.fields.averaging_window import Window
from climax_hpc.fields.grid import latitude_weights

MakeDataset = Callable[..., Path]
TRAIN = ("2001", "2003")
CHANNELS = ("geopotential_500", "2m_temperature")


def test_weeks_3_4_and_5_6_of_six_hourly_data() -> None:
    """[14 d, 28 d) and [28 d, 42 d): two windows without a common step."""
    steps = Window(hours=336).over(6, "x")
    windows = [{lead + 6 * offset for offset in steps.offsets} for lead in (336, 672)]
    assert windows[0] == set(range(14 * 24, 28 * 24, 6))
    assert windows[1] == set(range(28 * 24, 42 * 24, 6))
    daily = Window(hours=336, step_hours=24)
    assert list(daily.over(6, "x").offsets) == list(range(0, 56, 4))
    assert daily.over(24, "x").tail == 13
    assert daily.offset_hours == list(range(0, 336, 24))


def test_the_mean_is_over_every_step_and_missing_where_one_is() -> None:
    block_TCHW = np.random.default_rng(0).standard_normal((9, 2, 3, 4)).astype(np.float16)
    block_TCHW[4, 1, 2, 3] = np.nan
    steps = Window(hours=24, step_hours=12).over(6, "x")
    whole = steps.moving_means(block_TCHW)
    assert whole.shape == (7, 2, 3, 4)
    for t in range(7):
        mean = steps.mean(lambda i: block_TCHW[i], t)
        expected = (block_TCHW[t].astype(np.float64) + block_TCHW[t + 2]) / 2
        np.testing.assert_allclose(mean, expected, atol=1e-6)
        np.testing.assert_allclose(whole[t], expected, atol=1e-6)
        assert np.isnan(mean).sum() == (t in (2, 4))
    assert len(steps.moving_means(block_TCHW[:2])) == 0


def test_sampler_leaves_room_for_the_window_and_draws_the_configured_leads(make_dataset: MakeDataset) -> None:
    """Years are gaps: no target reaches from one segment of 48 steps into the next."""
    source = DataSet(make_dataset(channels=CHANNELS)).select(None)[0]
    times = source.times(TRAIN, 48, 96, tail_steps=7, lead_stride_hours=48)
    sampler = Sampler({source.name: times}, seed=1, micro_batch_size=8, micro_batches_per_step=4)
    samples = [s for step in range(20) for micro_batch in sampler.micro_batches(step) for s in micro_batch.samples]
    assert {s.lead_steps for s in samples} == {8, 16}
    assert all(s.time_index % 48 + s.lead_steps + 7 < 48 for s in samples)
    starts = {s.time_index % 48 for s in samples if s.lead_steps == 8}
    assert max(starts) == 48 - 8 - 7 - 1
    with pytest.raises(UserError, match=r"data.lead_stride_hours: 10 h is not a multiple of the 6 h step"):
        source.times(TRAIN, 48, 96, lead_stride_hours=10)
    with pytest.raises(UserError, match="and 41 more steps of targets inside the period"):
        Sampler({"a": source.times(TRAIN, 48, 96, tail_steps=41)}, seed=1, micro_batch_size=1, micro_batches_per_step=1)


@pytest.mark.parametrize("mode", ["full", "anomaly"])
def test_targets_are_normalised_means(make_dataset: MakeDataset, mode: str) -> None:
    source = DataSet(make_dataset(channels=CHANNELS)).select(None)[0]
    window = Window(hours=48, step_hours=12)
    norm = fit_normalisation([source], mode=mode, period=TRAIN, min_lead_hours=48, max_lead_hours=96, window=window)
    builder = SourceBatchBuilder(
        source, norm, inputs=CHANNELS, outputs=CHANNELS, device=torch.device("cpu"), window=window
    )  # fmt: skip
    samples = [Sample(time_index=3, lead_steps=8), Sample(time_index=50, lead_steps=16)]
    batch = builder.build_batch(samples)
    for b, s in enumerate(samples):
        times = [s.time_index + s.lead_steps + k for k in range(0, 8, 2)]
        z = np.mean([source.read(t).astype(np.float64) for t in times], axis=0)
        np.testing.assert_allclose(
            builder.to_shard_z_scores(batch.y_BOHW, samples)[b], z[builder._out.index], atol=2e-5
        )
        for o, name in enumerate(CHANNELS):
            c = source.channels.index(name)
            if mode == "full":
                expected = (z[c] * source.std_C[c] + source.mean_C[c] - norm.mean[name]) / norm.std[name]
            else:
                normal = np.mean([source.read_climatology(t)[c] for t in times], axis=0)
                expected = (z[c] - normal) * source.std_C[c] / norm.anomaly_std[name]
            np.testing.assert_allclose(batch.y_BOHW[b, o], expected, atol=1e-4)


def test_r_and_s_are_those_of_means(make_dataset: MakeDataset) -> None:
    source = DataSet(make_dataset(channels=CHANNELS, years=3)).select(None)[0]
    window = Window(hours=48)
    norm = fit_normalisation(
        [source], mode="anomaly", period=TRAIN, min_lead_hours=24, max_lead_hours=24, window=window
    )
    weight_H1 = latitude_weights(source.grid)[:, None]
    c = source.channels.index(CHANNELS[0])
    a = np.stack([source.read(t)[c] - source.read_climatology(t)[c] for t in range(144)]).astype(np.float64)
    a = (a * source.std_C[c]).reshape(3, 48, *source.grid.shape)
    x = np.concatenate([year[: 48 - 4 - 7] for year in a])
    y = np.concatenate([[year[t + 4 : t + 12].mean(axis=0) for t in range(48 - 4 - 7)] for year in a])
    r = (weight_H1 * x * y).sum() / (weight_H1 * x * x).sum()
    s = np.sqrt((weight_H1 * (y - r * x) ** 2).sum() / np.broadcast_to(weight_H1, x.shape).sum())
    assert norm.r[CHANNELS[0]] == pytest.approx([r], rel=1e-4)
    assert norm.s[CHANNELS[0]][0] * norm.anomaly_std[CHANNELS[0]] == pytest.approx(s, rel=1e-4)
    base = fit_normalisation([source], mode="anomaly", period=("2001", "2001"), min_lead_hours=6, max_lead_hours=24)
    both = base.with_tables_of(norm)
    assert both.anomaly_std == base.anomaly_std
    assert both.lead_hours == [24]
    assert both.s[CHANNELS[0]][0] * both.anomaly_std[CHANNELS[0]] == pytest.approx(s, rel=1e-4)


@pytest.mark.parametrize(
    ("hours", "every", "step", "message"),
    [
        (0, None, 6, "data.window_hours must be positive, not 0"),
        (48, 0, 6, "data.window_step_hours must lie in"),
        (48, 72, 6, "data.window_step_hours must lie in"),
        (50, None, 6, "a mean over 50 h does not fit the 6 h step of source x"),
        (48, 36, 6, "a mean over 48 h every 36 h does not fit"),
        (48, None, 0, "source x has no fixed time step"),
    ],
)
def test_invalid_windows_are_refused(hours: float, every: float | None, step: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Window(hours=hours, step_hours=every).over(step, "x")
