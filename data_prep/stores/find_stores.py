"""Finds the stores of an input of URLs: those that it names, or all below the prefix of a bucket."""

import asyncio
import json
from pathlib import PurePosixPath

from climax_hpc.config.network import NetworkConfig
from climax_hpc.data_prep.sources.skipped import Cause, SkippedFile, skip_reasons
from climax_hpc.data_prep.stores.backends import listing
from climax_hpc.data_prep.stores.client import check_extra
from climax_hpc.data_prep.stores.event_loop import run
from climax_hpc.data_prep.stores.local_kinds import GROUP_FILES, PARQUET, REPOSITORY_FILES, is_parquet, node_type
from climax_hpc.data_prep.stores.open_store import session_of, snapshot_of
from climax_hpc.data_prep.stores.reader import Reader
from climax_hpc.data_prep.stores.references import looks_like_references
from climax_hpc.data_prep.stores.store_list import FoundStore, Kind, StoreList
from climax_hpc.data_prep.stores.urls import as_url, check_url, display, is_url, join
from climax_hpc.errors import Unreachable, UserError

_MOST_FOLDERS = 5000


def find_stores(inputs: list[str], network: NetworkConfig) -> StoreList:
    """The stores of the inputs, URLs or paths; a single URL may also be a prefix that holds stores.

    Raises:
        UserError: one is no store; nothing is found; the server cannot list.
        Unreachable: a server does not answer, or refuses.
    """
    check_extra()
    reader = session_of(network).reader
    for given in inputs:
        if is_url(given):
            check_url(given, "input")
    title = ", ".join(map(display, inputs[:3])) + (f" and {len(inputs) - 3} more" if len(inputs) > 3 else "")
    urls = [as_url(given).rstrip("/") for given in inputs]
    repeated = {display(url) for url in urls if urls.count(url) > 1}
    if repeated:
        raise UserError(f"input: {min(repeated)} is given twice; name each store once")
    kinds = run(_kinds(urls, reader))
    skipped: list[SkippedFile] = []
    if len(urls) == 1 and kinds[0] is None:
        found, skipped = run(_PrefixWalk(urls[0], reader, network).run())
        if not found:
            reasons = skip_reasons(skipped, 2) or "nothing is there: check the URL"
            raise UserError(f"input: {title} holds no zarr store, icechunk repository or reference file ({reasons})")
    else:
        found = {}
        for url, kind in zip(urls, kinds, strict=True):
            if kind is None:
                raise UserError(
                    f"input: {display(url)} is no zarr store (none of {', '.join(GROUP_FILES)} is there), no icechunk "
                    "repository and no reference file (*.json); correct it, or leave it out"
                )
            found[display(url) if len(urls) > 1 else PurePosixPath(display(url)).name] = url, kind
    stores = {
        name: FoundStore(url, kind, snapshot_of(url, network) if kind == "icechunk" else "")
        for name, (url, kind) in found.items()
    }
    return StoreList(title=title, stores=stores, network=network, skipped=skipped)


async def _kinds(urls: list[str], reader: Reader) -> list[Kind | None]:
    return list(await asyncio.gather(*(_kind_of(url, reader) for url in urls)))


async def _kind_of(url: str, reader: Reader) -> Kind | None:
    """What lies at a URL; None if it is neither store nor reference file.

    Raises:
        UserError: references in Parquet; an array in place of a store.
        Unreachable: nothing answers, or access is denied.
    """
    suffix = PurePosixPath(display(url)).suffix
    if suffix == ".json":
        return "references"
    if suffix in (".parquet", ".parq"):
        raise UserError(f"input: {display(url)} {PARQUET}")
    keys = (*GROUP_FILES, ".zarray", *REPOSITORY_FILES)
    answers = await asyncio.gather(*(reader.read(join(url, key)) for key in keys), return_exceptions=True)
    held = {key: answer for key, answer in zip(keys, answers, strict=True) if isinstance(answer, bytes)}
    if any(key in held for key in REPOSITORY_FILES):
        return "icechunk"
    if is_parquet(held.get(".zmetadata", b"")):
        raise UserError(f"input: {display(url)} {PARQUET}")
    if ".zarray" in held or node_type(held.get("zarr.json", b"")) == "array":
        raise UserError(f"input: {display(url)} is an array of a store; give the URL of the store that holds it")
    if any(key in held for key in GROUP_FILES):
        return "zarr"
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return None


class _PrefixWalk:
    """One pass over the prefixes below a URL."""

    def __init__(self, url: str, reader: Reader, network: NetworkConfig) -> None:
        self._url, self._reader, self._network = url, reader, network
        self._found: dict[str, tuple[str, Kind]] = {}
        self._skipped: list[SkippedFile] = []

    async def run(self) -> tuple[dict[str, tuple[str, Kind]], list[SkippedFile]]:
        """Stores by their paths below the URL, in order, and what is left out."""
        level, count = [""], 0
        while level:
            count += len(level)
            if count > _MOST_FOLDERS:
                raise UserError(
                    f"input: {display(self._url)} holds more than {_MOST_FOLDERS} folders; give a longer prefix, or a "
                    "list of stores"
                )
            below = await asyncio.gather(*(self._visit(folder) for folder in level))
            level = [folder for folders in below for folder in folders]
        return dict(sorted(self._found.items())), self._skipped

    async def _visit(self, folder: str) -> list[str]:
        """Look at one prefix; those below it that remain to be visited."""
        url = join(self._url, folder)
        folders, objects = await listing(url, self._reader, self._network)
        if {"refs", "snapshots"} <= {*folders}:
            self._found[folder] = (url, "icechunk")
            return []
        if not {*GROUP_FILES, ".zarray"}.isdisjoint(objects):
            try:
                if kind := await _kind_of(url, self._reader):
                    self._found[folder] = (url, kind)
            except UserError as error:
                if isinstance(error, Unreachable):
                    raise
                self._skip(folder, str(error))
            return []
        start = f"{folder}/" if folder else ""
        for name in objects:
            await self._object(f"{start}{name}")
        return [f"{start}{name}" for name in folders]

    async def _object(self, name: str) -> None:
        suffix = PurePosixPath(name).suffix
        if suffix == ".json":
            url = join(self._url, name)
            if await self._holds_references(url):
                self._found[name] = (url, "references")
            else:
                self._skip(name, "is JSON, but holds no kerchunk references", Cause.NEVER_PACKED)
        elif suffix == ".nc":
            self._skip(name, "is NetCDF on the network, where stores are read: download it, or write references to it")
        else:
            self._skip(name, "is no store", Cause.NEVER_PACKED)

    async def _holds_references(self, url: str) -> bool:
        raw = await self._reader.read(url)
        try:
            content = json.loads(raw or b"")
        except ValueError:
            return False
        return isinstance(content, dict) and looks_like_references(content)

    def _skip(self, name: str, reason: str, cause: Cause = Cause.UNUSABLE) -> None:
        self._skipped.append(SkippedFile(file=name, reason=reason, cause=cause))
