"""The metrics of forecasts and of downscaled fields: name, title, units, direction and formula in one table.

To add a metric, add an entry to `METRICS`: evaluation.json, the intervals, the tables and the report follow it. Metrics
of distributions are in `distributions.py`, those of climate projections in `nrmse.py`; all are `Metric`s.

With w the area weight of a cell, <·> its weighted mean over the valid cells of one forecast, f forecast, o truth and c
the climatology of the valid time, in physical units, each forecast contributes the values of `SERIES`. A metric is a
function of them and of their means over forecasts, so that the bootstrap can compute it anew for every draw.

Dimensions: N forecasts of one lead time · R draws of them · O variables.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from climax_hpc.fields.variables import lookup

Array = NDArray[np.float64]
Inputs = TypeVar("Inputs")
TaskName = Literal["forecast", "downscaling"]

SERIES = {
    "error": "<f - o>",
    "absolute_error": "<|f - o|>",
    "square_error": "<(f - o)²>",
    "forecast_square": "<(f - c)²>",
    "truth_square": "<(o - c)²>",
    "product": "<(f - c)(o - c)>",
    "truth_mean": "<o - c>",
}
"""What `accumulators.ScoreSums` keeps of every forecast; NaN where no cell is valid."""


@dataclass(frozen=True, kw_only=True)
class Metric(Generic[Inputs]):
    """One metric: what it is called, which values are better, and how it is computed from `Inputs`."""

    name: str
    """Key in evaluation.json."""
    title: str
    """Heading in tables and figures."""
    compute: Callable[[Inputs], Array]
    """The values, one per draw (and variable); NaN where undefined."""
    better: Literal["lower", "higher"] | None
    """Which of two values is better; None for metrics whose values are not ranked."""
    optimum: float | None
    """Value of a perfect forecast; None where there is none."""
    description: str
    """A clause that completes "<title> is …"."""
    dimensionless: bool = False
    """False: it has the units of the variable."""
    tasks: tuple[TaskName, ...] = ()
    """Tasks whose `scores` hold it."""
    secondary_tasks: tuple[TaskName, ...] = ()
    """Tasks that only list it under `other_scores`, which no table shows."""

    def units(self, variable: str) -> str:
        """Units of the metric of a registry variable."""
        return "1" if self.dimensionless else lookup(variable).units

    def is_better(self, value: float, other: float) -> bool:
        """True where `value` is strictly better than `other`."""
        return self.better is not None and (value < other if self.better == "lower" else value > other)

    def best(self, values: Iterable[float]) -> float | None:
        """The best of some values; None without values, and for metrics whose values are not ranked."""
        if self.better is None:
            return None
        return min(values, default=None) if self.better == "lower" else max(values, default=None)


class ForecastMeans:
    """The series of all forecasts, and their means over the forecasts of each draw."""

    def __init__(self, series: Mapping[str, Array], weight_RN: Array) -> None:
        """`series`: `SERIES` name -> (N, O); draw r holds forecast n `weight_RN[r, n]` times."""
        self.series, self._weight_RN = series, weight_RN
        self._means: dict[str, Array] = {}

    def mean(self, name: str) -> Array:
        """Mean (R, O) of a series over the forecasts where it is defined."""
        if name not in self._means:
            self._means[name] = self.mean_of(self.series[name])
        return self._means[name]

    def mean_of(self, values_NO: Array) -> Array:
        """Mean (R, O) of values (N, O) of each forecast, over those that are defined; NaN where none is."""
        defined_NO = np.isfinite(values_NO)
        total_RO = self._weight_RN @ np.where(defined_NO, values_NO, 0.0)
        return ratio(total_RO, self._weight_RN @ defined_NO.astype(np.float64))


def ratio(numerator: Array, denominator: Array) -> Array:
    """Quotient; NaN where the denominator is not above 0."""
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def _rmse(means: ForecastMeans) -> Array:
    return np.sqrt(means.mean("square_error"))


def _acc(means: ForecastMeans) -> Array:
    series = means.series
    return means.mean_of(ratio(series["product"], np.sqrt(series["forecast_square"] * series["truth_square"])))


def _pearson(means: ForecastMeans) -> Array:
    """From moments about c, which may be any one number per variable."""
    truth_RO = means.mean("truth_mean")
    forecast_RO = truth_RO + means.mean("error")
    variances = (
        np.maximum(means.mean("forecast_square") - forecast_RO**2, 0),
        np.maximum(means.mean("truth_square") - truth_RO**2, 0),
    )
    return ratio(means.mean("product") - forecast_RO * truth_RO, np.sqrt(variances[0] * variances[1]))


def _pooled_acc(means: ForecastMeans) -> Array:
    return ratio(means.mean("product"), np.sqrt(means.mean("forecast_square") * means.mean("truth_square")))


_BOTH: tuple[TaskName, ...] = ("forecast", "downscaling")
_TABLE: tuple[Metric[ForecastMeans], ...] = (
    Metric(
        name="rmse",
        title="RMSE",
        compute=_rmse,
        better="lower",
        optimum=0,
        description="the square root of the mean over forecasts of the area-weighted mean square error",
        tasks=_BOTH,
    ),
    Metric(
        name="mae",
        title="MAE",
        compute=lambda means: means.mean("absolute_error"),
        better="lower",
        optimum=0,
        description="the mean over forecasts of the area-weighted mean absolute error",
        tasks=_BOTH,
    ),
    Metric(
        name="bias",
        title="bias",
        compute=lambda means: means.mean("error"),
        better=None,
        optimum=0,
        description="the mean over forecasts of the area-weighted mean error",
        tasks=_BOTH,
    ),
    Metric(
        name="acc",
        title="ACC",
        compute=_acc,
        better="higher",
        optimum=1,
        description="the uncentred anomaly correlation of each forecast with the climatology of the training period, "
        "averaged over forecasts; it is undefined (–) for climatology itself",
        dimensionless=True,
        tasks=("forecast",),
    ),
    Metric(
        name="pearson",
        title="Pearson",
        compute=_pearson,
        better="higher",
        optimum=1,
        description="the correlation over all cells and times together",
        dimensionless=True,
        tasks=("downscaling",),
    ),
    Metric(
        name="rmse_climax",
        title="RMSE (mean of forecasts)",
        compute=lambda means: means.mean_of(np.sqrt(means.series["square_error"])),
        better="lower",
        optimum=0,
        description="the mean over forecasts of each forecast's RMSE, as in the ClimaX paper",
        secondary_tasks=("forecast",),
    ),
    Metric(
        name="acc_climax",
        title="ACC (pooled)",
        compute=_pooled_acc,
        better="higher",
        optimum=1,
        description="the uncentred anomaly correlation of all forecasts pooled, as in the ClimaX paper",
        dimensionless=True,
        secondary_tasks=("forecast",),
    ),
    Metric(
        name="activity",
        title="activity",
        compute=lambda means: np.sqrt(means.mean("forecast_square")),
        better=None,
        optimum=None,
        description="the root mean square anomaly of the forecasts, uncentred",
        secondary_tasks=("forecast",),
    ),
    Metric(
        name="activity_truth",
        title="activity of the truth",
        compute=lambda means: np.sqrt(means.mean("truth_square")),
        better=None,
        optimum=None,
        description="the root mean square anomaly of the truth, uncentred",
        secondary_tasks=("forecast",),
    ),
)
METRICS: dict[str, Metric[ForecastMeans]] = {metric.name: metric for metric in _TABLE}
"""Name -> metric, in the order of tables."""
RMSE = METRICS["rmse"]


def metrics_of(task: TaskName) -> list[Metric[ForecastMeans]]:
    """The metrics in the `scores` of a task."""
    return [metric for metric in METRICS.values() if task in metric.tasks]


def other_metrics_of(task: TaskName) -> list[Metric[ForecastMeans]]:
    """The metrics in the `other_scores` of a task."""
    return [metric for metric in METRICS.values() if task in metric.secondary_tasks]


def compute_metrics(
    metrics: Iterable[Metric[ForecastMeans]], series: Mapping[str, Array], weight_RN: Array
) -> dict[str, Array]:
    """Name -> values (R, O) of draws that hold forecast n `weight_RN[r, n]` times; `series` as in `ForecastMeans`."""
    means = ForecastMeans(series, weight_RN)
    return {metric.name: metric.compute(means) for metric in metrics}


def as_number(value: float) -> float | None:
    """A number as JSON holds it: None where undefined."""
    return float(value) if np.isfinite(value) else None
