"""`climax-hpc doctor`: runs the checks in turn, prints one line each, and fails if one of them fails.

Under a launcher (`srun … climax-hpc doctor`) all ranks make the first checks together, then rank 0 goes on alone.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from climax_hpc.config.paths import ConfigPath
from climax_hpc.config.training import require
from climax_hpc.distributed.launcher import World, detect
from climax_hpc.tools.doctor import gpu_settings, ranks, software, storage
from climax_hpc.tools.doctor.check_result import CheckResult, limited
from climax_hpc.utils.files import write_json

_Check = tuple[str, Callable[[], CheckResult], float]
"""Name, check, time limit [s]."""
_OF_ALL_RANKS = ("all ranks", "all nodes")
_LATE = (
    "ranks are missing or do not reach rank 0: start all with one launcher, set GLOO_SOCKET_IFNAME and "
    "NCCL_SOCKET_IFNAME to the interface of the fast network, or raise --time_limit where Python starts slowly"
)


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """`climax-hpc doctor`: exit status 1 if a check fails, 0 otherwise."""

    folder: ConfigPath = "."
    """Folder whose file system is tested: one for data sets and run folders."""
    dataset: ConfigPath | None = None
    """Packed data set to verify; null: none."""
    time_limit: float = 30.0
    """Time after which a check is abandoned and counts as failed [s]."""
    dataset_time_limit: float | None = None
    """The same for the data set, which is read completely [s]; null: `time_limit`."""
    json: ConfigPath | None = None
    """File for the results as JSON; null: none."""

    def __post_init__(self) -> None:
        require(self.time_limit > 0, f"time_limit = {self.time_limit}: must be positive")
        require(
            self.dataset_time_limit is None or self.dataset_time_limit > 0,
            f"dataset_time_limit = {self.dataset_time_limit}: must be positive",
        )


def doctor(config: DoctorConfig) -> list[CheckResult]:
    """Print and return the results.

    Raises:
        SystemExit: status 1 if a check failed.
    """
    world = detect()
    if not world.is_first:
        return [_run(*check) for check in _together(config, world)]
    print(f"{'check':<12} {'':<4} found")
    results: list[CheckResult] = []
    for check in _checks(config, world):
        results.append(_run(*check))
        print(f"{results[-1].check:<12} {results[-1].status:<4} {results[-1].found}", flush=True)
        if results[-1].fix:
            print(f"{'':<12} ->   {results[-1].fix}", flush=True)
    counts = {status: sum(f.status == status for f in results) for status in ("ok", "warn", "fail")}
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    if config.json:
        write_json(Path(config.json), {"counts": counts, "checks": [asdict(result) for result in results]})
    if counts["fail"]:
        sys.exit(1)
    return results


def _run(name: str, check: Callable[[], CheckResult], limit: float) -> CheckResult:
    start = time.perf_counter()
    result = limited(name, check, limit, late=_LATE) if name in _OF_ALL_RANKS else limited(name, check, limit)
    return replace(result, seconds=round(time.perf_counter() - start, 2))


def _together(config: DoctorConfig, world: World) -> Iterator[_Check]:
    """What all ranks of a launcher check together; torch is imported by them only."""
    if world.size > 1:
        from climax_hpc.tools.doctor import all_ranks

        yield _OF_ALL_RANKS[0], lambda: all_ranks.collectives(world), config.time_limit
        if all_ranks.have_met():
            yield _OF_ALL_RANKS[1], lambda: all_ranks.shared_folder(Path(config.folder)), config.time_limit


def _checks(config: DoctorConfig, world: World) -> Iterator[_Check]:
    limit = config.time_limit
    inner = 0.95 * limit  # programs end before their check is abandoned, so that none is left running
    yield from _together(config, world)
    yield "python", software.python, limit
    yield "packages", software.packages, limit
    yield "devices", software.devices, limit
    if gpu_settings.apply():
        yield "gpu settings", gpu_settings.gpu_settings, limit
    yield "deepspeed", lambda: software.deepspeed(inner), limit
    yield "triton", lambda: software.triton(inner), limit
    yield "host name", ranks.host_name, limit
    if world.size == 1:  # no mpiexec inside the ranks of another launcher
        yield "mpi", lambda: ranks.mpi(inner), limit
    yield "slurm", lambda: ranks.slurm(inner), limit
    if world.size == 1:
        yield "collectives", lambda: ranks.collectives(inner), limit
    yield "open files", storage.open_files, limit
    yield "file locks", lambda: storage.file_locks(Path(config.folder)), limit
    yield "file system", lambda: storage.file_system(Path(config.folder)), limit
    if config.dataset is not None:
        folder = Path(config.dataset)
        yield "data set", lambda: storage.dataset(folder), config.dataset_time_limit or limit
