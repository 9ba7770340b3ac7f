"""The output folder of a pack: refused if it is in use, resumed after an interruption, cleaned up after an error."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from climax_hpc.data_prep.packing.disk_usage import free_bytes
from climax_hpc.data_prep.packing.first_pass import FOLDER
from climax_hpc.errors import UserError
from climax_hpc.shards import manifest
from climax_hpc.utils.files import DISK_FULL, check_is_folder, make_folder, read_json, remove_empty, write_json

STATE = "pack_state.json"


class OutputFolder:
    """The folder that a pack writes to; used only on rank 0."""

    def __init__(self, folder: Path) -> None:
        """Inspect the folder without writing.

        Raises:
            UserError: the path is a file or below one, or the folder contains a finished data set or foreign files.
        """
        check_is_folder(folder, "output")
        self._folder = folder
        self._made: list[Path] = []
        self._resumed = (folder / STATE).is_file()
        self._begun = False
        fix = "choose another output, or delete the folder"
        # A manifest next to the state file was written by a pack that was killed before it removed its state.
        if (folder / manifest.FILE_NAME).exists() and not self._resumed:
            raise UserError(f"output: {folder} already contains a data set; {fix}")
        foreign = [p.name for p in folder.iterdir() if not _is_temporary(p)] if folder.exists() else []
        if foreign and not self._resumed:
            raise UserError(f"output: {folder} is not empty ({foreign[0]}); {fix}")

    def begin(self, settings: dict[str, Any], inputs: dict[str, str]) -> None:
        """Record what is packed, or compare it with the interrupted pack in the folder.

        Raises:
            UserError: the interrupted pack had other settings or inputs; the folder cannot be created.
        """
        state = json.loads(json.dumps({"settings": settings, "inputs": inputs}))
        if self._resumed:
            found = read_json(self._folder / STATE, "the state of an interrupted pack; delete the folder to restart")
            if found != state:
                raise UserError(
                    f"output: {self._folder} contains an interrupted pack with other {_difference(found, state)}; "
                    "use the same ones, choose another output, or delete the folder"
                )
            self._remove_temporaries()
        else:
            self._made = make_folder(self._folder, "output")
            self._remove_temporaries()
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
                f"output: {self._folder} needs about {(needed - present) / 1e6:.0f} MB more, but only "
                f"{free / 1e6:.0f} MB are free; free some space, choose another output, or pack fewer variables or "
                "sources"
            )

    def finish(self) -> None:
        """After the manifest is written: remove the records of the first pass, then the state."""
        shutil.rmtree(self._folder / FOLDER, ignore_errors=True)
        (self._folder / STATE).unlink()

    def clean_up(self, error: BaseException) -> None:
        """After an error: remove what is incomplete.

        Invalid input would fail again, so a fresh pack is removed, with the folders created for it. After other errors
        (a full disk, an interruption) finished shards stay for the next run.
        """
        if self._begun and isinstance(error, UserError):
            for child in self._folder.iterdir():
                shutil.rmtree(child) if child.is_dir() else child.unlink()
            remove_empty(self._made)
        elif self._begun or self._resumed:
            self._remove_temporaries()

    def _remove_temporaries(self) -> None:
        for path in self._folder.rglob(".*.tmp"):
            path.unlink(missing_ok=True)


def _is_temporary(path: Path) -> bool:
    """True for the temporary state file of a pack that was killed while writing it."""
    return path.name.startswith(f".{STATE}.") and path.name.endswith(".tmp")


def disk_full(error: BaseException, folder: Path) -> UserError | None:
    """The message for a full disk, None for other errors; finished shards stay for the next run."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return UserError(
            f"output: no space is left for {folder} ({os.strerror(error.errno)}); free some space, or raise the quota, "
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
