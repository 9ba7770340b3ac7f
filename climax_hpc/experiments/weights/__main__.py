"""`python -m climax_hpc.experiments.weights`: trains the packaged weights and writes their folder in the package."""

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from climax_hpc.checkpoint import packaged
from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.errors import UserError
from climax_hpc.experiments.entry_point import run_as_command
from climax_hpc.experiments.study.runner import StepRecords, run_steps, with_needs
from climax_hpc.experiments.weights.card import card_text
from climax_hpc.experiments.weights.measured import scores_of, training_of
from climax_hpc.experiments.weights.recipe import NAME, Recipe
from climax_hpc.utils.files import json_writer, text_writer
from climax_hpc.utils.formatting import readable_size

LARGEST = 7_500_000
"""Bytes of the file of packaged weights: with scores, log and card it stays below 8 MB."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m climax_hpc.experiments.weights",
        description=f"Simulate, pack, pretrain, export and score the packaged weights {NAME}, and write their card.",
        epilog="Interrupt it as you like: it resumes when started again.",
    )
    made.add_argument("--quick", action="store_true", help="a trial of minutes on the packaged sample; of no use")
    made.add_argument("--folder", type=Path, help="working folder; default runs/study (whose corpora it shares), or "
                                                  "runs/pretrained_quick")  # fmt: skip
    made.add_argument("--output", type=Path, help=f"folder of the weights; default that of {NAME} in the package, with "
                                                  "--quick FOLDER/pretrained")  # fmt: skip
    made.add_argument("--jobs", type=int, default=2, help="steps at the same time, and processes that train; default 2")
    made.add_argument("--list", action="store_true", help="list the steps and their state, and run nothing")
    return made


def run(arguments: Sequence[str]) -> None:
    """Run the recipe as the command line requests.

    Raises:
        UserError: bad arguments, a step that failed, or weights that are too large for the package.
    """
    given = parser().parse_args(arguments)
    if given.jobs not in (1, 2):
        raise UserError(f"--jobs: {given.jobs} is not possible: a step has two micro-batches; use 1 or 2")
    folder = given.folder or Path("runs/pretrained_quick" if given.quick else "runs/study")
    output = given.output or (folder / "pretrained" / NAME if given.quick else packaged.FOLDER / NAME)
    recipe = Recipe.of(folder, quick=given.quick, ranks=given.jobs)
    if given.list:
        records = StepRecords(folder)
        for step in with_needs(recipe.steps):
            print(f"{'done' if records.is_finished(step) else 'to do':<6} {step.command}")
        return
    run_steps(recipe.steps, folder, jobs=given.jobs)
    write_weights(recipe, output)


def write_weights(recipe: Recipe, output: Path) -> None:
    """Write the folder of the weights from what the steps of the recipe left.

    Raises:
        UserError: an output of a step is missing, or the files would be larger than LARGEST.
    """
    file = recipe.export.output
    weights = load_checkpoint(file)
    scores = scores_of({title: step.output for title, step in recipe.evaluations.items()})
    if scores["weights_sha256"] != weights.weights_sha256:
        raise UserError(f"{file} is not what was scored: start `make pretrained` again")
    training = training_of(recipe.pretrain.output, recipe.steps)
    parameters = sum(tensor.numel() for tensor in weights.weights.values())
    size = file.stat().st_size
    if size > LARGEST:
        raise UserError(
            f"{file} has {readable_size(size)}, more than the {readable_size(LARGEST)} for weights in the package: "
            f"make the network of {recipe.pretrain.name} smaller"
        )
    card = card_text(output.name, scores, training, weights.metadata, parameters=parameters, size=size)
    packaged.write_packaged(
        output,
        {
            packaged.MODEL: _copy_of(file),
            packaged.SCORES: json_writer(scores),
            packaged.TRAINING: json_writer(training),
            packaged.CARD: text_writer(card),
        },
    )
    print(f"wrote {output}", flush=True)


def _copy_of(file: Path) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        shutil.copyfile(file, path)

    return write


def main() -> None:
    """Entry point."""
    run_as_command("pretrained", lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    main()
