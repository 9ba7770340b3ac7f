"""Goodput by time between checkpoints, as text and as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

from climax_hpc.tools.plan.config import PlanConfig
from climax_hpc.tools.plan.goodput import FailureModel, Simulated, simulate
from climax_hpc.tools.plan.recovery import Recovery
from climax_hpc.utils.files import write_json

_HOUR = 3600.0
_WIDTH = 96
_INTERVALS = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0)  # [s] rows beside the best one
_SLOWER = 10.0  # a real machine has more nodes, larger checkpoints and a queue


@dataclass(frozen=True, kw_only=True)
class GoodputRow:
    """Goodput at one time between checkpoints."""

    interval: float
    """Work between checkpoints [s]."""
    formula: float
    simulated: Simulated


@dataclass(frozen=True, kw_only=True)
class Goodput:
    """Goodput by time between checkpoints."""

    model: FailureModel
    source: str
    """Where the durations were measured."""
    restart_parts: dict[str, float]
    """Part of a start inside the job -> seconds; empty if unknown."""
    best: GoodputRow
    rows: list[GoodputRow]
    """By interval, the best one among them."""
    slower_interval: float
    slower: float
    """Best interval and its goodput, by the formula, with durations ten times as long."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self) | {"young_interval": self.model.young}


def print_goodput(config: PlanConfig) -> Goodput:
    """Print goodput by time between checkpoints, and write it as JSON if requested.

    Raises:
        UserError: the file of measured durations cannot be read.
    """
    made = make_goodput(config)
    print(as_text(made))
    if config.json:
        write_json(Path(config.json), made.to_dict())
    return made


def make_goodput(config: PlanConfig) -> Goodput:
    """Goodput of a config's failures, by formula and simulation."""
    failures, recovery = config.failures, config.failures.recovery()
    model = failure_model(config, recovery)

    def row(interval: float) -> GoodputRow:
        found = simulate(model, interval, days=failures.simulated_days, seed=failures.seed)
        return GoodputRow(interval=interval, formula=model.goodput(interval), simulated=found)

    best = row(model.best_interval())
    others = [row(interval) for interval in _INTERVALS if interval >= model.write]
    slower = failure_model(config, recovery.times(_SLOWER))
    return Goodput(
        model=model, source=recovery.source, restart_parts=recovery.restart_parts, best=best,
        rows=sorted([best, *others], key=lambda row: row.interval),
        slower_interval=slower.best_interval(), slower=slower.goodput(slower.best_interval()),
    )  # fmt: skip


def failure_model(config: PlanConfig, recovery: Recovery) -> FailureModel:
    """The failures of a config, with these durations."""
    failures = config.failures
    hours = failures.node_hours_between / config.nodes if failures.node_hours_between else failures.hours_between
    return FailureModel.of(
        recovery, nodes=config.nodes, mean_between=hours * _HOUR, requeue_share=failures.requeue_share,
        hang_share=failures.hang_share, hang_timeout=config.train.hang_timeout,
    )  # fmt: skip


def as_text(goodput: Goodput) -> str:
    """Tables for a terminal."""
    model, best = goodput.model, goodput.best
    where = best.simulated
    costs = [("steps after the last checkpoint, done again", where.redone), ("stalls of checkpoints", where.stalls)]
    costs += [(f"recovery from {kind}", share) for kind, share in where.recovery.items()]
    kinds = [
        f"  {share:>4.0%} {name}: {_time(seconds)} to the next step" for name, (share, seconds) in model.kinds.items()
    ]
    rows = [
        f"  {_time(row.interval):>10}{row.formula:>11.2%}{row.simulated.goodput:>11.2%}"
        f"{row.simulated.redone:>11.2%}{row.simulated.stalls:>9.2%}{sum(row.simulated.recovery.values()):>10.2%}"
        f"{'   best' if row is best else ''}"
        for row in goodput.rows
    ]
    return "\n".join([
        f"{model.nodes} nodes, a failure of the job every {model.mean_between / _HOUR:.3g} h on average",
        *kinds,
        f"  a checkpoint stalls training for {_time(model.stall)} and is complete after {_time(model.write)}",
        *wrap(f"durations: {goodput.source}", width=_WIDTH, break_long_words=False),
        *_start(goodput.restart_parts),
        "",
        f"{'':>3}checkpoint    formula  simulated  done again   stalls  recovery",
        *rows,
        "",
        f"goodput {best.simulated.goodput:.2%} ({where.lowest:.2%} to {where.highest:.2%}) with a checkpoint every "
        f"{_time(best.interval)}",
        *(f"  {share:>6.2%} {name}" for name, share in costs),
        f"{where.failures} failures simulated; Young's interval: {_time(model.young)}",
        f"with all durations {_SLOWER:g} times as long: {goodput.slower:.2%} with a checkpoint every "
        f"{_time(goodput.slower_interval)}",
        "train.checkpoint_every: this time, times samples_per_second of metrics.jsonl, over the samples",
        "of a step",
    ])  # fmt: skip


def _start(parts: Mapping[str, float]) -> list[str]:
    """Lines on the parts of a start inside the job, if they are known."""
    text = ", ".join(f"{part} {_time(seconds)}" for part, seconds in parts.items())
    return wrap(f"a start in the job: {text}", width=_WIDTH) if parts else []


def _time(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 600 else f"{seconds / 60:.3g} min"
