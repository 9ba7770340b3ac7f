"""Opens a store of any kind, once per process: as a zarr store, and as an object with the interface of a data set."""

import asyncio
import json
import os
import time
from dataclasses import dataclass, field
from typing import Any

import zarr

from climax_hpc.config.network import NetworkConfig
from climax_hpc.data_prep.sources.array_dataset import ArrayDataset
from climax_hpc.data_prep.sources.blosc_header import is_blosc
from climax_hpc.data_prep.sources.conversions import short
from climax_hpc.data_prep.stores.backends import Backend, Objects, Snapshot, fingerprint
from climax_hpc.data_prep.stores.client import check_extra
from climax_hpc.data_prep.stores.event_loop import run
from climax_hpc.data_prep.stores.failures import LATER
from climax_hpc.data_prep.stores.fetched_store import ChunkCache, FetchedStore
from climax_hpc.data_prep.stores.icechunk_repository import open_snapshot
from climax_hpc.data_prep.stores.reader import Reader
from climax_hpc.data_prep.stores.references import Entry, References, is_json, parse_references
from climax_hpc.data_prep.stores.sessions import SESSIONS
from climax_hpc.data_prep.stores.store_list import FoundStore, StorePath
from climax_hpc.data_prep.stores.urls import display
from climax_hpc.data_prep.stores.variable import READS, WAIT_S, FetchedVariable
from climax_hpc.errors import Unreachable, UserError


@dataclass
class Session:
    """What the stores of one input share in a process."""

    reader: Reader
    cache: ChunkCache
    stores: dict[FoundStore, FetchedStore] = field(default_factory=dict)
    datasets: dict[FoundStore, ArrayDataset] = field(default_factory=dict)


def session_of(network: NetworkConfig) -> Session:
    """The session of these settings in this process."""
    settings = {key: getattr(network, key) for key in NetworkConfig.__dataclass_fields__}
    key = json.dumps([os.getpid(), settings], sort_keys=True)
    if key not in SESSIONS:
        SESSIONS[key] = Session(Reader(network), ChunkCache(network.network_cache_mb * 1_000_000))
    found: Session = SESSIONS[key]
    return found


def open_store(found: FoundStore, network: NetworkConfig) -> FetchedStore:
    """A zarr store, ready to read.

    Raises:
        UserError: it is damaged, or of a form that is not read.
        Unreachable: its server does not answer, or refuses.
    """
    check_extra()
    session = session_of(network)
    if found not in session.stores:
        session.stores[found] = FetchedStore(_backend(found, session.reader, network), session.cache)
    return session.stores[found]


def snapshot_of(url: str, network: NetworkConfig) -> str:
    """The id of the last snapshot of an icechunk repository.

    Raises:
        UserError: see `open_snapshot`.
        Unreachable: see `open_store`.
    """
    return _open_snapshot(url, "", session_of(network).reader, network)[0]


def _open_snapshot(url: str, snapshot: str, reader: Reader, network: NetworkConfig) -> tuple[str, Any]:
    return run(reader.patiently(url, lambda: asyncio.to_thread(open_snapshot, url, snapshot, network)))


def _backend(found: FoundStore, reader: Reader, network: NetworkConfig) -> Backend:
    if found.kind == "icechunk":
        snapshot, store = _open_snapshot(found.url, found.snapshot, reader, network)
        return Snapshot(found.url, snapshot, store, reader)
    if found.kind == "references":
        return References(found.url, _references(found.url, reader), reader)
    return Objects(found.url, reader, network)


def _references(url: str, reader: Reader) -> dict[str, Entry]:
    for attempt in range(1, READS + 1):
        raw = run(reader.read(url))
        if raw is None:
            raise UserError(f"input: {display(url)} does not exist; correct it")
        try:
            return parse_references(raw, url)
        except UserError:  # damaged on the way, perhaps
            if attempt == READS or is_json(raw):
                raise
        time.sleep(WAIT_S * attempt)
    raise AssertionError("not reached")


def open_dataset(path: StorePath) -> ArrayDataset:
    """The arrays of a store.

    Raises:
        UserError: its root is no group of arrays.
        Unreachable: see `open_store`; its metadata are damaged.
    """
    session = session_of(path.network)
    if path.store not in session.datasets:
        session.datasets[path.store] = _open_dataset(open_store(path.store, path.network))
    return session.datasets[path.store]


def _open_dataset(store: FetchedStore) -> ArrayDataset:
    for attempt in range(1, READS + 1):
        try:
            group = zarr.open_group(store, mode="r")
            arrays = dict(group.arrays())
            store.blosc_arrays |= {key for key, array in arrays.items() if is_blosc(array)}
            variables = {key: FetchedVariable(array, key, store) for key, array in arrays.items()}
            return ArrayDataset(variables, dict(group.attrs), tuple(group.group_keys()))
        except UserError:
            raise
        except Exception as error:  # zarr raises many kinds
            store.forget()
            time.sleep(WAIT_S * attempt)
            if attempt == READS:
                raise Unreachable(
                    f"{store.name}: cannot be opened as a zarr store ({short(error)}), {READS} times: its metadata are "
                    f"damaged or incomplete; {LATER}"
                ) from error
    raise AssertionError("not reached")


def fingerprint_of(path: StorePath) -> str:
    """What tells apart two states of an array, or of all arrays of a store, without reading them.

    Raises:
        Unreachable: see `open_store`.
    """
    store, dataset = open_store(path.store, path.network), open_dataset(path)
    names = [path.array] if path.array else sorted(dataset.variables)
    parts = []
    for name in names:
        metadata = dataset.variables[name].metadata
        parts.append(fingerprint(json.dumps(metadata, sort_keys=True, default=str), store.version(name)))
    return parts[0] if path.array else fingerprint(json.dumps(dataset.attributes, sort_keys=True, default=str), parts)


def bytes_of(path: StorePath) -> int:
    """Bytes of an array, or of all arrays of a store, once decoded."""
    variables = open_dataset(path).variables
    chosen = [variables[path.array]] if path.array else list(variables.values())
    return sum(v.nbytes for v in chosen)
