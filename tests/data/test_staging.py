"""Staging: the same fields from the local disk, copied once for several ranks, complete or not at all."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from climax_hpc.data import staging
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.field_part import FieldPart
from climax_hpc.data.staging import staged
from climax_hpc.data_prep.config import RepackConfig
from climax_hpc.data_prep.repack import repack
from climax_hpc.errors import UserError
from climax_hpc.utils.files import sha256
from climax_hpc.utils.folder_lock import LOCK

MakeDataset = Callable[..., Path]
CHANNELS = (
    "geopotential_500",
    "temperature_850",
    "v_component_of_wind_850",
    "2m_temperature",
    "10m_u_component_of_wind",
)


def test_reads_the_same_fields_from_the_copy(make_dataset: MakeDataset, tmp_path: Path) -> None:
    folder = make_dataset({"A_hist_r1": {}, "B_hist_r1": {}}, years=1)
    there = DataSet(folder)
    here = staged(there, tmp_path / "node" / "disk", ["A"])
    expected = [there.sources["A_hist_r1"].read(t) for t in range(48)]
    for path in folder.rglob("*.h5"):
        path.unlink()
    for t, field_CHW in enumerate(expected):
        np.testing.assert_array_equal(here.sources["A_hist_r1"].read(t), field_CHW)
    assert here.manifest_sha256 == there.manifest_sha256
    assert not list((tmp_path / "node").rglob("B_*.h5"))


def test_only_shards_of_the_period_are_copied(make_dataset: MakeDataset, tmp_path: Path) -> None:
    """Two shards a year; the second year starts at time step 48."""
    there = DataSet(make_dataset({"A_hist_r1": {}}, years=3))
    here = staged(there, tmp_path, None, period=("2002", "2002")).sources["A_hist_r1"]
    copied = sorted(path.name for path in tmp_path.rglob("*.h5"))
    assert [name for name in copied if "_2002" in name] == [name for name in copied if "climatology" not in name]
    assert len(copied) == 3
    for t in range(48, 96):
        np.testing.assert_array_equal(here.read(t), there.sources["A_hist_r1"].read(t))
        np.testing.assert_array_equal(here.read_climatology(t), there.sources["A_hist_r1"].read_climatology(t))


def test_a_restart_copies_only_what_is_missing(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = DataSet(make_dataset(years=1))
    staged(dataset, tmp_path, None)
    files = sorted(tmp_path.rglob("*.h5"))
    before = {path: path.stat().st_mtime_ns for path in files}
    files[0].unlink()
    os.truncate(files[1], 100)
    left_over = files[1].with_name(".climax_hpc-0a.tmp")
    left_over.write_bytes(b"half")
    staged(dataset, tmp_path, None)
    changed = [path for path in files if path.stat().st_mtime_ns != before[path]]
    assert changed == files[:2]
    assert not left_over.exists()


_RANK = """
import sys, time
from pathlib import Path
from climax_hpc.data import staging
from climax_hpc.data.dataset import DataSet
copy = staging._copy
def counting(*arguments):
    print("copied", flush=True)
    time.sleep(0.2)
    copy(*arguments)
