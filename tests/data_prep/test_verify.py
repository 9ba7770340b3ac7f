"""A changed byte anywhere in a packed data set is detected, with file, time step and fix."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from climax_hpc.data_prep.config import PackConfig, VerifyConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.verify import verify, verify_command
from climax_hpc.errors import UserError
from climax_hpc.shards.manifest import FILE_NAME, read_manifest

Settings = Callable[..., PackConfig]


@pytest.fixture
def dataset(cmip6: Any, settings: Settings) -> Path:
    """A packed data set of one source in two shards of 6 steps."""
    cmip6("tas", times=cmip6.six_hourly(12))
    return pack(settings(steps_per_shard=6)).parent


def shard(dataset: Path, number: int) -> Path:
    return dataset / next(iter(read_manifest(dataset).sources.values())).shards[number].file


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 4
    path.write_bytes(bytes(raw))


def test_an_unchanged_data_set_passes(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify_command(VerifyConfig(dataset=str(dataset)))
    assert "1 sources, 2 shards, 12 steps" in capsys.readouterr().out


def test_a_flipped_bit_in_a_field_names_file_and_step(dataset: Path) -> None:
    path = shard(dataset, 1)
    with h5py.File(path) as file:
        offset = file["fields"].id.get_chunk_info(4).byte_offset
    flip(path, offset + 77)
    with pytest.raises(UserError, match=rf"{path}: time step 4 \(1850-01-03T12.*checksum.*restore it .* or pack again"):
        verify(dataset)


def test_flipped_bits_and_cuts_anywhere_are_found(dataset: Path) -> None:
    source = dataset / "TEST-1_historical_r1i1p1f1"
    files = [shard(dataset, 0), source / "climatology.h5", source / "static.h5"]
    rng = np.random.default_rng(0)
    for path in files:
        whole = path.read_bytes()
        for at in [0, len(whole) - 1, *rng.integers(0, len(whole), 40).tolist()]:
            flip(path, at)
            with pytest.raises(UserError, match=rf"{path}.*(time step|slot|static fields).*restore it"):
                verify(dataset)
            path.write_bytes(whole[:at])
            with pytest.raises(UserError, match=rf"{path}.*(time step|slot|static fields).*restore it"):
                verify(dataset)
            path.write_bytes(whole)
    verify(dataset)


def test_an_absent_shard_is_named(dataset: Path) -> None:
    path = shard(dataset, 0)
    path.unlink()
    with pytest.raises(UserError, match=rf"{path} .*: does not exist; restore it"):
        verify(dataset)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s["channels"].__setitem__(0, "skin_temperature"), "is damaged .*statistics must hold"),
        (lambda s: s["statistics"]["2m_temperature"].__setitem__("mean", 1.0), "mean differ from manifest"),
        (lambda s: s["shards"][0].__setitem__("steps", 5), "is damaged .* has 5 steps from 1850"),
        (lambda s: s["shards"][0].__setitem__("bytes", 5), "bytes differ from manifest"),
        (lambda s: s["grid"]["lat"].reverse(), "grid differ from manifest"),
        (lambda s: s["static"].__setitem__(0, "orography"), "static differ from manifest"),
        (lambda s: s["static_file"].__setitem__("bytes", 5), "bytes differ from manifest"),
        (lambda s: s.update(static_file=None), "static differ from manifest"),
        (lambda s: s["identity"].__setitem__("source_id", "TEST-2"), "identity differ from manifest"),
        (lambda s: s.__delitem__("calendar"), "manifest.json: is damaged .*calendar is missing"),
    ],
)
def test_an_edited_manifest_of_version_1_is_found(dataset: Path, edit: Any, message: str) -> None:
    """It has no hash of its own; the shards show the edit."""
    manifest = json.loads((dataset / FILE_NAME).read_text())
    manifest["schema_version"] = 1
    del manifest["sha256"]
    edit(next(iter(manifest["sources"].values())))
    (dataset / FILE_NAME).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=message):
        verify(dataset)


def test_a_file_that_is_not_listed(dataset: Path) -> None:
    """An entry that was removed from the manifest leaves its file."""
    other = shard(dataset, 0).with_name("other.h5")
    other.write_bytes(shard(dataset, 0).read_bytes())
    with pytest.raises(UserError, match=rf"{other}: is not in manifest.json.* move the file elsewhere"):
        verify(dataset)


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no manifest\.json, .*climax-hpc pack"):
        verify(tmp_path)
