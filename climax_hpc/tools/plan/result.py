"""The result of planning: what a training run needs of its devices."""

from dataclasses import asdict, dataclass
from typing import Any

from climax_hpc.tools.plan.memory import Memory


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run needs; bytes, seconds, FLOP."""

    device: str
    device_source: str
    nodes: int
    devices_per_node: int
    parameters: int
    samples_per_step: int
    micro_batches_per_rank: int
    memory: Memory
    memory_available: float
    largest_micro_batch_size: int
    """Samples of a micro-batch that still fit; 0 where none does."""
    flop: dict[str, float]
    """Of one device in one step, by part."""
    compute_seconds: float
    """Forward and backward at the roofline."""
    optimiser_seconds: float
    """AdamW at the memory's bandwidth."""
    communication_bytes: dict[str, float]
    communication_seconds: float
    step_seconds: float
    """At the roofline, communication not overlapped."""
    utilisation: float
    expected_step_seconds: float
    """Computing at `utilisation` of the roofline, communication at its bandwidth."""
    samples_per_second: float
    expected_samples_per_second: float
    steps: int
    days: float
    expected_days: float
    read_bytes_per_second: float
    """Of the whole job at the expected speed."""

    @property
    def fits(self) -> bool:
        """Whether a step fits into the device's memory less the reserve."""
        return self.memory.total <= self.memory_available

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        content = asdict(self)
        content["memory"]["total"] = self.memory.total
        return content | {"fits": self.fits}
