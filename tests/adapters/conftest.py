"""Runs Python with packages that `make adapters` installs beside those of the environment."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
INSTALLED = HERE.parents[1] / "build/adapters"
Aside = Callable[..., str]


@pytest.fixture
def aside() -> Aside:
    """aside(name of a list, *arguments of python) -> what the process prints; fails with what it says.

    `statuses`: exit statuses that are no failure.
    """

    def run(name: str, *arguments: object, statuses: tuple[int, ...] = (0,)) -> str:
        folder = INSTALLED / name
        if not folder.is_dir():
            pytest.skip(f"the packages of tests/adapters/{name}.txt are not installed: run `make adapters`")
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
        )
        assert done.returncode in statuses, (done.stdout + done.stderr)[-4000:]
        return done.stdout

    return run
