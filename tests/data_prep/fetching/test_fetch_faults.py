"""Downloads against nodes that fail: resumed by ranges, verified, one line at the end, nothing half in its place."""

import os
import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from climax_hpc.data_prep.fetching import download
from climax_hpc.data_prep.fetching.checksums import hasher
from climax_hpc.data_prep.fetching.config import FetchConfig
from climax_hpc.data_prep.fetching.listing import FetchFolder
from climax_hpc.errors import UserError

from .conftest import tas
from .fake_esgf import FakeEsgf

CONTENT = b"\x89HDF\r\n\x1a\n" + random.Random(1).randbytes(299_992)
HALF = len(CONTENT) // 2
NAME = tas().rsplit("/", 1)[-1]
KEPT = [".fetch/listing.json", ".fetch/verified.jsonl"]
Fetched = Callable[..., list[str]]


def ranges(esgf: FakeEsgf) -> list[str]:
    """What the requests asked for."""
    return [wanted for _, _, wanted in esgf.requests]


@pytest.mark.parametrize(
    ("faults", "asked"),
    [
        ([""], [""]),
        (["503", "429", ""], ["", "", ""]),
        (["reset", ""], ["", f"bytes={HALF}-"]),
        (["truncate", "reset", ""], ["", f"bytes={HALF}-", f"bytes={HALF + HALF // 2}-"]),
        (["truncate", "no_range"], ["", f"bytes={HALF}-"]),
        (["truncate", "503", ""], ["", f"bytes={HALF}-", f"bytes={HALF}-"]),
    ],
)
def test_one_node_that_fails_for_a_while(
    faults: list[str], asked: list[str], esgf: FakeEsgf, fetched: Fetched, tmp_path: Path
) -> None:
    esgf.add(tas(), CONTENT)
    esgf.faults[NAME] = faults
    assert fetched() == [*KEPT, tas()]
    assert (tmp_path / "out" / tas()).read_bytes() == CONTENT
    assert ranges(esgf) == asked


