"""Stages `environment` (what runs here) and `ceilings` (plain copy and plain matrix product)."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import partial
from importlib import metadata

import torch

from benchmarks.gpu_day.record import Record
from benchmarks.gpu_day.timing import device, seconds
from climax_hpc.kernels.benchmarking import device_name

PACKAGES = ("torch", "triton", "numpy", "deepspeed", "h5py")


def environment(record: Record) -> None:
    """Device, driver, versions, date: the header of the result."""
    record.header = {
        "device": device_name(device()),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": os.environ.get("COMMIT") or _output("git", "rev-parse", "HEAD"),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }
    record.save()
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        record.add("multiprocessors", properties.multi_processor_count, "1")
        record.add("device_memory", properties.total_memory, "B")
        record.add("second_level_cache", properties.L2_cache_size, "B")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def ceilings(record: Record) -> None:
    """Copy bandwidth, read and written bytes counted; matrix rates of random data."""
    on = device()
    numbers, edge = (1 << 20, 128) if record.rehearsal else (1 << 29, 8192)
    source = torch.randn(numbers, device=on)
    target = torch.empty_like(source)
    time = seconds(partial(target.copy_, source))
    record.add("copy_bandwidth", 2 * source.nbytes / time.median, "B/s", bytes=2 * source.nbytes)
    for name, dtype in (("bf16_matrix_rate", torch.bfloat16), ("float32_matrix_rate", torch.float32)):
        a, b = (torch.randn(edge, edge, device=on, dtype=dtype) for _ in range(2))
        time = seconds(partial(torch.mm, a, b))
        record.add(name, 2 * edge**3 / time.median, "FLOP/s", edge=edge)
