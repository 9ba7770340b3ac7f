"""Runs a case in a forked process: whatever hangs, crashes or takes all memory ends with it."""

import ctypes
import fcntl
import gc
import hashlib
import importlib
import json
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .case import Action, Case, Run
from .results import PRINTED, printed_result, result_of

LIMIT_SECONDS = 5.0
"""Longest time that a command on a tiny input may take on a quiet machine."""
BROKEN_FUZZER = 97
_KILL_AFTER = 60.0
_MEMORY = 8 << 30  # bytes of address space beyond what the parent has: unbounded input ends in MemoryError
_NEW_MOUNTS, _NEW_USER = 0x20000, 0x10000000
READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_TEMPORARY = re.compile(r"\.(tmp|partial)(/|$)")
_LIMITS = (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE)
_AGAIN = "\f"
_PIPE = 1 << 20
_OURS = ("case", "baseline", "temporary")
# What a refused command may leave: parts of a pack that the next run resumes from, and the files of a training run.
_RESUMABLE = re.compile(
    r"(out|data|fine)/(pack_state\.json|\.first_pass/.*|[^/]+/[^/.]+[^/]*\.h5)"
    r"|(out|run)/(config\.yaml|provenance\.json|normalisation\.json|metrics\.jsonl|starts\.jsonl|state\.json|"
    r"transfer\.json|tensorboard/.*|stacks/.*|checkpoints/(latest|best|step_\d+/.*))"
    r"|(.*/)?\.[\w.-]*lock"
)


def attempt(case: Case, chain: Path, folder: Path) -> Run:
    """Run a case in `folder`, a new copy of the chain."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(chain, folder, symlinks=True)
    pipes = [os.pipe() for _ in range(3)]  # not files, which a fuzzer may limit
    for _, end in pipes:
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, _PIPE)
    start = time.monotonic()
    child = os.fork()
    if not child:
        _child(case, folder, [end for _, end in pipes])
    status, processor = wait(child)
    wall = time.monotonic() - start
    # With n processes per processor a command takes n times as long: the limit is that of a quiet machine.
    load = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    output, errors, seen_text = (_drain(*pipe) for pipe in pipes)
    assert status != BROKEN_FUZZER, f"the damage of {case.name!r} itself failed: {errors}"
    seen: dict[str, Any] = json.loads(seen_text or "{}")
    outside = [path.name for path in folder.parent.iterdir() if path.name not in _OURS]
    seen["outside"] = () if case.anywhere else (*seen.get("outside", ()), *outside)
    if seen.get("result") == PRINTED:
        seen["result"] = printed_result(output.rpartition(_AGAIN)[2])
    return Run(status=status, seconds=max(processor, wall / load), output=output, errors=errors, wall=wall, **seen)


def _drain(reader: int, writer: int) -> str:
    """What is in a pipe, after its other users have ended."""
    os.close(writer)
    os.set_blocking(reader, False)
    found = b""
    with suppress(BlockingIOError):
        while part := os.read(reader, _PIPE):
            found += part
    os.close(reader)
    return found.decode(errors="replace")


def _child(case: Case, folder: Path, pipes: list[int]) -> None:
    """Never returns: damage, command, result."""
    status = BROKEN_FUZZER
    output, errors, results = pipes
    try:
        os.setsid()
        os.chdir(folder)
        os.dup2(output, 1)
        os.dup2(errors, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (open(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))  # noqa: SIM115
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]
        confine(folder.parent)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY, resource.RLIM_INFINITY))
        case.before(folder)
        case.damage(folder)
        found = case.reread(folder) if case.reread else ""
        case.enclose(folder)
        limits = {limit: resource.getrlimit(limit) for limit in _LIMITS}
        _lift(limits)
        before = set(snapshot(Path.cwd()))
        for limit, values in limits.items():
            resource.setrlimit(limit, values)
        status = command(case)
        flush()
        _lift(limits)
        os.write(results, json.dumps(_look(case, status, before) | {"found": found}).encode())
    except BaseException:
        os.dup2(errors, 2)
        traceback.print_exc()
        status = status if status == BROKEN_FUZZER else 1
    finally:
        flush()
        os._exit(status)


def _lift(limits: dict[int, tuple[int, int]]) -> None:
    """Take away the limits that a fuzzer has set."""
    for limit, (_, most) in limits.items():
        resource.setrlimit(limit, (most, most))


def _look(case: Case, status: int, before: set[str]) -> dict[str, Any]:
    """The result, and the files that are there now, in the current folder."""
    here = Path.cwd()
    if case.afterwards:
        case.afterwards(here)
    new = [name for name in snapshot(here) if name not in before]
    inside = ("out", ".out", "run/", "data/")
    seen: dict[str, Any] = {"outside": [n for n in new if not n.startswith(inside)]}
    seen["left"] = [n for n in new if not _RESUMABLE.fullmatch(n) and (status or _TEMPORARY.search(n))]
    if status and case.again:
        os.write(1, _AGAIN.encode())
        again = command(case)
        flush()
        seen["again"] = f"the next run ends with {again}" if again else ""
    if case.expects == "same" and (status == 0 or seen["left"] or case.afterwards):
        try:
            seen["result"] = result_of(case.verb, here)
        except Exception as error:  # a refused command need not have a result
            seen["result"] = f"none: {error!r}"[:200]
    return seen


def command(case: Case) -> int:
    """Exit status of the command, as `climax-hpc` itself would end."""
    from climax_hpc.cli import main
    from climax_hpc.errors import EXIT_BAD_INPUT, UserError, print_error

    try:
        if case.call:
            case.call(Path())
        else:
            main([*case.verb.split(), *case.arguments])
    except UserError as error:
        print_error(str(error))
        return EXIT_BAD_INPUT
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def flush() -> None:
    """Flush standard output and errors, where they can be written."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


