"""Prediction head that computes only the requested variables.

Dimensions: B batch · L patches · D embedding · P pixels of a patch · A model variables · O requested variables.
"""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from climax_hpc.model.indices import index_tensor


class OutputLinear(nn.Linear):
    """Last layer (D -> P·A, variable fastest), sliced by variable in its forward, so that ZeRO-3 gathers it here."""

    def __init__(self, dim: int, pixels: int, num_variables: int) -> None:
        super().__init__(dim, pixels * num_variables)
        self.pixels, self.num_variables = pixels, num_variables

    def forward(self, z_BLD: Tensor, variable_ids: Sequence[int] | None = None) -> Tensor:
        """h (B, L, P·O) of these variables, in this order; of all if None."""
        if variable_ids is None or list(variable_ids) == list(range(self.num_variables)):
            return super().forward(z_BLD)
        ids_O = index_tensor(variable_ids, self.weight.device)
        weight_POD = self.weight.view(self.pixels, self.num_variables, -1).index_select(1, ids_O)
        bias_PO = self.bias.view(self.pixels, self.num_variables).index_select(1, ids_O)
        return F.linear(z_BLD, weight_POD.flatten(0, 1), bias_PO.flatten())


class Head(nn.Sequential):
    """`depth` times Linear+GELU, then `OutputLinear`; parameter names 0, 2, 4 … as in released checkpoints."""

    def __init__(self, dim: int, depth: int, patch: int, num_variables: int) -> None:
        hidden = [layer for _ in range(depth) for layer in (nn.Linear(dim, dim), nn.GELU())]
        super().__init__(*hidden, OutputLinear(dim, patch * patch, num_variables))

    def scale_hidden(self) -> None:
        """Draw the hidden layers' weights from N(0, 2/D), which keeps the signal (He et al. 2015, arXiv 1502.01852)."""
        for layer in self:
            if isinstance(layer, nn.Linear) and not isinstance(layer, OutputLinear):
                nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.in_features))

    def forward(self, z_BLD: Tensor, variable_ids: Sequence[int] | None = None) -> Tensor:
        """h (B, L, P·O): rows of the patch, columns, then variable fastest."""
        *hidden, last = self
        for layer in hidden:
            z_BLD = layer(z_BLD)
        return last(z_BLD, variable_ids)
