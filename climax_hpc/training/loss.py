"""The training loss of one micro-batch. Change the loss here, how variables are weighted in `variable_weights.py`.

Dimensions: B samples · M members · n = B·M, the members of a sample adjacent · Z noise · K roll-out steps · V inputs ·
O outputs · H, W grid · L patches · P pixels of a patch.
"""

from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor

from climax_hpc.data.batches import Batch
from climax_hpc.data.device_copy import to_device
from climax_hpc.kernels.ensemble_crps.op import ensemble_crps, ensemble_crps_of_fields
from climax_hpc.kernels.lat_weighted_loss.op import Total, lat_weighted_error, lat_weighted_loss
from climax_hpc.model.indices import index_tensor
from climax_hpc.model.noise import member_noise, of_members, of_states
from climax_hpc.model.output_modes import forecast_from_network
from climax_hpc.model.rollout import roll_out


@dataclass(frozen=True, kw_only=True)
class Members:
    """What is trained of a network with noise; a deterministic one has one member, and its loss is no CRPS."""

    count: int = 1
    """M."""
    alpha: float = 0.95
    """As of `ensemble_crps`."""


ONE = Members()


def batch_loss(engine: Any, batch: Batch, weight_H: Tensor, members: Members = ONE) -> Tensor:
    """Latitude-weighted mean squared error of one micro-batch, a scalar; with noise the almost fair CRPS of members.

    The output variables count as `batch.variable_weight_O` says. In `anomaly` mode the error is in units of s, the
    spread that damped persistence leaves unexplained; in `full` mode in z-scores.

    Of a band of rows it is the share in the loss of the whole fields times the number of bands: its mean over the ranks
    that share the fields is the loss. `weight_H` is that of the whole fields.
    """
    if batch.band is None:
        return _loss(engine, batch, weight_H, members, None)
    # Gradients are averaged over all ranks; those of one replica have to be added.
    return batch.band.size * _loss(engine, batch, batch.band.of_whole(weight_H, 0), members, batch.band.total)


def _loss(engine: Any, batch: Batch, weight_H: Tensor, members: Members, total: Total | None) -> Tensor:
    if batch.y_BKOHW is not None:
        return roll_out_loss(engine, batch, batch.y_BKOHW, weight_H, members, total)
    config, target_BOHW = engine.module.config, batch.network_target()
    names, noise_BMZ = (batch.in_variables, batch.out_variables), _noise(batch, config.noise_dim, members)
    if noise_BMZ is None:
        h_BLPO = engine(batch.x_BVHW, batch.lead_hours_B, *names, patched=True)
        return lat_weighted_loss(
            h_BLPO, target_BOHW, weight_H, config.patch, variable_weight_O=batch.variable_weight_O, total=total
        )[0]
    h_nLPO = engine(batch.x_BVHW, batch.lead_hours_B, *names, patched=True, noise_BMZ=noise_BMZ)
    return ensemble_crps(
        h_nLPO.unflatten(0, (-1, members.count)),
        target_BOHW,
        weight_H,
        config.patch,
        alpha=members.alpha,
        variable_weight_O=batch.variable_weight_O,
        total=total,
    )[0]


def _noise(batch: Batch, dim: int, members: Members, step: int = 0) -> Tensor | None:
    """Noise (B, M, Z) of the batch; None for a deterministic network. The run's seed is in the keys of the samples."""
    if not dim:
        return None
    noise_BMZ = member_noise(0, batch.noise_keys, range(members.count), dim, step)
    return to_device(noise_BMZ.numpy(), batch.x_BVHW.device)


def roll_out_loss(
    engine: Any,
    batch: Batch,
    y_BKOHW: Tensor,
    weight_H: Tensor,
    members: Members = ONE,
    total: Total | None = None,
) -> Tensor:
    """Mean over the K steps of a roll-out of the same error; the gradient passes through every step.

    With `model.activation_checkpointing`, each step keeps only the inputs of its blocks. Members roll out by
    themselves, with new noise in each step. `total`: as of `lat_weighted_error`.
    """
    skip = index_tensor([batch.in_variables.index(name) for name in batch.out_variables], batch.x_BVHW.device)
    dim, steps = engine.module.config.noise_dim, count()

    def step(x_BVHW: Tensor) -> Tensor:
        noise_BMZ = _noise(batch, dim, members, next(steps))
        x_nVHW, lead_hours_n, noise_nMZ = of_states(x_BVHW, batch.lead_hours_B, noise_BMZ)
        noise = {} if noise_nMZ is None else {"noise_BMZ": noise_nMZ}
        net_nOHW = engine(x_nVHW, lead_hours_n, batch.in_variables, batch.out_variables, **noise)
        skip_nOHW = of_members(x_BVHW.index_select(1, skip), len(net_nOHW) // len(x_BVHW))
        r_nO, s_nO = (None if t is None else of_members(t, len(net_nOHW) // len(t)) for t in (batch.r_BO, batch.s_BO))
        return forecast_from_network(net_nOHW, skip_nOHW, r_nO, s_nO).to(x_BVHW.dtype)

    def in_units(fields: Tensor) -> Tensor:
        s_BO = batch.s_BO
        return fields if s_BO is None else fields / of_members(s_BO, len(fields) // len(s_BO))[..., None, None]

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
    options: dict[str, Any] = {"variable_weight_O": batch.variable_weight_O, "total": total}
    losses = []
    for k, forecast_nOHW in enumerate(forecasts):
        y_nOHW, target_BOHW = in_units(forecast_nOHW), in_units(y_BKOHW[:, k])
        if dim:
            y_BMOHW = y_nOHW.unflatten(0, (-1, members.count))
            loss, _ = ensemble_crps_of_fields(y_BMOHW, target_BOHW, weight_H, alpha=members.alpha, **options)
        else:
            loss, _ = lat_weighted_error(y_nOHW, target_BOHW, weight_H, **options)
        losses.append(loss)
    return torch.stack(losses).mean()
