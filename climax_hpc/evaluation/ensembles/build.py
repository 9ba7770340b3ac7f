"""The ensembles that an evaluation scores in addition to its models, built and checked before anything is scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from climax_hpc.config.ensembles import FEWEST_TO_CALIBRATE, EnsembleBaseline, EnsembleScoresConfig
from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.config.parser import nearest
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sample
from climax_hpc.data.segments import overlap
from climax_hpc.errors import UserError
from climax_hpc.evaluation.baselines.base import ChannelReader, ForecastModel, starts
from climax_hpc.evaluation.ensembles.base import EnsembleModel
from climax_hpc.evaluation.ensembles.calendar_pool import CalendarPool, Index, times_of
from climax_hpc.evaluation.ensembles.calibrated import CalibratedEnsemble
from climax_hpc.evaluation.ensembles.climatological import ClimatologicalEnsemble
from climax_hpc.evaluation.ensembles.dressed import DressedForecast
from climax_hpc.evaluation.ensembles.perturbed import PerturbedForecast
from climax_hpc.evaluation.ensembles.thresholds import ClimatologyPercentiles
from climax_hpc.evaluation.forecast_pairs import forecast_pairs, started_every
from climax_hpc.evaluation.metrics import Array
from climax_hpc.fields.averaging_window import WindowSteps
from climax_hpc.fields.calendar_days import DayRun, days_of
from climax_hpc.fields.calendars import to_seconds
from climax_hpc.fields.grid import latitude_weights
from climax_hpc.inference.forecaster import Forecaster

CLIMATOLOGICAL = "climatological ensemble"
"""Label of the climatological ensemble; others begin with `dressed`, `perturbed` or `calibrated`."""
_MEMBERS = 8  # of baselines, where no model has members
_DAMPED = "damped persistence"
_USED_BY: dict[str, tuple[EnsembleBaseline, ...]] = {
    "baseline_members": ("climatology", "dressed", "perturbed"),
    "forecasts": ("dressed", "perturbed"),
    "dressing_period": ("dressed", "calibrated"),
    "dressing_errors": ("dressed",),
    "calibration_period": ("calibrated",),
    "calibration_forecasts": ("calibrated",),
    "perturbation": ("perturbed",),
    "seed": ("climatology", "dressed", "perturbed"),
}
"""Setting of ensembles -> the kinds of baselines that use it; networks with noise use the seed too."""


@dataclass(frozen=True, kw_only=True)
class EnsembleData:
    """What ensembles are built from."""

    config: EvaluateConfig
    source: PackedSource
    variables: tuple[str, ...]
    models: Mapping[str, ForecastModel]
    """Deterministic ones and networks with members, by label."""
    baselines: Mapping[str, ForecastModel]
    samples: Sequence[Sample]
    """All forecasts that will be made."""
    window: WindowSteps | None = None
    history_steps: int = 0

    @property
    def deterministic(self) -> list[str]:
        """Labels of the models without members."""
        return [label for label, model in self.models.items() if not isinstance(model, EnsembleModel)]

    @property
    def lead_steps(self) -> list[int]:
        """Lead times of the forecasts, ascending."""
        return sorted({sample.lead_steps for sample in self.samples})

    def reader(self, variables: Sequence[str]) -> ChannelReader:
        """Reads some variables of the source, with the averaging window of the forecasts."""
        return ChannelReader(self.source, variables, self.window)

    def training_times(self, key: str) -> Index:
        """Times of train_period that are not of the test period; with a window, neither is any time of their means.

        Raises:
            UserError: there is none; names `key`.
        """
        times_N = times_of(self.source, self.config.train_period, self.window)
        tail = self.window.tail if self.window else 0
        spans = self.source.within(self.config.period)
        tested = [np.arange(span.first - tail, span.first + span.steps) for span in spans]
        left_N = np.setdiff1d(times_N, np.concatenate(tested))
        if not len(left_N):
            raise UserError(f"{key}: train_period has no time outside of period: choose another train_period")
        return left_N


def baseline_ensembles(data: EnsembleData, given: Mapping[str, EnsembleModel]) -> dict[str, EnsembleModel]:
    """Label -> climatological, dressed, perturbed and calibrated ensembles that the config asks for.

    `given`: the ensembles that there are already, by label.

    Raises:
        UserError: a label that there is not, or too few times for as many members.
    """
    wanted, settings = _wanted(data.config), data.config.ensembles
    members = settings.baseline_members or max((one.members for one in given.values()), default=_MEMBERS)
    found: dict[str, EnsembleModel] = {}
    if "climatology" in wanted:
        found[CLIMATOLOGICAL] = _climatological(data, members)
    if "dressed" in wanted:
        found |= {f"dressed {label}": _dressed(data, label, members) for label in _chosen(data, "dressed")}
    if "perturbed" in wanted:
        found |= {f"perturbed {label}": _perturbed(data, label, members) for label in _chosen(data, "perturbed")}
    if "calibrated" in wanted:
        found |= _calibrated(data, given)
    for label in found:
        if label in data.models or label in data.baselines or label in given:
            raise UserError(f"models: the label {label!r} is that of one of ensembles.baselines; choose another")
    return found


def thresholds_of(data: EnsembleData) -> ClimatologyPercentiles | None:
    """The thresholds of events; None without percentiles.

    Raises:
        UserError: the training period has too few times near a calendar day.
    """
    settings = data.config.ensembles
    if not settings.percentiles:
        return None
    times_N = data.training_times("ensembles.percentiles")
    pool = CalendarPool(data.source, times_N, settings.window_days)
    found = ClimatologyPercentiles(data.reader(data.variables), pool, settings.percentiles)
    found.check(data.samples)
    return found


def check_settings_are_used(config: EvaluateConfig, *, noise: bool) -> None:
    """Refuse settings of ensembles that are not scored; `noise`: a network with noise is.

    Raises:
        UserError: names the setting and what would use it.
    """
    settings, plain, wanted = config.ensembles, EnsembleScoresConfig(), _wanted(config)
    for key, kinds in _USED_BY.items():
        users = [kind for kind in kinds if (key, kind) != ("dressing_period", "calibrated") or not _own_period(config)]
        is_used = any(kind in wanted for kind in users) or (key == "seed" and noise)
        if getattr(settings, key) != getattr(plain, key) and not is_used:
            raise UserError(
                f"ensembles.{key}: nothing that is scored uses it: add {' or '.join(users)} to ensembles.baselines, or "
                f"leave {key} out"
            )


def _own_period(config: EvaluateConfig) -> bool:
    """True where calibrations have a period of their own."""
    return config.ensembles.calibration_period is not None


def _wanted(config: EvaluateConfig) -> list[str]:
    """The kinds of ensembles to compare with."""
    if config.ensembles.baselines is not None:
        return list(config.ensembles.baselines)
    has_members = config.members > 1 or bool(config.ensembles.checkpoints)
    return ["climatology", "dressed"] if has_members else []


def _chosen(data: EnsembleData, kind: str) -> list[str]:
    """Labels of the forecasts that are dressed or perturbed.

    Raises:
        UserError: a label that there is not, or of a forecast that cannot be.
    """
    possible = [*data.deterministic, *(data.baselines if kind == "dressed" else ())]
    asked = data.config.ensembles.forecasts
    if asked is None:
        found = data.deterministic or ([_DAMPED] if kind == "dressed" else [])
        return _not_empty(data, kind, found, "add a deterministic model to models")
    for label in asked:
        if label not in data.models and label not in data.baselines:
            known = [*data.models, *data.baselines]
            raise UserError(
                f"ensembles.forecasts: {label!r} is no label{nearest(label, known)}; there are {', '.join(known)}"
            )
        if label not in possible and (kind == "dressed" or label in data.models):
            raise UserError(f"ensembles.forecasts: {label!r} has members of its own; name deterministic forecasts")
    return _not_empty(data, kind, [label for label in asked if label in possible], "name one in ensembles.forecasts")


def _not_empty(data: EnsembleData, kind: str, labels: list[str], fix: str) -> list[str]:
    """The labels, of which there must be one if `ensembles.baselines` names the kind.

    Raises:
        UserError: there is none.
    """
    if not labels and data.config.ensembles.baselines is not None:
        what = "forecast is to be dressed" if kind == "dressed" else "deterministic model is to be perturbed"
        raise UserError(f"ensembles.baselines: {kind}: no {what}; {fix}, or leave {kind} out")
    return labels


def _climatological(data: EnsembleData, members: int) -> EnsembleModel:
    settings = data.config.ensembles
    times_N = data.training_times("ensembles.baselines")
    found = ClimatologicalEnsemble(
        data.reader(data.variables),
        data.variables,
        CalendarPool(data.source, times_N, settings.window_days),
        data.source,
        members=members,
        seed=settings.seed,
        window_days=settings.window_days,
    )
    found.check(data.samples)
    return found


def _dressed(data: EnsembleData, label: str, members: int) -> EnsembleModel:
    config = data.config
    key, period = "ensembles.dressing_period", config.ensembles.dressing_period or config.train_period
    past = _past(data, key, period, config.ensembles.dressing_errors, "must not dress forecasts")
    for lead, samples in past.items():
        if len(samples) < members:
            raise UserError(
                f"{key}: {len(samples)} forecasts at {lead * data.source.step_hours:g} h are too few to dress "
                f"{members} members: lengthen it, raise ensembles.dressing_errors, or lower ensembles.baseline_members"
            )
    model = {**data.models, **data.baselines}[label]
    return DressedForecast(
        model,
        data.reader(model.variables),
        past,
        data.source,
        members=members,
        seed=config.ensembles.seed,
        label=label,
        period=" … ".join(period),
        days=_days(data.source, period),
    )


def _calibrated(data: EnsembleData, given: Mapping[str, EnsembleModel]) -> dict[str, EnsembleModel]:
    """Label -> every ensemble that there is, calibrated."""
    if not given:
        raise UserError(
            "ensembles.baselines: nothing has members that could be calibrated: set members for a network with noise "
            "(model.noise_dim), or ensembles.checkpoints, or leave calibrated out"
        )
    config, settings = data.config, data.config.ensembles
    period = settings.calibration_period or settings.dressing_period or config.train_period
    key, most = "ensembles.calibration_period", settings.calibration_forecasts
    past = _past(data, key, period, most, "must not calibrate forecasts")
    for lead, samples in past.items():
        if len(samples) < FEWEST_TO_CALIBRATE:
            raise UserError(
                f"{key}: {len(samples)} forecasts at {lead * data.source.step_hours:g} h are too few to calibrate on, "
                f"it takes {FEWEST_TO_CALIBRATE}: lengthen it"
            )
    weight_H, days = latitude_weights(data.source.grid, config.latitude_weights), _days(data.source, period)
    return {
        f"calibrated {label}": CalibratedEnsemble(
            ensemble, data.reader(ensemble.variables), past, weight_H,
            label=label, period=" … ".join(period), batch_size=config.batch_size, days=days,
        )
        for label, ensemble in given.items()
    }  # fmt: skip


def _days(source: PackedSource, period: tuple[str, str]) -> list[DayRun]:
    """The calendar days that the source has data of in a period."""
    hours_N = source.hours[times_of(source, period)]
    return days_of(to_seconds(hours_N), source.calendar)


def _past(data: EnsembleData, key: str, period: tuple[str, str], most: int, must_not: str) -> dict[int, list[Sample]]:
    """Lead steps -> at most so many forecasts of a period that is not scored; `key` names the period.

    They are evenly spaced (`spaced_evenly`).

    Raises:
        UserError: the period overlaps that of the test, or a lead time does not fit into it.
    """
    config, spans = data.config, data.source.within(period)
    if overlap(spans, data.source.within(config.period)):
        given = f"train_period, which is {key} where that is null," if period == config.train_period else key
        raise UserError(f"{given} overlaps period: errors of the test period {must_not}; choose another")
    past = {}
    for lead in data.lead_steps:
        hours = lead * data.source.step_hours
        pairs = forecast_pairs(data.source, spans, hours, key, data.window, history_steps=data.history_steps)
        pairs = started_every(config.start_every_hours, pairs, data.source)
        past[lead] = [pairs[place] for place in spaced_evenly(data.source.hours[starts(pairs)], most)]
    return past


def spaced_evenly(hours_N: Array, most: int) -> list[int]:
    """Places of at most so many starts [h], ascending: evenly spaced, and equally many of each hour of the day.

    Without the latter, the hour could drift with the date, and a daily cycle of errors seem to be an annual one.
    """
    found: list[int] = []
    hour_N = np.round(hours_N % 24, 3)
    of_day = np.unique(hour_N)
    for number, hour in enumerate(of_day):
        (places_N,) = np.nonzero(hour_N == hour)
        share = most // len(of_day) + (number < most % len(of_day))
        chosen = np.linspace(0, len(places_N) - 1, min(len(places_N), share)).round().astype(int)
        found += places_N[np.unique(chosen)].tolist()
    return sorted(found)


def _perturbed(data: EnsembleData, label: str, members: int) -> EnsembleModel:
    model, settings = data.models[label], data.config.ensembles
    if not isinstance(model, Forecaster):
        raise UserError(f"ensembles.forecasts: {label!r} has no start that can be perturbed; name a trained model")
    shortest = data.lead_steps[0]
    spans, hours = data.source.within(data.config.train_period), shortest * data.source.step_hours
    pairs = forecast_pairs(data.source, spans, hours, "lead_hours", data.window, history_steps=data.history_steps)
    starts_N = np.intersect1d([s.time_index for s in pairs], data.training_times("ensembles.baselines"))
    found = PerturbedForecast(
        model,
        CalendarPool(data.source, starts_N, settings.window_days),
        data.source,
        members=members,
        seed=settings.seed,
        scale=settings.perturbation,
        lead_steps=shortest,
        label=label,
    )
    found.check(data.samples)
    return found
