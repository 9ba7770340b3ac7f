"""The doctor's checks of locks, open files and inodes, on systems that really lack them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from climax_hpc.tools.doctor import storage

_SHOW = "from pathlib import Path; import sys; from climax_hpc.tools.doctor import storage; print(storage.{})"
# A C library whose flock and record locks fail (LOCKS=fail) or do nothing (LOCKS=nothing), as on some file systems.
_NO_LOCKS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
static int answer(void) {
  const char *mode = getenv("LOCKS");
  if (mode && mode[0] == 'n') return 0;
  errno = ENOLCK;
  return -1;
}
int flock(int file, int operation) { return answer(); }
static int control(const char *name, int file, int command, void *argument) {
  if (command == F_SETLK || command == F_SETLKW) return answer();
  int (*real)(int, int, ...) = dlsym(RTLD_NEXT, name);
  return real(file, command, argument);
}
int fcntl(int file, int command, ...) {
  va_list rest; va_start(rest, command); void *argument = va_arg(rest, void *); va_end(rest);
  return control("fcntl", file, command, argument);
}
int fcntl64(int file, int command, ...) {
  va_list rest; va_start(rest, command); void *argument = va_arg(rest, void *); va_end(rest);
  return control("fcntl64", file, command, argument);
}
"""


@pytest.fixture(scope="module")
def no_locks(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of the library, for LD_PRELOAD."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc: apt-get install gcc")
    folder = tmp_path_factory.mktemp("locks")
    (folder / "locks.c").write_text(_NO_LOCKS)
    library = folder / "locks.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, folder / "locks.c", "-ldl"], check=True)
    return str(library)


def shown(call: str, *words: str, before: str = "", **environment: str) -> str:
    """What a check finds in a process of its own."""
    code = f'{before}exec "$@"'
    command = ["bash", "-c", code, "-", sys.executable, "-c", _SHOW.format(call), *words]
    return subprocess.run(
        ["env", *(f"{k}={v}" for k, v in environment.items()), *command], capture_output=True, text=True, check=True
    ).stdout


def test_locks_work_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    result = storage.file_locks(tmp_path)
    assert (result.status, result.found) == ("ok", f"{tmp_path}: HDF5 locks files; our lock works")
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "FALSE")
    assert "HDF5 is told not to lock" in storage.file_locks(tmp_path).found
    assert storage.file_locks(tmp_path / "absent").status == "fail"


def test_a_file_system_without_locks(tmp_path: Path, no_locks: str) -> None:
    lost = {"LD_PRELOAD": no_locks, "LOCKS": "fail"}
    refused = shown("file_locks(Path(sys.argv[1]))", str(tmp_path), **lost)
    assert "status='fail'" in refused
    assert "HDF5 fails (" in refused
    assert "No locks available" in refused
    assert "export HDF5_USE_FILE_LOCKING=FALSE" in refused
    told = shown("file_locks(Path(sys.argv[1]))", str(tmp_path), **lost, HDF5_USE_FILE_LOCKING="FALSE")
    assert "status='warn'" in told
    assert "our lock fails (No locks available)" in told


def test_locks_that_nobody_notices(tmp_path: Path, no_locks: str) -> None:
    result = shown("file_locks(Path(sys.argv[1]))", str(tmp_path), LD_PRELOAD=no_locks, LOCKS="nothing")
    assert "status='warn'" in result
    assert "HDF5 takes no locks here; our lock is not noticed by another process" in result


def test_few_open_files() -> None:
    assert "status='warn'" in (few := shown("open_files()", before="ulimit -Sn 256; "))
    assert "ulimit -n is 256, at most" in few
    assert "put `ulimit -n 4096` into the job" in few or "ask the site" in few
    hard = shown("open_files()", before="ulimit -n 256; ")
    assert "ulimit -n is 256, at most 256" in hard
    assert "ask the site for a limit of 4096" in hard


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[None]:
    """A file system in memory at the folder."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_few_inodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_LITTLE_SPACE", 0)
    monkeypatch.setattr(storage, "_SLOW_BYTES_PER_SECOND", 0)
    monkeypatch.setattr(storage, "_SLOW_SYNC", 1e9)
    with small_disk(tmp_path, "size=200m,nr_inodes=500"):
        result = storage.file_system(tmp_path)
    assert "GB and 5e+02 files free" in result.found
    assert (result.status, "few files may be made here" in result.fix) == ("warn", True)


def test_a_disk_too_small_for_the_check(tmp_path: Path) -> None:
    with small_disk(tmp_path, "size=16m"):
        result = storage.file_system(tmp_path)
    assert (result.status, result.found) == ("fail", f"{tmp_path}: No space left on device")
    assert "free space" in result.fix
