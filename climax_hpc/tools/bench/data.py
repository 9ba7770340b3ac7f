"""`climax-hpc bench data`: the packer and the loader against the usual alternatives."""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from climax_hpc.config.training import require
from climax_hpc.errors import UserError
from climax_hpc.kernels.benchmarking import Row, WrongResult
from climax_hpc.tools.bench import data_assembly, data_bands, data_loader, data_packing, data_stores
from climax_hpc.tools.bench.output import OutputConfig, ResultTable
from climax_hpc.utils.bounds import bounded

CASES: dict[str, Callable[[str, int], Sequence[Row]]] = {
    case: suite.rows_of
    for suite in (data_loader, data_assembly, data_bands, data_packing, data_stores)
    for case in suite.CASES
}


@dataclass(frozen=True, kw_only=True)
class DataBenchConfig(OutputConfig):
    """`climax-hpc bench data`: every row compares ours with a baseline; ratio > 1: ours is better.

    Needs up to 3 GB below TMPDIR, removed after each case.
    """

    cases: list[str] | None = None
    """Cases to run; null: all."""
    repeats: int = bounded(5, 10_000)
    """Number of runs, interleaved with those of the baselines; the median is reported."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [case for case in self.cases or () if case not in CASES]
        require(not unknown, f"cases: {', '.join(unknown)} unknown; use some of {', '.join(CASES)}")
        require(self.repeats >= 1, f"repeats = {self.repeats}: must be at least 1")


def bench(config: DataBenchConfig) -> list[dict[str, Any]]:
    """Print the table case by case, write the files, return the rows.

    Raises:
        UserError: ours and a baseline give different results; no row of that case is shown.
    """
    print(f"{platform.machine()}, Python {platform.python_version()}, wall-clock time")
    table = ResultTable(config)
    for case in config.cases or CASES:
        try:
            table.add(CASES[case](case, config.repeats))
        except WrongResult as error:
            raise UserError(f"{case}: {error}") from None
    return table.rows
