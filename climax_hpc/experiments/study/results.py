"""Writes the results of the study: one Markdown page and its figures, from evaluations and step times."""

from collections.abc import Sequence
from pathlib import Path

from climax_hpc.data.dataset import DataSet
from climax_hpc.experiments.study.commands import NETWORK_CONFIG, Study, network_settings
from climax_hpc.experiments.study.line_width import fit_width
from climax_hpc.experiments.study.question import Question
from climax_hpc.experiments.study.runner import Step, StepRecords, with_needs
from climax_hpc.experiments.study.sizes import PRETRAINED_RATE
from climax_hpc.experiments.study.text import listed, table
from climax_hpc.report.style import figure_style, write_png
from climax_hpc.utils.files import make_folder, write_text
from climax_hpc.utils.provenance import git_commit, package_version

IMAGES = "images"


def write_results(study: Study, questions: Sequence[Question], page: Path) -> None:
    """Write the page, and its figures to the folder `images` next to it.

    Raises:
        UserError: an evaluation is missing, or the folder cannot be written.
    """
    images = page.parent / IMAGES
    make_folder(images, "--results")
    parts = [_head(study)]
    for question in questions:
        with figure_style(for_page=False):
            found = question.section(study)
            file = f"study_{question.name}.png"
            write_png(found.figure, images / file)
        text = found.text.replace("{figure}", f"![{found.alt}]({IMAGES}/{file})")
        parts.append(f"## {question.title}\n\n{text}")
    steps = with_needs([step for question in questions for step in question.steps(study)])
    parts.append(_costs(study, steps))
    write_text(page, fit_width("\n\n".join(parts)) + "\n")
    print(f"study: wrote {page}", flush=True)


def _head(study: Study) -> str:
    size = study.size
    rows = [
        [source.name, str(sum(s.steps for s in source.segments)), _role(source.name, study)]
        for source in DataSet(study.dataset).select(None)
    ]
    seeds = listed([str(seed) for seed in size.seeds])
    rate = network_settings()["optimizer"]["lr"]
    parts = [
        "# Results of the study",
        f"Written by `make study` (size `{size.name}`, climax_hpc {package_version()}, commit {git_commit()[:20]}); "
        "[method](method.md).",
        table(["source", "six-hourly states", "used for"], rows),
        "**Data.** Output of a coarse climate model (jcm, T21), not CMIP6 or ERA5, so the scores cannot be compared "
        f"with those of the ClimaX paper. Target: training period {' to '.join(size.train_period)}, test period "
        f"{' to '.join(size.test_period)}.",
        "**Output mode.** All networks use the `anomaly` output (climatology + damped persistence + network), **an "
        "addition to ClimaX**, so that the comparison is between networks. The climatology is computed from all "
        "training data of the target, also for networks trained on a part of them.",
        f"**Training.** Every network is trained on the same target data for the same {size.finetune_steps} steps "
        f"({size.few_steps} on parts of the data); the pretrained ClimaX was trained for {size.pretrain_steps} steps "
        f"on the other sources before. Learning rate: {rate:g} from scratch, {PRETRAINED_RATE:g} after pretraining. "
        f"Seeds: {seeds}.",
    ]
    return "\n\n".join(parts)


def _role(source: str, study: Study) -> str:
    return "target" if source.split("_")[0] == study.size.target else "pretraining"


def _costs(study: Study, steps: Sequence[Step]) -> str:
    """Wall time by kind of step."""
    records = StepRecords(study.folder)
    kinds: dict[str, list[float]] = {}
    for step in steps:
        kinds.setdefault(_kind(step), []).append(records.seconds(step))
    rows = [
        [kind, str(len(times)), f"{min(times):.0f} to {max(times):.0f}", f"{sum(times) / 60:.1f}"]
        for kind, times in kinds.items()
    ]
    total = sum(sum(times) for times in kinds.values()) / 60
    rows.append(["all", str(len(steps)), "", f"{total:.1f}"])
    return (
        "## Cost\n\nWall time of each step, run in one process with one thread, two steps at a time, on the machine "
        f"that wrote this page. Network settings: `climax_hpc/configs/{NETWORK_CONFIG}.yaml`, "
        "`climax_hpc/experiments/study/sizes.py`."
        "\n\n" + table(["steps", "number", "seconds each", "minutes in total"], rows)
    )


def _kind(step: Step) -> str:
    """The name of a step without its variant suffix."""
    group, _, rest = step.name.partition("/")
    return f"{group} {rest.split('-1of')[0].split('-1-')[0]}" if group == "finetune" else group
