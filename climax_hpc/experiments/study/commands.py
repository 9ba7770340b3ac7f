"""The commands of the study as steps: simulate, pack, pretrain, finetune, evaluate."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from climax_hpc.data_prep.simulation.config import SimulateConfig
from climax_hpc.data_prep.simulation.simulate import drs_member
from climax_hpc.experiments.study.runner import Step
from climax_hpc.experiments.study.sizes import CLIMAX_SECONDS, PRETRAINED_RATE, ComparedNetwork, StudySize
from climax_hpc.fields.variables import lookup

NETWORK_CONFIG = "study_network"
_START_SECONDS = 6.0  # start-up of every command: imports, opening the data, building the model
_SECONDS_PER_FORECAST = 0.008
_TEST_FORECASTS = 600  # per lead time in the test period of the full size
_MAP_HOURS = 72
_FIRST_DAY = "2001-01-01"  # of the pretraining sources, the simulations and the sample


@dataclass(frozen=True, kw_only=True)
class Study:
    """Steps that several questions share, and factories for the others."""

    size: StudySize
    folder: Path

    @cached_property
    def simulations(self) -> list[Step]:
        """One per climate model; none if the sample is used."""
        corpora = self.size.corpora
        if corpora is None:
            return []
        found = []
        for number, source in enumerate((self.size.target, *self.size.sources), start=1):  # longest first
            settings: dict[str, object] = {
                "output": self.folder / "gcm",
                "parameter_set": source,
                "spin_up_days": corpora.spin_up_days,
                "seed": 100 + number,
                "channels": _channels(),
                "version": "v20261122",
            }
            if source == self.size.target:
                own = {"start": corpora.target_start, "days": corpora.target_days, "window": corpora.target_window}
            else:
                own = {"days": corpora.pretraining_days}
            member = drs_member(SimulateConfig(output="", parameter_set=source, days=1))
            found.append(
                Step(
                    name=f"simulate/{source}",
                    words=make_words("simulate", settings | own),
                    output=self.folder / "gcm" / member,
                    expected_seconds=corpora.seconds_per_day * (corpora.spin_up_days + int(str(own["days"]))),
                )
            )
        return found

    @cached_property
    def pack(self) -> Step:
        """All sources on one grid; statistics and climatology of the training period of the target."""
        settings = {
            "input": self.gcm,
            "output": self.dataset,
            "grid_spacing_deg": 5.625,
            "train_period": [_FIRST_DAY, self.size.train_period[1]],
        }
        return Step(
            name="pack", words=make_words("pack", settings), output=self.dataset, needs=tuple(self.simulations),
            expected_seconds=40, resumable=True,
        )  # fmt: skip

    @property
    def gcm(self) -> Path | str:
        """Raw output of the climate models."""
        return "@sample" if self.size.corpora is None else self.folder / "gcm"

    @property
    def dataset(self) -> Path:
        """The packed data set."""
        return self.folder / "data"

    @property
    def pretrained(self) -> Step:
        """Pretraining on all sources."""
        return self._pretrain(None, self.size.source_numbers[-1], self.size.pretrain_steps)

    def short_pretrained(self, sources: int, network: ComparedNetwork | None = None) -> Step:
        """Shorter pretraining of ClimaX or another network on the first sources, with a fixed number of steps."""
        return self._pretrain(network, sources, self.size.short_pretrain_steps)

    def _pretrain(self, network: ComparedNetwork | None, sources: int, steps: int) -> Step:
        settings = {
            "data.sources": list(self.size.sources[:sources]),
            "train.steps": steps,
            "train.seed": 1,
        }
        name = f"pretrain/{_slug(network)}-{sources}-source{'s' * (sources > 1)}-{steps}-steps"
        return self.training("pretrain", name, settings, (self.pack,), network=network)

    def finetune(
        self,
        seed: int,
        *,
        start: Step | None,
        amount: str = "1",
        network: ComparedNetwork | None = None,
        extra_steps: int = 0,
    ) -> Step:
        """Training on the target: ClimaX or another network, from the checkpoint of `start` or from scratch."""
        steps = self.size.finetune_steps if amount == "1" else self.size.few_steps
        settings = {
            "data.sources": [self.size.target],
            "data.period": list(self.size.amounts[amount]),
            "train.steps": steps + extra_steps,
            "train.seed": seed,
        }
        origin = "after-" + start.name.split("/")[1] if start else "scratch"
        longer = f"-plus{extra_steps}" if extra_steps else ""
        name = f"finetune/{_slug(network)}-{origin}-{amount.replace('/', 'of')}{longer}-seed{seed}"
        needs = (self.pack, *((start,) if start else ()))
        return self.training("finetune", name, settings, needs, start=start, network=network)

    def training(
        self,
        subcommand: str,
        name: str,
        settings: Mapping[str, object],
        needs: tuple[Step, ...],
        *,
        start: Step | None = None,
        network: ComparedNetwork | None = None,
        config: str = NETWORK_CONFIG,
        slower: float = 1.0,
    ) -> Step:
        """Training of ClimaX or another network, from the checkpoint of `start` or from scratch.

        Args:
            subcommand, name, needs: see `Step`.
            settings: dotted keys; they override those of the size and the network.
            config: packaged config that they override.
            slower: time per step relative to a forecasting step.
        """
        folder = self.folder / "trainings" / name
        own: dict[str, object] = {"run_folder": folder, "data.dataset": self.dataset}
        if subcommand == "finetune":
            own["checkpoint"] = str(start.output) if start else None
        if start:
            own["optimizer.lr"] = PRETRAINED_RATE
        own |= self.size.model | (network.settings if network else {}) | dict(settings)
        seconds = slower * (network.seconds_per_step if network else CLIMAX_SECONDS)
        return Step(
            name=name, words=make_words(subcommand, own, config=config), output=folder, needs=needs,
            expected_seconds=_START_SECONDS + seconds * int(str(own["train.steps"])), resumable=True,
        )  # fmt: skip

    def evaluate(
        self,
        name: str,
        models: Mapping[str, Step],
        *,
        leads: Sequence[int] = (0,),
        forecasts: int = _TEST_FORECASTS,
        more: Mapping[str, object] | None = None,
    ) -> Step:
        """Evaluation of models and baselines on the test data of the target; all are compared with the first model.

        Args:
            name: of the evaluation.
            models: label -> training.
            leads: lead times [h], if the task has any.
            forecasts: approximate number per lead time, for the time estimate.
            more: settings that override the others.
        """
        settings = {
            "run_folder": self.folder / "evaluations" / name,
            "models": {label: str(step.output) for label, step in models.items()},
            "reference": next(iter(models)),
            "dataset": self.dataset,
            "source": self.size.target,
            "period": list(self.size.test_period),
            "train_period": list(self.size.train_period),
            "variables": list(self.size.variables),
            "resamples": self.size.resamples,
            "spectra": False,
            "threads": 1,
        }
        if leads != (0,):
            settings |= {"lead_hours": list(leads), "map_lead_hours": max(h for h in leads if h <= _MAP_HOURS)}
        return Step(
            name=f"evaluate/{name}",
            words=make_words("evaluate", settings | dict(more or {})),
            output=self.folder / "evaluations" / name,
            needs=tuple(models.values()),
            expected_seconds=_START_SECONDS + _SECONDS_PER_FORECAST * forecasts * len(leads) * (len(models) + 1),
        )


def network_settings() -> dict[str, Any]:
    """Settings shared by all networks."""
    return dict(yaml.safe_load((files("climax_hpc.configs") / f"{NETWORK_CONFIG}.yaml").read_text()))


def _channels() -> list[str]:
    """Variables that the networks forecast: all that are not static."""
    return [name for name in network_settings()["model"]["variables"] if not lookup(name).static]


def _slug(network: ComparedNetwork | None) -> str:
    return (network.label if network else "ClimaX").replace(" ", "-")


def make_words(subcommand: str, settings: Mapping[str, object], *, config: str | None = None) -> tuple[str, ...]:
    """`climax_hpc SUBCOMMAND --key=value …` as words; lists and tables as JSON."""
    words = ["climax_hpc", subcommand] + ([f"--config={config}"] if config else [])
    for key, value in settings.items():
        text = str(value) if isinstance(value, str | Path) else json.dumps(value)
        words.append(f"--{key}={text}")
    return tuple(words)
