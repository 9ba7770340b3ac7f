"""Single runs: `pretrain` and `finetune` from Python, as one job that survives its time limit."""

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
    """A verb that was submitted as one job."""

    folder: Path
    """The folder that the verb writes to."""
    job: "submitit.Job[Any]"
    where: Resources

    def wait(self) -> Outcome:
        """Wait for its end, over all restarts; a failure is told, not raised."""
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
        settings: name of a shipped config, or a YAML file.
        override: dotted keys -> values on top of it.
        folder: for job logs (and pickles: a folder of your own).
        where: executor and resources; Slurm with one task where None.

    Raises:
        UserError: bad settings, no Slurm here, or a folder of somebody else; nothing is submitted then.
    """
    return submit_subcommand("pretrain", settings, override, folder=folder, where=where)


def finetune(
    settings: str | Path,
    override: Mapping[str, object] | None = None,
    *,
    folder: str | Path,
    where: Resources | None = None,
) -> SubmittedRun:
    """Submit `climax-hpc finetune`; arguments and errors as `pretrain`."""
    return submit_subcommand("finetune", settings, override, folder=folder, where=where)


def submit_subcommand(
    verb: str,
    settings: str | Path,
    override: Mapping[str, object] | None = None,
    *,
    folder: str | Path,
    where: Resources | None = None,
) -> SubmittedRun:
    """Submit any verb as one job; arguments and errors as `pretrain`."""
    where = for_stage(where or Resources(), verb)
    call = subcommand_job(verb, settings, override or {})
    executor = make_executor(Path(folder), where, f"climax-{verb}")
    return SubmittedRun(folder=Path(call.folder), job=submit_all(executor, where, [call])[0], where=where)


def subcommand_job(
    verb: str, settings: str | Path, override: Mapping[str, object], more: tuple[str, ...] = ()
) -> SubcommandJob:
    """The job of a verb, its settings checked.

    Raises:
        UserError: as the verb itself would say.
    """
    arguments = ("--config", str(settings), *(f"--{key}={value}" for key, value in override.items()), *more)
    folder = folder_of(verb, list(arguments)).absolute()
    return SubcommandJob(verb=verb, arguments=arguments, folder=str(folder))
