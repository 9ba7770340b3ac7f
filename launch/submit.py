"""`climax-hpc submit`: the command line of job submission."""

import shlex
from dataclasses import asdict
from pathlib import Path

from climax_hpc.errors import UserError
from climax_hpc.launch.arrays import array_size, split
from climax_hpc.launch.config import SubmitConfig
from climax_hpc.launch.executor import Outcome
from climax_hpc.launch.members import MEMBERS, write_table
from climax_hpc.launch.pipeline import Pipeline, graph_of, pipeline, plan_pipeline
from climax_hpc.launch.single_run import SubmittedRun, subcommand_job, submit_subcommand
from climax_hpc.launch.sweep import Sweep, plan_sweep, sweep


def submit(config: SubmitConfig) -> None:
    """Submit a run, a sweep or a pipeline; with `wait`, print its results.

    Raises:
        UserError: bad settings, before anything is submitted; with `wait`, a run or stage that failed.
    """
    folder = Path(config.folder)
    if config.dry_run:
        _show(config, folder)
    elif config.what == "sweep":
        _sweep(config, folder)
    elif config.what == "pipeline":
        _pipeline(config, folder)
    else:
        assert config.settings
        run = submit_subcommand(config.what, config.settings, config.override, folder=folder, where=config.where)
        print(f"{config.what} is job {run.job.job_id}: climax-hpc status {shlex.quote(str(run.folder))}", flush=True)
        if config.wait or config.where.executor == "debug":  # which runs a job when its result is asked for
            _wait(run)


def _wait(run: SubmittedRun) -> None:
    outcome = run.wait()
    if not outcome.ok:
        raise UserError(outcome.message)
    print(f"finished: {run.folder}")


def _sweep(config: SubmitConfig, folder: Path) -> None:
    assert config.settings
    axes = asdict(config.sweep)
    sent: Sweep = sweep(config.settings, config.override, folder=folder, where=config.where, **axes)
    ids = sorted({job.job_id.split("_")[0] for job in sent.jobs})
    print(f"{len(sent.jobs)} members of {folder / MEMBERS} are job {', '.join(ids)}", flush=True)
    if config.wait or config.where.executor == "debug":
        print(sent.results().to_markdown(), end="")


def _pipeline(config: SubmitConfig, folder: Path) -> None:
    sent: Pipeline = pipeline(
        config.stages, folder=folder, where=config.where, stage_where=config.stage_where,
        sweep=config.sweep, override=config.override,
    )  # fmt: skip
    print(f"{sum(map(len, sent.jobs.values()))} jobs: {folder / 'graph.tsv'}", flush=True)
    if not config.wait and config.where.executor == "slurm":
        return
    outcomes = sent.wait()
    if sent.plan.table.members:
        print(sent.results().to_markdown(), end="")
    failed = {stage: first for stage, found in outcomes.items() if (first := _first_failure(found))}
    if failed:
        stage, message = next(iter(failed.items()))
        raise UserError(f"stage {stage} failed: {message}; logs are in {folder / 'jobs'}")


def _first_failure(outcomes: list[Outcome]) -> str:
    return next((outcome.message for outcome in outcomes if not outcome.ok), "")


def _show(config: SubmitConfig, folder: Path) -> None:
    """Print the commands without submitting; writes the table of a sweep, for `slurm/finetune_array.sh`."""
    if config.what == "pipeline":
        print(graph_of(plan_pipeline(config.stages, folder.absolute(), config.sweep, config.override)), end="")
        return
    assert config.settings
    if config.what == "sweep":
        table, _ = plan_sweep(config.settings, config.override, folder, **asdict(config.sweep))
        write_table(table, folder / MEMBERS)
        print(table.to_tsv(), end="")
        words = [str(folder / MEMBERS), config.settings, *(f"--{k}={v}" for k, v in config.override.items())]
        for part in split(range(len(table.members)), array_size(config.where)):
            print(f"sbatch --array={part[0]}-{part[-1]} slurm/finetune_array.sh {shlex.join(words)}")
        return
    call = subcommand_job(config.what, config.settings, config.override)
    print(shlex.join(["climax-hpc", call.subcommand, *call.arguments]))
