"""Asks the indices which files a config selects: data sets in time, static fields of their models, their files."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from climax_hpc.data_prep.fetching.choice import Choice, choose, choose_static
from climax_hpc.data_prep.fetching.config import FetchConfig
from climax_hpc.data_prep.fetching.file_times import in_period, time_range
from climax_hpc.data_prep.fetching.indices import Index, IndexFailed
from climax_hpc.data_prep.fetching.queries import Query, static_query, time_queries
from climax_hpc.data_prep.fetching.records import (
    EsgfDataSet,
    MalformedId,
    RemoteFile,
    data_set_of,
    file_of,
    first,
    host_of,
)
from climax_hpc.errors import UserError


@dataclass(kw_only=True)
class Found:
    """What the indices list for a config."""

    queries: list[Query]
    choice: Choice
    files: list[RemoteFile] = field(default_factory=list)
    """In order of their paths."""
    notes: list[str] = field(default_factory=list)


def search(config: FetchConfig, indices: Sequence[Index]) -> Found:
    """The files of a config.

    Raises:
        UserError: nothing is left, a variable is missing, or an index answers what cannot be a file.
        ConnectionError: no index answers.
    """
    queries = time_queries(config)
    asked = f"index {', '.join(index.name for index in indices)}"
    notes: list[str] = []
    malformed: dict[str, str] = {}
    if queries:
        listed = [found for query in queries for found in _data_sets(query, indices, notes, malformed)]
        choice = choose(config, listed, asked)
        models = tuple(dict.fromkeys(sets[0]["source_id"] for sets in choice.sources.values()))
    else:
        raise UserError("variables: only static ones are selected; add one that changes in time, or leave the key out")
    if static := static_query(config, models):
        queries.append(static)
        notes += choose_static(config, list(_data_sets(static, indices, notes, malformed)), choice)
    choice.left_out |= malformed
    found = Found(queries=queries, choice=choice, notes=notes)
    found.files = _files(config, indices, found)
    found.notes = list(dict.fromkeys(found.notes))
    return found


def _data_sets(
    query: Query, indices: Sequence[Index], notes: list[str], malformed: dict[str, str]
) -> list[EsgfDataSet]:
    """Data sets of a query in all indices; an index that fails is noted, unless all do."""
    found, failed = [], []
    for index in indices:
        try:
            for document in index.data_sets(query):
                data_set = data_set_of(document, index.name, query.project)
                if isinstance(data_set, MalformedId):
                    malformed[data_set.drs] = data_set.reason
                else:
                    found.append(data_set)
        except IndexFailed as error:
            failed.append(str(error))
    if len(failed) == len(indices):
        raise ConnectionError("; ".join(failed))
    notes += failed
    return found


def _files(config: FetchConfig, indices: Sequence[Index], found: Found) -> list[RemoteFile]:
    """The files of the chosen data sets, with the URLs of all copies."""
    copies = {(d.index, d.search_id): d for group in found.choice.kept for d in group}
    files: dict[str, RemoteFile] = {}
    for index in indices:
        ids = [search_id for name, search_id in copies if name == index.name]
        try:
            for document in index.files(ids) if ids else ():
                data_set = copies.get((index.name, str(first(document, "dataset_id"))))
                if data_set is None:
                    continue  # asked for by id, so that no other should come
                file = file_of(document, index.name, data_set)
                files[file.path] = _merged(files.get(file.path), file, data_set, found.notes)
        except IndexFailed as error:
            if len(indices) == 1:
                raise ConnectionError(str(error)) from None
            found.notes.append(str(error))
    _refuse_missing(config, found, list(files.values()))
    return [files[path] for path in sorted(files) if in_period(path, config.period)]


def _merged(known: RemoteFile | None, file: RemoteFile, data_set: EsgfDataSet, notes: list[str]) -> RemoteFile:
    """A file with the URLs of another copy, unless that one has other bytes."""
    if known is None:
        return file
    for key in ("checksum", "size"):
        ours, theirs = getattr(known, key), getattr(file, key)
        if ours and theirs and ours != theirs:
            notes.append(
                f"{file.name}: the copy at {data_set.node} has {key} {theirs}, another has {ours}: not downloaded from "
                f"{', '.join(host_of(url) for url in file.urls)}"
            )
            return known
    return RemoteFile(
        path=file.path,
        data_set=file.data_set,
        size=known.size or file.size,
        checksum=known.checksum or file.checksum,
        urls=tuple(dict.fromkeys((*known.urls, *file.urls))),
    )


def _refuse_missing(config: FetchConfig, found: Found, files: Sequence[RemoteFile]) -> None:
    """Refuse a data set without files, or without files in the period."""
    names: dict[str, list[str]] = {}
    for file in files:
        names.setdefault(file.data_set, []).append(file.name)
    for group in found.choice.kept:
        drs = group[0].drs
        if drs not in names:
            raise UserError(f"index {group[0].index}: lists no file of {drs}; try another index")
        if config.period and not any(in_period(name, config.period) for name in names[drs]):
            ranges = [r for name in names[drs] if (r := time_range(name))]
            raise UserError(
                f"period: {drs} has no file in {config.period[0]} … {config.period[1]}; its files cover "
                f"{min(r[0] for r in ranges)} … {max(r[1] for r in ranges)}"
            )
