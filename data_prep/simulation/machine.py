"""How many sources a machine can simulate at the same time: its cores, its memory, and what a source needs."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from climax_hpc.data_prep.simulation.config import STEP, SimulateConfig, Source, segments
from climax_hpc.data_prep.simulation.driver_settings import BLOCK_DAYS, GRID_SHAPE, variables

_GB = 1e9
_MODEL_BYTES = 1.5e9  # resident memory of a T21 run on the way: Python, JAX and the compiled model
_BYTES_PER_VALUE = 26  # of the variable being written: float32 on disk; float64, steps and int16 in memory
_FIELDS = 60  # three-dimensional fields of a block of output, in single precision
_CGROUPS = Path("/sys/fs/cgroup")


def memory_of(config: SimulateConfig) -> float:
    """Memory that the simulation of one source needs at most [bytes]."""
    rows, columns = GRID_SHAPE[config.truncation]
    steps = max((last - first) // STEP + 1 for first, last in segments(config))
    levels = max(len(of_variable) or 1 for of_variable in variables(config).values())
    block = BLOCK_DAYS * 4 * config.layers * _FIELDS * 4
    return _MODEL_BYTES + rows * columns * (steps * levels * _BYTES_PER_VALUE + block)


def default_jobs(sources: Sequence[Source]) -> tuple[int, str]:
    """Number of sources at the same time for a config without `jobs`, and why, in words."""
    cores, free = usable_cores(), free_memory()
    need = max(memory_of(source.config) for source in sources)
    jobs = max(1, min(len(sources), cores, int(free // need)))
    return jobs, f"{cores} cores, {free / _GB:.1f} GB of memory free, up to {need / _GB:.1f} GB each"


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and the quotas of its control groups."""
    cores = float(len(os.sched_getaffinity(0)))
    for group in _control_groups():
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if quota.isdigit() and period.strip().isdigit():
            cores = min(cores, int(quota) / int(period))
    return max(1, int(cores))


def free_memory() -> float:
    """Memory that can be had without swapping [bytes], also within the limits of the control groups."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    for group in _control_groups():
        limit, used = _read(group / "memory.max"), _read(group / "memory.current")
        if limit.isdigit() and used.isdigit():
            free = min(free, float(limit) - float(used))
    return max(free, 0.0)


def _control_groups() -> Iterator[Path]:
    """Folders of the control groups (version 2) of this process, outermost first."""
    own = next((line[3:] for line in _read(Path("/proc/self/cgroup")).splitlines() if line.startswith("0::")), "/")
    folder = _CGROUPS
    yield folder
    for part in Path(own.lstrip("/")).parts:
        folder /= part
        yield folder


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
