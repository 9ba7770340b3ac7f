"""Virtual references in kerchunk's JSON, as kerchunk and VirtualiZarr write them: zarr keys that lie in other files.

A value is text (the bytes themselves, `base64:` before bytes that are not text), [url], or [url, offset, length].
Specification: https://fsspec.github.io/kerchunk/spec.html.
"""

import asyncio
import base64
import binascii
import json
import posixpath
from typing import Any

from climax_hpc.data_prep.stores.reader import Range, Reader
from climax_hpc.data_prep.stores.urls import as_url, check_url, display, is_url
from climax_hpc.errors import UserError

Entry = bytes | tuple[str, int | None, int | None]
"""Bytes, or URL, offset and length."""
_INLINE = "base64:"


class References:
    """The keys of a reference file, read from the files that it names."""

    def __init__(self, url: str, entries: dict[str, Entry], reader: Reader) -> None:
        self.name = display(url)
        self._entries, self._reader = entries, reader
        self._versions: dict[str, str] = {}
        """URL of a file -> its version; arrays often lie in the same files."""

    async def read(self, key: str, part: Range | None) -> bytes | None:
        """See `Backend`.

        Raises:
            UserError: the file of the key does not exist.
        """
        entry = self._entries.get(key)
        if entry is None or isinstance(entry, bytes):
            return entry if entry is None or part is None else _cut(entry, part)
        url, offset, length = entry
        where = (offset, offset + length) if offset is not None and length is not None else None
        found = await self._reader.read(url, where)
        if found is None:
            raise UserError(
                f"{self.name}: {key} lies in {display(url)}, which does not exist; restore it, or write the references "
                "again"
            )
        return found if part is None else _cut(found, part)

    async def names(self, prefix: str) -> list[str]:
        """See `Backend`."""
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        return sorted({key[len(start) :].split("/")[0] for key in self._entries if key.startswith(start)})

    async def version(self, array: str) -> list[str]:
        """Every entry of the array, and the version of every file that one of them names."""
        entries = {k: e for k, e in self._entries.items() if k.startswith(f"{array}/")}
        files = sorted({e[0] for e in entries.values() if isinstance(e, tuple)})
        known = await asyncio.gather(*(self._version(url) for url in files))
        versions = [f"{display(url)} {version}" for url, version in zip(files, known, strict=True)]
        shown = (e if isinstance(e, bytes) else (display(e[0]), *e[1:]) for _, e in sorted(entries.items()))
        return [f"{key} {text!r}" for key, text in zip(sorted(entries), shown, strict=True)] + versions

    async def _version(self, url: str) -> str:
        """The version of a file, which is asked for once."""
        if url not in self._versions:
            self._versions[url] = await self._reader.version(url)
        return self._versions[url]


def parse_references(raw: bytes, url: str) -> dict[str, Entry]:
    """The entries of a reference file at `url`.

    Raises:
        UserError: it is none, or needs what is not read here; a local file named by a file on the network.
    """
    name = display(url)
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is not readable JSON ({error}): expected kerchunk references") from None
    if not isinstance(content, dict) or not looks_like_references(content):
        raise UserError(f"{name} holds no kerchunk references (`refs` with .zgroup or .zmetadata); give a store")
    if content.get("gen"):
        raise UserError(f"{name} generates references (`gen`), which is not read; write them out with kerchunk")
    templates = content.get("templates", {})
    refs = content.get("refs", content)
    return {str(key): _entry(key, value, templates, url) for key, value in refs.items()}


def is_json(raw: bytes) -> bool:
    """True for JSON that is complete."""
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return True


def looks_like_references(content: dict[str, Any]) -> bool:
    """True for the JSON of references."""
    refs = content.get("refs", content)
    return isinstance(refs, dict) and any(key in refs for key in (".zgroup", ".zmetadata", "zarr.json", ".zattrs"))


def _entry(key: str, value: Any, templates: dict[str, Any], url: str) -> Entry:
    wrong = UserError(
        f"{display(url)}: the reference of {key} is {_kind(value)}, expected text, [url] or [url, offset, length]; "
        "write the references again"
    )
    if isinstance(value, dict):
        return json.dumps(value).encode()
    if isinstance(value, str):
        try:
            return base64.b64decode(value[len(_INLINE) :]) if value.startswith(_INLINE) else value.encode()
        except (binascii.Error, ValueError):
            raise wrong from None
    if not isinstance(value, list) or len(value) not in (1, 3) or not isinstance(value[0], str):
        raise wrong
    target = _target(value[0], templates, url, wrong)
    if len(value) == 1:
        return target, None, None
    numbers = [int(n) for n in value[1:] if isinstance(n, int | float) and n >= 0 and n == int(n)]
    if len(numbers) != 2:
        raise wrong
    return target, numbers[0], numbers[1]


def _kind(value: Any) -> str:
    """What a value is, without its content, which may be a signed URL."""
    return f"a list of {len(value)}" if isinstance(value, list) else f"a value of type {type(value).__name__}"


def _target(text: str, templates: dict[str, Any], url: str, wrong: UserError) -> str:
    for name, value in templates.items():
        text = text.replace(f"{{{{{name}}}}}", str(value))
    if "{{" in text:
        raise wrong
    if not is_url(text):
        text = as_url(text) if text.startswith("/") else f"{url.rpartition('/')[0]}/{posixpath.normpath(text)}"
    if text.startswith("file:") and not url.startswith("file:"):
        raise UserError(
            f"{display(url)} names the local file {display(text)}; only references on disk may do so: copy them here"
        )
    check_url(text, f"{display(url)}: a reference")
    return text


def _cut(found: bytes, part: Range) -> bytes:
    start, stop = part
    return found[-(stop or 0) :] if start is None else found[start:stop]
