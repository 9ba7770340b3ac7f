"""An evaluation in one row of a sweep's table: one variable, the RMSE of its headline model, the best baseline's.

Light to import: the machine that submits jobs reads results with it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from climax_hpc.evaluation.metrics import RMSE
from climax_hpc.evaluation.output import headline_model, lead_key

EVALUATIONS = "evaluations"
"""Folder of a sweep or pipeline; one evaluation per member, named as the member's run folder."""
RESULTS = "results.tsv"
"""The table of all members in the folder of a sweep or pipeline."""
SUMMARY_COLUMNS = ("state", "step", "loss", "restarts", "rmse", "acc", "best_baseline_rmse", "message")
"""Columns of the table with the results of a member, after those with its settings."""


def summary_variable(content: Mapping[str, Any], trained_on: Sequence[str]) -> str:
    """The variable that the summary is of: the first one trained on that was scored, else the first one scored."""
    scored = list(content["scores"][headline_model(content)])
    return next((name for name in trained_on if name in scored), scored[0])


def rmse_by_lead(content: Mapping[str, Any], variable: str) -> dict[float, tuple[float, float]]:
    """Lead [h] -> RMSE of the headline model and the best one of a baseline; NaN where there is none.

    Tasks without lead times have one entry at 0 h; for climate projections it is the RMSE of the mean maps.
    """
    if "lead_hours" not in content:
        return {0.0: _with_best_baseline(content, {name: of[variable] for name, of in content["rmse"].items()})}
    tables = {name: of[variable] for name, of in content["scores"].items() if variable in of}
    return {
        float(lead): _with_best_baseline(content, {name: by_lead[lead][RMSE.name] for name, by_lead in tables.items()})
        for lead in tables[headline_model(content)]
    }


def summary_scores(content: Mapping[str, Any], trained_on: Sequence[str]) -> tuple[float | None, float | None, float]:
    """RMSE and ACC of the headline model and the best baseline's RMSE, of one variable at the longest lead time scored.

    None and NaN where there is none: not every task has an ACC.
    """
    variable = summary_variable(content, trained_on)
    by_lead = rmse_by_lead(content, variable)
    longest = max(by_lead)
    rmse, best_baseline = by_lead[longest]
    scores = content["scores"][headline_model(content)][variable]
    return rmse, scores.get(lead_key(longest), {}).get("acc"), best_baseline


def _with_best_baseline(content: Mapping[str, Any], rmse: Mapping[str, float | None]) -> tuple[float, float]:
    known = {name: value for name, value in rmse.items() if value is not None}
    best = RMSE.best(known[name] for name in content["baselines"] if name in known)
    return known.get(headline_model(content), math.nan), math.nan if best is None else best
