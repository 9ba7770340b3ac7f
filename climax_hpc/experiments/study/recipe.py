"""The recipe of training: levers changed one at a time and together on the validation period, and the choice of them.

The first form is ClimaX's exact one with its own start values and AdamW. Fixed levers (start values, blocks, optimiser)
always join; every combination of the optional ones with them is trained, and the best becomes the recipe. Levers that
are ClimaX's own (start values, blocks) are left out of the recipe of the other networks.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import combinations

from climax_hpc.experiments.study.commands import Study
from climax_hpc.experiments.study.networks import NETWORK_CONFIG
from climax_hpc.experiments.study.runner import Step
from climax_hpc.experiments.study.select import Group
from climax_hpc.experiments.study.sizes import VARIABLES, Lever

OWN, OTHERS = "own", "others"
"""Configs of the choice: of the network that the study is about, and of all others, without the levers of its own."""
AS_IS, ALL, ROLLOUT = "as ClimaX is", "all", "roll-out"
_ROLLOUT_SLOWER = 2.0  # mean number of steps of a roll-out
_SLOWER_AFTER_TRAINING = 0.4  # learning rate of training that starts from trained weights, relative to from scratch
_RATE = "optimizer.lr"
_SEED = 1


def pretrained_label(label: str, steps: int) -> str:
    """Label of a row with pretraining."""
    return f"{label}, pretrained {steps} steps"


def rollout_label(label: str) -> str:
    """Label of a row with roll-out fine-tuning."""
    return f"{label}, {ROLLOUT}"


@cache
def rows(study: Study) -> dict[str, Step]:
    """Label -> training on the target; the first is what all others are compared with."""
    size, found = study.size, {AS_IS: _training(study, AS_IS, ())}
    found |= {lever.label: _training(study, lever.label, (lever,)) for lever in size.levers}
    first = size.lever_pretrain_steps[0]
    found[pretrained_label(AS_IS, first)] = _pretrained(study, AS_IS, (), first)
    found[rollout_label(AS_IS)] = _rolled_out(study, AS_IS, (), found[AS_IS])
    found |= {label: _training(study, label, levers) for label, levers in combined(study).items()}
    for steps in size.lever_pretrain_steps:
        found[pretrained_label(ALL, steps)] = _pretrained(study, ALL, size.levers, steps)
    label, levers = _stepwise(study)
    found[rollout_label(label)] = _rolled_out(study, label, levers, found[label])
    return found


def combined(study: Study) -> dict[str, tuple[Lever, ...]]:
    """The candidates of the recipe: the fixed levers with every combination of the optional ones, all levers first."""
    levers = study.size.levers
    optional = [lever for lever in levers if lever.optional]
    found = {}
    for number in range(len(optional) + 1):
        for left_out in combinations(optional, number):
            label = ALL + (f" without {' and '.join(lever.label for lever in left_out)}" if left_out else "")
            found[label] = tuple(lever for lever in levers if lever not in left_out)
    return found


@cache
def evaluation(study: Study) -> Step:
    """All rows on the validation period."""
    models = rows(study)
    stepwise = {label: 24 for label in models if label.endswith(f", {ROLLOUT}")}
    return study.validate("levers", models, more={"rollout_hours": stepwise})


@cache
def recipe(study: Study) -> Step:
    """The best of the combinations, as configs for all later training runs."""
    groups = {
        name: Group(
            base=NETWORK_CONFIG,
            task_base=NETWORK_CONFIG,
            candidates={
                label: dict(_settings([lever for lever in levers if own or not lever.own]))
                for label, levers in combined(study).items()
            },
        )
        for name, own in ((OWN, True), (OTHERS, False))
    }
    return study.select("recipe", evaluation(study), groups)


def _stepwise(study: Study) -> tuple[str, tuple[Lever, ...]]:
    """The largest combination whose forecasts of 24 h can be rolled out: without tendencies, which are over 6 h."""
    return next(
        (label, levers)
        for label, levers in combined(study).items()
        if not any(VARIABLES in lever.settings for lever in levers)
    )


def _settings(levers: Sequence[Lever]) -> Iterator[tuple[str, object]]:
    for lever in levers:
        yield from lever.settings.items()


def _training(study: Study, label: str, levers: Sequence[Lever], start: Step | None = None, after: str = "") -> Step:
    size = study.size
    settings = size.as_is | dict(_settings(levers)) | {
        "data.sources": [size.target],
        "data.period": list(size.train_period),
        "train.steps": size.lever_steps,
        "train.seed": _SEED,
    }  # fmt: skip
    if start:
        settings[_RATE] = _SLOWER_AFTER_TRAINING * float(str(settings[_RATE]))
    name = f"levers/{_slug(label)}{after}"
    return study.training("finetune", name, settings, (study.pack,), network=size.exact, start=start)


def _pretrained(study: Study, label: str, levers: Sequence[Lever], steps: int) -> Step:
    size = study.size
    settings = size.as_is | dict(_settings(levers)) | {
        "data.sources": list(size.sources),
        "train.steps": steps,
        "train.seed": _SEED,
    }  # fmt: skip
    name = f"levers/pretrain-{_slug(label)}-{steps}"
    start = study.training("pretrain", name, settings, (study.pack,), network=size.exact)
    return _training(study, label, levers, start, f"-after-{steps}")


def _rolled_out(study: Study, label: str, levers: Sequence[Lever], start: Step) -> Step:
    size = study.size
    chosen = {key: value for key, value in _settings(levers) if key != "data.lead_sampling"}  # one lead time only
    settings = size.as_is | chosen | size.rollout | {
        "data.sources": [size.target],
        "data.period": list(size.train_period),
        "train.steps": size.lever_rollout_steps,
        "train.seed": _SEED,
    }  # fmt: skip
    settings[_RATE] = _SLOWER_AFTER_TRAINING * float(str(settings[_RATE]))
    return study.training(
        "finetune", f"levers/{_slug(label)}-{ROLLOUT}", settings, (study.pack,), network=size.exact, start=start,
        slower=_ROLLOUT_SLOWER,
    )  # fmt: skip


def _slug(label: str) -> str:
    return label.replace(" ", "-")
