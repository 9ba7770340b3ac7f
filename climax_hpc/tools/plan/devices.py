"""Published figures of the devices that a run can be planned for, each with its source; and this machine, measured.

Rates are the makers' dense peaks, of matrix units where the device has them for that precision (float32 without TF32,
PyTorch's default). A MI250X is two devices (GCDs). `link` is one direction within a node: all of a device's NVLinks,
because rings run over all of them at once, and the slowest direct connection of two of AMD's devices. `network` is one
direction from a device out of its node. Both differ between machines, so the config can replace them.

Looked up in November 2026, where makers' sheets could not be reached in pages that quote them: memory, bandwidth and
rates of A100, H100, H200 and MI300A; AMD's own pages for MI250X (ROCm's on its memory; GPUOpen's 256 float32 and 1024
bfloat16 FLOP a clock and compute unit × 110 × 1.7 GHz); the centres' user guides for links, networks and devices of a
node. Not confirmed: one 200 Gb/s port for each MI300A of El Capitan.
"""

import os
from dataclasses import dataclass

from climax_hpc.config.parser import nearest
from climax_hpc.errors import UserError
from climax_hpc.kernels.benchmarking import Machine, Stopwatch


@dataclass(frozen=True, kw_only=True)
class Device:
    """One device; bytes, bytes/s and FLOP/s."""

    memory: float
    bandwidth: float
    float32: float
    bfloat16: float
    link: float
    network: float
    per_node: int
    source: str
    is_gpu: bool = True
    """Whether dropout masks are bytes and AdamW works on all tensors at once, as PyTorch does on GPUs."""


_A100 = "NVIDIA A100 SXM data sheet: NVLink 600 GB/s both ways; network: Perlmutter, 200 Gb/s a GPU"
_H100 = "NVIDIA {} SXM data sheet: NVLink 900 GB/s both ways; network: DGX, 400 Gb/s a GPU"
DEVICES = {
    "a100-40": Device(
        memory=40e9, bandwidth=1.555e12, float32=19.5e12, bfloat16=312e12, link=300e9, network=25e9, per_node=4,
        source=_A100,
    ),
    "a100-80": Device(
        memory=80e9, bandwidth=2.039e12, float32=19.5e12, bfloat16=312e12, link=300e9, network=25e9, per_node=4,
        source=_A100,
    ),
    "h100": Device(
        memory=80e9, bandwidth=3.35e12, float32=67e12, bfloat16=989e12, link=450e9, network=50e9, per_node=8,
        source=_H100.format("H100"),
    ),
    "h200": Device(
        memory=141e9, bandwidth=4.8e12, float32=67e12, bfloat16=989e12, link=450e9, network=50e9, per_node=8,
        source=_H100.format("H200"),
    ),
    "mi250x-gcd": Device(
        memory=64e9, bandwidth=1.6384e12, float32=47.9e12, bfloat16=191.5e12, link=50e9, network=12.5e9, per_node=8,
        source="AMD MI250X data sheet, half a module; link, network: OLCF Frontier user guide, 4 × 200 Gb/s a node",
    ),
    "mi300a": Device(
        memory=128e9, bandwidth=5.3e12, float32=122.6e12, bfloat16=980.6e12, link=128e9, network=25e9, per_node=4,
        source="AMD MI300A data sheet; link: LLNL, 256 GB/s both ways between two; network: 200 Gb/s an APU, assumed",
    ),
    "cpu": Device(
        memory=256e9, bandwidth=409.6e9, float32=10.0e12, bfloat16=10.0e12, link=36e9, network=25e9, per_node=1,
        source="two AMD EPYC 7763: 128 cores × 2.45 GHz × 32 FLOP, 16 × DDR4-3200, no bfloat16 units; memory: LUMI-C; "
        "link: one xGMI of 18 GT/s; network: Perlmutter, 200 Gb/s a node",
        is_gpu=False,
    ),
}  # fmt: skip


def find_device(name: str) -> Device:
    """The device of that name; `this` measures the machine at hand.

    Raises:
        UserError: unknown name.
    """
    if name == "this":
        return measure_this()
    if name not in DEVICES:
        raise UserError(f"device: {name!r} unknown{nearest(name, DEVICES)}; use this, or one of {', '.join(DEVICES)}")
    return DEVICES[name]


def measure_this() -> Device:
    """This machine's processor: memory, copy bandwidth and the rates of matrix products, measured now."""
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
        is_gpu=False,
    )
