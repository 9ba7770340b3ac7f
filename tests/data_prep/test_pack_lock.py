"""One pack per output: a second one ends in one line and changes nothing; clean-up removes only its own files."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.data_prep import pack as pack_module
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.verify import verify
from climax_hpc.errors import UserError
from climax_hpc.utils.folder_lock import LOCK

from .packed import NAME, digests

Settings = Callable[..., PackConfig]
# Packs slowly: waits before the second shard until the file `go` exists.
SLOW = """
import sys, time
from pathlib import Path
from climax_hpc.cli import main
from climax_hpc.data_prep import pack
write, calls = pack.write_work_unit, []
def slow(*arguments):
    calls.append(1)
    while len(calls) == 2 and not Path(sys.argv[1]).exists():
        time.sleep(0.05)
    return write(*arguments)
pack.write_work_unit = slow
main(sys.argv[2:])
"""


@pytest.fixture
def words(cmip6: Any, tmp_path: Path) -> list[str]:
    """A pack of five shards."""
    cmip6("tas", times=cmip6.six_hourly(20))
    arguments = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--grid_spacing_deg", "22.5"]
    return ["pack", *arguments, "--steps_per_shard", "4"]


def start_slow(words: list[str], tmp_path: Path) -> "subprocess.Popen[str]":
    """A pack that waits for `go`, after its first shard."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path / "go"), *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    while not list((tmp_path / "out").rglob("*.h5")):
        assert process.poll() is None
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(["--dtype", "float32"], id="other settings"),
        pytest.param([], id="same settings", marks=pytest.mark.faults),
    ],
)
def test_a_second_pack_ends_in_one_line(words: list[str], tmp_path: Path, more: list[str]) -> None:
    first = start_slow(words, tmp_path)
    half = tmp_path / "out" / NAME / ".climax_hpc-of-the-first.tmp"
    half.touch()
    second = subprocess.run([sys.executable, "-m", "climax_hpc", *words, *more], capture_output=True, text=True)
    (tmp_path / "go").touch()
    assert second.returncode == 2
    assert second.stderr.startswith(f"climax-hpc: error: output: {tmp_path}/out is in use by process {first.pid} on ")
    assert second.stderr.count("\n") == 1
    assert half.exists()
    half.unlink()
    _, errors = first.communicate()
    assert (first.returncode, errors) == (0, "")
    verify(tmp_path / "out")
    assert not (tmp_path / "out" / LOCK).exists()


@pytest.mark.faults
def test_a_killed_pack_does_not_block_the_next(words: list[str], tmp_path: Path) -> None:
    first = start_slow(words, tmp_path)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert (tmp_path / "out" / LOCK).exists()
    again = subprocess.run([sys.executable, "-m", "climax_hpc", *words], capture_output=True, text=True)
    assert (again.returncode, again.stderr) == (0, "")
    verify(tmp_path / "out")


@pytest.mark.parametrize("error", [UserError("bad input"), OSError(28, "No space left on device"), None])
def test_files_of_others_in_the_output_stay(
    cmip6: Any, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    cmip6("tas", times=cmip6.six_hourly(20))
    config, real, calls = settings(steps_per_shard=4), pack_module.write_work_unit, []
    out = tmp_path / "out"
    mine = [out / name for name in ("notes.txt", "my/notes.nc", f"{NAME}/notes", ".first_pass/notes", "my/.a.1.tmp")]

    def write(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            for path in mine:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("mine")
            if error:
                raise error
        return real(*arguments)

    monkeypatch.setattr(pack_module, "write_work_unit", write)
    if error:
        with pytest.raises(UserError):
            pack(config)
    else:
        pack(config)
        verify(out)
    assert [path.read_text() for path in mine] == ["mine"] * len(mine)
    if isinstance(error, UserError):
        assert sorted(path for path in out.rglob("*") if path.is_file()) == sorted(mine)


def test_an_output_that_was_packed_meanwhile_is_refused(
    cmip6: Any, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other pack ends between the first look at the folder and the lock."""
    cmip6("tas")
    claim = pack_module.OutputFolder.claim

    def late(output: Any) -> None:
        monkeypatch.setattr(pack_module.OutputFolder, "claim", claim)
        pack(settings())
        before.update(digests(tmp_path / "out"))
        claim(output)

    before: dict[str, str] = {}
    monkeypatch.setattr(pack_module.OutputFolder, "claim", late)
    with pytest.raises(UserError, match="already contains a data set"):
        pack(settings(dtype="float32"))
    assert digests(tmp_path / "out") == before
