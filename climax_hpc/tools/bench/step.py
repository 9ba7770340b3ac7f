"""`climax-hpc bench step`: whole training steps: speed, memory, start-up, checkpoints, planner, calls, members.

`train_2ranks` trains climax_8m_5.625deg (ClimaX's variables, grid and patches) on two ranks of one thread each, and the
textbook model under torch DDP with the same AdamW, precision, batch and ranks, in the same two processes with
alternating steps; first their losses must agree. `ranks_1_to_2` compares two ranks with one at the same batch per rank
(weak scaling), `sequence_2ranks` two ranks that share every sample with one rank. Ranks take GPUs where there are any,
one each.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from climax_hpc.config.parser import to_dict
from climax_hpc.config.training import OptimizerConfig, TrainConfig, require
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import lookup
from climax_hpc.kernels.benchmarking import Row, WrongResult
from climax_hpc.model.config import ModelConfig
from climax_hpc.tools.bench.conv_blocks import conv_like
from climax_hpc.tools.bench.conv_blocks import rows as conv_rows
from climax_hpc.tools.bench.members import MEMBERS, pair
from climax_hpc.tools.bench.members import rows as member_rows
from climax_hpc.tools.bench.output import OutputConfig, ResultTable
from climax_hpc.tools.bench.rank_processes import output_of, run_step_ranks
from climax_hpc.tools.bench.sequence import even_heads
from climax_hpc.tools.bench.sequence import rows as sequence_rows
from climax_hpc.tools.plan.memory import plan_memory
from climax_hpc.training.shape import Shape
from climax_hpc.utils.bounds import bounded

CASES = (
    "train_2ranks", "ranks_1_to_2", "sequence_2ranks", "start_up", "checkpoint_stall", "plan_memory", "operator_calls",
    "conv_blocks", "members",
)  # fmt: skip
_TWO_RANKS = ("train_2ranks", "ranks_1_to_2", "sequence_2ranks", "checkpoint_stall")
START_LIMIT, STALL_LIMIT = 20.0, 0.05  # [s] on a CPU; share of training time
# Relative; float32 sums in another order differ by this after a few AdamW steps. One step changes a loss by 3e-4.
LOSS_TOLERANCE = 1e-5
_SCALING_DEPTH = 4  # at most, so that several steps take only some seconds
_PLANNED: dict[str, dict[str, Any]] = {
    "stage 0": {"model": {"embed_dim": 256, "depth": 4}, "train": {}},
    "stage 0, checkpointed": {"model": {"embed_dim": 256, "depth": 4, "activation_checkpointing": True}, "train": {}},
    "stage 2, bfloat16": {
        "model": {"embed_dim": 256, "depth": 4}, "train": {"zero_stage": 2, "precision": "bfloat16"},
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StepConfig(OutputConfig):
    """`climax-hpc bench step`: every row compares ours with a baseline; ratio > 1: ours is better."""

    cases: list[str] | None = None
    """Cases to run; null: all."""
    embed_dim: int = bounded(320, 65_536)
    """Width of the model, 64 per head (climax_8m_5.625deg; climax_27m_5.625deg: 512; ClimaX: 1024)."""
    depth: int = bounded(6, 1000)
    """Number of blocks (climax_8m_5.625deg; climax_27m_5.625deg and ClimaX: 8)."""
    micro_batch_size: int = bounded(4, 65_536)
    """Samples per rank and step."""
    zero_stage: int = 0
    """ZeRO stage of ours in train_2ranks; DDP corresponds to 0."""
    repeats: int = bounded(3, 10_000)
    """Timed steps of each form, after two that create AdamW's moments and measure memory."""
    time_limit: float = 600.0
    """Time after which a case is abandoned [s]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [case for case in self.cases or () if case not in CASES]
        require(not unknown, f"cases: {', '.join(unknown)} unknown; use some of {', '.join(CASES)}")
        require(min(self.repeats, self.micro_batch_size) >= 1, "repeats and micro_batch_size must be at least 1")
        require(self.zero_stage in (0, 1, 2, 3), "zero_stage: use 0, 1, 2 or 3")
        require(self.time_limit > 0, "time_limit must be positive")
        self.model_config  # noqa: B018 - refuses invalid sizes

    @property
    def model(self) -> dict[str, Any]:
        """Size of the model; variables, grid and patches are those of ClimaX."""
        return {"embed_dim": self.embed_dim, "depth": self.depth, "heads": max(1, self.embed_dim // 64)}

    @property
    def model_config(self) -> ModelConfig:
        """Config of the model."""
        return ModelConfig(**self.model)


def bench(config: StepConfig) -> list[dict[str, Any]]:
    """Print the table case by case and write the files.

    Raises:
        UserError: a case fails, takes too long, or its forms disagree; earlier rows are kept.
    """
    cases, table = possible_cases(config.cases), ResultTable(config)
    measures: dict[str, Callable[[StepConfig, dict[str, Any]], list[Row]]] = {
        "train_2ranks": _train_2ranks,
        "ranks_1_to_2": _ranks_1_to_2,
        "sequence_2ranks": _sequence_2ranks,
        "start_up": _start_up,
        "checkpoint_stall": _checkpoint_stall,
        "plan_memory": _plan_memory,
        "operator_calls": _operator_calls,
        "conv_blocks": _conv_blocks,
        "members": _members,
    }
    known: dict[str, Any] = {}  # results of one case that another one uses
    for case in cases:
        try:
            table.add(measures[case](config, known))
        except WrongResult as error:
            raise UserError(f"{case}: {error}") from None
    return table.rows


def possible_cases(wanted: list[str] | None) -> list[str]:
    """The cases to run: those wanted, or all but those that need a second GPU.

    Raises:
        UserError: a case that is wanted needs one.
    """
    lacking = torch.cuda.is_available() and torch.cuda.device_count() < 2
    left_out = [case for case in wanted or CASES if lacking and case in _TWO_RANKS]
    if left_out and wanted:
        raise UserError(
            f"cases: {', '.join(left_out)} need two GPUs, and this machine has one: leave them out, or measure the "
            "processor with CUDA_VISIBLE_DEVICES= in front of the command"
        )
    if left_out:
        print(f"bench step: {', '.join(left_out)} left out: they need two GPUs, and this machine has one", flush=True)
    return [case for case in wanted or CASES if case not in left_out]


def _train_2ranks(config: StepConfig, known: dict[str, Any]) -> list[Row]:
    found = _two_ranks(config, known)
    samples = 2 * config.micro_batch_size

    def rate(form: str) -> float:
        return samples / statistics.median(found["seconds"][form])

    case = "train_2ranks"
    return [
        Row(
            case=case, metric="samples_per_s", against="ddp_textbook", ours=rate("ours"), baseline=rate("ddp_textbook"),
            unit="1/s", more_is_better=True,
        ),
        Row(
            case=case, metric="peak_bytes", against="ddp_textbook", ours=found["peak_bytes"]["ours"],
            baseline=found["peak_bytes"]["ddp_textbook"], unit="B",
        ),
    ]  # fmt: skip


def _checkpoint_stall(config: StepConfig, known: dict[str, Any]) -> list[Row]:
    """Share of training time that stands still for checkpoints at the default interval; with and without a thread."""
    found = _two_ranks(config, known)
    between = TrainConfig().checkpoint_every * statistics.median(found["seconds"]["ours"])
    (stall, beside), (waited, after) = (found["checkpoint_seconds"][form] for form in ("background", "synchronous"))
    share = stall / (between + stall)
    return [
        Row(
            case="checkpoint_stall", metric="share_of_time", against="limit", ours=share, baseline=STALL_LIMIT,
            unit="of the time",
        ),
        Row(
            case="checkpoint_stall", metric="time", against="1000_steps", ours=stall, baseline=between, unit="s",
        ),
        Row(case="checkpoint_stall", metric="time", against="synchronous", ours=stall, baseline=waited, unit="s"),
        Row(
            case="checkpoint_stall", metric="time_with_steps", against="synchronous", ours=beside, baseline=after,
            unit="s",
        ),
    ]  # fmt: skip


def _two_ranks(config: StepConfig, known: dict[str, Any]) -> dict[str, Any]:
    if "two ranks" not in known:
        request = {
            "model": config.model, "train": {"zero_stage": config.zero_stage}, "repeats": config.repeats,
            "micro_batch_size": config.micro_batch_size, "textbook": True, "checkpoint": True,
        }  # fmt: skip
        known["two ranks"] = run_step_ranks(2, request, config.time_limit)
        require_equal(known["two ranks"]["losses"])
    return dict(known["two ranks"])


def require_equal(losses: dict[str, list[float]]) -> None:
    """Check that the compared forms train alike.

    Args:
        losses: form -> losses by step; includes `ours`.

    Raises:
        WrongResult: losses differ; names the step and both values.
    """
    for name, theirs in losses.items():
        for step, (loss, other) in enumerate(zip(losses["ours"], theirs, strict=True), start=1):
            if not abs(loss - other) <= LOSS_TOLERANCE * abs(other):
                raise WrongResult(f"loss of step {step} is {loss:.6g}, of {name} {other:.6g}; no times are shown")


def _ranks_1_to_2(config: StepConfig, known: dict[str, Any]) -> list[Row]:
    """Same batch per rank: two ranks train twice the samples, ideally in the same time."""
    rates = {}
    for ranks in (1, 2):
        request = {
            "model": config.model | {"depth": min(config.depth, _SCALING_DEPTH)}, "train": {"zero_stage": 0},
            "micro_batch_size": config.micro_batch_size, "repeats": config.repeats + 2,
        }  # fmt: skip
        seconds = run_step_ranks(ranks, request, config.time_limit)["seconds"]["ours"]
        rates[ranks] = ranks * config.micro_batch_size / statistics.median(seconds)
    return [
        Row(
            case="ranks_1_to_2", metric="samples_per_s", against="one_rank", ours=rates[2], baseline=rates[1],
            unit="1/s", more_is_better=True,
        )
    ]  # fmt: skip


def _sequence_2ranks(config: StepConfig, known: dict[str, Any]) -> list[Row]:
    """The samples of two ranks, on two ranks that share each of them, and on one rank."""
    samples = 2 * config.micro_batch_size
    request = {"model": even_heads(config.model), "micro_batch_size": samples}
    found = {
        ranks: run_step_ranks(
            ranks,
            request | {"train": {"sequence_parallel": ranks}, "repeats": config.repeats + 2},
            config.time_limit,
        )
        for ranks in (1, 2)
    }
    require_equal({"ours": found[2]["losses"]["ours"], "one_rank": found[1]["losses"]["ours"]})
    return sequence_rows(samples, found[1], found[2])


def _plan_memory(config: StepConfig, known: dict[str, Any]) -> list[Row]:
    """Planned against measured peak bytes; ideal ratio: 1."""
    requests = [request | {"micro_batch_size": 2, "micro_batches_per_rank": 1} for request in _PLANNED.values()]
    command = [sys.executable, "-m", "climax_hpc.tools.plan.measure", json.dumps(requests)]
    measured = json.loads(output_of(command, os.environ | {"OMP_NUM_THREADS": "1"}, config.time_limit))["peak_bytes"]
    rows = [
        Row(
            case="plan_memory", metric="peak_bytes", against=f"measured, {name}", unit="B",
            ours=_planned(request["model"], request["train"], 2, ranks=1), baseline=peak,
        )
        for (name, request), peak in zip(_PLANNED.items(), measured, strict=True)
    ]  # fmt: skip
    if "two ranks" in known:
        planned = _planned(config.model, {"zero_stage": config.zero_stage}, config.micro_batch_size, ranks=2)
        peak = known["two ranks"]["peak_bytes"]["ours"]
        name = "measured, train_2ranks"
        rows.append(Row(case="plan_memory", metric="peak_bytes", against=name, unit="B", ours=planned, baseline=peak))
    return rows


def _operator_calls(config: StepConfig, known: dict[str, Any]) -> list[Row]:
    """Kernels that the host starts in one step of the 108 M model, with compiled blocks and without; host waits."""
    command = [sys.executable, "-m", "climax_hpc.tools.bench.operator_calls", "--depth", str(config.depth)]
    found = json.loads(output_of(command, os.environ | {"OMP_NUM_THREADS": "1"}, config.time_limit).splitlines()[-1])
    return [
        Row(
            case="operator_calls", metric="kernels", against="eager", ours=found["compiled"]["kernels"],
            baseline=found["eager"]["kernels"], unit="calls",
        ),
        Row(
            case="operator_calls", metric="host_waits", against="limit", ours=found["eager"]["waits"], baseline=1,
            unit="waits",
        ),
    ]  # fmt: skip


def _conv_blocks(config: StepConfig, known: dict[str, Any]) -> list[Row]:
    """`conv` blocks against `vit` blocks of as many parameters, on one rank."""
    conv, vit = conv_like(config.model_config), config.model_config
    B = config.micro_batch_size
    request = {"model": to_dict(conv), "vit": to_dict(vit), "train": {}, "micro_batch_size": B}
    found = run_step_ranks(1, request | {"repeats": config.repeats}, config.time_limit)
    return conv_rows(conv, vit, B, found)


def _members(config: StepConfig, known: dict[str, Any]) -> list[Row]:
    """A step with members of a network of `conv` blocks against as many steps of the same one without noise."""
    conv, B = conv_like(config.model_config), config.micro_batch_size
    noisy, plain = (to_dict(each) for each in pair(conv))
    request = {"model": noisy, "plain": plain, "train": {"members": MEMBERS}, "micro_batch_size": B}
    return member_rows(conv, B, run_step_ranks(1, request | {"repeats": config.repeats}, config.time_limit))


def _planned(model: dict[str, Any], train: dict[str, Any], B: int, *, ranks: int) -> float:
    config = ModelConfig(**model)
    outputs = sum(lookup(v).can_be_forecast for v in config.variables)
    shape = Shape(model=config, B=B, V=len(config.variables), O=outputs, micro_batches_per_rank=1, ranks=ranks)
    cuda = torch.cuda.is_available()
    return plan_memory(shape, TrainConfig(**train), OptimizerConfig(), anomaly=False, cuda=cuda).total


def _start_up(config: StepConfig, known: dict[str, Any]) -> list[Row]:
    """Time from the launch of `climax-hpc pretrain` to the first step in its metrics, on one source of the sample."""
    with tempfile.TemporaryDirectory(prefix="climax-hpc-bench-") as folder:
        dataset, run = Path(folder) / "data", Path(folder) / "run"
        packing = {"input": "@sample", "output": str(dataset), "sources": ["JCM-A_*"], "train_period": ["2001", "2003"]}
        _write(Path(folder) / "pack.yaml", packing)
        program = [sys.executable, "-m", "climax_hpc"]
        output_of([*program, "pack", "--config", f"{folder}/pack.yaml"], os.environ, config.time_limit)
        settings = {
            "data": {"dataset": str(dataset)},
            "train": {"steps": 1, "log_every": 1, "threads": 1},
            "model": {"output_mode": "anomaly", "patch": 4, "embed_dim": 128, "depth": 4, "heads": 4},
        }
        _write(Path(folder) / "pretrain.yaml", settings)
        seconds = []
        for turn in range(2):  # the first run loads Python's files into the page cache
            start = time.perf_counter()
            command = [*program, "pretrain", "--config", f"{folder}/pretrain.yaml", "--run_folder", f"{run}{turn}"]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            seconds.append(_until_first_line(process, Path(f"{run}{turn}") / "metrics.jsonl", start, config.time_limit))
    row = Row(case="start_up", metric="time", against="limit", ours=seconds[-1], baseline=START_LIMIT, unit="s")
    return [row]


def _write(path: Path, settings: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")


def _until_first_line(process: "subprocess.Popen[str]", metrics: Path, start: float, limit: float) -> float:
    """Time from `start` to the first complete line in the file [s]; waits for the process to end."""
    seconds = None
    while process.poll() is None and seconds is None:
        if metrics.is_file() and metrics.read_text().endswith("\n"):
            seconds = time.perf_counter() - start
        elif time.perf_counter() - start > limit:
            break
        time.sleep(0.02)
    if seconds is None:
        process.kill()
    _, text = process.communicate()
    if seconds is None or process.returncode:
        raise UserError(f"start_up: pretrain failed or made no step in {limit:.0f} s: {text.strip()[-300:]}")
    return seconds
