"""Runs `triton_kernels/` in Triton's interpreter, each file in a process that sets TRITON_INTERPRET first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent / "triton_kernels"
FILES = sorted(path.name for path in FOLDER.glob("test_*.py") if path.stem != "test_triton_on_device")


@pytest.mark.parametrize("file", FILES)
def test_kernels_in_the_interpreter(file):
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(FOLDER / file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=FOLDER.parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
