"""What a sweep says of an evaluation in one line: the variable that stands for it, its RMSE and the best baseline's.

Light to import: the machine that submits jobs reads results with it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

EVALUATIONS = "evaluations"
"""Folder of a sweep or pipeline; one evaluation per member, named as the member's run folder."""
RESULTS = "results.tsv"
"""The table of all members in the folder of a sweep or pipeline."""
SUMMARY_COLUMNS = ("state", "step", "loss", "restarts", "rmse", "acc", "best_baseline_rmse", "message")
"""Columns of the table that say what came of a member, after those that say what it is."""


def headline_model(content: Mapping[str, Any]) -> str:
    """Label of the first model of an evaluation.json."""
    return str(next(iter(content["models"])))


def summary_variable(content: Mapping[str, Any], trained_on: Sequence[str]) -> str:
    """The first variable trained on that was scored, else the first scored."""
    scored = list(content["scores"][headline_model(content)])
    return next((name for name in trained_on if name in scored), scored[0])


def rmse_by_lead(content: Mapping[str, Any], variable: str) -> dict[float, tuple[float, float]]:
    """Lead [h] -> RMSE of the headline model and the lowest of a baseline; NaN where there is none.

    Tasks without lead times have one entry at 0 h; of climate projections it is the RMSE of the mean maps.
    """
    if "lead_hours" not in content:
        return {0.0: _against_best(content, {name: of[variable] for name, of in content["rmse"].items()})}
    tables = {name: of[variable] for name, of in content["scores"].items() if variable in of}
    return {
        float(lead): _against_best(content, {name: by_lead[lead]["rmse"] for name, by_lead in tables.items()})
        for lead in tables[headline_model(content)]
    }


def _against_best(content: Mapping[str, Any], rmse: Mapping[str, float | None]) -> tuple[float, float]:
    known = {name: value for name, value in rmse.items() if value is not None}
    best = min((known[name] for name in content["baselines"] if name in known), default=math.nan)
    return known.get(headline_model(content), math.nan), best
