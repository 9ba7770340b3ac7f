"""What `climax-hpc fetch` prints: queries and commands, data sets with sizes and nodes, files, what is left out."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from climax_hpc.data_prep.fetching.config import FetchConfig
from climax_hpc.data_prep.fetching.listing import FetchFolder, ListedFile
from climax_hpc.data_prep.fetching.queries import commands_of, models_of, static_query, time_queries
from climax_hpc.data_prep.fetching.records import RemoteFile, host_of
from climax_hpc.utils.formatting import readable_size

_MOST_REASONS = 40


def print_dry_run(config: FetchConfig) -> None:
    """Print what a fetch would ask, and what the list of an earlier one says; uses no network, writes nothing.

    Raises:
        UserError: the config selects nothing that can be asked for, or the list is damaged.
    """
    queries = time_queries(config)
    static = static_query(config, models_of(config))
    for query in [*queries, *([static] if static else [])]:
        print(f"query{' of static fields' if query.static else ''}: {query.text()}")
        for command in commands_of(query, config.output):
            print(f"  the same: {command}")
    if config.era != "CMIP7":
        print("after esgpull add: esgpull update --tag climax; esgpull download")
    folder = FetchFolder(Path(config.output))
    listing = folder.read_listing()
    print(f"output: {config.output}")
    if listing is None:
        print(
            "no list of files there yet: --list_only true asks the index for one. Dry run: nothing was asked or written"
        )
        return
    print(f"list of {listing.listed}:")
    print_files(listing.files, folder, each=True)
    print_left_out(listing.left_out)
    print("Dry run: nothing was asked or written", flush=True)


def print_files(files: Sequence[RemoteFile | ListedFile], folder: FetchFolder, *, each: bool) -> None:
    """One line for each data set, and `each` file."""
    of_set: dict[str, list[RemoteFile | ListedFile]] = {}
    for file in files:
        of_set.setdefault(file.data_set, []).append(file)
    for data_set, own in of_set.items():
        hosts = list(dict.fromkeys(host_of(url) for file in own for url in file.urls))
        more = f" and {len(hosts) - 1} more" if len(hosts) > 1 else ""
        print(f"{data_set}: {len(own)} files, {_total(own)}, {hosts[0] if hosts else 'no node'}{more}")
        for file in own if each else ():
            size = "size unknown" if file.size is None else readable_size(file.size)
            print(f"  {file.path.rsplit('/', 1)[-1]}: {size}, {_state(file, folder)}")
    print(f"{len(of_set)} data sets, {len(files)} files, {_total(files)}", flush=True)


def print_left_out(left_out: Mapping[str, str]) -> None:
    """One line for each reason: an example and the number of the others."""
    examples: dict[str, list[str]] = {}
    for data_set, reason in left_out.items():
        examples.setdefault(reason, []).append(data_set)
    for reason, found in list(examples.items())[:_MOST_REASONS]:
        print(f"left out {found[0]}{f' and {len(found) - 1} more' if len(found) > 1 else ''}: {reason}")
    if len(examples) > _MOST_REASONS:
        print(f"left out for {len(examples) - _MOST_REASONS} more reasons; .fetch/listing.json in the output has all")


def unverifiable(files: Iterable[RemoteFile]) -> str:
    """A warning of files without checksum; empty if all have one."""
    without = [file for file in files if not file.checksum]
    if not without:
        return ""
    known = sum(file.size is not None for file in without)
    return (
        f"{len(without)} files have no checksum in the index, such as {without[0].name}: of {known} the size can be "
        "compared, of the others only what the node says of it"
    )


def _state(file: RemoteFile | ListedFile, folder: FetchFolder) -> str:
    check = file.checksum.partition(":")[0] or "no checksum"
    present = folder.present(file.path)
    if present is None:
        part = folder.part(file.path)
        return f"{check}, {readable_size(part.stat().st_size)} of it present" if part.exists() else f"{check}, missing"
    return (
        f"{check}, {'verified' if folder.is_verified(file.path, file.checksum, file.size) else 'present, not verified'}"
    )


def _total(files: Sequence[RemoteFile | ListedFile]) -> str:
    unknown = sum(file.size is None for file in files)
    known = readable_size(sum(file.size or 0 for file in files))
    return f"{known}{f' and {unknown} of unknown size' if unknown else ''}"
