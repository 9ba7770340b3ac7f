"""Folders that hold what is believed later without another check: compiled code, staged data, jobs as pickles.

Nobody else may write to them, or put another folder in their place.
"""

import getpass
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from climax_hpc.errors import UserError

CACHES = (
    "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "MIOPEN_USER_DB_PATH",
    "MIOPEN_CUSTOM_CACHE_DIR",
)  # fmt: skip
"""Variables that name folders of compiled code."""
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def check_kernel_caches(environment: Mapping[str, str] = os.environ) -> None:
    """Create the folders of compiled kernels that the environment names, and check those that are there.

    Raises:
        UserError: another user could write to one of them.
    """
    inductor = Path(tempfile.gettempdir(), f"torchinductor_{_user()}")  # torch's own choice
    folders = {variable: Path(environment[variable]) for variable in CACHES if environment.get(variable)}
    if os.path.lexists(inductor):
        folders.setdefault("TORCHINDUCTOR_CACHE_DIR", inductor)
    for variable, folder in folders.items():
        private_folder(folder, variable)
        if part := _exchangeable(folder):
            raise _unsafe(folder, variable, f"could be replaced by another user, at {part}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without this user
        return ""


def private_folder(folder: Path, key: str) -> None:
    """Create a folder that only this user can write to, with its parents; or check one that is there.

    Raises:
        UserError: it is no folder, belongs to another user, or is open to others; names `key`.
    """
    try:
        for missing in reversed([path for path in (folder, *folder.parents) if not os.path.lexists(path)]):
            missing.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise UserError(f"{key}: cannot create folder {folder} ({error.strerror}); choose a writable one") from None
    if stat.S_ISLNK(found.st_mode):
        raise _unsafe(folder, key, "is a link")
    if not stat.S_ISDIR(found.st_mode):
        raise UserError(f"{key}: {folder} is not a folder; choose another {key}")
    if found.st_uid != os.geteuid():
        raise _unsafe(folder, key, f"belongs to another user (number {found.st_uid})")
    if found.st_mode & _OTHERS_WRITE:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        raise _unsafe(folder, key, f"can be written by others (mode {mode}; chmod 700 makes it private)")


def _unsafe(folder: Path, key: str, problem: str) -> UserError:
    return UserError(
        f"{key}: {folder} {problem}, who could make this command run other code or read other data: choose a folder "
        "of your own"
    )


def _exchangeable(folder: Path) -> Path | None:
    """The first part of a path that another user can put something else in place of; None if there is none.

    That is a part in a folder that all may write to, unless the sticky bit keeps a part of one's own, or of root.
    """
    trusted = {0, os.geteuid()}
    for path in dict.fromkeys((Path(os.path.abspath(folder)), folder.resolve())):
        for part in (path, *path.parents):
            above = part.parent.stat().st_mode
            sticky = above & stat.S_ISVTX and part.lstat().st_uid in trusted
            if above & stat.S_IWOTH and not sticky:
                return part
    return None
