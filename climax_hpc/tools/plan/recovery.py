"""What checkpoints and failures cost a run: settings of `climax-hpc plan --goodput`, and the measured figures."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from climax_hpc.config.paths import ConfigPath
from climax_hpc.config.training import require
from climax_hpc.utils.bounds import bounded, hours
from climax_hpc.utils.typed_json import Number, read_typed

_LONGEST_SECONDS = 1e7
DURATIONS = ("stall", "write", "detection", "restart", "requeue")
"""Fields of `Recovery` in seconds."""


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """Seconds that checkpoints and failures cost, as `python -m climax_hpc.launch.recovery` measures them."""

    stall: Number
    """Training time that one checkpoint takes: the copy, and slower steps while it is written [s]."""
    write: Number
    """From the copy until the checkpoint is complete; a failure before that falls back to the one before [s]."""
    detection: Number
    """From the loss of a rank until all ranks have ended [s]."""
    restart: Number
    """From there to the first new step in the same job [s]."""
    requeue: Number
    """From there to the first new step in the requeued job, with its wait in the queue [s]."""
    source: str
    """What was measured, and where."""
    restart_parts: dict[str, Number] = field(default_factory=dict)
    """Part of `restart` -> seconds, in order; empty if it was not measured by parts."""

    def __post_init__(self) -> None:
        for name in DURATIONS:
            value = getattr(self, name)
            if not 0 <= value <= _LONGEST_SECONDS:
                raise ValueError(f"{name} is {value:g} s, expected 0 to {_LONGEST_SECONDS:g}")

    def times(self, factor: float) -> "Recovery":
        """The same with every duration multiplied."""
        return Recovery(**{name: getattr(self, name) * factor for name in DURATIONS}, source=self.source)


MEASURED = Recovery(
    stall=0.282,
    write=0.332,
    detection=4.702,
    restart=21.524,
    requeue=31.739,
    restart_parts={
        "launcher": 0.684, "imports": 9.864, "ranks": 0.433, "data": 0.299, "engine": 10.053, "first step": 0.191,
    },
    source="the two-node test cluster (tests/cluster/test_recovery.py) on two cores at a load of 12, 2026-11-28",
)  # fmt: skip
"""Used where nothing else is given. The load of other work makes them long; the queue of the test is empty."""


@dataclass(frozen=True, kw_only=True)
class FailuresConfig:
    """Failures of a job, and what they cost."""

    hours_between: float = hours(3.0)
    """Mean time between failures of the job [h]. 419 unexpected interruptions in 54 days on 16 384 GPUs were one in
    3.1 h (Grattafiori et al. 2024, The Llama 3 Herd of Models, section 3.3.4)."""
    node_hours_between: float | None = hours(None)
    """Mean time between failures of a node [h], instead of `hours_between`; the job's is this over `nodes`."""
    requeue_share: float = 0.78
    """Fraction of failures that take a node away, so that the job is requeued; 0 with spare nodes. 0.78: the share of
    hardware in the same source. The others lose a rank, which starts again inside the job."""
    hang_share: float = 0.02
    """Fraction of failures that are found only after train.hang_timeout: 7 of 419 time-outs in the same source."""
    measured: ConfigPath | None = None
    """Durations as JSON, from `python -m climax_hpc.launch.recovery`; null: those of the test cluster."""
    stall: float | None = bounded(None, _LONGEST_SECONDS)
    """Training time that one checkpoint takes [s]; null: measured."""
    write: float | None = bounded(None, _LONGEST_SECONDS)
    """Time until a checkpoint is complete [s]; null: measured."""
    detection: float | None = bounded(None, _LONGEST_SECONDS)
    """From the loss of a rank until all ranks have ended [s]; null: measured."""
    restart: float | None = bounded(None, _LONGEST_SECONDS)
    """From there to the first step in the same job [s]; null: measured."""
    requeue: float | None = bounded(None, _LONGEST_SECONDS)
    """From there to the first step of the requeued job, with its wait in the queue [s]; null: measured."""
    simulated_days: float = bounded(1000.0, 100_000)
    """Length of the simulation [days]."""
    seed: int = bounded(0, 2**31)
    """Seed of the simulated failures."""

    def __post_init__(self) -> None:
        for key in ("hours_between", "node_hours_between", "simulated_days"):
            value = getattr(self, key)
            require(value is None or value > 0, f"failures.{key} must be positive")
        for key in (*DURATIONS, "seed"):
            value = getattr(self, key)
            require(value is None or value >= 0, f"failures.{key} must not be negative")
        for key in ("requeue_share", "hang_share"):
            require(0 <= getattr(self, key) <= 1, f"failures.{key} must be in [0, 1]")
        require(self.requeue_share + self.hang_share <= 1, "failures.requeue_share + failures.hang_share: at most 1")

    def recovery(self) -> Recovery:
        """The durations: those given, else those of `measured`, else of the test cluster.

        Raises:
            UserError: the file of `measured` cannot be read.
        """
        known = MEASURED
        if self.measured:
            fix = "write it again: python -m climax_hpc.launch.recovery RUN"
            known = read_typed(Path(self.measured), Recovery, "measured durations of failures", fix)
        given = {name: getattr(self, name) for name in DURATIONS if getattr(self, name) is not None}
        if not given:
            return known
        parts = {} if "restart" in given else known.restart_parts
        return replace(known, **given, restart_parts=parts, source=f"{known.source}; {', '.join(given)} as given")
