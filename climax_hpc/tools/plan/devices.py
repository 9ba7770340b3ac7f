"""The device that a run is planned for: an entry of the table of published figures, or this machine, measured."""

import os
from dataclasses import replace

from climax_hpc.config.parser import nearest
from climax_hpc.errors import UserError
from climax_hpc.kernels.benchmarking import Machine, Stopwatch
from climax_hpc.kernels.devices import DEVICES, Device
from climax_hpc.tools.plan.config import PlanConfig


def chosen_device(config: PlanConfig) -> Device:
    """The device of a config, with the figures that it replaces.

    Raises:
        UserError: unknown name.
    """
    device = find_device(config.device)
    return replace(
        device,
        memory=config.memory_gb * 1e9 if config.memory_gb else device.memory,
        link=config.link_gb_per_s * 1e9 if config.link_gb_per_s else device.link,
        network=config.network_gb_per_s * 1e9 if config.network_gb_per_s else device.network,
    )


def find_device(name: str) -> Device:
    """The device of that name; `this` measures this machine.

    Raises:
        UserError: unknown name.
    """
    if name == "this":
        return measure_this()
    if name not in DEVICES:
        raise UserError(f"device: unknown {name!r}{nearest(name, DEVICES)}; use this, or one of {', '.join(DEVICES)}")
    return DEVICES[name]


def measure_this() -> Device:
    """This machine's processor: memory, copy bandwidth and the rate of matrix products, measured now."""
    machine = Machine.measure(Stopwatch())
    return Device(
        memory=float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        bandwidth=machine.bytes_per_second,
        float32=machine.flop_per_second,
        bfloat16=machine.flop_per_second,
        link=machine.bytes_per_second / 2,
        network=machine.bytes_per_second / 2,
        per_node=1,
        source="this machine's processor, measured: copy and float32 matrix product",
    )
