"""Settings of `climax-hpc plan`: those of pretraining, and the machine."""

from dataclasses import dataclass, field

from climax_hpc.config.training import DataConfig, PretrainConfig, require


@dataclass(frozen=True, kw_only=True)
class PlanConfig(PretrainConfig):
    """`climax-hpc plan`: takes a pretraining config as it is, says what it needs on a machine; reads no data."""

    run_folder: str = ""
    """Not used; here so that a pretraining config fits."""
    data: DataConfig = field(default_factory=lambda: DataConfig(dataset=""))
    """Group sizes, variables and lead times count; the data set itself is not opened."""
    device: str = "h100"
    """A name of the table in climax_hpc/kernels/devices.py, such as a100-80, h100 or mi250x-gcd; `this` measures this
    machine's processor."""
    nodes: int = 1
    """Nodes of the job."""
    devices_per_node: int | None = None
    """Devices (and ranks) of a node; the usual number for the device where null."""
    utilisation: float = 0.3
    """Share of the roofline that the run is expected to reach; published language-model trainings report 0.2 to 0.46
    of the peak rate (Chowdhery et al. 2022, table 3). Measure yours: samples_per_second in metrics.jsonl."""
    memory_reserve: float = 0.1
    """Share of the device's memory left to the driver, communication library and fragmentation."""
    memory_gb: float | None = None
    """Memory of a device [GB] in place of the table's."""
    link_gb_per_s: float | None = None
    """Bandwidth between devices of a node, one direction [GB/s], in place of the table's."""
    network_gb_per_s: float | None = None
    """Bandwidth of a device out of its node, one direction [GB/s], in place of the table's."""
    json: str | None = None
    """File for the plan as JSON; none where null."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.nodes >= 1, f"nodes = {self.nodes}: must be at least 1")
        require(self.devices_per_node is None or self.devices_per_node >= 1, "devices_per_node must be at least 1")
        require(0 < self.utilisation <= 1, f"utilisation = {self.utilisation}: must lie in (0, 1]")
        require(0 <= self.memory_reserve < 1, f"memory_reserve = {self.memory_reserve}: must lie in [0, 1)")
        for key in ("memory_gb", "link_gb_per_s", "network_gb_per_s"):
            value = getattr(self, key)
            require(value is None or value > 0, f"{key} = {value}: must be above 0")
