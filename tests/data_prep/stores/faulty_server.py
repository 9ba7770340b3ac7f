"""An HTTP server of a folder that answers late, slowly, wrongly or not at all, as its seed says, and counts it."""

import hashlib
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

TRANSIENT = (
    "503", "429", "reset", "reset in the body", "truncated", "half with its length", "stall", "stall in the body",
    "slow", "web page", "web page of the right length", "no length",
)  # fmt: skip
"""Faults after which another try helps, in any store."""
FLIPPED = "flipped byte"
"""A fault that only checksums can detect."""
FINAL = ("403", "401", "404")
"""Faults that no try within the same command helps against."""
_PAGE = b"<!DOCTYPE html><html><body>The service is unavailable</body></html>"


class Faults:
    """Which request goes wrong: a share of them, at most `in_a_row` times for one key, after the first `after`."""

    def __init__(self, kinds: tuple[str, ...], share: float, seed: int, after: int = 0, in_a_row: int = 3) -> None:
        self.kinds, self.share, self.seed, self.after, self.in_a_row = kinds, share, seed, after, in_a_row
        self.counts: Counter[str] = Counter()
        self.requests = 0
        self._seen: Counter[str] = Counter()
        self._row: Counter[str] = Counter()
        self._lock = threading.Lock()

    def of(self, key: str) -> str:
        """The fault of the next request of a key; empty for none."""
        with self._lock:
            self.requests += 1
            self._seen[key] += 1
            draw = random.Random(f"{self.seed} {key} {self._seen[key]}")
            if self.requests <= self.after or draw.random() >= self.share or self._row[key] >= self.in_a_row:
                self._row[key] = 0
                return ""
            self._row[key] += 1
            fault = draw.choice(self.kinds)
            self.counts[fault] += 1
            return fault


class FaultyServer(ThreadingHTTPServer):
    """Serves the files below a folder."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self, root: Path, faults: Faults | None = None, *, md5: bool = False, salt: bytes = b"", stall_s: float = 1.0
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.faults, self.md5, self.salt, self.stall_s = root, faults, md5, salt, stall_s
        self.answer_all: tuple[int, bytes] | None = None
        """Status and body of every answer, in place of files."""
        self.paths: list[str] = []
        """Every request."""
        self.authorization: set[str] = set()
        """What requests said in their header of this name."""

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """Clients that went away are part of the game."""


@contextmanager
def serving(root: Path, faults: Faults | None = None, **options: Any) -> Iterator[FaultyServer]:
    """A server in threads of its own."""
    server = FaultyServer(root, faults, **options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultyServer

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        key = unquote(self.path).strip("/")
        self.server.paths.append(key)
        self.server.authorization.add(self.headers.get("Authorization", ""))
        if self.server.answer_all:
            self._send(*self.server.answer_all)
            return
        path = self.server.root / key
        content = path.read_bytes() if path.is_file() else None
        fault = self.server.faults.of(key) if self.server.faults and content else ""
        if fault in (*FINAL, "503", "429"):
            self._send(int(fault), b"no")
        elif content is None:
            self._send(404, b"absent")
        elif not body:
            self._send(200, content, body=False)
        elif fault:
            self._fail(fault, content)
        else:
            self._send_part(content)

    def _send_part(self, content: bytes, slow: bool = False) -> None:
        span = self.headers.get("Range", "")
        if not span:
            self._send(200, content, slow=slow)
            return
        first, last = span.removeprefix("bytes=").split("-")
        start = int(first) if first else len(content) - int(last)
        stop = min(int(last) + 1, len(content)) if first and last else len(content)
        self._send(206, content[start:stop], where=f"bytes {start}-{stop - 1}/{len(content)}", whole=content, slow=slow)

    def _send(
        self,
        status: int,
        content: bytes,
        *,
        body: bool = True,
        where: str = "",
        whole: bytes = b"",
        length: int | None = None,
        slow: bool = False,
    ) -> None:
        self.send_response(status)
        if length != -1:
            self.send_header("Content-Length", str(len(content) if length is None else length))
        if where:
            self.send_header("Content-Range", where)
        if self.server.md5 and status in (200, 206):
            self.send_header("ETag", f'"{hashlib.md5(self.server.salt + (whole or content)).hexdigest()}"')
        self.end_headers()
        step = max(1, len(content) // 4) if slow else max(1, len(content))
        for at in range(0, len(content) if body else 0, step):
            self.wfile.write(content[at : at + step])
            if slow:
                time.sleep(0.02)

    def _fail(self, fault: str, content: bytes) -> None:
        half = content[: len(content) // 2]
        if fault == "slow":
            self._send_part(content, slow=True)
        elif fault == FLIPPED:
            at = len(content) // 2
            self._send(200, content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :], whole=content)
        elif fault == "half with its length":
            self._send(200, half, whole=content)
        elif fault == "web page":
            self._send(200, _PAGE)
        elif fault == "web page of the right length":
            self._send(200, (_PAGE + b" " * len(content))[: len(content)])
        else:
            self._break_off(fault, content, half)

    def _break_off(self, fault: str, content: bytes, half: bytes) -> None:
        """Faults after which the connection is closed."""
        self.close_connection = True
        if fault == "stall":
            time.sleep(self.server.stall_s)
        elif fault == "no length":
            self._send(200, content, length=-1)
        elif fault != "reset":
            self._send(200, half, length=len(content))
        if fault == "stall in the body":
            time.sleep(self.server.stall_s)
        if fault.startswith("reset"):
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RD)
