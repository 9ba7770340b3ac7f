"""One training per run folder: a second one ends in one line; clean-up removes only its own files."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.checkpoint.format import find, load_checkpoint
from climax_hpc.errors import UserError
from climax_hpc.utils.folder_lock import LOCK

from .conftest import losses, train_here
from .processes import Ranks, logged_steps

pytestmark = pytest.mark.slow

WAITS = """
import time
from pathlib import Path
import climax_hpc.training.train as t
rate = t.learning_rate
def waits(step, *arguments):
    while step == 2 and not Path({go!r}).exists():
        time.sleep(0.05)
    return rate(step, *arguments)
t.learning_rate = waits
"""


def test_a_second_training_ends_in_one_line(settings: dict[str, Any], tmp_path: Path) -> None:
    run, go = Path(settings["run_folder"]), tmp_path / "go"
    with Ranks(settings, preamble=WAITS.format(go=str(go))) as first:
        first.wait_until(lambda: logged_steps(run) == 2)
        holder = f"run_folder: {run} is in use by process {first.processes[0].pid} on "
        with pytest.raises(UserError, match=holder):
            train_here(settings, tmp_path)
        with Ranks(settings, ranks=2) as second:
            statuses, _, errors = second.wait()
        assert statuses == [2, 2]
        assert errors.count("\n") == 1
        assert holder in errors
        go.touch()
        assert first.wait()[0] == [0]
    assert len(losses(run)) == 6
    assert not (run / LOCK).exists()


@pytest.mark.faults
def test_a_killed_training_does_not_block_the_next(settings: dict[str, Any], tmp_path: Path) -> None:
    run = Path(settings["run_folder"])
    with Ranks(settings, preamble=WAITS.format(go=str(tmp_path / "never"))) as first:
        first.wait_until(lambda: logged_steps(run) == 2)
        os.kill(first.processes[0].pid, signal.SIGKILL)
        assert first.wait()[0] == [-9]
    assert (run / LOCK).exists()
    assert len(train_here(settings, tmp_path)) == 6


def test_files_of_others_beside_and_in_checkpoints_stay(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["train"] |= {"checkpoint_every": 1, "keep_checkpoints": 3}
    train_here(settings, tmp_path)
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.rmtree(checkpoints / "step_00000006")
    (checkpoints / "latest").write_text("step_00000005\n")
    (checkpoints / ".step_00000006.partial").mkdir()
    mine = [checkpoints / name for name in (".step_notes/a", "step_best/a", "step_00000004/a")]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    settings["train"]["keep_checkpoints"] = 1
    train_here(settings, tmp_path)
    found = sorted(path.name for path in checkpoints.iterdir())
    assert found == [".step_notes", "latest", "step_00000004", "step_00000006", "step_best"]
    assert all([p.name for p in path.parent.iterdir()] == ["a"] for path in mine)


def test_a_removed_checkpoint_is_not_called_damaged(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["train"] |= {"checkpoint_every": 2, "keep_checkpoints": 2}
    train_here(settings, tmp_path)
    checkpoints = tmp_path / "run" / "checkpoints"
    there = r"step_00000002 does not exist: .*keep_checkpoints\); there are now: step_00000004, step_00000006"
    with pytest.raises(UserError, match=there):
        load_checkpoint(checkpoints / "step_00000002")
    (checkpoints / "latest").write_text("step_00000002\n")
    with pytest.raises(UserError, match=there):
        load_checkpoint(find(tmp_path / "run"))
