"""The ensemble scores of evaluation.json and the members in maps.npz as objects.

Dimensions: M members · V variables · P points · T lead times · H, W grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.evaluation.output import lead_key
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.report.maps import SampleMaps, read_maps
from climax_hpc.report.style import baseline_styles, model_colours

_LEARNED = ("network", "checkpoints", "calibrated")
"""Kinds of ensembles that are drawn in colour."""
Style = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class EnsembleScores:
    """Scores of every ensemble by variable and lead time; `ensembles` is empty where there is none."""

    card: Scorecard
    """The evaluation."""

    @property
    def ensembles(self) -> dict[str, dict[str, Any]]:
        """Label -> kind, number of members and description, in the order of tables."""
        return dict(self.card.content.get("ensembles", {}))

    @property
    def learned(self) -> list[str]:
        """Labels of the ensembles of networks and of checkpoints."""
        return [label for label, about in self.ensembles.items() if about["kind"] in _LEARNED]

    @property
    def headline(self) -> str:
        """Label of the ensemble whose histograms and reliability are shown: that of the map, or else the first one."""
        shown = self.card.content["map"]["model"]
        return str(shown) if shown in self.ensembles else (self.learned or list(self.ensembles))[0]

    def members(self, label: str) -> int:
        """Number of members of an ensemble."""
        return int(self.ensembles[label]["members"])

    @property
    def percentiles(self) -> list[float]:
        """Percentiles of the climatology that the events of reliability and Brier scores are beyond."""
        return list(self.card.content.get("ensemble_percentiles", []))

    def styles(self) -> dict[str, Style]:
        """Colour and dashes of the line of each ensemble: learned ones in colour, the models of the page in theirs."""
        others = [label for label in self.learned if label not in self.card.models]
        colours = model_colours([*self.card.models, *others])
        baselines = baseline_styles([label for label in self.ensembles if label not in self.learned])
        return {
            label: {"color": colours[label], "marker": "o", "ms": 3} if label in colours else baselines[label]
            for label in self.ensembles
        }

    def value(self, label: str, variable: str, lead_hours: float, metric: str) -> float:
        """A score; NaN where there is none."""
        return _number(self._at("ensemble_scores", label, variable, lead_hours).get(metric))

    def interval(self, label: str, variable: str, lead_hours: float, metric: str) -> tuple[float, float]:
        """The interval of a score; NaN where there is none."""
        low, high = self._at("ensemble_intervals", label, variable, lead_hours).get(metric) or (None, None)
        return _number(low), _number(high)

    @property
    def references(self) -> list[str]:
        """Labels that the CRPS of ensembles is compared with."""
        return list(self.card.content.get("ensemble_comparison", {}))

    def difference(self, reference: str, label: str, variable: str, lead_hours: float) -> dict[str, Any] | None:
        """Fair CRPS minus that of the reference, its interval, and relative to it; None where there is none."""
        table = self.card.content["ensemble_comparison"][reference]
        found = table.get(label, {}).get(variable, {}).get(lead_key(lead_hours), {})
        fair, plain = found.get("fair_crps"), found.get("crps")
        chosen: dict[str, Any] | None = plain if fair is None or fair["difference"] is None else fair
        return chosen

    def ranks(self, label: str, variable: str, lead_hours: float) -> dict[str, Any]:
        """Frequency of every rank and its intervals; empty where there is none."""
        return self._at("rank_histograms", label, variable, lead_hours)

    def reliability(self, label: str, variable: str, lead_hours: float, percentile: float) -> dict[str, Any]:
        """Shares of the forecast probabilities, observed frequencies and their intervals; empty where there is none."""
        found: dict[str, Any] = self._at("reliability", label, variable, lead_hours).get(f"{percentile:g}", {})
        return found

    @property
    def energy(self) -> dict[str, dict[str, Any]]:
        """Label -> energy scores of all variables together."""
        return dict(self.card.content.get("energy_scores", {}))

    def shown_leads(self) -> list[float]:
        """The first, the middle and the last lead time [h]."""
        leads = self.card.lead_hours
        return [leads[i] for i in sorted({0, len(leads) // 2, len(leads) - 1})]

    def _at(self, table: str, label: str, variable: str, lead_hours: float) -> dict[str, Any]:
        of_label = self.card.content.get(table, {}).get(label, {})
        found: dict[str, Any] = of_label.get(variable, {}).get(lead_key(lead_hours)) or {}
        return found


@dataclass(frozen=True, kw_only=True)
class Fans:
    """The members of one start at some points, lead time by lead time, with the truth."""

    variables: list[str]
    lead_hours: NDArray[np.float64]
    lat_P: NDArray[np.float64]
    lon_P: NDArray[np.float64]
    members_PVTM: NDArray[np.float32]
    truth_PVT: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class EnsembleMaps:
    """The members of the forecast on the maps, and its fans; None where the evaluation has none."""

    members_MVHW: NDArray[np.float32] | None
    fans: Fans | None

    @classmethod
    def load(cls, folder: str | Path, maps: SampleMaps) -> "EnsembleMaps":
        """Read maps.npz of an evaluation; members of another shape than the maps are left out.

        Raises:
            UserError: it is absent or unreadable.
        """
        arrays = read_maps(folder)
        members = arrays.get("members")
        if members is not None and members.shape[1:] != maps.forecast_MHW.shape:
            members = None
        names = ("variables", "lead_hours", "lat", "lon", "members", "truth")
        if any(f"fan_{name}" not in arrays for name in names):
            return cls(members_MVHW=members, fans=None)
        variables, leads, lat, lon, of_members, truth = (arrays[f"fan_{name}"] for name in names)
        fans = Fans(
            variables=variables.tolist(),
            lead_hours=leads,
            lat_P=lat,
            lon_P=lon,
            members_PVTM=of_members,
            truth_PVT=truth,
        )
        return cls(members_MVHW=members, fans=fans if len(leads) > 1 else None)


def numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    """Values of a file as an array; NaN for null."""
    return np.array([_number(value) for value in values])


def intervals(pairs: Sequence[Sequence[float] | None] | None, count: int) -> NDArray[np.float64]:
    """Intervals (2, count) of a file; NaN for null."""
    if pairs is None:
        return np.full((2, count), np.nan)
    return np.array([[_number(v) for v in (pair or (None, None))] for pair in pairs]).reshape(count, 2).T


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)