def test_every_byte_is_hashed_once_however_often_the_download_breaks(
    esgf: FakeEsgf, fetched: Fetched, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []

    class Counting:
        def __init__(self, checksum: str) -> None:
            self._hash = hasher(checksum)

        def update(self, block: bytes) -> None:
            hashed.append(len(block))
            self._hash.update(block)

        def hexdigest(self) -> str:
            return str(self._hash.hexdigest())

    monkeypatch.setattr(download, "hasher", Counting)
    esgf.add(tas(), CONTENT)
    esgf.faults[NAME] = ["truncate", "503", "reset", "429", ""]
    assert fetched(retries=5) == [*KEPT, tas()]
    assert sum(hashed) == len(CONTENT)


def test_a_node_that_stalls_is_given_up(esgf: FakeEsgf, fetched: Fetched, tmp_path: Path) -> None:
    esgf.add(tas(), CONTENT)
    esgf.faults[NAME] = ["stall", ""]
    assert fetched(stall_seconds=1.0) == [*KEPT, tas()]
    assert (tmp_path / "out" / tas()).read_bytes() == CONTENT
    assert ranges(esgf)[1] == f"bytes={2 << 16}-"  # whole pieces of what had come


@pytest.mark.parametrize("fault", ["404!", "403!", "corrupt!", "longer!", "503!", "reset!"])
def test_another_node_is_asked(fault: str, esgf: FakeEsgf, fetched: Fetched, tmp_path: Path) -> None:
    esgf.add(tas(), CONTENT, ["node1", "node2"])
    esgf.faults[f"node1/{NAME}"] = [fault]
    assert fetched() == [*KEPT, tas()]
    assert (tmp_path / "out" / tas()).read_bytes() == CONTENT
    assert [node for node, *_ in esgf.requests] == ["node1", "node2"]


def test_a_dead_node_is_asked_last_after_its_first_failure(esgf: FakeEsgf, fetched: Fetched) -> None:
    for part in ("a", "b", "c"):
        esgf.add(tas(part=f"_{part}"), CONTENT[:1000], ["dead", "node1"])
    assert len(fetched(parallel=1)) == len(KEPT) + 3
    assert len(esgf.requests) == 3


def test_preferred_nodes_come_first(esgf: FakeEsgf, fetched: Fetched) -> None:
    esgf.add(tas(), CONTENT, ["node1", "node2"])
    fetched(nodes=["127.0.0.2"])
    assert [node for node, *_ in esgf.requests] == ["node2"]


@pytest.mark.parametrize(
    ("fault", "error", "reason"),
    [
        ("404!", UserError, r"has no such file \(status 404\)\); no node has them as the index lists them"),
        ("401!", UserError, r"needs a login \(status 401\)"),
        ("500!", ConnectionError, r"is not available \(status 500\)\); run the same command again: it resumes"),
        ("corrupt!", UserError, r"http://127\.0\.0\.1:\d+/data/CMIP6.*\.nc: sha256 is [0-9a-f]{64}, expected"),
        ("longer!", UserError, r"has 300004 bytes at http.*, expected 300000 \(size in the index\)"),
        ("stall!", ConnectionError, "127.0.0.1 sends nothing for 1 s"),
    ],
)
def test_a_file_that_cannot_be_had_is_one_line(
    fault: str, error: type[Exception], reason: str, esgf: FakeEsgf, fetched: Fetched, tmp_path: Path
) -> None:
    esgf.add(tas(), CONTENT)
    esgf.add(tas(part="_2001"), CONTENT[:1000])
    esgf.faults[NAME] = [fault]
    with pytest.raises(error, match=rf"^1 of 2 files could not be downloaded \({NAME}: .*{reason}"):
        fetched(stall_seconds=1.0, retries=0)
    assert [path.name for path in (tmp_path / "out").rglob("*.nc")] == [tas(part="_2001").rsplit("/", 1)[-1]]


def test_a_part_whose_file_has_changed_is_begun_again(
    esgf: FakeEsgf, fetched: Fetched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    esgf.add(tas(), CONTENT)
    esgf.faults[NAME] = ["truncate!"]
    with pytest.raises(ConnectionError):
        fetched(retries=0)
    assert [path.stat().st_size for path in (tmp_path / "out/.fetch").glob("*.part")] == [HALF]
    esgf.faults.clear()
    esgf.data_sets.clear()
    esgf.documents.clear()
    esgf.requests.clear()
    esgf.add(tas(), CONTENT[::-1])
    assert fetched() == [*KEPT, tas()]
    assert (tmp_path / "out" / tas()).read_bytes() == CONTENT[::-1]
    assert ranges(esgf) == [""]
    assert "the list has changed since its part was downloaded: begun again" in capsys.readouterr().out


def test_a_node_whose_file_changed_under_a_part_is_noticed(esgf: FakeEsgf, fetched: Fetched, tmp_path: Path) -> None:
    """Another content under the same list: the checksum finds it, and the file is begun again."""
    esgf.add(tas(), CONTENT)
    esgf.faults[NAME] = ["truncate!"]
    with pytest.raises(ConnectionError):
        fetched(retries=0)
    part = next((tmp_path / "out/.fetch").glob("*.part"))
    part.write_bytes(bytes(HALF))
    esgf.faults.clear()
    assert fetched() == [*KEPT, tas()]
    assert (tmp_path / "out" / tas()).read_bytes() == CONTENT


@pytest.mark.parametrize(("change", "expected"), [(False, f"bytes={HALF}-"), (True, f"bytes={HALF}-")])
def test_without_a_checksum_the_node_says_whether_a_part_still_fits(
    change: bool, expected: str, esgf: FakeEsgf, fetched: Fetched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = esgf.add(tas(), CONTENT)
    del record["checksum"]
    esgf.faults[NAME] = ["truncate!"]
    with pytest.raises(ConnectionError):
        fetched(retries=0)
    esgf.faults.clear()
    esgf.requests.clear()
    if change:
        esgf.files[tas()] = CONTENT[:8] + CONTENT[:7:-1]
    fetched()
    assert (tmp_path / "out" / tas()).read_bytes() == esgf.files[tas()]
    assert ranges(esgf) == [expected]
    assert "1 files have no checksum in the index, such as tas_" in capsys.readouterr().out


def test_without_a_checksum_a_page_of_a_login_is_no_file(esgf: FakeEsgf, fetched: Fetched, tmp_path: Path) -> None:
    record = esgf.add(tas(), b"<!DOCTYPE html><title>Log in</title>")
    del record["checksum"], record["size"]
    with pytest.raises(UserError, match="is a web page, expected NetCDF"):
        fetched(retries=0)
    assert not (tmp_path / "out" / tas()).exists()


def test_complete_files_are_not_downloaded_again(
    esgf: FakeEsgf, fetched: Fetched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    esgf.add(tas(), CONTENT)
    fetched()
    esgf.requests.clear()
    fetched()
    assert not esgf.requests
    (tmp_path / "out/.fetch/verified.jsonl").write_text('["half a li')  # then the file is read instead
    fetched()
    assert not esgf.requests
    shutil.rmtree(tmp_path / "out/.fetch")  # likewise
    assert tas() in fetched()
    assert not esgf.requests
    assert (tmp_path / "out/.fetch/verified.jsonl").is_file()
    file = tmp_path / "out" / tas()
    file.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    capsys.readouterr()
    fetched()
    assert ranges(esgf) == [""]
    assert file.read_bytes() == CONTENT
    assert f"fetch: {tas()} is not as the index lists it (300 kB): downloaded again" in capsys.readouterr().out


def test_a_full_disk_ends_in_one_line_and_the_next_run_resumes(
    esgf: FakeEsgf, settings: Callable[..., FetchConfig], fetched: Fetched, tmp_path: Path
) -> None:
    esgf.add(tas(), CONTENT * 8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(UserError, match=r"^output: no space is left for .*out \(File too large\).*it resumes$"):
            fetched()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "out").rglob("*.nc"))
    fetched()
    assert (tmp_path / "out" / tas()).read_bytes() == CONTENT * 8
    assert ranges(esgf) == ["", f"bytes={1 << 20}-"]


def test_too_little_room_is_refused_before_anything_is_downloaded(
    esgf: FakeEsgf, fetched: Fetched, tmp_path: Path
) -> None:
    record = esgf.add(tas(), CONTENT)
    with pytest.raises(UserError, match=r"max_gigabytes: 1 files of 300 kB are to be downloaded, more than 0.0001 GB"):
        fetched(max_gigabytes=1e-4)
    record["size"] = 1 << 49
    free = os.statvfs(tmp_path)
    assert free.f_bavail * free.f_frsize < 1 << 49
    with pytest.raises(UserError, match=r"^output: .*out needs 563 TB for 1 files, but only .* are free; free some"):
        fetched()
    assert not esgf.requests
    assert not (tmp_path / "out").exists()


def test_a_list_of_another_version_is_refused(esgf: FakeEsgf, fetched: Fetched, tmp_path: Path) -> None:
    esgf.add(tas(), CONTENT[:1000])
    fetched()
    place = tmp_path / "out/.fetch/listing.json"
    place.write_text(place.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(UserError, match=r"listing\.json: is version 2 of the list of a fetch, expected 1; "):
        FetchFolder(tmp_path / "out").read_listing()
