"""The manifest: what is written is read back; other files, other schemas and damaged entries are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.errors import UserError
from climax_hpc.shards.manifest import read_manifest, write_manifest


@pytest.fixture
def folder(make_dataset: Callable[..., Path]) -> Path:
    return make_dataset(years=2)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_there_and_back(folder: Path) -> None:
    before = read_manifest(folder)
    write_manifest(folder, before)
    assert read_manifest(folder) == before


def test_data_sets_with_the_former_name_of_segment_are_read(folder: Path) -> None:
    before = read_manifest(folder)

    def to_former_name(content: dict[str, Any]) -> None:
        for source in content["sources"].values():
            for shard in source["shards"]:
                shard["stretch"] = shard.pop("segment")

    rewrite(folder, to_former_name)
    assert read_manifest(folder) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_version=2), "is climax_hpc/dataset version 2, not climax_hpc/dataset version 1"),
        (lambda m: m.pop("sources"), r"is damaged \('sources'\); pack the data set again"),
        (lambda m: m.update(more=1), "is damaged .*more"),
    ],
)
def test_refused(folder: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    rewrite(folder, change)
    with pytest.raises(UserError, match=message):
        read_manifest(folder)


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no manifest\.json, so it is not a finished data set"):
        read_manifest(tmp_path)
