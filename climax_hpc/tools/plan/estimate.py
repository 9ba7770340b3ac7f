"""What one layout of a training needs of each device in a step: memory, arithmetic, communication, time."""

from collections.abc import Callable
from dataclasses import dataclass

from climax_hpc.fields.variables import lookup
from climax_hpc.kernels.devices import Device
from climax_hpc.tools.plan.communication import Communication, seconds, step_communication
from climax_hpc.tools.plan.config import PlanConfig
from climax_hpc.tools.plan.host import checkpoint_bytes
from climax_hpc.tools.plan.memory import Memory, plan_memory
from climax_hpc.tools.plan.muon import ELEMENT_BYTES, muon_flop
from climax_hpc.training.flop import step_flop
from climax_hpc.training.shape import Shape

_FLOAT16, _FLOAT32 = 2, 4
_ADAMW_BYTES = 28  # per parameter: read gradient, master weight and two moments, write the last three, in float32


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes, FLOP and seconds of one device in one optimiser step."""

    shape: Shape
    memory: Memory
    available: float
    """Memory less the reserve, and on a processor less the copy that a checkpoint is written from."""
    flop: dict[str, float]
    """By part."""
    compute: float
    """Forward and backward pass at the roofline [s]."""
    optimiser: float
    """The optimiser at the memory bandwidth, and Muon's products at the device's rate [s]."""
    sent: Communication
    communication: float
    """At full bandwidth [s]."""
    utilisation: float

    @property
    def step(self) -> float:
        """At the roofline, without overlap of communication [s]."""
        return self.compute + self.optimiser + self.communication

    @property
    def expected(self) -> float:
        """With computation at `utilisation` of the roofline [s]."""
        return (self.compute + self.optimiser) / self.utilisation + self.communication

    @property
    def fits(self) -> bool:
        """True if a step fits."""
        return self.memory.total <= self.available


def estimate(config: PlanConfig, device: Device, per_node: int) -> Estimate:
    """The estimate of a config on `config.nodes` nodes with `per_node` devices each.

    Raises:
        UserError: devices that cannot share the micro-batches of a step.
    """
    ranks = config.nodes * per_node
    shape, train = Shape.of(config, ranks), config.train
    available = device.memory * (1 - config.memory_reserve)
    if not device.is_gpu:  # its memory is the host's
        available -= checkpoint_bytes(shape, train, per_node=1)
    flop = {part: float(value) * shape.micro_batches_per_rank for part, value in step_flop(shape).items()}
    rate = device.float32 if train.precision == "float32" else device.bfloat16
    memory = memory_of(config, device)(shape)
    # Every activation is written once and read once; every parameter is read in both passes.
    traffic = shape.micro_batches_per_rank * 2 * (memory.activations + memory.parameters)
    written = _ADAMW_BYTES * (shape.n - shape.in_matrices) + ELEMENT_BYTES * shape.in_matrices
    products = muon_flop(shape) / ranks / (device.bfloat16 if device.is_gpu else device.float32)
    sent = step_communication(shape, train)
    # The ranks that share a sample, or a second copy of the parameters, are consecutive.
    volumes = (
        (sent.gradients + sent.parameters, config.nodes),
        (sent.attention + sent.halo_rows, -(-shape.sequence // per_node)),
        (sent.second_copy, 1 if per_node % train.zero_hpz == 0 else config.nodes),
    )
    return Estimate(
        shape=shape,
        memory=memory,
        available=available,
        flop=flop,
        compute=max(sum(flop.values()) / rate, traffic / device.bandwidth),
        optimiser=written / (ranks if train.zero_stage else 1) / device.bandwidth + products,
        sent=sent,
        communication=sum(
            seconds(volume, nodes=nodes, ranks=ranks, link=device.link, network=device.network)
            for volume, nodes in volumes
        ),
        utilisation=config.utilisation,
    )


def memory_of(config: PlanConfig, device: Device) -> Callable[[Shape], Memory]:
    """The memory of steps of other shapes with the settings of a config."""
    anomaly = config.model.output_mode == "anomaly"

    def planned(shape: Shape) -> Memory:
        return plan_memory(
            shape, config.train, config.optimizer, anomaly=anomaly, cuda=device.is_gpu,
            read_ahead=(config.data.prefetch_micro_batches + 1) * shape.B * sample_bytes(config),
        )  # fmt: skip

    return planned


def sample_bytes(config: PlanConfig) -> float:
    """Bytes read per sample: input and target in float16 shards, and both climatologies in float32."""
    model = config.model
    channels = [v for v in config.data.in_variables or model.variables if lookup(v).can_be_forecast]
    per_pixel = 2 * _FLOAT16 + (2 * _FLOAT32 if model.output_mode == "anomaly" else 0)
    return float(len(channels) * model.height * model.width * per_pixel)
