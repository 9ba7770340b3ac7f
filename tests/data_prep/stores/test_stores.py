"""Stores at URLs and paths, of every kind: the same shards as from the disk."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr

from climax_hpc.config.network import NetworkConfig
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.packing.work_units import make_plan
from climax_hpc.data_prep.stores import fetched_store
from climax_hpc.data_prep.stores.client import client_of
from climax_hpc.data_prep.stores.icechunk_repository import open_snapshot
from climax_hpc.data_prep.stores.references import References
from climax_hpc.errors import Unreachable, UserError
from climax_hpc.inference.open_files import open_files

from ..anemoi_store import write_anemoi
from .faulty_server import serving
from .store_files import NAMES, SETTINGS, dataset, write_icechunk

Packed = Callable[..., dict[str, Any]]
KEYS = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "hidden/words", "region": "us-east-1"}


@pytest.fixture(scope="module")
def s3(stores: Path) -> Iterator[str]:
    """The address of a local S3 with the stores below `s3://bucket/deep/`."""
    pytest.importorskip("moto")
    from moto.server import ThreadedMotoServer
    from obstore.store import S3Store

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client: Any = S3Store("bucket", endpoint=endpoint, **KEYS, client_options={"allow_http": True})
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bucket", method="PUT")).read()
    for file in (p for p in stores.rglob("*") if p.is_file()):
        client.put(f"deep/{file.relative_to(stores).as_posix()}", file.read_bytes())
    yield endpoint
    server.stop()


@pytest.mark.parametrize("name", ["v2.zarr", "v3.zarr", "references.json"])
def test_over_http(stores: Path, from_disk: dict[str, Any], packed: Packed, name: str) -> None:
    with serving(stores) as server:
        assert packed(f"{server.url}/{name}") == from_disk


@pytest.mark.parametrize("name", ["bare", "references.json"])
def test_at_a_path(stores: Path, from_disk: dict[str, Any], packed: Packed, name: str) -> None:
    given: Any = str(stores / name) if name == "references.json" else [str(stores / name)]
    assert packed(given) == from_disk


def test_a_store_without_the_ending_in_a_folder(stores: Path, from_disk: dict[str, Any], packed: Packed) -> None:
    folder = stores.parent / "folder_of_one"
    shutil.copytree(stores / "bare", folder / "any_name", dirs_exist_ok=True)
    assert packed(str(folder)) == from_disk


def test_an_icechunk_repository(tmp_path: Path, from_disk: dict[str, Any], packed: Packed) -> None:
    icechunk = pytest.importorskip("icechunk")
    write_icechunk(icechunk.local_filesystem_storage(str(tmp_path / "repository")))
    assert packed(str(tmp_path / "repository")) == from_disk
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(UserError, match=r"repository: is an icechunk repository; name it as `input` itself"):
        packed(str(tmp_path))


def test_s3(s3: str, from_disk: dict[str, Any], packed: Packed) -> None:
    """A bucket's prefix is listed; two stores of the same data set are refused as two files would be."""
    options = {"endpoint": s3, **KEYS}
    assert packed("s3://bucket/deep/bare", storage_options=options) == from_disk
    config = PackConfig(input="s3://bucket/deep", output="unused", storage_options=options, **SETTINGS)
    with pytest.raises(UserError, match=r"overlap"):
        make_plan(config)
    with pytest.raises(UserError, match=r"holds no zarr store, .* \(nothing is there: check the URL\)"):
        make_plan(PackConfig(input="s3://bucket/other", output="unused", storage_options=options, **SETTINGS))
    assert "hidden" not in repr(config)


def test_s3_with_expired_credentials(tmp_path: Path, stores: Path, packed: Packed) -> None:
    """S3 answers 400 with a code, or 403."""
    with serving(stores) as server:
        server.answer_all = (400, b"<Error><Code>ExpiredToken</Code><Message>hidden/words</Message></Error>")
        with pytest.raises(Unreachable, match=r"HTTP 400 ExpiredToken \(access denied, or expired cred.*renew") as e:
            packed("s3://bucket/v2.zarr", storage_options={"endpoint": server.url, **KEYS})
    assert "hidden" not in str(e.value)
    assert not (tmp_path / "out").exists()


def test_pangeos_layout_of_cmip6(cmip6: Any, tmp_path: Path, packed: Packed) -> None:
    """One store a variable, in folders that are named by their version; the older version is left out."""
    urls = []
    for variable in ("tas", "zg"):
        path = cmip6(variable, plev_hpa=[850.0, 500.0] if variable == "zg" else None)
        with xr.open_dataset(path, decode_cf=False) as held:
            for version in ("v20190101", "v20200101"):
                shown = f"CMIP6/A/B/TEST-1/historical/r1i1p1f1/6hrPlevPt/{variable}/gn/{version}"
                held.load().to_zarr(tmp_path / "bucket" / shown, zarr_format=2, consolidated=True)
                urls.append(shown)
    with serving(tmp_path / "bucket") as server:
        found = packed([f"{server.url}/{url}" for url in urls], layout="cmip6")
    shutil.rmtree(tmp_path / "out")
    assert found == packed(str(tmp_path / "in"), layout="cmip6")


