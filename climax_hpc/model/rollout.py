"""Iterative roll-out: each forecast is the input of the next step, in training and in prediction.

In both output modes a forecast has the units of the input (z-scores, or normalised anomalies from the climatology of
its own time), so the next input is the forecast with the static fields appended. Cells that are missing in the initial
conditions stay missing: the network was never trained on its own output there.

A network that takes tendencies gets the change from one step to the next, so its steps are 6 h long. Solar inputs are
those of the time of each step.

An ensemble begins with one input for each sample; from the first forecasts on each member has its own.

Dimensions: B samples · n members of all samples, those of a sample adjacent (without an ensemble B) · I states among
the inputs · T tendencies · G solar inputs · S static inputs · V = I + T + G + S inputs · O outputs · H, W grid.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from climax_hpc.errors import UserError
from climax_hpc.fields.variables import TENDENCY_HOURS, lookup
from climax_hpc.model.indices import index_tensor
from climax_hpc.model.noise import of_members

Step = Callable[[Tensor], Tensor]
"""Inputs (B, V, H, W) -> forecast (n, O, H, W) one step later, in the same units."""


def check_closed(inputs: Sequence[str], outputs: Sequence[str], key: str, who: str, step_hours: float) -> None:
    """Check that every state among the inputs is also an output, and every tendency that of one: a roll-out needs it.

    Raises:
        UserError: names `key`, the model and the inputs that it does not forecast, or steps that tendencies do not fit.
    """
    if step_hours != TENDENCY_HOURS and any(lookup(v).tendency_of for v in inputs):
        raise UserError(
            f"{key}: {who} takes tendencies, which are changes over {TENDENCY_HOURS:g} h: its roll-outs need steps of "
            f"{TENDENCY_HOURS:g} h (now {step_hours:g})"
        )
    open_ends = [v for v in inputs if lookup(v).has_anomalies and (lookup(v).tendency_of or v) not in outputs]
    if open_ends:
        raise UserError(
            f"{key}: {who} takes {', '.join(open_ends)} as input but does not forecast them, so its output cannot be "
            "the next input; forecast each lead time directly, or train with all inputs as outputs"
        )


def roll_out(
    step: Step,
    x_BVHW: Tensor,
    inputs: Sequence[str],
    outputs: Sequence[str],
    steps: int,
    change_scale_T11: Tensor | None = None,
    solar: Callable[[int], Tensor] | None = None,
) -> Iterator[Tensor]:
    """Forecasts (n, O, H, W) after 1, 2, … `steps` steps; `inputs` lists states, tendencies, solar, static ones.

    Args:
        change_scale_T11: tendency per change of the state, in the units of the inputs; None: they are the same.
        solar: solar inputs (B, G, H, W) of step 0, 1, …, which take the place of those in `x_BVHW`; None if the
            network has none.
    """
    changing = [inputs.index(str(lookup(v).tendency_of)) for v in inputs if lookup(v).tendency_of]
    dynamic = [v for v in inputs if lookup(v).can_be_forecast]
    following = [list(outputs).index(v) for v in dynamic]
    missing_BIHW = x_BVHW[:, : len(dynamic)].isnan()
    first, solar_inputs = len(dynamic) + len(changing), sum(lookup(v).solar is not None for v in inputs)
    assert (solar is not None) == (solar_inputs > 0), "solar inputs are needed by a network that takes them, only"
    static_BSHW = x_BVHW[:, first + solar_inputs :]
    if solar:
        x_BVHW = torch.cat([x_BVHW[:, :first], solar(0).to(x_BVHW.dtype), static_BSHW], dim=1)
    for number in range(1, steps + 1):
        y_BOHW = step(x_BVHW)
        yield y_BOHW
        if number < steps:
            members = len(y_BOHW) // len(missing_BIHW)
            x_BVHW, missing_BIHW, static_BSHW = (of_members(t, members) for t in (x_BVHW, missing_BIHW, static_BSHW))
            x_BIHW = y_BOHW.index_select(1, index_tensor(following, y_BOHW.device))
            x_BIHW = x_BIHW.masked_fill(missing_BIHW, torch.nan)
            parts = [x_BIHW, static_BSHW.to(x_BIHW.dtype)]
            if solar:
                solar_BGHW = solar(number).to(x_BIHW.dtype)
                parts.insert(1, of_members(solar_BGHW, len(x_BIHW) // len(solar_BGHW)))
            if changing:
                places = index_tensor(changing, x_BIHW.device)
                change_BTHW = (x_BIHW - x_BVHW[:, : len(dynamic)]).index_select(1, places)
                scaled_BTHW = change_BTHW if change_scale_T11 is None else change_BTHW * change_scale_T11
                parts.insert(1, scaled_BTHW.to(x_BIHW.dtype))
            x_BVHW = torch.cat(parts, dim=1)
