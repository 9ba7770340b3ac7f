"""A read-only zarr store whose chunks are fetched at the same time, ahead of their use, and kept for a while."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import Future
from typing import Any

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from climax_hpc.data_prep.sources.blosc_header import is_whole
from climax_hpc.data_prep.stores.backends import Backend
from climax_hpc.data_prep.stores.event_loop import run, submit
from climax_hpc.data_prep.stores.failures import LATER
from climax_hpc.data_prep.stores.reader import Range
from climax_hpc.errors import Unreachable, UserError

_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
Key = tuple[int, str, Range | None]
Body = bytes | None
Read = Callable[[str, Range | None], Coroutine[Any, Any, Body]]
_TRIES, _FIRST_WAIT_S = 6, 0.1


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

    def fetch(self, key: Key, read: Read) -> "Future[Body]":
        """What is fetched, or being fetched, under a key."""
        with self._lock:
            self._ahead_bytes -= self._ahead.pop(key, 0)
            return self._start(key, read)

    def prefetch(self, keys: Iterable[Key], read: Read, expected: int) -> None:
        """Start what will be needed soon, as long as half of the memory suffices; `expected`: bytes of each at most."""
        with self._lock:
            for key in keys:
                if key in self._entries:
                    continue
                if self._ahead_bytes + expected > self._most // 2:
                    return
                self._ahead[key] = expected
                self._ahead_bytes += expected
                self._start(key, read)

    def forget(self, keys: Iterable[Key]) -> None:
        """Drop what turned out to be damaged."""
        with self._lock:
            for key in keys:
                self._drop(key)

    def keys_of(self, number: int) -> list[Key]:
        """Keys of a store."""
        with self._lock:
            return [key for key in self._entries if key[0] == number]

    def _start(self, key: Key, read: Read) -> "Future[Body]":
        future = self._entries.get(key)
        if future is None:
            future = self._entries[key] = submit(read(key[1], key[2]))
            future.add_done_callback(lambda done: self._finished(key, done))  # at once, if it is done: may drop the key
        else:
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
        self.blosc_arrays: set[str] = set()
        """Names of arrays whose chunks have their length in a header that the decoder does not check."""

    @property
    def name(self) -> str:
        """For messages."""
        return self._backend.name

    def fetch(self, keys: list[str]) -> list[bytes]:
        """Fetch whole objects at the same time.

        Raises:
            UserError: one is absent.
            Unreachable: one cannot be read.
        """
        futures = [self._cache.fetch(self._key(key), self._read) for key in keys]
        return [self._present(key, future.result()) for key, future in zip(keys, futures, strict=True)]

    def prefetch(self, keys: list[str], expected: int) -> None:
        """Start to fetch whole objects of at most `expected` bytes each."""
        self._cache.prefetch([self._key(key) for key in keys], self._read, expected)

    def forget(self, keys: list[str] | None = None) -> None:
        """Fetch keys again when they are needed, or all of the store."""
        known = self._cache.keys_of(self._number)
        self._cache.forget(key for key in known if keys is None or key[1] in keys)

    def version(self, array: str) -> list[str]:
        """See `Backend`."""
        return run(self._backend.version(array))

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The bytes of a key.

        Raises:
            UserError: a chunk is absent.
            Unreachable: it cannot be read.
        """
        future = self._cache.fetch(self._key(key, byte_range), self._read)
        body = await asyncio.wrap_future(future)
        if body is None and key.rsplit("/", 1)[-1] in _METADATA:
            return None
        return prototype.buffer.from_bytes(self._present(key, body))

    async def _read(self, key: str, part: Range | None) -> Body:
        """The bytes of a key, again while a chunk is not as long as its header says."""
        wait, found = _FIRST_WAIT_S, 0
        for _ in range(_TRIES):
            body = await self._backend.read(key, part)
            name, _, chunk = key.partition("/")
            checked = part is None and name in self.blosc_arrays and chunk not in _METADATA
            if body is None or not checked or is_whole(body, len(body)):
                return body
            found = len(body)
            await asyncio.sleep(wait)
            wait *= 2
        raise Unreachable(
            f"{self.name}: chunk {key} has {found} bytes, another number than its header says, {_TRIES} times: it "
            f"is truncated or damaged; {LATER}"
        )

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
        return await asyncio.wrap_future(self._cache.fetch(self._key(key), self._read)) is not None

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
