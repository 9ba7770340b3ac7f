"""Repeated `kill -9` at random moments of training: every resumed run gives the losses of an undisturbed run.

Half of the kills hit while a thread writes a checkpoint and training has gone on. Two are in the default suite, twenty
in `make faults`.
"""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from climax_hpc.checkpoint.format import find, verify

from ..training.conftest import losses, train_here
from ..training.conftest import settings as settings  # the fixture
from ..training.processes import Ranks, logged_steps

pytestmark = pytest.mark.slow

# Every file takes longer than a step, as large ones do.
SLOW_DISK = (
    "import random, time, climax_hpc.training.deepspeed_io as io, climax_hpc.training.save as save\n"
    "def slow(write):\n"
    "    def later(*arguments):\n"
    "        time.sleep(random.uniform(0.02, 0.2))\n"
    "        return write(*arguments)\n"
    "    return later\n"
    "io.HashingCheckpointEngine._write = slow(io.HashingCheckpointEngine._write)\n"
    "save.save_file, save.write_json = slow(save.save_file), slow(save.write_json)"
)


@pytest.mark.parametrize(
    ("kills", "ranks", "stage", "precision"),
    [
        pytest.param(2, 1, 1, "bfloat16", id="two"),
        pytest.param(11, 1, 0, "float32", id="eleven", marks=pytest.mark.faults),
        pytest.param(6, 2, 2, "float32", id="six of two ranks", marks=pytest.mark.faults),
        pytest.param(3, 2, 3, "bfloat16", id="three of two ranks", marks=pytest.mark.faults),
    ],
)
def test_kill_9(settings: dict[str, Any], tmp_path: Path, kills: int, ranks: int, stage: int, precision: str) -> None:
    settings["model"]["dropout"] = 0.1
    settings["train"] |= {
        "steps": 12 * kills, "checkpoint_every": 4, "zero_stage": stage, "precision": precision, "ema_decay": 0.9,
    }  # fmt: skip
    whole, run = tmp_path / "whole", tmp_path / "run"
    if ranks == 1:
        train_here(settings | {"run_folder": str(whole)}, tmp_path)  # saves the start of a process
    else:
        with Ranks(settings | {"run_folder": str(whole)}, ranks=ranks) as undisturbed:
            assert undisturbed.wait(timeout=300)[0] == [0] * ranks
    chance = random.Random(kills)
    struck = [strike(settings, run, ranks, chance, while_writing=number % 2 == 1) for number in range(kills)]
    print(f"{kills} kills, step and phase: {struck}")
    assert any("writing a checkpoint" in phase for phase in struck)
    with Ranks(settings, ranks=ranks) as last:
        statuses, _, errors = last.wait(timeout=300)
    assert statuses == [0] * ranks, errors
    assert losses(run) == losses(whole)
    ended, expected = (load_file(find(folder) / "weights.safetensors") for folder in (run, whole))
    assert all(torch.equal(ended[name], expected[name]) for name in expected)


def strike(settings: dict[str, Any], run: Path, ranks: int, chance: random.Random, *, while_writing: bool) -> str:
    """Start or continue the run and kill one rank at a random moment; what it was doing."""
    with Ranks(settings, ranks=ranks, preamble=SLOW_DISK) as started:
        before = logged_steps(run)
        started.wait_until(lambda: logged_steps(run) >= before + chance.randint(1, 4))
        if while_writing:
            started.wait_until(lambda: bool(steps_beside(run)))
        time.sleep(chance.uniform(0, 0.2 if while_writing else 0.02))
        beside = steps_beside(run)
        os.kill(started.processes[chance.randrange(ranks)].pid, signal.SIGKILL)
        for process in started.processes:
            process.wait(timeout=60)
    if (run / "checkpoints" / "latest").exists():
        verify(find(run))
    return f"{logged_steps(run)} {f'writing a checkpoint since {beside} steps' if beside else 'steps'}"


def steps_beside(run: Path) -> int:
    """Steps done since the checkpoint that is being written; 0 if there is none."""
    begun = [int(path.name.split(".")[1].removeprefix("step_")) for path in (run / "checkpoints").glob(".*.partial")]
    return logged_steps(run) - begun[0] if begun else 0
