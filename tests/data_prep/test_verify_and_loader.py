"""`verify` fails wherever the loader gives something else than was packed: bytes, attributes, files, edits."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from climax_hpc.data.dataset import DataSet
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.verify import verify
from climax_hpc.errors import UserError
from climax_hpc.shards.manifest import FILE_NAME

from .conftest import six_hourly, write_cmip6

Damage = Callable[[Path, np.random.Generator], object]
_OTHER: tuple[Any, ...] = (None, True, -1, 0, 3, 1e300, float("nan"), "x", [], {})


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources of the same grid, each in two shards with a climatology."""
    folder = tmp_path_factory.mktemp("packed")
    for source in ("TEST-1", "TEST-2"):
        for variable_id in ("tas", "psl"):
            write_cmip6(folder / "in", variable_id, source=source, times=six_hourly(8))
    settings = PackConfig(input=str(folder / "in"), output=str(folder / "out"), grid_spacing_deg=45, steps_per_shard=4)
    return pack(settings).parent


@pytest.fixture
def dataset(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "data"))


def content(dataset: Path) -> list[Any]:
    """All that the loader gives."""
    found: list[Any] = []
    for s in DataSet(dataset).select(None):
        found += [s.name, s.identity, s.channels, s.calendar, s.frequency, s.step_hours, s.hours.tolist()]
        found += [s.segments, s.mean_C.tobytes(), s.std_C.tobytes(), json.dumps(s.grid.to_dict())]
        found += [s.read(t).tobytes() + s.read_climatology(t).tobytes() for t in range(s.steps)]
        found += [(name, field.tobytes()) for name, field in s.static.items()]
    return found


def outcome(dataset: Path, before: list[Any], what: str) -> str:
    """`same`, `refused` by the loader, or `changed`; `verify` must fail where it is not `same`."""
    try:
        found = "same" if content(dataset) == before else "changed"
    except UserError:
        found = "refused"
    if found != "same":
        try:
            verify(dataset, shown=False)
        except UserError:
            return found
        pytest.fail(f"{what}: {found} for the loader, and verify finds nothing")
    return found


def files(dataset: Path) -> list[Path]:
    return sorted(dataset.rglob("*.h5"))


def flip(dataset: Path, random: np.random.Generator) -> None:
    path = random.choice(np.array([*files(dataset), dataset / FILE_NAME]))
    raw = bytearray(path.read_bytes())
    raw[int(random.integers(len(raw)))] ^= 1 << int(random.integers(8))
    path.write_bytes(raw)


def cut(dataset: Path, random: np.random.Generator) -> None:
    path = random.choice(np.array(files(dataset)))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(random.integers(len(raw)))] if random.integers(2) else raw + b"\0")


def exchange_files(dataset: Path, random: np.random.Generator) -> None:
    first, second = random.choice(np.array(files(dataset)), 2, replace=False)
    raw = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(raw)


def edit_attribute(dataset: Path, random: np.random.Generator) -> None:
    with h5py.File(random.choice(np.array(files(dataset))), "r+") as file:
        places = [(name, key) for name in ("/", *file) for key in file[name].attrs if not key.endswith("_LIST")]
        name, key = places[int(random.integers(len(places)))]
        file[name].attrs[key] = "other" if isinstance(file[name].attrs[key], str) else 7


def edit_array(dataset: Path, random: np.random.Generator) -> None:
    """Coordinates, normalisation, climatology, checksums and fields, through HDF5 as a user would."""
    with h5py.File(random.choice(np.array(files(dataset))), "r+") as file:
        name = random.choice(
            np.array([k for k in file if file[k].size and file[k].dtype.kind in "fiu" and k != "edge"])
        )
        values = file[name][...]
        values.reshape(-1)[int(random.integers(values.size))] += 1
        file[name][...] = values


DAMAGES: tuple[Damage, ...] = (flip, cut, exchange_files, edit_attribute, edit_array)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files(dataset: Path, packed: Path, damage: Damage) -> None:
    check_damages(dataset, packed, damage, 6)


@pytest.mark.faults
@pytest.mark.parametrize("damage", DAMAGES)
def test_many_damaged_files(dataset: Path, packed: Path, damage: Damage) -> None:
    check_damages(dataset, packed, damage, 150)


def check_damages(dataset: Path, packed: Path, damage: Damage, count: int) -> None:
    before = content(dataset)
    outcomes = []
    for seed in range(count):
        damage(dataset, np.random.default_rng(seed))
        outcomes.append(outcome(dataset, before, f"seed {seed}"))
        shutil.rmtree(dataset)
        shutil.copytree(packed, dataset)
    assert outcomes.count("changed") == 0, "the loader noticed nothing"
    assert "refused" in outcomes


def edits(manifest: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The manifest with one entry removed, replaced, repeated or exchanged with its neighbour."""
    for path in _paths(manifest):
        for other in (*_OTHER, ..., "repeated", "exchanged"):
            changed = copy.deepcopy(manifest)
            holder: Any = changed
            for key in path[:-1]:
                holder = holder[key]
            key, old = path[-1], holder[path[-1]]
            if other is ...:
                del holder[key]
            elif other == "repeated":
                holder.update({f"{key}_": old}) if isinstance(holder, dict) else holder.insert(key, old)
            elif other == "exchanged":
                keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
                neighbour = keys[keys.index(key) - 1]
                holder[key], holder[neighbour] = holder[neighbour], old
            else:
                holder[key] = other
            yield f"{'.'.join(map(str, path))} {other!r}", changed


def _paths(document: Any) -> Iterator[tuple[Any, ...]]:
    items = document.items() if isinstance(document, dict) else enumerate(document[:3])
    for key, value in items:
        yield (key,)
        if isinstance(value, dict | list):
            yield from ((key, *rest) for rest in _paths(value))


@pytest.mark.parametrize(("version", "share"), [(1, 60), (2, 60)])
def test_edited_manifests(dataset: Path, version: int, share: int) -> None:
    check_edits(dataset, version, share)


@pytest.mark.faults
@pytest.mark.parametrize("version", [1, 2])
def test_many_edited_manifests(dataset: Path, version: int) -> None:
    check_edits(dataset, version, 1)


def check_edits(dataset: Path, version: int, share: int) -> None:
    """Every `share`-th edit. Only a manifest of version 2 has its own hash: in one of version 1 some edits load."""
    path, before = dataset / FILE_NAME, content(dataset)
    whole = json.loads(path.read_text())
    if version == 1:
        whole["schema_version"] = 1
        del whole["sha256"]
    outcomes = []
    for what, changed in list(edits(whole))[::share]:
        if repr(changed) == repr(whole):
            continue
        path.write_text(json.dumps(changed, indent=1, ensure_ascii=False) + "\n")
        outcomes.append(outcome(dataset, before, what))
    assert len(outcomes) > 10
    assert version == 1 or set(outcomes) == {"refused"}
