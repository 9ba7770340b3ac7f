"""Provenance of a result: versions of this package and its libraries, commit, device, data."""

import importlib.metadata
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from climax_hpc.utils.typed_json import Count, Sha256

_PACKAGES = ("climax_hpc", "torch", "deepspeed", "numpy", "h5py")
_GIT_SECONDS = 10  # a slow file system must not hold up a run


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What `provenance` gives, as it is read from files."""

    git_commit: str
    python: str
    packages: dict[str, str]
    device: str
    ranks: Count
    launcher: str
    manifest_sha256: Sha256
    variable_weights: dict[str, float] = field(default_factory=dict)
    """Of a training: weight of every output in the loss; empty: all count alike."""


@cache  # importlib reads a file for it, which costs more than the header of a shard
def package_version() -> str:
    """Version of climax_hpc; `unknown` where it runs uninstalled."""
    try:
        return importlib.metadata.version("climax_hpc")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def provenance(*, ranks: int, launcher: str, manifest_sha256: str) -> dict[str, Any]:
    """Versions, commit, device, ranks and data as plain JSON types; without host names and environment variables."""
    import torch  # here, so that `package_version` does not wait for it

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "git_commit": git_commit(),
        "python": sys.version.split()[0],
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "device": device,
        "ranks": ranks,
        "launcher": launcher,
        "manifest_sha256": manifest_sha256,
    }


def git_commit() -> str:
    """Commit of the source tree, with `+changes` where it is not clean; `unknown` outside a checkout."""
    root = Path(__file__).resolve().parent.parent.parent
    try:
        head, status = (
            subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, timeout=_GIT_SECONDS)
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    if head.returncode:
        return "unknown"
    return head.stdout.strip() + ("+changes" if status.stdout.strip() else "")
