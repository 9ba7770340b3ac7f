"""Reading packed data sets: the same values as h5py, time indices across shards, damaged bytes are noticed."""

import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from climax_hpc.data import chunk_reader
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.errors import UserError
from climax_hpc.shards.manifest import read_manifest

MakeDataset = Callable[..., Path]
NAME = "JCM-C_synthetic_r1i1p1f1"


def only_source(folder: Path) -> PackedSource:
    return DataSet(folder).select(None)[0]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_reads_what_h5py_reads(make_dataset: MakeDataset, dtype: str) -> None:
    folder = make_dataset(dtype=dtype, years=2, shards_per_segment=3)
    source = only_source(folder)
    expected = []
    for path in sorted((folder / NAME).glob(f"{NAME}_*.h5")):
        with h5py.File(path) as file:
            expected.append(file["fields"][:])
    values_TCHW = np.concatenate(expected)
    assert len(values_TCHW) == len(source.hours) == 96
    for t in (0, 15, 16, 47, 48, 95):
        np.testing.assert_array_equal(source.read(t), values_TCHW[t])


def test_segments_and_periods(make_dataset: MakeDataset) -> None:
    source = only_source(make_dataset(years=3, steps_per_year=40, first_year=2001))
    assert [(s.first, s.steps) for s in source.segments] == [(0, 40), (40, 40), (80, 40)]
    assert [(s.first, s.steps) for s in source.within(("2002", "2003"))] == [(40, 40), (80, 40)]
    # Six-hourly from 1 January 00 h: the third day is steps 8 to 11.
    assert [(s.first, s.steps) for s in source.within(("2002-01-03", "2002-01-03"))] == [(48, 4)]
    times = source.times(("2001", "2001"), 6, 168)
    assert (times.segments, times.min_lead_steps, times.max_lead_steps) == (((0, 40),), 1, 28)
    assert source.times(None, 7, 30).min_lead_steps == 2
    with pytest.raises(
        UserError, match=r"no lead time in 7 … 11 h is a multiple of the 6 h step.*: widen data\.min_le"
    ):
        source.times(None, 7, 11)


@pytest.mark.parametrize(("frequency", "kind"), [("mon", "monthly"), ("yr", "yearly")])
def test_lead_times_need_a_fixed_time_step(make_dataset: MakeDataset, frequency: str, kind: str) -> None:
    folder = make_dataset()
    entry = read_manifest(folder).sources[NAME]
    shard = replace(entry.shards[0], steps=1, last=entry.shards[0].first)
    entry = replace(entry, frequency=frequency, step_hours=0.0, shards=[shard])
    with pytest.raises(UserError, match=rf"source {NAME} is {kind}: lead times in hours need data with a fixed"):
        PackedSource(folder, NAME, entry).times(None, 6, 168)


def test_climatology_is_that_of_day_and_hour(make_dataset: MakeDataset) -> None:
    folder = make_dataset()
    source = only_source(folder)
    with h5py.File(folder / NAME / "climatology.h5") as file:
        slots = list(zip(file["day_of_year"][:], file["hour"][:], strict=True))
        for t in (0, 5, 60):
            date = source.date(t)
            k = slots.index((date.dayofyr, date.hour))
            np.testing.assert_array_equal(source.read_climatology(t), file["fields"][k])


def test_latitude_is_a_static_field_of_every_source(make_dataset: MakeDataset) -> None:
    source = only_source(make_dataset())
    np.testing.assert_allclose(source.static["latitude"][:, 3], source.grid.lat)


@pytest.mark.parametrize("seed", range(5))
def test_one_flipped_bit_is_noticed(make_dataset: MakeDataset, seed: int) -> None:
    folder = make_dataset(years=1, shards_per_segment=1)
    shard = next((folder / NAME).glob(f"{NAME}_*.h5"))
    step = 7
    with h5py.File(shard) as file:
        chunk = file["fields"].id.get_chunk_info(step)
    content = bytearray(shard.read_bytes())
    bit = int(np.random.default_rng(seed).integers(8 * chunk.size))
    content[chunk.byte_offset + bit // 8] ^= 1 << bit % 8
    shard.write_bytes(content)
    source = only_source(folder)
    source.read(step - 1)
    with pytest.raises(UserError, match=rf"{shard.name}: time step {step} does not match.*restore it from a copy"):
        source.read(step)


def test_sources_by_short_name(make_dataset: MakeDataset) -> None:
    dataset = DataSet(make_dataset({"A_hist_r1": {}, "A_hist_r2": {}, "B_hist_r1": {}}))
    assert [s.name for s in dataset.select(["B"])] == ["B_hist_r1"]
    assert [s.name for s in dataset.select(["B_hist_r1", "A_hist_r2"])] == ["A_hist_r2", "B_hist_r1"]
    with pytest.raises(UserError, match="several sources match 'A'"):
        dataset.select(["A"])
    with pytest.raises(UserError, match=r"no source 'C'.*it holds A_hist_r1, A_hist_r2, B_hist_r1"):
        dataset.select(["C"])


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no manifest\.json"):
        DataSet(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": "something else", "schema_version": 1}')
    with pytest.raises(UserError, match="is something else version 1"):
        DataSet(tmp_path)


def test_more_shards_than_open_files(make_dataset: MakeDataset) -> None:
    before, (soft, hard) = len(list(Path("/proc/self/fd").iterdir())), resource.getrlimit(resource.RLIMIT_NOFILE)
    folder = make_dataset(years=20, steps_per_year=8, shards_per_segment=4)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 40, hard))
    try:
        source = only_source(folder)
        for t in range(len(source.hours)):
            source.read(t)
        assert len(list(Path("/proc/self/fd").iterdir())) - before <= 10  # two data sets more would do
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_each_shard_is_opened_once_where_the_limit_allows(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 shards of two sources, read in turn twice: the second time none is opened."""
    two = {"A_hist_r1": {}, "B_hist_r1": {}}
    opened: list[str] = []

    class Counting(chunk_reader.FileHandle):
        def __init__(self, path: str) -> None:
            opened.append(path)
            super().__init__(path)

    monkeypatch.setattr(chunk_reader, "FileHandle", Counting)
    dataset = DataSet(make_dataset(two, years=20, steps_per_year=8, shards_per_segment=2))
    for _ in range(2):
        for t in range(160):
            for source in dataset.select(None):
                source.read(t)
    assert len(opened) == len(set(opened)) == 80


def test_missing_climatology_says_how_to_get_one(make_dataset: MakeDataset) -> None:
    with pytest.raises(UserError, match="pack it with climatology: true"):
        only_source(make_dataset(climatology=False)).read_climatology(0)


def test_many_threads_read_many_shards(make_dataset: MakeDataset) -> None:
    """All threads open files and drop them from the cache; none may be closed while it is read."""
    source = only_source(make_dataset(years=20, steps_per_year=8, shards_per_segment=4))
    expected = [source.read(t) for t in range(len(source.hours))]
    for _ in range(5):
        fresh = DataSet(source._folder).select(None)[0]
        with ThreadPoolExecutor(8) as pool:
            for value, truth in zip(pool.map(fresh.read, range(len(expected))), expected, strict=True):
                np.testing.assert_array_equal(value, truth)
