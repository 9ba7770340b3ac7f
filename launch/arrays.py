"""Splits the members of a sweep into job arrays of a size that the cluster accepts."""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from climax_hpc.errors import UserError
from climax_hpc.launch.config import Resources
from climax_hpc.launch.scripts import scripts

ARRAY_SIZE = "CLIMAX_HPC_ARRAY_SIZE"
"""Variable of the environment or of a site file: the most members of one array."""
Call = TypeVar("Call")


def split(calls: Sequence[Call], size: int | None) -> list[Sequence[Call]]:
    """The calls in parts of at most `size`; one part if there is no limit."""
    return [calls[first : first + size] for first in range(0, len(calls), size)] if size else [calls]


def array_size(where: Resources) -> int | None:
    """The most members of one array: the smallest of what is set and of what Slurm allows; None without a limit.

    Raises:
        UserError: CLIMAX_HPC_ARRAY_SIZE is not a positive whole number.
    """
    if where.executor != "slurm":
        return None
    stated = os.environ.get(ARRAY_SIZE) or _of_site(where.site or os.environ.get("CLIMAX_HPC_SITE", "generic"))
    if stated and not (stated.isdigit() and int(stated)):
        raise UserError(f"{ARRAY_SIZE}: {stated!r} must be a positive whole number")
    limits = [where.array_size, int(stated) if stated else None, *_of_slurm()]
    return min((limit for limit in limits if limit), default=None)


def _of_site(site: str) -> str:
    """The value that a site file exports; it is not sourced, because it may load modules."""
    path = Path(site) if "/" in site else scripts() / "sites" / f"{site}.env"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = re.search(rf"(?m)^\s*export\b.*\b{ARRAY_SIZE}=['\"]?([^\s'\"]+)", text)
    return found[1] if found else ""


def _of_slurm() -> list[int]:
    """MaxArraySize and max_array_tasks of the cluster; empty where scontrol does not answer."""
    try:
        shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [int(number) for number in re.findall(r"\b(?:MaxArraySize\s*=\s*|max_array_tasks=)(\d+)", shown)]
