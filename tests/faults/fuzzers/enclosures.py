"""Surroundings in which a command must fail well: full file systems, no inodes, read-only, unreadable, few handles."""

import ctypes
import os
import resource
import shutil
import stat
from pathlib import Path

from .case import Action
from .forked import READ_ONLY, call_c, mount

BALLAST = "ballast"
_PAGE = 4096
_REMOUNT = 32
_CAPABILITY_VERSION = 0x20080522


def move_to_small_disk(folder: Path, *, options: str = "size=64m") -> Path:
    """Copy the current folder to a new file system in memory and work there; it ends with this process."""
    disk = Path("temporary-disk").absolute()
    disk.mkdir()
    mount("none", disk, kind="tmpfs", options=options)
    for entry in Path.cwd().iterdir():
        if entry != disk and not entry.is_fifo():
            (shutil.copytree if entry.is_dir() else shutil.copy)(entry, disk / entry.name)
    os.chdir(disk)
    return disk


def full_disk(pages: int) -> Action:
    """A file system with room for so many pages of 4 KiB."""

    def fill(folder: Path) -> None:
        move_to_small_disk(folder)
        free = os.statvfs(".").f_bavail * os.statvfs(".").f_frsize // _PAGE
        with open(BALLAST, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free - pages) * _PAGE)

    return fill


def few_inodes(count: int) -> Action:
    """A file system on which so many files can still be made."""

    def fill(folder: Path) -> None:
        disk = move_to_small_disk(folder)
        used = os.statvfs(".").f_files - os.statvfs(".").f_ffree
        mount("none", disk, kind="tmpfs", flags=_REMOUNT, options=f"nr_inodes={used + count}")

    return fill


def more_room(folder: Path) -> None:
    """Free the file system again."""
    (Path(folder) / BALLAST).unlink(missing_ok=True)
    mount("none", folder, kind="tmpfs", flags=_REMOUNT, options="size=64m,nr_inodes=100000")


def read_only_disk(folder: Path) -> None:
    """A file system that is mounted read-only."""
    disk = move_to_small_disk(folder)
    mount("none", disk, kind="tmpfs", flags=_REMOUNT | READ_ONLY)


def without_rights(path: str, mode: int) -> Action:
    """A file or folder of this mode, for a process that root's rights do not help."""

    def take(folder: Path) -> None:
        target = Path(path)
        if not target.exists():
            target.mkdir()
        for inner in target.rglob("*") if mode == 0 and target.is_dir() else ():
            if inner.is_file():
                inner.chmod(0)
        target.chmod(mode)
        drop_capabilities()

    return take


def drop_capabilities() -> None:
    """Give up root's right to read and write whatever the modes of files say."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    call_c("capset", header, (ctypes.c_uint32 * 6)())


def few_handles(count: int) -> Action:
    """So many more open files than there are."""

    def limit(folder: Path) -> None:
        used = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + count, 1024))

    return limit


def small_files(size: int) -> Action:
    """No file may be larger than `size` bytes."""
    return lambda folder: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def full_output(folder: Path) -> None:
    """Standard output cannot be written."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def closed_output(folder: Path) -> None:
    """Standard output is closed."""
    os.close(1)


def in_the_way(path: str, kind: str) -> Action:
    """Something else already lies where the command writes."""

    def put(folder: Path) -> None:
        target = Path(path)
        if kind == "file":
            target.write_text("mine\n")
        elif kind == "folder":
            target.mkdir()
            (target / "mine").write_text("mine\n")
        elif kind == "empty folder":
            target.mkdir()
        elif kind == "fifo":
            os.mkfifo(target)
        elif kind == "device":
            os.mknod(target, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        elif kind == "dangling link":
            target.symlink_to("nowhere/at/all")
        elif kind == "link to itself":
            target.symlink_to(target.name)

    return put


def missing(path: str) -> Action:
    """An input that is not there."""

    def remove(folder: Path) -> None:
        target = Path(path)
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return remove


def replaced(path: str, kind: str) -> Action:
    """An input that is something else."""

    def replace(folder: Path) -> None:
        missing(path)(folder)
        in_the_way(path, kind)(folder)

    return replace
