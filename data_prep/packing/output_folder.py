"""The output folder of a pack: refused if it is in use, resumed after an interruption, cleaned up after an error."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from climax_hpc.data_prep.packing.disk_usage import free_bytes
from climax_hpc.data_prep.packing.first_pass import FOLDER, record_files
from climax_hpc.data_prep.packing.work_queue import OtherRankFailed, WorkQueue
from climax_hpc.errors import Unreachable, UserError
from climax_hpc.shards import manifest
from climax_hpc.utils.atomic import is_temporary, remove_temporaries
from climax_hpc.utils.files import check_is_folder, make_folder, read_json, remove_empty, write_json
from climax_hpc.utils.folder_lock import LOCK, FolderLock
from climax_hpc.utils.formatting import readable_size
from climax_hpc.utils.system_errors import NO_ROOM, reason_of

STATE = "pack_state.json"


class OutputFolder:
    """The folder that a pack writes to; used only on rank 0, which holds its lock."""

    def __init__(self, folder: Path) -> None:
        """Inspect the folder without writing.

        Raises:
            UserError: the path is a file or below one, or the folder contains a finished data set or foreign files.
        """
        self._folder = folder
        self._made: list[Path] = []
        self._lock: FolderLock | None = None
        self._begun = False
        self._files: list[str] = []
        self._inspect()

    def _inspect(self) -> None:
        check_is_folder(self._folder, "output")
        self._resumed = (self._folder / STATE).is_file()
        fix = "choose another output, or delete the folder"
        # A manifest next to the state file was written by a pack that was killed before it removed its state.
        if (self._folder / manifest.FILE_NAME).exists() and not self._resumed:
            raise UserError(f"output: {self._folder} already contains a data set; {fix}")
        foreign = [p.name for p in self._folder.iterdir() if not _is_own(p)] if self._folder.exists() else []
        if foreign and not self._resumed:
            raise UserError(f"output: {self._folder} is not empty ({foreign[0]}); {fix}")

    def claim(self) -> None:
        """Create the folder and take its lock, before the long passes; then inspect it again.

        Raises:
            UserError: another process packs into it (names that process), or the folder cannot be created.
        """
        self._made = make_folder(self._folder, "output")
        self._lock = FolderLock(self._folder / LOCK, self._folder, "output")
        self._inspect()

    def begin(self, settings: dict[str, Any], inputs: dict[str, str], files: Sequence[str]) -> None:
        """Record what is packed, or compare it with the interrupted pack in the folder; `files`: what will be written.

        Raises:
            UserError: the interrupted pack had other settings or inputs.
        """
        self._files = [*files, *(record for file in files for record in record_files(file))]
        state = json.loads(json.dumps({"settings": settings, "inputs": inputs}))
        if self._resumed:
            found = read_json(self._folder / STATE, "the state of an interrupted pack; delete the folder to restart")
            if found != state:
                raise UserError(
                    f"output: {self._folder} contains an interrupted pack with other {_difference(found, state)}; "
                    "use the same ones, choose another output, or delete the folder"
                )
        self._remove_temporaries()
        if not self._resumed:
            self._begun = True
            write_json(self._folder / STATE, state)

    def check_room(self, needed: int) -> None:
        """Check the free disk space before the long passes.

        Raises:
            UserError: fewer bytes are free than are still needed.
        """
        present = sum(p.stat().st_size for p in self._folder.rglob("*.h5")) if self._folder.is_dir() else 0
        free = free_bytes(self._folder)
        if free + present < needed:
            raise UserError(
                f"output: {self._folder} needs about {readable_size(needed - present)} more, but only "
                f"{readable_size(free)} are free; free some space, choose another output, or pack fewer variables or "
                "sources"
            )

    def finish(self) -> None:
        """After the manifest is written: remove the records of the first pass, then the state."""
        self._remove(file for file in self._files if file.startswith(f"{FOLDER}/"))
        (self._folder / STATE).unlink()

    def clean_up(self, error: BaseException, *, keep_finished: bool = False) -> None:
        """After an error: remove what is incomplete, and nothing that this pack did not write.

        Invalid input would fail again, so a fresh pack is removed, with the folders created for it. After other errors
        (a full disk, a server that fails, an interruption), and with `keep_finished`, finished shards stay for the next
        run.
        """
        if self._lock is None:  # the folder is another's
            return
        self._remove_temporaries()
        kept = keep_finished or isinstance(error, Unreachable)
        if self._begun and isinstance(error, UserError) and not kept:
            self._remove([*self._files, manifest.FILE_NAME, STATE])

    def release(self) -> None:
        """Give up the lock, and remove the folder if it was made for nothing."""
        if self._lock:
            self._lock.release()
            remove_empty(self._made)

    def _remove(self, files: Iterable[str]) -> None:
        """Remove files, and those of their folders that are empty then."""
        paths = [self._folder / file for file in files]
        for path in paths:
            path.unlink(missing_ok=True)
        folders = {folder for path in paths for folder in path.parents if folder.is_relative_to(self._folder)}
        remove_empty(sorted(folders - {self._folder}, key=lambda folder: -len(folder.parts)))

    def _remove_temporaries(self) -> None:
        for folder in {self._folder, *((self._folder / file).parent for file in self._files)}:
            remove_temporaries(folder)


def _is_own(path: Path) -> bool:
    """True for the lock, and for what a pack that was killed while writing its state left."""
    return path.name == LOCK or is_temporary(path)


@contextmanager
def written_by(queue: WorkQueue, output: OutputFolder, folder: Path, *, keep_finished: bool = False) -> Iterator[None]:
    """While the ranks of a queue write: after an error what is incomplete is removed, and all ranks end together.

    Args:
        output: the folder, on rank 0.
        folder: its path.
        keep_finished: as of `OutputFolder.clean_up`.

    Raises:
        UserError: the disk is full.
    """
    try:
        yield
    except (Exception, OtherRankFailed) as error:
        if queue.is_root:
            output.clean_up(error, keep_finished=keep_finished)
        queue.wait()
        raise (disk_full(error, folder) or error) from None
    except KeyboardInterrupt as error:
        if queue.is_root:
            output.clean_up(error)
        raise
    finally:
        if queue.is_root:
            output.release()


def disk_full(error: BaseException, folder: Path) -> UserError | None:
    """The message for a full disk, None for other errors; finished shards stay for the next run."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return UserError(
            f"output: no space is left for {folder} ({reason_of(error)}); free some space, or raise the quota, "
            "and run the same command again: it resumes with the finished shards"
        )
    return None


def _difference(found: Any, wanted: dict[str, Any]) -> str:
    """Names of the settings or inputs that differ."""
    names: list[str] = []
    for part in ("settings", "inputs"):
        ours, theirs = wanted[part], found.get(part, {}) if isinstance(found, dict) else {}
        keys = sorted(k for k in {*ours, *theirs} if ours.get(k) != theirs.get(k))
        names += keys if part == "settings" else [f"input file {k}" for k in keys]
    return ", ".join(names[:5]) or "settings"
