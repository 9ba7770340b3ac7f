"""The output folder of a pack: refused when taken, continued when interrupted, left clean after an error."""

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
    """The folder that one pack writes into; used on rank 0 alone."""

    def __init__(self, folder: Path) -> None:
        """Look at the folder, write nothing.

        Raises:
            UserError: a file or a path below one, a finished data set, or a folder with something else in it.
        """
        check_is_folder(folder, "output")
        self._folder = folder
        self._made: list[Path] = []
        self._resumed = (folder / STATE).is_file()
        self._begun = False
        mend = "choose another output or delete it"
        # With its state beside it, a manifest is the last file of a pack that was killed before it could tidy up.
        if (folder / manifest.FILE_NAME).exists() and not self._resumed:
            raise UserError(f"output: {folder} already holds a data set; {mend}")
        foreign = [p.name for p in folder.iterdir() if not _is_temporary(p)] if folder.exists() else []
        if foreign and not self._resumed:
            raise UserError(f"output: {folder} is not empty ({foreign[0]}); {mend}")

    def begin(self, settings: dict[str, Any], inputs: dict[str, str]) -> None:
        """Record what is packed, or check it against the interrupted pack found.

        Raises:
            UserError: the interrupted pack had other settings or inputs; the folder cannot be made.
        """
        state = json.loads(json.dumps({"settings": settings, "inputs": inputs}))
        if self._resumed:
            found = read_json(self._folder / STATE, "the state of an interrupted pack; delete the folder to start anew")
            if found != state:
                raise UserError(
                    f"output: {self._folder} holds an interrupted pack with other {_difference(found, state)}; "
                    "pack with the same ones, choose another output, or delete the folder"
                )
            self._remove_temporaries()
        else:
            self._made = make_folder(self._folder, "output")
            self._remove_temporaries()
            self._begun = True
            write_json(self._folder / STATE, state)

    def check_room(self, needed: int) -> None:
        """Find a disk that is too small before the long passes do.

        Raises:
            UserError: fewer bytes are free than are still needed.
        """
        present = sum(p.stat().st_size for p in self._folder.rglob("*.h5")) if self._folder.is_dir() else 0
        free = free_bytes(self._folder)
        if free + present < needed:
            raise UserError(
                f"output: {self._folder} needs about {(needed - present) / 1e6:.0f} MB more and {free / 1e6:.0f} MB "
                "are free there; free some, choose another output, or pack fewer variables or sources"
            )

    def finish(self) -> None:
        """The manifest is written: forget the first pass, then the state."""
        shutil.rmtree(self._folder / FOLDER, ignore_errors=True)
        (self._folder / STATE).unlink()

    def clean_up(self, error: BaseException) -> None:
        """After an error: nothing half-written stays.

        Bad input would fail again, so all of a fresh pack goes, with the folders made for it; after anything else (a
        full disk, an interruption) finished shards stay for the next run.
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
    """True for what a pack that was killed in its first instant leaves: its state, not yet in place."""
    return path.name.startswith(f".{STATE}.") and path.name.endswith(".tmp")


def disk_full(error: BaseException, folder: Path) -> UserError | None:
    """The line that tells of a full disk, None for other errors; what is finished stays for the next run."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return UserError(
            f"output: no room is left for {folder} ({os.strerror(error.errno)}); free some, or raise the quota, and "
            "give the same command again: it goes on with the shards that are finished"
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
