"""The network of a checkpoint on a device, whose output is the normalised forecast, of each member where it has noise.

Dimensions: B samples · M members · n = B·M, the members of a sample adjacent · V input variables · O output variables ·
Z noise · T lead times of a table · H, W grid.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from climax_hpc.checkpoint.format import Checkpoint, check_task
from climax_hpc.config.inference import Precision
from climax_hpc.data.batches import VariableProvider, choose_variables
from climax_hpc.data.device_copy import to_device
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.inference.precision import load_network
from climax_hpc.model.band import RowBand, share
from climax_hpc.model.indices import index_tensor
from climax_hpc.model.noise import member_noise, of_members
from climax_hpc.model.output_modes import at_lead, forecast_from_network


class CheckpointNetwork:
    """The network of a checkpoint on a device, wrapped in the damped-persistence skip of the `anomaly` mode."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        inputs: Sequence[str],
        outputs: Sequence[str],
        device: torch.device,
        *,
        precision: Precision = "float32",
        skip: bool = True,
        band: RowBand | None = None,
        noise_seed: int = 0,
    ) -> None:
        """Build the network.

        Args:
            skip: add the skip of the `anomaly` mode; False returns the bare network output in both modes.
            band: the rows that the fields hold; all ranks of the group call this together, each with its own.
            noise_seed: of the noise of all members.
        """
        self.inputs, self.outputs, self.device = tuple(inputs), tuple(outputs), device
        self.noise_dim = checkpoint.metadata.config.noise_dim
        """Z; 0: the network is deterministic."""
        self._noise_seed = noise_seed
        self._model = load_network(checkpoint, device, precision)
        if band is not None:
            share(self._model, band)
        self._skip = [self.inputs.index(name) for name in self.outputs] if skip else []
        self._tables = _lead_tables(checkpoint.metadata.normalisation, self.outputs, device) if skip else None

    @torch.inference_mode()
    def __call__(self, x_BVHW: Tensor, lead_hours_B: Tensor, noise_BMZ: Tensor | None = None) -> Tensor:
        """Normalised forecasts (B·M, O, H, W): z-scores (`full`) or anomalies (`anomaly`)."""
        noise = {} if noise_BMZ is None else {"noise_BMZ": noise_BMZ}  # baselines take none
        net_nOHW = self._model(x_BVHW, lead_hours_B, self.inputs, self.outputs, **noise).to(x_BVHW.dtype)
        r_nO = s_nO = None
        members = 1 if noise_BMZ is None else noise_BMZ.shape[1]
        if self._tables is not None:
            leads_T, r_OT, s_OT = self._tables
            lead_n = of_members(lead_hours_B, members)
            r_nO, s_nO = (at_lead(table_OT, leads_T, lead_n) for table_OT in (r_OT, s_OT))
        skip_O = index_tensor(self._skip, x_BVHW.device)
        return forecast_from_network(net_nOHW, of_members(x_BVHW.index_select(1, skip_O), members), r_nO, s_nO)

    def noise(self, start_hours_B: Sequence[float], members: Sequence[int], step: int = 0) -> Tensor | None:
        """Noise (B, M, Z) of forecasts from these times [hours since 1850]; None for a deterministic network.

        It depends on seed, time to the minute, member and step of a roll-out: a member's forecasts for all lead times
        have the same noise, so that they belong together.
        """
        if not self.noise_dim:
            return None
        keys_B = [round(hours * 60) for hours in start_hours_B]
        return to_device(member_noise(self._noise_seed, keys_B, members, self.noise_dim, step).numpy(), self.device)


def choose(
    checkpoint: Checkpoint, holdings: VariableProvider, variables: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Inputs (static last) and outputs: variables of the checkpoint that `holdings` has or that are computed.

    Raises:
        UserError: the checkpoint is of another task, or no variable is left to forecast.
    """
    metadata = checkpoint.metadata
    check_task(checkpoint, "forecast")
    wanted = [v for v in metadata.out_variables if variables is None or v in variables]
    inputs, outputs = choose_variables(holdings, metadata.config.variables, metadata.in_variables, wanted)
    return tuple(inputs), tuple(outputs)


def _lead_tables(
    norm: Normalisation, outputs: Sequence[str], device: torch.device
) -> tuple[Tensor, Tensor, Tensor] | None:
    if norm.mode != "anomaly":
        return None
    r_OT, s_OT = (torch.tensor([table[v] for v in outputs], device=device) for table in (norm.r, norm.s))
    return torch.tensor(norm.lead_hours, dtype=torch.float32, device=device), r_OT, s_OT
