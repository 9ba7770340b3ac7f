"""`climax-hpc fetch`: the files of a pack config from ESGF into a DRS tree, verified and resumable."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from climax_hpc.config.paths import with_expanded_paths
from climax_hpc.data_prep.fetching.config import FetchConfig
from climax_hpc.data_prep.fetching.listing import FetchFolder
from climax_hpc.data_prep.fetching.printing import print_dry_run, print_files, print_left_out, unverifiable
from climax_hpc.data_prep.fetching.records import RemoteFile
from climax_hpc.data_prep.packing.disk_usage import free_bytes
from climax_hpc.errors import UserError
from climax_hpc.utils.files import check_is_folder
from climax_hpc.utils.folder_lock import locked_folder
from climax_hpc.utils.formatting import readable_size

if TYPE_CHECKING:
    from climax_hpc.data_prep.fetching.search import Found


def fetch(config: FetchConfig) -> Path:
    """Download what a config selects; returns the output folder.

    Raises:
        UserError: bad settings, nothing to fetch, a missing variable, too little room, or no node has a file as the
            index lists it.
        ConnectionError: an index or a data node does not answer; another run resumes.
    """
    config = with_expanded_paths(config)
    output = Path(config.output)
    check_is_folder(output, "output")
    if config.dry_run:
        print_dry_run(config)
        return output
    found = _search(config)
    for note in found.notes:
        print(f"fetch: warning: {note}")
    with locked_folder(output, "output"):
        folder = FetchFolder(output)
        print_files(found.files, folder, each=config.list_only)
        print_left_out(found.choice.left_out)
        if not config.list_only:
            missing = _missing(found.files, folder)
            _check_room(config, folder, missing)
        listed = datetime.now(UTC).isoformat(timespec="seconds")
        folder.write_listing(listed, [q.text() for q in found.queries], found.files, found.choice.left_out)
        if not config.list_only:
            _download(config, folder, found.files, missing)
    return output


def _search(config: FetchConfig) -> "Found":
    """Ask the indices.

    Raises:
        UserError: the extra is not installed; see `search`.
    """
    try:
        from climax_hpc.data_prep.fetching.indices import open_indices
        from climax_hpc.data_prep.fetching.search import search
    except ImportError as error:
        raise UserError(
            f"fetch: needs packages that are not installed ({error}); run: pip install 'climax_hpc[fetch]'"
        ) from None
    return search(config, open_indices(config.index, config.era))


def _missing(files: Sequence[RemoteFile], folder: FetchFolder) -> list[RemoteFile]:
    """The files that are not there yet, or not as the index lists them."""
    missing = []
    for file in files:
        present = folder.present(file.path)
        if present is not None and not folder.is_verified(file.path, file.checksum, file.size):
            if folder.check_again(file.path, file.checksum, file.size):
                continue
            print(f"fetch: {file.path} is not as the index lists it ({readable_size(present)}): downloaded again")
        elif present is not None:
            continue
        missing.append(file)
    return missing


def _check_room(config: FetchConfig, folder: FetchFolder, missing: Sequence[RemoteFile]) -> None:
    """Refuse more than the disk or the config has room for, before anything is downloaded.

    Raises:
        UserError: says what is needed and what there is.
    """
    needed = sum(file.size or 0 for file in missing)
    if config.max_gigabytes is not None and needed > config.max_gigabytes * 1e9:
        raise UserError(
            f"max_gigabytes: {len(missing)} files of {readable_size(needed)} are to be downloaded, more than "
            f"{config.max_gigabytes:g} GB; raise it, or select fewer variables, sources or years (period)"
        )
    parts = [folder.part(file.path) for file in missing]
    needed -= sum(part.stat().st_size for part in parts if part.exists())
    if needed > (free := free_bytes(Path(config.output))):
        raise UserError(
            f"output: {config.output} needs {readable_size(needed)} for {len(missing)} files, but only "
            f"{readable_size(free)} are free; free some space, choose another output, or select fewer variables, "
            "sources or years (period)"
        )


def _download(
    config: FetchConfig, folder: FetchFolder, files: Sequence[RemoteFile], missing: Sequence[RemoteFile]
) -> None:
    from climax_hpc.data_prep.fetching.transfer import Downloads, TransferProgress, refuse_failures

    if warning := unverifiable(missing):
        print(f"fetch: warning: {warning}", flush=True)
    progress = TransferProgress(len(missing), sum(file.size or 0 for file in missing))
    failures = Downloads(config=config, folder=folder, progress=progress).run(missing)
    kept = len(files) - len(missing)
    print(f"fetch: {len(missing) - len(failures)} files downloaded and verified, {kept} were there", flush=True)
    refuse_failures(failures, len(files))
    print(f"pack them: climax-hpc pack --input {config.output}", flush=True)
