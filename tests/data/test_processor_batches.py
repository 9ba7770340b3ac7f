"""Batches built block by block on a processor, bit for bit against operations on whole micro-batches."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from climax_hpc.data import normalised_fields
from climax_hpc.data.augmentation import Move
from climax_hpc.data.batch_builder import SourceBatchBuilder
from climax_hpc.data.batches import Batch
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.normalisation_fit import fit_normalisation
from climax_hpc.data.normalised_fields import Run, runs_of
from climax_hpc.data.prefetch import read_now
from climax_hpc.data.sampler import MicroBatch, Sample, hash64
from climax_hpc.fields.regions import crop_to, region_of
from climax_hpc.model.band import RowBand

CHANNELS = ("geopotential_500", "temperature_850", "v_component_of_wind_850", "2m_temperature")
STATIC = ("orography", "latitude")
SAMPLES = tuple(Sample(time_index=t, lead_steps=k) for t, k in ((3, 1), (60, 28), (17, 4)))
BAND = RowBand(place=1, size=4, group="none")
MakeDataset = Callable[..., Path]


def same_bits(found: Batch, expected: Batch) -> None:
    for field in fields(Batch):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(theirs, torch.Tensor):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True, msg=field.name)
        else:
            assert ours == theirs, field.name


@pytest.mark.parametrize("block_cells", [64, 300, 1 << 18])
@pytest.mark.parametrize("mode", ["full", "anomaly"])
@pytest.mark.parametrize(
    ("inputs", "outputs", "options"),
    [
        (CHANNELS, CHANNELS, {}),
        (CHANNELS, CHANNELS, {"random_roll": True, "random_flip": True}),
        (CHANNELS, CHANNELS[1:3], {"random_flip": True, "rollout_steps": 3}),
        (CHANNELS[::-1], (CHANNELS[3], CHANNELS[0]), {"random_roll": True, "counted": True}),
        (CHANNELS[:2], CHANNELS[1:], {"random_roll": True, "random_flip": True}),
        (CHANNELS, CHANNELS, {"history_steps": 2, "random_roll": True}),
        (CHANNELS[1:], CHANNELS[2:], {"region": True}),
        (CHANNELS, CHANNELS, {"band": BAND, "random_roll": True, "random_flip": True}),
    ],
)
def test_blocks_have_the_bits_of_whole_fields(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch, inputs: tuple[str, ...], outputs: tuple[str, ...],
    options: dict[str, Any], mode: str, block_cells: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(normalised_fields, "_BLOCK_CELLS", block_cells)
    hole = np.zeros((8, 16), bool)
    hole[2:5, 3] = True
    source = DataSet(make_dataset(channels=CHANNELS, missing={CHANNELS[1]: hole})).select(None)[0]
    norm = fit_normalisation([source], mode=mode, period=("2001", "2003"), min_lead_hours=6, max_lead_hours=168)
    options = dict(options)
    if options.pop("counted", False):
        options["counted_HW"] = np.arange(128).reshape(8, 16) % 5 > 0
    if options.pop("region", False):
        options["crop"] = crop_to(source.grid, region_of([20, 70, -30, 60]), 1)
    builder = SourceBatchBuilder(
        source, norm, inputs=(*inputs, *STATIC), outputs=outputs, device=torch.device("cpu"), **options
    )
    whole = SourceBatchBuilder(
        source, norm, inputs=(*inputs, *STATIC), outputs=outputs, device=torch.device("cpu"), **options
    )
    monkeypatch.setattr(whole, "field_blocks", whole.whole_fields)
    for key in range(4):
        micro_batch = MicroBatch(source=source.name, samples=SAMPLES, key=hash64(key))
        raw = read_now(builder.spec.of(micro_batch), SAMPLES, builder.device)
        same_bits(builder.assemble(micro_batch, raw), whole.assemble(micro_batch, raw))


def test_channels_are_taken_in_runs() -> None:
    assert runs_of([0, 1, 2]) == [Run(0, 0, 3)]
    assert runs_of([4, 5, 1, 0, 7]) == [Run(4, 0, 2), Run(1, 2, 1), Run(0, 3, 1), Run(7, 4, 1)]
    assert runs_of([]) == []


@pytest.mark.parametrize("move", [Move(0, False), Move(3, False), Move(0, True), Move(6, True)])
def test_a_move_is_a_roll_and_a_mirror_image(move: Move) -> None:
    x_CHW = torch.randn(2, 5, 7)
    moved = torch.empty_like(x_CHW)
    move.copy(x_CHW, moved)
    expected = torch.roll(x_CHW.flip(-2) if move.mirrored else x_CHW, move.shift, -1)
    assert torch.equal(moved, expected)
