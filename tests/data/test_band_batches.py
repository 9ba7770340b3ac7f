"""Batches cut to bands of rows: put together they are the whole batch; all ranks of a replica get the same samples."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from climax_hpc.data.batch_builder import SourceBatchBuilder
from climax_hpc.data.batches import Batch, batches
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.normalisation_fit import fit_normalisation
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sampler
from climax_hpc.model.band import RowBand

FIELDS = ("x_BVHW", "y_BOHW", "skip_BOHW", "y_BKOHW")


@pytest.fixture(scope="module")
def source(make_dataset: Callable[..., Path]) -> PackedSource:
    return DataSet(make_dataset()).select(None)[0]


def bands(size: int) -> list[RowBand]:
    """All bands of a sample, without a process group."""
    return [RowBand(place=place, size=size, group="none") for place in range(size)]


def of_steps(source: PackedSource, rank: int, ranks: int, band: RowBand | None, rollout_steps: int) -> list[Batch]:
    """Augmented batches of two steps of four micro-batches, in `anomaly` mode."""
    norm = fit_normalisation([source], mode="anomaly", period=None, min_lead_hours=6, max_lead_hours=24)
    names = list(source.channels)
    builder = SourceBatchBuilder(
        source, norm, inputs=[*names, "orography"], outputs=names, device=torch.device("cpu"), random_roll=True,
        random_flip=True, rollout_steps=rollout_steps,
    )  # fmt: skip
    times = source.times(None, 6, 6, tail_steps=rollout_steps)
    sampler = Sampler({source.name: times}, seed=0, micro_batch_size=2, micro_batches_per_step=4)
    stream = batches(sampler, {source.name: builder}, first_step=0, steps=2, rank=rank, ranks=ranks, band=band)
    return [batch for _, _, batch in stream]


@pytest.mark.parametrize("rollout_steps", [1, 2])
def test_bands_of_a_batch_are_its_rows(source: PackedSource, rollout_steps: int) -> None:
    whole = of_steps(source, 1, 2, None, rollout_steps)
    parts = [of_steps(source, 1, 2, band, rollout_steps) for band in bands(4)]
    assert len(whole) == 4
    for number, batch in enumerate(whole):
        cut = [part[number] for part in parts]
        for name in FIELDS:
            field = getattr(batch, name)
            if field is None:
                assert name == "y_BKOHW"
                assert rollout_steps == 1
                continue
            own = [getattr(each, name) for each in cut]
            assert all(each.is_contiguous() or name == "y_BOHW" for each in own)
            torch.testing.assert_close(torch.cat(own, -2), field, rtol=0, atol=0, equal_nan=True)
            assert own[0].untyped_storage().nbytes() < field.untyped_storage().nbytes()  # the rest is not kept
        assert [each.band for each in cut] == bands(4)
        for each in cut:
            assert torch.equal(each.lead_hours_B, batch.lead_hours_B)
            torch.testing.assert_close(
                torch.cat([c.network_target() for c in cut], -2), batch.network_target(), rtol=0, atol=0, equal_nan=True
            )
    assert whole[0].band is None
