"""The scores of ensembles: name, title, direction and formula in one table, in terms of `EnsembleSums.series`.

Definitions are those of WeatherBench-X (https://weatherbench-x.readthedocs.io) where it has the score. A value is a
function of means over forecasts, so that the bootstrap can compute it for every draw.

Dimensions: N forecasts of one lead time · D draws of them · O variables · R ranks or probabilities.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from climax_hpc.evaluation.metrics import Array, ForecastMeans, Metric, ratio

PERCENTILES_BELOW = 50.0
"""Below this percentile the event is a value below the threshold, else one above it."""


def _mean(name: str, title: str, description: str, *, dimensionless: bool = False) -> Metric[ForecastMeans]:
    """The mean over forecasts of a series that is lower for better forecasts."""
    return Metric(
        name=name,
        title=title,
        compute=lambda means: means.mean(name),
        better="lower",
        optimum=0,
        description=description,
        dimensionless=dimensionless,
    )


def _unbiased_rmse(means: ForecastMeans) -> Array:
    """NaN where the estimate of the mean square is below 0."""
    square = means.mean("unbiased_square_error")
    return np.sqrt(np.where(square >= 0, square, np.nan))


_TABLE: tuple[Metric[ForecastMeans], ...] = (
    _mean("crps", "CRPS", "the continuous ranked probability score of the ensemble as it is; of one member the MAE"),
    _mean("fair_crps", "fair CRPS", "the CRPS of the distribution that the members are drawn from"),
    Metric(
        name="rmse",
        title="RMSE of the mean",
        compute=lambda means: np.sqrt(means.mean("square_error")),
        better="lower",
        optimum=0,
        description="the RMSE of the mean of the members",
    ),
    Metric(
        name="unbiased_rmse",
        title="RMSE of the mean, unbiased",
        compute=_unbiased_rmse,
        better="lower",
        optimum=0,
        description="the RMSE that the mean of endless members would have",
    ),
    Metric(
        name="spread",
        title="spread",
        compute=lambda means: np.sqrt(means.mean("variance")),
        better=None,
        optimum=None,
        description="the square root of the mean variance of the members, with M - 1 in its denominator",
    ),
    Metric(
        name="spread_skill",
        title="spread/skill",
        compute=lambda means: np.sqrt(ratio(means.mean("total_variance"), means.mean("square_error"))),
        better=None,
        optimum=1,
        description="the spread times √((M+1)/M) over the RMSE of the mean (Fortin et al. 2014): 1 where the truth is "
        "like one more member, below 1 where the ensemble is too sure",
        dimensionless=True,
    ),
    Metric(
        name="unbiased_spread_skill",
        title="spread/skill, unbiased",
        compute=lambda means: np.sqrt(ratio(means.mean("variance"), means.mean("unbiased_square_error"))),
        better=None,
        optimum=1,
        description="the spread over the unbiased RMSE of the mean (UnbiasedSpreadSkillRatio of WeatherBench-X)",
        dimensionless=True,
    ),
    Metric(
        name="outliers",
        title="outliers",
        compute=lambda means: means.mean("outliers"),
        better=None,
        optimum=None,
        description="the share of the truth outside all members; 2/(M+1) where the truth is like one more member",
        dimensionless=True,
    ),
)
ENERGY_METRICS: dict[str, Metric[ForecastMeans]] = {
    metric.name: metric
    for metric in (
        _mean(
            "energy_score",
            "energy score",
            "the CRPS of all variables of a cell together, each over its standard deviation",
            dimensionless=True,
        ),
        _mean(
            "fair_energy_score",
            "fair energy score",
            "the energy score of the distribution that the members are drawn from",
            dimensionless=True,
        ),
    )
}
"""Name -> metric of all variables together."""
COMPARED = ("crps", "fair_crps", "unbiased_rmse")
"""Scores whose differences from a reference are given."""


def event(percentile: float) -> str:
    """The event that a percentile of the climatology bounds, in words."""
    return f"{'below' if percentile < PERCENTILES_BELOW else 'above'} the {percentile:g}th percentile"


def ensemble_metrics(percentiles: Sequence[float]) -> dict[str, Metric[ForecastMeans]]:
    """Name -> metric of one variable, with Brier scores of these percentiles."""
    found = {metric.name: metric for metric in _TABLE}
    for percentile in percentiles:
        about = f"values {event(percentile)} of the climatology"
        for metric in (
            _mean(
                f"brier_{percentile:g}",
                f"Brier score, {event(percentile)}",
                f"the mean square error of the probability of {about}",
                dimensionless=True,
            ),
            _mean(
                f"fair_brier_{percentile:g}",
                f"fair Brier score, {event(percentile)}",
                f"the Brier score of the distribution that the members are drawn from, of {about}",
                dimensionless=True,
            ),
        ):
            found[metric.name] = metric
    return found


def mean_shares(series_NOR: Array, weight_DN: Array) -> Array:
    """Mean (D, O, R) over the forecasts of each draw of shares, over the forecasts that define them."""
    means = ForecastMeans({}, weight_DN).mean_of(series_NOR.reshape(len(series_NOR), -1))
    return means.reshape(len(weight_DN), *series_NOR.shape[1:])


def observed_frequency(series: Mapping[str, Array], percentile: float, weight_DN: Array) -> Array:
    """Observed frequency (D, O, R) of the event by its forecast probability; NaN where that was never forecast."""
    events, forecasts = (mean_shares(series[f"{name}_{percentile:g}"], weight_DN) for name in ("events", "forecasts"))
    return ratio(events, forecasts)
