"""A read-only zarr store whose chunks are fetched at the same time, ahead of their use, and kept for a while."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import Future
from typing import Any

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from climax_hpc.data_prep.stores.backends import Backend
from climax_hpc.data_prep.stores.event_loop import run, submit
from climax_hpc.data_prep.stores.reader import Range
from climax_hpc.errors import UserError

_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
Key = tuple[int, str, Range | None]
Body = bytes | None


class ChunkCache:
    """What the stores of an input have fetched or are fetching, the longest unused dropped first."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._held = most_bytes, 0
        self._entries: OrderedDict[Key, Future[Body]] = OrderedDict()
        self._sizes: dict[Key, int] = {}
        self._ahead: dict[Key, int] = {}
        """Expected bytes of what was fetched ahead and not used yet; it is not dropped."""
        self._ahead_bytes = 0
        self._lock = threading.RLock()

    def fetch(self, key: Key, backend: Backend) -> "Future[Body]":
        """What is fetched, or being fetched, under a key."""
        with self._lock:
            self._ahead_bytes -= self._ahead.pop(key, 0)
            return self._start(key, backend)

    def prefetch(self, keys: Iterable[Key], backend: Backend, expected: int) -> None:
        """Start what will be needed soon, as long as half of the memory suffices; `expected`: bytes of each at most."""
        with self._lock:
            for key in keys:
                if key in self._entries:
                    continue
                if self._ahead_bytes + expected > self._most // 2:
                    return
                self._ahead[key] = expected
                self._ahead_bytes += expected
                self._start(key, backend)

    def forget(self, keys: Iterable[Key]) -> None:
        """Drop what turned out to be damaged."""
        with self._lock:
            for key in keys:
                self._drop(key)

    def keys_below(self, number: int, prefix: str) -> list[Key]:
        """Keys of a store that begin with a prefix."""
        with self._lock:
            return [key for key in self._entries if key[0] == number and key[1].startswith(prefix)]

    def _start(self, key: Key, backend: Backend) -> "Future[Body]":
        future = self._entries.get(key)
        if future is None:
            future = self._entries[key] = submit(backend.read(key[1], key[2]))
            future.add_done_callback(lambda done: self._finished(key, done))
        self._entries.move_to_end(key)
        return future

    def _finished(self, key: Key, done: "Future[Body]") -> None:
        with self._lock:
            if self._entries.get(key) is not done:
                return
            if done.cancelled() or done.exception() is not None:
                self._drop(key)
                return
            size = len(done.result() or b"")
            self._sizes[key] = size
            self._held += size
            if key in self._ahead:
                self._ahead_bytes += size - self._ahead[key]
                self._ahead[key] = size
            while self._held > self._most:
                used = (k for k in self._entries if k in self._sizes and k not in self._ahead and k != key)
                oldest = next(used, None)
                if oldest is None:
                    break
                self._drop(oldest)

    def _drop(self, key: Key) -> None:
        self._entries.pop(key, None)
        self._ahead_bytes -= self._ahead.pop(key, 0)
        self._held -= self._sizes.pop(key, 0)


class FetchedStore(Store):
    """A zarr store over a `Backend`; an absent chunk is an error, not the fill value."""

    _count = 0

    def __init__(self, backend: Backend, cache: ChunkCache) -> None:
        super().__init__(read_only=True)
        self._backend, self._cache = backend, cache
        FetchedStore._count += 1
        self._number = FetchedStore._count
        self._is_open = True

    @property
    def name(self) -> str:
        """For messages."""
        return self._backend.name

    def size_of(self, keys: list[str]) -> int:
        """Fetch whole objects at the same time; the sum of their bytes.

        Raises:
            UserError: one is absent.
            Unreachable: one cannot be read.
        """
        futures = [self._cache.fetch(self._key(key), self._backend) for key in keys]
        return sum(len(self._present(key, future.result())) for key, future in zip(keys, futures, strict=True))

    def prefetch(self, keys: list[str], expected: int) -> None:
        """Start to fetch whole objects of at most `expected` bytes each."""
        self._cache.prefetch([self._key(key) for key in keys], self._backend, expected)

    def forget(self, prefix: str) -> None:
        """Fetch all keys below a prefix again when they are needed."""
        self._cache.forget(self._cache.keys_below(self._number, prefix))

    def version(self, array: str) -> list[str]:
        """See `Backend`."""
        return run(self._backend.version(array))

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The bytes of a key.

        Raises:
            UserError: a chunk is absent.
            Unreachable: it cannot be read.
        """
        future = self._cache.fetch(self._key(key, byte_range), self._backend)
        body = await asyncio.wrap_future(future)
        if body is None and key.rsplit("/", 1)[-1] in _METADATA:
            return None
        return prototype.buffer.from_bytes(self._present(key, body))

    def _present(self, key: str, body: Body) -> bytes:
        if body is None:
            raise UserError(
                f"{self.name}: chunk {key} is absent (404), so the store is incomplete; use a complete one (or, if the "
                "store leaves out empty chunks, rewrite it with xarray's `write_empty_chunks`)"
            )
        return body

    def _key(self, key: str, request: ByteRequest | None = None) -> Key:
        part: Range | None = None
        if isinstance(request, RangeByteRequest):
            part = request.start, request.end
        elif isinstance(request, OffsetByteRequest):
            part = request.offset, None
        elif isinstance(request, SuffixByteRequest):
            part = None, request.suffix
        return self._number, key, part

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Several keys at the same time."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """True if the key is there."""
        return await asyncio.wrap_future(self._cache.fetch(self._key(key), self._backend)) is not None

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names directly below a prefix."""
        for name in await asyncio.wrap_future(submit(self._backend.names(prefix))):
            yield name

    def list(self) -> AsyncIterator[str]:
        """Not needed to read."""
        raise NotImplementedError

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Not needed to read."""
        raise NotImplementedError

    async def set(self, key: str, value: Buffer) -> None:
        """Refused: read-only."""
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        """Refused: read-only."""
        raise NotImplementedError

    @property
    def supports_writes(self) -> bool:
        """False."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """False."""
        return False

    @property
    def supports_listing(self) -> bool:
        """True; whether the server lists is known only when it is asked."""
        return True

    def __eq__(self, other: Any) -> bool:
        return self is other

    def __hash__(self) -> int:
        return self._number
