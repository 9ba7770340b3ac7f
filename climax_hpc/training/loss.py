"""The training loss of one micro-batch."""

from typing import Any

import torch

from climax_hpc.data.batches import Batch
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_loss
from climax_hpc.training.rollout import roll_out_loss


def batch_loss(engine: Any, batch: Batch, weight_H: torch.Tensor) -> torch.Tensor:
    """Latitude-weighted mean square error of one micro-batch, normalised; of a roll-out, the mean over steps."""
    if batch.y_BKOHW is not None:
        return roll_out_loss(engine, batch, weight_H)
    h_BLPO = engine(batch.x_BVHW, batch.lead_hours_B, batch.in_variables, batch.out_variables, patched=True)
    return lat_weighted_loss(h_BLPO, batch.network_target(), weight_H, engine.module.config.patch)[0]
