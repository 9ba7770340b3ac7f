"""What a fetch keeps in its output, in the folder `.fetch`: the list of files, which are verified, parts of files."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from climax_hpc.data_prep.fetching.checksums import agrees, hasher
from climax_hpc.data_prep.fetching.records import RemoteFile, shown_url
from climax_hpc.data_prep.sources.find_files import FETCH_FOLDER
from climax_hpc.errors import UserError
from climax_hpc.utils.files import open_plain, write_json
from climax_hpc.utils.names import why_no_name
from climax_hpc.utils.typed_json import Count, read_typed

_SCHEMA_VERSION = 1
_FIX = "delete it; the next fetch writes it again"


def _checked(path: str) -> str:
    for part in path.split("/"):
        if reason := why_no_name(part, 255):
            raise ValueError(f"is not a path inside this folder: {reason}")
    return path


@dataclass(frozen=True, kw_only=True)
class ListedFile:
    """A file of the list; its URLs are without users, passwords and queries."""

    path: Annotated[str, AfterValidator(_checked)]
    data_set: str
    size: Count | None
    checksum: str
    urls: list[str]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What an index has listed for a config."""

    schema_version: int
    listed: str
    """When, UTC."""
    queries: list[str]
    files: list[ListedFile]
    left_out: dict[str, str]
    """DRS id -> reason."""


class FetchFolder:
    """The folder `.fetch` of an output."""

    def __init__(self, output: Path) -> None:
        self.output, self.folder = output, output / FETCH_FOLDER
        self._journal = self.folder / "verified.jsonl"
        self._verified = self._read_journal()

    @property
    def list_file(self) -> Path:
        """The file of the list."""
        return self.folder / "listing.json"

    def read_listing(self) -> Listing | None:
        """The list of the last fetch or `list_only`; None if there is none.

        Raises:
            UserError: the file is damaged, or of a version that this climax_hpc does not read.
        """
        if not self.list_file.exists():
            return None
        listing = read_typed(self.list_file, Listing, "the list of a fetch", _FIX)
        if listing.schema_version != _SCHEMA_VERSION:
            found = f"version {listing.schema_version} of the list of a fetch"
            raise UserError(f"{self.list_file}: is {found}, expected {_SCHEMA_VERSION}; {_FIX}")
        return listing

    def write_listing(self, listed: str, queries: list[str], files: Iterable[RemoteFile], out: dict[str, str]) -> None:
        """Keep what the index has listed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        entries = [
            ListedFile(
                path=file.path,
                data_set=file.data_set,
                size=file.size,
                checksum=file.checksum,
                urls=[shown_url(url) for url in file.urls],
            )
            for file in files
        ]
        listing = Listing(schema_version=_SCHEMA_VERSION, listed=listed, queries=queries, files=entries, left_out=out)
        write_json(self.list_file, asdict(listing))

    def is_verified(self, path: str, checksum: str, size: int | None) -> bool:
        """True if the file is as it was when its checksum was compared: same size and time of change."""
        return self._state(path, checksum) in self._verified and size in (None, self._size(path))

    def check_again(self, path: str, checksum: str, size: int | None) -> bool:
        """Read a file whose state is unknown; True if it has the size and the checksum, which is then recorded."""
        place = self.output / path
        if size is not None and self._size(path) != size:
            return False
        if checksum:
            with open_plain(place) as file:
                if not agrees(checksum, hashlib.file_digest(file, lambda: hasher(checksum))):
                    return False
        elif size is None:
            return False
        self.record(path, checksum)
        return True

    def record(self, path: str, checksum: str) -> None:
        """Record that a file in its place has its checksum."""
        state = self._state(path, checksum)
        self._verified.add(state)
        self.folder.mkdir(exist_ok=True)  # someone may have removed it, or the files may be another tool's
        with self._journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(state) + "\n")

    def present(self, path: str) -> int | None:
        """Bytes of a file in its place; None if there is none."""
        return self._size(path) if os.path.lexists(self.output / path) else None

    def part(self, path: str) -> Path:
        """Where a file is written until it is complete."""
        return self.folder / f"{hashlib.sha256(path.encode()).hexdigest()[:32]}.part"

    def _size(self, path: str) -> int | None:
        place = self.output / path
        return place.stat().st_size if place.is_file() else None

    def _state(self, path: str, checksum: str) -> tuple[str, str, int, int]:
        place = self.output / path
        found = place.stat() if place.is_file() else None
        return (path, checksum, found.st_size, found.st_mtime_ns) if found else (path, checksum, -1, -1)

    def _read_journal(self) -> set[tuple[str, str, int, int]]:
        """Lines that can be read; a kill may leave half a line, whose file is then read again."""
        found = set()
        lines = self._journal.read_text("utf-8", "replace").splitlines() if self._journal.is_file() else []
        for line in lines:
            try:
                path, checksum, size, time = json.loads(line)
            except (ValueError, TypeError):
                continue
            found.add((path, checksum, size, time))
        return found
