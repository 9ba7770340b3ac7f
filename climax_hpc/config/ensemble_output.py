"""What is written of an ensemble: its members, statistics of them, or both; for `predict` and the Python API."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from climax_hpc.config.paths import ConfigPath
from climax_hpc.config.training import require
from climax_hpc.fields.plausible_ranges import plausible_range
from climax_hpc.fields.variables import lookup
from climax_hpc.utils.bounds import bounded

STATISTICS = ("mean", "spread", "minimum", "maximum")


@dataclass(frozen=True, kw_only=True)
class EnsembleOutputConfig:
    """Members and their statistics; the defaults write the members alone."""

    members: int = bounded(1, 100_000)
    """Members that each network with noise (`model.noise_dim` above 0) makes; networks without noise make one each."""
    noise_seed: int = bounded(0, 2**31 - 1)
    """Seed of the noise of members; the same seed, start and member give the same noise."""
    statistics: list[str] = field(default_factory=list)
    """Statistics over the members that are written as variables of their own: `mean`, `spread` (the standard deviation
    with the divisor members - 1), `minimum`, `maximum`."""
    quantiles: list[float] = bounded(list, 1, 1e-6)
    """Quantiles of the members that are written, ascending, between 0 and 1, for example [0.1, 0.5, 0.9]; between
    members they are interpolated linearly."""
    exceedance: dict[str, list[float]] = field(default_factory=dict)
    """Registry name -> thresholds, ascending, in the units of the registry, such as {2m_temperature: [273.15, 303.15]}:
    the share of the members above each threshold is written."""
    calibration: ConfigPath | None = None
    """calibration.npz of an evaluation with `ensembles.baselines: [calibrated]`: members are written without the bias
    and with the spread that it found for these models and lead times; null: as the networks forecast them."""
    keep_members: bool = True
    """false: write the statistics without the members."""

    def __post_init__(self) -> None:
        require(self.members >= 1, "members must be at least 1")
        require(self.noise_seed >= 0, "noise_seed must be 0 or more")
        for name in self.statistics:
            require(name in STATISTICS, f"statistics: {name!r} is unknown; use {', '.join(STATISTICS)}")
        require(len(set(self.statistics)) == len(self.statistics), "statistics: name each of them once")
        require(all(0 < share < 1 for share in self.quantiles), "quantiles must lie between 0 and 1")
        require(_ascend(self.quantiles), "quantiles must ascend, each of them once")
        for name, thresholds in self.exceedance.items():
            lookup(name)
            require(bool(thresholds), f"exceedance: give {name} one threshold or more")
            require(_ascend(thresholds), f"exceedance: the thresholds of {name} must ascend, each of them once")
            _check_units(name, thresholds)
        require(
            self.keep_members or self.has_statistics,
            "keep_members: nothing is left to write: set statistics, quantiles or exceedance, or keep the members",
        )

    @property
    def has_statistics(self) -> bool:
        """True where statistics of the members are asked for."""
        return bool(self.statistics or self.quantiles or self.exceedance)

    def settings(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON holds it; None in place of defaults."""
        plain = EnsembleOutputConfig()
        return {name: None if getattr(self, name) == getattr(plain, name) else getattr(self, name) for name in _NAMES}


_NAMES = tuple(key.name for key in fields(EnsembleOutputConfig))


def check_statistics_layout(output: EnsembleOutputConfig, layout: str) -> None:
    """Refuse statistics in a layout that has no place for them.

    Raises:
        UserError: names the layout that has.
    """
    require(
        layout == "cf" or not output.has_statistics,
        f"layout: {layout} holds members only, without statistics, quantiles and exceedance: use layout: cf",
    )


def ensemble_output_of(config: EnsembleOutputConfig) -> EnsembleOutputConfig:
    """The settings of the ensemble alone."""
    return EnsembleOutputConfig(**{name: getattr(config, name) for name in _NAMES})


def _check_units(name: str, thresholds: Sequence[float]) -> None:
    """Refuse thresholds that the variable cannot have, as those in other units."""
    known = plausible_range(name)
    if known is None:
        return
    low, high = known.possible
    for threshold in thresholds:
        require(
            low <= threshold <= high,
            f"exceedance: {threshold:g} is no {name} in {lookup(name).units}, which lies in {low:g} … {high:g}; "
            "convert the threshold to these units",
        )


def _ascend(values: Sequence[float]) -> bool:
    return sorted(set(values)) == list(values)
