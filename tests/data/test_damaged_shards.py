"""Random damage to packed files: for any changed byte, the error names file and time step, and says what to do.

`make faults` runs 400 cases, the default suite a few of them.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from climax_hpc.data.dataset import DataSet
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.errors import UserError
from climax_hpc.shards.chunk_table import chunk_table, header_checksum

MakeDataset = Callable[..., Path]
EVERY = range(400)
SAMPLE = range(24)


def read_all(folder: Path) -> None:
    """Read all that training reads of a source: times, static fields, every time step and its climatology."""
    source = DataSet(folder).select(None)[0]
    _ = source.hours, source.static
    for t in range(source.steps):
        source.read(t)
        source.read_climatology(t)


def strike(path: Path, random: np.random.Generator) -> str:
    """Flip one bit anywhere, or truncate the file to any length; returns what was done."""
    length = path.stat().st_size
    if random.random() < 0.25:
        kept = int(random.integers(length))
        os.truncate(path, kept)
        return f"cut to {kept} of {length}"
    with path.open("r+b") as file:
        place, bit = int(random.integers(length)), int(random.integers(8))
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))
    return f"bit {bit} of byte {place}"


def detect(packed: Path, tmp_path: Path, seed: int) -> None:
    """Damage a copy of the data set; reading must raise, and name the time step where a chunk is damaged."""
    folder = tmp_path / str(seed)
    shutil.copytree(packed, folder)
    random = np.random.default_rng([7, seed])
    files = sorted(folder.rglob("*.h5"))
    path = files[int(random.integers(len(files)))]
    with h5py.File(path) as file:
        table = chunk_table(file["fields"]) if "fields" in file else None
    done = strike(path, random)
    with pytest.raises(UserError) as caught:
        read_all(folder)
    message = str(caught.value)
    assert str(path) in message, done
    assert "restore it from a copy, or pack again" in message, done
    assert any(what in message for what in ("time step", "slots 0 … ", "static fields")), done
    if done.startswith("bit") and table is not None:
        place = int(done.split()[-1])
        hit = (table.offset_N <= place) & (place < table.offset_N + table.size_N)
        if hit.any():
            assert f"time step {int(table.step_N[hit][0])} " in message, done
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def packed(make_dataset: MakeDataset) -> Path:
    return make_dataset(shape=(4, 8), years=2, steps_per_year=6, channels=("2m_temperature", "geopotential_500"))


@pytest.mark.parametrize("seed", SAMPLE)
def test_damage_is_noticed_at_read(packed: Path, tmp_path: Path, seed: int) -> None:
    detect(packed, tmp_path, seed)


@pytest.mark.faults
def test_400_damaged_files_are_noticed_at_read(packed: Path, tmp_path: Path) -> None:
    for seed in EVERY:
        detect(packed, tmp_path, seed)


def test_a_file_truncated_while_it_is_read_is_noticed(make_dataset: MakeDataset) -> None:
    folder = make_dataset(years=1, shards_per_segment=1)
    source = DataSet(folder).select(None)[0]
    source.read(0)
    path = folder / source.files[0].file
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UserError, match=rf"time step {source.steps - 1} lies beyond the end of the file.*restore it"):
        source.read(source.steps - 1)


def compressed(folder: Path, **filters: object) -> tuple[PackedSource, np.ndarray]:
    """Rewrite the first shard with HDF5 filters, with its manifest entry; the source and its fields."""
    whole = DataSet(folder).select(None)[0]
    path = folder / whole.files[0].file
    with h5py.File(path) as file:
        content = {name: file[name][:] for name in file if name != "fields"}
        fields, attributes = file["fields"][:], dict(file.attrs)
    with h5py.File(path, "w") as file:
        file.create_dataset("fields", data=fields, chunks=(1, *fields.shape[1:]), **filters)
        for name, values in content.items():
            file[name] = values
        file.attrs.update(attributes)
    entry = whole._entry
    shard = replace(entry.shards[0], header_xxh3=header_checksum(path))
    return PackedSource(folder, whole.name, replace(entry, shards=[shard, *entry.shards[1:]])), fields


@pytest.mark.parametrize("shuffle", [False, True])
def test_gzip_chunks_are_read_and_checked(make_dataset: MakeDataset, shuffle: bool) -> None:
    source, fields_TCHW = compressed(make_dataset(years=1), compression="gzip", shuffle=shuffle)
    for t, field_CHW in enumerate(fields_TCHW):
        np.testing.assert_array_equal(source.read(t), field_CHW)
    together = np.empty_like(fields_TCHW)
    source.read_into(range(len(together)), together)
    np.testing.assert_array_equal(together, fields_TCHW)
    file = source._file(source._shards[0])
    with open(file._path, "r+b") as raw:
        raw.seek(file._offsets[5] + file._sizes[5] // 2)
        raw.write(b"\xff\x00\xff")
    with pytest.raises(UserError, match=r"time step 5 .*restore it from a copy"):
        source.read(5)


def test_other_filters_are_refused(make_dataset: MakeDataset) -> None:
    source, _ = compressed(make_dataset(years=1), compression="lzf")
    with pytest.raises(UserError, match=r"HDF5 filter 32000 \(lzf\).*is not supported: pack it again"):
        source.read(0)
