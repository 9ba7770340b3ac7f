"""How commands end: one line and a status for what the system refuses; lost text on standard output stops no work."""

import errno
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from climax_hpc.errors import NotEnoughMemory, UserError
from climax_hpc.utils.command_guard import command_guard
from climax_hpc.utils.system_errors import explain, refuse_system_error

WORK = """
import sys
from pathlib import Path
from climax_hpc.utils.command_guard import command_guard
with command_guard():
    for number in range(20000):
        print("line", number)
    Path(sys.argv[1]).write_text("done")
"""


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        (OSError(errno.ENOSPC, "", "/a/b"), r"/a/b: No space left on device; free some space", 1),
        (OSError(errno.EDQUOT, "", "a"), "a: Disk quota exceeded; .* larger quota", 1),
        (OSError(errno.EMFILE, "", "a"), r"a: Too many open files; raise the limit \(`ulimit -n`, now \d+\)", 1),
        (PermissionError(errno.EACCES, "", "a"), "a: Permission denied; check who owns it", 2),
        (OSError(errno.EROFS, "", "a"), "a: Read-only file system; give a path on another", 2),
        (OSError(errno.ESTALE, "", b"a"), "a: Stale file handle; .* run the same command again", 1),
        (OSError(errno.ENAMETOOLONG, "", "a" * 5000), f"{'a' * 150}…{'a' * 150}: File name too long; ", 2),
        (RuntimeError("Symlink loop from '/a'"), "Symlink loop from '/a': Too many levels of symbolic links; ", 2),
        (OSError("just words"), "just words", 1),
        (MemoryError(), "not enough memory: ask for more", 1),
        (NotEnoughMemory("lower it"), "lower it", 1),
        (ImportError("a.so: failed to map segment from shared object"), r"not enough memory \(a.so: .*ask for more", 1),
        (RuntimeError("unable to open <x> in read-only mode: Too many open files (24)"), ".*Too many.*ulimit -n", 1),
        (UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "no"), "a name or text is not UTF-8: 'a", 1),
        (KeyboardInterrupt(), "interrupted", 130),
        (UserError("bad"), "bad", 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_one_line_and_a_status(
    error: BaseException, line: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop, command_guard():
        raise error
    assert stop.value.code == status
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert re.match(f"climax-hpc: error: {line}", shown), shown


def test_bugs_keep_their_traceback() -> None:
    for error in (KeyError("x"), AssertionError(), ImportError("x"), RuntimeError("shape"), ValueError("x")):
        with pytest.raises(type(error)), command_guard():
            raise error


@pytest.mark.parametrize("stream", ["full", "closed pipe"])
def test_work_is_finished_without_standard_output(stream: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORK, str(tmp_path / "work")]
    if stream == "full":
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        reason = "No space left on device"
    else:
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
        os.close(writer)
        reason = "Broken pipe"
    assert (tmp_path / "work").read_text() == "done"
    assert done.returncode == 1
    assert done.stderr.startswith(f"climax-hpc: error: standard output: {reason}; the work itself was done")
    assert done.stderr.count("\n") == 1


def test_closed_standard_streams_do_not_receive_files(tmp_path: Path) -> None:
    script = f"exec >&- 2>&-; {sys.executable} -c '{WORK}' {tmp_path / 'work'}"
    assert subprocess.run(["bash", "-c", script]).returncode == 0
    assert (tmp_path / "work").read_text() == "done"


def test_readers_do_not_call_a_file_damaged_that_the_system_refuses() -> None:
    hdf5 = OSError("Unable to open file (unable to open file: name = 'x', errno = 24, error message = 'Too many …')")
    with pytest.raises(UserError, match=r"x\.h5: Too many open files; raise the limit"):
        refuse_system_error(hdf5, "x.h5")
    refuse_system_error(OSError("Unable to open file (truncated file: eof = 1)"), "x.h5")
    refuse_system_error(FileNotFoundError(errno.ENOENT, "x"), "x.h5")
    assert explain(OSError(errno.EIO, ""), "x.h5").startswith("x.h5: Input/output error; the disk or the network")


def test_what_the_system_refuses_to_a_thread_prints_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception) -> None:
        raise error

    printed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda ended: printed.append(ended.exc_type))
    with command_guard():
        for error in (OSError(errno.ENOSPC, "full"), ValueError("a bug")):
            thread = threading.Thread(target=fail, args=(error,))
            thread.start()
            thread.join()
    assert printed == [ValueError]


def test_a_limit_of_open_files_that_torch_cannot_work_with_is_said_at_the_start() -> None:
    code = (
        "import os, resource; from climax_hpc.utils.command_guard import command_guard; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir('/dev/fd')) + 8, 1024))\n"
        "with command_guard(): print('started')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Too many open files; raise the limit (`ulimit -n`" in done.stderr
    assert done.stderr.count("\n") == 1
