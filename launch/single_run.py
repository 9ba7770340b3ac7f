"""Single runs from Python: `pretrain` and `finetune` as one job, which is requeued after its time limit."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from climax_hpc.launch.config import Resources
from climax_hpc.launch.executor import Outcome, for_stage, make_executor, submit_all, wait
from climax_hpc.launch.job import SubcommandJob
from climax_hpc.launch.scripts import folder_of

if TYPE_CHECKING:
    import submitit


@dataclass(frozen=True, kw_only=True)
class SubmittedRun:
    """A subcommand that was submitted as one job."""

    folder: Path
    """The folder that the subcommand writes to."""
    job: "submitit.Job[Any]"
    where: Resources

    def wait(self) -> Outcome:
        """Wait for its end, including restarts; a failed job raises nothing."""
        return wait([self.job], self.where)[0]


def pretrain(
    settings: str | Path,
    override: Mapping[str, object] | None = None,
    *,
    folder: str | Path,
    where: Resources | None = None,
) -> SubmittedRun:
    """Submit `climax-hpc pretrain`.

    Args:
        settings: name of a packaged config, or a YAML file.
        override: dotted keys -> values on top of it.
        folder: for job logs and pickles; must be your own.
        where: executor and resources; None: Slurm with one task.

    Raises:
        UserError: bad settings, no Slurm on this machine, or a folder of another user; nothing is submitted.
    """
    return submit_subcommand("pretrain", settings, override, folder=folder, where=where)


def finetune(
    settings: str | Path,
    override: Mapping[str, object] | None = None,
    *,
    folder: str | Path,
    where: Resources | None = None,
) -> SubmittedRun:
    """Submit `climax-hpc finetune`; arguments and errors as in `pretrain`."""
    return submit_subcommand("finetune", settings, override, folder=folder, where=where)


def submit_subcommand(
    subcommand: str,
    settings: str | Path,
    override: Mapping[str, object] | None = None,
    *,
    folder: str | Path,
    where: Resources | None = None,
) -> SubmittedRun:
    """Submit any subcommand as one job; arguments and errors as in `pretrain`."""
    where = for_stage(where or Resources(), subcommand)
    call = subcommand_job(subcommand, settings, override or {})
    executor = make_executor(Path(folder), where, f"climax-{subcommand}")
    return SubmittedRun(folder=Path(call.folder), job=submit_all(executor, where, [call])[0], where=where)


def subcommand_job(
    subcommand: str, settings: str | Path, override: Mapping[str, object], more: tuple[str, ...] = ()
) -> SubcommandJob:
    """The job of a subcommand, with checked settings.

    Raises:
        UserError: settings that the subcommand itself would refuse.
    """
    arguments = ("--config", str(settings), *(f"--{key}={value}" for key, value in override.items()), *more)
    folder = folder_of(subcommand, list(arguments)).absolute()
    return SubcommandJob(subcommand=subcommand, arguments=arguments, folder=str(folder))
