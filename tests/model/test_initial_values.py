"""`model.init`: signal and embeddings after each stage as derived in docs/concepts/initial-values.md; what is drawn.

Dimensions: B samples · V input variables · A model variables · H, W grid · p patch edge · L patches · D embedding.
"""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

from climax_hpc.checkpoint.regional import place_positions, regional_config
from climax_hpc.fields.grid import regular_grid
from climax_hpc.fields.regional_grid import Domain
from climax_hpc.fields.regions import REGIONS
from climax_hpc.model import ClimaXNetwork, ModelConfig, build_network
from climax_hpc.model.config import Blocks, Init
from climax_hpc.model.positions import sincos_1d, sincos_2d

INITS = get_args(Init)
LEAD_HOURS, MLP_RATIO, HEAD_LAYERS, LEVELS = 24.0, 4, 2, 3
Sizes = dict[str, tuple[float, float]]
"""Stage -> variance of the signal (over samples) and mean square of the embeddings (the mean over samples)."""

# Grid, patch, D, blocks, A, V: 5.625° and 1.40625°; the wide network is the one whose blocks add something.
CASES = [
    ((32, 64), 2, 64, 2, 5, 5),
    ((32, 64), 2, 64, 2, 160, 160),
    ((32, 64), 4, 512, 4, 48, 48),
    ((128, 256), 4, 64, 2, 5, 5),
    ((128, 256), 4, 64, 2, 48, 12),
    ((128, 256), 4, 64, 2, 160, 160),
]
CONV_CASES = [
    ((32, 64), 2, 256, 1, 5, 5),
    ((32, 64), 2, 256, 2, 160, 160),
    ((128, 256), 4, 256, 1, 48, 12),
    ((128, 256), 4, 256, 1, 160, 160),
]


def derived(init: Init, p: int, D: int, depth: int, A: int, V: int) -> Sizes:
    """The formulas of the page."""
    weight, out, e = (0.02, 0.02, 1.0) if init == "climax" else (1 / p, math.sqrt(A / D), 0.1)
    q = 0.02**2 * D  # a linear layer multiplies the variance by this
    mean_code = (e * sincos_1d(torch.arange(V), D).mean(0)).square().mean().item()
    sizes = {"tokens": (p**2 * weight**2, e**2 / 2)}
    S, E = p**2 * weight**2 / (2 * V) * out**2 * D, mean_code / 2 * out**2 * D
    sizes["aggregation"] = S, E
    E += e**2 / 2 + (0.02 * LEAD_HOURS / 100) ** 2
    sizes["positions"] = S, E
    for _ in range(depth):
        s, constant = after(F.gelu, q, S / (S + E))
        S, E = S + MLP_RATIO * q * s, E + MLP_RATIO * q * constant + q**2 * E / (S + E)
    sizes["blocks"] = S, E
    sizes["head"] = head(init, D, S / (S + E), E / (S + E))
    return sizes


def head(init: Init, D: int, S: float, E: float) -> tuple[float, float]:
    """Stage 5 of the page, without the norm."""
    q = 0.02**2 * D
    for _ in range(HEAD_LAYERS):
        S, E = after(F.gelu, (q if init == "climax" else 2) * (S + E), S / (S + E))
    return q * S, q * E


def derived_conv(init: Init, p: int, D: int, depth: int, A: int, V: int) -> Sizes:
    """The formulas of the page for `conv` on the fields of this test, of which half is noise of single cells."""
    sizes = derived(init, p, D, depth, A, V)
    S, E = sizes["aggregation"]
    signal, smooth, finer = S, S / 2, []
    for level in range(LEVELS):
        if level:
            finer.append((signal, E))
            signal = smooth + (signal - smooth) / 4
        signal, E = residual_blocks(signal, E, depth)
    while finer:
        signal, E = residual_blocks(
            *(coarse / 3 + fine for coarse, fine in zip((signal, E), finer.pop(), strict=True)), depth
        )
    found = {"tokens": sizes["tokens"], "aggregation": sizes["aggregation"], "blocks": (signal, E)}
    return found | {"head": head(init, D, *after(F.silu, 1.0, signal / (signal + E)))}


