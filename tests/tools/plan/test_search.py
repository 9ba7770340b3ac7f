"""`climax-hpc plan --search`: layouts of one global batch, sorted; their memory is that of real steps of two ranks."""

import json
from pathlib import Path

import pytest

from climax_hpc.cli import main
from climax_hpc.config.parser import read_config
from climax_hpc.fields.variables import CLIMAX_48
from climax_hpc.tools.plan.config import PlanConfig
from climax_hpc.tools.plan.estimate import sample_bytes
from climax_hpc.tools.plan.planner import make_plan
from climax_hpc.tools.plan.search import Layout, as_text, grouped, search

from .two_ranks import measured_peaks

SMALL = (
    "--model.variables", json.dumps([v.name for v in CLIMAX_48[:12]]), "--model.height", "16", "--model.width", "32",
    "--model.embed_dim", "128", "--model.depth", "3", "--model.heads", "4", "--data.micro_batches_per_step", "2",
    "--device", "cpu", "--nodes", "2",
)  # fmt: skip
# ZeRO stage, ranks that share a second copy of the parameters, ranks that share a sample, activation checkpointing,
# samples of a micro-batch; 8 samples per step.
MEASURED = [
    (0, 1, 2, True, 8), (3, 1, 1, False, 4), (1, 1, 1, True, 2), (2, 1, 1, False, 2), (0, 1, 1, False, 1),
    (1, 1, 2, False, 4), (2, 1, 2, True, 8), (3, 1, 2, False, 8),
]  # fmt: skip
TOLERANCE = 0.1  # issue 16, point 6


def config(*arguments: str) -> PlanConfig:
    return read_config(PlanConfig, "plan", arguments)


def key(layout: Layout) -> tuple[int, int, int, bool, int]:
    return (*layout.kind, layout.micro_batch_size)


