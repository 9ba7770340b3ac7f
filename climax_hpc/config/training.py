"""Settings of `pretrain` and `finetune`: frozen dataclasses, a help text under each field, checked when made."""

from dataclasses import dataclass, field

from climax_hpc.config.members import check_members
from climax_hpc.config.optimizer import OptimizerConfig
from climax_hpc.config.paths import ConfigPath
from climax_hpc.config.sequence_parallel import check_shares
from climax_hpc.errors import require
from climax_hpc.fields.averaging_window import Window, window_of
from climax_hpc.fields.periods import check_period
from climax_hpc.fields.regions import region_of
from climax_hpc.fields.variables import lookup
from climax_hpc.model.config import ModelConfig
from climax_hpc.utils.bounds import bounded, hours


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data to train on, and how samples are drawn and read."""

    dataset: ConfigPath
    """Folder of a packed data set, written by `climax-hpc pack`."""
    sources: list[str] | None = None
    """Sources to train on, by full name or CMIP6 source_id; null: all sources of the data set."""
    weights: dict[str, float] | None = None
    """Source (named as in `sources`) -> its relative share of the micro-batches; null: equal shares."""
    period: tuple[str, str] | None = None
    """First and last date of the training data, both included; a year or month alone is allowed ("2001"); null: all."""
    validation_period: tuple[str, str] | None = None
    """First and last date of the validation data, which must not overlap `period`; null: no validation."""
    in_variables: list[str] | None = None
    """Registry names of the model's input; null: every variable that both the source and the model have."""
    out_variables: list[str] | None = None
    """Registry names that are forecast and count in the loss; null: every input that is not static."""
    min_lead_hours: float = hours(6.0)
    """Shortest lead time [h], included (ClimaX, section 4.1)."""
    max_lead_hours: float = hours(168.0)
    """Longest lead time [h], included (ClimaX, section 4.1)."""
    lead_exponent: float = bounded(1.0, 1000)
    """How lead times are drawn: shortest + floor(n · u**lead_exponent) steps of n possible ones, u uniform in [0, 1).
    1 draws all equally often (ClimaX); larger values draw short lead times more often."""
    lead_sampling: str = "independent"
    """How the lead times of one optimiser step go together: `independent` (ClimaX); or `stratified`: its samples share
    out the range, one part of equal probability each, which makes gradients less noisy at no cost."""
    micro_batch_size: int = bounded(4, 65_536)
    """Samples in one forward pass, all of one source."""
    micro_batches_per_step: int = bounded(2, 1_000_000)
    """Micro-batches in one optimiser step, over all ranks; the number of ranks must divide it."""
    random_roll: bool = False
    """Augmentation: shift every sample by a random longitude."""
    random_flip: bool = False
    """Augmentation: mirror half of the samples about the equator; northward winds change sign."""
    latitude_weights: str = "cell"
    """Latitude weights of the loss: `cell`, the area of the grid cells; or `cos`, cosine of the latitude (ClimaX)."""
    variable_weights: str | dict[str, float] = bounded("uniform", 1e6, 1e-6)
    """Weights of the output variables in the loss: `uniform`, all alike (ClimaX); `pressure`, levels by their pressure
    (GraphCast, docs/guides/training.md); or registry name -> weight, 1 where none is given."""
    read_threads: int = bounded(2, 1024)
    """Reading threads of each rank: 2 suffice for files in the page cache, 4 for files on disk
    (docs/concepts/data-loading.md)."""
    prefetch_micro_batches: int = bounded(2, 65_536)
    """Micro-batches read ahead on each rank; buffers for one more are held in memory. Few buffers stay in the
    processor's cache (`climax-hpc bench data`); set about 8 for a file system that pauses at times."""
    stage_to: ConfigPath | None = None
    """Folder on a disk of the node: what its ranks read of the sources is copied there before training, once per node;
    null: no copy."""
    region: str | list[float] | None = None
    """Regional forecasting: a named region (such as Europe), or [south, north, west, east] [degrees]; only the patches
    that touch it are tokens; null: the global grid."""
    window_hours: float | None = hours(None)
    """Sub-seasonal forecasting: length of the window, from the lead time on, that targets are averaged over [h]; 336 is
    two weeks; null: targets are states at the lead time."""
    window_step_hours: float | None = hours(None)
    """Spacing of the time steps that the mean is taken over [h]; null: every time step."""
    lead_stride_hours: float | None = hours(None)
    """Spacing of the lead times that are drawn [h]; null: the time step of the source."""
    rollout_steps: int = bounded(1, 1000)
    """Roll-out fine-tuning: forecast this many steps, each from the forecast before, and train on the loss of all;
    needs min_lead_hours = max_lead_hours."""
    min_rollout_steps: int | None = bounded(None, 1000)
    """Roll-out fine-tuning with random lengths: every optimiser step draws its number of roll-out steps from this one
    to rollout_steps, all equally often; null: always rollout_steps."""

    def __post_init__(self) -> None:
        check_period("data.period", self.period)
        check_period("data.validation_period", self.validation_period)
        require(0 < self.min_lead_hours <= self.max_lead_hours, "data.min_lead_hours must lie in (0, max_lead_hours]")
        require(self.lead_exponent > 0, "data.lead_exponent must be positive; 1 draws all lead times equally often")
        require(
            self.micro_batch_size > 0 and self.micro_batches_per_step > 0,
            "data.micro_batch_size and data.micro_batches_per_step must be at least 1",
        )
        require(self.latitude_weights in ("cell", "cos"), "data.latitude_weights: use cell or cos")
        self._check_variable_weights()
        require(self.read_threads >= 1, "data.read_threads must be at least 1")
        require(
            self.prefetch_micro_batches >= self.read_threads,
            f"data.prefetch_micro_batches must be at least data.read_threads ({self.read_threads}): others would idle",
        )
        for name in (*(self.in_variables or ()), *(self.out_variables or ())):
            lookup(name)
        for name in self.out_variables or ():
            kind = "a tendency" if lookup(name).tendency_of else "computed from the date"
            require(
                not lookup(name).is_computed,
                f"data.out_variables: {name} is {kind}, which can only be an input; leave it out",
            )
            require(
                self.in_variables is None or name in self.in_variables,
                f"data.out_variables: {name} is not in data.in_variables; add it there, or remove it here",
            )
        self._check_tasks()

    def _check_variable_weights(self) -> None:
        given = self.variable_weights
        if isinstance(given, str):
            require(
                given in ("uniform", "pressure"),
                f"data.variable_weights = {given!r}: use uniform, pressure, or a map of variables to weights",
            )
            return
        for name, weight in given.items():
            lookup(name)
            require(weight >= 0, f"data.variable_weights: {name} has {weight:g}; a weight must not be negative")

    def _check_tasks(self) -> None:
        if self.region is not None:
            region_of(self.region)
            require(
                not (self.random_roll or self.random_flip),
                "data.random_roll and data.random_flip need a global grid: set them to false, or leave data.region out",
            )
        require(
            self.window_step_hours is None or self.window_hours is not None,
            "data.window_step_hours needs data.window_hours, the length of the mean",
        )
        require(self.lead_stride_hours is None or self.lead_stride_hours > 0, "data.lead_stride_hours must be above 0")
        require(
            self.lead_sampling in ("independent", "stratified"), "data.lead_sampling: use independent or stratified"
        )
        self.window()
        require(self.rollout_steps >= 1, "data.rollout_steps must be at least 1 (no roll-out)")
        require(
            self.min_rollout_steps is None or 1 <= self.min_rollout_steps <= self.rollout_steps,
            f"data.min_rollout_steps must lie in 1 … data.rollout_steps, the largest number (now {self.rollout_steps})",
        )
        if self.rollout_steps > 1:
            require(
                self.min_lead_hours == self.max_lead_hours,
                "data.rollout_steps: all steps have the same length: set data.min_lead_hours = data.max_lead_hours",
            )
            require(
                self.window_hours is None,
                "data.rollout_steps: a roll-out cannot start from a mean over data.window_hours; set one of the two",
            )

    def window(self) -> Window | None:
        """The averaging window of the targets; None where targets are states."""
        return window_of(self.window_hours, self.window_step_hours)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length of training, numerics, validation, checkpoints and guards."""

    steps: int = 200_000
    """Optimiser steps in total (ClimaX pretraining)."""
    seed: int = bounded(0, 2**63 - 1)
    """Seed of initial weights, order of samples, dropout and augmentation."""
    members: int = bounded(1, 1024)
    """Members of each sample in a training step of a network with noise (model.noise_dim); the loss is the CRPS of all
    of them (docs/guides/ensembles.md)."""
    crps_alpha: float = 0.95
    """With members, between the CRPS of the ensemble as it is (0) and that of the distribution it is drawn from (1);
    0.95: almost fair (AIFS-CRPS)."""
    zero_stage: int = 0
    """DeepSpeed ZeRO stage: what is partitioned over ranks. 0: nothing (data parallel); 1: optimiser states;
    2: gradients too; 3: parameters too."""
    zero_hpz: int = bounded(1, 1024)
    """Ranks that share a second copy of the parameters at zero_stage 3, as those of a node (hpZ of ZeRO++): parameters
    are gathered from all ranks once in a step, then from the copy; 1, or all ranks: none (docs/guides/training.md)."""
    precision: str = "float32"
    """`float32`; `bfloat16` with float32 master weights (zero_stage 1 or more); `float16` (for GPUs, untested)."""
    offload: str = "none"
    """What is kept in the host's memory: `none`; `optimizer`: the optimiser states; `all`: parameters too
    (zero_stage 3). For GPUs, untested."""
    sequence_parallel: int = bounded(1, 1024)
    """Ranks that share each sample: a band of patch rows each (docs/guides/sequence-parallelism.md); 1: none."""
    compile: bool | None = None
    """Compile the transformer blocks with torch.compile, which makes the first step longer and rounds differently; not
    with zero_stage 3. null: on a GPU, where zero_stage allows it, and without sequence_parallel."""
    deterministic: bool = False
    """Use only algorithms that give the same bits again on a GPU (docs/guides/training.md says what differs without).
    Slower there, above all the backward pass of attention; on a CPU it changes nothing."""
    ema_decay: float = 0.0
    """Decay per step of the exponential moving average (EMA) of the weights, which evaluation uses; 0: no EMA."""
    checkpoint_every: int = 1000
    """Optimiser steps between checkpoints; one is always written after the last step."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints are kept."""
    keep_best: int = 0
    """How many checkpoints with the lowest validation loss are kept too; a validation that is among them writes one."""
    background_checkpoints: bool = True
    """Write checkpoints in a thread while training goes on, from a copy in the host's memory (`climax-hpc plan` prints
    its size); false: training waits, without the copy."""
    validate_every: int = 1000
    """Optimiser steps between validations on data.validation_period."""
    validation_batches: int = bounded(16, 1_000_000)
    """Global batches in a validation; every validation uses the same ones."""
    patience: int = 0
    """Early stopping: training ends after this many validations in a row without a new lowest loss; 0: never."""
    spike_factor: float = 20.0
    """A loss is a spike where it exceeds the median of the last 100 steps by this many robust standard deviations;
    the run then returns to its last checkpoint; 0: no check."""
    spike_batches: int = bounded(16, 1_000_000)
    """Global batches skipped after a spike: that of the spike and those before it, back to the checkpoint at most."""
    max_rollbacks: int = 3
    """How often a spike may send the run back to its last checkpoint; at the next spike the run stops."""
    hang_timeout: float = 900.0
    """A rank without progress for this long [s] counts as hung, and all ranks end; 0: no check."""
    log_every: int = 10
    """Optimiser steps between entries in metrics.jsonl and TensorBoard."""
    threads: int | None = bounded(None, 4096)
    """CPU threads of each rank; null: PyTorch's default."""

    def __post_init__(self) -> None:
        require(self.steps > 0, "train.steps must be at least 1")
        require(self.zero_stage in (0, 1, 2, 3), "train.zero_stage: use 0, 1, 2 or 3")
        self._check_precision()
        self._check_second_copy()
        require(0 <= self.ema_decay < 1, "train.ema_decay must lie in [0, 1)")
        at_least_1 = (
            "checkpoint_every",
            "keep_checkpoints",
            "log_every",
            "validate_every",
            "validation_batches",
            "members",
        )
        for key in (*at_least_1, "sequence_parallel", "zero_hpz"):
            require(getattr(self, key) >= 1, f"train.{key} must be at least 1")
        for key in ("keep_best", "patience", "spike_factor", "max_rollbacks", "hang_timeout"):
            require(getattr(self, key) >= 0, f"train.{key} must not be negative; 0: off")
        require(0 <= self.crps_alpha <= 1, "train.crps_alpha must lie in [0, 1]: 0.95 is almost fair")
        require(self.spike_batches >= 1, "train.spike_batches must be at least 1, the batch of the spike itself")

    def _check_precision(self) -> None:
        precisions = ("float32", "bfloat16", "float16")
        require(self.precision in precisions, f"train.precision: use one of {', '.join(precisions)}")
        require(
            self.precision == "float32" or self.zero_stage > 0,
            f"train.precision {self.precision} needs train.zero_stage 1 or more: stage 0 keeps no float32 master "
            "weights, and training diverges",
        )
        require(self.offload in ("none", "optimizer", "all"), "train.offload: use none, optimizer or all")
        require(
            self.offload == "none" or self.zero_stage > 0,
            f"train.offload {self.offload} needs train.zero_stage 1 or more",
        )
        require(self.offload != "all" or self.zero_stage == 3, "train.offload all needs train.zero_stage 3")
        require(
            not (self.compile and self.zero_stage == 3),
            "train.compile does not work with train.zero_stage 3, whose gathering of parameters cannot be compiled: "
            "use stage 2, or leave train.compile out",
        )

    def _check_second_copy(self) -> None:
        hpz = f"train.zero_hpz {self.zero_hpz}"
        require(
            self.zero_hpz <= 1 or self.zero_stage == 3,
            f"{hpz} needs train.zero_stage 3: at lower stages every rank has all parameters; use 3, or leave it out",
        )
        require(
            self.zero_hpz <= 1 or self.offload != "all",
            f"{hpz} does not go with train.offload all, which keeps the parameters in the host's memory: use one of "
            "the two",
        )


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """`climax-hpc pretrain`."""

    run_folder: ConfigPath
    """Folder of the run: config, provenance, metrics, checkpoints. The same command resumes an interrupted run."""
    data: DataConfig
    """The data to train on."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network and its size."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW or Muon, and the learning rate."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Length of training, numerics, validation, checkpoints and guards."""
    resume_from: str | None = None
    """Checkpoint of this run to resume from, such as step_00001000; null: the newest."""

    def __post_init__(self) -> None:
        require(
            self.data.validation_period is not None or not (self.train.keep_best or self.train.patience),
            "train.keep_best and train.patience need data.validation_period: set it, or set them to 0",
        )
        require(
            self.optimizer.cooldown_steps <= self.train.steps, "optimizer.cooldown_steps must be at most train.steps"
        )
        check_members(self.model, self.train.members)
        check_shares(self.model, self.train.sequence_parallel, self.data.region, self.train.compile)
        require(
            not self.model.years or isinstance(self, FinetuneConfig),
            "model.years: pretraining takes one input state; set it in the config of `climax-hpc finetune`",
        )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(PretrainConfig):
    """`climax-hpc finetune`: training that starts from the weights of a checkpoint; keys as for `pretrain`."""

    checkpoint: ConfigPath | None = None
    """Run folder or checkpoint folder whose weights training starts from, or the name of weights in the package
    (`climax-hpc weights` lists them; a folder of that name comes first); null: random weights (from scratch)."""
    task: str = "forecast"
    """Downstream task, one that `climax-hpc tasks` lists. With `downscaling`, data.dataset is the file of
    `climax-hpc pair`, and the model works on the fine grid. With `projection`, the input is model.years years of
    model.variables, the output model.projected in the last year."""
    transfer: bool = False
    """Accept a checkpoint with other variables, another grid, patch or output mode, and take the weights that fit;
    false: refuse it."""
    frozen: bool = False
    """Climate projection: keep the transformer blocks fixed, train norms, embeddings, aggregations and the head only
    (ClimaX_frozen)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.checkpoint is not None or not self.transfer, "transfer needs checkpoint, the weights to transfer")


@dataclass(frozen=True, kw_only=True)
class NoConfig:
    """A command without settings."""
