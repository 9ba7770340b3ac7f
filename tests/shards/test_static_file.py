"""Static fields in a file of their own: the same values as in the shards of earlier versions, verified, read once."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from climax_hpc.data.dataset import DataSet
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.staging import staged
from climax_hpc.data_prep.config import RepackConfig
from climax_hpc.data_prep.repack import repack
from climax_hpc.data_prep.verify import verify
from climax_hpc.errors import UserError
from climax_hpc.shards.manifest import read_manifest
from climax_hpc.shards.xarray_view import open_physical

OLD = Path(__file__).parents[1] / "compatibility" / "commit_3b8de63"


@pytest.fixture(scope="module")
def both(make_dataset: Callable[..., Path]) -> tuple[Path, Path]:
    """A data set whose shards hold the static fields, and the same repacked."""
    old = make_dataset(years=2, shards_per_segment=3)
    return old, repack(RepackConfig(dataset=str(old), output=str(old.with_name(f"{old.name}_3")))).parent


@pytest.fixture
def new(both: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the new one to damage."""
    return Path(shutil.copytree(both[1], tmp_path / "data"))


def source_of(folder: Path) -> PackedSource:
    return DataSet(folder).select(None)[0]


def static_path(folder: Path) -> Path:
    entry = next(iter(read_manifest(folder).sources.values())).static_file
    assert entry is not None
    return folder / entry.file


def test_the_same_fields_before_and_after(both: tuple[Path, Path]) -> None:
    old, new = (source_of(folder) for folder in both)
    assert set(new.static) == {"latitude", "land_sea_mask", "orography"}
    for name, field_HW in old.static.items():
        np.testing.assert_array_equal(new.static[name], field_HW)
    for t in (0, new.steps - 1):
        np.testing.assert_array_equal(new.read(t), old.read(t))
    assert len(verify(both[1], shown=False).sources) == 1


def test_no_shard_and_no_climatology_holds_them(both: tuple[Path, Path]) -> None:
    """Readers hash all bytes outside the chunks of every file that they open."""
    old, new = ({path.name: path for path in folder.rglob("*.h5")} for folder in both)
    assert set(new) == {*old, "static.h5"}
    for name, path in new.items():
        with h5py.File(path) as file:
            assert ("static" in file, "fields" in file) == (name == "static.h5", name != "static.h5")
            assert file.attrs["schema_version"] == 3
    field_bytes = sum(field.nbytes for name, field in source_of(both[1]).static.items() if name != "latitude")
    for name, path in old.items():
        with h5py.File(path) as file:
            assert file["static"].nbytes == field_bytes, name


def test_files_open_as_xarray_data_sets(both: tuple[Path, Path]) -> None:
    old, new = both
    for entry in next(iter(read_manifest(new).sources.values())).files[:-1]:
        assert open_physical(new / entry.file).equals(open_physical(old / entry.file))
    alone = open_physical(static_path(new))
    assert set(alone) == {"land_sea_mask", "orography"}
    np.testing.assert_array_equal(alone["orography"], source_of(new).static["orography"])


@pytest.mark.parametrize("place", [0, 0.3, 0.5, 0.9, 1])
def test_a_changed_byte_is_found(new: Path, place: float) -> None:
    path = static_path(new)
    raw = bytearray(path.read_bytes())
    raw[min(int(place * len(raw)), len(raw) - 1)] ^= 1
    path.write_bytes(bytes(raw))
    expected = rf"^{path}: the description of static fields differs from the manifest .*changed or damaged"
    for read in (lambda: source_of(new).static, lambda: verify(new, shown=False), lambda: open_physical(path)):
        with pytest.raises(UserError, match=expected):
            read()


def test_an_absent_file_is_named(new: Path) -> None:
    path = static_path(new)
    path.unlink()
    for read in (lambda: source_of(new).static, lambda: verify(new, shown=False)):
        with pytest.raises(UserError, match=rf"^{path} \(static fields\): does not exist; restore it"):
            read()


def test_it_is_staged(both: tuple[Path, Path], new: Path, tmp_path: Path) -> None:
    here = staged(DataSet(new), tmp_path / "disk", None, shown=False).select(None)[0]
    shutil.rmtree(new)
    np.testing.assert_array_equal(here.static["orography"], source_of(both[0]).static["orography"])


def test_a_repacked_data_set_keeps_its_file(new: Path, tmp_path: Path) -> None:
    again = repack(RepackConfig(dataset=str(new), output=str(tmp_path / "again"), chunks="2x3")).parent
    assert static_path(again).read_bytes() == static_path(new).read_bytes()
    verify(again, shown=False)


def test_files_of_an_earlier_version_are_converted(tmp_path: Path) -> None:
    converted = repack(RepackConfig(dataset=str(OLD / "data"), output=str(tmp_path / "new"))).parent
    verify(converted, shown=False)
    old, new = source_of(OLD / "data"), source_of(converted)
    np.testing.assert_array_equal(new.static["orography"], old.static["orography"])
    np.testing.assert_array_equal(new.read(7), old.read(7))
    np.testing.assert_array_equal(new.read_climatology(7), old.read_climatology(7))
