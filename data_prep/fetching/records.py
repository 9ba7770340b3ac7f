"""Data sets and files of an index, checked before anything is done with them: an index may answer anything."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from climax_hpc.data_prep.fetching.checksums import BadChecksum, parse_checksum
from climax_hpc.errors import UserError
from climax_hpc.utils.names import shown, why_no_name

Document = Mapping[str, Any]
"""A record of an index, with the keys of Solr; values are often lists of one."""
_CMIP6 = (
    "mip_era", "activity_id", "institution_id", "source_id", "experiment_id", "member_id", "table_id", "variable_id",
    "grid_label", "version",
)  # fmt: skip
_CMIP7 = (
    "drs_specs", "mip_era", "activity_id", "institution_id", "source_id", "experiment_id", "member_id", "region",
    "frequency", "variable_id", "branding_suffix", "grid_label", "version",
)  # fmt: skip
DRS = {"CMIP6": _CMIP6, "CMIP6Plus": _CMIP6, "CMIP7": _CMIP7}
"""Project -> parts of the id of a data set and of its folder (CMIP6 and CMIP7 global attributes and DRS)."""
_VERSION = re.compile(r"v?\d{1,12}")
_LARGEST_FILE = 1 << 50
_LONGEST_NAME = 255
_SCHEMES = ("https", "http")
_CONTROL = re.compile(r"[\x00-\x20\x7f-\x9f]")


@dataclass(frozen=True, kw_only=True)
class EsgfDataSet:
    """One version of a data set at one data node."""

    index: str
    """Name of the index that lists it."""
    search_id: str
    """Id by which the index lists its files."""
    facets: tuple[tuple[str, str], ...]
    """Parts of its DRS id, in order."""
    node: str
    retracted: bool = False
    replica: bool = False

    def __getitem__(self, key: str) -> str:
        return dict(self.facets).get(key, "")

    @property
    def master(self) -> str:
        """DRS id without the version."""
        return ".".join(value for _, value in self.facets[:-1])

    @property
    def drs(self) -> str:
        """DRS id with the version; with slashes instead of dots it is the folder."""
        return ".".join(value for _, value in self.facets)

    @property
    def version(self) -> int:
        """The version as a number, such as 20190815."""
        return int(self["version"].removeprefix("v"))

    @property
    def source(self) -> str:
        """Name of the source, as `pack` calls it."""
        return "_".join((self["source_id"], self["experiment_id"], self["member_id"]))

    @property
    def table(self) -> str:
        """Table of CMIP6 or branding suffix of CMIP7."""
        return self["table_id"] or self["branding_suffix"]


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file, where it can be had, and how it is recognised."""

    path: str
    """Relative to the output folder, with slashes: the DRS folder and the name."""
    data_set: str
    """DRS id with the version."""
    size: int | None
    """Bytes; None where the index does not say."""
    checksum: str
    """`sha256:…`; empty where the index has none."""
    urls: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name without folders."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True, kw_only=True)
class MalformedId:
    """A record whose id has not the parts of the project's DRS."""

    drs: str
    """The id, as far as it can be shown."""
    reason: str


def data_set_of(document: Document, index: str, project: str) -> EsgfDataSet | MalformedId:
    """A data set from its record, or why it is none."""
    search_id = str(first(document, "id"))
    drs, _, node = search_id.partition("|")
    parts, keys = drs.split("."), DRS[project]
    if len(parts) != len(keys):
        expected = f"expected the {len(keys)} of {project} ({'.'.join(keys)})"
        return MalformedId(drs=shown(drs), reason=f"its id has {len(parts)} parts, {expected}")
    for key, part in zip(keys, parts, strict=True):
        if reason := why_no_name(part):
            return MalformedId(drs=shown(drs), reason=f"its {key}: {reason}")
    if not _VERSION.fullmatch(parts[-1]):
        reason = f"its version is {parts[-1]}, expected a date such as v20190815"
        return MalformedId(drs=shown(drs), reason=reason)
    return EsgfDataSet(
        index=index,
        search_id=search_id,
        facets=tuple(zip(keys, parts, strict=True)),
        node=shown(node or str(first(document, "data_node"))),
        retracted=_flag(document, "retracted"),
        replica=_flag(document, "replica"),
    )


def file_of(document: Document, index: str, data_set: EsgfDataSet) -> RemoteFile:
    """A file from its record.

    Raises:
        UserError: names index and file, the attribute, the value that was found and what is expected.
    """
    name = str(first(document, "title"))
    where = f"index {index}: {data_set.drs}: file {shown(name)!r}"
    reason = why_no_name(name, _LONGEST_NAME)
    if reason or not name.endswith(".nc"):
        raise UserError(f"{where}: title: {reason or 'does not end in .nc'}; expected a file name in the data set")
    try:
        checksum = parse_checksum(str(first(document, "checksum_type")), str(first(document, "checksum")))
    except BadChecksum as error:
        raise UserError(f"{where}: {error}") from None
    return RemoteFile(
        path="/".join((*data_set.drs.split("."), name)),
        data_set=data_set.drs,
        size=_size(document, where),
        checksum=checksum,
        urls=_urls(document, where),
    )


def shown_url(url: str) -> str:
    """A URL without what may be secret: user, password, query and fragment."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return shown(f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}", 300)


def is_web_address(url: str) -> bool:
    """True for http:// or https:// with a host and, if any, a valid port."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in _SCHEMES and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
    return good and not _CONTROL.search(url)


def host_of(url: str) -> str:
    """The host of a URL."""
    return urlsplit(url).hostname or ""


def _size(document: Document, where: str) -> int | None:
    value = first(document, "size")
    try:
        size = int(value or 0)
        if isinstance(value, bool) or size != float(value or 0) or not 0 <= size <= _LARGEST_FILE:
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        raise UserError(f"{where}: size is {shown(str(value))!r}, expected a number of bytes") from None
    return size or None


def _urls(document: Document, where: str) -> tuple[str, ...]:
    """The URLs of plain HTTP servers: `URL|type|service`."""
    listed = document.get("url") or []
    entries = [str(entry).split("|") for entry in ([listed] if isinstance(listed, str) else listed)]
    urls = [entry[0] for entry in entries if entry[-1] == "HTTPServer"]
    if not urls:
        services = ", ".join(shown(entry[-1], 40) for entry in entries) or "none"
        raise UserError(f"{where}: url offers the services {services}; expected HTTPServer")
    for url in urls:
        if not is_web_address(url):
            raise UserError(f"{where}: url is {shown(url, 120)!r}, expected https://HOST/PATH or http://HOST/PATH")
    return tuple(dict.fromkeys(urls))


def first(document: Document, key: str) -> Any:
    """A value, or the first of a list; "" where there is none."""
    value = document.get(key)
    if isinstance(value, list):
        value = value[0] if value else None
    return "" if value is None else value


def _flag(document: Document, key: str) -> bool:
    return str(first(document, key)).lower() == "true"
