"""A fake ESGF on this host: indices with the protocols of Solr, Globus and STAC, and data nodes that serve real files.

Every node is an address of the loopback network. Faults are planned by file name; each request takes the next one.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEYS = (
    "mip_era", "activity_id", "institution_id", "source_id", "experiment_id", "member_id", "table_id", "variable_id",
    "grid_label",
)  # fmt: skip
_NOT_FACETS = {"type", "limit", "offset", "format", "distrib", "latest", "fields"}
_PIECE = 1 << 14


@dataclass
class FakeEsgf:
    """What the indices list, what the nodes serve, and how they fail."""

    files: dict[str, bytes] = field(default_factory=dict)
    """Path below the root of every node -> content."""
    data_sets: list[dict[str, Any]] = field(default_factory=list)
    documents: list[dict[str, Any]] = field(default_factory=list)
    """Records of files."""
    faults: dict[str, list[str]] = field(default_factory=dict)
    """File name, or `node/name` -> faults of its next requests; `""` is none, and `x!` stays for ever."""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Node, file name and Range of every request for data."""
    seconds_per_piece: float = 0.0
    page: int = 1000
    urls: dict[str, str] = field(default_factory=dict)
    """Node -> URL."""

    def add(self, path: str, content: bytes, nodes: Iterable[str] = ("node1",), **facets: Any) -> dict[str, Any]:
        """A file at nodes, with its record and that of its data set; returns the last record of the file."""
        folder, _, name = path.rpartition("/")
        drs, version = folder.replace("/", "."), folder.rsplit("/", 1)[-1]
        self.files[path] = content
        record: dict[str, Any] = {}
        for number, node in enumerate(nodes):
            own = {"id": f"{drs}|{node}", "version": version, "data_node": node, "project": ["CMIP6"]} | {
                "replica": number > 0, "retracted": False, "latest": True,
            }  # fmt: skip
            own |= {key: [value] for key, value in zip(KEYS, folder.split("/"), strict=False)} | facets
            if own["id"] not in [d["id"] for d in self.data_sets]:
                self.data_sets.append(own)
            url = f"{self.urls.get(node, 'http://127.0.0.9:9')}/data/{path}"
            record = {
                "id": f"{drs}.{name}|{node}",
                "dataset_id": own["id"],
                "title": name,
                "size": len(content),
                "checksum": [hashlib.sha256(content).hexdigest()],
                "checksum_type": ["SHA256"],
                "url": [f"{url}|application/netcdf|HTTPServer", f"{url}.html|x|OPENDAP"],
            }
            self.documents.append(record)
        return record

    def add_tree(self, root: Path, nodes: Iterable[str] = ("node1",)) -> None:
        """All NetCDF files of a DRS tree."""
        for path in sorted(root.rglob("*.nc")):
            self.add(path.relative_to(root.parent).as_posix(), path.read_bytes(), tuple(nodes))

    def answer(self, facets: dict[str, list[str]]) -> list[dict[str, Any]]:
        """Records that have one of the values of every facet."""
        kind = facets.get("type", ["Dataset"])[0]
        records = self.documents if kind == "File" else self.data_sets
        wanted = {key: values for key, values in facets.items() if key not in _NOT_FACETS}
        return [r for r in records if all(_value(r, key) in values for key, values in wanted.items() if key in r)]

    def fault(self, node: str, name: str) -> str:
        """The next fault of a request."""
        for key in (f"{node}/{name}", name):
            if plan := self.faults.get(key):
                return plan[0][:-1] if plan[0].endswith("!") else plan.pop(0)
        return ""


def _value(record: dict[str, Any], key: str) -> str:
    value = record[key]
    return str(value[0] if isinstance(value, list) else value)


