"""The commands of the study as steps: simulate, pack, training, evaluate, select."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from climax_hpc.data_prep.simulation.driver_settings import drs_member
from climax_hpc.experiments.study.networks import NETWORK_CONFIG, ComparedNetwork, shared_variables
from climax_hpc.experiments.study.runner import Step
from climax_hpc.experiments.study.select import Group
from climax_hpc.experiments.study.sizes import Corpora, Period, StudySize
from climax_hpc.fields.variables import lookup

_START_SECONDS = 6.0  # start-up of every command: imports, opening the data, building the model
_SECONDS_PER_FORECAST = 0.009
_STARTS_PER_WINTER = 600  # time steps of the test period of the full size
_STEP_HOURS = 6
_MAP_HOURS = 72
_GRID = 5.625
MEMBERS_OF_ENSEMBLES = "i2p1f1"
"""What the names of the members of simulated ensembles end in."""
FIRST_DAY = "2001-01-01"  # of the pretraining sources, the simulations and the sample


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """Steps that all questions share, and factories for the others."""

    size: StudySize
    folder: Path

    @cached_property
    def simulations(self) -> list[Step]:
        """One per climate model; none if the sample is used."""
        corpora = self.size.corpora
        if corpora is None:
            return []
        every = (self.size.target, *self.size.sources)  # longest first
        return [self._simulation(source, number, corpora) for number, source in enumerate(every, start=1)]

    def _simulation(self, source: str, number: int, corpora: Corpora) -> Step:
        settings = _simulated(source, number, corpora, is_target=source == self.size.target)
        return Step(
            name=f"simulate/{source}",
            words=make_words("simulate", {"output": self.folder / "gcm", **settings}),
            output=self.folder / "gcm" / drs_member(source),
            expected_seconds=corpora.seconds_per_day * (corpora.spin_up_days + int(str(settings["days"]))),
            resumable=True,
        )

    @cached_property
    def true_ensemble(self) -> Step | None:
        """The packed members of an ensemble of the target's climate model; None where the sample is used."""
        corpora, size = self.size.corpora, self.size
        if corpora is None:
            return None
        folder = self.folder / "gcm_ensemble"
        settings = _simulated(size.target, 1, corpora, is_target=True) | {
            "output": folder,
            "members": corpora.true_members,
            "start_every_days": corpora.true_every_days,
            "start_period": list(corpora.true_starts),
            "member_hours": corpora.true_hours,
            "perturbation.temperature": 0.05,
            "perturbation.wind": 0.05,
            "perturbation.humidity": 0.02,
        }
        days = corpora.spin_up_days + corpora.target_days
        made = Step(
            name=f"simulate/{size.target}-ensemble", words=make_words("simulate", settings), output=folder,
            expected_seconds=corpora.seconds_per_day * 1.5 * days, resumable=True,
        )  # fmt: skip
        packed = {
            "input": folder,
            "output": self.folder / "ensemble_data",
            "grid_spacing_deg": _GRID,
            "dtype": "float32",
            "climatology": False,
            "sources": [f"*{MEMBERS_OF_ENSEMBLES}"],
        }
        return Step(
            name="pack-ensemble", words=make_words("pack", packed), output=self.folder / "ensemble_data",
            needs=(made,), expected_seconds=20, resumable=True,
        )  # fmt: skip

    @cached_property
    def pack(self) -> Step:
        """All sources on one grid; statistics and climatology of the training period of the target."""
        settings = {
            "input": self.gcm,
            "output": self.dataset,
            "grid_spacing_deg": _GRID,
            "train_period": [FIRST_DAY, self.size.train_period[1]],
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

    def training(
        self,
        subcommand: str,
        name: str,
        settings: Mapping[str, object],
        needs: tuple[Step, ...],
        *,
        network: ComparedNetwork,
        start: Step | None = None,
        config: str | Path = NETWORK_CONFIG,
        slower: float = 1.0,
    ) -> Step:
        """Training of a network, from the checkpoint of `start` or from scratch.

        Args:
            subcommand, name: see `Step`.
            needs: steps that must finish first, besides `start`.
            settings: dotted keys; they override those of the size and the network.
            network: the network and its size.
            start: training whose checkpoint this one starts from.
            config: name or file of the config that they override.
            slower: time per step relative to a forecasting step.
        """
        folder = self.folder / "trainings" / name
        own: dict[str, object] = {"run_folder": folder, "data.dataset": self.dataset}
        if subcommand == "finetune":
            own["checkpoint"] = str(start.output) if start else None
        own |= self.size.model | network.settings | dict(settings)
        return Step(
            name=name, words=make_words(subcommand, own, config=str(config)), output=folder,
            needs=(*needs, start) if start else needs,
            expected_seconds=_START_SECONDS + slower * network.seconds_per_step * int(str(own["train.steps"])),
            resumable=True,
        )  # fmt: skip

    def validate(self, name: str, models: Mapping[str, Step], *, more: Mapping[str, object] | None = None) -> Step:
        """Evaluation on the validation period, which choices are made by; see `evaluate`."""
        size = self.size
        return self.evaluate(
            f"validation-{name}", models, leads=size.validation_lead_hours, period=size.validation_period,
            every=size.validation_start_every_hours, more=more,
        )  # fmt: skip

    def test(self, name: str, models: Mapping[str, Step], *, leads: Sequence[int], every: int | None = None) -> Step:
        """Evaluation of forecasts on the test period; see `evaluate`. The size has the time between starts if None."""
        size = self.size
        every = every or size.start_every_hours
        return self.evaluate(name, models, leads=leads, period=size.test_period, every=every)

    def evaluate(
        self,
        name: str,
        models: Mapping[str, Step],
        *,
        period: Period,
        leads: Sequence[int] = (0,),
        every: int | None = None,
        forecasts: int = _STARTS_PER_WINTER,
        more: Mapping[str, object] | None = None,
        needs: tuple[Step, ...] = (),
    ) -> Step:
        """Evaluation of models and baselines on data of the target; all are compared with the first model.

        Args:
            name: of the evaluation.
            models: label -> training.
            period: first and last date of the data.
            leads: lead times [h], if the task has any.
            every: time between starts [h]; None: all.
            forecasts: approximate number of starts if `every` is None, for the time estimate.
            more: settings that override the others.
            needs: steps that must finish first, besides the models.
        """
        settings = {
            "run_folder": self.folder / "evaluations" / name,
            "models": {label: str(step.output) for label, step in models.items()},
            "reference": next(iter(models)),
            "dataset": self.dataset,
            "source": self.size.target,
            "period": list(period),
            "train_period": list(self.size.train_period),
            "variables": list(self.size.variables),
            "resamples": self.size.resamples,
            "spectra": False,
            "threads": 1,
        }
        if leads != (0,):
            settings |= {"lead_hours": list(leads), "map_lead_hours": max(h for h in leads if h <= _MAP_HOURS)}
        if every:
            settings["start_every_hours"] = every
            forecasts //= every // _STEP_HOURS
        return Step(
            name=f"evaluate/{name}",
            words=make_words("evaluate", settings | dict(more or {})),
            output=self.folder / "evaluations" / name,
            needs=(*models.values(), *needs),
            expected_seconds=_START_SECONDS + _SECONDS_PER_FORECAST * forecasts * len(leads) * (len(models) + 1),
        )

    def select(self, name: str, evaluation: Step, groups: Mapping[str, Group], needs: tuple[Step, ...] = ()) -> Step:
        """The choice of the best candidate of every group by an evaluation on the validation period.

        Args:
            name: of the choice.
            evaluation: the scores.
            groups: name of a config -> candidates.
            needs: steps whose files the groups' bases are.
        """
        folder = self.folder / "choices" / name
        settings = {
            "evaluation": evaluation.output,
            "output": folder,
            "test_period": list(self.size.test_period),
            "groups": {group: one.to_json() for group, one in groups.items()},
        }
        return Step(
            name=f"select/{name}",
            words=("climax_hpc.experiments.study.select", *options(settings)),
            output=folder,
            needs=(evaluation, *needs),
            expected_seconds=1.0,
        )


def _simulated(source: str, number: int, corpora: Corpora, *, is_target: bool) -> dict[str, object]:
    """Settings of the simulation of the source with this number."""
    settings: dict[str, object] = {
        "parameter_set": source,
        "spin_up_days": corpora.spin_up_days,
        "seed": 100 + number,
        "variables": _channels(),
        "version": "v20261122",
    }
    if is_target:
        return settings | {
            "start": corpora.target_start,
            "days": corpora.target_days,
            "window": corpora.target_window,
        }
    return settings | {"days": corpora.pretraining_days}


def _channels() -> list[str]:
    """Variables that the networks forecast: all that are not static."""
    return [name for name in shared_variables() if not lookup(name).static]


def make_words(subcommand: str, settings: Mapping[str, object], *, config: str | None = None) -> tuple[str, ...]:
    """`climax_hpc SUBCOMMAND --key=value …` as words; lists and tables as JSON."""
    return ("climax_hpc", subcommand, *([f"--config={config}"] if config else []), *options(settings))


def options(settings: Mapping[str, object]) -> list[str]:
    """`--key=value …`; lists and tables as JSON."""
    return [
        f"--{key}={value if isinstance(value, str | Path) else json.dumps(value)}" for key, value in settings.items()
    ]
