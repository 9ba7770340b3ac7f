"""Gradients of bfloat16 models are reduced in float32 at every ZeRO stage, with any number of ranks and odd sizes."""

import json
import subprocess
from pathlib import Path

from .conftest import torchrun


def test_the_mean_over_ranks_is_exact_to_float32() -> None:
    command = [*torchrun(3), str(Path(__file__).with_name("reduce_gradients.py"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    errors = json.loads(done.stdout.splitlines()[-1])
    assert list(errors) == ["1", "2", "3"]
    assert max(errors.values()) < 1e-7, errors  # bfloat16: 2e-3
