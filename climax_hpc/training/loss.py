"""The training loss of one micro-batch. Change the loss here, how variables are weighted in `variable_weights.py`.

Dimensions: B samples · K roll-out steps · V inputs · O outputs · H, W grid · L patches · P pixels of a patch.
"""

from typing import Any

import torch
from torch import Tensor

from climax_hpc.data.batches import Batch
from climax_hpc.kernels.lat_weighted_loss.op import Total, lat_weighted_error, lat_weighted_loss
from climax_hpc.model.indices import index_tensor
from climax_hpc.model.output_modes import forecast_from_network
from climax_hpc.model.rollout import roll_out


def batch_loss(engine: Any, batch: Batch, weight_H: Tensor) -> Tensor:
    """Latitude-weighted mean squared error of one micro-batch, a scalar.

    The output variables count as `batch.variable_weight_O` says. In `anomaly` mode the error is in units of s, the
    spread that damped persistence leaves unexplained; in `full` mode in z-scores.

    Of a band of rows it is the share in the loss of the whole fields times the number of bands: its mean over the ranks
    that share the fields is the loss. `weight_H` is that of the whole fields.
    """
    if batch.band is None:
        return _loss(engine, batch, weight_H, None)
    # Gradients are averaged over all ranks; those of one replica have to be added.
    return batch.band.size * _loss(engine, batch, batch.band.of_whole(weight_H, 0), batch.band.total)


def _loss(engine: Any, batch: Batch, weight_H: Tensor, total: Total | None) -> Tensor:
    if batch.y_BKOHW is not None:
        return roll_out_loss(engine, batch, batch.y_BKOHW, weight_H, total)
    h_BLPO = engine(batch.x_BVHW, batch.lead_hours_B, batch.in_variables, batch.out_variables, patched=True)
    return lat_weighted_loss(
        h_BLPO,
        batch.network_target(),
        weight_H,
        engine.module.config.patch,
        variable_weight_O=batch.variable_weight_O,
        total=total,
    )[0]


def roll_out_loss(engine: Any, batch: Batch, y_BKOHW: Tensor, weight_H: Tensor, total: Total | None = None) -> Tensor:
    """Mean over the K steps of a roll-out of the same error; the gradient passes through every step.

    With `model.activation_checkpointing`, each step keeps only the inputs of its blocks. `total`: as of
    `lat_weighted_error`.
    """
    skip = index_tensor([batch.in_variables.index(name) for name in batch.out_variables], batch.x_BVHW.device)

    def step(x_BVHW: Tensor) -> Tensor:
        net_BOHW = engine(x_BVHW, batch.lead_hours_B, batch.in_variables, batch.out_variables)
        return forecast_from_network(net_BOHW, x_BVHW.index_select(1, skip), batch.r_BO, batch.s_BO).to(x_BVHW.dtype)

    unit = 1.0 if batch.s_BO is None else batch.s_BO[..., None, None]
    solar_BKGHW = batch.solar_BKGHW
    forecasts = roll_out(
        step,
        batch.x_BVHW,
        batch.in_variables,
        batch.out_variables,
        y_BKOHW.shape[1],
        batch.change_scale_T11,
        None if solar_BKGHW is None else lambda k: solar_BKGHW[:, k],
    )
    losses = [
        lat_weighted_error(
            y_BOHW / unit, y_BKOHW[:, k] / unit, weight_H, variable_weight_O=batch.variable_weight_O, total=total
        )[0]
        for k, y_BOHW in enumerate(forecasts)
    ]
    return torch.stack(losses).mean()
