"""`climax-hpc simulate`: runs a real general circulation model (jcm) and writes its output as CMIP6-DRS NetCDF."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from climax_hpc.data_prep.simulation.config import SimulateConfig, Source, sources
from climax_hpc.data_prep.simulation.jcm_venv import default_venv, ensure_venv
from climax_hpc.data_prep.simulation.machine import default_jobs
from climax_hpc.data_prep.simulation.processes import run_side_by_side
from climax_hpc.data_prep.simulation.unfinished import Unfinished, is_finished, member_folder
from climax_hpc.distributed.signals import terminated_as_exit
from climax_hpc.errors import UserError

DRIVER = Path(__file__).with_name("jcm_driver.py")
Report = Callable[[str], None]


def _print(line: str) -> None:
    print(line, flush=True)


def simulate(config: SimulateConfig, report: Report = _print) -> Path:
    """Run the simulations; returns the root of the tree (`config.output`), the input of `climax-hpc pack`.

    Members that are there with the same settings are kept. Each other one is written beside `output` and renamed when
    it is complete; one that was interrupted goes on where the state of the model was last saved.

    Raises:
        UserError: a member exists with other settings, the GCM's environment cannot be created, or a model failed.
    """
    output = Path(config.output).resolve()
    wanted = _unfinished(sources(config), output, report)
    if wanted:
        with terminated_as_exit():
            python = ensure_venv(Path(config.venv) if config.venv else default_venv(), report)
            _run(wanted, python, output, report)
    return output


def _unfinished(every: Sequence[Source], output: Path, report: Report) -> list[Source]:
    """The sources still to be simulated; every member that is in the way is refused in one line."""
    wanted, faults = [], []
    for source in every:
        try:
            if is_finished(source, output):
                report(f"{source.label}: is there with these settings: {member_folder(source, output)}")
            else:
                wanted.append(source)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("; ".join(faults))
    return wanted


def _run(wanted: Sequence[Source], python: Path, output: Path, report: Report) -> None:
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        running: dict[str, Unfinished] = {}
        for source in wanted:
            running[source.label] = one = Unfinished(source, output)
            stack.callback(one.close)

        def ended(label: str, failure: str | None) -> None:
            try:
                if failure is None:
                    report(f"{label}: wrote {running[label].finish()}")
                    return
            except (UserError, OSError) as error:
                failure = str(error)
            failures[label] = failure
            report(f"{label}: failed ({failure})")

        jobs, why = _jobs(wanted)
        if len(wanted) > 1:
            report(f"{len(wanted)} sources, {min(jobs, len(wanted))} at a time ({why})")
        try:
            run_side_by_side(
                {label: [str(python), str(DRIVER), str(one.settings)] for label, one in running.items()},
                jobs=jobs,
                report=lambda label, line: report(f"{label}: {line}"),
                ended=ended,
            )
        except (KeyboardInterrupt, SystemExit):
            if stopped := [label for label, one in running.items() if one.close()]:
                report(f"stopped; the same command resumes {', '.join(stopped)}")
            raise
    if failures:
        _refuse(failures, len(wanted))


def _jobs(wanted: Sequence[Source]) -> tuple[int, str]:
    asked = wanted[0].config.jobs
    return default_jobs(wanted) if asked is None else (asked, "jobs")


def _refuse(failures: dict[str, str], of: int) -> None:
    if of == 1:
        raise UserError(f"simulate: the GCM failed: {next(iter(failures.values()))}")
    each = "; ".join(f"{label}: {failure}" for label, failure in failures.items())
    raise UserError(f"simulate: {len(failures)} of {of} sources failed; the others are complete. {each}")
