"""A fetch that is killed resumes; two of them in one folder are refused; Ctrl-C ends one at once."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from climax_hpc.config.parser import to_dict
from climax_hpc.data_prep.fetching.config import FetchConfig
from climax_hpc.errors import UserError

from .conftest import tas
from .fake_esgf import FakeEsgf

CONTENT = random.Random(2).randbytes(600_000)


@pytest.fixture
def start(settings: Callable[..., FetchConfig], tmp_path: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """Start the command, and wait until a part of the file has arrived."""

    def run(**changed: Any) -> "subprocess.Popen[str]":
        file = tmp_path / "fetch.yaml"
        file.write_text(yaml.safe_dump(to_dict(settings(**changed))))
        process = subprocess.Popen(
            [sys.executable, "-m", "climax_hpc", "fetch", "--config", str(file)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as in the foreground
        )  # fmt: skip
        while sum(path.stat().st_size for path in (tmp_path / "out" / ".fetch").glob("*.part")) < 100_000:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        return process

    return run


def test_killed_fetch_resumes_and_others_are_refused(
    start: Callable[[], "subprocess.Popen[str]"],
    esgf: FakeEsgf,
    fetched: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    esgf.add(tas(), CONTENT)
    esgf.seconds_per_piece = 0.1
    process = start()
    with pytest.raises(UserError, match=rf"output: .*out is in use by process {process.pid} on "):
        fetched()
    process.kill()
    process.communicate()
    part = next((tmp_path / "out" / ".fetch").glob("*.part"))
    size = part.stat().st_size
    assert 100_000 <= size < len(CONTENT)
    assert not list((tmp_path / "out").rglob("*.nc"))
    esgf.seconds_per_piece = 0
    fetched()
    assert (tmp_path / "out" / tas()).read_bytes() == CONTENT
    assert [wanted for *_, wanted in esgf.requests] == ["", f"bytes={size}-"]
    assert not part.exists()


def test_interrupted_fetch_ends_at_once(
    start: Callable[..., "subprocess.Popen[str]"], esgf: FakeEsgf, tmp_path: Path
) -> None:
    esgf.add(tas(), CONTENT)
    esgf.seconds_per_piece = 0.1
    process = start(stall_seconds=300.0)
    esgf.seconds_per_piece = 300  # the node stalls
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip().splitlines()[-1] == "climax-hpc: error: interrupted"
    assert list((tmp_path / "out" / ".fetch").glob("*.part"))
