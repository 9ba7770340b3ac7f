"""Telemetry of logged steps: its figures are those of independent counts, a slow rank is named, its cost is small."""

import json
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from climax_hpc.cli import run
from climax_hpc.config.training import OptimizerConfig, TrainConfig
from climax_hpc.data.sampler import MicroBatch
from climax_hpc.distributed import process_group
from climax_hpc.kernels.devices import DEVICES, device_named
from climax_hpc.training.deepspeed_engine import build_engine, torch_functions_restored
from climax_hpc.training.progress import TrainingProgress
from climax_hpc.training.step_meter import StepMeter
from climax_hpc.training.telemetry import Lag, StragglerWatch, Telemetry, lag_of

from .conftest import metrics, train_here
from .processes import Ranks, state

ALWAYS = {"data_wait_share", "peak_memory_bytes", "gradient_norm", "model_flop_per_second"}
OF_RANKS = {"slowest_rank", "slowest_rank_lag_seconds", "slowest_rank_lag_share"}


def test_lag_is_measured_against_the_median_of_the_others() -> None:
    assert lag_of([1.0], 1.0) is None
    assert lag_of([1.0, 1.5], 2.0) == Lag(rank=1, seconds=0.5, share=0.5 / 1.5)
    assert lag_of([1.0, 4.0, 2.0, 1.5], 5.0) == Lag(rank=1, seconds=2.5, share=1.0)


def test_a_straggler_is_new_once_after_three_slow_logs_in_a_row() -> None:
    watch = StragglerWatch()

    def of(rank: int, share: float) -> Lag:
        return Lag(rank=rank, seconds=1.0, share=share)

    slow, other, fast = of(1, 0.21), of(2, 0.21), of(1, 0.2)
    logs = [slow, slow, fast, slow, slow, other, slow, slow, slow, slow, fast, None, other, other, other]
    assert [number for number, lag in enumerate(logs) if watch.is_new(lag)] == [8, 14]


@pytest.mark.parametrize(
    ("stage", "precision", "clipping"),
    [(0, "float32", 0.0), (0, "float32", 1e-3), (1, "float32", 1e-3), (1, "bfloat16", 0.0), (2, "float32", 1e-3),
     (3, "float32", 1e-3)],
)  # fmt: skip
def test_gradient_norm_is_that_of_the_mean_before_clipping(stage: int, precision: str, clipping: float) -> None:
    process_group.connect()
    torch.manual_seed(1)
    model, x = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)), torch.randn(2, 4, 3)
    (sum(model(x[number]).square().mean() for number in range(2)) / 2).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()  # type: ignore[union-attr]
    model.zero_grad()
    with torch_functions_restored():
        engine = build_engine(
            model,
            train=TrainConfig(precision=precision, zero_stage=stage),
            optimizer=OptimizerConfig(gradient_clipping=clipping),
            micro_batch_size=4,
            micro_batches_per_rank=2,
        )
        meter = StepMeter(engine, flop=lambda _: 3e12, peak_flop_per_second=1e15, is_logged=lambda step: step == 1)
        dtype = next(engine.module.parameters()).dtype
        for number, _ in enumerate(meter.timed(iter("ab"))):
            meter.begin_pass(0, MicroBatch(source="a", samples=(), key=0))
            loss = engine(x[number].to(dtype)).float().square().mean()
            engine.backward(loss)
            engine.step()
            meter.end_pass()
    meter.end_step()
    telemetry, straggler = meter.read()
    # bfloat16 has 8 bits: weights, activations and gradients are rounded by up to 2⁻⁹ each.
    assert telemetry.gradient_norm == pytest.approx(expected.item(), rel=2e-2 if precision == "bfloat16" else 1e-5)
    assert telemetry.model_flop_utilisation == pytest.approx((telemetry.model_flop_per_second or 0) / 1e15)
    assert not straggler
    engine.destroy()


