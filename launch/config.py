"""Settings of job submission: where jobs run, what a sweep varies, which stages a pipeline has."""

from dataclasses import dataclass, field

from climax_hpc.config.parser import nearest
from climax_hpc.errors import UserError

EXECUTORS = ("slurm", "local", "debug")
STAGES = ("pack", "pretrain", "finetune", "evaluate", "report")
WHAT = ("pretrain", "finetune", "sweep", "pipeline")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where jobs run and what each of them gets."""

    executor: str = "slurm"
    """`slurm`, `local` (processes of this machine) or `debug` (one after the other in this process, for a debugger)."""
    nodes: int = 1
    """Nodes of a job; 1 on `local` and `debug`."""
    tasks_per_node: int = 1
    """Ranks on each node: one per GPU; 1 on `debug`. `evaluate` and `report` always take one task."""
    cpus_per_task: int | None = None
    """CPU cores of each rank; the site's default where null."""
    gpus_per_node: int | None = None
    """GPUs of each node; none asked for where null."""
    mem_gb: float | None = None
    """Memory of each node [GB]; the site's default where null."""
    minutes: int = 60
    """Time limit of each job [min]; training goes on in the next one."""
    signal_seconds: int = 300
    """How long before the time limit a training run is told to write its checkpoint [s]."""
    partition: str | None = None
    """Slurm partition; the site's default where null."""
    account: str | None = None
    """Slurm account; your default where null."""
    site: str | None = None
    """Name of a site file in climax_hpc/slurm/sites, or a path; $CLIMAX_HPC_SITE or `generic` where null."""
    options: dict[str, str] = field(default_factory=dict)
    """Any other option of sbatch, without the dashes: {qos: debug, constraint: gpu}."""
    parallel: int = 256
    """Members of an array that run at the same time."""

    def __post_init__(self) -> None:
        _require(
            self.executor in EXECUTORS,
            f"where.executor: unknown {self.executor!r}{nearest(self.executor, EXECUTORS)}; use {', '.join(EXECUTORS)}",
        )
        counts = (self.nodes, self.tasks_per_node, self.cpus_per_task or 1, self.parallel, self.minutes)
        _require(
            min(counts) >= 1, "where: nodes, tasks_per_node, cpus_per_task, parallel and minutes must be at least 1"
        )
        _require(self.executor == "slurm" or self.nodes == 1, f"where.nodes must be 1 on executor {self.executor}")
        _require(
            self.executor != "debug" or self.tasks_per_node == 1, "where.tasks_per_node must be 1 on executor debug"
        )
        _require(
            0 < self.signal_seconds < 60 * self.minutes,
            f"where.signal_seconds must lie between 0 and the time limit ({60 * self.minutes} s)",
        )


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """What the members of a sweep differ in: every combination is one run."""

    task: str = "forecast"
    """What the members are trained for; `forecast` is fine-tuning for global forecasting."""
    variables: list[str] = field(default_factory=list)
    """One member per entry: registry names to forecast, several in one joined by +; the config's own where empty."""
    lead_hours: list[str] = field(default_factory=list)
    """One member per entry: a lead such as 24 or a range such as 6-168 [h]; the config's own where empty."""
    seeds: list[int] = field(default_factory=list)
    """One member per entry: train.seed; the config's own where empty."""
    grid: dict[str, list[str]] = field(default_factory=dict)
    """Other dotted keys -> values, such as optimizer.lr: [1.0e-4, 5.0e-4]."""


@dataclass(frozen=True, kw_only=True)
class StagesConfig:
    """The configs of a pipeline's stages: NAME|FILE each; a stage without one is left out."""

    pack: str | None = None
    """Config of `climax-hpc pack`."""
    pretrain: str | None = None
    """Config of `climax-hpc pretrain`."""
    finetune: str | None = None
    """Config of `climax-hpc finetune`: one member per combination of `sweep`, starting from the pretrained run."""
    evaluate: str | None = None
    """Config of `climax-hpc evaluate`: one evaluation of every fine-tuned member."""


@dataclass(frozen=True, kw_only=True)
class SubmitConfig:
    """`climax-hpc submit`."""

    what: str
    """`pretrain`, `finetune`, `sweep` or `pipeline`."""
    folder: str
    """Folder for job logs, tables and the runs of a sweep; jobs are pickled here: load none from folders of others."""
    settings: str | None = None
    """Config (NAME|FILE) of the verb that is submitted; for a pipeline see `stages`."""
    override: dict[str, str] = field(default_factory=dict)
    """Dotted keys -> values on top of `settings`, as on the verb's own command line."""
    where: Resources = field(default_factory=Resources)
    """Where jobs run and what they get."""
    stage_where: dict[str, Resources] = field(default_factory=dict)
    """Stage of a pipeline -> resources instead of `where`."""
    sweep: SweepConfig = field(default_factory=SweepConfig)
    """What the members of a sweep, or a pipeline's fine-tunings, differ in."""
    stages: StagesConfig = field(default_factory=StagesConfig)
    """A pipeline's configs."""
    wait: bool = False
    """Wait for all jobs, then print and write the table of results."""
    dry_run: bool = False
    """Write the table of members and print what would be submitted."""

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
    """`climax-hpc status`."""

    run: str
    """A run folder, or a folder of run folders."""
