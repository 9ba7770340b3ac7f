"""`python -m climax_hpc.experiments.study`: runs the steps of the study and writes docs/results/study.md."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from climax_hpc.config.parser import nearest
from climax_hpc.errors import UserError
from climax_hpc.experiments.entry_point import run_as_command
from climax_hpc.experiments.study import (
    amount,
    controls,
    downscaling,
    headline,
    levers,
    projection,
    rates,
    sources,
    uncertainty,
)
from climax_hpc.experiments.study.commands import Study
from climax_hpc.experiments.study.question import Question
from climax_hpc.experiments.study.results import write_results
from climax_hpc.experiments.study.runner import Step, StepRecords, run_steps, with_needs
from climax_hpc.experiments.study.sizes import FULL, QUICK
from climax_hpc.utils.files import make_folder

QUESTIONS: dict[str, Question] = {
    q.name: q
    for q in (
        levers.QUESTION,
        rates.QUESTION,
        headline.QUESTION,
        amount.QUESTION,
        sources.QUESTION,
        controls.QUESTION,
        projection.QUESTION,
        downscaling.QUESTION,
        uncertainty.QUESTION,
    )
}
_PAGE, _VERDICTS = Path("docs/results/study.md"), Path("docs/results.json")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    questions = "\n".join(f"  {q.name:<12} {q.title}" for q in QUESTIONS.values())
    made = argparse.ArgumentParser(
        prog="python -m climax_hpc.experiments.study", formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Simulate, pretrain, fine-tune, evaluate, and write the results.\n\nquestions:\n{questions}",
        epilog="An interrupted study resumes when started again; changed settings redo only the steps they affect.",
    )  # fmt: skip
    made.add_argument(
        "--steps",
        metavar="QUESTION,…",
        help="only these questions and the steps they need; default: all that compare networks",
    )
    made.add_argument(
        "--quick", action="store_true", help="a trial of minutes: packaged sample, tiny networks, no meaningful results"
    )
    made.add_argument("--folder", type=Path, help="output folder; default runs/study, runs/study_quick")
    made.add_argument(
        "--results",
        type=Path,
        help="results page; default docs/results/study.md, with --quick FOLDER/results.md; with --steps it has "
        "only these questions, else all that are answered",
    )
    made.add_argument(
        "--verdicts", type=Path, help="verdicts as JSON; default docs/results.json, with another page PAGE.json"
    )
    made.add_argument(
        "--jobs", type=int, default=2, help="number of steps run at the same time, one thread each; default 2"
    )
    made.add_argument("--list", action="store_true", help="list the steps and their state, and run nothing")
    return made


def chosen_questions(names: str | None) -> list[Question]:
    """The questions named by `--steps`; by default all that compare networks.

    Raises:
        UserError: unknown question.
    """
    compared = [name for name, question in QUESTIONS.items() if question.compares_networks]
    wanted = [name.strip() for name in names.split(",")] if names else compared
    for name in wanted:
        if name not in QUESTIONS:
            known = ", ".join(QUESTIONS)
            raise UserError(f"--steps: unknown question {name!r}{nearest(name, QUESTIONS)}; available: {known}")
    return [QUESTIONS[name] for name in QUESTIONS if name in wanted]


def run(arguments: Sequence[str]) -> None:
    """Run the study as the command line requests.

    Raises:
        UserError: bad arguments, or a step that failed.
    """
    given = parser().parse_args(arguments)
    if given.jobs < 1:
        raise UserError(f"--jobs: {given.jobs} must be at least 1")
    questions = chosen_questions(given.steps)
    size = QUICK if given.quick else FULL
    folder = given.folder or Path("runs/study_quick" if given.quick else "runs/study")
    page = given.results or (folder / "results.md" if given.quick else _PAGE)
    verdicts = given.verdicts or (_VERDICTS if page == _PAGE else page.with_suffix(".json"))
    study = Study(size=size, folder=folder)
    steps = [step for question in questions for step in question.steps(study)]
    if given.list:
        records = StepRecords(folder)
        every = with_needs(steps)
        for step in every:
            state = "done" if records.is_finished(step) else "to do"
            print(f"{state:<6} {step.name:<60} about {step.expected_seconds:.0f} s on a quiet core")
        print(estimate(every, given.jobs))
        return
    for key, path in (("--results", page), ("--verdicts", verdicts)):
        if path.is_dir():
            raise UserError(f"{key}: {path} is a folder; give a file")
    if page.parent != folder:
        make_folder(page.parent, "--results")  # a page that cannot be written is refused before the first step
    run_steps(steps, folder, jobs=given.jobs)
    if not (given.steps and given.results):
        answered = [question for question in QUESTIONS.values() if _is_answered(question, study)]
        questions = [question for question in answered if question.compares_networks or question in questions]
    write_results(study, questions, page, verdicts)


def estimate(steps: Sequence[Step], jobs: int) -> str:
    """Time of all steps on quiet cores, in a sentence, by kind."""
    kinds: dict[str, float] = {}
    for step in steps:
        kind = step.name.partition("/")[0]
        kinds[kind] = kinds.get(kind, 0.0) + step.expected_seconds
    total = sum(kinds.values())
    parts = ", ".join(f"{kind} {seconds / 60:.0f}" for kind, seconds in kinds.items())
    return (
        f"all {len(steps)} steps: about {total / 60:.0f} minutes of one core ({parts}); {total / jobs / 60:.0f} "
        f"minutes with {jobs} quiet cores"
    )


def _is_answered(question: Question, study: Study) -> bool:
    """True if all its steps have finished, now or earlier; such questions stay on the page."""
    records = StepRecords(study.folder)
    return all(records.is_finished(step) for step in with_needs(question.steps(study)))


def main() -> None:
    """Entry point."""
    run_as_command("study", lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    main()
