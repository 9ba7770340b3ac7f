"""What readers of forecasts should know of a checkpoint: lead times and inputs that it was not trained on, or lacks."""

from collections.abc import Mapping, Sequence
from typing import Any

from climax_hpc.checkpoint.format import Checkpoint
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


def missing_inputs(checkpoint: Checkpoint, inputs: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Variables that the checkpoint was trained with but that are not among the inputs."""
    return [v for v in checkpoint.metadata.in_variables if v not in inputs]
