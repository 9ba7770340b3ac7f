"""Compares our scores with those printed in the ClimaX paper, or says why they are not comparable.

Nguyen et al. 2023, arXiv 2301.10343: global forecasting of ERA5 at 5.625° (ClimaX, IFS, ResNet, UNet), its
averages over two weeks, climate projection (ClimateBench, frozen blocks), downscaling of MPI-ESM1-2-HR to ERA5.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from climax_hpc.data_prep.simulation.scenarios import TITLE
from climax_hpc.evaluation.nrmse import PROJECTION_METRICS
from climax_hpc.evaluation.output import lead_key, lead_titles
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.report.html import table
from climax_hpc.report.projection_results import Projections
from climax_hpc.report.tables import group_row, score_row, span
from climax_hpc.utils.formatting import format_score

_LEADS = (6, 24, 72, 120, 168, 336)
_FORECASTS: dict[str, dict[str, tuple[float, ...]]] = {
    "geopotential_500": {
        "ClimaX": (62.73, 96.19, 244.08, 440.40, 599.43, 790.26),
        "IFS": (26.93, 51.01, 152.15, 331.45, 549.01, 1011.72),
        "ResNet": (47.00, 86.60, 305.22, 614.20, 806.59, 835.55),
        "UNet": (53.66, 132.65, 458.84, 721.83, 819.39, 866.40),
    },
    "2m_temperature": {
        "ClimaX": (0.95, 1.10, 1.43, 1.83, 2.18, 2.61),
        "IFS": (0.97, 1.02, 1.30, 1.72, 2.24, 3.31),
    },
    "temperature_850": {
        "ClimaX": (0.88, 1.11, 1.59, 2.23, 2.77, 3.40),
        "IFS": (0.69, 0.87, 1.34, 2.01, 2.82, 4.43),
    },
    "10m_u_component_of_wind": {
        "ClimaX": (1.08, 1.41, 2.18, 2.94, 3.43, 3.91),
        "IFS": (0.80, 1.11, 1.92, 2.89, 3.81, 5.24),
    },
}
"""Variable -> model -> RMSE at `_LEADS` [h]."""
_TWO_WEEKS_HOURS = 336.0
_MEANS = {
    "temperature_850": (1.89, 1.92),
    "2m_temperature": (1.66, 1.70),
    "10m_u_component_of_wind": (1.81, 1.86),
    "10m_v_component_of_wind": (1.50, 1.54),
}
"""Variable -> RMSE of ClimaX's means over weeks 3 and 4, and 5 and 6."""
_PROJECTIONS = {
    "2m_temperature": (0.085, 0.043, 0.297),
    "diurnal_temperature_range": (6.688, 0.810, 10.739),
    "total_precipitation_rate": (2.193, 0.183, 3.110),
    "precipitation_rate_90th_percentile": (2.681, 0.342, 4.389),
}
"""Variable -> NRMSE of ClimaX with frozen blocks: spatial, global, total."""
_TEST_YEARS = (2017, 2018)
_GRID = (32, 64)  # 5.625°
_FINE_GRID = (128, 256)  # 1.40625°


def compare_forecasts(card: Scorecard, shape: tuple[int, int]) -> str:
    """The paper's global forecasts, or means over two weeks, with ours, or why not; `shape` of the grid."""
    why = _differences(card.content, shape, _GRID)
    if "domain" in card.content:
        why.append(f"ours are for {card.content['domain']['name']}, theirs for the globe")
    window = card.content.get("window")
    if window and window["hours"] != _TWO_WEEKS_HOURS:
        why.append(f"ours are means over {window['hours']:g} h, theirs states or means over two weeks")
    if why:
        return _not_comparable("its forecasts of ERA5 at 5.625°", why)
    paper: dict[str, dict[str, dict[float, float]]]
    if window:
        leads: Sequence[float] = (_TWO_WEEKS_HOURS, 2 * _TWO_WEEKS_HOURS)
        paper = {v: {"ClimaX": dict(zip(leads, row, strict=True))} for v, row in _MEANS.items()}
    else:
        leads = _LEADS
        paper = {v: {m: dict(zip(leads, r, strict=True)) for m, r in rows.items()} for v, rows in _FORECASTS.items()}
    shared = [lead for lead in leads if lead in card.lead_hours]
    variables = [v for v in card.variables if v in paper]
    if not shared or not variables:
        return _not_comparable("its forecasts of ERA5 at 5.625°", ["none of their variables and lead times was scored"])
    bodies = []
    for variable in variables:
        rows = [group_row(variable, 1 + len(shared))]
        rows += [_row(f"{label} (paper)", [by_lead[x] for x in shared]) for label, by_lead in paper[variable].items()]
        for label in (*card.models, *card.baselines):
            scores = card.content["other_scores"].get(label, {}).get(variable)
            if scores:
                ours = [scores[lead_key(x)]["rmse_climax"] for x in shared]
                rows.append(_row(label, ours, is_model=label in card.models))
        bodies.append("\n".join(rows))
    weights = card.content["settings"]["latitude_weights"]
    text = (
        "RMSE as the paper averages it (mean over forecasts of each forecast's RMSE), which is lower than the RMSE in "
        "the other tables. Data, grid and test years are the same; training data, size and settings differ by model."
        + ("" if weights == "cos" else f" The paper weights rows by cos latitude, this evaluation by {weights}.")
    )
    return f"<p>{escape(text)}</p>{table(['', *lead_titles(shared)], bodies)}"


