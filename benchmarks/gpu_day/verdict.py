"""Which kernels are shown to be right; figures that rest on any other are withheld."""

from collections.abc import Iterable
from typing import Any

from benchmarks.gpu_day.schedule import PLANTED, STAGES

Row = dict[str, Any]
CHECKS = ("correct/", "same_bits/")
ERRORS = ("error/", "kernel_tests/", "memcheck_errors")


def judged(rows: Iterable[Row], stages: Iterable[Row]) -> tuple[list[Row], dict[str, list[str]]]:
    """The rows that may be shown, and the names of those withheld, by the kernel that is not shown to be right.

    A kernel is right where at least one check of it passed, none failed, and no stage crashed or hung over it.
    """
    rows = list(rows)
    checks = [(kernel, row) for row in rows if is_check(row) for kernel in row.get("of", ())]
    right = {kernel for kernel, row in checks if row["value"] == 1}
    right -= {kernel for kernel, row in checks if row["value"] != 1}
    for stage in stages:
        if stage["outcome"] in ("failed", "timed out"):
            right -= set((STAGES | PLANTED)[stage["stage"]].checks)
    shown: list[Row] = []
    withheld: dict[str, list[str]] = {}
    for row in rows:
        doubtful = [kernel for kernel in row.get("of", ()) if kernel not in right]
        if not doubtful or row["name"].startswith((*CHECKS, *ERRORS)):
            shown.append(row)
            continue
        for kernel in doubtful:
            withheld.setdefault(kernel, []).append(row["name"])
    return shown, withheld


def is_check(row: Row) -> bool:
    """Whether the row says that something is right (1) or wrong (0)."""
    return str(row["name"]).startswith(CHECKS)
