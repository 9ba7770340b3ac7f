"""Ranks that share a sample read and build its rows alone: bit for bit those of whole batches, from any shards."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from climax_hpc.data.augmentation import mirrored
from climax_hpc.data.batch_builder import SourceBatchBuilder
from climax_hpc.data.batches import Batch, batches
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.normalisation_fit import fit_normalisation
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.prefetch import read_now
from climax_hpc.data.sampler import MicroBatch, Sample, Sampler, hash64
from climax_hpc.data.solar_inputs import with_solar
from climax_hpc.data.tendency_fit import with_tendencies
from climax_hpc.data_prep.config import RepackConfig
from climax_hpc.data_prep.repack import repack
from climax_hpc.fields.regions import crop_to, region_of
from climax_hpc.fields.variables import SOLAR, tendency_name
from climax_hpc.model.band import RowBand

CHANNELS = ("geopotential_500", "v_component_of_wind_850", "2m_temperature")
CHANGES = (tendency_name("v_component_of_wind_850"),)
FIELDS = ("x_BVHW", "y_BOHW", "skip_BOHW", "y_BKOHW", "solar_BKGHW")
CPU = torch.device("cpu")
Folders = dict[str, Path]


@pytest.fixture(scope="module")
def folders(make_dataset: Callable[..., Path]) -> Folders:
    """The same data with whole steps as chunks, and with bands of three of eight rows, which no rank's band is."""
    hole = np.zeros((8, 16), bool)
    hole[1:4, 3:9] = True
    folder = make_dataset(channels=CHANNELS, years=2, missing={CHANNELS[2]: hole})
    banded = repack(RepackConfig(dataset=str(folder), output=str(folder.with_name("banded")), chunks="2x3")).parent
    return {"whole": folder, "banded": banded}


def bands(size: int) -> list[RowBand]:
    """All bands of a sample, without a process group."""
    return [RowBand(place=place, size=size, group="none") for place in range(size)]


def source_of(folder: Path) -> PackedSource:
    return DataSet(folder).select(None)[0]


def builder_of(source: PackedSource, mode: str, inputs: tuple[str, ...], **options: Any) -> SourceBatchBuilder:
    norm = fit_normalisation([source], mode=mode, period=None, min_lead_hours=6, max_lead_hours=24)
    norm = with_tendencies(with_solar(norm, tuple(SOLAR)), [source], CHANGES, None)
    return SourceBatchBuilder(source, norm, inputs=inputs, outputs=CHANNELS, device=CPU, **options)


def of_steps(builder: SourceBatchBuilder, source: PackedSource, whole_fields: bool) -> list[Batch]:
    """The batches of replica 1 of 2 in two steps of four micro-batches."""
    if whole_fields:  # as on a GPU
        builder.field_blocks = builder.whole_fields  # type: ignore[method-assign]
    times = source.times(None, 6, 6, history_steps=1, tail_steps=builder.spec.rollout_steps)
    sampler = Sampler({source.name: times}, seed=3, micro_batch_size=3, micro_batches_per_step=4)
    stream = batches(sampler, {source.name: builder}, first_step=0, steps=2, rank=1, ranks=2)
    return [batch for _, _, batch in stream]


def check(parts: list[list[Batch]], whole: list[Batch]) -> None:
    """Every field of every batch of every band has the bits of its rows of the whole."""
    assert len(whole) == 4
    for number, batch in enumerate(whole):
        assert batch.band is None
        for part, band in zip(parts, bands(len(parts)), strict=True):
            assert part[number].band == band
            for name in FIELDS:
                own, field = getattr(part[number], name), getattr(batch, name)
                assert (own is None) == (field is None), name
                if field is not None:
                    torch.testing.assert_close(own, band.of_whole(field), rtol=0, atol=0, equal_nan=True, msg=name)
            torch.testing.assert_close(
                part[number].network_target(), band.of_whole(batch.network_target()), rtol=0, atol=0, equal_nan=True
            )
            assert torch.equal(part[number].lead_hours_B, batch.lead_hours_B)


