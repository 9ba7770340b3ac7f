"""`climax-hpc plan`: combines memory, arithmetic, communication and reading of a training run."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from climax_hpc.tools.plan.config import PlanConfig
from climax_hpc.tools.plan.devices import chosen_device
from climax_hpc.tools.plan.estimate import estimate, memory_of, sample_bytes
from climax_hpc.tools.plan.host import checkpoint_bytes
from climax_hpc.tools.plan.micro_batch import fillings
from climax_hpc.tools.plan.report import as_text
from climax_hpc.tools.plan.result import Plan
from climax_hpc.tools.plan.search import print_search
from climax_hpc.utils.files import write_json


def plan(config: PlanConfig) -> Plan | None:
    """Print the plan, and write it as JSON if requested; with `search`, the layouts that fit instead.

    Raises:
        UserError: unknown device, or devices that cannot share the micro-batches of a step.
    """
    if config.search:
        print_search(config)
        return None
    made = make_plan(config)
    print(as_text(made))
    if config.json:
        write_json(Path(config.json), made.to_dict())
    return made


def make_plan(config: PlanConfig) -> Plan:
    """The plan of a config, from sizes and published figures of the device."""
    device = chosen_device(config)
    per_node = config.devices_per_node or _sharing(config, device.per_node)
    found, train, planned = estimate(config, device, per_node), config.train, memory_of(config, device)
    shape, step, expected = found.shape, found.step, found.expected
    samples = config.data.micro_batch_size * config.data.micro_batches_per_step
    return Plan(
        device=config.device, device_source=device.source, nodes=config.nodes, devices_per_node=per_node,
        idle_per_node=0 if config.devices_per_node else device.per_node - per_node,
        sequence_parallel=shape.sequence, parameters=shape.n, samples_per_step=samples,
        micro_batches_per_rank=shape.micro_batches_per_rank,
        memory=found.memory, memory_available=found.available,
        largest_micro_batch_size=_largest(lambda B: planned(replace(shape, B=B)), found.available),
        fillings=fillings(shape, planned, reserve=config.memory_reserve),
        checkpoint_bytes=checkpoint_bytes(shape, train, per_node=per_node),
        flop=found.flop, compute_seconds=found.compute, optimiser_seconds=found.optimiser,
        communication_bytes=asdict(found.sent), communication_seconds=found.communication,
        step_seconds=step, utilisation=config.utilisation, expected_step_seconds=expected,
        samples_per_second=samples / step, expected_samples_per_second=samples / expected,
        steps=train.steps, days=train.steps * step / 86400, expected_days=train.steps * expected / 86400,
        read_bytes_per_second=samples / expected * sample_bytes(config),
    )  # fmt: skip


def _sharing(config: PlanConfig, most: int) -> int:
    """The most devices of each node that can share the micro-batches of a step; all of them if no number can."""
    parts, sequence, hpz = config.data.micro_batches_per_step, config.train.sequence_parallel, config.train.zero_hpz

    def suits(devices: int) -> bool:
        return devices % sequence == 0 and devices % hpz == 0 and parts % (devices // sequence) == 0

    return next((per_node for per_node in range(most, 0, -1) if suits(config.nodes * per_node)), most)


def _largest(memory_of: Any, available: float) -> int:
    """Largest micro-batch that fits; memory increases with its size."""
    low, high = 0, 1
    while memory_of(high).total <= available:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if memory_of(middle).total <= available else (low, middle)
    return low
