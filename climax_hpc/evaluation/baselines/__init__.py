"""Forecasts every model must beat: persistence, climatology, damped persistence."""

from collections.abc import Sequence

from climax_hpc.data.dataset import PackedSource
from climax_hpc.evaluation.baselines.base import ForecastModel
from climax_hpc.evaluation.baselines.climatology import Climatology
from climax_hpc.evaluation.baselines.damped_persistence import DampedPersistence
from climax_hpc.evaluation.baselines.persistence import Persistence
from climax_hpc.fields.averaging_window import Window

DESCRIPTIONS = {
    "persistence": "the state at the start of the forecast, unchanged",
    "climatology": "the mean of the training period for the day of year and hour of the valid time",
    "damped persistence": "climatology + r(variable, lead) · (anomaly at the start), r fitted on the training period",
}
DESCRIPTIONS_OF_MEANS = {
    "persistence": "the latest mean: over the window that ends with the start of the forecast",
    "climatology": "the training period's climatology, averaged over the window",
    "damped persistence": "climatology of the window + r(variable, lead) · (anomaly at the start), r fitted for means "
    "over the window on the training period",
}


def build_baselines(
    source: PackedSource,
    variables: Sequence[str],
    *,
    train_period: tuple[str, str],
    lead_hours: Sequence[float],
    window: Window | None = None,
) -> dict[str, ForecastModel]:
    """Label -> baseline, in the order of DESCRIPTIONS; with a window, of means over it."""
    steps = window.over(source.step_hours, source.name) if window else None
    damped = DampedPersistence(source, variables, train_period=train_period, lead_hours=lead_hours, window=window)
    models = (Persistence(source, variables, steps), Climatology(source, variables, steps), damped)
    return dict(zip(DESCRIPTIONS, models, strict=True))
