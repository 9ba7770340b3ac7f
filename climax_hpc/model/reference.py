"""Textbook ClimaX: same parameters, with tokens and full head in memory; the reference of the tests.

Dimensions: as in `climax.py`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from climax_hpc.kernels.variable_aggregation.reference import tokenise_and_aggregate
from climax_hpc.model.aggregator import VariableAggregator
from climax_hpc.model.climax import ClimaXNetwork
from climax_hpc.model.indices import index_tensor


class TextbookAggregator(VariableAggregator):
    """Computes tokens, keys and values of every variable and patch, as the released ClimaX."""

    def forward(self, x_BVHW: Tensor, variable_ids: Sequence[int]) -> Tensor:
        """Tokens z_BLD, as `VariableAggregator`."""
        return tokenise_and_aggregate(
            x_BVHW, *self.variable_rows(variable_ids), self.query, self.in_proj_weight, self.in_proj_bias,
            self.out_proj_weight, self.out_proj_bias, self.heads,
        )  # fmt: skip


class TextbookClimaX(ClimaXNetwork):
    """ClimaX with the textbook aggregation; predicts every variable and keeps the requested ones.

    Members of an ensemble are computed one by one, each from its input.
    """

    aggregator_type = TextbookAggregator

    def forward(
        self,
        x_BVHW: Tensor,
        lead_hours_B: Tensor,
        in_variables: Sequence[str],
        out_variables: Sequence[str],
        *,
        patched: bool = False,
        noise_BMZ: Tensor | None = None,
    ) -> Tensor:
        """As `ClimaXNetwork.forward`; `patched` keeps the order of the head output."""
        if noise_BMZ is not None and noise_BMZ.shape[1] > 1:
            of_each = [
                self(x_BVHW, lead_hours_B, in_variables, out_variables, patched=patched, noise_BMZ=noise_B1Z)
                for noise_B1Z in noise_BMZ.split(1, dim=1)
            ]
            return torch.stack(of_each, dim=1).flatten(0, 1)
        h_BLPA = super().forward(
            x_BVHW, lead_hours_B, in_variables, self.config.variables, patched=True, noise_BMZ=noise_BMZ
        )
        ids = index_tensor(self.variable_ids(out_variables), h_BLPA.device)
        if patched:
            return h_BLPA.unflatten(-1, (-1, len(self.index))).index_select(-1, ids).flatten(-2)
        return self.unpatchify(h_BLPA).index_select(1, ids)
