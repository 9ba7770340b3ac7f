"""Training on the target with the chosen recipe and rates, which several questions share."""

from functools import cache

from climax_hpc.experiments.study.commands import Study
from climax_hpc.experiments.study.networks import ComparedNetwork
from climax_hpc.experiments.study.rates import finetune_rates, pretrained, scratch_rates
from climax_hpc.experiments.study.runner import Step
from climax_hpc.experiments.study.select import config_file


@cache
def short_pretrained(study: Study, sources: int, network: ComparedNetwork) -> Step:
    """Shorter pretraining on the first sources, with a fixed number of steps."""
    return pretrained(study, network, sources, study.size.short_pretrain_steps)


@cache
def finetune(
    study: Study,
    seed: int,
    network: ComparedNetwork,
    *,
    start: Step | None,
    amount: str = "1",
    extra_steps: int = 0,
) -> Step:
    """Training on the target, from the checkpoint of `start` or from scratch."""
    size = study.size
    steps = size.finetune_steps if amount == "1" else size.few_steps
    settings = {
        "data.sources": [size.target],
        "data.period": list(size.amounts[amount]),
        "train.steps": steps + extra_steps,
        "train.seed": seed,
    }
    origin = "after-" + start.name.split("/")[1] if start else "scratch"
    longer = f"-plus{extra_steps}" if extra_steps else ""
    name = f"finetune/{network.slug}-{origin}-{amount.replace('/', 'of')}{longer}-seed{seed}"
    config, choice = chosen_config(study, network, after=start)
    return study.training("finetune", name, settings, (study.pack, choice), start=start, network=network, config=config)


def chosen_config(
    study: Study, network: ComparedNetwork, *, after: Step | None, task: bool = False
) -> tuple[str, Step]:
    """The config with the chosen recipe and rate of a network, and the choice that writes it.

    Args:
        study, network: of the training.
        after: pretraining that it starts from, if any.
        task: of a task other than forecasts.
    """
    choice = finetune_rates(study) if after else scratch_rates(study)
    return str(config_file(choice.output, network.slug, task=task)), choice


def both_ways(study: Study, seed: int, amount: str = "1") -> dict[str, Step]:
    """Label -> training of every network, pretrained (if it is) and from scratch; the first network first."""
    found = {}
    for network in study.size.networks:
        if network.pretrains:
            found[network.pretrained] = finetune(study, seed, network, start=pretrained(study, network), amount=amount)
        found[network.scratch] = finetune(study, seed, network, start=None, amount=amount)
    return found
