"""Question: which learning rate does each network need? The same rates and steps for all, on the validation period."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from climax_hpc.experiments.study.commands import Study
from climax_hpc.experiments.study.figures import choices_by_value
from climax_hpc.experiments.study.networks import ComparedNetwork
from climax_hpc.experiments.study.question import Question, Section
from climax_hpc.experiments.study.recipe import OTHERS, OWN, recipe
from climax_hpc.experiments.study.runner import Step
from climax_hpc.experiments.study.select import Group, config_file, read_choice
from climax_hpc.experiments.study.text import table

_KEY = "optimizer.lr"
_SEED = 1


def label(network: ComparedNetwork, rate: float) -> str:
    """Label of a run of the sweep."""
    return f"{network.label}, {rate:g}"


@cache
def scratch_rates(study: Study) -> Step:
    """The choice of a rate from scratch for every network."""
    size = study.size
    runs = {
        network: {rate: _run(study, network, rate, None) for rate in size.scratch_rates} for network in size.networks
    }
    return _choice(study, "rates-from-scratch", runs, recipe(study))


@cache
def finetune_rates(study: Study) -> Step:
    """The choice of a rate after pretraining for every network that is pretrained."""
    size = study.size
    runs = {
        network: {rate: _run(study, network, rate, pretrained(study, network)) for rate in size.finetune_rates}
        for network in size.networks
        if network.pretrains
    }
    return _choice(study, "rates-after-pretraining", runs, recipe(study))


@cache
def pretrained(study: Study, network: ComparedNetwork, sources: int | None = None, steps: int | None = None) -> Step:
    """Pretraining of a network on the first sources (None: all) with the chosen rate from scratch."""
    size, chosen = study.size, scratch_rates(study)
    number, length = sources or size.source_numbers[-1], steps or size.pretrain_steps
    settings = {
        "data.sources": list(size.sources[:number]),
        "train.steps": length,
        "train.seed": _SEED,
    }
    name = f"pretrain/{network.slug}-{number}-source{'s' * (number > 1)}-{length}-steps"
    return study.training(
        "pretrain", name, settings, (study.pack, chosen), network=network,
        config=config_file(chosen.output, network.slug),
    )  # fmt: skip


def base_config(study: Study, network: ComparedNetwork, *, task: bool = False) -> str:
    """The config of the recipe that a network has."""
    return str(config_file(recipe(study).output, OWN if network is study.size.own else OTHERS, task=task))


def _run(study: Study, network: ComparedNetwork, rate: float, start: Step | None) -> Step:
    size = study.size
    settings = {
        "data.sources": [size.target],
        "data.period": list(size.train_period),
        "train.steps": size.rate_steps,
        "train.seed": _SEED,
        _KEY: rate,
    }
    kind = "pretrained" if start else "scratch"
    return study.training(
        "finetune", f"rates/{network.slug}-{kind}-{rate:g}", settings, (study.pack, recipe(study)), network=network,
        start=start, config=base_config(study, network),
    )  # fmt: skip


def _choice(study: Study, name: str, runs: Mapping[ComparedNetwork, Mapping[float, Step]], chosen_recipe: Step) -> Step:
    models = {label(network, rate): step for network, some in runs.items() for rate, step in some.items()}
    groups = {
        network.slug: Group(
            base=base_config(study, network),
            task_base=base_config(study, network, task=True),
            candidates={label(network, rate): {_KEY: rate} for rate in some},
        )
        for network, some in runs.items()
    }
    return study.select(name, study.validate(name, models), groups, (chosen_recipe,))


def chosen_rate(choice: Step, network: ComparedNetwork) -> float:
    """The rate that a finished choice holds for a network."""
    return float(read_choice(choice.output)[network.slug]["settings"][_KEY])


def steps(study: Study) -> list[Step]:
    """Both choices."""
    return [scratch_rates(study), finetune_rates(study)]


def section(study: Study) -> Section:
    """The scores by rate, and what was chosen."""
    size = study.size
    tables, series, edges = [], {}, []
    for choice, rates, kind in (
        (scratch_rates(study), size.scratch_rates, "from scratch"),
        (finetune_rates(study), size.finetune_rates, "after pretraining"),
    ):
        found = read_choice(choice.output)
        networks = [one for one in size.networks if one.slug in found]
        tables.append(table([kind, *(f"{rate:g}" for rate in rates)], [_row(found, n, rates) for n in networks]))
        series[kind] = {n.label: [(rate, found[n.slug]["scores"][label(n, rate)]) for rate in rates] for n in networks}
        edges += [f"{n.label} {kind}" for n in networks if chosen_rate(choice, n) in (rates[0], rates[-1])]
    parts = [
        f"{size.rate_steps} steps on all target data with the chosen recipe, one seed. Score: RMSE relative to that of "
        "climatology on the validation period, mean over variables and lead times "
        f"({', '.join(f'{h} h' for h in size.validation_lead_hours)}); bold: chosen, and used for all training that "
        "follows. Pretraining uses the rate chosen from scratch.",
        *tables,
        "The best rate lies at the edge of the grid for " + ", ".join(edges) + "." if edges else "",
        "{figure}",
    ]
    figure = choices_by_value(series, xlabel="learning rate", ylabel="RMSE / climatology's")
    return Section(text="\n\n".join(part for part in parts if part), figure=figure, alt="score by learning rate")


def _row(found: Mapping[str, Any], network: ComparedNetwork, rates: Sequence[float]) -> list[str]:
    choice = found[network.slug]
    cells = []
    for rate in rates:
        shown = f"{choice['scores'][label(network, rate)]:.4f}"
        cells.append(f"**{shown}**" if choice["chosen"] == label(network, rate) else shown)
    return [network.label, *cells]


QUESTION = Question(name="rates", title="Which learning rate does each network need?", steps=steps, section=section)
