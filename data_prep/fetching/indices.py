"""The indices of ESGF, asked through intake-esgf's clients: Solr, Globus and STAC, whose records get one form.

Only the clients are used, not its catalogue: that one knows no CMIP7, drops retracted and older data sets, stops at the
first record without a checksum, and keeps a cache of answers in the home folder.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit

import globus_sdk
import intake_esgf
import requests
from intake_esgf.core import GlobusESGFIndex
from intake_esgf.core.solr import esg_search
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from climax_hpc.config.parser import nearest
from climax_hpc.data_prep.fetching.queries import Query
from climax_hpc.data_prep.fetching.records import Document, is_web_address, shown_url
from climax_hpc.data_prep.stores.urls import display_broken
from climax_hpc.errors import UserError
from climax_hpc.utils.names import shown

DEFAULT = {"CMIP6": ["ESGF2-US-1.5-Catalog"], "CMIP6Plus": ["ESGF2-US-1.5-Catalog"]}
"""Project -> indices that are asked by default."""
_PAGE = 500
_IDS_IN_ONE_QUESTION = 10  # each has some 120 characters, and servers refuse URLs of more than about 4000
_MOST_RECORDS = 200_000
_SECONDS = (10.0, 120.0)
"""Time limits of an index: for the connection, and for each piece of an answer."""
_STAC_NAMES = {"branding_suffix": "variable_branding_suffix", "member_id": "variant_label"}
_FALLBACK = "try again later, or another index: --index '[esgf-data.dkrz.de]'"


class Index(Protocol):
    """One index; `name` is how the config calls it."""

    name: str

    def data_sets(self, query: Query) -> Iterator[Document]:
        """Records of the data sets that have the facets, of all versions and nodes."""

    def files(self, ids: Sequence[str]) -> Iterator[Document]:
        """Records of the files of data sets; `dataset_id` says of which."""


class IndexFailed(Exception):
    """An index gave no answer that can be read; the message says why, in one line."""


class _Session(requests.Session):
    """A session whose every request has a time limit."""

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        """Send a request, with a time limit if it has none."""
        options.setdefault("timeout", _SECONDS)
        return super().request(*arguments, **options)


def open_indices(names: Sequence[str] | None, project: str) -> list[Index]:
    """The indices of a config.

    Raises:
        UserError: unknown name; none is known for the project.
    """
    chosen = names or DEFAULT.get(project)
    if not chosen:
        raise UserError(f"index: no index of {project} is known to this version; give one: --index '[stac+https://…]'")
    return [_open(name) for name in chosen]


def _open(name: str) -> Index:
    kind, _, place = name.partition("+")
    tables = {kind: list(intake_esgf.conf[f"{kind}_indices"]) for kind in ("solr", "globus", "stac")}
    if kind not in tables or not place:
        place, kind = name, next((kind for kind, known in tables.items() if name in known), "")
        if not kind:
            known = [entry for entries in tables.values() for entry in entries]
            raise UserError(
                f"index: {display_broken(name)!r} is neither known to intake-esgf nor solr+URL, globus+ID or stac+URL"
                f"{nearest(name, known) or f'; it knows {chr(44).join(known)}'}"
            )
        place = place if kind == "globus" else f"https://{place}"
    elif kind != "globus" and not (is_web_address(place) and "@" not in urlsplit(place).path):  # of a password
        raise UserError(f"index: {display_broken(name)!r}: expected {kind}+https://HOST")
    else:
        name = f"{kind}+{shown_url(place)}" if kind != "globus" else name
    kinds: dict[str, Callable[[str, str], Index]] = {"solr": _Solr, "globus": _Globus, "stac": _Stac}
    return kinds[kind](name, place)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what the clients raise into one line without the query, which may hold secrets."""
    try:
        yield
    except requests.exceptions.HTTPError as error:
        status = error.response.status_code if error.response is not None else "an error"
        raise IndexFailed(f"index {name} answers with status {status}; {_FALLBACK}") from None
    except (requests.RequestException, globus_sdk.NetworkError) as error:
        raise IndexFailed(f"index {name} does not answer ({type(error).__name__}); {_FALLBACK}") from None
    except (globus_sdk.GlobusAPIError, APIError) as error:
        status = getattr(error, "http_status", None) or getattr(error, "status_code", None) or "an error"
        raise IndexFailed(f"index {name} answers with status {status}; {_FALLBACK}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, globus_sdk.GlobusError) as error:
        what = shown(f"{type(error).__name__}: {error}", 120)
        raise IndexFailed(f"index {name}: its answer cannot be read ({what}), expected records; {_FALLBACK}") from None


def _limited(records: Iterator[Document], name: str) -> Iterator[Document]:
    """The records of an index, explained when it fails, and not without end."""
    with _explained(name):
        for count, record in enumerate(records):
            if not isinstance(record, Mapping):
                raise TypeError(f"a record is {shown(str(record), 40)!r}")
            if count >= _MOST_RECORDS:
                raise UserError(f"sources: index {name} lists more than {_MOST_RECORDS} records; select fewer sources")
            yield record


def _batches(ids: Sequence[str]) -> Iterator[list[str]]:
    return (list(ids[i : i + _IDS_IN_ONE_QUESTION]) for i in range(0, len(ids), _IDS_IN_ONE_QUESTION))


class _Solr:
    """A node of the first ESGF, `…/esg-search/search`."""

    def __init__(self, name: str, url: str) -> None:
        self.name, self._url, self._session = name, url.rstrip("/"), _Session()

    def data_sets(self, query: Query) -> Iterator[Document]:
        facets = {key: list(values) for key, values in query.facets.items()}
        return _limited(self._records(type="Dataset", project=query.project, **facets), self.name)

    def files(self, ids: Sequence[str]) -> Iterator[Document]:
        for batch in _batches(ids):
            yield from _limited(self._records(type="File", dataset_id=batch), self.name)

    def _records(self, **search: Any) -> Iterator[Document]:
        for page in esg_search(self._session, self._url, distrib="true", limit=_PAGE, **search):
            documents = page["response"]["docs"]
            yield from documents
            if not documents:  # the client would ask for this page for ever
                return


class _Globus:
    """An index in Globus Search, whose records have the form of Solr's."""

    def __init__(self, name: str, index_id: str) -> None:
        self.name, self._index = name, GlobusESGFIndex(index_id)  # its client has time limits and retries

    def data_sets(self, query: Query) -> Iterator[Document]:
        facets = {"type": ["Dataset"], "project": [query.project]}
        facets |= {key: list(values) for key, values in query.facets.items()}
        return _limited(self._records(facets), self.name)

    def files(self, ids: Sequence[str]) -> Iterator[Document]:
        for batch in _batches(ids):
            yield from _limited(self._records({"type": ["File"], "dataset_id": batch}), self.name)

    def _records(self, facets: Mapping[str, list[str]]) -> Iterator[Document]:
        search = globus_sdk.SearchScrollQuery("")
        for key, values in facets.items():
            search.add_filter(key, values, type="match_any")
        search.set_limit(_PAGE)
        for page in self._index.client.paginated.scroll(self._index.index_id, search):
            for result in page["gmeta"]:
                yield {**result["entries"][0]["content"], "id": result["subject"]}


class _Stac:
    """A STAC API: an item is a data set, and its assets are the files."""

    def __init__(self, name: str, url: str) -> None:
        self.name, self._url = name, url
        self._items: dict[str, Any] = {}

    def data_sets(self, query: Query) -> Iterator[Document]:
        return _limited(self._records(query), self.name)

    def files(self, ids: Sequence[str]) -> Iterator[Document]:
        return _limited((record for i in ids for record in self._assets(i)), self.name)

    def _records(self, query: Query) -> Iterator[Document]:
        prefix = query.project.lower()
        conditions = [
            {"op": "in", "args": [{"property": f"properties.{prefix}:{_STAC_NAMES.get(key, key)}"}, list(values)]}
            for key, values in query.facets.items()
        ]
        transport = StacApiIO(timeout=_SECONDS)
        found = Client.open(self._url, stac_io=transport).search(
            collections=list(dict.fromkeys((query.project, prefix))),
            limit=_PAGE // 5,
            filter={"op": "and", "args": conditions},
            filter_lang="cql2-json",
        )
        for item in found.items_as_dicts():
            record = {key.removeprefix(f"{prefix}:"): value for key, value in item["properties"].items()}
            search_id = f"{item['id']}|{urlsplit(self._url).hostname}"
            self._items[search_id] = item
            yield {**record, "id": search_id}

    def _assets(self, search_id: str) -> Iterator[Document]:
        """Files of an item; `alternate` names more places of one file (STAC's alternate assets)."""
        for asset in self._items[search_id]["assets"].values():
            places = [asset["href"], *(other["href"] for other in asset.get("alternate", {}).values())]
            name = urlsplit(places[0]).path.rsplit("/", 1)[-1]
            if not name.endswith(".nc"):
                continue
            checksum = asset.get("file:checksum", "")
            yield {
                "dataset_id": search_id,
                "title": name,
                "size": asset.get("file:size", 0),
                "checksum": checksum,
                "checksum_type": "multihash" if checksum else "",
                "url": [f"{place}||HTTPServer" for place in places if urlsplit(place).scheme in ("http", "https")],
            }
