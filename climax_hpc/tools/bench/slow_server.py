"""`python -m climax_hpc.tools.bench.slow_server FOLDER MB_PER_S LATENCY_S`: a folder over a link of that rate.

Every answer begins after the latency, and all of them share the rate. The first line of output is the port.
"""

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_PIECE_BYTES = 16 << 10


class Link:
    """Hands out the time slots in which pieces pass."""

    def __init__(self, bytes_per_s: float) -> None:
        self._rate, self._free_at, self._lock = bytes_per_s, 0.0, threading.Lock()

    def wait(self, size: int) -> None:
        """Return when `size` bytes have passed."""
        with self._lock:
            begin = max(self._free_at, time.monotonic())
            self._free_at = begin + size / self._rate
            until = self._free_at
        time.sleep(max(0.0, until - time.monotonic()))


def serve(folder: Path, bytes_per_s: float, latency_s: float) -> None:
    """Serve a folder until the process ends."""
    link = Link(bytes_per_s)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

        def do_GET(self) -> None:
            time.sleep(latency_s)
            path = folder / self.path.strip("/")
            body = path.read_bytes() if path.is_file() else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for at in range(0, len(body), _PIECE_BYTES):
                piece = body[at : at + _PIECE_BYTES]
                link.wait(len(piece))
                self.wfile.write(piece)

    class Server(ThreadingHTTPServer):
        request_queue_size = 256
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), float(sys.argv[2]) * 1e6, float(sys.argv[3]))
