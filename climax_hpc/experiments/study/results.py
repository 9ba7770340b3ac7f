"""Writes the results of the study: one Markdown page, its figures, and the verdicts as JSON."""

from collections.abc import Sequence
from pathlib import Path

from climax_hpc.data.dataset import DataSet
from climax_hpc.experiments.study import step_times
from climax_hpc.experiments.study.commands import Study
from climax_hpc.experiments.study.line_width import fit_width
from climax_hpc.experiments.study.networks import NETWORK_CONFIG
from climax_hpc.experiments.study.question import Question
from climax_hpc.experiments.study.recipe import OWN, recipe
from climax_hpc.experiments.study.runner import Step, StepRecords, with_needs
from climax_hpc.experiments.study.select import read_choice
from climax_hpc.experiments.study.sizes import VARIABLES
from climax_hpc.experiments.study.targets import counts_section
from climax_hpc.experiments.study.targets import section as targets_section
from climax_hpc.experiments.study.text import listed, table
from climax_hpc.experiments.study.verdicts import VerdictRow
from climax_hpc.report.style import figure_style, write_png
from climax_hpc.utils.files import make_folder, write_json, write_text
from climax_hpc.utils.provenance import git_commit, package_version

IMAGES = "images"


def write_results(study: Study, questions: Sequence[Question], page: Path, verdicts: Path) -> None:
    """Write the page, its figures to the folder `images` next to it, and the verdicts as JSON.

    Raises:
        UserError: an evaluation is missing, or a folder cannot be written.
    """
    images = page.parent / IMAGES
    make_folder(images, "--results")
    rows = [row for question in questions if question.verdicts for row in question.verdicts(study)]
    networks = _networks(study) if any(question.compares_networks for question in questions) else []
    names = ",".join(question.name for question in questions)
    command = "make study" if networks else f"python -m climax_hpc.experiments.study --steps {names} --results {page}"
    parts = [_head(study, command), *networks, targets_section(study.size, rows)]
    for question in questions:
        with figure_style(for_page=False):
            found = question.section(study)
            file = f"study_{question.name}.png"
            write_png(found.figure, images / file)
        text = found.text.replace("{figure}", f"![{found.alt}]({IMAGES}/{file})")
        parts.append(f"## {question.title}\n\n{text}")
    if rows:
        parts.append(counts_section(rows))
    steps = with_needs([step for question in questions for step in question.steps(study)])
    parts.append(_costs(study, steps))
    write_text(page, fit_width("\n\n".join(part for part in parts if part)) + "\n")
    if rows:
        _write_verdicts(rows, verdicts)
    print(f"study: wrote {page}" + (f" and {verdicts}" if rows else ""), flush=True)


def _write_verdicts(rows: Sequence[VerdictRow], path: Path) -> None:
    make_folder(path.parent, "--verdicts")
    write_json(path, [row.to_json() for row in rows])


def _head(study: Study, command: str) -> str:
    size = study.size
    rows = [
        [source.name, str(sum(s.steps for s in source.segments)), _role(source.name, study)]
        for source in DataSet(study.dataset).select(None)
    ]
    parts = [
        "# Results of the study",
        f"Written by `{command}` (size `{size.name}`, climax_hpc {package_version()}, commit {git_commit()[:20]}); "
        "[method](method.md).",
        table(["source", "six-hourly states", "used for"], rows),
        "**Data.** Output of a coarse climate model (jcm, T21), not CMIP6 or ERA5, so the scores cannot be compared "
        f"with those of the ClimaX paper. Target: training period {' to '.join(size.train_period)}, validation period "
        f"{' to '.join(size.validation_period)}, test period {' to '.join(size.test_period)}. Levers and learning "
        "rates are chosen on the validation period; the test period is only scored.",
        "**Output mode.** All networks use the `anomaly` output (climatology + damped persistence + network), **an "
        "addition to ClimaX**. The climatology is computed from all training data of the target.",
    ]
    return "\n\n".join(parts)


def _networks(study: Study) -> list[str]:
    """The compared networks and their training."""
    size = study.size
    seeds = listed([str(seed) for seed in size.seeds])
    pretrained = listed([network.label for network in size.networks if network.pretrains])
    return [
        "All networks have the same output mode, so that the comparison is between networks; those trained on a part "
        "of the data have the climatology of all.",
        f"**Networks.** {size.own.label} has the blocks of this study (`{_shown(study)}`), {size.exact.label} is "
        f"ClimaX's exact form. {pretrained} are each trained for {size.pretrain_steps} steps on the other sources "
        "(pretrained) or not (from scratch).",
        f"**Training.** Every network is trained on the same target data for the same {size.finetune_steps} steps "
        f"({size.few_steps} on parts of the data) with the same recipe and the learning rate that suits it best on the "
        f"validation period. Seeds: {seeds}.{_chosen(study)}",
    ]


def _shown(study: Study) -> str:
    values = {k: str(v).lower() if isinstance(v, bool) else v for k, v in study.size.own.settings.items()}
    return ", ".join(f"{key}: {value}" for key, value in values.items())


def _chosen(study: Study) -> str:
    """The settings of the recipe that are not the network's."""
    step = recipe(study)
    if not StepRecords(study.folder).is_finished(step):
        return ""
    settings = read_choice(step.output)[OWN]["settings"]
    shared = ", ".join(
        f"`{key}: {value}`"
        for key, value in settings.items()
        if not key.startswith("model.") and key != "optimizer.lr"  # every network has its own
    )
    inputs = " Inputs are the variables and their tendencies." if VARIABLES in settings else ""
    return (f" Recipe: {shared}." if shared else "") + inputs


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
    parts = [
        "## Cost\n\nWall time of each step on the machine that wrote this page, in one process with one thread; other "
        f"steps may have run beside it. Settings: `climax_hpc/configs/{NETWORK_CONFIG}.yaml`, "
        "`climax_hpc/experiments/study/networks.py` and `sizes.py`."
        "\n\n" + table(["steps", "number", "seconds each", "minutes in total"], rows),
        step_times.section(study),
    ]
    return "\n\n".join(part for part in parts if part)


def _kind(step: Step) -> str:
    """The name of a step without its variant suffix."""
    group, _, rest = step.name.partition("/")
    return f"{group} {rest.split('-1of')[0].split('-1-')[0]}" if group == "finetune" else group
