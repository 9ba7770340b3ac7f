"""Places that cannot be written, as context managers that give an output path: real file systems and real limits.

They are mounted for the test (root only); the limits work for every user.
"""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from climax_hpc.utils.folder_lock import FolderLock, folder_lock


@contextmanager
def mounted(place: Path, options: str) -> Iterator[Path]:
    """A small file system in memory."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # HDF5 may hold a file that it cannot close


@contextmanager
def full(folder: Path) -> Iterator[Path]:
    """Nothing is free."""
    with mounted(folder / "full", "size=16k") as place:
        (place / "other").write_bytes(bytes(16 << 10))
        yield place / "o"


@contextmanager
def fills(folder: Path) -> Iterator[Path]:
    """12 kB are free: the first files fit."""
    with mounted(folder / "fills", "size=12k") as place:
        yield place / "o"


@contextmanager
def no_inodes(folder: Path) -> Iterator[Path]:
    """Room, but not for another name."""
    with mounted(folder / "inodes", "size=10m,nr_inodes=3") as place:
        (place / "one").touch()
        (place / "two").touch()
        yield place / "o"


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """A file system that is mounted read-only."""
    with mounted(folder / "ro", "size=10m") as place:
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        yield place / "o"


@contextmanager
def limited(folder: Path) -> Iterator[Path]:
    """No file may be longer than 300 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        yield folder / "o"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def below_a_file(folder: Path) -> Iterator[Path]:
    """A part of the path is a file."""
    (folder / "file").touch()
    yield folder / "file" / "o"


@contextmanager
def taken(folder: Path) -> Iterator[Path]:
    """Folders where files, and files where folders are to be written."""
    for name in ("o.safetensors", "o.nc", "o.zarr", "o.html", "o.png", "o/pairs.json", "o/table.txt"):
        (folder / name / "mine").mkdir(parents=True)
    yield folder / "o"


@contextmanager
def in_use(folder: Path) -> Iterator[Path]:
    """Another command writes there."""
    (folder / "o").mkdir()
    store = FolderLock(folder / ".o.zarr.lock", folder / "o.zarr", "output")
    with folder_lock(folder / "o", "output"):
        yield folder / "o"
    store.release()


@contextmanager
def long_name(folder: Path) -> Iterator[Path]:
    """A name of 300 characters."""
    yield folder / ("o" * 300)


@contextmanager
def unreadable(folder: Path) -> Iterator[Path]:
    """Neither the input nor the output folder is accessible to the user."""
    if os.geteuid():
        pytest.skip("acting as another user needs root")
    os.seteuid(65534)
    caches = pytest.MonkeyPatch()
    caches.setattr("climax_hpc.cli.check_kernel_caches", lambda: None)
    try:
        yield folder / "o"
    finally:
        caches.undo()
        os.seteuid(0)


@contextmanager
def few_files(folder: Path) -> Iterator[Path]:
    """The process may open no more files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, before[1]))
    try:
        yield folder / "o"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
