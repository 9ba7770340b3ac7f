"""`climax-hpc bench step` on a tiny model: real ranks, format of the rows, a time limit."""

import json
from pathlib import Path

import pytest
import torch

from climax_hpc.cli import main
from climax_hpc.errors import UserError
from climax_hpc.kernels.benchmarking import WrongResult
from climax_hpc.model import ModelConfig
from climax_hpc.tools.bench import rank_processes
from climax_hpc.tools.bench.conv_blocks import conv_like, parameters
from climax_hpc.tools.bench.members import rows as member_rows
from climax_hpc.tools.bench.sequence import even_heads
from climax_hpc.tools.bench.step import CASES, possible_cases, require_equal

from .forked import run_ranks
from .refusals import refusal

TINY = ["--embed_dim", "32", "--depth", "1", "--micro_batch_size", "1", "--repeats", "1"]


@pytest.mark.slow
def test_two_ranks_against_ddp(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_processes, "run_ranks", run_ranks)
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


@pytest.mark.exhaustive
def test_two_ranks_that_share_samples_against_one(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    main(["bench", "step", *TINY, "--cases", "[sequence_2ranks]", "--json", str(out)])
    rows = json.loads(out.read_text())
    assert {(row["case"], row["against"]) for row in rows} == {("sequence_2ranks", "one_rank")}
    assert [row["metric"] for row in rows] == ["samples_per_s", "processor_time", "peak_bytes"]
    speed, processor, memory = rows
    assert speed["ratio"] == speed["ours"] / speed["baseline"]
    assert processor["ours"] > processor["baseline"] > 0  # of a tiny model, most work is done on both ranks
    assert 0.4 < memory["ours"] / memory["baseline"] < 1


@pytest.mark.parametrize(("heads", "wanted"), [(5, (6, 384)), (8, (8, 512))])
def test_models_that_two_ranks_share_have_an_even_number_of_heads(heads: int, wanted: tuple[int, int]) -> None:
    model = even_heads({"heads": heads, "embed_dim": 64 * heads, "depth": 2})
    assert (model["heads"], model["embed_dim"]) == wanted
    assert model["depth"] == 2


@pytest.mark.exhaustive
def test_conv_blocks_against_vit(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    main(["bench", "step", *TINY, "--cases", "[conv_blocks]", "--json", str(out)])
    rows = {(row["case"], row["metric"], row["against"]): row for row in json.loads(out.read_text())}
    assert list(rows) == [
        ("conv_blocks", "parameters", "vit"),
        ("conv_blocks", "flop_per_sample", "vit"),
        ("conv_blocks", "samples_per_s", "vit"),
        ("conv_blocks", "peak_bytes", "vit"),
        ("conv_blocks", "time", "roofline"),
        ("vit_blocks", "time", "roofline"),
    ]
    speed = rows["conv_blocks", "samples_per_s", "vit"]
    assert rows["conv_blocks", "time", "roofline"]["ours"] == pytest.approx(1 / speed["ours"])
    assert rows["vit_blocks", "time", "roofline"]["ours"] == pytest.approx(1 / speed["baseline"])
    for case in ("conv_blocks", "vit_blocks"):
        assert 0 < rows[case, "time", "roofline"]["matrix_share"] < 1


@pytest.mark.parametrize("vit", [ModelConfig(embed_dim=320, depth=6, heads=5), ModelConfig()], ids=["8m", "108m"])
def test_convolutions_of_as_many_parameters(vit: ModelConfig) -> None:
    conv = conv_like(vit)
    assert (conv.blocks, conv.patches, conv.variables) == ("conv", vit.patches, vit.variables)
    assert parameters(conv) == pytest.approx(parameters(vit), rel=0.03)


@pytest.mark.parametrize("embed_dim", [320, 1024])
def test_members_cost_what_the_trunk_costs(embed_dim: int) -> None:
    """Of `conv` and `vit`: at most 2 % above as many deterministic trunks, and below as many whole steps."""
    vit = ModelConfig(embed_dim=embed_dim, depth=6, heads=embed_dim // 64)
    found = {"seconds": {"ours": [7.0], "plain": [2.0]}, "peak_bytes": {"ours": 30, "plain": 10}}
    for config in (vit, conv_like(vit)):
        rows = {row.metric: row for row in member_rows(config, 4, found)}
        trunk, whole = rows["flop_of_trunk"], rows["flop"]
        assert trunk.baseline < trunk.ours < 1.02 * trunk.baseline
        assert whole.ours < whole.baseline
        assert (rows["time"].ours, rows["time"].baseline) == (7.0, 8.0)
        assert (rows["peak_bytes"].ours, rows["peak_bytes"].baseline) == (30, 40)


@pytest.mark.slow
def test_members_against_steps_without_noise(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    main(["bench", "step", *TINY, "--cases", "[members]", "--json", str(out)])
    rows = {row["metric"]: row for row in json.loads(out.read_text())}
    assert list(rows) == ["flop_of_trunk", "flop", "time", "peak_bytes"]
    assert all(row["against"] == "4 without noise" for row in rows.values())
    assert rows["peak_bytes"]["ours"] < rows["peak_bytes"]["baseline"], "weights and optimiser are there once"


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
        (1, None, ["start_up", "plan_memory", "operator_calls", "conv_blocks", "members"]),
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
