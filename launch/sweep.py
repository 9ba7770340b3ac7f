"""Sweeps: an array of fine-tuning runs over variables, lead times, seeds and any other keys, and their results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from climax_hpc.launch.config import Resources
from climax_hpc.launch.executor import Outcome, make_executor, submit_all, wait
from climax_hpc.launch.job import SubcommandJob
from climax_hpc.launch.members import MEMBERS, MemberTable, make_table, write_table
from climax_hpc.launch.results import Results, collect, write_results
from climax_hpc.launch.single_run import subcommand_job

if TYPE_CHECKING:
    import submitit


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A submitted sweep."""

    folder: Path
    table: MemberTable
    jobs: Sequence["submitit.Job[Any]"]
    where: Resources

    def wait(self) -> list[Outcome]:
        """Wait for all members; a failed member raises nothing."""
        return wait(self.jobs, self.where)

    def results(self) -> Results:
        """Wait for all members, then write results.tsv and results.md into the folder and return the table."""
        self.wait()
        results = collect(self.table, self.folder)
        write_results(results, self.folder)
        return results


def sweep(
    settings: str | Path,
    override: Mapping[str, object] | None = None,
    *,
    folder: str | Path,
    where: Resources | None = None,
    task: str = "forecast",
    variables: Sequence[str] = (),
    lead_hours: Sequence[float | str] = (),
    seeds: Sequence[int] = (),
    grid: Mapping[str, Sequence[object]] | None = None,
) -> Sweep:
    """Submit one fine-tuning run per combination of variables, lead times, seeds and other keys, as an array.

    Args:
        settings: config of `climax-hpc finetune`, by name or file.
        override: dotted keys -> values for every member.
        folder: receives members.tsv, a run folder per member, job logs in jobs/, results.tsv and results.md.
        where: executor and resources of each member.
        task: downstream task of every member.
        variables: a member per entry, which holds the registry names that it forecasts.
        lead_hours: a member per entry: a lead time such as 24, or a range such as "6-168" [h].
        seeds: a member per seed.
        grid: dotted key -> values; a member per value.

    Raises:
        UserError: bad settings of a member; nothing is submitted.
    """
    where = where or Resources()
    table, calls = plan_sweep(
        settings, override or {}, Path(folder),
        task=task, variables=variables, lead_hours=lead_hours, seeds=seeds, grid=grid,
    )  # fmt: skip
    executor = make_executor(Path(folder) / "jobs", where, "climax-sweep")
    write_table(table, Path(folder) / MEMBERS)
    return Sweep(folder=Path(folder), table=table, jobs=submit_all(executor, where, calls, may_wait=True), where=where)


def plan_sweep(
    settings: str | Path, override: Mapping[str, object], folder: Path, **axes: Any
) -> tuple[MemberTable, list[SubcommandJob]]:
    """The table of a sweep and the job of every member, with checked settings; writes nothing.

    Raises:
        UserError: as in `sweep`.
    """
    table = make_table(folder.absolute(), **axes)
    return table, [subcommand_job("finetune", settings, override, tuple(m.arguments())) for m in table.members]
