"""Settings of training: frozen dataclasses, one line under each field, nonsense refused."""

from dataclasses import dataclass, field

from climax_hpc.errors import UserError
from climax_hpc.fields.averaging_window import Window, window_of
from climax_hpc.fields.regions import region_of
from climax_hpc.fields.variables import lookup
from climax_hpc.model.config import ModelConfig


def require(condition: bool, message: str) -> None:
    """Raise UserError(message) unless the condition holds; messages name the key and the mend."""
    if not condition:
        raise UserError(message)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on."""

    dataset: str
    """Folder of a packed data set (`climax-hpc pack`)."""
    sources: list[str] | None = None
    """Sources to use, by full name or CMIP6 source_id; all where null."""
    weights: dict[str, float] | None = None
    """Relative share of micro-batches per source (name as in `sources`); equal where null."""
    period: tuple[str, str] | None = None
    """First and last date of the training split, inclusive, partial dates allowed ("2001"); all times where null."""
    validation_period: tuple[str, str] | None = None
    """First and last date of the validation split, which must not overlap `period`; no validation where null."""
    in_variables: list[str] | None = None
    """Registry names fed to the model; all that both the source and the model have where null."""
    out_variables: list[str] | None = None
    """Registry names forecast and scored; all non-static inputs where null."""
    min_lead_hours: float = 6.0
    """Shortest lead time [h], inclusive (ClimaX, 4.1)."""
    max_lead_hours: float = 168.0
    """Longest lead time [h], inclusive (ClimaX, 4.1)."""
    lead_exponent: float = 1.0
    """Leads are min + floor(n · u**exponent) steps: 1 as ClimaX (all alike), larger draws short leads more often."""
    micro_batch_size: int = 4
    """g: samples of one source in one forward pass."""
    micro_batches_per_step: int = 2
    """G: micro-batches of a global batch; the number of ranks must divide it."""
    random_roll: bool = False
    """Augmentation: turn every sample by a random longitude."""
    random_flip: bool = False
    """Augmentation: exchange north and south in half of the samples, northward winds change sign."""
    latitude_weights: str = "cell"
    """Weights of the loss: `cell` (exact cell area) or `cos` (ClimaX)."""
    read_threads: int = 2
    """Concurrent reads on each rank: 2 pay in a warm page cache, 4 in a cold one (docs/concepts/data-loading.md)."""
    prefetch_micro_batches: int = 2
    """Groups read ahead on each rank; memory is that of one more. A short ring stays in the processor's cache
    (`bench data`); file systems that pause now and then want a longer one, such as 8."""
    stage_to: str | None = None
    """Folder on the node's own disk that the sources are copied to first, once per node; read in place where null."""
    region: str | list[float] | None = None
    """Regional forecasting: a named region, or [south, north, west, east] in degrees; cut before tokenising."""
    window_hours: float | None = None
    """Sub-seasonal forecasting: targets are means over this long from the lead time on [h]; 336 is two weeks."""
    window_step_hours: float | None = None
    """Distance of the steps that such a mean counts [h]; every time step where null."""
    lead_stride_hours: float | None = None
    """Distance between the lead times drawn [h]; the time step of the source where null."""
    rollout_steps: int = 1
    """Roll-out fine-tuning: train through this many steps from the model's own forecasts, each of the one lead time."""

    def __post_init__(self) -> None:
        require(0 < self.min_lead_hours <= self.max_lead_hours, "data.min_lead_hours must lie in (0, max_lead_hours]")
        require(self.lead_exponent > 0, "data.lead_exponent must be positive; 1 draws all leads alike")
        require(
            self.micro_batch_size > 0 and self.micro_batches_per_step > 0,
            "data.micro_batch_size and micro_batches_per_step must be >= 1",
        )
        require(self.latitude_weights in ("cell", "cos"), "data.latitude_weights: use cell or cos")
        require(self.read_threads >= 1, "data.read_threads must be at least 1")
        require(
            self.prefetch_micro_batches >= self.read_threads,
            f"data.prefetch_micro_batches must be at least data.read_threads ({self.read_threads}): others would idle",
        )
        for name in (*(self.in_variables or ()), *(self.out_variables or ())):
            lookup(name)
        for name in self.out_variables or ():
            require(
                self.in_variables is None or name in self.in_variables,
                f"data.out_variables: {name} is not in data.in_variables; add it there, or forecast another",
            )
        self._check_tasks()

    def _check_tasks(self) -> None:
        if self.region is not None:
            region_of(self.region)
            require(
                not (self.random_roll or self.random_flip),
                "data.random_roll and data.random_flip turn the whole globe: switch them off for data.region",
            )
        require(
            self.window_step_hours is None or self.window_hours is not None,
            "data.window_step_hours: set data.window_hours, the length of the mean, too",
        )
        require(self.lead_stride_hours is None or self.lead_stride_hours > 0, "data.lead_stride_hours must be above 0")
        self.window()
        require(self.rollout_steps >= 1, "data.rollout_steps must be at least 1, which is no roll-out")
        if self.rollout_steps > 1:
            require(
                self.min_lead_hours == self.max_lead_hours,
                "data.rollout_steps: all steps have one length: set data.min_lead_hours and data.max_lead_hours to it",
            )
            require(
                self.window_hours is None,
                "data.rollout_steps: a mean over data.window_hours is no state to go on from; set one of the two",
            )

    def window(self) -> Window | None:
        """The window of the targets; None where they are states."""
        return window_of(self.window_hours, self.window_step_hours)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with warm-up and cosine decay."""

    lr: float = 5e-4
    """Highest learning rate (ClimaX pretraining)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW betas (ClimaX pretraining; .9, .999 for fine-tuning)."""
    weight_decay: float = 1e-5
    """AdamW weight decay; never on norms, biases and embeddings."""
    warmup_steps: int = 10_000
    """Linear warm-up from `end_lr`."""
    end_lr: float = 1e-8
    """Learning rate before warm-up and at the end of the cosine."""
    gradient_clipping: float = 1.0
    """Largest global gradient norm; 0 switches clipping off."""

    def __post_init__(self) -> None:
        require(
            0 <= self.end_lr <= self.lr and self.lr > 0, "optimizer.lr must be positive, optimizer.end_lr in [0, lr]"
        )
        require(all(0 <= b < 1 for b in self.betas), "optimizer.betas must lie in [0, 1)")
        require(self.warmup_steps >= 0, "optimizer.warmup_steps must not be negative")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how, and what is kept."""

    steps: int = 200_000
    """Optimiser steps in all (ClimaX pretraining)."""
    seed: int = 0
    """Key of initialisation, sample order, dropout and augmentation."""
    zero_stage: int = 0
    """DeepSpeed ZeRO stage: 0 plain data parallel, 1 optimiser, 2 + gradients, 3 + parameters partitioned."""
    precision: str = "float32"
    """`float32`, or `bfloat16` with float32 masters (ZeRO stage 1 or more); `float16`: not tested here, for GPUs."""
    offload: str = "none"
    """`optimizer` or `all` (stage 3: parameters too) keeps them in the host's memory; not tested here, for GPUs."""
    compile: bool = False
    """torch.compile of the transformer blocks: the first step takes longer; not with ZeRO stage 3."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the weights that evaluation uses; 0 switches it off."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; the last step always writes one."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept."""
    keep_best: int = 0
    """Checkpoints with the lowest validation loss kept besides; each such validation writes one."""
    validate_every: int = 1000
    """Steps between validations on data.validation_period."""
    validation_batches: int = 16
    """Global batches of a validation, always the same ones."""
    patience: int = 0
    """Validations without a new lowest loss after which training ends early; 0 never."""
    spike_factor: float = 20.0
    """A loss this many robust standard deviations above the median of 100 steps is a spike; 0 switches it off."""
    spike_batches: int = 16
    """Global batches left out after a spike: its own and those before it, back to the checkpoint at most."""
    max_rollbacks: int = 3
    """Times that a spike may send the run back to its last checkpoint before it stops."""
    hang_timeout: float = 900.0
    """Seconds without progress after which a rank counts as hung and all ranks end; 0 switches it off."""
    log_every: int = 10
    """Steps between lines in metrics.jsonl and TensorBoard."""
    threads: int | None = None
    """CPU threads of each rank; torch's own choice where null."""

    def __post_init__(self) -> None:
        require(self.steps > 0, "train.steps must be at least 1")
        require(self.zero_stage in (0, 1, 2, 3), "train.zero_stage: use 0, 1, 2 or 3")
        self._check_precision()
        require(0 <= self.ema_decay < 1, "train.ema_decay must lie in [0, 1)")
        for key in ("checkpoint_every", "keep_checkpoints", "log_every", "validate_every", "validation_batches"):
            require(getattr(self, key) >= 1, f"train.{key} must be at least 1")
        for key in ("keep_best", "patience", "spike_factor", "max_rollbacks", "hang_timeout"):
            require(getattr(self, key) >= 0, f"train.{key} must not be negative; 0 switches it off")
        require(self.spike_batches >= 1, "train.spike_batches must be at least 1: the batch of the spike itself")

    def _check_precision(self) -> None:
        precisions = ("float32", "bfloat16", "float16")
        require(self.precision in precisions, f"train.precision: use one of {', '.join(precisions)}")
        require(
            self.precision == "float32" or self.zero_stage > 0,
            f"train.precision {self.precision} needs train.zero_stage 1 or more (stage 0 keeps no float32 masters and "
            "diverges)",
        )
        require(self.offload in ("none", "optimizer", "all"), "train.offload: use none, optimizer or all")
        require(
            self.offload == "none" or self.zero_stage > 0,
            f"train.offload {self.offload} needs train.zero_stage 1 or more",
        )
        require(self.offload != "all" or self.zero_stage == 3, "train.offload all needs train.zero_stage 3")
        require(
            not (self.compile and self.zero_stage == 3),
            "train.compile does not go with train.zero_stage 3, whose gathering of parameters cannot be compiled: use "
            "stage 2, or switch it off",
        )


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """`climax-hpc pretrain`."""

    run_folder: str
    """Run folder: config, provenance, metrics, checkpoints; an interrupted run continues when started again."""
    data: DataConfig
    """What to train on."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Size and form of the model."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimiser."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Length, precision, checkpoints, guards."""
    resume_from: str | None = None
    """Name of an earlier checkpoint of this run to go on from (step_00001000); the newest one where null."""

    def __post_init__(self) -> None:
        require(
            self.data.validation_period is not None or not (self.train.keep_best or self.train.patience),
            "train.keep_best and train.patience need data.validation_period",
        )
        require(
            not self.model.years or isinstance(self, FinetuneConfig),
            "model.years: pretraining takes one input state; set it in the config of `climax-hpc finetune`",
        )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(PretrainConfig):
    """`climax-hpc finetune`: as pretraining, starting from the weights of a checkpoint."""

    checkpoint: str | None = None
    """Run folder or checkpoint folder to start from; random weights where null (the from-scratch comparison)."""
    task: str = "forecast"
    """Downstream task, a name that `climax-hpc tasks` lists.
    `downscaling`: data.dataset is the file of `climax-hpc pair`, and the model's grid is the fine one. `projection`:
    yearly scenarios, model.years of model.variables -> model.projected of the last year."""
    transfer: bool = False
    """Take over what fits of a checkpoint with other variables, another grid or output mode; else that is refused."""
    frozen: bool = False
    """Climate projection: train only norms, embeddings, aggregations and the head (ClimaX_frozen), not the blocks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.checkpoint is not None or not self.transfer, "transfer needs a checkpoint to take weights from")


@dataclass(frozen=True, kw_only=True)
class NoConfig:
    """A verb without settings."""
