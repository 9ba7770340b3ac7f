"""`climax-hpc plan`: sums and parts agree, ZeRO divides memory, bad settings are refused, docs are current."""

import json
import re
import shlex
from pathlib import Path

import pytest

import climax_hpc
from climax_hpc.cli import main
from climax_hpc.config.parser import read_config
from climax_hpc.errors import UserError
from climax_hpc.tools.plan.activations import activation_bytes
from climax_hpc.tools.plan.config import PlanConfig
from climax_hpc.tools.plan.planner import Plan, make_plan
from climax_hpc.training.shape import Shape

CONFIGS = Path(climax_hpc.__file__).parent / "configs"
DOCS = Path(__file__).parents[3] / "docs" / "guides" / "plan.md"


def config(*arguments: str) -> PlanConfig:
    return read_config(PlanConfig, "plan", ("--data.micro_batches_per_step", "64", *arguments))


def planned(*arguments: str) -> Plan:
    return make_plan(read_config(PlanConfig, "plan", arguments))


def big(*arguments: str) -> Plan:
    return planned("--data.micro_batches_per_step", "64", "--data.micro_batch_size", "4", *arguments)


def test_sums_and_shares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plan.json"
    main(["plan", "--config", "demo_pretrain", "--device", "cpu", "--json", str(out)])
    content = json.loads(out.read_text())
    parts = {key: value for key, value in content["memory"].items() if key not in ("total", "moment")}
    assert parts.keys() == {"parameters", "gradients", "optimiser", "activations", "buffers"}
    assert content["memory"]["total"] == sum(parts.values())
    assert content["fits"] is True
    assert content["days"] == pytest.approx(content["steps"] * content["step_seconds"] / 86400)
    assert content["samples_per_second"] == pytest.approx(content["samples_per_step"] / content["step_seconds"])
    assert content["expected_samples_per_second"] < content["samples_per_second"]
    # 15 channels as float16 at two times, and two float32 climatologies.
    bytes_of_sample = 15 * 32 * 64 * (2 * 2 + 2 * 4)
    read = content["expected_samples_per_second"] * bytes_of_sample
    assert content["read_bytes_per_second"] == pytest.approx(read)
    text = capsys.readouterr().out
    assert "1.0 M parameters on 1 × cpu" in text
    assert "largest data.micro_batch_size that fits" in text


def test_communication_by_stage() -> None:
    n = big().parameters
    share = 63 / 64
    job = ("--nodes", "8", "--device", "h100")
    assert big(*job).communication_bytes == {
        "gradients": 2 * 4 * n * share,
        "parameters": 0.0,
        "second_copy": 0.0,
        "attention": 0.0,
        "halo_rows": 0.0,
    }
    low = ("--train.precision", "bfloat16", "--train.zero_stage")
    assert sum(big(*job, *low, "2").communication_bytes.values()) == pytest.approx((2 * 4 + 2) * n * share)
    assert sum(big(*job, *low, "3").communication_bytes.values()) == pytest.approx((4 + 2) * n * share)
    one = big("--devices_per_node", "1")
    assert one.communication_seconds == sum(one.communication_bytes.values()) == 0
    # Eight nodes communicate over the network, one node over its links.
    within = big("--nodes", "1", "--devices_per_node", "8").communication_seconds
    assert big("--nodes", "8", "--devices_per_node", "1").communication_seconds == pytest.approx(within * 450 / 50)
    faster = big("--nodes", "8", "--devices_per_node", "1", "--network_gb_per_s", "100").communication_seconds
    assert faster == pytest.approx(within * 450 / 100)


def test_a_second_copy_of_the_parameters() -> None:
    """Two passes of 64 ranks on eight nodes: one gather over the network, one in the node."""
    job = ("--nodes", "8", "--device", "h100", "--train.precision", "bfloat16", "--train.zero_stage", "3")
    job += ("--data.micro_batches_per_step", "128")
    plain, copied = planned(*job), planned(*job, "--train.zero_hpz", "8")
    n, large = plain.parameters, copied.memory.parameters - plain.memory.parameters
    assert 0.9 * 2 * n / 8 < large < 2 * n / 8  # DeepSpeed keeps small tensors whole
    assert copied.memory.total == pytest.approx(plain.memory.total + large)
    assert plain.communication_bytes["parameters"] == pytest.approx(2 * 2 * n * 63 / 64)
    assert plain.communication_bytes["second_copy"] == 0
    assert copied.communication_bytes["parameters"] == pytest.approx(2 * n * 63 / 64)
    assert copied.communication_bytes["second_copy"] == pytest.approx(2 * n * 7 / 8)
    saved = 2 * n * 63 / 64 / 50e9 - 2 * n * 7 / 8 / 450e9
    assert plain.communication_seconds - copied.communication_seconds == pytest.approx(saved)
    over_nodes = planned(*job, "--train.zero_hpz", "16").communication_seconds
    assert copied.communication_seconds < over_nodes < plain.communication_seconds
    one_node = planned(*job, "--nodes", "1", "--train.zero_hpz", "8")
    assert one_node.communication_bytes["second_copy"] == 0
    assert one_node.memory == planned(*job, "--nodes", "1").memory
    with pytest.raises(UserError, match=r"64 devices cannot form groups of train.zero_hpz = 24: change it, or nodes"):
        planned(*job, "--devices_per_node", "8", "--train.zero_hpz", "24")