def compare_projections(found: Projections) -> str:
    """The paper's scores on ClimateBench with ours, or why not."""
    why = []
    source = found.content["source"]
    if not (source.startswith("NorESM2-LM_ssp245") and found.content["years"] == list(range(2080, 2101))):
        why.append(
            f"ours are of {source}, {found.content['years'][0]} … {found.content['years'][-1]}; theirs of "
            "NorESM2-LM_ssp245, 2080 … 2100"
        )
    if found.content["identity"].get("title") == TITLE:
        why.append("ours are from a toy climate in the layout of ClimateBench")
    shape = (len(found.maps.lat), len(found.maps.lon))
    if shape != _GRID:
        why.append(_grids(shape, _GRID))
    variables = [v for v in found.variables if v in _PROJECTIONS]
    if not variables:
        why.append("none of their variables was scored")
    if why:
        return _not_comparable("ClimateBench at 5.625°", why)
    bodies = []
    for variable in variables:
        rows = [
            group_row(variable, 1 + len(PROJECTION_METRICS)),
            _row("ClimaX, frozen (paper)", _PROJECTIONS[variable]),
        ]
        for label in found.labels:
            ours = [found.value(label, variable, score) for score in PROJECTION_METRICS]
            rows.append(_row(label, ours, is_model=label in found.models))
        bodies.append("\n".join(rows))
    return "<p>Scenario, years and grid are the same; size and settings differ by model.</p>" + table(
        ["", *(metric.title for metric in PROJECTION_METRICS.values())], bodies
    )


def compare_downscaling(card: Scorecard, shape: tuple[int, int]) -> str:
    """Why the paper's downscaling scores are not comparable with ours; `shape` of the fine grid."""
    why = _differences(card.content, shape, _FINE_GRID)
    coarse = card.content["coarse_source"]
    if not coarse.startswith("MPI-ESM1-2-HR"):
        why.append(f"ours start from {coarse}, theirs from MPI-ESM1-2-HR")
    else:
        why.append(
            "theirs pair a free-running climate model with ERA5 date by date, so that their RMSE rewards the mean; "
            "here only distributions are scored for such a source"
        )
    return _not_comparable("MPI-ESM1-2-HR at 5.625° to ERA5 at 1.40625°", why)


def _differences(content: Mapping[str, Any], shape: tuple[int, int], theirs: tuple[int, int]) -> list[str]:
    """How data, grid and years differ from the paper's."""
    why = []
    if not content["source"].startswith("ERA5"):
        why.append(f"our truth is {content['source']}, theirs ERA5")
    if shape != theirs:
        why.append(_grids(shape, theirs))
    first, last = (int(date[:4]) for date in content["settings"]["period"])
    if not _TEST_YEARS[0] <= first <= last <= _TEST_YEARS[1]:
        why.append(f"our period is {span(first, last)}, theirs {span(*_TEST_YEARS)}")
    return why


def _grids(ours: tuple[int, int], theirs: tuple[int, int]) -> str:
    return f"our grid has {ours[0]} × {ours[1]} cells, theirs {theirs[0]} × {theirs[1]}"


def _not_comparable(what: str, why: Sequence[str]) -> str:
    text = f"Not comparable with the paper's scores ({what}): {'; '.join(why)}."
    return f"<p>{escape(text)}</p>"


def _row(label: str, values: Sequence[float | None], *, is_model: bool = False) -> str:
    return score_row(label, "".join(f"<td>{format_score(value)}</td>" for value in values), is_model=is_model)
