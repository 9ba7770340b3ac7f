"""Forecasts every model must beat: persistence, climatology, damped persistence."""

from collections.abc import Sequence

from climax_hpc.baselines.base import ForecastModel
from climax_hpc.baselines.climatology import Climatology
from climax_hpc.baselines.damped_persistence import DampedPersistence
from climax_hpc.baselines.persistence import Persistence
from climax_hpc.data.shards import Source

DESCRIPTIONS = {
    "persistence": "the state at the start of the forecast, unchanged",
    "climatology": "the mean of the training period for the day of year and hour of the valid time",
    "damped persistence": "climatology + r(variable, lead) · (anomaly at the start), r fitted on the training period",
}


def build_baselines(
    source: Source, variables: Sequence[str], *, train_period: tuple[str, str], lead_hours: Sequence[float]
) -> dict[str, ForecastModel]:
    """Label -> baseline, in the order of DESCRIPTIONS."""
    damped = DampedPersistence(source, variables, train_period=train_period, lead_hours=lead_hours)
    models = (Persistence(source, variables), Climatology(source, variables), damped)
    return dict(zip(DESCRIPTIONS, models, strict=True))