@pytest.mark.filterwarnings("ignore")
def test_virtual_references_of_virtualizarr(cmip6: Any, tmp_path: Path, packed: Packed) -> None:
    """As kerchunk's JSON and in icechunk, to NetCDF files on disk: the shards of the files themselves."""
    virtualizarr, icechunk = pytest.importorskip("virtualizarr"), pytest.importorskip("icechunk")
    from obspec_utils.registry import ObjectStoreRegistry
    from obstore.store import LocalStore
    from virtualizarr.parsers import HDFParser

    path = cmip6("tas", chunks=(1, 12, 24))
    virtual = virtualizarr.open_virtual_dataset(
        path.as_uri(),
        registry=ObjectStoreRegistry({"file://": LocalStore()}),
        parser=HDFParser(),
        loadable_variables=["time", "lat", "lon"],
        decode_times=False,
    )
    virtual.virtualize.to_kerchunk(str(tmp_path / "tas.json"), format="json")
    prefix, config = f"{(tmp_path / 'in').as_uri()}/", icechunk.RepositoryConfig.default()
    container = icechunk.VirtualChunkContainer(prefix, icechunk.local_filesystem_store(str(tmp_path / "in")))
    config.set_virtual_chunk_container(container)
    storage = icechunk.local_filesystem_storage(str(tmp_path / "repository"))
    repository = icechunk.Repository.create(storage, config=config, authorize_virtual_chunk_access={prefix: None})
    session = repository.writable_session("main")
    virtual.virtualize.to_icechunk(session.store)
    session.commit("references")
    found = []
    for given in ("in", "tas.json", "repository"):
        found.append(packed(str(tmp_path / given), layout="cmip6"))
        shutil.rmtree(tmp_path / "out")
    assert found[1] == found[0]
    assert found[2] == found[0]


def test_prediction_reads_the_same_values(stores: Path) -> None:
    expected = dataset()
    with serving(stores) as server:
        for name in ("v2.zarr", "v3.zarr", "references.json"):
            (found,) = open_files([f"{server.url}/{name}"])
            xr.testing.assert_equal(found[list(NAMES)].load(), expected.load())
            step = found["temperature"][3, :, ::-1, 5]
            np.testing.assert_array_equal(step, expected["temperature"][3, :, ::-1, 5])


def test_an_anemoi_store_over_http(tmp_path: Path, packed: Packed) -> None:
    """The shards of the same store on disk, whose variables lie in one array."""
    write_anemoi(tmp_path / "in/era.zarr", ("2t", "10u", "t_500", "t_850"), steps=4, missing=(2,))
    zarr.consolidate_metadata(tmp_path / "in/era.zarr", zarr_format=2)
    settings: dict[str, Any] = {"layout": "anemoi", "variables": None}
    expected = packed(str(tmp_path / "in"), **settings)
    shutil.rmtree(tmp_path / "out")
    with serving(tmp_path / "in") as server:
        assert packed(f"{server.url}/era.zarr", **settings) == expected


def test_a_store_on_disk_has_its_name_in_messages(stores: Path, tmp_path: Path, packed: Packed) -> None:
    with pytest.raises(UserError, match=r"\(v2\.zarr: its header and name lack source_id"):
        packed(str(stores / "v2.zarr"), layout="cmip6")
    with pytest.raises(UserError, match=r"\(v2\.zarr:? is a zarr store; this layout reads"):
        packed(str(stores / "v2.zarr"), layout="climate4r")
    packed(str(stores / "v2.zarr"))
    with h5py.File(next((tmp_path / "out").rglob("*.h5"))) as shard:
        inputs = json.loads(shard.attrs["inputs"])
    assert {Path(entry["file"]).parts[0] for entry in inputs} == {"v2.zarr"}


