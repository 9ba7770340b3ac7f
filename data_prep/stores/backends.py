"""Where the keys of a store are: objects below a URL, or the branch of an icechunk repository."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any, Protocol

from climax_hpc.config.network import NetworkConfig
from climax_hpc.data_prep.stores.client import client_of
from climax_hpc.data_prep.stores.failures import LATER
from climax_hpc.data_prep.stores.reader import Range, Reader
from climax_hpc.data_prep.stores.urls import display, join
from climax_hpc.errors import Unreachable, UserError

Listed = list[tuple[str, str]]


class Backend(Protocol):
    """What a `FetchedStore` reads from."""

    name: str
    """For messages."""

    async def read(self, key: str, part: Range | None) -> bytes | None:
        """The bytes of a key; None if there is none."""
        ...

    async def names(self, prefix: str) -> list[str]:
        """Names directly below a prefix."""
        ...

    async def version(self, array: str) -> list[str]:
        """What tells apart two states of an array beside its metadata, as far as the store says."""
        ...


class Objects:
    """Objects below a URL."""

    def __init__(self, url: str, reader: Reader, network: NetworkConfig) -> None:
        self.name = display(url)
        self._url, self._reader, self._network = url, reader, network

    async def read(self, key: str, part: Range | None) -> bytes | None:
        """See `Backend`."""
        return await self._reader.read(join(self._url, key), part)

    async def names(self, prefix: str) -> list[str]:
        """See `Backend`.

        Raises:
            UserError: the server cannot list.
        """
        folders, objects = await listing(join(self._url, prefix), self._reader, self._network)
        return [*folders, *objects]

    async def version(self, array: str) -> list[str]:
        """Name, length and ETag of every object, where the protocol lists them; nothing for http."""
        if self._url.startswith("http"):
            return []
        import obstore

        client, key = client_of(join(self._url, array), self._network)

        async def once() -> list[str]:
            found = await asyncio.to_thread(lambda: [meta for page in obstore.list(client, key) for meta in page])
            return sorted(
                f"{m['path'].removeprefix(key)} {m['size']} {m['e_tag'] or m['last_modified']}" for m in found
            )

        return await self._reader.patiently(self._url, once)


async def listing(url: str, reader: Reader, network: NetworkConfig) -> tuple[list[str], list[str]]:
    """Names of the folders and of the objects directly below a URL.

    Raises:
        UserError: the server cannot list.
        Unreachable: it did not answer.
    """
    import obstore

    client, key = client_of(url, network)

    async def once() -> tuple[list[str], list[str]]:
        found = await obstore.list_with_delimiter_async(client, key or None)
        names = ([str(p) for p in found["common_prefixes"]], [str(m["path"]) for m in found["objects"]])
        folders, objects = (sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in paths}) for paths in names)
        return folders, objects

    try:
        return await reader.patiently(url, once)
    except Unreachable as error:
        if url.startswith("http"):
            raise UserError(
                f"{display(url)} is no zarr store with consolidated metadata, no icechunk repository and no reference "
                f"file, and its server lists nothing ({str(error).removesuffix(f'; {LATER}')}); name the stores "
                "themselves, as a list: input: [URL, URL, …] (a store without .zmetadata: `zarr.consolidate_metadata`)"
            ) from None
        raise


class Snapshot:
    """A snapshot of an icechunk repository: a zarr store that icechunk reads."""

    def __init__(self, url: str, snapshot: str, store: Any, reader: Reader) -> None:
        self.name = display(url)
        self._url, self._snapshot, self._store, self._reader = url, snapshot, store, reader

    async def read(self, key: str, part: Range | None) -> bytes | None:
        """See `Backend`."""
        from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
        from zarr.core.buffer import default_buffer_prototype

        request: Any = None
        if part is not None:
            start, stop = part
            if start is None:
                request = SuffixByteRequest(stop or 0)
            else:
                request = OffsetByteRequest(start) if stop is None else RangeByteRequest(start, stop)

        async def once() -> bytes | None:
            found = await self._store.get(key, default_buffer_prototype(), request)
            return None if found is None else bytes(found.to_bytes())

        return await self._reader.patiently(join(self._url, key), once)

    async def names(self, prefix: str) -> list[str]:
        """See `Backend`."""
        return [name async for name in _stripped(self._store.list_dir(prefix))]

    async def version(self, array: str) -> list[str]:
        """The snapshot, which never changes."""
        return [self._snapshot]


async def _stripped(names: AsyncIterator[str]) -> AsyncIterator[str]:
    async for name in names:
        yield name.rstrip("/").rsplit("/", 1)[-1]


def fingerprint(metadata: str, version: list[str]) -> str:
    """A digest of what a store says about an array without reading it."""
    return hashlib.sha256("\n".join([metadata, *version]).encode()).hexdigest()
