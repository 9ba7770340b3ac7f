"""Iterative roll-out: each forecast is the input of the next step, in training and in prediction.

In both output modes a forecast has the units of the input (z-scores, or normalised anomalies from the climatology of
its own time), so the next input is the forecast with the static fields appended. Cells that are missing in the initial
conditions stay missing: the network was never trained on its own output there.

Dimensions: B samples · I dynamic inputs · S static inputs · V = I + S inputs · O outputs · H, W grid.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from climax_hpc.errors import UserError
from climax_hpc.fields.variables import lookup
from climax_hpc.model.indices import index_tensor

Step = Callable[[Tensor], Tensor]
"""Inputs (B, V, H, W) -> forecast (B, O, H, W) one step later, in the same units."""


def check_closed(inputs: Sequence[str], outputs: Sequence[str], key: str, who: str) -> None:
    """Check that every dynamic input is also an output, which a roll-out needs.

    Raises:
        UserError: names `key`, the model and the inputs that it does not forecast.
    """
    if any(lookup(v).tendency_of for v in inputs):
        raise UserError(
            f"{key}: {who} takes tendencies, which roll-outs do not compute; forecast each lead time directly"
        )
    open_ends = [v for v in inputs if not lookup(v).static and v not in outputs]
    if open_ends:
        raise UserError(
            f"{key}: {who} takes {', '.join(open_ends)} as input but does not forecast them, so its output cannot be "
            "the next input; forecast each lead time directly, or train with all inputs as outputs"
        )


def roll_out(step: Step, x_BVHW: Tensor, inputs: Sequence[str], outputs: Sequence[str], steps: int) -> Iterator[Tensor]:
    """Forecasts (B, O, H, W) after 1, 2, … `steps` steps; `inputs` lists dynamic variables first, then static ones."""
    dynamic = [v for v in inputs if not lookup(v).static]
    following = [list(outputs).index(v) for v in dynamic]
    static_BSHW, missing_BIHW = x_BVHW[:, len(dynamic) :], x_BVHW[:, : len(dynamic)].isnan()
    for number in range(1, steps + 1):
        y_BOHW = step(x_BVHW)
        yield y_BOHW
        if number < steps:
            x_BIHW = y_BOHW.index_select(1, index_tensor(following, y_BOHW.device))
            x_BIHW = x_BIHW.masked_fill(missing_BIHW, torch.nan)
            x_BVHW = torch.cat([x_BIHW, static_BSHW.to(x_BIHW.dtype)], dim=1)
