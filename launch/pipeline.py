"""Pipelines: a graph of jobs, pack -> pretrain -> finetune[] -> evaluate[] -> report.

On Slurm all jobs are submitted at once. An evaluation waits for the fine-tuning of the same member (aftercorr), the
report waits until all evaluations have ended, successfully or not, and Slurm cancels a job whose dependency failed. On
`local` and `debug` the stages run one after the other.

FOLDER/members.tsv   the fine-tuning runs
FOLDER/graph.tsv     every job: stage, member, job id, dependency, command
FOLDER/members/, evaluations/, results.tsv, results.md, report.html (all), report_*.html (each), jobs/
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from climax_hpc.errors import UserError
from climax_hpc.launch.config import STAGES, Resources, StagesConfig, SweepConfig
from climax_hpc.launch.executor import Outcome, all_or_none, for_stage, make_executor, submit_all, wait
from climax_hpc.launch.job import SubcommandJob
from climax_hpc.launch.members import MEMBERS, Member, MemberTable, read_table, write_table
from climax_hpc.launch.results import EVALUATIONS, Results, collect, report_pages, write_results
from climax_hpc.launch.single_run import subcommand_job
from climax_hpc.launch.sweep import plan_sweep
from climax_hpc.utils.files import write_text

if TYPE_CHECKING:
    import submitit

_AFTER = {"evaluate": "aftercorr", "report": "afterany"}  # other stages need the whole previous stage: afterok


@dataclass(frozen=True, kw_only=True)
class ReportJob:
    """The last stage: collects the results and writes the report pages."""

    folder: str
    subcommand: str = "report"
    arguments: tuple[str, ...] = ()

    def __call__(self) -> str:
        """Write results.tsv, results.md, the page of all members and a page of each."""
        folder = Path(self.folder)
        table = read_table(folder / MEMBERS)
        write_results(collect(table, folder), folder)
        if (folder / EVALUATIONS).is_dir():
            report_pages(table, folder)
        return self.folder


@dataclass(frozen=True, kw_only=True)
class JobGraph:
    """The jobs of a pipeline, before submission."""

    calls: Mapping[str, list[SubcommandJob | ReportJob]]
    """Stage -> its jobs, in the order of STAGES; skipped stages are absent."""
    table: MemberTable
    """The fine-tuning runs; empty without that stage."""


@dataclass(kw_only=True)
class Pipeline:
    """A submitted pipeline; on `local` and `debug` it has already run."""

    folder: Path
    plan: JobGraph
    where: Mapping[str, Resources]
    jobs: dict[str, list["submitit.Job[Any]"]] = field(default_factory=dict)
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)

    def wait(self) -> dict[str, list[Outcome]]:
        """Wait for every job; stage -> outcomes of its jobs. A failed job raises nothing."""
        for stage, jobs in self.jobs.items():
            if stage not in self.outcomes:
                self.outcomes[stage] = wait(jobs, self.where[stage])
        return self.outcomes

    def results(self) -> Results:
        """Wait for all jobs and collect the results table."""
        self.wait()
        return collect(self.plan.table, self.folder)


def pipeline(
    stages: StagesConfig,
    *,
    folder: str | Path,
    where: Resources | None = None,
    stage_where: Mapping[str, Resources] | None = None,
    sweep: SweepConfig | None = None,
    override: Mapping[str, object] | None = None,
) -> Pipeline:
    """Submit the stages that have a config; each takes the output of the stage before it.

    Args:
        stages: config of each stage, by name or file.
        folder: output, as listed at the top of this file.
        where: executor and resources of all stages.
        stage_where: stage -> resources instead of `where`, with the same executor.
        sweep: axes of the fine-tuning stage; None: a single run.
        override: `STAGE.dotted.key` -> value.

    Raises:
        UserError: bad settings of a stage, or stages that do not fit together; nothing is submitted.
    """
    folder, where = Path(folder).absolute(), where or Resources()
    plan = plan_pipeline(stages, folder, sweep or SweepConfig(), override or {})
    places = {stage: for_stage((stage_where or {}).get(stage, where), stage) for stage in plan.calls}
    if any(place.executor != where.executor for place in places.values()):
        raise UserError(f"stage_where: all stages of a pipeline need the same executor ({where.executor})")
    done = Pipeline(folder=folder, plan=plan, where=places)
    make_executor(folder / "jobs", where, "climax")  # raises before anything is written
    if plan.table.members:
        write_table(plan.table, folder / MEMBERS)
    if where.executor == "slurm":
        _submit_graph(done)
    else:
        _run_in_order(done)
    return done


def plan_pipeline(stages: StagesConfig, folder: Path, sweep: SweepConfig, override: Mapping[str, object]) -> JobGraph:
    """Build every job of the graph and check its settings; writes nothing.

    Raises:
        UserError: as in `pipeline`.
    """
    own = _by_stage(override)
    calls: dict[str, list[SubcommandJob | ReportJob]] = {}
    data: dict[str, object] = {}
    start: dict[str, object] = {}
    table = MemberTable(members=())
    if stages.pack:
        calls["pack"] = [pack := subcommand_job("pack", stages.pack, own["pack"])]
        data = {"dataset": pack.folder}
    for_training = {f"data.{key}": value for key, value in data.items()}
    if stages.pretrain:
        calls["pretrain"] = [run := subcommand_job("pretrain", stages.pretrain, for_training | own["pretrain"])]
        start = {"checkpoint": run.folder}
    if stages.finetune:
        settings = for_training | start | own["finetune"]
        table, members = plan_sweep(stages.finetune, settings, folder / "members", **asdict(sweep))
        calls["finetune"] = list(members)
    if stages.evaluate:
        if not table.members:
            raise UserError("stages.evaluate: needs stages.finetune, whose members it scores")
        settings = data | own["evaluate"]
        calls["evaluate"] = [_evaluation(member, stages.evaluate, folder, settings) for member in table.members]
    if not calls:
        raise UserError("stages: give the config of at least one stage")
    if table.members:
        calls["report"] = [ReportJob(folder=str(folder))]
    return JobGraph(calls=calls, table=table)


def _evaluation(member: Member, settings: str, folder: Path, override: Mapping[str, object]) -> SubcommandJob:
    """The evaluation of a member, on its variables and, if it has a single lead time, at that lead time."""
    name = Path(member.run_folder).name
    own: dict[str, object] = {
        "run_folder": folder / EVALUATIONS / name,
        "models": json.dumps({name: member.run_folder}),
    }
    if member.variables:
        own["variables"] = json.dumps(member.variables)
    leads = member.leads()
    if leads and leads[0] == leads[1]:
        own |= {"lead_hours": json.dumps([leads[0]]), "map_lead_hours": leads[0]}
    return subcommand_job("evaluate", settings, own | dict(override))


def _by_stage(override: Mapping[str, object]) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {stage: {} for stage in STAGES}
    for key, value in override.items():
        stage, _, rest = key.partition(".")
        if stage not in found or not rest:
            raise UserError(f"override: keys of a pipeline begin with a stage, as in pretrain.train.steps; got {key!r}")
        found[stage][rest] = value
    return found


def _submit_graph(run: Pipeline) -> None:
    """Submit every stage with its dependency on the previous one; all stages, or none.

    Raises:
        UserError: sbatch refused a stage.
    """
    rows: list[tuple[str, ...]] = []
    submitted: list[submitit.Job[Any]] = []
    before: list[submitit.Job[Any]] = []
    with all_or_none(submitted, run.folder, run.folder / "jobs"):
        for stage, calls in run.plan.calls.items():
            jobs: list[submitit.Job[Any]] = []
            for after, part in _parts(stage, calls, before):
                executor = make_executor(run.folder / "jobs", run.where[stage], f"climax-{stage}", after=after)
                sent = submit_all(executor, run.where[stage], part)
                rows += [
                    _row(stage, len(jobs) + i, job.job_id, after, call)
                    for i, (job, call) in enumerate(zip(sent, part, strict=True))
                ]
                jobs += sent
                submitted += sent
            run.jobs[stage] = before = jobs
            # After every stage, so that the file lists every queued job.
            write_text(run.folder / "graph.tsv", as_graph(rows))


def _parts(
    stage: str, calls: list[SubcommandJob | ReportJob], before: list["submitit.Job[Any]"]
) -> list[tuple[str, list[SubcommandJob | ReportJob]]]:
    """The jobs of a stage that are submitted together, with their dependency on the stage before."""
    kind = _AFTER.get(stage, "afterok")
    numbers = [job.job_id.split("_")[0] for job in before]
    if kind != "aftercorr":
        return [(":".join([kind, *dict.fromkeys(numbers)]) if numbers else "", calls)]
    parts = []
    for number, pairs in groupby(zip(numbers, calls, strict=True), key=lambda pair: pair[0]):
        part = [call for _, call in pairs]  # of one array; a single job is none
        parts.append((f"{kind if len(part) > 1 else 'afterok'}:{number}", part))
    return parts


def _run_in_order(run: Pipeline) -> None:
    """Run the stages one after the other; a member that fails is left out of the later stages."""
    fine = [True]
    rows = []
    for stage, calls in run.plan.calls.items():
        chosen = list(enumerate(calls))
        if stage == "evaluate":
            chosen = [pair for pair, ok in zip(chosen, fine, strict=True) if ok]
        elif stage != "report" and not all(fine):
            chosen = []
        executor = make_executor(run.folder / "jobs", run.where[stage], f"climax-{stage}")
        run.jobs[stage] = submit_all(executor, run.where[stage], [call for _, call in chosen])
        rows += [_row(stage, i, job.job_id, "", call) for (i, call), job in zip(chosen, run.jobs[stage], strict=True)]
        write_text(run.folder / "graph.tsv", as_graph(rows))
        run.outcomes[stage] = wait(run.jobs[stage], run.where[stage])
        fine = [outcome.ok for outcome in run.outcomes[stage]] if chosen else [False] * len(calls)


def _row(stage: str, index: int, job: str, after: str, call: SubcommandJob | ReportJob) -> tuple[str, ...]:
    return stage, str(index), job, after, shlex.join(["climax-hpc", call.subcommand, *call.arguments])


def as_graph(rows: list[tuple[str, ...]]) -> str:
    """The graph as tab-separated values."""
    return "".join("\t".join(row) + "\n" for row in [("stage", "member", "job", "after", "command"), *rows])


def graph_of(plan: JobGraph) -> str:
    """The graph before submission, with stage names in place of job ids."""
    rows, before = [], ""
    for stage, calls in plan.calls.items():
        after = f"{_AFTER.get(stage, 'afterok')}:{before}" if before else ""
        rows += [_row(stage, index, "-", after, call) for index, call in enumerate(calls)]
        before = stage
    return as_graph(rows)