def test_every_figure_is_logged_everywhere(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spent, walls = [0.0], []
    for method in ("waited", "_reached_others", "_take_norm", "begin_pass", "end_pass", "end_step", "read"):
        monkeypatch.setattr(StepMeter, method, _timed(getattr(StepMeter, method), spent))
    log = TrainingProgress.step

    def note(self: TrainingProgress, step: int, *arguments: Any) -> None:
        log(self, step, *arguments)
        walls.append((time.thread_time(), spent[0]))

    monkeypatch.setattr(TrainingProgress, "step", note)
    train_here(settings | {"train": settings["train"] | {"log_every": 1, "checkpoint_every": 9}}, tmp_path)
    rows = metrics(tmp_path / "run")
    for row in rows:
        assert row.keys() == {"step", "time", "loss", "learning_rate", "samples_per_second"} | ALWAYS
        assert 0 <= row["data_wait_share"] < 1
        assert 1e8 < row["peak_memory_bytes"] < 1e11
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert set(board.Tags()["scalars"]) >= ALWAYS
    norms = [event.value for event in board.Scalars("gradient_norm")]
    assert norms == pytest.approx([row["gradient_norm"] for row in rows])
    assert state(tmp_path / "run")["telemetry"].keys() == ALWAYS
    run(["status", str(tmp_path / "run")])
    shown = capsys.readouterr().out
    assert "of the time waiting for data" in shown
    assert "TFLOP/s of the model\n" in shown
    (first, before), (last, after) = walls[0], walls[-1]
    share = (after - before) / (last - first)
    print(
        f"telemetry takes {share:.2%} of steps of {(last - first) / 5 * 1e3:.1f} ms processor time that are all logged"
    )
    assert share < 0.1  # of the smallest steps there are


def _timed(function: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    @wraps(function)
    def run(*arguments: Any) -> Any:
        begun = time.thread_time()
        try:
            return function(*arguments)
        finally:
            spent[0] += time.thread_time() - begun

    return run


_SLOW_RANK = """
import os, time
import climax_hpc.training.task as task
from climax_hpc.data.prefetch import _Buffer
loss, fill, calls = task.batch_loss, _Buffer.fill, [0]
def slow_loss(*arguments):
    calls[0] += 1
    if os.environ["RANK"] == "1":
        time.sleep(0.2)
    return loss(*arguments)
def slow_fill(*arguments):
    if os.environ["RANK"] == "0" and calls[0] % 12 >= 4:
        time.sleep(1)
    return fill(*arguments)
task.batch_loss, _Buffer.fill = slow_loss, slow_fill
"""


@pytest.mark.faults  # by sleeps, which a busy machine hides
def test_slow_ranks_are_named(settings: dict[str, Any], tmp_path: Path) -> None:
    """Rank 1 computes slowly from the start, rank 0 reads even more slowly later, at ZeRO stages 0 and 2."""
    settings["data"] |= {"read_threads": 1}  # two would finish in pairs, and every other step would wait
    runs = []
    for stage in (0, 2):
        train = settings["train"] | {"steps": 12, "zero_stage": stage, "checkpoint_every": 99}
        runs.append(settings | {"run_folder": str(tmp_path / f"stage{stage}"), "train": train})
    with Ranks(*runs, ranks=2, preamble=_SLOW_RANK) as ranks:
        statuses, output, errors = ranks.wait()
    assert statuses == [0, 0], errors
    for each in runs:
        lines = metrics(Path(each["run_folder"]))
        events = [(line["event"], line["rank"]) for line in lines if "event" in line]
        lags = [(row["slowest_rank"], round(row["slowest_rank_lag_share"], 2)) for row in lines if "loss" in row]
        assert events == [("straggler", 1), ("straggler", 0)], lags
        assert "rank 1 on " in output
        assert " is a straggler: " in output
        rows = [line for line in lines if "loss" in line]
        assert rows[0].keys() >= ALWAYS | OF_RANKS
        assert [row["slowest_rank_lag_seconds"] for row in rows[1:4]] == pytest.approx([0.2] * 3, rel=0.5)
        assert rows[1]["data_wait_share"] < 0.2 < rows[-1]["data_wait_share"]


def test_devices_are_known_by_the_names_that_drivers_give_them() -> None:
    assert device_named("NVIDIA H100 80GB HBM3") is DEVICES["h100"]
    assert device_named("NVIDIA H100 PCIe") is None  # slower
    assert device_named("") is None
    names = [device.driver_name for device in DEVICES.values() if device.is_gpu]
    assert all(names)
    assert len(names) == len(set(names))


def test_text_leaves_out_what_is_not_known() -> None:
    least = Telemetry(data_wait_share=0.125, peak_memory_bytes=3e9)
    assert least.as_text() == ["12.5% of the time waiting for data", "peak memory of a rank 3 GB"]
    known = Telemetry(
        data_wait_share=0.0, peak_memory_bytes=1.0, model_flop_per_second=4e14, model_flop_utilisation=0.4,
        slowest_rank=3, slowest_rank_lag_seconds=0.05, slowest_rank_lag_share=0.25,
    )  # fmt: skip
    assert known.as_text()[0] == "400 TFLOP/s of the model, 40.0% of the devices' peak"
    assert known.as_text()[-1] == "slowest rank 3, 50 ms a step behind the others (25% of a step)"
    assert json.loads(json.dumps(least.to_dict())) == {"data_wait_share": 0.125, "peak_memory_bytes": 3e9}
