"""Settings of job submission: resources of a job, axes of a sweep, stages of a pipeline."""

from dataclasses import dataclass, field

from climax_hpc.config.parser import nearest
from climax_hpc.config.paths import ConfigPath
from climax_hpc.errors import UserError
from climax_hpc.utils.bounds import bounded

EXECUTORS = ("slurm", "local", "debug")
STAGES = ("pack", "pretrain", "finetune", "evaluate", "report")
WHAT = ("pretrain", "finetune", "sweep", "pipeline")
WARNING_MARGIN_SECONDS = 60
"""Time that a job needs between its start and the warning before its time limit; Slurm warns up to 60 s early."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where jobs run, and the resources of each."""

    executor: str = "slurm"
    """`slurm`, `local` (processes on this machine) or `debug` (one job after the other in this process)."""
    nodes: int = bounded(1, 100_000)
    """Nodes of a job; 1 on `local` and `debug`."""
    tasks_per_node: int = bounded(1, 4096)
    """Ranks on each node: one per GPU; 1 on `debug`. `evaluate` and `report` always run as one task."""
    cpus_per_task: int | None = bounded(None, 4096)
    """CPU cores of each rank; null: the site's default."""
    gpus_per_node: int | None = bounded(None, 64)
    """GPUs of each node; null: none."""
    mem_gb: float | None = None
    """Memory of each node [GB]; null: the site's default."""
    minutes: int = bounded(60, 527_040)
    """Time limit of each job [min]; training resumes in the next job."""
    signal_seconds: int = 300
    """Time before the limit at which a training run is signalled to write its checkpoint [s]."""
    partition: str | None = None
    """Slurm partition; null: the site's default."""
    account: str | None = None
    """Slurm account; null: your default."""
    site: ConfigPath | None = None
    """Name of a site file in climax_hpc/slurm/sites, or a path; null: $CLIMAX_HPC_SITE, or `generic`."""
    options: dict[str, str] = field(default_factory=dict)
    """Other options of sbatch, without the dashes: {qos: debug, constraint: gpu}."""
    parallel: int = bounded(256, 100_000)
    """Members of an array that run at the same time."""
    array_size: int | None = None
    """Most members of one array, beyond which a sweep becomes several; null: $CLIMAX_HPC_ARRAY_SIZE, or Slurm's."""

    def __post_init__(self) -> None:
        _require(
            self.executor in EXECUTORS,
            f"where.executor: unknown {self.executor!r}{nearest(self.executor, EXECUTORS)}; use {', '.join(EXECUTORS)}",
        )
        names = ("nodes", "tasks_per_node", "cpus_per_task", "parallel", "array_size", "minutes")
        counts = [getattr(self, name) for name in names]
        _require(
            min(count for count in counts if count is not None) >= 1, f"where: {', '.join(names)} must be at least 1"
        )
        _require(self.executor == "slurm" or self.nodes == 1, f"where.nodes must be 1 on executor {self.executor}")
        _require(
            self.executor != "debug" or self.tasks_per_node == 1, "where.tasks_per_node must be 1 on executor debug"
        )
        _require(
            0 < self.signal_seconds < 60 * self.minutes,
            f"where.signal_seconds must be between 0 and the time limit ({60 * self.minutes} s)",
        )
        _require(
            self.signal_seconds + WARNING_MARGIN_SECONDS <= 60 * self.minutes,
            f"where.signal_seconds ({self.signal_seconds} s) leaves less than {WARNING_MARGIN_SECONDS} s of the time "
            f"limit ({60 * self.minutes} s) to work in; raise where.minutes or lower where.signal_seconds",
        )


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The axes of a sweep: every combination of their values is one member, that is, one training run."""

    task: str = "forecast"
    """Downstream task of the members; `climax-hpc tasks` lists them."""
    variables: list[str] = field(default_factory=list)
    """One member per entry: a variable to forecast, or several joined by +; empty: those of the config."""
    lead_hours: list[str] = field(default_factory=list)
    """One member per entry: a lead time such as 24 or a range such as 6-168 [h]; empty: those of the config."""
    seeds: list[int] = bounded(list, 2**63 - 1)
    """One member per entry: train.seed; empty: that of the config."""
    grid: dict[str, list[str]] = field(default_factory=dict)
    """Further axes: dotted key -> values, such as optimizer.lr: [1.0e-4, 5.0e-4]."""


@dataclass(frozen=True, kw_only=True)
class StagesConfig:
    """The config (NAME|FILE) of each stage of a pipeline; a stage without a config is skipped."""

    pack: ConfigPath | None = None
    """Config of `climax-hpc pack`."""
    pretrain: ConfigPath | None = None
    """Config of `climax-hpc pretrain`."""
    finetune: ConfigPath | None = None
    """Config of `climax-hpc finetune`: one run per member of `sweep`, starting from the pretrained checkpoint."""
    evaluate: ConfigPath | None = None
    """Config of `climax-hpc evaluate`: one evaluation per member."""


@dataclass(frozen=True, kw_only=True)
class SubmitConfig:
    """`climax-hpc submit WHAT`: submit a run, a sweep or a pipeline."""

    what: str
    """`pretrain`, `finetune`, `sweep` or `pipeline`."""
    folder: ConfigPath
    """Folder for job logs, tables and the runs of a sweep; must be your own, because it holds pickles of the jobs."""
    settings: ConfigPath | None = None
    """Config (NAME|FILE) of the submitted subcommand; a pipeline takes `stages` instead."""
    override: dict[str, str] = field(default_factory=dict)
    """Dotted key -> value on top of `settings`, as on the subcommand's own command line."""
    where: Resources = field(default_factory=Resources)
    """Resources of every job."""
    stage_where: dict[str, Resources] = field(default_factory=dict)
    """Stage of a pipeline -> its resources, instead of `where`."""
    sweep: SweepConfig = field(default_factory=SweepConfig)
    """Axes of a sweep, or of the fine-tuning stage of a pipeline."""
    stages: StagesConfig = field(default_factory=StagesConfig)
    """Configs of the stages of a pipeline."""
    wait: bool = False
    """Wait for all jobs, then print and write the results table."""
    dry_run: bool = False
    """Submit nothing: write the table of members and print the commands."""

    def __post_init__(self) -> None:
        _require(
            self.what in WHAT, f"what: cannot submit {self.what!r}{nearest(self.what, WHAT)}; use {', '.join(WHAT)}"
        )
        _require(
            self.what == "pipeline" or self.settings is not None,
            f"settings: name the config of {'finetune' if self.what == 'sweep' else self.what} (NAME|FILE)",
        )
        unknown = next((name for name in self.stage_where if name not in STAGES), None)
        _require(unknown is None, f"stage_where: no stage {unknown!r}{nearest(unknown or '', STAGES)}")


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    """`climax-hpc status RUN`: state, progress and restarts of runs."""

    run: ConfigPath
    """Run folder, or a folder that contains run folders."""
