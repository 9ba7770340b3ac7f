"""Ranks of the benchmarks, forked from a process that has done the imports."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from ...training.processes import run_module


def run_ranks(
    ranks: int, module: str, arguments: Sequence[str], limit: float, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """In place of `climax_hpc.tools.bench.rank_processes.run_ranks`, without its limit of time."""
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        for name, value in (environment or {}).items():
            patch.setenv(name, value)
        found: dict[str, Any] = run_module(module, *arguments, ranks=ranks, folder=Path(folder))
    return found
