"""`climax-hpc plan`: combines memory, arithmetic, communication and reading of a training run."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from climax_hpc.fields.variables import lookup
from climax_hpc.kernels.devices import Device
from climax_hpc.tools.plan.communication import seconds, step_communication
from climax_hpc.tools.plan.config import PlanConfig
from climax_hpc.tools.plan.devices import find_device
from climax_hpc.tools.plan.host import checkpoint_bytes
from climax_hpc.tools.plan.memory import Memory, plan_memory
from climax_hpc.tools.plan.micro_batch import fillings
from climax_hpc.tools.plan.muon import ELEMENT_BYTES, muon_flop
from climax_hpc.tools.plan.report import as_text
from climax_hpc.tools.plan.result import Plan
from climax_hpc.training.flop import step_flop
from climax_hpc.training.shape import Shape
from climax_hpc.utils.files import write_json

_FLOAT16, _FLOAT32 = 2, 4
_ADAMW_BYTES = 28  # per parameter: read gradient, master weight and two moments, write the last three, in float32


def plan(config: PlanConfig) -> Plan:
    """Print the plan, and write it as JSON if requested.

    Raises:
        UserError: unknown device, or devices that cannot share the micro-batches of a step.
    """
    made = make_plan(config)
    print(as_text(made))
    if config.json:
        write_json(Path(config.json), made.to_dict())
    return made


def make_plan(config: PlanConfig) -> Plan:
    """The plan of a config, from sizes and published figures of the device."""
    device = _device(config)
    per_node = config.devices_per_node or _sharing(config, device.per_node)
    ranks = config.nodes * per_node
    shape, train = Shape.of(config, ranks), config.train
    anomaly = config.model.output_mode == "anomaly"
    sample_bytes = _sample_bytes(config, anomaly=anomaly)

    def memory_of(shape: Shape) -> Memory:
        return plan_memory(
            shape, train, config.optimizer, anomaly=anomaly, cuda=device.is_gpu,
            read_ahead=(config.data.prefetch_micro_batches + 1) * shape.B * sample_bytes,
        )  # fmt: skip

    available = device.memory * (1 - config.memory_reserve)
    if not device.is_gpu:  # its memory is the host's
        available -= checkpoint_bytes(shape, train, per_node=1)
    flop = {part: float(value) * shape.micro_batches_per_rank for part, value in step_flop(shape).items()}
    rate = device.float32 if train.precision == "float32" else device.bfloat16
    memory = memory_of(shape)
    largest = _largest(lambda B: memory_of(replace(shape, B=B)), available)
    # Every activation is written once and read once; every parameter is read in both passes.
    traffic = shape.micro_batches_per_rank * 2 * (memory.activations + memory.parameters)
    compute = max(sum(flop.values()) / rate, traffic / device.bandwidth)
    written = _ADAMW_BYTES * (shape.n - shape.in_matrices) + ELEMENT_BYTES * shape.in_matrices
    products = muon_flop(shape) / ranks / (device.bfloat16 if device.is_gpu else device.float32)
    optimiser = written / (ranks if train.zero_stage else 1) / device.bandwidth + products
    sent = step_communication(shape, train)
    # The ranks that share a sample are consecutive.
    volumes = ((sent.gradients + sent.parameters, config.nodes), (sent.attention, -(-shape.sequence // per_node)))
    communication = sum(
        seconds(volume, nodes=nodes, ranks=ranks, link=device.link, network=device.network) for volume, nodes in volumes
    )
    step = compute + optimiser + communication
    expected = (compute + optimiser) / config.utilisation + communication
    samples = config.data.micro_batch_size * config.data.micro_batches_per_step
    return Plan(
        device=config.device, device_source=device.source, nodes=config.nodes, devices_per_node=per_node,
        idle_per_node=0 if config.devices_per_node else device.per_node - per_node,
        sequence_parallel=shape.sequence, parameters=shape.n, samples_per_step=samples,
        micro_batches_per_rank=shape.micro_batches_per_rank,
        memory=memory, memory_available=available, largest_micro_batch_size=largest,
        fillings=fillings(shape, memory_of, reserve=config.memory_reserve),
        checkpoint_bytes=checkpoint_bytes(shape, train, per_node=per_node),
        flop=flop, compute_seconds=compute, optimiser_seconds=optimiser,
        communication_bytes=asdict(sent), communication_seconds=communication,
        step_seconds=step, utilisation=config.utilisation, expected_step_seconds=expected,
        samples_per_second=samples / step, expected_samples_per_second=samples / expected,
        steps=train.steps, days=train.steps * step / 86400, expected_days=train.steps * expected / 86400,
        read_bytes_per_second=samples / expected * sample_bytes,
    )  # fmt: skip


def _sharing(config: PlanConfig, most: int) -> int:
    """The most devices of each node that can share the micro-batches of a step; all of them if no number can."""
    parts, sequence = config.data.micro_batches_per_step, config.train.sequence_parallel

    def suits(devices: int) -> bool:
        return devices % sequence == 0 and parts % (devices // sequence) == 0

    return next((per_node for per_node in range(most, 0, -1) if suits(config.nodes * per_node)), most)


def _device(config: PlanConfig) -> Device:
    device = find_device(config.device)
    return replace(
        device,
        memory=config.memory_gb * 1e9 if config.memory_gb else device.memory,
        link=config.link_gb_per_s * 1e9 if config.link_gb_per_s else device.link,
        network=config.network_gb_per_s * 1e9 if config.network_gb_per_s else device.network,
    )


def _sample_bytes(config: PlanConfig, *, anomaly: bool) -> float:
    """Bytes read per sample: input and target in float16 shards, and both climatologies in float32."""
    model = config.model
    channels = [v for v in config.data.in_variables or model.variables if lookup(v).can_be_forecast]
    per_pixel = 2 * _FLOAT16 + (2 * _FLOAT32 if anomaly else 0)
    return float(len(channels) * model.height * model.width * per_pixel)


def _largest(memory_of: Any, available: float) -> int:
    """Largest micro-batch that fits; memory increases with its size."""
    low, high = 0, 1
    while memory_of(high).total <= available:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if memory_of(middle).total <= available else (low, middle)
    return low
