"""`climax-hpc doctor`: runs the checks in turn, prints one line each, and fails if one of them fails."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from climax_hpc.config.paths import ConfigPath
from climax_hpc.config.training import require
from climax_hpc.tools.doctor import ranks, software, storage
from climax_hpc.tools.doctor.check_result import CheckResult, limited
from climax_hpc.utils.files import write_json


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
    print(f"{'check':<12} {'':<4} found")
    results: list[CheckResult] = []
    for name, check, limit in _checks(config):
        start = time.perf_counter()
        result = replace(limited(name, check, limit), seconds=round(time.perf_counter() - start, 2))
        results.append(result)
        print(f"{result.check:<12} {result.status:<4} {result.found}", flush=True)
        if result.fix:
            print(f"{'':<12} ->   {result.fix}", flush=True)
    counts = {status: sum(f.status == status for f in results) for status in ("ok", "warn", "fail")}
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    if config.json:
        write_json(Path(config.json), {"counts": counts, "checks": [asdict(result) for result in results]})
    if counts["fail"]:
        sys.exit(1)
    return results


def _checks(config: DoctorConfig) -> Iterator[tuple[str, Callable[[], CheckResult], float]]:
    limit = config.time_limit
    inner = 0.95 * limit  # programs end before their check is abandoned, so that none is left running
    yield "python", software.python, limit
    yield "packages", software.packages, limit
    yield "devices", software.devices, limit
    yield "deepspeed", lambda: software.deepspeed(inner), limit
    yield "triton", lambda: software.triton(inner), limit
    yield "host name", ranks.host_name, limit
    yield "mpi", lambda: ranks.mpi(inner), limit
    yield "slurm", lambda: ranks.slurm(inner), limit
    yield "collectives", lambda: ranks.collectives(inner), limit
    yield "file system", lambda: storage.file_system(Path(config.folder)), limit
    if config.dataset is not None:
        folder = Path(config.dataset)
        yield "data set", lambda: storage.dataset(folder), config.dataset_time_limit or limit
