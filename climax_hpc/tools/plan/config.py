"""Settings of `climax-hpc plan`: those of pretraining, and of the machine."""

from dataclasses import dataclass, field

from climax_hpc.config.paths import ConfigPath
from climax_hpc.config.training import DataConfig, PretrainConfig, require
from climax_hpc.tools.plan.recovery import FailuresConfig
from climax_hpc.utils.bounds import bounded


@dataclass(frozen=True, kw_only=True)
class PlanConfig(PretrainConfig):
    """`climax-hpc plan`: estimates what an unchanged pretraining config needs on a machine; reads no data."""

    run_folder: ConfigPath = ""
    """Not used; present so that a pretraining config is accepted."""
    data: DataConfig = field(default_factory=lambda: DataConfig(dataset=""))
    """Micro-batches and variables are used; the data set is not opened."""
    device: str = "h100"
    """Name in the table of climax_hpc/kernels/devices.py, such as a100-80, h100 or mi250x-gcd; `this` measures the
    processor of this machine."""
    nodes: int = bounded(1, 1_000_000)
    """Nodes of the job."""
    devices_per_node: int | None = bounded(None, 1024)
    """Devices (and ranks) per node; null: the usual number for the device."""
    utilisation: float = 0.3
    """Expected fraction of the roofline; published language-model training runs report 0.2 to 0.46 of the peak rate
    (Chowdhery et al. 2022, table 3). To measure it, compare with samples_per_second in metrics.jsonl."""
    memory_reserve: float = 0.1
    """Fraction of the device memory reserved for the driver, the communication library and fragmentation."""
    memory_gb: float | None = None
    """Memory of a device [GB]; null: that of the table."""
    link_gb_per_s: float | None = None
    """Bandwidth between devices of a node, one direction [GB/s]; null: that of the table."""
    network_gb_per_s: float | None = None
    """Bandwidth of a device out of its node, one direction [GB/s]; null: that of the table."""
    search: bool = False
    """List all layouts that fit instead, fastest first: ZeRO stages, train.zero_hpz of a node, train.sequence_parallel,
    activation checkpointing and micro-batches with the same samples per step, on all devices of the nodes."""
    goodput: bool = False
    """Print instead what failures cost: goodput by time between checkpoints, by a formula and a simulation. Only
    `nodes`, `failures` and `train.hang_timeout` are used."""
    failures: FailuresConfig = field(default_factory=FailuresConfig)
    """How often the job fails, and what that costs."""
    json: ConfigPath | None = None
    """File for the plan as JSON; null: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.nodes >= 1, f"nodes = {self.nodes}: must be at least 1")
        require(self.devices_per_node is None or self.devices_per_node >= 1, "devices_per_node must be at least 1")
        require(0 < self.utilisation <= 1, f"utilisation = {self.utilisation}: must be in (0, 1]")
        require(0 <= self.memory_reserve < 1, f"memory_reserve = {self.memory_reserve}: must be in [0, 1)")
        for key in ("memory_gb", "link_gb_per_s", "network_gb_per_s"):
            value = getattr(self, key)
            require(value is None or value > 0, f"{key} = {value}: must be positive")
        require(not (self.search and self.goodput), "search and goodput: two different plans, set one of them")
