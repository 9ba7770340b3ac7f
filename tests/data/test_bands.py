"""Shards in bands: every part of a step as in one chunk per step, only its chunks read, damage found, same batches."""

import os
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from climax_hpc.data.batch_builder import SourceBatchBuilder
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.field_part import FieldPart, pieces_of
from climax_hpc.data.normalisation_fit import fit_normalisation
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sample
from climax_hpc.data_prep.config import RepackConfig
from climax_hpc.data_prep.repack import repack
from climax_hpc.data_prep.verify import verify
from climax_hpc.errors import UserError
from climax_hpc.fields.regions import band_of, crop_to, region_of
from climax_hpc.shards.chunk_layout import ChunkLayout
from climax_hpc.shards.shard import open_shard
from climax_hpc.shards.xarray_view import open_physical

from .test_damaged_shards import detect

MakeDataset = Callable[..., Path]
CHANNELS = ("2m_temperature", "10m_v_component_of_wind", "geopotential_500", "temperature_850", "temperature_500")
SAMPLES = [Sample(time_index=3, lead_steps=4), Sample(time_index=20, lead_steps=1)]
CPU = torch.device("cpu")


def banded(folder: Path, chunks: str = "2x3") -> Path:
    """The data set with other chunks, beside it."""
    output = folder.with_name(f"{folder.name}_{chunks}")
    return repack(RepackConfig(dataset=str(folder), output=str(output), chunks=chunks)).parent


def source_of(folder: Path) -> PackedSource:
    return DataSet(folder).select(None)[0]


@pytest.fixture
def whole(make_dataset: MakeDataset) -> Path:
    """Five channels on 8 × 6 cells: neither is a multiple of the chunks."""
    return make_dataset(shape=(8, 6), years=2, steps_per_year=24, channels=CHANNELS)


def every_part(channels: int, rows: int) -> list[FieldPart]:
    """Parts with every range of rows, and with one, some and all channels."""
    chosen = [None, (0,), (channels - 1,), (0, 2), (1, 2, channels - 1)]
    ranges = [None, *((a, b) for a in range(rows) for b in range(a + 1, rows + 1))]
    return [FieldPart(channels=c, rows=r) for c, r in product(chosen, ranges)]