@contextmanager
def serving(esgf: FakeEsgf, nodes: Iterable[str] = ("node1", "node2")) -> Iterator[FakeEsgf]:
    """Serve the indices and the nodes from threads."""
    servers = []
    for number, node in enumerate(nodes, 1):
        handler = type("Handler", (_Handler,), {"esgf": esgf, "node": node})
        server = ThreadingHTTPServer((f"127.0.0.{number}", 0), handler)
        server.daemon_threads = True
        servers.append(server)
        esgf.urls[node] = f"http://127.0.0.{number}:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield esgf
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Index and data node at one address."""

    esgf: FakeEsgf
    node: str
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Solr's search, STAC's landing page, data."""
        url = urlsplit(self.path)
        kind, _, rest = url.path.lstrip("/").partition("/")
        if kind == "data":
            self._data(rest)
        elif f"{kind}/{rest}" == "esg-search/search":
            self._solr(parse_qs(url.query))
        elif kind == "stac":
            self._json(_landing(self.esgf.urls[self.node]))
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        """Globus's scroll and STAC's search."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("scroll"):
            facets = {f["field_name"]: f["values"] for f in body["filters"]}
            found = [
                {"subject": r["id"], "entries": [{"content": {k: v for k, v in r.items() if k != "id"}}]}
                for r in self.esgf.answer(facets)
            ]
            self._json({"gmeta": found, "total": len(found), "count": len(found), "marker": None})
        else:
            values = {a["args"][0]["property"].split(":")[1]: a["args"][1] for a in body["filter"]["args"]}
            self._json({"type": "FeatureCollection", "features": list(self._items(values)), "links": []})

    def _solr(self, facets: dict[str, list[str]]) -> None:
        found, start = self.esgf.answer(facets), int(facets.get("offset", ["0"])[0])
        page = found[start : start + self.esgf.page]
        self._json({"response": {"numFound": len(found), "start": start, "docs": page}})

    def _items(self, facets: dict[str, list[str]]) -> Iterator[dict[str, Any]]:
        facets = {("member_id" if key == "variant_label" else key): values for key, values in facets.items()}
        for record in self.esgf.answer(facets):
            files = [d for d in self.esgf.documents if d["dataset_id"] == record["id"]]
            yield {
                "type": "Feature",
                "stac_version": "1.0.0",
                "id": record["id"].split("|")[0],
                "geometry": None,
                "properties": {f"cmip6:{key}": _value(record, key) for key in KEYS} | {"retracted": False},
                "links": [],
                "assets": {d["title"]: _asset(d) for d in files},
            }

    def _json(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _data(self, path: str) -> None:
        """A file, or a part of it, or a fault."""
        name, content = path.rsplit("/", 1)[-1], self.esgf.files.get(path)
        wanted = self.headers.get("Range", "")
        self.esgf.requests.append((self.node, name, wanted))
        fault = self.esgf.fault(self.node, name)
        if content is None or fault.isdigit():
            self.send_error(int(fault or 404))
            return
        if fault == "corrupt":
            content = bytes([content[0] ^ 1]) + content[1:]
        if fault == "longer":
            content += b"more"
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and fault != "no_range" else 0
        if self.headers.get("If-Range", etag) != etag:
            start = 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", etag)
        self.send_header("Last-Modified", formatdate(0, usegmt=True))
        self.end_headers()
        self._send(content[start:], fault)

    def _send(self, content: bytes, fault: str) -> None:
        half = len(content) // 2
        body = content[:half] if fault in ("reset", "truncate", "stall") else content
        try:
            for i in range(0, len(body), _PIECE):
                self.wfile.write(body[i : i + _PIECE])
                time.sleep(self.esgf.seconds_per_piece)
        except OSError:  # the other side was killed
            self.close_connection = True
            return
        if fault == "stall":
            time.sleep(3)
        if fault in ("reset", "truncate", "stall"):
            self.close_connection = True


def _asset(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "href": record["url"][0].split("|")[0],
        "file:size": record["size"],
        "file:checksum": "1220" + record["checksum"][0],
    }


def _landing(url: str) -> dict[str, Any]:
    return {
        "type": "Catalog",
        "id": "fake",
        "stac_version": "1.0.0",
        "description": "a fake",
        "conformsTo": [
            "https://api.stacspec.org/v1.0.0/core",
            "https://api.stacspec.org/v1.0.0/item-search",
            "https://api.stacspec.org/v1.0.0/item-search#filter",
            "http://www.opengis.net/spec/cql2/1.0/conf/cql2-json",
        ],
        "links": [
            {"rel": "self", "href": f"{url}/stac"},
            {"rel": "root", "href": f"{url}/stac"},
            {"rel": "search", "href": f"{url}/stac/search", "type": "application/geo+json", "method": "POST"},
        ],
    }
