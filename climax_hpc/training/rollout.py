"""Iterative roll-out: a model goes on from its own forecasts, in training with the gradient through all steps.

In both output modes a forecast is in the units of the input (z-scores, or normalised anomalies from the climatology of
its own time), so the next input is the forecast with the static fields behind it. What is missing at the start stays
missing: the network was never trained on what it gives there.
Dimensions: B samples · K steps · I dynamic inputs · V inputs · O outputs · H, W grid.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from climax_hpc.data.batches import Batch
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import lookup
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_error
from climax_hpc.model.output_modes import forecast_from_network

Step = Callable[[Tensor], Tensor]
"""Inputs (B, V, H, W) -> forecast (B, O, H, W) one step later, in the same units."""


def check_closed(inputs: Sequence[str], outputs: Sequence[str], key: str, who: str) -> None:
    """Refuse a model that cannot go on from its own output.

    Raises:
        UserError: names `key`, the model and the inputs that it does not forecast.
    """
    open_ends = [v for v in inputs if not lookup(v).static and v not in outputs]
    if open_ends:
        raise UserError(
            f"{key}: {who} is fed with {', '.join(open_ends)}, which it does not forecast, so it cannot go on from its "
            "own output; forecast one pass per lead time, or train with all inputs as outputs"
        )


def roll_out(step: Step, x_BVHW: Tensor, inputs: Sequence[str], outputs: Sequence[str], steps: int) -> Iterator[Tensor]:
    """Forecasts (B, O, H, W) after 1, 2, … `steps` steps; static inputs stay, and what is missing stays missing."""
    dynamic = [v for v in inputs if not lookup(v).static]
    following = [list(outputs).index(v) for v in dynamic]
    static_BSHW, missing_BIHW = x_BVHW[:, len(dynamic) :], x_BVHW[:, : len(dynamic)].isnan()
    for number in range(1, steps + 1):
        y_BOHW = step(x_BVHW)
        yield y_BOHW
        if number < steps:
            x_BIHW = y_BOHW[:, following].masked_fill(missing_BIHW, torch.nan)
            x_BVHW = torch.cat([x_BIHW, static_BSHW.to(x_BIHW.dtype)], dim=1)


def roll_out_loss(engine: Any, batch: Batch, weight_H: Tensor) -> Tensor:
    """Mean over K steps of the latitude-weighted mean square error, in units of s (`anomaly`) or z-scores (`full`).

    The gradient passes through every step; `model.activation_checkpointing` keeps no more of a step than the inputs of
    its blocks.
    """
    y_BKOHW = batch.y_BKOHW
    assert y_BKOHW is not None
    skip = [batch.in_variables.index(name) for name in batch.out_variables]
    r_BO, s_BO = batch.r_BO, batch.s_BO

    def step(x_BVHW: Tensor) -> Tensor:
        net_BOHW = engine(x_BVHW, batch.lead_hours_B, batch.in_variables, batch.out_variables)
        if r_BO is None or s_BO is None:
            return net_BOHW.to(x_BVHW.dtype)
        return forecast_from_network(net_BOHW, x_BVHW[:, skip], r_BO, s_BO).to(x_BVHW.dtype)

    unit = 1.0 if s_BO is None else s_BO[..., None, None]
    steps = y_BKOHW.shape[1]
    forecasts = roll_out(step, batch.x_BVHW, batch.in_variables, batch.out_variables, steps)
    losses = [
        lat_weighted_error(y_BOHW / unit, y_BKOHW[:, k] / unit, weight_H)[0] for k, y_BOHW in enumerate(forecasts)
    ]
    return torch.stack(losses).mean()