def test_every_layout_has_the_global_batch_and_the_estimate_of_the_plan() -> None:
    settings = ("--config", "climax_108m_5.625deg", "--device", "a100-80", "--nodes", "2")
    found = search(config(*settings))
    assert found.samples_per_step == 512
    assert all(one.micro_batch_size * one.micro_batches_per_step == 512 for one in found.layouts)
    assert {key(one) for one in found.layouts if one.sequence_parallel == 8} >= {
        (3, 1, 8, True, 512),
        (1, 1, 8, False, 1),
        (3, 4, 8, False, 1),
    }
    assert {one.zero_hpz for one in found.layouts if one.zero_stage == 3} == {1, 4}
    assert {one.zero_hpz for one in found.layouts if one.zero_stage < 3} == {1}
    times = [one.expected_step_seconds for one in found.layouts]
    assert times == pytest.approx(sorted(times), rel=1e-5)
    assert len({key(one) for one in found.layouts}) == len(found.layouts)
    copied = [one for one in found.layouts if one.zero_hpz == 4]
    for one in (found.layouts[len(found.layouts) // 2], copied[0], copied[-1]):
        flags = {
            "train.zero_stage": one.zero_stage, "train.zero_hpz": one.zero_hpz,
            "train.sequence_parallel": one.sequence_parallel,
            "model.activation_checkpointing": str(one.activation_checkpointing).lower(),
            "data.micro_batch_size": one.micro_batch_size, "data.micro_batches_per_step": one.micro_batches_per_step,
        }  # fmt: skip
        words = (word for name, value in flags.items() for word in (f"--{name}", str(value)))
        plan = make_plan(config(*settings, *words))
        assert plan.memory == one.memory
        assert plan.expected_step_seconds == one.expected_step_seconds
        assert plan.expected_days == one.expected_days
        assert sum(plan.communication_bytes.values()) == one.communication_bytes
        assert plan.fits


def test_what_is_left_out_is_counted_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--config", "climax_1b_0.25deg", "--device", "mi250x-gcd", "--nodes", "4"]
    main(["plan", "--search", "true", *settings, "--json", str(tmp_path / "search.json")])
    shown, content = capsys.readouterr().out, json.loads((tmp_path / "search.json").read_text())
    assert f"{len(content['layouts'])} layouts fit" in shown
    assert all(row["memory"]["total"] <= content["memory_available"] for row in content["layouts"])
    refused = content["refused"]
    tried = len(content["layouts"]) + sum(refused.values())
    forms = 5  # stages 0 to 3, and 3 with a second copy of the parameters
    assert refused["train.precision bfloat16 needs train.zero_stage 1 or more"] == tried / forms
    large = next(count for reason, count in refused.items() if reason.startswith("more than the memory, the least of"))
    assert large > 0
    assert any(reason.startswith("train.sequence_parallel = 8 does not divide the 45 patch rows") for reason in refused)
    for count, reason in grouped(refused):
        assert f"{count}  {reason}\n" in shown + "\n"
    smaller = search(config(*settings, "--memory_gb", "40"))
    assert {key(one) for one in smaller.layouts} < {
        (r["zero_stage"], r["zero_hpz"], r["sequence_parallel"], r["activation_checkpointing"], r["micro_batch_size"])
        for r in content["layouts"]
    }


def test_reasons_that_differ_in_numbers_alone_are_one_line() -> None:
    """8000 ranks have 28 divisors; JSON keeps every reason, the text one of each kind with the sum."""
    found = search(config("--config", "climax_108m_5.625deg", "--device", "h100", "--nodes", "1000"))
    shown = as_text(found).partition("left out\n")[2].splitlines()
    heads = {reason: count for reason, count in found.refused.items() if "does not divide model.heads" in reason}
    assert len(heads) > 10
    (line,) = [line for line in shown if "does not divide model.heads" in line]
    first = next(iter(heads))
    assert line.strip() == f"{sum(heads.values())}  {first} (and {len(heads) - 1} more like it)"
    assert len(shown) < 8
    assert sum(int(line.split()[0]) for line in shown) == sum(found.refused.values())
    assert grouped({"a = 1": 2, "b": 3, "a = 20": 2}) == [(4, "a = 1 (and 1 more like it)"), (3, "b")]


def test_devices_that_cannot_share_the_batch_are_a_reason() -> None:
    found = search(config("--data.micro_batches_per_step", "2", "--device", "h100", "--nodes", "3"))  # 8 samples
    assert {one.sequence_parallel for one in found.layouts} == set()
    assert "24 devices cannot share data.micro_batches_per_step = 8 micro-batches evenly" in found.refused


@pytest.mark.slow
@pytest.mark.parametrize(
    "layouts", [MEASURED[:2], pytest.param(MEASURED, marks=pytest.mark.exhaustive)], ids=["sample", "all"]
)
def test_memory_of_layouts(layouts: list[tuple[int, int, int, bool, int]], tmp_path: Path) -> None:
    settings = config(*SMALL)
    planned = {key(one): one for one in search(settings).layouts}
    model = {"variables": settings.model.variables, "height": 16, "width": 32, "embed_dim": 128, "depth": 3, "heads": 4}
    requests = [
        {
            "model": model | {"activation_checkpointing": checkpointing},
            "train": {"zero_stage": stage, "sequence_parallel": sequence},
            "micro_batch_size": B,
            "micro_batches_per_rank": 8 // B // (2 // sequence),
        }
        for stage, _, sequence, checkpointing, B in layouts
    ]
    peaks = measured_peaks(requests, tmp_path)
    ratios = {}
    for layout, peak in zip(layouts, peaks, strict=True):
        ahead = (settings.data.prefetch_micro_batches + 1) * layout[4] * sample_bytes(settings)  # not measured
        ratios[layout] = (planned[layout].memory.total - ahead) / peak
    print(ratios)
    assert list(ratios.values()) == pytest.approx([1.0] * len(layouts), abs=TOLERANCE), ratios
