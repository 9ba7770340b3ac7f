"""Downloads one file: parts resume by HTTP ranges, checksum and size are compared, then it is renamed to its place.

Not intake-esgf's own downloader: it begins a file anew after every break, leaves random temporary names behind when it
is killed, accepts a file without checksum whatever its size, and says why a file failed only in a log.
"""

import os
import re
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import urllib3

from climax_hpc.data_prep.fetching.checksums import agrees, hasher
from climax_hpc.data_prep.fetching.records import RemoteFile, host_of, shown_url
from climax_hpc.data_prep.sources.file_format import NETCDF, format_of
from climax_hpc.errors import UserError
from climax_hpc.utils.atomic import sync
from climax_hpc.utils.files import parse_json, write_json

_CHUNK = 1 << 16
_CONNECT_SECONDS = 15.0
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_REASONS = {
    401: "needs a login", 403: "forbids it", 404: "has no such file", 410: "has removed the file",
    451: "may not give it",
}  # fmt: skip
_OK, _PARTIAL, _NO_SUCH_RANGE, _SERVER_ERROR = 200, 206, 416, 500
_AGAIN = {408, 425, 429}
_NETWORK = (requests.RequestException, urllib3.exceptions.HTTPError, ssl.SSLError)


class Rejected(Exception):
    """A node that does not have the file as the index lists it; asking again does not help."""


class Interrupted(Exception):
    """A node that may deliver the file, or the rest of it, another time."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait
        """Seconds that the node asks for."""


class FetchStopped(Exception):
    """The whole fetch ends; the part stays for the next one."""


@dataclass(kw_only=True)
class HashedPart:
    """The hash of a part as far as it was written or read: the next attempt need not read it again."""

    size: int = 0
    """Bytes of the part from its first on."""
    digest: Any = None
    """Their hash object; None before the first attempt."""


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What an attempt needs beside file and URL."""

    part: Path
    session: requests.Session
    stall_seconds: float
    stop: threading.Event
    received: Callable[[int], None]
    """Told of the bytes that arrive, and with a negative number of those that are thrown away."""
    note: Callable[[str], None]
    hashed: HashedPart = field(default_factory=HashedPart)
    """Kept between the attempts of one file."""


def attempt(file: RemoteFile, url: str, transfer: Transfer) -> None:
    """Get a file, or the rest of it, from one URL into its part, and check it.

    Raises:
        Rejected, Interrupted, FetchStopped: see there.
        OSError: the disk refused a write.
    """
    part = _Part(file, transfer)
    try:
        resumed = part.open(url)
        if file.size is None or part.size < file.size:
            _receive(file, url, transfer, part)
        _check(file, url, part, resumed)
        part.flush()
    finally:
        part.close()


def _receive(file: RemoteFile, url: str, transfer: Transfer, part: "_Part") -> None:
    """Append what is missing to the part."""
    headers = {"Accept-Encoding": "identity"} | part.range_headers(url)
    try:
        with transfer.session.get(
            url, headers=headers, stream=True, timeout=(_CONNECT_SECONDS, transfer.stall_seconds)
        ) as response:
            expected = _start(file, url, response, part)
            for chunk in response.raw.stream(_CHUNK, decode_content=False):
                if transfer.stop.is_set():
                    raise FetchStopped
                if file.size is not None and part.size + len(chunk) > file.size:
                    part.discard()
                    raise Rejected(f"{host_of(url)} sends more than the {file.size} bytes that the index lists")
                part.write(chunk)
    except _NETWORK as error:
        raise _explained(error, url, transfer.stall_seconds) from None
    wanted = file.size if file.size is not None else expected
    if wanted is not None and part.size < wanted:
        raise Interrupted(f"{host_of(url)} ended the connection after {part.size} of {wanted} bytes")


def _start(file: RemoteFile, url: str, response: requests.Response, part: "_Part") -> int | None:
    """Check the head of a response; the size of the whole file, None where the node does not say."""
    host, status = host_of(url), response.status_code
    if status == _NO_SUCH_RANGE:
        size = part.size
        part.discard()
        raise Interrupted(f"{host} refuses to resume at byte {size} (status 416)")
    if status == _PARTIAL:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != part.size:
            part.discard()
            raise Interrupted(f"{host} resumes at another byte than asked for")
        total = None if found[2] == "*" else int(found[2])
    elif status == _OK:
        part.restart(url, response)
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
    else:
        raise _of_status(host, status, response.headers.get("Retry-After", ""))
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise Rejected(
            f"{host} sends Content-Encoding {response.headers['Content-Encoding'][:40]!r}, expected identity"
        )
    if total is not None and file.size is not None and total != file.size:
        raise Rejected(f"{host} has {total} bytes at {shown_url(url)}, expected {file.size} (size in the index)")
    return total


def _of_status(host: str, status: int, retry_after: str) -> Exception:
    if status in _AGAIN or status >= _SERVER_ERROR:
        wait = float(retry_after) if retry_after.isdigit() else 0.0
        return Interrupted(f"{host} is not available (status {status})", wait)
    return Rejected(f"{host} {_REASONS.get(status, 'refuses it')} (status {status})")


