"""What readers of forecasts should know: lead times, inputs and seasons that models were not trained or fitted on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.checkpoint.format import Checkpoint
from climax_hpc.fields.calendar_days import DayRun, days_text, outside_days
from climax_hpc.fields.calendars import iso, to_seconds
from climax_hpc.utils.formatting import whole_steps


def lead_notes(label: str, checkpoint: Checkpoint, lead_hours: Sequence[float]) -> list[str]:
    """A sentence for each kind of these lead times [h] that the checkpoint was not trained on."""
    trained = checkpoint.metadata.training
    if trained is None:
        return [f"{label} does not record which lead times it was trained on."]
    span = f"{trained.min_lead_hours:g} … {trained.max_lead_hours:g} h in steps of {trained.lead_step_hours:g} h"
    outside = [lead for lead in lead_hours if not trained.covers(lead)]
    inside = [lead for lead in lead_hours if trained.covers(lead)]
    between = [lead for lead in inside if not whole_steps(lead, trained.lead_step_hours)]
    return [
        f"{label} was trained on leads of {span}: {', '.join(f'{lead:g}' for lead in leads)} h is {kind}."
        for leads, kind in ((outside, "outside"), (between, "interpolated by the network"))
        if leads
    ]


def season_notes(what: str, days: Sequence[DayRun] | None, hours_T: NDArray[np.float64], calendar: str) -> list[str]:
    """A sentence where valid times [h since 1850] lie outside of the calendar days that bias and spread are from.

    Args:
        what: whose bias and spread, for the message.
        days: the calendar days; None: not known.
        hours_T: the valid times.
        calendar: theirs.
    """
    if days is None:
        return [f"{what} does not record the calendar days that its bias and spread are from."]
    seconds_T = np.unique(to_seconds(hours_T))
    outside = seconds_T[outside_days(days, seconds_T, calendar)]
    if not len(outside):
        return []
    return [
        f"{what} has its bias and spread from the calendar days {days_text(days)}: {len(outside)} of {len(seconds_T)} "
        f"valid times lie outside of them, such as {iso(int(outside[0]), calendar)}, where both may differ."
    ]


def missing_inputs(checkpoint: Checkpoint, inputs: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Variables that the checkpoint was trained with but that are not among the inputs."""
    return [v for v in checkpoint.metadata.in_variables if v not in inputs]
