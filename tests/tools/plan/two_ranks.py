"""Real training steps of two ranks or more, whose peak of memory is measured."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...training.processes import run_module


def measured_peaks(requests: Sequence[dict[str, Any]], folder: Path, *, ranks: int = 2) -> list[int]:
    """Most bytes of a step of each request, as `climax_hpc.tools.plan.measure` prints them."""
    found = run_module("climax_hpc.tools.plan.measure", json.dumps(requests), ranks=ranks, folder=folder)
    peaks: list[int] = found["peak_bytes"]
    return peaks
