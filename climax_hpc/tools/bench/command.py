"""`climax-hpc bench command`: the wall time of a command, as a row like those of the other benchmarks."""

import shlex
import subprocess
import time
from dataclasses import dataclass
from typing import Any

import torch

from climax_hpc.config.training import require
from climax_hpc.errors import UserError
from climax_hpc.kernels.benchmarking import Row, device_name
from climax_hpc.tools.bench.output import OutputConfig, ResultTable


@dataclass(frozen=True, kw_only=True)
class CommandConfig(OutputConfig):
    """`climax-hpc bench command "make demo" --limit_seconds 360`: wall time of one run."""

    command: str
    """The command, as typed in a shell but without shell operators; runs in the current folder."""
    limit_seconds: float
    """Time limit to compare with [s]; the baseline of the row."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.command.strip()), "command is empty; give one, such as 'make demo'")
        require(self.limit_seconds > 0, "limit_seconds must be positive")


def bench(config: CommandConfig) -> list[dict[str, Any]]:
    """Run the command, print the table, write the files.

    Raises:
        UserError: there is no such command, or it fails; no row is written then.
    """
    start = time.perf_counter()
    try:
        status = subprocess.run(shlex.split(config.command)).returncode
    except (OSError, ValueError) as error:
        raise UserError(f"command: cannot run {config.command!r} ({error})") from None
    seconds = time.perf_counter() - start
    if status:
        raise UserError(f"command: {config.command!r} ended with exit status {status}; its time is not recorded")
    table = ResultTable(config)
    device = device_name(torch.device("cpu"))
    row = Row(
        case=config.command, metric="time", against="limit", ours=seconds, baseline=config.limit_seconds, unit="s",
        device=device,
    )  # fmt: skip
    table.add([row])
    return table.rows