@pytest.mark.parametrize("chunks", ["step", "1x1", "2x3", "5x4", "3x8"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_part_is_that_of_the_whole_field(make_dataset: MakeDataset, chunks: str, dtype: str) -> None:
    land = {CHANNELS[0]: np.arange(48).reshape(8, 6) % 5 == 0}
    folder = make_dataset(shape=(8, 6), years=1, steps_per_year=6, channels=CHANNELS, dtype=dtype, missing=land)
    source, truth = source_of(banded(folder, chunks)), source_of(folder)
    for part in every_part(*source.chunk_shape[:2]):
        cells = (slice(None) if part.channels is None else list(part.channels)), slice(*(part.rows or (None,)))
        for expected, read in (
            (truth.read(5), source.read(5, part)),
            (truth.read_climatology(5), source.read_climatology(5, part)),
        ):
            assert read.dtype == expected.dtype
            np.testing.assert_array_equal(read, expected[cells])


def test_steps_are_read_into_the_places_of_a_batch(whole: Path) -> None:
    source, truth = source_of(banded(whole)), source_of(whole)
    part, times = FieldPart(channels=(1, 2, 4), rows=(2, 7)), [7, 8, 9, 3, 26, 25]
    out = np.full((len(times), 3, 5, 6), 7, source.dtype)
    source.read_into(times, out, part)
    for t, read_chW in zip(times, out, strict=True):
        np.testing.assert_array_equal(read_chW, truth.read(t)[[1, 2, 4], 2:7])


def test_bytes_have_one_place_each() -> None:
    """The pieces of a part cover every byte of it once, and every byte of its chunks once."""
    layout = ChunkLayout(shape=(5, 7, 3), channels=2, rows=3)
    for part in every_part(5, 7):
        targets = np.zeros(int(np.prod(part.shape_in(layout.shape))) * 2, int)
        for chunk in pieces_of(layout, part, 2):
            assert sum(length for _, length in chunk.pieces) == layout.chunk_cells * 2
            for target, length in chunk.pieces:
                if target >= 0:
                    targets[target : target + length] += 1
        np.testing.assert_array_equal(targets, 1)


def test_only_the_chunks_of_a_part_are_read(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(banded(whole))
    chunk, asked, real = 2 * 3 * 6 * source.dtype.itemsize, 0, os.preadv
    source.read(0)

    def counted(descriptor: int, buffers: Any, offset: int) -> int:
        nonlocal asked
        asked += sum(map(len, buffers))
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    for part, chunks in (
        (FieldPart(), 9),
        (FieldPart(channels=(1,)), 3),
        (FieldPart(channels=(0, 4)), 6),
        (FieldPart(rows=(3, 6)), 3),
        (FieldPart(rows=(2, 4)), 6),
        (FieldPart(channels=(2, 3), rows=(6, 8)), 1),
    ):
        asked = 0
        source.read(4, part)
        assert asked == chunks * chunk


def test_reads_that_return_less_are_continued(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, expected, real = source_of(banded(whole)), source_of(whole).read(6), os.preadv

    def short(descriptor: int, buffers: Any, offset: int) -> int:
        return real(descriptor, [memoryview(buffers[0])[:5]], offset)

    source.read(0)
    monkeypatch.setattr(os, "preadv", short)
    np.testing.assert_array_equal(source.read(6), expected)


def test_more_pieces_than_one_read_takes(make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_dataset(shape=(8, 6), years=1, steps_per_year=4, channels=CHANNELS)
    monkeypatch.setattr("climax_hpc.data.chunk_reader._MOST_PIECES", 2)
    source, part = source_of(banded(folder, "5x4")), FieldPart(channels=(0, 2, 4), rows=(1, 7))
    np.testing.assert_array_equal(source.read(2, part), source_of(folder).read(2)[[0, 2, 4], 1:7])


@pytest.mark.parametrize("chunks", ["2x3", "1x8"])
@pytest.mark.parametrize("seed", range(8))
def test_damage_to_a_banded_shard_is_noticed(make_dataset: MakeDataset, tmp_path: Path, chunks: str, seed: int) -> None:
    folder = make_dataset(shape=(4, 8), years=1, steps_per_year=6, channels=CHANNELS[:3])
    detect(banded(folder, chunks), tmp_path, seed)


@pytest.mark.faults
def test_400_damaged_banded_files_are_noticed_at_read(make_dataset: MakeDataset, tmp_path: Path) -> None:
    folder = banded(make_dataset(shape=(4, 8), years=1, steps_per_year=6, channels=CHANNELS[:3]))
    for seed in range(400):
        detect(folder, tmp_path, seed)


def test_a_damaged_chunk_is_named_and_does_not_matter_to_other_parts(whole: Path) -> None:
    folder = banded(whole)
    source = source_of(folder)
    path = folder / source.files[0].file
    with h5py.File(path) as file:
        place = file["fields"].id.get_chunk_info_by_coord((7, 2, 3, 0)).byte_offset
    with path.open("r+b") as raw:
        raw.seek(place + 5)
        byte = raw.read(1)[0]
        raw.seek(place + 5)
        raw.write(bytes([byte ^ 8]))
    np.testing.assert_array_equal(source.read(7, FieldPart(rows=(0, 3))), source_of(whole).read(7)[:, :3])
    np.testing.assert_array_equal(source.read(7, FieldPart(channels=(0, 4))), source_of(whole).read(7)[[0, 4]])
    message = r"time step 7 \(channels 2 … 3, rows 3 … 5\) does not match its checksum.*restore it"
    with pytest.raises(UserError, match=message):
        source.read(7, FieldPart(channels=(2,)))
    with pytest.raises(UserError, match=r"time step 7 .*does not match its checksum"):
        verify(folder)
    with pytest.raises(UserError, match="time step 7 does not match its checksum"):
        open_physical(path)


def test_the_xarray_view_gives_the_same_values(whole: Path) -> None:
    ours, theirs = (open_physical(f / source_of(f).files[0].file) for f in (banded(whole), whole))
    assert ours.equals(theirs)


def test_versions_are_told_apart(whole: Path) -> None:
    folder = banded(whole)
    name = source_of(folder).files[0].file
    versions = []
    for path in (whole / name, folder / name):
        with h5py.File(path) as file:
            versions.append((int(file.attrs["schema_version"]), file["checksum"].shape))
    assert versions == [(1, (12,)), (3, (12, 9))]  # the first is as version 1 wrote it
    copy = folder.parent / "later.h5"
    shutil.copy(folder / name, copy)
    with h5py.File(copy, "r+") as file:
        file.attrs["schema_version"] = 4
    with (
        pytest.raises(UserError, match="version 4, not climax_hpc/shard version 1 or 2"),
        open_shard(copy, str(copy)),
    ):
        pass


def builder_of(source: PackedSource, **options: Any) -> SourceBatchBuilder:
    """A builder of three inputs, one of them a tendency's state, and two outputs."""
    norm = fit_normalisation(
        [source], mode=options.pop("mode", "full"), period=None, min_lead_hours=6, max_lead_hours=24
    )
    inputs = options.pop("inputs", ("2m_temperature", "temperature_850", "orography", "latitude"))
    outputs = options.pop("outputs", ("temperature_850", "10m_v_component_of_wind"))
    return SourceBatchBuilder(source, norm, inputs=inputs, outputs=outputs, device=CPU, **options)


@pytest.mark.parametrize("mode", ["full", "anomaly"])
@pytest.mark.parametrize("box", [None, [-50, 40, 300, 60]])
def test_batches_are_the_same_and_read_only_what_they_need(whole: Path, mode: str, box: list[float] | None) -> None:
    got = []
    for folder in (whole, banded(whole)):
        source = source_of(folder)
        crop = None if box is None else crop_to(source.grid, region_of(box))
        builder = builder_of(source, mode=mode, crop=crop)
        batch = builder.build_batch(SAMPLES)
        got.append((batch.x_BVHW, batch.y_BOHW, builder.to_shard_z_scores(batch.y_BOHW, SAMPLES)))
        assert builder.spec.part.channels is not None
        assert [source.channels[c] for c in builder.spec.part.channels] == [
            "2m_temperature", "10m_v_component_of_wind", "temperature_850",
        ]  # fmt: skip
        assert builder.spec.part.rows == (None if box is None else (int(crop.rows[0]), int(crop.rows[-1]) + 1))
    for ours, theirs in zip(*got, strict=True):
        assert torch.equal(ours, theirs)


def test_rows_beyond_the_grid_are_no_band(whole: Path) -> None:
    grid = source_of(whole).grid
    assert band_of(grid, (3, 8)).grid.lat.tolist() == grid.lat[3:8].tolist()
    with pytest.raises(ValueError, match=r"rows \(4, 9\) are no range of a grid of 8 rows"):
        band_of(grid, (4, 9))


@pytest.mark.parametrize("part", [{"channels": (2, 1)}, {"channels": ()}, {"rows": (3, 3)}, {"rows": (-1, 2)}])
def test_parts_that_are_none_are_refused(part: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"do not ascend|are no range"):
        FieldPart(**part)


def test_parts_beyond_the_fields_are_refused(whole: Path) -> None:
    for part in (FieldPart(channels=(5,)), FieldPart(rows=(0, 9))):
        with pytest.raises(ValueError, match=r"reach beyond fields of shape \(5, 8, 6\)"):
            source_of(whole).read(0, part)
