"""Linear regression baseline: every output is a linear function of all variables in the cells around it.

The weights of the 5 × 5 neighbourhood are the same everywhere, every cell has its own intercept, and both are linear in
the lead time between knots. A regression of the globe on the globe, as in WeatherBench, has (A·H·W)² weights: 1.4e9
for the demo's 18 variables at 5.625°, far more than its samples can determine.
Dimensions: B batch · A variables · K knots · H, W grid.
"""

import torch
from torch import Tensor, nn

from climax_hpc.model.base import LEAD_UNIT_HOURS
from climax_hpc.model.config import ModelConfig
from climax_hpc.model.spherical_conv import FieldNetwork, SphericalConv

_KERNEL = 5
_KNOTS_HOURS = (6.0, 24.0, 72.0, 168.0)  # denser where errors grow fastest; constant beyond both ends


class LinearRegression(FieldNetwork):
    """One 5 × 5 convolution and one map of intercepts per knot of lead time."""

    knots_K: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        variables, knots = len(config.variables), len(_KNOTS_HOURS)
        self.regression = SphericalConv(variables, variables * knots, _KERNEL)
        self.bias = nn.Parameter(torch.zeros(knots, variables, config.height, config.width))
        nn.init.zeros_(self.regression.weight)  # least squares is convex, so it may start at the mean
        nn.init.zeros_(self.regression.bias)  # type: ignore[arg-type]
        knots_K = torch.tensor(_KNOTS_HOURS) / LEAD_UNIT_HOURS
        self.register_buffer("knots_K", knots_K, persistent=False)

    def fields(self, x_BAHW: Tensor, lead_B: Tensor) -> Tensor:
        """All variables (B, A, H, W) at the lead time."""
        y_BKAHW = self.regression(x_BAHW, self.sign_A).unflatten(1, (len(_KNOTS_HOURS), -1))
        y_BKAHW = y_BKAHW + (self.bias if self.band is None else self.band.of_whole(self.bias))
        return torch.einsum("bk,bkahw->bahw", self._shares(lead_B), y_BKAHW)

    def _shares(self, lead_B: Tensor) -> Tensor:
        """Weight (B, K) of every knot: 1 at the knot, linear to 0 at its neighbours."""
        knots_K = self.knots_K.to(lead_B.dtype)
        lead_B = lead_B.clamp(knots_K[0], knots_K[-1])
        upper_B = torch.searchsorted(knots_K, lead_B.contiguous()).clamp(1, len(knots_K) - 1)
        share_B = (lead_B - knots_K[upper_B - 1]) / (knots_K[upper_B] - knots_K[upper_B - 1])
        shares_BK = lead_B.new_zeros((len(lead_B), len(knots_K)))
        shares_BK.scatter_(1, upper_B[:, None], share_B[:, None])
        return shares_BK.scatter_(1, upper_B[:, None] - 1, 1 - share_B[:, None])
