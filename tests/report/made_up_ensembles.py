"""Adds made-up ensemble scores and members to an evaluation, in the form that `climax-hpc evaluate` writes them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.evaluation.output import EVALUATION_FILE, MAPS_FILE

MEMBERS = 8
PERCENTILES = (5.0, 95.0)


def add_ensembles(folder: Path, *, members: int = MEMBERS, intervals: bool = True, maps: bool = True) -> dict[str, Any]:
    """Write them into the evaluation in a folder; returns the new content of evaluation.json."""
    path, rng = folder / EVALUATION_FILE, np.random.default_rng(0)
    content: dict[str, Any] = json.loads(path.read_text())
    (first, *_), (reference, *_) = content["models"], content["baselines"]
    ensembles = {
        first: ("network", members, f"{members} members of the network with noise"),
        "all checkpoints": ("checkpoints", 2, "the models without noise, one member each"),
        "climatological ensemble": ("climatology", 16, "the same day of other years"),
        f"dressed {reference}": ("dressed", 10, "the forecast and errors of the training period"),
    }
    content["ensembles"] = {
        label: {"kind": kind, "members": count, "description": text} for label, (kind, count, text) in ensembles.items()
    }
    content["ensemble_percentiles"] = list(PERCENTILES)
    levels = dict(zip(ensembles, (0.9, 1.16, 1.45, 1.15), strict=True))
    tables: dict[str, Any] = {
        name: {} for name in ("ensemble_scores", "ensemble_intervals", "rank_histograms", "reliability")
    }
    for label, (_, count, _) in ensembles.items():
        for variable in content["variables"]:
            for lead in content["lead_hours"]:
                level, size = levels[label], _size(variable)
                found = _of_lead(rng, count, lead, size, level if "clim" not in label else level * 3)
                for name, value in zip(tables, found, strict=True):
                    tables[name].setdefault(label, {}).setdefault(variable, {})[f"{lead:g}"] = value
    content |= tables
    content["ensemble_comparison"] = {
        f"dressed {reference}": {
            label: _compared(content, level - 1.15) for label, level in levels.items() if "dressed" not in label
        }
    }
    leads = {f"{lead:g}": {"energy_score": 0.4, "fair_energy_score": 0.37} for lead in content["lead_hours"]}
    content["energy_scores"] = {first: {"variables": list(content["variables"]), "scores": leads}}
    if not intervals:
        del content["ensemble_intervals"], content["ensemble_comparison"]
        for of_lead in (one for table in ("rank_histograms", "reliability") for one in _leaves(content[table])):
            of_lead.pop("interval", None)
    path.write_text(json.dumps(content))
    if maps:
        _add_maps(folder / MAPS_FILE, content, members, rng)
    return content


def _leaves(table: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every dictionary with intervals in a table."""
    for value in table.values():
        if isinstance(value, dict):
            yield from [value] if "interval" in value else _leaves(value)


def _size(variable: str) -> float:
    """About the spread of a variable."""
    return {"geopotential_500": 600.0, "u_component_of_wind_850": 5.0}.get(variable, 3.0)


def _of_lead(rng: np.random.Generator, members: int, lead: float, size: float, level: float) -> tuple[Any, ...]:
    """Scores, their intervals, rank histogram and reliability of one lead time."""
    error = size * level * (1 - np.exp(-lead / 60))
    values: dict[str, float | None] = {
        "crps": 0.56 * error * (1 + 0.4 / members),
        "fair_crps": 0.56 * error,
        "rmse": error,
        "unbiased_rmse": error * 0.97,
        "spread": error * 0.9,
        "spread_skill": 0.8 + 0.2 * min(1, lead / 48),
        "unbiased_spread_skill": 0.95,
        "outliers": 0.25,
    }
    for percentile in PERCENTILES:
        values |= {f"brier_{percentile:g}": 0.03, f"fair_brier_{percentile:g}": None}
    ends = {name: None if value is None else [value * 0.96, value * 1.04] for name, value in values.items()}
    ranks = np.arange(members + 1) / members - 0.5
    frequency = 1 + 2.5 * ranks**2 * (1 if lead < 24 else 0.3) + rng.normal(0, 0.04, members + 1)
    frequency /= frequency.sum()
    histogram = {"frequency": frequency.tolist(), "interval": [[f * 0.93, f * 1.07] for f in frequency]}
    return values, ends, histogram, {f"{p:g}": _curve(rng, members, rare=lead > 48) for p in PERCENTILES}


def _curve(rng: np.random.Generator, members: int, *, rare: bool) -> dict[str, Any]:
    """A reliability curve; `rare`: the highest probability was never forecast."""
    probability = np.linspace(0, 1, members + 1)
    observed = np.clip(0.02 + 0.85 * probability + rng.normal(0, 0.03, members + 1), 0, 1).tolist()
    share, width = np.exp(-5 * probability), 0.02 + 0.1 * probability
    ends = [[max(0, o - w), min(1, o + w)] for o, w in zip(observed, width, strict=True)]
    return {
        "forecasts": (share / share.sum()).tolist(),
        "observed": [*observed[:-1], None] if rare else observed,
        "interval": [*ends[:-1], None] if rare else ends,
        "base_rate": 0.05,
    }


def _compared(content: dict[str, Any], relative: float) -> dict[str, Any]:
    """Differences from a reference with a CRPS of 10; the interval is 1 wide."""
    one = {"difference": relative * 10, "interval": [relative * 10 - 0.5, relative * 10 + 0.5], "relative": relative}
    by_lead = {f"{lead:g}": {"crps": one, "fair_crps": one} for lead in content["lead_hours"]}
    return dict.fromkeys(content["variables"], by_lead)


def _add_maps(path: Path, content: dict[str, Any], members: int, rng: np.random.Generator) -> None:
    with np.load(path) as file:
        arrays: dict[str, NDArray[Any]] = {name: file[name] for name in file.files}
    forecast = arrays["forecast"].astype(np.float64)
    spread = forecast.std(axis=(1, 2), keepdims=True)
    noise = rng.normal(0, 0.3, (members, *forecast.shape)) * spread
    arrays["members"] = (forecast + noise - noise.mean(axis=0)).astype(np.float32)
    names, leads = arrays["variables"], np.array(content["lead_hours"])
    steps = rng.normal(0, 1, (2, len(names), len(leads), members + 1)).cumsum(axis=2)
    level, width = forecast.mean(axis=(1, 2))[:, None, None], spread[:, :, 0][..., None]
    series = level + 0.3 * width * steps
    arrays |= {
        "fan_variables": names,
        "fan_lead_hours": leads,
        "fan_lat": np.array([48.0, -33.0]),
        "fan_lon": np.array([10.0, 280.0]),
        "fan_members": series[..., :-1].astype(np.float32),
        "fan_truth": series[..., -1].astype(np.float32),
    }
    np.savez(path, **arrays)  # type: ignore[arg-type]