@pytest.mark.parametrize("whole_fields", [False, True])
@pytest.mark.parametrize("chunks", ["whole", "banded"])
@pytest.mark.parametrize(
    ("mode", "inputs", "options"),
    [
        ("full", (*CHANNELS, "latitude"), {}),
        ("full", (*CHANNELS, "orography", "latitude"), {"random_roll": True, "random_flip": True}),
        ("anomaly", (*CHANNELS, *CHANGES, *SOLAR, "orography", "latitude"), {"random_roll": True, "random_flip": True}),
        ("full", (*CHANNELS, *CHANGES, *SOLAR, "latitude"), {"random_flip": True, "rollout_steps": 3}),
        ("anomaly", (*CHANNELS, *SOLAR, "latitude"), {"random_roll": True, "rollout_steps": 2}),
    ],
)
def test_bands_are_the_rows_of_whole_batches(
    folders: Folders, mode: str, inputs: tuple[str, ...], options: dict[str, Any], chunks: str, whole_fields: bool
) -> None:
    truth, source = source_of(folders["whole"]), source_of(folders[chunks])
    one = builder_of(truth, mode, inputs, **options)
    whole = of_steps(one, truth, whole_fields)
    for size in (2, 4):
        builders = [builder_of(source, mode, inputs, band=band, **options) for band in bands(size)]
        assert all(builder.spec.nbytes(4) * size == one.spec.nbytes(4) for builder in builders)
        check([of_steps(builder, source, whole_fields) for builder in builders], whole)


def test_bands_of_a_region_are_its_rows(folders: Folders) -> None:
    """Three rows and 7 columns, padded to 4 × 8; cells outside the region do not count."""
    source = source_of(folders["banded"])
    crop = crop_to(source.grid, region_of([-30, 45, 300, 90]), 4)
    options = {
        "crop": crop,
        "counted_HW": np.arange(crop.padding.size).reshape(crop.padding.shape) % 3 > 0,
    }
    inputs = (*CHANNELS, *SOLAR, "orography", "latitude")
    whole = of_steps(builder_of(source, "anomaly", inputs, **options), source, False)
    builders = [builder_of(source, "anomaly", inputs, band=band, **options) for band in bands(2)]
    check([of_steps(builder, source, False) for builder in builders], whole)
    rows = [builder.spec.part.rows for builder in builders]
    assert rows[0] is not None
    assert rows[1] is not None
    assert rows[0][1] == rows[1][0]  # neither reads the other's


def test_a_rank_reads_only_the_chunks_of_its_band(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first quarter of eight rows lies in one band of three rows, and its mirror image in another."""
    source, asked, real = source_of(folders["banded"]), 0, os.preadv

    def counted(descriptor: int, buffers: Any, offset: int) -> int:
        nonlocal asked
        asked += sum(map(len, buffers))
        return real(descriptor, buffers, offset)

    builder = builder_of(source, "full", CHANNELS, band=bands(4)[0], random_flip=True)
    micro_batch = MicroBatch(source=source.name, samples=(Sample(time_index=3, lead_steps=1),) * 3, key=hash64(0))
    spec = builder.spec.of(micro_batch)
    assert spec.mirrored_B == tuple(mirrored(micro_batch.key, 3))
    assert len(set(spec.mirrored_B)) == 2
    assert (spec.part.rows, spec.mirrored_part and spec.mirrored_part.rows) == ((0, 2), (6, 8))
    monkeypatch.setattr(os, "preadv", counted)
    read_now(spec, micro_batch.samples, CPU)
    chunk = 2 * 3 * 16 * source.dtype.itemsize
    assert asked == 3 * 2 * 2 * chunk  # samples, times, blocks of channels


def test_spec_without_mirror_images_reads_one_part(folders: Folders) -> None:
    source = source_of(folders["whole"])
    builder = builder_of(source, "full", CHANNELS, band=bands(2)[1], random_roll=True)
    micro_batch = MicroBatch(source=source.name, samples=(Sample(time_index=3, lead_steps=1),), key=hash64(0))
    assert builder.spec.of(micro_batch) == builder.spec
    shorter = builder.spec.of(replace(micro_batch, rollout_steps=1))
    assert (shorter.mirrored_part, shorter.mirrored_B) == (None, ())