def residual_blocks(S: float, E: float, depth: int) -> tuple[float, float]:
    """Each adds a third of what the second SiLU gives: PyTorch's convolutions have variance 1 / (3 · 9 D)."""
    for _ in range(depth):
        within = after(F.silu, 1.0, S / (S + E))
        signal, constant = after(F.silu, 1.0, within[0] / sum(within))
        S, E = S + signal / 3, E + constant / 3
    return S, E


def after(activation: Callable[[Tensor], Tensor], variance: float, share: float) -> tuple[float, float]:
    """Variance of the signal and mean square of the rest after the activation; `share`: the signal's before it.

    The values of a unit for a sample and its opposite have the correlation 1 - 2 · share.
    """
    mean_square = product(activation, variance, 1.0)
    signal = (mean_square - product(activation, variance, 1 - 2 * share)) / 2
    return signal, mean_square - signal


def product(activation: Callable[[Tensor], Tensor], variance: float, correlation: float) -> float:
    """Mean of activation(u) · activation(u′) for normal u and u′ (Gauss-Hermite quadrature)."""
    nodes, weights = map(torch.from_numpy, hermegauss(40))
    first, other = nodes[:, None], correlation * nodes[:, None] + math.sqrt(1 - correlation**2) * nodes
    values = activation(math.sqrt(variance) * first) * activation(math.sqrt(variance) * other)
    return (weights[:, None] * weights * values).sum().item() / (2 * math.pi)


