"""`python -m climax_hpc.experiments.study.select`: picks settings by validation scores and writes them as configs.

OUTPUT/choice.json      group -> what was chosen, the scores of all candidates, the chosen settings
OUTPUT/GROUP.yaml       the group's base config with the chosen settings: a --config of later training runs
OUTPUT/GROUP-task.yaml  the same for tasks other than forecasts: without the settings of `data` and the variables

The score is RMSE relative to that of climatology, mean over variables and lead times; the lowest is chosen, the first
of equal ones. An evaluation that overlaps the test period is refused, so that no choice can follow from test data.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from climax_hpc.errors import UserError
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.experiments.entry_point import run_as_command
from climax_hpc.fields.periods import period_hours
from climax_hpc.utils.files import make_folder, read_json, write_json, write_text

CHOICE_FILE = "choice.json"
_CLIMATOLOGY = "climatology"
_CALENDAR = "standard"  # only to compare two periods
Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Candidates of which one is chosen."""

    base: str
    """Packaged config or file that the chosen settings override."""
    task_base: str
    """Likewise, of GROUP-task.yaml."""
    candidates: Mapping[str, Settings]
    """Label of a model in the evaluation -> dotted keys that are written if it is chosen."""

    def to_json(self) -> dict[str, Any]:
        """As an argument of the command."""
        return asdict(self)


def config_file(folder: Path, group: str, *, task: bool = False) -> Path:
    """The config that a selection writes for a group."""
    return folder / f"{group}{'-task' if task else ''}.yaml"


def read_choice(folder: Path) -> dict[str, Any]:
    """The content of choice.json.

    Raises:
        UserError: missing or damaged.
    """
    return dict(read_json(folder / CHOICE_FILE, "a choice of the study; run it again"))


def select(evaluation: Path, groups: Mapping[str, Group], output: Path, test_period: Sequence[str]) -> None:
    """Choose the best candidate of every group and write the configs.

    Raises:
        UserError: the evaluation is missing, overlaps the test period, or lacks a candidate.
    """
    card = Scorecard.load(evaluation)
    _refuse_test_data(card, test_period)
    chosen = {name: _chosen(card, group) for name, group in groups.items()}
    make_folder(output, "--output")
    for name, group in groups.items():
        settings, found = chosen[name]["settings"], f"{chosen[name]['chosen']!r} of {evaluation}"
        for_tasks = {key: settings[key] for key in settings if not key.startswith(("data.", "model.variables"))}
        for path, base, own in (
            (config_file(output, name), group.base, settings),
            (config_file(output, name, task=True), group.task_base, for_tasks),
        ):
            text = yaml.safe_dump(with_settings(_read_config(base), own), sort_keys=False)
            write_text(path, f"# Chosen by the study on the validation period: {found}\n{text}")
    write_json(output / CHOICE_FILE, chosen)  # last: says that the configs are complete


def score(card: Scorecard, label: str) -> float:
    """RMSE relative to that of climatology, mean over variables and lead times."""
    ratios = [
        _rmse(card, label, v, h) / _rmse(card, _CLIMATOLOGY, v, h) for v in card.variables for h in card.lead_hours
    ]
    return float(np.mean(ratios))


def with_settings(config: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """A nested config with dotted keys set."""
    for key, value in settings.items():
        *sections, last = key.split(".")
        place = config
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return config


def _chosen(card: Scorecard, group: Group) -> dict[str, Any]:
    for label in group.candidates:
        if label not in card.models:
            raise UserError(f"--groups: the evaluation has no model {label!r}; it has {', '.join(card.models)}")
    scores = {label: score(card, label) for label in group.candidates}
    best = min(scores, key=lambda label: scores[label])
    return {"chosen": best, "scores": scores, "settings": dict(group.candidates[best])}


def _rmse(card: Scorecard, label: str, variable: str, lead: float) -> float:
    value = card.value(label, variable, lead)
    return float("inf") if value is None else value


def _refuse_test_data(card: Scorecard, test_period: Sequence[str]) -> None:
    scored, held_out = (
        period_hours((str(first), str(last)), _CALENDAR)
        for first, last in (card.content["settings"]["period"], test_period)
    )
    if scored[0] < held_out[1] and held_out[0] < scored[1]:
        raise UserError(
            f"--evaluation: its period {' to '.join(card.content['settings']['period'])} overlaps the test period "
            f"{' to '.join(test_period)}; a choice must not see test data"
        )


def _read_config(base: str) -> dict[str, Any]:
    path = Path(base) if base.endswith(".yaml") else files("climax_hpc.configs") / f"{base}.yaml"
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    made = argparse.ArgumentParser(prog="python -m climax_hpc.experiments.study.select", description=__doc__)
    made.add_argument("--evaluation", type=Path, required=True, help="folder of an evaluation on the validation period")
    made.add_argument("--output", type=Path, required=True, help="folder that is written")
    made.add_argument("--test_period", type=json.loads, required=True, help="first and last date, which must be unseen")
    made.add_argument("--groups", type=json.loads, required=True, help="group -> base, task_base, candidates")
    given = made.parse_args(arguments)
    groups = {name: Group(**fields) for name, fields in given.groups.items()}
    run_as_command("study", lambda: select(given.evaluation, groups, given.output, given.test_period))


if __name__ == "__main__":
    main()