def test_prediction_reads_a_store_that_has_changed(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        for added in (0.0, 1.0):
            expected = dataset() + added
            expected.to_zarr(tmp_path / "a.zarr", zarr_format=2, consolidated=True, mode="w")
            (found,) = open_files([f"{server.url}/a.zarr"])
            np.testing.assert_array_equal(found["temperature"], expected["temperature"])


def test_a_read_that_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the cache is told when it ends: the error is passed on, and the next read asks again."""
    answers = iter([UserError("absent"), b"found"])

    def done(work: Any) -> Future[Any]:
        work.close()
        future, answer = Future[Any](), next(answers)
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
        return future

    async def read(key: str, part: Any) -> bytes | None:
        return None

    monkeypatch.setattr(fetched_store, "submit", done)
    cache = fetched_store.ChunkCache(100)
    with pytest.raises(UserError, match="absent"):
        cache.fetch((1, "key", None), read).result()
    assert cache.fetch((1, "key", None), read).result() == b"found"


def test_input_that_is_no_store(stores: Path, packed: Packed) -> None:
    cases = {
        "v2.zarr/temperature": "is an array of a store; give the URL of the store",
        "nothing": r"lists nothing \(http://.*/nothing: HTTP 501 [^;]*\); name the .* as a list.*metadata`\)$",
        "x.parq": "holds references in Parquet, which are not read",
        "v2.zarr?sig=secret": "v2.zarr has a query or fragment .*credentials in the environment",
    }
    with serving(stores) as server:
        for name, line in cases.items():
            with pytest.raises(UserError, match=f"input: .*{line}|{line}") as error:
                packed(f"{server.url}/{name}")
            assert "secret" not in str(error.value)
        with pytest.raises(UserError, match=r"nothing is no zarr store \(none of zarr.json"):
            packed([f"{server.url}/v2.zarr", f"{server.url}/nothing"])
        with pytest.raises(UserError, match=r"v2\.zarr is given twice"):
            packed([f"{server.url}/v2.zarr", f"{server.url}/v2.zarr"])
        with pytest.raises(UserError, match="this layout reads files in a folder"):
            packed(f"{server.url}/v2.zarr", layout="climatebench")
        with pytest.raises(UserError, match="http takes authorization only, not region"):
            packed(f"{server.url}/v2.zarr", storage_options={"region": "x"})
    with pytest.raises(UserError, match="has the scheme ftp, expected a path or one of http"):
        packed("ftp://example.org/x.zarr")


def test_passwords_are_sent_and_not_shown(stores: Path, tmp_path: Path, packed: Packed) -> None:
    with serving(stores) as server:
        packed(f"{server.url.replace('://', '://user:hidden@')}/v2.zarr")
        assert server.authorization == {"Basic dXNlcjpoaWRkZW4="}
    assert not any(b"hidden" in p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())


def test_a_reference_on_the_network_to_a_local_file_is_refused(stores: Path, tmp_path: Path, packed: Packed) -> None:
    text = (stores / "references.json").read_text()
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "r.json").write_text(text.replace("./references.bin", f"{stores}/references.bin"))
    with serving(tmp_path / "www") as server, pytest.raises(UserError, match=r"names the local file .*references\.bin"):
        packed(f"{server.url}/r.json")


def test_the_version_of_a_file_is_asked_for_once_and_those_of_several_at_the_same_time() -> None:
    asked, all_asked = [], asyncio.Event()

    class Reader:
        async def version(self, url: str) -> str:
            asked.append(url)
            if len(asked) == 3:
                all_asked.set()
            await asyncio.wait_for(all_asked.wait(), 10)
            return f"version of {url[-1]}"

    urls = [f"https://host/{name}" for name in "cab"]
    entries: Any = {f"{array}/{i}": (url, i, 8) for array in ("x", "y") for i, url in enumerate(urls)}
    references = References("https://host/r.json", entries, cast("Any", Reader()))

    async def both() -> list[list[str]]:
        return [await references.version(array) for array in ("x", "y")]

    for found in asyncio.run(both()):
        assert found[3:] == [f"https://host/{name} version of {name}" for name in "abc"]
    assert sorted(asked) == sorted(urls)


@pytest.mark.parametrize("key", ["endpoint", "endpoint_url", "aws_endpoint", "aws_endpoint_url"])
def test_a_server_without_tls_may_have_any_name_of_the_key(key: str) -> None:
    client, _ = client_of("s3://bucket/x", NetworkConfig(storage_options={key: "http://127.0.0.1:9"}))
    assert client.client_options["allow_http"] in (True, "true")


def test_options_that_icechunk_does_not_take_are_refused() -> None:
    pytest.importorskip("icechunk")
    for url, key in (("gs://bucket/x", "google_service_account"), ("s3://bucket/x", "unknown")):
        with pytest.raises(UserError, match=f"^storage_options: not known for icechunk: {key}; leave them out"):
            open_snapshot(url, "", NetworkConfig(storage_options={key: "x", "skip_signature": True}))


def test_without_the_extra(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['obstore'] = None\n"
        "from climax_hpc.cli import main\n"
        "main(['pack', '--input', 'https://example.org/x.zarr', '--output', sys.argv[1]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True, env={**os.environ}
    )
    assert "pip install 'climax_hpc[stores]'" in done.stderr
    assert "Traceback" not in done.stderr