def fields(V: int, rows: int, columns: int) -> Tensor:
    """A sample and its opposite, of variance 1: half smooth (8×8 cells) and common to the variables, half noise."""
    generator = torch.Generator().manual_seed(1)
    smooth_B1hw = torch.randn(1, 1, rows // 8, columns // 8, generator=generator)
    smooth_B1HW = smooth_B1hw.repeat_interleave(8, -2).repeat_interleave(8, -1)
    x_BVHW = (torch.randn(1, V, rows, columns, generator=generator) + smooth_B1HW) / math.sqrt(2)
    return torch.cat([x_BVHW, -x_BVHW])


def split(z_BLD: Tensor) -> tuple[float, float]:
    """The mean over a sample and its opposite is what does not depend on the input."""
    return z_BLD.var(0, correction=0).mean().item(), z_BLD.mean(0).square().mean().item()


@torch.no_grad()
def measured(network: ClimaXNetwork, x_BVHW: Tensor) -> Sizes:
    names = network.config.variables[: x_BVHW.shape[1]]
    front, p = network.aggregator, network.config.patch
    x_BVp_ = x_BVHW[:, :, :p, : 16 * p].unflatten(-1, (16, p)).transpose(2, 3).flatten(-2)  # 16 patches
    tokens_BVLD = torch.einsum("bvlp,vdp->bvld", x_BVp_, front.patch_weight[: len(names)].flatten(2))
    sizes = {"tokens": (split(tokens_BVLD)[0], front.var_embed.square().mean().item())}
    stages: dict[str, Any] = {"aggregation": front, "head": network.head}
    if network.config.blocks == "conv":
        stages |= {"blocks": network.blocks}
    else:
        stages |= {"positions": network.pos_drop, "blocks": network.blocks[-1]}
    for name, module in stages.items():
        module.register_forward_hook(lambda _m, _i, z_BLD, name=name: sizes.update({name: split(z_BLD)}))
    network.eval()(x_BVHW, torch.full((len(x_BVHW),), LEAD_HOURS), names, names[:5])
    return sizes


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize(
    ("blocks", "grid", "p", "D", "depth", "A", "V"),
    [("vit", *case) for case in CASES] + [("conv", *case) for case in CONV_CASES],
    ids=str,
)
def test_signal_and_embeddings_as_derived(
    monkeypatch: pytest.MonkeyPatch, init: Init, blocks: Blocks, grid: tuple[int, int], p: int, D: int, depth: int,
    A: int, V: int,
) -> None:  # fmt: skip
    monkeypatch.setattr("climax_hpc.model.config.lookup", lambda name: SimpleNamespace(static=False))  # any A
    torch.manual_seed(0)
    config = ModelConfig(
        variables=tuple(map(str, range(A))), height=grid[0], width=grid[1], patch=p, embed_dim=D, depth=depth,
        heads=4, mlp_ratio=MLP_RATIO, decoder_depth=HEAD_LAYERS, init=init, blocks=blocks,
    )  # fmt: skip
    formulas = derived if blocks == "vit" else derived_conv
    found, expected = measured(ClimaXNetwork(config), fields(V, *grid)), formulas(init, p, D, depth, A, V)
    assert found.keys() == expected.keys()
    for stage, (signal, embeddings) in expected.items():
        stds = [math.sqrt(v) for v in (signal, embeddings)]
        here = [math.sqrt(v) for v in found[stage]]
        print(f"{stage:12} signal {here[0]:.2g} ({stds[0]:.2g})  embeddings {here[1]:.2g} ({stds[1]:.2g})")
        assert 0.5 < here[0] / stds[0] < 2, stage
        assert 0.5 < here[0] / here[1] / (stds[0] / stds[1]) < 2, stage
    before = found["positions" if blocks == "vit" else "aggregation"]  # what the blocks get
    ratio = math.sqrt(before[0] / before[1])
    assert ratio > 1 if init == "scaled" else ratio < 0.05


def test_draws_of_scaled() -> None:
    shape = {"embed_dim": 128, "depth": 1, "heads": 4, "patch": 4}
    networks = []
    for _ in range(2):
        torch.manual_seed(3)
        networks.append(ClimaXNetwork(ModelConfig(init="scaled", **shape)))
    scaled, again = networks
    front = scaled.aggregator
    assert front.patch_weight.std().item() == pytest.approx(1 / 4, rel=0.02)
    assert front.out_proj_weight.std().item() == pytest.approx(math.sqrt(48 / 128), rel=0.02)
    assert torch.equal(front.var_embed, 0.1 * sincos_1d(torch.arange(48), 128))
    assert torch.equal(scaled.pos_embed[0], 0.1 * sincos_2d(8, 16, 128))
    for hidden in (scaled.head[0], scaled.head[2]):
        assert hidden.weight.std().item() == pytest.approx(math.sqrt(2 / 128), rel=0.02)
    for weight in (scaled.blocks[0].mlp.fc1.weight, scaled.head[4].weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not any(p.any() for name, p in scaled.named_parameters() if name.endswith("bias"))
    assert all(torch.equal(a, b) for a, b in zip(scaled.parameters(), again.parameters(), strict=True))
    torch.manual_seed(3)
    default = ClimaXNetwork(ModelConfig(**shape))
    assert all(torch.equal(a, b) for a, b in zip(scaled.parameters(), default.parameters(), strict=True))


def test_draws_of_climax() -> None:
    torch.manual_seed(3)
    network = ClimaXNetwork(ModelConfig(embed_dim=128, depth=1, heads=4, patch=4, init="climax"))
    front = network.aggregator
    for weight in (front.patch_weight, front.out_proj_weight, *(network.head[i].weight for i in (0, 2, 4))):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(front.var_embed, sincos_1d(torch.arange(48), 128))
    assert torch.equal(network.pos_embed[0], sincos_2d(8, 16, 128))


@pytest.mark.parametrize(("init", "scale"), [("climax", 1.0), ("scaled", 0.1)])
def test_years_and_regions_follow(init: Init, scale: float) -> None:
    size = {"height": 32, "width": 64, "patch": 4, "embed_dim": 16, "depth": 1, "heads": 2, "init": init}
    forcings = {"variables": ("methane_emissions",), "years": 3, "projected": ("2m_temperature",)}
    projection = build_network(ModelConfig(**size, **forcings))
    assert torch.equal(projection.time_embed, scale * sincos_1d(torch.arange(3), 16))
    assert torch.equal(projection.pos_embed[0], scale * sincos_2d(8, 16, 16))
    domain = Domain(region=REGIONS["Europe"], globe=regular_grid(5.625), patch=4)
    part = build_network(regional_config(ModelConfig(**size), domain))
    place_positions(part, domain)
    assert torch.equal(part.pos_embed, projection.pos_embed[:, domain.patch_indices])
