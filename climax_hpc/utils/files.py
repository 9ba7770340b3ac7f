"""Folders, text and JSON files, sha256, and clear errors for unreadable JSON."""

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from climax_hpc.errors import UserError
from climax_hpc.utils.atomic import write_atomically
from climax_hpc.utils.system_errors import explain

LARGEST_JSON = 128 << 20
"""Bytes; a manifest of 100 000 shards is half as large."""
_BLOCK = 1 << 22


def reserve(path: Path, size: int) -> None:
    """Create a file of `size` bytes, so that a full disk or quota is noticed before anything is written.

    Raises:
        OSError: not enough room.
    """
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)


def check_is_folder(folder: Path, key: str) -> None:
    """Refuse a path that is a file or lies below one; the folder itself need not exist.

    Raises:
        UserError: names `key` and the file.
    """
    for path in (folder, *folder.parents):
        if os.path.lexists(path) and not path.is_dir():
            below = "" if path == folder else f", so it cannot hold {folder}"
            raise UserError(f"{key}: {path} is a file{below}; choose another {key}")


def make_folder(folder: Path, key: str) -> list[Path]:
    """Create a folder and its missing parents; the paths created, the innermost first.

    Raises:
        UserError: it cannot be created; names `key`. No folder is left behind.
    """
    check_is_folder(folder, key)
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remove_empty(made)
        raise UserError(f"{key}: cannot create folder {explain(error, folder)}") from None
    return made


@contextmanager
def made_folder(folder: Path, key: str) -> Iterator[None]:
    """Make a folder for an output; afterwards a folder made for nothing is removed.

    Raises:
        UserError: as `make_folder`.
    """
    made = make_folder(folder, key)
    try:
        yield
    finally:
        remove_empty(made)


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove those of the folders that are empty, in this order."""
    for path in folders:
        with suppress(OSError):
            path.rmdir()


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    write_atomically(path, text_writer(text))


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, one key per line, in the given order."""
    write_atomically(path, json_writer(content))


def text_writer(text: str) -> Callable[[Path], None]:
    """A function that writes the text to a file, for `write_together`."""
    return lambda path: _write(path, text)


def json_writer(content: Any) -> Callable[[Path], None]:
    """The same for JSON."""
    return text_writer(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def read_json(path: Path, what: str) -> Any:
    """Parse a JSON file.

    Raises:
        UserError: absent, no plain file, too large, or not JSON; the message says that `what` was expected.
    """
    return parse_json(read_bytes(path, what), path, what)


def read_bytes(path: Path, what: str) -> bytes:
    """The content of a JSON file, for `parse_json`.

    Raises:
        UserError: absent, no plain file, too large, or not readable; the message says that `what` was expected.
    """
    check_is_plain_file(path, what, LARGEST_JSON)
    return path.read_bytes()


def parse_json(raw: bytes, path: Path, what: str) -> Any:
    """The JSON in `raw`, which was read from `path`.

    Raises:
        UserError: not JSON, or a key occurs twice; the message says that `what` was expected.
    """
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, not UTF-8, an integer of too many digits
        raise UserError(f"{path} is not readable JSON ({error}): expected {what}") from None


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {repeated[:100]!r} occurs twice")
    return found


def check_is_plain_file(path: Path, what: str, largest: int | None = None) -> None:
    """Refuse what would block or never end when it is opened (a pipe, a device), a folder, and a file too large.

    Raises:
        UserError: also where there is no such file; says that `what` was expected.
    """
    try:
        found = path.stat()
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise UserError(f"{path} {reason}: expected {what}") from None
    if kind := _kind(found):
        raise UserError(f"{path} is {kind}, not a file: expected {what}")
    if largest is not None and found.st_size > largest:
        raise UserError(f"{path} has {found.st_size} bytes, more than the {largest} that are read: expected {what}")


def open_plain(path: Path, buffering: int = -1) -> Any:
    """Open a file for reading bytes; what is no plain file is refused, and never waited for.

    Raises:
        UserError: a folder, pipe, socket or device.
        OSError: it does not exist, or cannot be read.
    """
    if kind := _kind(path.stat()):
        raise UserError(f"{path} is {kind}, not a file: restore the file that was there")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe that came since does not block
    return open(descriptor, "rb", buffering=buffering)


def _kind(found: os.stat_result) -> str:
    """What a path is, if it is no plain file."""
    kinds = {stat.S_IFREG: "", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(found.st_mode), "a device")


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file, or of the names and sha256 of the files in a folder (an array of a zarr store)."""
    digest = hashlib.sha256()
    if path.is_dir():
        for inner in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{inner.relative_to(path).as_posix()} {sha256(inner)}\n".encode())
        return digest.hexdigest()
    with open_plain(path) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def size_of(path: Path) -> int:
    """Bytes in a file, or in all files below a folder."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size
