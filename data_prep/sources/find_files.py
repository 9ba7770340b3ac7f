"""Finds the files of an input folder: all that is below it is read, or listed with the reason why it is not.

Links are followed, after everything that lies in the folder itself: what is reached twice is read once.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path
from unicodedata import category

from climax_hpc.data_prep.sources.file_format import CONVERTIBLE, NETCDF, format_of
from climax_hpc.data_prep.sources.skipped import Cause, SkippedFile, skip_reasons
from climax_hpc.data_prep.stores.local_kinds import is_zarr, why_no_store, why_other_store
from climax_hpc.errors import UserError
from climax_hpc.shards.manifest import FILE_NAME

FETCH_FOLDER = ".fetch"
"""Folder of the records of `climax-hpc fetch` in its output."""
_NAME_IT = "name it as `input` itself, or in a list"
_CONTROL = {"Cc", "Zl", "Zp"}
"""Categories of characters that end a line, or do worse to a terminal."""
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}


def find_files(root: Path, suffixes: tuple[str, ...]) -> tuple[list[Path], list[SkippedFile]]:
    """Files below `root` whose names end in one of `suffixes`, and zarr stores if `.zarr` is one; the rest, listed.

    `root` may be a zarr store itself.

    Raises:
        UserError: `root` cannot be read.
    """
    walk = _Walk(root, suffixes)
    walk.run()
    return sorted(walk.found), walk.skipped


def is_store_folder(folder: Path) -> bool:
    """True for a zarr store, and for a folder that is named as one."""
    return folder.suffix == ".zarr" or is_zarr(folder)


def name_below(root: Path, path: Path) -> str:
    """Path of an input below `root`; for `root` itself its own name."""
    return Path(os.path.abspath(root)).name if path == root else path.relative_to(root).as_posix()


def no_files(root: object, what: str, fix: str, skipped: list[SkippedFile]) -> UserError:
    """The error for a folder without a file of the layout, which says why those that are there are not used."""
    if isinstance(root, Path) and (root / FILE_NAME).is_file():
        return UserError(f"input: {root} is a packed data set already; give the folder of the files before packing")
    reasons = skip_reasons(skipped, 2)
    return UserError(f"{root}: contains {what}{f' ({reasons})' if reasons else ''}; {fix}")


class _Walk:
    """One pass over a folder."""

    def __init__(self, root: Path, suffixes: tuple[str, ...]) -> None:
        self.root, self.suffixes = root, suffixes
        self.found: list[Path] = []
        self.skipped: list[SkippedFile] = []
        self._folders: list[Path] = []
        self._links: list[Path] = []
        self._seen: dict[tuple[int, int], str] = {}
        """Device and number of every folder and file that was read -> its path."""

    def run(self) -> None:
        try:
            if is_store_folder(self.root):
                self._add_store(self.root)
                return
        except OSError as error:
            raise UserError(f"input: {self.root} cannot be read ({error.strerror}); correct its permissions") from None
        for parent in self.root.resolve().parents:
            with suppress(OSError):  # folders above the input need not be readable
                above = parent.stat()
                self._seen[above.st_dev, above.st_ino] = "a folder above the input"
        self._visit(self.root)
        while self._folders or self._links:
            self._visit(self._folders.pop() if self._folders else self._links.pop(0))

    def _visit(self, path: Path) -> None:
        """Read a folder, or what a link leads to."""
        try:
            found = path.stat()
            if stat.S_ISDIR(found.st_mode):
                if self._is_new(path, found):
                    self._read_folder(path)
            else:
                self._file(path, found)
        except OSError as error:
            self._skip(path, _why_unreadable(path, error))

    def _read_folder(self, folder: Path) -> None:
        names = sorted(os.listdir(folder))
        if folder != self.root and is_store_folder(folder):
            self._add_store(folder)
            return
        if folder != self.root and (kind := why_other_store(folder)):
            self._skip(folder, f"{kind}; {_NAME_IT}")
            return
        if folder != self.root and folder.suffix in self.suffixes:
            self._skip(folder, f"is a folder, though its name ends in {folder.suffix}; files in it are read")
        for name in names:
            self._entry(folder / name)

    def _entry(self, path: Path) -> None:
        if problem := _bad_name(path.name):
            self._skip(path, problem)
            return
        try:
            found = path.lstat()
            if stat.S_ISLNK(found.st_mode):
                self._links.append(path)
            elif stat.S_ISDIR(found.st_mode):
                if path != self.root / FETCH_FOLDER:
                    self._folders.append(path)
            else:
                self._file(path, found)
        except OSError as error:
            self._skip(path, _why_unreadable(path, error))

    def _file(self, path: Path, found: os.stat_result) -> None:
        if kind := special_kind(found.st_mode):
            self._skip(path, f"is {kind}, not a file; remove it")
        elif path.name.startswith("."):
            self._skip(path, "is hidden: its name begins with a dot", Cause.NEVER_PACKED)
        elif path.suffix in self.suffixes:
            if self._is_new(path, found):
                self.found.append(path)
        else:
            self._skip_other(path)

    def _skip_other(self, path: Path) -> None:
        """List a file of another name, and what it is if it could be input."""
        what, fix = format_of(path)
        files = [suffix for suffix in self.suffixes if suffix != ".zarr"]  # stores are folders of any name
        reason = f"its name does not end in {' or '.join(files)}"
        if what in NETCDF and ".nc" in self.suffixes:
            reason = f"is {what}, but {reason}; rename it if it is input"
        elif what in CONVERTIBLE:
            reason = f"is {what}; {fix} if it is input"
        elif kind := why_other_store(path):
            self._skip(path, f"{kind}; {_NAME_IT}")
            return
        self._skip(path, reason, Cause.NEVER_PACKED)

    def _add_store(self, folder: Path) -> None:
        if ".zarr" not in self.suffixes:
            self._skip(folder, f"is a zarr store; this layout reads {' or '.join(self.suffixes)}")
        elif folder.suffix != ".zarr" and (reason := why_no_store(folder)):
            self._skip(folder, reason)
        else:
            self.found.append(folder)

    def _is_new(self, path: Path, found: os.stat_result) -> bool:
        """True if the folder or file was not read under another path; else it is listed."""
        identity = found.st_dev, found.st_ino
        if identity in self._seen:
            self._skip(path, f"is the same as {self._seen[identity]}, which is read once", Cause.NEVER_PACKED)
            return False
        self._seen[identity] = self._name(path)
        return True

    def _skip(self, path: Path, reason: str, cause: Cause = Cause.UNUSABLE) -> None:
        self.skipped.append(SkippedFile(file=self._name(path), reason=reason, cause=cause))

    def _name(self, path: Path) -> str:
        return _printable(name_below(self.root, path))


def special_kind(mode: int) -> str:
    """What a path is that is neither file, folder nor link, by its mode; opening such a thing may never end."""
    return _KINDS.get(stat.S_IFMT(mode), "")


def _bad_name(name: str) -> str:
    """Why a name cannot be written into a manifest; empty if it can."""
    kinds = {category(c) for c in name}
    if "Cs" in kinds:
        return "its name is not UTF-8; rename it"
    return "its name holds control characters; rename it" if kinds & _CONTROL else ""


def _printable(name: str) -> str:
    """A path as text that can be written anywhere: bytes that are not UTF-8 and control characters are escaped."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c.encode("unicode_escape").decode() if category(c) in _CONTROL else c for c in text)


def _why_unreadable(path: Path, error: OSError) -> str:
    if path.is_symlink() and isinstance(error, FileNotFoundError):
        return f"is a link to {_printable(os.readlink(path))}, which does not exist; restore or remove it"
    return f"cannot be read ({error.strerror}); correct it, or remove it"
