"""Settings of the scores of ensembles in `evaluate`."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from climax_hpc.config.paths import ConfigPath
from climax_hpc.config.training import require
from climax_hpc.fields.periods import check_period
from climax_hpc.utils.bounds import bounded

EnsembleBaseline = Literal["climatology", "dressed", "perturbed", "calibrated"]
ENSEMBLE_BASELINES: tuple[EnsembleBaseline, ...] = get_args(EnsembleBaseline)
FEWEST_TO_CALIBRATE = 10
"""Forecasts that a calibration needs: the mean error of fewer is mostly chance."""


@dataclass(frozen=True, kw_only=True)
class EnsembleScoresConfig:
    """`ensembles` of `climax-hpc evaluate`: which ensembles are scored in addition to networks with noise, and how."""

    checkpoints: dict[str, list[ConfigPath]] = field(default_factory=dict)
    """Label -> folders of several checkpoints, for example of runs with several seeds, which form one ensemble: one
    member of each, and of those with noise as many as `members` says."""
    baselines: list[EnsembleBaseline] | None = None
    """Ensembles to compare with: `climatology`, states of the training period near the calendar day; `dressed`,
    deterministic forecasts minus errors that they made in `dressing_period`; `perturbed`, deterministic models from
    perturbed starts; `calibrated`, every model or `checkpoints` with members, without the bias and with the spread
    scaled to the error that they had in `calibration_period`. null: climatology and dressed where a model has members,
    else none."""
    baseline_members: int | None = bounded(None, 1000)
    """Members of each of these but the calibrated; null: as many as the largest ensemble of the models has, or 8."""
    forecasts: list[str] | None = None
    """Labels of the deterministic models and baselines that are dressed, and of the models that are perturbed; null:
    all deterministic models, and where there are none, damped persistence is dressed."""
    dressing_period: tuple[str, str] | None = None
    """First and last date of the forecasts whose errors dress others; must not overlap `period`; null: train_period. In
    the period that a model was trained on, its errors are smaller than later: prefer that of validation."""
    dressing_errors: int = bounded(100, 10_000)
    """Errors of each lead time to draw from, whole fields, evenly spaced in dressing_period; those of one lead time are
    held in memory."""
    calibration_period: tuple[str, str] | None = None
    """First and last date of the forecasts that ensembles are calibrated on; must not overlap `period`; null: as
    dressing_period. Prefer the period of validation, as there."""
    calibration_forecasts: int = bounded(200, 10_000)
    """Forecasts of each lead time to calibrate on, evenly spaced in calibration_period; none of them is kept."""
    perturbation: float = bounded(0.1, 10.0)
    """Standard deviation of the perturbation of a start, over that of the states about their climatology."""
    window_days: float = bounded(10.0, 366.0)
    """Days on either side of a calendar day whose states are its climatology, for thresholds, for the climatological
    ensemble and for perturbations."""
    percentiles: tuple[float, ...] = bounded((5.0, 95.0), 100.0)
    """Percentiles of the climatology that Brier scores and reliability are of: values below those under 50, above the
    others; []: none."""
    references: list[str] | None = None
    """Labels that the CRPS of every ensemble is compared with; that of a deterministic forecast is its MAE. null: the
    ensembles of `baselines`, the deterministic models, and `reference`."""
    seed: int = bounded(0, 1_000_000_000)
    """Seed of the members of these ensembles and of networks with noise."""

    def __post_init__(self) -> None:
        check_period("ensembles.dressing_period", self.dressing_period)
        check_period("ensembles.calibration_period", self.calibration_period)
        for label, paths in self.checkpoints.items():
            require(len(paths) > 1, f"ensembles.checkpoints.{label}: give two checkpoints or more")
            require(len(set(paths)) == len(paths), f"ensembles.checkpoints.{label}: names a checkpoint twice")
        require(
            self.baseline_members is None or self.baseline_members > 1,
            "ensembles.baseline_members must be at least 2, or null",
        )
        require(self.dressing_errors > 1, "ensembles.dressing_errors must be at least 2")
        require(
            self.calibration_forecasts >= FEWEST_TO_CALIBRATE,
            f"ensembles.calibration_forecasts must be at least {FEWEST_TO_CALIBRATE}",
        )
        require(self.perturbation > 0, "ensembles.perturbation must be above 0")
        require(self.window_days >= 0, "ensembles.window_days must be 0 or more")
        require(self.seed >= 0, "ensembles.seed must be 0 or more")
        require(
            all(0 < percentile < 100 for percentile in self.percentiles),
            "ensembles.percentiles must lie between 0 and 100, both excluded",
        )
        require(len(set(self.percentiles)) == len(self.percentiles), "ensembles.percentiles names a percentile twice")
