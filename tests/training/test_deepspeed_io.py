"""Files of DeepSpeed are read without running code, by resuming and by converting to another number of ranks."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from climax_hpc.checkpoint.format import ENGINE, SUMS, find
from climax_hpc.errors import UserError
from climax_hpc.training.deepspeed_io import loading_no_code
from climax_hpc.training.resume import _convert
from climax_hpc.utils.files import read_json, sha256, write_json

from .conftest import train_here


class Evil:
    """Unpickled it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._mark),)


def poison(checkpoint: Path, name: str, mark: Path) -> None:
    """Add an object that runs code to a file of the engine, and correct its sum."""
    path = checkpoint / ENGINE / name
    with loading_no_code():
        content = torch.load(path)
    torch.save(content | {"module": {}, "evil": Evil(mark)}, path)
    sums = read_json(checkpoint / SUMS, "sums")
    write_json(checkpoint / SUMS, sums | {f"{ENGINE}/{name}": sha256(path)})


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        (1, "mp_rank_00_model_states.pt"),
        (1, "zero_pp_rank_0_mp_rank_00_optim_states.pt"),
        (3, "zero_pp_rank_0_mp_rank_00_model_states.pt"),
    ],
)
def test_no_code_of_a_checkpoint_runs(settings: dict[str, Any], tmp_path: Path, stage: int, name: str) -> None:
    settings["train"] |= {"steps": 2, "checkpoint_every": 1, "zero_stage": stage}
    train_here(settings, tmp_path)
    checkpoint = find(tmp_path / "run").with_name("step_00000001")
    poison(checkpoint, name, tmp_path / "ran")
    with pytest.raises(UserError, match=r"could run code: nothing of it is loaded"):
        train_here(settings, tmp_path, "--resume_from", checkpoint.name)
    with pytest.raises(UserError, match=r"could run code: nothing of it is loaded"):
        _convert(checkpoint / ENGINE, tmp_path / "universal" / ENGINE)
    assert not (tmp_path / "ran").exists()
    torch.load(checkpoint / ENGINE / name, weights_only=False)  # the object is real
    assert (tmp_path / "ran").exists()


def test_the_environment_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    before = dict(os.environ)
    with loading_no_code():
        pass
    assert dict(os.environ) == before
