"""Reads objects whole or in part, again and again until a time limit; what arrives is checked as far as it can be.

Checked: the announced length; the range that was asked for; an ETag that is the MD5 of the object, as S3 and Google
Cloud Storage give for objects that were written in one piece; that an object read in parts stays the same; that it is
no web page. Bytes that a server or a network changes beyond that are for the codecs of the store to detect.
"""

import asyncio
import hashlib
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from climax_hpc.config.network import NetworkConfig
from climax_hpc.data_prep.stores.client import client_of
from climax_hpc.data_prep.stores.failures import SILENCE, WEB_PAGE, Failure, failure_of, wrong_length
from climax_hpc.data_prep.stores.urls import display
from climax_hpc.errors import Unreachable, UserError

Result = TypeVar("Result")
Range = tuple[int | None, int | None]
"""First byte and the one behind the last; (start, None): to the end; (None, count): the last `count` bytes."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 15.0
_PIECE_BYTES = 256 << 10
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
_PAGE = re.compile(rb"\s*<(!doctype html|html|head)\b", re.IGNORECASE)


class Refused(Exception):
    """A failed request."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.seen)
        self.failure = failure


class Reader:
    """Reads from any server with the settings of one input; used in the thread of the requests."""

    def __init__(self, network: NetworkConfig) -> None:
        self._network = network
        self._connections = asyncio.Semaphore(network.network_connections)
        self._versions: dict[str, str] = {}
        """URL -> version of an object that is read in parts."""
        self._no_md5: dict[str, bytes] = {}
        """URL -> MD5 of what was read twice alike, though its ETag is another number."""
        self._etag_is_md5: bool | None = None
        """True once an ETag was the MD5 of what was read, False once one was not."""

    async def read(self, url: str, part: Range | None = None) -> bytes | None:
        """The bytes of an object; None if there is none.

        Raises:
            Unreachable: no whole answer within the time limit, or access denied; names the URL without its secrets.
            UserError: the object changed between two reads of it.
        """
        return await self.patiently(url, lambda: self._once(url, part))

    async def version(self, url: str) -> str:
        """Length and ETag, or else the time of the last change; empty if there is no such object.

        Raises:
            Unreachable: see `read`.
        """

        async def once() -> str:
            import obstore

            client, key = client_of(url, self._network)
            try:
                found = await asyncio.wait_for(obstore.head_async(client, key), self._network.network_timeout_seconds)
            except FileNotFoundError:
                return ""
            return f"{found['size']} {found['e_tag'] or found['last_modified']}"

        return await self.patiently(url, once)

    async def patiently(self, url: str, once: Callable[[], Awaitable[Result]]) -> Result:
        """Repeat a request, with waits that double, until it succeeds or the time is over.

        Raises:
            Unreachable: it did not succeed.
        """
        async with self._connections:
            start, wait, tries = time.monotonic(), _FIRST_WAIT_S, Counter[str]()
            limit = self._network.network_retry_seconds
            last = SILENCE
            while True:
                left = limit - (time.monotonic() - start)
                try:
                    return await asyncio.wait_for(once(), max(left, 0.001))
                except UserError:
                    raise
                except TimeoutError:
                    last = SILENCE
                except Refused as error:
                    last = error.failure
                except Exception as error:  # obstore and icechunk raise many kinds
                    last = failure_of(error)
                tries[last.seen] += 1
                pause = wait * random.uniform(0.5, 1)  # ranks that failed together shall not ask together
                passed = time.monotonic() - start
                if not last.again or tries[last.seen] >= last.most or passed + pause >= limit:
                    often = f" ({tries.total()} tries in {passed:.1f} s)" if tries.total() > 1 else ""
                    raise Unreachable(f"{display(url)}: {last.seen}{often}; {last.fix}")
                await asyncio.sleep(pause)
                wait = min(2 * wait, _LONGEST_WAIT_S)

    async def _once(self, url: str, part: Range | None) -> bytes | None:
        import obstore

        client, key = client_of(url, self._network)
        silence = self._network.network_timeout_seconds
        options: Any = None if part is None else {"range": _as_option(part)}
        try:
            answer = await asyncio.wait_for(obstore.get_async(client, key, options=options), silence)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        pieces = []
        stream = answer.stream(min_chunk_size=_PIECE_BYTES).__aiter__()
        while True:
            try:
                pieces.append(bytes(await asyncio.wait_for(stream.__anext__(), silence)))
            except StopAsyncIteration:
                break
        body = b"".join(pieces)
        self._check(url, body, answer, part)
        return body

    def _check(self, url: str, body: bytes, answer: Any, part: Range | None) -> None:
        first, behind = answer.range
        expected = behind - first
        if part is not None and part[0] is not None and part[1] is not None:
            expected = part[1] - part[0]
        if part is not None and part[0] is None and part[1] is not None:
            expected = min(part[1], answer.meta["size"])
        if len(body) != expected:
            raise Refused(wrong_length(len(body), expected))
        if part is None and _PAGE.match(body[:64]):
            raise Refused(WEB_PAGE)
        version = answer.meta["e_tag"] or ""
        if part is None:
            self._check_md5(url, body, version)
        elif version and self._versions.setdefault(url, version) != version:
            raise UserError(
                f"{display(url)} changed while it was read (ETag {version}, before {self._versions[url]}); run the "
                "same command again when it is complete"
            )

    def _check_md5(self, url: str, body: bytes, etag: str) -> None:
        """Compare with an ETag that looks like an MD5; encrypted objects have ETags that do but are none."""
        match = _MD5.fullmatch(etag)
        if match is None or self._etag_is_md5 is False:
            return
        found = hashlib.md5(body, usedforsecurity=False)
        if found.hexdigest() == match[1]:
            self._etag_is_md5 = True
        elif self._etag_is_md5 is None and self._no_md5.pop(url, None) == found.digest():  # the same bytes twice
            self._etag_is_md5 = False
        else:
            self._no_md5[url] = found.digest()
            raise Refused(Failure("bytes that differ from the MD5 in the ETag", most=8))


def _as_option(part: Range) -> Any:
    start, stop = part
    if start is None:
        return {"suffix": stop}
    return {"offset": start} if stop is None else (start, stop)
