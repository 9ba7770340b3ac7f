"""The result of a check, and how checks run programs: within a time limit."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

_LATE = "it hangs: run it by hand, or raise --time_limit"
Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """Outcome of one check."""

    check: str = ""
    status: Status
    found: str
    """What the check found, in one line."""
    fix: str = ""
    """Suggested fix; empty if the check passed."""
    seconds: float = 0.0


def ok(found: str) -> CheckResult:
    """The check passed."""
    return CheckResult(status="ok", found=found)


def warn(found: str, fix: str) -> CheckResult:
    """Something that only some uses need is missing or slow."""
    return CheckResult(status="warn", found=found, fix=fix)


def fail(found: str, fix: str) -> CheckResult:
    """Something that climax_hpc needs does not work."""
    return CheckResult(status="fail", found=found, fix=fix)


def limited(name: str, check: Callable[[], CheckResult], limit: float, *, late: str = _LATE) -> CheckResult:
    """Result of a check that is abandoned after `limit` seconds, with `late` as the fix; an exception is a failure."""
    found: list[CheckResult] = []

    def run() -> None:
        try:
            found.append(check())
        except Exception as error:  # a broken check must not stop the others
            found.append(fail(f"{type(error).__name__}: {_short(str(error))}", "the check itself failed: report it"))

    thread = threading.Thread(target=run, daemon=True, name=name)
    thread.start()
    thread.join(limit)
    if not found:
        return CheckResult(
            check=name, status="fail", found=f"no result within {limit:.0f} s",
            fix=late,
        )  # fmt: skip
    return replace(found[0], check=name)


def output_of(
    command: Sequence[str], limit: float, environment: Mapping[str, str] | None = None
) -> tuple[int | None, str]:
    """Exit status and output of a program, standard error last; status None if it exceeded the limit.

    It runs in its own session, so that its children end with it.
    """
    process = subprocess.Popen(
        list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        errors="replace", env=dict(os.environ if environment is None else environment), start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None, ""
    return process.returncode, out + err


def last_line(text: str) -> str:
    """The last non-empty line, shortened for a table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _short(lines[-1]) if lines else "no output"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 160 else text[:157] + "…"