def wait(child: int, seconds: float = _KILL_AFTER) -> tuple[int, float]:
    """Exit status (negative: signal) and processor time of a child; it is killed when it takes too long."""
    handle = os.pidfd_open(child)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    if not poll.poll(seconds * 1000):
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    os.close(handle)
    _, status, used = os.wait4(child, 0)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it started
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def snapshot(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder; of what cannot be read, its name alone."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with suppress(OSError):
                found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def in_a_child(action: Action, folder: Path) -> list[str]:
    """Call a function in a forked process with this current folder; the modules that it has imported."""
    log = folder.parent / "chain.log"
    child = os.fork()
    if not child:
        status = 1
        try:
            os.chdir(folder)
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            action(folder)
            log.write_text("\n".join(sys.modules))
            status = 0
        except BaseException:
            log.write_text(traceback.format_exc())
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status == 0, log.read_text()
    return log.read_text().splitlines()


def import_modules(names: Iterable[str]) -> None:
    """Import what the commands import when they run, so that a forked case starts at once."""
    for name in names:
        with suppress(ImportError):
            importlib.import_module(name)
    from climax_hpc.data_prep.sources.conversions import conversion

    conversion("tas", "degC", "")  # reads the table of units
    gc.collect()
    gc.freeze()  # none of this is garbage, and a training ends with `gc.collect`


def confine(writable: Path) -> None:
    """Make all but one folder read-only for this process, whatever path a fuzzer gives to a command."""
    user, group = os.getuid(), os.getgid()
    call_c("unshare", _NEW_MOUNTS | (_NEW_USER if user else 0))
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    mount(None, "/", flags=_RECURSIVE | _PRIVATE)
    mount(writable, writable, flags=_BIND)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        point = line.split()[1]
        if point != str(writable) and not point.startswith(("/proc", "/sys")):
            with suppress(OSError):
                mount(None, point, flags=_REMOUNT | _BIND | READ_ONLY)
    os.environ["TMPDIR"] = tempfile.tempdir = str(writable / "temporary")
    Path(tempfile.tempdir).mkdir(exist_ok=True)
    os.chdir(Path.cwd())  # into the writable mount


def mount(source: object, target: object, *, kind: str | None = None, flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    words = [None if word is None else str(word).encode() for word in (source, target, kind)]
    call_c("mount", *words, flags, options.encode())


def call_c(name: str, *arguments: Any) -> None:
    """A function of the C library that Python 3.11 lacks.

    Raises:
        OSError: it failed.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
