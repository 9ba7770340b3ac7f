"""Members of an ensemble from one network: the noise vector of each, and where it enters (arXiv 2506.10772).

Dimensions: B samples · M members · n = B·M, the members of a sample adjacent · Z noise · V inputs · H, W grid ·
L patches · D embedding.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

_64_BITS = (1 << 64) - 1


def member_noise(seed: int, keys_B: Sequence[int], members: Sequence[int], dim: int, step: int = 0) -> Tensor:
    """Noise vectors (B, M, Z) on the CPU: float32, standard normal.

    Each depends on seed, key, member and step alone, not on what else is asked for: so neither the number of members
    nor batches and ranks change it. The generator is Philox (Salmon et al. 2011), whose key and counter they are.

    Args:
        seed: of the run or of the forecast.
        keys_B: one number per sample.
        members: numbers of the members, from 0.
        dim: Z.
        step: of a roll-out, from 0: each step has noise of its own.
    """
    noise_BMZ = np.empty((len(keys_B), len(members), dim), np.float32)
    for noise_MZ, key in zip(noise_BMZ, keys_B, strict=True):
        for noise_Z, member in zip(noise_MZ, members, strict=True):
            place = np.array([0, 0, step, member], np.uint64)
            draw = np.random.Philox(key=np.array([seed & _64_BITS, key & _64_BITS], np.uint64), counter=place)
            np.random.Generator(draw).standard_normal(dtype=np.float32, out=noise_Z)
    return torch.from_numpy(noise_BMZ)


def of_members(x_B: Tensor, members: int) -> Tensor:
    """Rows (B·M, …) of a tensor (B, …), each M times in a row."""
    if members == 1:
        return x_B
    return x_B.unsqueeze(1).expand(-1, members, *x_B.shape[1:]).flatten(0, 1)


def of_states(x_BVHW: Tensor, lead_hours_B: Tensor, noise_BMZ: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Inputs of the network in a roll-out: after its first step each member has a state of its own, and its noise."""
    if noise_BMZ is None or len(x_BVHW) == len(noise_BMZ):
        return x_BVHW, lead_hours_B, noise_BMZ
    return x_BVHW, of_members(lead_hours_B, noise_BMZ.shape[1]), noise_BMZ.flatten(0, 1).unsqueeze(1)


class NoiseScale(nn.Module):
    """Scales each component of the noise by the lead time; initially by 1."""

    def __init__(self, noise_dim: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(1, noise_dim), nn.Linear(noise_dim, noise_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The identity, whatever the lead time."""
        self.hidden.reset_parameters()
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, noise_nZ: Tensor, lead_n: Tensor) -> Tensor:
        """(1 + scale(lead)) · noise; `lead_n` in hundreds of hours."""
        return noise_nZ * (1 + self.out(nn.functional.silu(self.hidden(lead_n[:, None]))))


class NoiseShift(nn.Linear):
    """Scale and shift per channel, linear in the noise; initially 0, so that all members are the same."""

    def __init__(self, noise_dim: int, channels: int) -> None:
        super().__init__(noise_dim, 2 * channels, bias=False)

    def reset_parameters(self) -> None:
        """No effect of the noise."""
        nn.init.zeros_(self.weight)

    def of_tokens(self, x_nLD: Tensor, noise_nZ: Tensor) -> Tensor:
        """(1 + scale) · x + shift of tokens; same shape."""
        scale_n1D, shift_n1D = self(noise_nZ).unsqueeze(1).chunk(2, dim=-1)
        return x_nLD * (1 + scale_n1D) + shift_n1D
