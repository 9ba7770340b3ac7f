"""The released ClimaX's layout: modules under its state-dict names with a plain forward, and its Lightning files.

Nothing of climax_hpc takes part, so that a conversion can be held against it. Dimensions: B batch · V variables given ·
H, W grid · p patch edge · L patches · D embedding.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _PatchEmbed(nn.Module):
    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, dim, patch, stride=patch)


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x_BLD: Tensor) -> Tensor:
        B, L, D = x_BLD.shape
        q, k, v = self.qkv(x_BLD).reshape(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        weight = (q @ k.transpose(-2, -1) / (D // self.heads) ** 0.5).softmax(-1)
        return self.proj((weight @ v).transpose(1, 2).reshape(B, L, D))


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(dim), _Attention(dim, heads), nn.LayerNorm(dim)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(dim, ratio * dim), nn.Linear(ratio * dim, dim)

    def forward(self, x_BLD: Tensor) -> Tensor:
        x_BLD = x_BLD + self.attn(self.norm1(x_BLD))
        return x_BLD + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x_BLD))))


class OriginalClimaX(nn.Module):
    """State-dict names and outputs of the released model (no dropout: evaluation)."""

    def __init__(self, variables: int, grid: tuple[int, int], patch: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.grid, self.patch = (grid[0] // patch, grid[1] // patch), patch
        self.token_embeds = nn.ModuleList(_PatchEmbed(dim, patch) for _ in range(variables))
        self.var_embed = nn.Parameter(torch.zeros(1, variables, dim))
        self.var_query = nn.Parameter(torch.zeros(1, 1, dim))
        self.var_agg = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], dim))
        self.lead_time_embed = nn.Linear(1, dim)
        self.blocks = nn.ModuleList(_Block(dim, heads, 4) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Sequential(
            nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, variables * patch**2)
        )
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * parameter.shape[-1] ** -0.5)

    def forward(self, x_BVHW: Tensor, lead_hours_B: Tensor, ids: list[int]) -> Tensor:
        """Every variable at the lead time."""
        z_BLD = self.embed(x_BVHW, ids) + self.pos_embed
        z_BLD = z_BLD + self.lead_time_embed(lead_hours_B[:, None] / 100).unsqueeze(1)
        for block in self.blocks:
            z_BLD = block(z_BLD)
        h = self.head(self.norm(z_BLD)).unflatten(-1, (self.patch, self.patch, -1)).unflatten(1, self.grid)
        return torch.einsum("bhwpqv->bvhpwq", h).flatten(4, 5).flatten(2, 3)

    def embed(self, x_BVHW: Tensor, ids: list[int]) -> Tensor:
        """Tokens (B, L, D), aggregated over variables."""
        tokens = [self.token_embeds[i].proj(x_BVHW[:, v : v + 1]).flatten(2).mT for v, i in enumerate(ids)]
        t_BVLD = torch.stack(tokens, 1) + self.var_embed[:, ids].unsqueeze(2)
        t_RVD = t_BVLD.permute(0, 2, 1, 3).flatten(0, 1)
        z_R1D, _ = self.var_agg(self.var_query.expand(len(t_RVD), -1, -1), t_RVD, t_RVD)
        return z_R1D.unflatten(0, (len(x_BVHW), -1)).squeeze(2)


class OriginalProjection(OriginalClimaX):
    """The same of the released climate projection: attention over years, one linear layer to every cell."""

    def __init__(
        self, variables: int, grid: tuple[int, int], patch: int, dim: int, depth: int, heads: int, years: int
    ) -> None:
        super().__init__(variables, grid, patch, dim, depth, heads)
        self.size = grid
        self.time_pos_embed = nn.Parameter(torch.zeros(1, years, dim))
        self.time_agg = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.time_query = nn.Parameter(torch.zeros(1, 1, dim))
        self.head = nn.Linear(dim, grid[0] * grid[1])
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * parameter.shape[-1] ** -0.5)

    def project(self, x_BTVHW: Tensor) -> Tensor:
        """The field (B, H, W) of the last year."""
        f_BTD = []
        for t in range(x_BTVHW.shape[1]):
            z_BLD = self.embed(x_BTVHW[:, t], list(range(x_BTVHW.shape[2]))) + self.pos_embed
            z_BLD = z_BLD + self.time_pos_embed[:, t].unsqueeze(1) + self.lead_time_embed.bias  # of lead time 0
            for block in self.blocks:
                z_BLD = block(z_BLD)
            f_BTD.append(self.norm(z_BLD).mean(1))
        years = torch.stack(f_BTD, 1)
        out_B1D, _ = self.time_agg(self.time_query.expand(len(years), -1, -1), years, years)
        return self.head(out_B1D.squeeze(1)).unflatten(-1, self.size)


def lightning_file(model: OriginalClimaX, path: Path, *, parallel: bool = False, channel: bool = False) -> Path:
    """A pickled Lightning checkpoint of this model, `net.` in front, as the released ones."""
    state: dict[str, Any] = dict(model.state_dict())
    if parallel:
        many = len(model.token_embeds)
        for part, whole in (("weight", "weights"), ("bias", "biases")):
            parts = [state.pop(f"token_embeds.{i}.proj.{part}") for i in range(many)]
            state[f"token_embeds.proj_{whole}"] = torch.stack(parts)
    if channel:
        state = {name.replace("var_", "channel_"): tensor for name, tensor in state.items()}
    content = {
        "epoch": 3,
        "global_step": 1000,
        "pytorch-lightning_version": "1.9.0",
        "state_dict": {f"net.{name}": tensor for name, tensor in state.items()},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(5.0)}}, "param_groups": [{"lr": 5e-4}]}],
        "hyper_parameters": {"lr": 5e-4, "pretrained_path": ""},
    }
    torch.save(content, path)
    return path
