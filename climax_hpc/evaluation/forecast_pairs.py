"""Which forecasts of a period are scored: pairs of a start and a lead time."""

from collections.abc import Sequence

from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sample
from climax_hpc.data.segments import Segment
from climax_hpc.errors import UserError
from climax_hpc.fields.averaging_window import WindowSteps
from climax_hpc.fields.calendars import at_multiples
from climax_hpc.utils.formatting import whole_steps


def forecast_pairs(
    source: PackedSource,
    spans: Sequence[Segment],
    lead_hours: float,
    key: str,
    window: WindowSteps | None = None,
    *,
    history_steps: int = 0,
) -> list[Sample]:
    """Every forecast of one lead time whose start and valid time lie in the same one of `spans`.

    So do all of a window that starts at the valid time and of one that ends at the start, and the state before.

    Raises:
        UserError: monthly or yearly data; a lead time that is not a multiple of the step or is longer than any span.
            The message names `key`.
    """
    source.check_fixed_step()
    steps = whole_steps(lead_hours, source.step_hours)
    if steps is None:
        near = max(round(lead_hours / source.step_hours), 1) * source.step_hours
        raise UserError(
            f"{key}: {lead_hours:g} h is not a multiple of the {source.step_hours:g} h step of source {source.name}; "
            f"use for example {near:g}"
        )
    tail = window.tail if window else 0
    found = [
        Sample(time_index=span.first + i, lead_steps=steps)
        for span in spans
        for i in range(max(tail, history_steps), span.steps - steps - tail)
    ]
    if not found:
        longest = max(0, max(span.steps for span in spans) - 1 - tail - max(tail, history_steps)) * source.step_hours
        raise UserError(
            f"{key}: {lead_hours:g} h does not fit into the period: its longest segment without a gap allows "
            f"{longest:g} h; shorten {key} or widen period"
        )
    return found


def started_every(every_hours: float | None, pairs: Sequence[Sample], source: PackedSource) -> list[Sample]:
    """Those of the forecasts that start at multiples of `every_hours` since 1850-01-01 00:00; all of them for None.

    Raises:
        UserError: `every_hours` is not a multiple of the source's step, or no forecast is left.
    """
    if every_hours is None:
        return list(pairs)
    if whole_steps(every_hours, source.step_hours) is None:
        raise UserError(
            f"start_every_hours: {every_hours:g} h is not a multiple of the {source.step_hours:g} h step of source "
            f"{source.name}"
        )
    kept_T = at_multiples(source.hours, every_hours)
    found = [s for s in pairs if kept_T[s.time_index]]
    if not found:
        raise UserError(f"start_every_hours: no forecast of the period starts at a multiple of {every_hours:g} h")
    return found
