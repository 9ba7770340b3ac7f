"""The result of planning: what a training run needs of its devices."""

from dataclasses import asdict, dataclass
from typing import Any

from climax_hpc.tools.plan.memory import Memory
from climax_hpc.tools.plan.micro_batch import Filling


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training run needs, in bytes, seconds and FLOP."""

    device: str
    device_source: str
    nodes: int
    devices_per_node: int
    idle_per_node: int
    """Devices of each node without work, where the number was not given: too few micro-batches to share."""
    sequence_parallel: int
    """Devices that share each sample."""
    parameters: int
    samples_per_step: int
    micro_batches_per_rank: int
    memory: Memory
    memory_available: float
    checkpoint_bytes: float
    """Host memory of the first node for the copy that a checkpoint is written from; not part of `memory`. On a CPU
    `memory_available` is without the copy of a rank."""
    largest_micro_batch_size: int
    """Largest micro-batch that fits; 0: none does."""
    fillings: list[Filling]
    """Settings with the same global batch on as many devices of other memory."""
    flop: dict[str, float]
    """FLOP per device and step, by part."""
    compute_seconds: float
    """Forward and backward pass at the roofline."""
    optimiser_seconds: float
    """The optimiser at the memory bandwidth, and Muon's products at the device's rate."""
    communication_bytes: dict[str, float]
    communication_seconds: float
    step_seconds: float
    """At the roofline, without overlap of communication."""
    utilisation: float
    expected_step_seconds: float
    """Computation at `utilisation` of the roofline, communication at full bandwidth."""
    samples_per_second: float
    expected_samples_per_second: float
    steps: int
    days: float
    expected_days: float
    read_bytes_per_second: float
    """Of the whole job, at the expected speed."""

    @property
    def fits(self) -> bool:
        """True if a step fits into the device memory minus the reserve."""
        return self.memory.total <= self.memory_available

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        content = asdict(self)
        content["memory"]["total"] = self.memory.total
        return content | {"fits": self.fits}
