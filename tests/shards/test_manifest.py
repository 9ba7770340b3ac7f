"""The manifest: what is written is read back; every edit of it, other files and other schemas are refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.data.dataset import DataSet
from climax_hpc.data.staging import staged
from climax_hpc.data_prep.verify import verify
from climax_hpc.errors import UserError
from climax_hpc.shards.manifest import read_manifest, write_manifest


@pytest.fixture
def folder(make_dataset: Callable[..., Path]) -> Path:
    """A data set with a manifest of version 1, which does not hold its own hash."""
    return make_dataset(years=2)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_there_and_back(folder: Path) -> None:
    before = read_manifest(folder)
    write_manifest(folder, before)
    after = read_manifest(folder)
    assert after.schema_version == 3
    assert replace(after, sha256=None, schema_version=1) == before
    assert write_manifest(folder, after).read_bytes() == (folder / "manifest.json").read_bytes()


def test_every_changed_byte_of_a_manifest_is_found(folder: Path) -> None:
    path = write_manifest(folder, read_manifest(folder))
    whole = path.read_bytes()
    for at in [*range(0, len(whole), 97), len(whole) - 3, len(whole) - 1]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(UserError, match=r"manifest\.json"):
            read_manifest(folder)
    for spoilt in (whole + b"\n", whole.replace(b'\n "skipped"', b'\n  "skipped"')):
        path.write_bytes(spoilt)
        with pytest.raises(UserError, match=r"edited or damaged after it was written .* restore the file"):
            read_manifest(folder)


def test_a_manifest_of_version_2_without_its_hash(folder: Path) -> None:
    write_manifest(folder, read_manifest(folder))
    rewrite(folder, lambda m: m.pop("sha256"))
    with pytest.raises(UserError, match="edited or damaged"):
        read_manifest(folder)


def test_data_sets_with_the_former_name_of_segment_are_read(folder: Path) -> None:
    before = read_manifest(folder)

    def to_former_name(content: dict[str, Any]) -> None:
        for source in content["sources"].values():
            for shard in source["shards"]:
                shard["stretch"] = shard.pop("segment")

    rewrite(folder, to_former_name)
    assert read_manifest(folder) == before


def of_source(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda content: change(next(iter(content["sources"].values())))


def exchange(source: dict[str, Any]) -> None:
    """The first times of two shards."""
    first, second = source["shards"][:2]
    first["first"], second["first"] = second["first"], first["first"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_version=9), "is climax_hpc/dataset version 9, not .* version 1 or 2 or 3"),
        (lambda m: m.update(schema="x"), "is x version 1, not climax_hpc/dataset"),
        (lambda m: m.pop("sources"), r"is damaged \(sources is missing\); pack the data set again"),
        (lambda m: m.update(more=1), "more is no key of such a file"),
        (lambda m: m.update(sources=[]), "sources is .*object"),
        (of_source(lambda s: s["shards"][1].update(steps=True)), r"shards\[1\]\.steps is true: .* valid integer"),
        (of_source(lambda s: s["shards"][1].update(bytes=-1)), r"shards\[1\]\.bytes is -1: .* greater than or equal"),
        (of_source(lambda s: s["shards"][1].update(sha256="0")), r'shards\[1\]\.sha256 is "0": .* match pattern'),
        (of_source(lambda s: s["shards"][1].update(segment=9)), "overlap, or their segments do not follow the gaps"),
        (of_source(lambda s: s["shards"][1].update(steps=9)), "has 9 steps from"),
        (of_source(lambda s: s["shards"].append(s["shards"][0])), "overlap"),
        (of_source(lambda s: s["shards"][0].update(file=s["shards"][1]["file"])), "is listed twice"),
        (of_source(exchange), "has .* steps from"),
        (of_source(lambda s: s.update(shards=[])), "no channel or no shard"),
        (of_source(lambda s: s.update(step_hours=3)), "frequency 6hr and step_hours 3 do not match"),
        (of_source(lambda s: s.update(calendar="lunar")), "calendar must be one of"),
        (of_source(lambda s: s["statistics"].popitem()), "statistics must hold"),
        (of_source(lambda s: s["statistics"]["2m_temperature"].update(std=float("nan"))), r"std is NaN: .* finite"),
        (of_source(lambda s: s["statistics"]["2m_temperature"].update(std=0)), "a std is not above 0"),
        (of_source(lambda s: s["grid"]["lat_bnds"].pop()), "grid.lat_bnds must hold 8 × 2 finite numbers"),
        (of_source(lambda s: s["grid"]["lon"].__setitem__(0, "0")), "grid.lon must hold numbers"),
        (of_source(lambda s: s["grid"]["lat_bnds"][0].__setitem__(0, True)), "grid.lat_bnds must hold numbers"),
        (of_source(lambda s: s["channels"].append("2m_temperature")), "'2m_temperature' is listed twice"),
    ],
)  # fmt: skip
def test_refused(folder: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    rewrite(folder, change)
    with pytest.raises(UserError, match=rf"{folder}/manifest\.json.*{message}"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 1, "schema": 2}', "key 'schema' occurs twice"),
        ("[" * 100_000, "not readable JSON"),
        ("9" * 5000, "not readable JSON"),
        ("\0", "not readable JSON"),
        ("null", "is None version None"),
    ],
)
def test_other_text_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_manifest(folder)


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no manifest\.json, so it is not a finished data set"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "file",
    [
        "../x.h5", "/tmp/x.h5", "a/../../x.h5", "", ".", "./x.h5", "a//x.h5", "~/x.h5", "a\\..\\x.h5", "a\x00b",
        "a\x1b[2J",
        "a/.x.h5", "-x", "x" * 300, "/".join("a" * 20), "a b.h5", "%2e%2e/x.h5",
    ],
)  # fmt: skip
@pytest.mark.parametrize("entry", ["shard", "climatology"])
def test_paths_stay_inside_the_data_set(folder: Path, tmp_path: Path, file: str, entry: str) -> None:
    def change(content: dict[str, Any]) -> None:
        source = next(iter(content["sources"].values()))
        (source["shards"][0] if entry == "shard" else source["climatology"])["file"] = file

    rewrite(folder, change)
    for use in (read_manifest, verify, lambda path: staged(DataSet(path), tmp_path / "stage", None)):
        with pytest.raises(
            UserError, match=r"manifest.json: is damaged \(sources\..*file: .*\); pack the data set again"
        ):
            use(folder)
    assert not (tmp_path / "stage").exists()


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "", "a/b", "\x1b[2J", "x" * 300])
def test_names_of_sources_are_names(folder: Path, name: str) -> None:
    rewrite(folder, lambda m: m["sources"].update({name: m["sources"].pop(next(iter(m["sources"])))}))
    with pytest.raises(UserError, match=r"manifest.json: is damaged"):
        read_manifest(folder)