def _explained(error: Exception, url: str, stall: float) -> Exception:
    """What the network did, without the library's words, which hold the whole URL."""
    host, text = host_of(url), str(error)
    if isinstance(error, requests.exceptions.SSLError | ssl.SSLError) or "CERTIFICATE_VERIFY_FAILED" in text:
        expired = "has expired" if "expired" in text else "is not valid here"
        return Rejected(f"the certificate of {host} {expired}")
    if isinstance(error, requests.exceptions.InvalidSchema | requests.exceptions.TooManyRedirects):
        return Rejected(f"{host} redirects to what is no web address, or without end")
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return Interrupted(f"{host} does not answer within {_CONNECT_SECONDS:.0f} s")
    if isinstance(error, requests.exceptions.Timeout | urllib3.exceptions.TimeoutError) or "timed out" in text:
        return Interrupted(f"{host} sends nothing for {stall:g} s")
    if "Name or service not known" in text or "NameResolutionError" in text or "getaddrinfo" in text:
        return Interrupted(f"the name {host} is not known to the network")
    if "refused" in text:
        return Interrupted(f"{host} refuses the connection")
    return Interrupted(f"{host} broke the connection ({type(error).__name__})")


def _check(file: RemoteFile, url: str, part: "_Part", resumed: bool) -> None:
    """Compare the checksum of a complete part; a wrong one is thrown away. Without one, the first bytes decide."""
    if agrees(file.checksum, part.digest):
        if not file.checksum:
            _check_format(url, part)
        return
    algorithm, _, expected = file.checksum.partition(":")
    found = part.digest.hexdigest()
    part.discard()
    if resumed:
        raise Interrupted(f"{host_of(url)}: the resumed file has another {algorithm} than the index lists: begun again")
    raise Rejected(f"{shown_url(url)}: {algorithm} is {found}, expected {expected} (checksum in the index)")


def _check_format(url: str, part: "_Part") -> None:
    """Refuse what is no NetCDF file, such as the page of a login that a server sends with status 200."""
    part.flush()
    found, _ = format_of(part.path)
    if found not in NETCDF:
        part.discard()
        raise Rejected(f"{shown_url(url)} is {found or 'of an unknown format'}, expected NetCDF")


class _Part:
    """The part of a file on disk, with a record beside it of what it is a part of."""

    def __init__(self, file: RemoteFile, transfer: Transfer) -> None:
        self._file, self._transfer, self.path = file, transfer, transfer.part
        self._record = self.path.with_suffix(".json")
        self._stream: Any = None
        self.size = 0
        self.digest = hasher(file.checksum)
        self._known: dict[str, str] = {}

    def open(self, url: str) -> bool:
        """Open the part, after reading what no attempt before has hashed; True if it holds anything."""
        self._known = self._read_record()
        identity = {"data_set": self._file.data_set, "checksum": self._file.checksum, "size": str(self._file.size)}
        same = identity.items() <= self._known.items()
        if same and not self._file.checksum:  # nothing but the node's word says that it is the same file
            same = bool(self._known.get("validator")) and self._known.get("url") == shown_url(url)
        if self.path.exists() and self._known and not same:
            self._transfer.note(f"{self._file.name}: the list has changed since its part was downloaded: begun again")
        self._known = {**identity, "url": self._known.get("url", ""), "validator": self._known.get("validator", "")}
        resumes, hashed = same and self.path.exists(), self._transfer.hashed
        if resumes and hashed.digest is not None and hashed.size <= self.path.stat().st_size:
            self.size, self.digest = hashed.size, hashed.digest
        self._stream = self.path.open("r+b" if resumes else "w+b")
        self._stream.seek(self.size)
        while block := self._stream.read(_CHUNK):
            self.digest.update(block)
            self.size += len(block)
        if self._file.size is not None and self.size > self._file.size:
            self._empty()
        self._transfer.received(self.size)
        return self.size > 0

    def range_headers(self, url: str) -> dict[str, str]:
        """The headers that ask for the rest, if the file is still the same."""
        if not self.size:
            return {}
        validator = self._known["validator"] if self._known["url"] == shown_url(url) else ""
        return {"Range": f"bytes={self.size}-"} | ({"If-Range": validator} if validator else {})

    def restart(self, url: str, response: requests.Response) -> None:
        """Begin with the first byte of a response, and record whose it is."""
        if self.size:
            self._transfer.note(f"{self._file.name}: {host_of(url)} sends the whole file again: begun again")
        self.discard()
        etag, modified = response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")
        strong = etag if etag and not etag.startswith("W/") else modified
        self._known |= {"url": shown_url(url), "validator": strong[:200]}
        write_json(self._record, self._known)

    def write(self, chunk: bytes) -> None:
        """Append bytes."""
        self._stream.write(chunk)
        self.digest.update(chunk)
        self.size += len(chunk)
        self._transfer.received(len(chunk))

    def discard(self) -> None:
        """Throw the content away."""
        self._transfer.received(-self.size)
        self._empty()

    def _empty(self) -> None:
        self._stream.seek(0)
        self._stream.truncate()
        self.size, self.digest = 0, hasher(self._file.checksum)

    def flush(self) -> None:
        """Put everything on the disk."""
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file, keep its hash, and remove it if it holds nothing."""
        if self._stream is not None:
            self._stream.close()
            self._transfer.hashed.size, self._transfer.hashed.digest = self.size, self.digest
            if not self.size:
                self.path.unlink(missing_ok=True)
                self._record.unlink(missing_ok=True)

    def _read_record(self) -> dict[str, str]:
        """What the part is a part of; empty where that cannot be read."""
        try:
            found = parse_json(self._record.read_bytes(), self._record, "the record of a part")
        except (OSError, UserError):
            return {}
        return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def put_in_place(part: Path, place: Path) -> None:
    """Rename a checked part to its place in the tree, and remove its record."""
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, place)
    sync(place.parent)
    part.with_suffix(".json").unlink(missing_ok=True)


def order_of(urls: Sequence[str], preferred: Callable[[str], int], failures: Callable[[str], int]) -> list[str]:
    """URLs with those first whose host has failed least, then those preferred, then in the order of the index."""
    return sorted(urls, key=lambda url: (failures(host_of(url)), preferred(host_of(url))))
