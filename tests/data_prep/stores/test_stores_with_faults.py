"""Servers that fail: the same shards as from the disk, or one line that says what was seen and what to do."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.config.network import NetworkConfig
from climax_hpc.data_prep.stores.event_loop import run
from climax_hpc.data_prep.stores.reader import Reader
from climax_hpc.errors import EXIT_FAILED, Unreachable, UserError, exit_status

from .faulty_server import FLIPPED, TRANSIENT, Faults, serving

Packed = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("name", ["v2.zarr", "references.json"])
def test_faults_that_pass(stores: Path, from_disk: dict[str, Any], packed: Packed, name: str) -> None:
    faults = Faults(TRANSIENT, 0.3, seed=1)
    with serving(stores, faults, stall_s=0.7) as server:
        assert packed(f"{server.url}/{name}", network_timeout_seconds=0.5) == from_disk
    assert len(faults.counts) > 3, faults.counts


@pytest.mark.parametrize(("name", "md5"), [("v3.zarr", False), ("v2.zarr", True)])
def test_flipped_bytes_where_there_are_checksums(
    stores: Path, from_disk: dict[str, Any], packed: Packed, name: str, md5: bool
) -> None:
    """crc32c at the end of each chunk, or ETags that are MD5s, as those of S3; metadata of v3.zarr have no checksum."""
    faults = Faults((FLIPPED,), 0.4, seed=2, after=0 if md5 else 14)
    with serving(stores, faults, md5=md5) as server:
        assert packed(f"{server.url}/{name}") == from_disk
    assert faults.counts[FLIPPED] > 5


def test_etags_that_are_no_md5(stores: Path, from_disk: dict[str, Any], packed: Packed) -> None:
    """Encrypted objects of S3 have ETags of 32 digits that are no MD5s: read twice alike, they are believed."""
    with serving(stores, md5=True, salt=b"key") as server:
        assert packed(f"{server.url}/v2.zarr") == from_disk


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("503", r"v2\.zarr/\S+: HTTP 503 Service Unavailable \(\d+ tries in [\d.]+ s\); check the network"),
        ("stall", r"v2\.zarr/\S+: no answer in time \(\d+ tries in"),
        ("truncated", r"v2\.zarr/\S+: the body ended before its Content-Length \(\d+ tries"),
        ("half with its length", r"chunk \S+ has \d+ bytes, another number than its header says, 6 times"),
        ("web page", r"v2\.zarr/\S+: a web page in place of the object \(5 tries"),
        ("403", r"v2\.zarr/\S+: HTTP 403 Forbidden \(access denied, or expired credentials.*renew the credentials"),
    ],
)
def test_faults_that_last_and_resuming_after_them(
    stores: Path, from_disk: dict[str, Any], packed: Packed, tmp_path: Path, fault: str, line: str
) -> None:
    """The first of two units is finished, the store fails, and the same command resumes with the second."""
    failing = Faults((fault,), 1.0, seed=3, after=23, in_a_row=10_000)
    settings: dict[str, Any] = {"network_connections": 1, "network_retry_seconds": 3.0, "network_timeout_seconds": 0.3}
    with serving(stores, failing, stall_s=0.4) as server:
        url = f"{server.url}/v2.zarr"
        with pytest.raises(Unreachable, match=line) as error:
            packed(url, **settings)
        assert exit_status(error.value) == EXIT_FAILED
        assert list((tmp_path / "out" / ".first_pass").rglob("*.json"))
        server.faults, before = None, len(server.paths)
        assert packed(url) == from_disk
        later = set(server.paths[before:])
    assert "v2.zarr/temperature/0.0.0.0" not in later
    assert "v2.zarr/temperature/7.0.0.0" in later


def test_the_time_limit_holds(stores: Path, packed: Packed) -> None:
    with serving(stores) as server:
        server.answer_all = (503, b"")
        start = time.monotonic()
        with pytest.raises(Unreachable, match="HTTP 503"):
            packed(f"{server.url}/v2.zarr", network_retry_seconds=1.0)
    assert time.monotonic() - start < 6


def test_an_absent_chunk_is_no_failure_of_the_network(stores: Path, tmp_path: Path, packed: Packed) -> None:
    shutil.copytree(stores / "v2.zarr", tmp_path / "www" / "x.zarr")
    (tmp_path / "www" / "x.zarr" / "temperature" / "5.0.0.0").unlink()
    with serving(tmp_path / "www") as server, pytest.raises(UserError) as error:
        packed(f"{server.url}/x.zarr")
    assert "x.zarr: chunk temperature/5.0.0.0 is absent (404), so the store is incomplete" in str(error.value)
    assert not isinstance(error.value, Unreachable)
    assert not (tmp_path / "out").exists()


def test_a_file_that_changes_while_parts_of_it_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(bytes(100))
    reader = Reader(NetworkConfig())
    with serving(tmp_path, md5=True) as server:
        url = f"{server.url}/x.bin"
        assert run(reader.read(url, (0, 10))) == run(reader.read(url, (10, 20))) == bytes(10)
        before = run(reader.version(url))
        (tmp_path / "x.bin").write_bytes(bytes(99) + b"x")
        with pytest.raises(UserError, match=r"x\.bin changed while it was read \(ETag .*before"):
            run(reader.read(url, (20, 30)))
        assert run(reader.version(url)) != before  # so a later command does not resume with it
