"""Skip connection of `model.input_skip`: a linear map from the inputs around each cell to the output (not in ClimaX).

Dimensions: B batch · V input variables · A model variables · O output variables · K knots of lead time · H, W grid.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from climax_hpc.fields.variables import lookup
from climax_hpc.model.band import RowBand
from climax_hpc.model.base import LEAD_UNIT_HOURS
from climax_hpc.model.config import Edges
from climax_hpc.model.indices import index_tensor
from climax_hpc.model.spherical_conv import pad_spherical

KERNEL, KNOTS = 3, 2
_FIRST, _SECOND, _END = (hours / LEAD_UNIT_HOURS for hours in (6.0, 24.0, 72.0))
"""Lead times of the two knots, and the one from which there is no skip; in hundreds of hours."""


class InputSkip(nn.Module):
    """One 3 × 3 convolution on the sphere per knot of lead time, initially 0; of any subset of the variables."""

    sign_A: Tensor
    band: RowBand | None = None
    """The rows of the input; None: all."""

    def __init__(self, variables: Sequence[str], edges: Edges) -> None:
        super().__init__()
        self.edges = edges
        self.weight = nn.Parameter(torch.zeros(KNOTS, len(variables), len(variables), KERNEL, KERNEL))
        sign_A = [-1.0 if lookup(name).is_vector_component else 1.0 for name in variables]
        self.register_buffer("sign_A", torch.tensor(sign_A), persistent=False)

    def forward(self, x_BVHW: Tensor, lead_B: Tensor, in_ids: Sequence[int], out_ids: Sequence[int]) -> Tensor:
        """What is added to the output (B, O, H, W); missing cells count as 0, `lead_B` is in hundreds of hours."""
        weight_KAAyx, device = self.weight, self.weight.device
        into_V, out_O = index_tensor(in_ids, device), index_tensor(out_ids, device)
        weight_KOVyx = weight_KAAyx.index_select(1, out_O).index_select(2, into_V)
        padded = pad_spherical(
            x_BVHW.nan_to_num(0.0).to(weight_KAAyx.dtype),
            KERNEL // 2,
            self.sign_A.index_select(0, into_V),
            self.edges,
            self.band,
        )
        y_BKOHW = F.conv2d(padded, weight_KOVyx.flatten(0, 1)).unflatten(1, (KNOTS, -1))
        share_BK111 = shares(lead_B)[..., None, None, None].to(weight_KAAyx.dtype)
        return (share_BK111 * y_BKOHW).sum(1)


def shares(lead_B: Tensor) -> Tensor:
    """Weights (B, K) of the knots at a lead time: linear between them, and to 0 at the end."""
    first_B = ((_SECOND - lead_B) / (_SECOND - _FIRST)).clamp(0, 1)
    second_B = torch.minimum(1 - first_B, (_END - lead_B) / (_END - _SECOND)).clamp(min=0)
    return torch.stack([first_B, second_B], dim=1)
