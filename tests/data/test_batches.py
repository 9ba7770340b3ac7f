"""Batches, compared with a numpy computation in float64; augmentation; order when read ahead."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from climax_hpc.data.batch_builder import SourceBatchBuilder
from climax_hpc.data.batches import batches, choose_variables
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.normalisation_fit import anomaly, fit_normalisation
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.prefetch import read_now
from climax_hpc.data.sampler import MicroBatch, Sample, Sampler, hash64
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import latitude_weights
from climax_hpc.fields.regions import crop_to, region_of
from climax_hpc.utils.typed_json import typed

MakeDataset = Callable[..., Path]
TRAIN = ("2001", "2003")
CHANNELS = ("geopotential_500", "v_component_of_wind_850")
SAMPLES = [Sample(time_index=3, lead_steps=1), Sample(time_index=60, lead_steps=28)]


def setup(folder: Path, mode: str, **options: Any) -> tuple[PackedSource, Normalisation, SourceBatchBuilder]:
    source = DataSet(folder).select(None)[0]
    norm = fit_normalisation([source], mode=mode, period=TRAIN, min_lead_hours=6, max_lead_hours=168)
    inputs, outputs = choose_variables(source, (*CHANNELS, "orography", "latitude"), None, None)
    return (
        source,
        norm,
        SourceBatchBuilder(source, norm, inputs=inputs, outputs=outputs, device=torch.device("cpu"), **options),
    )


def test_full_batch(make_dataset: MakeDataset) -> None:
    source, norm, builder = setup(make_dataset(channels=CHANNELS), "full")
    batch = builder.build_batch(SAMPLES)
    assert batch.in_variables == (*CHANNELS, "latitude", "orography")
    assert batch.out_variables == CHANNELS
    assert batch.lead_hours_B.tolist() == [6.0, 168.0]
    for b, s in enumerate(SAMPLES):
        for field, t in ((batch.x_BVHW, s.time_index), (batch.y_BOHW, s.time_index + s.lead_steps)):
            physical = source.read(t).astype(np.float64) * source.std_C[:, None, None] + source.mean_C[:, None, None]
            for c, name in enumerate(CHANNELS):
                expected = (physical[c] - norm.mean[name]) / norm.std[name]
                np.testing.assert_allclose(field[b, c], expected, atol=1e-5)
    static = (source.static["orography"] - norm.mean["orography"]) / norm.std["orography"]
    np.testing.assert_allclose(batch.x_BVHW[0, 3], static, atol=1e-6)
    assert batch.network_target() is batch.y_BOHW


def test_anomaly_batch(make_dataset: MakeDataset) -> None:
    source, norm, builder = setup(make_dataset(channels=CHANNELS), "anomaly")
    batch = builder.build_batch(SAMPLES)
    target = batch.network_target()
    for b, s in enumerate(SAMPLES):
        lead = norm.lead_hours.index(s.lead_steps * 6.0)
        for c, name in enumerate(CHANNELS):
            now, later = (
                anomaly(source, t)[c] / norm.anomaly_std[name] for t in (s.time_index, s.time_index + s.lead_steps)
            )
            np.testing.assert_allclose(batch.x_BVHW[b, c], now, atol=1e-5)
            expected = (later - norm.r[name][lead] * now) / norm.s[name][lead]
            np.testing.assert_allclose(target[b, c], expected, atol=1e-4)


@pytest.mark.parametrize("mode", ["full", "anomaly"])
def test_z_scores_of_the_shards_are_restored(make_dataset: MakeDataset, mode: str) -> None:
    source, _, builder = setup(make_dataset(channels=CHANNELS), mode)
    batch = builder.build_batch(SAMPLES)
    again = builder.to_shard_z_scores(batch.y_BOHW, SAMPLES)
    for b, s in enumerate(SAMPLES):
        np.testing.assert_allclose(again[b], source.read(s.time_index + s.lead_steps), atol=1e-5)


def test_fit_is_least_squares_of_damped_persistence(make_dataset: MakeDataset) -> None:
    source, norm, _ = setup(make_dataset(channels=CHANNELS, years=3), "anomaly")
    weight_H = latitude_weights(source.grid)[:, None]
    fields = np.stack([anomaly(source, t) for t in range(len(source.hours))]).astype(np.float64)
    for c, name in enumerate(CHANNELS):
        whole = np.sqrt((weight_H * fields[:, c] ** 2).mean() / weight_H.mean())
        # The spread is that of start times; all times are start times here (lead times from 6 h, one block per year).
        assert norm.anomaly_std[name] == pytest.approx(whole, rel=1e-5)
        lag = 4
        x = np.concatenate([fields[s.first : s.first + s.steps - lag, c] for s in source.segments])
        y = np.concatenate([fields[s.first + lag : s.first + s.steps, c] for s in source.segments])
        r = (weight_H * x * y).sum() / (weight_H * x * x).sum()
        s = np.sqrt((weight_H * (y - r * x) ** 2).sum() / np.broadcast_to(weight_H, x.shape).sum())
        i = norm.lead_hours.index(24.0)
        assert norm.r[name][i] == pytest.approx(r, rel=1e-5)
        assert norm.s[name][i] * norm.anomaly_std[name] == pytest.approx(s, rel=1e-4)


def test_normalisation_through_json(make_dataset: MakeDataset) -> None:
    _, norm, _ = setup(make_dataset(channels=CHANNELS), "anomaly")
    assert typed(json.loads(json.dumps(norm.to_dict())), Normalisation, "training.json", "restore it") == norm


def test_missing_values_stay_missing(make_dataset: MakeDataset) -> None:
    hole = np.zeros((8, 16), bool)
    hole[2:5, 3] = True
    _, _, builder = setup(make_dataset(channels=CHANNELS, missing={CHANNELS[0]: hole}), "anomaly", random_roll=False)
    batch = builder.build_batch(SAMPLES)
    np.testing.assert_array_equal(batch.network_target()[0, 0].isnan(), hole)
    assert torch.isfinite(batch.network_target()[0, 1]).all()


@pytest.mark.parametrize("mode", ["full", "anomaly"])
def test_augmentation_shifts_and_mirrors_input_and_target_together(make_dataset: MakeDataset, mode: str) -> None:
    folder = make_dataset(channels=CHANNELS)
    source, norm, plain = setup(folder, mode)
    _, _, augmenting = setup(folder, mode, random_roll=True, random_flip=True)
    mirrored = turned = 0
    for key in range(20):
        micro_batch = MicroBatch(source=source.name, samples=tuple(SAMPLES), key=hash64(key))
        before, after = (b.assemble(micro_batch, read_now(b.spec, SAMPLES, b.device)) for b in (plain, augmenting))
        for b in range(2):
            latitude = after.in_variables.index("latitude")
            torch.testing.assert_close(after.x_BVHW[b, latitude], before.x_BVHW[b, latitude])
            shift, flip = find_change(before.x_BVHW[b, 0], after.x_BVHW[b, 0])
            turned, mirrored = turned + bool(shift), mirrored + flip
            for old, new in ((before.x_BVHW[b, 1], after.x_BVHW[b, 1]), (before.y_BOHW[b, 1], after.y_BOHW[b, 1])):
                expected = torch.roll(old, shift, -1)
                if flip:
                    mean = norm.mean[CHANNELS[1]] if mode == "full" else 0.0
                    expected = -expected.flip(-2) - 2 * mean / norm.std[CHANNELS[1]]
                torch.testing.assert_close(new, expected, atol=1e-5, rtol=1e-5)
    assert turned > 30
    assert 10 < mirrored < 30


def find_change(old_HW: torch.Tensor, new_HW: torch.Tensor) -> tuple[int, bool]:
    """Shift and mirror image that make one scalar field of the other."""
    for shift in range(old_HW.shape[1]):
        rolled = torch.roll(old_HW, shift, -1)
        for flip in (False, True):
            if torch.allclose(rolled.flip(-2) if flip else rolled, new_HW):
                return shift, flip
    raise AssertionError("neither a shift nor a mirror image")


def test_batches_read_ahead_keep_their_order(make_dataset: MakeDataset) -> None:
    source, _, builder = setup(make_dataset(channels=CHANNELS), "full")
    sampler = Sampler({source.name: source.times(TRAIN, 6, 168)}, seed=3, micro_batch_size=2, micro_batches_per_step=3)
    got = [
        (step, micro_batch)
        for step, micro_batch, _ in batches(sampler, {source.name: builder}, first_step=5, steps=9, rank=1, ranks=3)
    ]
    assert got == [(step, sampler.micro_batches(step)[1]) for step in range(5, 9)]


@pytest.mark.parametrize("mode", ["full", "anomaly"])
def test_history_ends_with_the_input(make_dataset: MakeDataset, mode: str) -> None:
    folder = make_dataset(channels=CHANNELS)
    _, _, plain = setup(folder, mode)
    _, _, builder = setup(folder, mode, history_steps=2)
    batch = builder.build_batch(SAMPLES)
    assert batch.x_BTVHW is not None
    assert batch.x_BTVHW.shape == (2, 3, 4, 8, 16)
    for k in range(3):
        then = [s._replace(time_index=s.time_index - 2 + k) for s in SAMPLES]
        torch.testing.assert_close(batch.x_BTVHW[:, k], plain.build_batch(then).x_BVHW)
    expected = plain.build_batch(SAMPLES)
    assert expected.x_BTVHW is None
    for key in ("x_BVHW", "y_BOHW"):
        torch.testing.assert_close(getattr(batch, key), getattr(expected, key))
    torch.testing.assert_close(batch.network_target(), expected.network_target())


@pytest.mark.parametrize("mode", ["full", "anomaly"])
@pytest.mark.parametrize(("box", "multiple"), [([-50, 40, 300, 60], 1), ([-50, 70, 20, 200], 3)])
def test_a_region_is_cut_out_of_every_field(
    make_dataset: MakeDataset, mode: str, box: list[float], multiple: int
) -> None:
    """The first box crosses the first meridian of the grid, the second one is padded."""
    folder = make_dataset(channels=CHANNELS)
    source, _, whole = setup(folder, mode)
    crop = crop_to(source.grid, region_of(box), multiple)
    _, _, builder = setup(folder, mode, crop=crop)
    expected, batch = (m.build_batch(SAMPLES) for m in (whole, builder))
    for key in ("x_BVHW", "y_BOHW", "skip_BOHW"):
        if (field := getattr(expected, key)) is not None:
            np.testing.assert_array_equal(getattr(batch, key).numpy(), crop.apply(field.numpy()))
    again = builder.to_shard_z_scores(batch.y_BOHW, SAMPLES)
    for b, s in enumerate(SAMPLES):
        np.testing.assert_allclose(again[b], crop.apply(source.read(s.time_index + s.lead_steps)), atol=1e-5)


def test_augmentation_of_a_region_is_refused(make_dataset: MakeDataset) -> None:
    folder = make_dataset(channels=CHANNELS)
    crop = crop_to(DataSet(folder).select(None)[0].grid, region_of([-50, 40, 300, 60]))
    with pytest.raises(UserError, match=r"random_roll and data.random_flip need a global grid: set them to false"):
        setup(folder, "full", crop=crop, random_roll=True)


def test_nothing_in_common_is_refused(make_dataset: MakeDataset) -> None:
    source = DataSet(make_dataset(channels=CHANNELS)).select(None)[0]
    with pytest.raises(UserError, match=r"holds geopotential_500.*none of them is in model.variables and"):
        choose_variables(source, ["2m_temperature"], None, None)


def test_fine_tuning_keeps_the_normalisation_and_fits_new_variables(make_dataset: MakeDataset) -> None:
    def fit(channels: tuple[str, ...], max_lead_hours: float) -> Normalisation:
        source = DataSet(make_dataset(channels=channels, seed=len(channels))).select(None)[0]
        return fit_normalisation(
            [source], mode="anomaly", period=TRAIN, min_lead_hours=6, max_lead_hours=max_lead_hours
        )

    before, target = fit(CHANNELS, 24), fit((*CHANNELS, "2m_temperature"), 48)
    after = before.extended(target)
    assert after.lead_hours == [6, 12, 18, 24]
    for key in ("mean", "std", "anomaly_std", "r", "s"):
        tables = {name: getattr(after, key)[name] for name in CHANNELS}
        assert tables == {name: getattr(before, key)[name] for name in CHANNELS}
    assert after.anomaly_std["2m_temperature"] == target.anomaly_std["2m_temperature"]
    assert after.r["2m_temperature"] == pytest.approx(target.r["2m_temperature"][:4])