def test_ranks_that_share_samples() -> None:
    job = ("--nodes", "8", "--device", "h100")
    alone, shared = big(*job), big(*job, "--train.sequence_parallel", "4")
    assert shared.micro_batches_per_rank == 4 * alone.micro_batches_per_rank
    assert shared.samples_per_step == alone.samples_per_step
    of_blocks = [plan.flop["blocks, attention"] + plan.flop["blocks, linear"] for plan in (alone, shared)]
    assert of_blocks[0] == of_blocks[1]
    assert shared.flop["map rebuild"] == 4 * alone.flop["map rebuild"]
    shapes = [Shape.of(config(*job, "--train.sequence_parallel", ranks), 64) for ranks in ("1", "4")]
    kept = [activation_bytes(shape, 4) for shape in shapes]
    assert kept[1] == pytest.approx(kept[0] / 4, rel=0.1)
    tokens = 4 * 512 // 4  # micro-batch of 4, 512 patches, a quarter of them
    sent = 4 * tokens * 1024 * 4 * 3 / 4  # queries, keys, values, output in float32 to three others
    assert shared.communication_bytes["attention"] == 4 * 8 * 2 * sent  # passes, blocks, forward and backward
    assert shared.communication_bytes["gradients"] == alone.communication_bytes["gradients"]
    with pytest.raises(UserError, match=r"8 devices cannot form groups of train.sequence_parallel = 16"):
        big("--devices_per_node", "8", "--train.sequence_parallel", "16")
    with pytest.raises(UserError, match=r"3 groups of 2 devices cannot share data.micro_batches_per_step = 64"):
        big("--devices_per_node", "6", "--train.sequence_parallel", "2")
    with pytest.raises(UserError, match=r"train.sequence_parallel = 3 does not divide model.heads = 16"):
        big("--train.sequence_parallel", "3")


def test_stages_share_the_states() -> None:
    n = big().parameters
    optimiser = {
        stage: big("--nodes", "8", "--train.zero_stage", str(stage)).memory.optimiser / n for stage in (0, 1, 2, 3)
    }
    assert optimiser[0] == pytest.approx(8, rel=0.6)
    assert all(optimiser[stage] <= 12 / 64 + 4 / 64 for stage in (1, 2, 3))
    assert big("--nodes", "8", "--train.zero_stage", "3").memory.parameters < 0.1 * 4 * n
    checkpointed = big("--model.activation_checkpointing", "true")
    assert checkpointed.memory.activations < 0.4 * big().memory.activations
    assert sum(checkpointed.flop.values()) > 1.25 * sum(big().flop.values())


def test_largest_group_is_the_largest() -> None:
    largest = planned("--data.micro_batches_per_step", "8").largest_micro_batch_size
    assert largest > 0
    for size, fits in ((largest, True), (largest + 1, False)):
        assert planned("--data.micro_batches_per_step", "8", "--data.micro_batch_size", str(size)).fits is fits
    assert planned("--data.micro_batches_per_step", "8", "--memory_gb", "1").largest_micro_batch_size == 0


def test_what_does_not_fit_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    size = [
        "--model.height",
        "720",
        "--model.width",
        "1440",
        "--model.patch",
        "8",
        "--data.micro_batches_per_step",
        "8",
    ]
    main(["plan", *size, "--data.micro_batch_size", "64"])
    assert "DOES NOT FIT" in capsys.readouterr().out
    main(["plan", *size, "--memory_gb", "2"])
    assert "raise train.zero_stage, use model.activation_checkpointing" in capsys.readouterr().out


def test_this_machine_is_measured() -> None:
    plan = planned("--config", "demo_pretrain", "--device", "this")
    assert plan.memory_available > 1e8
    assert 0 < plan.compute_seconds < 60


def test_devices_that_find_no_work_are_left_out_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--config", "climax_8m_5.625deg", "--data.micro_batches_per_step", "4"])
    shown = capsys.readouterr().out
    assert " M parameters on 4 × h100 (1 node)" in shown
    assert "of the 8 devices of a node, 4 are used: data.micro_batches_per_step = 4 cannot be shared evenly" in shown
    main(["plan", "--config", "climax_8m_5.625deg", "--data.micro_batches_per_step", "8"])
    assert "are used" not in capsys.readouterr().out
    assert planned("--nodes", "3", "--data.micro_batches_per_step", "12").devices_per_node == 4
    with pytest.raises(UserError, match="8 devices cannot share"):
        planned("--data.micro_batches_per_step", "4", "--devices_per_node", "8")  # asked for: refused


@pytest.mark.parametrize("recipe", sorted(path.stem for path in CONFIGS.glob("climax_*deg.yaml")))
def test_every_recipe_can_be_planned_as_it_is(recipe: str) -> None:
    assert planned("--config", recipe).devices_per_node >= 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "h10"], "did you mean h100?"),
        (
            ["--nodes", "3"],
            "24 devices cannot share data.micro_batches_per_step = 2 micro-batches evenly: set data.micro_batches",
        ),
        (["--utilisation", "1.5"], "must be in (0, 1]"),
        (["--nodes", "0"], "must be at least 1"),
        (["--memory_gb", "0"], "must be positive"),
        (["--memory_reserve", "1"], "must be in [0, 1)"),
        (["--train.zero", "1"], "did you mean"),
    ],
)
def test_refusals(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["plan", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_outputs_in_the_docs_are_what_the_commands_print(capsys: pytest.CaptureFixture[str]) -> None:
    """A line of the docs that ends in … is the start of a longer one."""
    blocks = re.findall(r"```console\n\$ climax-hpc plan (.*)\n([^`]*)```", DOCS.read_text())
    assert len(blocks) >= 2
    for command, text in blocks:
        main(["plan", *shlex.split(command)])
        printed = capsys.readouterr().out.strip().splitlines()
        shown = text.strip().splitlines()
        assert len(shown) == len(printed)
        for short, line in zip(shown, printed, strict=True):
            assert line.startswith(short.removesuffix("…")) if short.endswith("…") else line.rstrip() == short