staging._copy = counting
here = staging.staged(DataSet(sys.argv[1]), Path(sys.argv[2]), None)
here.select(None)[0].read(0)
"""


def test_ranks_of_a_node_copy_once(make_dataset: MakeDataset, tmp_path: Path) -> None:
    folder = make_dataset(years=1)
    ranks = [
        subprocess.Popen([sys.executable, "-c", _RANK, str(folder), str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    output = "".join(rank.communicate(timeout=120)[0] for rank in ranks)
    assert [rank.returncode for rank in ranks] == [0, 0, 0]
    assert output.count("copied") == len(list(folder.rglob("*.h5")))


def test_a_damaged_shard_is_not_staged(make_dataset: MakeDataset, tmp_path: Path) -> None:
    folder = make_dataset(years=1)
    path = sorted(folder.rglob("*.h5"))[-1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path.name}: differs from the manifest.*; restore it from a copy"):
        staged(DataSet(folder), tmp_path, None)
    assert not list(tmp_path.rglob(f"*{path.name}*"))


@pytest.fixture
def banded(make_dataset: MakeDataset, tmp_path: Path) -> DataSet:
    """Steps of five channels in three blocks, and of eight rows in four bands."""
    folder = make_dataset({"A_hist_r1": {"channels": CHANNELS, "shape": (8, 256)}}, years=1)
    return DataSet(repack(RepackConfig(dataset=str(folder), output=str(tmp_path / "banded"), chunks="2x2")).parent)


PARTS = [FieldPart(channels=(1, 4), rows=(0, 2)), FieldPart(channels=(1, 4), rows=(6, 8))]


def test_only_the_chunks_that_are_read_are_copied(banded: DataSet, tmp_path: Path) -> None:
    there = banded.sources["A_hist_r1"]
    here = staged(banded, tmp_path / "stage", None, parts={"A_hist_r1": PARTS}).sources["A_hist_r1"]
    for part in PARTS:
        np.testing.assert_array_equal(here.read(5, part), there.read(5, part))
        np.testing.assert_array_equal(here.read_climatology(5, part), there.read_climatology(5, part))
    assert there.share_of(PARTS) == (2 * 2) / (3 * 4)
    files = [(banded.folder / entry.file, next(tmp_path.glob("stage/*/" + entry.file))) for entry in there.files]
    assert [b.stat().st_size for _, b in files] == [a.stat().st_size for a, _ in files]
    used = [sum(path.stat().st_blocks for path in paths) for paths in zip(*files, strict=True)]
    assert used[1] < 0.6 * used[0]
    with pytest.raises(UserError, match=r"does not match its checksum.*delete it; the next run copies it again"):
        here.read(5)  # what nobody asked for is a hole


def test_copies_of_other_parts_lie_elsewhere(banded: DataSet, tmp_path: Path) -> None:
    whole = [FieldPart(rows=(0, 5)), FieldPart(rows=(5, 8))]
    for parts in (PARTS, PARTS[:1], PARTS[::-1], whole):
        staged(banded, tmp_path / "stage", None, parts={"A_hist_r1": parts})
    names = sorted(path.name for path in (tmp_path / "stage").iterdir())
    assert len(names) == 3
    assert [name.startswith(banded.manifest_sha256[:16]) for name in names] == [True] * 3
    assert banded.manifest_sha256[:16] in names  # where every chunk is read, the files are copied whole


def test_a_damaged_chunk_is_not_staged(banded: DataSet, tmp_path: Path) -> None:
    source = banded.sources["A_hist_r1"]
    path = banded.folder / source.files[0].file
    source.read(0)
    content = bytearray(path.read_bytes())
    content[source._file(source._shards[0])._offsets[3 * 12]] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path.name}: time step 3 does not match its checksum.*; restore it"):
        staged(banded, tmp_path / "stage", None, parts={"A_hist_r1": [FieldPart(channels=(0,), rows=(0, 1))]})
    assert not list((tmp_path / "stage").rglob(f"*{path.name}*"))
    staged(banded, tmp_path / "stage", None, parts={"A_hist_r1": [FieldPart(channels=(0,), rows=(7, 8))]})


def test_damage_to_the_copy_says_how_to_fix_it(make_dataset: MakeDataset, tmp_path: Path) -> None:
    here = staged(DataSet(make_dataset(years=1)), tmp_path, None).select(None)[0]
    path = next(tmp_path.glob("*/" + here.files[0].file))
    content = bytearray(path.read_bytes())
    content[here._file(here._shards[0])._offsets[3]] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"time step 3 does not match.*delete it; the next run copies it again"):
        here.read(3)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_too_small_is_refused_before_copying(make_dataset: MakeDataset, small_disk: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"data\.stage_to: 196 kB and a reserve of 67.1 MB do not fit on .* MB free: choose a larger disk",
    ):
        staged(DataSet(make_dataset(years=1)), small_disk, None)
    assert not list(small_disk.rglob("*.h5"))


def test_a_disk_that_fills_up_leaves_no_part(make_dataset: MakeDataset, tmp_path: Path, small_disk: Path) -> None:
    """As if another job wrote there at the same time: there was enough room when staging began."""
    packed = tmp_path / "large"
    packed.write_bytes(b"1" * (3 << 20))
    large: Any = SimpleNamespace(file="large", sha256=sha256(packed))
    file = staging._File(large, length=3 << 20, parts=None, copied=3 << 20)
    with pytest.raises(UserError, match=r"data\.stage_to: 3.15 MB and a reserve .* free: choose a larger disk"):
        staging._copy(tmp_path, small_disk / "x", file)
    assert not list(small_disk.rglob("*large*"))


def test_a_folder_that_cannot_be_made(make_dataset: MakeDataset, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data\.stage_to: .*file is a file"):
        staged(DataSet(make_dataset(years=1)), tmp_path / "file", None)


@pytest.mark.parametrize("planted", ["link to a folder", "dangling link", "open folder", "file", "lock that is a link"])
def test_what_others_put_in_the_place_of_the_copy_is_refused(
    make_dataset: MakeDataset, tmp_path: Path, planted: str
) -> None:
    """As on a disk that all users of the node may write to, where the name of the folder can be foreseen."""
    dataset = DataSet(make_dataset(years=1))
    stage, victim = tmp_path / "stage", tmp_path / "victim"
    folder = stage / dataset.manifest_sha256[:16]
    stage.mkdir()
    stage.chmod(0o1777)
    victim.write_text("precious")
    (tmp_path / "elsewhere").mkdir()
    if planted == "open folder":
        folder.mkdir()
        folder.chmod(0o777)
    elif planted == "file":
        folder.touch()
    elif planted == "lock that is a link":
        folder.mkdir(mode=0o700)
        (folder / LOCK).symlink_to(victim)
    else:
        folder.symlink_to(tmp_path / ("elsewhere" if planted == "link to a folder" else "absent"))
    with pytest.raises((UserError, OSError)):
        staged(dataset, stage, None)
    assert victim.read_text() == "precious"
    assert not list(stage.rglob("*.h5"))
    assert not any((tmp_path / "elsewhere").iterdir())


def test_the_copy_is_private(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = DataSet(make_dataset(years=1))
    staged(dataset, tmp_path / "stage", None)
    assert (tmp_path / "stage" / dataset.manifest_sha256[:16]).stat().st_mode & 0o077 == 0
