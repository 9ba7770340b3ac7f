"""The table of devices: memory, bandwidths and rates that their makers publish, and the compile target of each GPU.

The planner, the roofline and the ahead-of-time compiler read it. A new GPU is one entry in DEVICES, and one in TARGETS
where its instruction set is new.

Rates are dense peaks, of the matrix units where the device has them for that precision; float32 is without TF32, as in
PyTorch by default. `link` is one direction within a node: all NVLinks of a GPU together, because rings use them all at
once, and the slowest direct connection between two AMD devices. `network` is one direction out of the node, a device's
share. Both differ between machines, so `climax-hpc plan` can override them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CompileTarget:
    """What one compile target allows a kernel."""

    shared_bytes: int
    """Shared memory that one program may use; the compiler does not enforce it."""
    tensor_columns: int = 0
    """Columns of tensor memory; a kernel that asks for more compiles to a bare trap without an error."""
    warp: int = 32
    """Threads of a warp (NVIDIA) or wavefront (AMD)."""


TARGETS = {
    "sm_80": CompileTarget(shared_bytes=163 << 10),
    "sm_90": CompileTarget(shared_bytes=227 << 10),
    "sm_100": CompileTarget(shared_bytes=227 << 10, tensor_columns=512),
    "gfx90a": CompileTarget(shared_bytes=64 << 10, warp=64),
    "gfx942": CompileTarget(shared_bytes=64 << 10, warp=64),
}
"""Compile target -> limits (CUDA C++ programming guide, compute capabilities; LDS size in AMD's CDNA ISA guides)."""


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
    target: str | None = None
    """Key of TARGETS; None for a processor."""
    driver_name: str = ""
    """The whole name that the driver gives it (`torch.cuda.get_device_name`). Models with other rates, such as PCIe
    cards, have other names."""

    @property
    def is_gpu(self) -> bool:
        """On a GPU, PyTorch's dropout masks are bytes and its AdamW updates all tensors at once."""
        return self.target is not None


_A100 = "NVIDIA A100 SXM data sheet: NVLink 600 GB/s both ways; network: Perlmutter, 200 Gb/s a GPU"
_H100 = "NVIDIA {} SXM data sheet: NVLink 900 GB/s both ways; network: DGX, 400 Gb/s a GPU"
DEVICES = {
    "a100-40": Device(
        memory=40e9, bandwidth=1.555e12, float32=19.5e12, bfloat16=312e12, link=300e9, network=25e9, per_node=4,
        driver_name="NVIDIA A100-SXM4-40GB", target="sm_80", source=_A100,
    ),
    "a100-80": Device(
        memory=80e9, bandwidth=2.039e12, float32=19.5e12, bfloat16=312e12, link=300e9, network=25e9, per_node=4,
        driver_name="NVIDIA A100-SXM4-80GB", target="sm_80", source=_A100,
    ),
    "h100": Device(
        memory=80e9, bandwidth=3.35e12, float32=67e12, bfloat16=989e12, link=450e9, network=50e9, per_node=8,
        driver_name="NVIDIA H100 80GB HBM3", target="sm_90", source=_H100.format("H100"),
    ),
    "h200": Device(
        memory=141e9, bandwidth=4.8e12, float32=67e12, bfloat16=989e12, link=450e9, network=50e9, per_node=8,
        driver_name="NVIDIA H200", target="sm_90", source=_H100.format("H200"),
    ),
    "b200": Device(
        memory=180e9, bandwidth=8.0e12, float32=80e12, bfloat16=2250e12, link=900e9, network=50e9, per_node=8,
        driver_name="NVIDIA B200", target="sm_100",
        source="NVIDIA Blackwell architecture brief, HGX B200 at 1000 W; memory, network: DGX B200, 400 Gb/s a GPU",
    ),
    "mi250x-gcd": Device(
        memory=64e9, bandwidth=1.6384e12, float32=47.9e12, bfloat16=191.5e12, link=50e9, network=12.5e9, per_node=8,
        driver_name="AMD Instinct MI250X", target="gfx90a",
        source="AMD MI250X data sheet, half a module; link, network: OLCF Frontier user guide, 4 × 200 Gb/s a node",
    ),
    "mi300a": Device(
        memory=128e9, bandwidth=5.3e12, float32=122.6e12, bfloat16=980.6e12, link=128e9, network=25e9, per_node=4,
        driver_name="AMD Instinct MI300A", target="gfx942",
        source="AMD MI300A data sheet; link: LLNL, 256 GB/s both ways between two; network: 200 Gb/s an APU, assumed",
    ),
    "mi300x": Device(
        memory=192e9, bandwidth=5.3e12, float32=163.4e12, bfloat16=1307.4e12, link=64e9, network=50e9, per_node=8,
        driver_name="AMD Instinct MI300X", target="gfx942",
        source="AMD MI300X data sheet; link: 128 GB/s both ways between two; network: 400 Gb/s a GPU, assumed",
    ),
    "cpu": Device(
        memory=256e9, bandwidth=409.6e9, float32=10.0e12, bfloat16=10.0e12, link=36e9, network=25e9, per_node=1,
        source="two AMD EPYC 7763: 128 cores × 2.45 GHz × 32 FLOP, 16 × DDR4-3200, no bfloat16 units; memory: LUMI-C; "
        "link: one xGMI of 18 GT/s; network: Perlmutter, 200 Gb/s a node",
    ),
}  # fmt: skip
"""Name -> published figures.

Looked up in November 2026, on pages that quote the data sheets where the makers' own could not be reached. MI250X:
ROCm's page on its memory (3276.8 GB/s a module); GPUOpen's 256 float32 and 1024 bfloat16 FLOP a clock and compute unit
× 110 × 1.7 GHz. Links, networks and devices of a node: user guides of the computing centres.
"""
GPUS = {name: device for name, device in DEVICES.items() if device.is_gpu}


def device_named(driver_name: str) -> Device | None:
    """The GPU that a driver calls by this name; None if it is not in the table."""
    return next((device for device in DEVICES.values() if device.driver_name == driver_name and device.is_gpu), None)
