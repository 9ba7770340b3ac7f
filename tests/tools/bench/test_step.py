"""`climax-hpc bench step` on a tiny model: real ranks, format of the rows, a time limit."""

import json
from pathlib import Path

import pytest
import torch

from climax_hpc.cli import main
from climax_hpc.errors import UserError
from climax_hpc.kernels.benchmarking import WrongResult
from climax_hpc.tools.bench.step import CASES, possible_cases, require_equal

from .refusals import refusal

TINY = ["--embed_dim", "32", "--depth", "1", "--micro_batch_size", "1", "--repeats", "1"]


@pytest.mark.slow
def test_two_ranks_against_ddp(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.json"
    main(["bench", "step", *TINY, "--cases", "[train_2ranks, checkpoint_stall]", "--json", str(out)])
    rows = {(row["case"], row["metric"], row["against"]): row for row in json.loads(out.read_text())}
    assert list(rows) == [
        ("train_2ranks", "samples_per_s", "ddp_textbook"),
        ("train_2ranks", "peak_bytes", "ddp_textbook"),
        ("checkpoint_stall", "share_of_time", "limit"),
        ("checkpoint_stall", "time", "1000_steps"),
        ("checkpoint_stall", "time", "synchronous"),
        ("checkpoint_stall", "time_with_steps", "synchronous"),
    ]
    speed = rows["train_2ranks", "samples_per_s", "ddp_textbook"]
    assert speed["ratio"] == speed["ours"] / speed["baseline"]
    memory = rows["train_2ranks", "peak_bytes", "ddp_textbook"]
    assert memory["ratio"] == memory["baseline"] / memory["ours"] > 1  # no token tensor, whatever the size
    assert rows["checkpoint_stall", "share_of_time", "limit"]["baseline"] == 0.05
    assert "| train_2ranks | samples_per_s | ddp_textbook |" in capsys.readouterr().out


def test_case_that_takes_too_long_is_given_up(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "step", *TINY, "--cases", "[ranks_1_to_2]", "--time_limit", "0.5")
    assert "took longer than 0 s; raise --time_limit" in said


@pytest.mark.parametrize("other", [1.00002, float("nan")])
def test_no_speed_of_forms_that_train_differently(other: float) -> None:
    require_equal({"ours": [2.0, 1.0], "ddp_textbook": [2.0, 1.000001]})
    with pytest.raises(WrongResult, match=r"loss of step 2 is 1, of ddp_textbook (1.00002|nan); no times are shown"):
        require_equal({"ours": [2.0, 1.0], "ddp_textbook": [2.0, other]})


@pytest.mark.parametrize(
    ("devices", "wanted", "expected"),
    [
        (0, None, list(CASES)),
        (1, None, ["start_up", "plan_memory", "operator_calls"]),
        (2, None, list(CASES)),
        (1, ["plan_memory"], ["plan_memory"]),
    ],
)
def test_ranks_take_one_gpu_each(
    devices: int, wanted: list[str] | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    assert possible_cases(wanted) == expected
    if devices == 1:
        with pytest.raises(UserError, match=r"cases: ranks_1_to_2 need two GPUs.*CUDA_VISIBLE_DEVICES="):
            possible_cases(["ranks_1_to_2", "start_up"])
