"""Members from noise: the start, member by member in float64, front end once per sample, and who gets which noise."""

from typing import Any

import pytest
import torch
from torch import Tensor

from climax_hpc.errors import UserError
from climax_hpc.kernels.testing import relative_error
from climax_hpc.model import ClimaXNetwork, ModelConfig, build_network
from climax_hpc.model.noise import NoiseScale, NoiseShift, member_noise, of_members
from climax_hpc.model.reference import TextbookClimaX

NAMES = ("land_sea_mask", "2m_temperature", "geopotential_500", "temperature_850")
OUTS = (NAMES[3], NAMES[1])
LEADS = torch.tensor([25.0, 150.0])
SIZE: dict[str, Any] = {
    "variables": NAMES, "height": 8, "width": 16, "patch": 2, "embed_dim": 12, "depth": 2, "heads": 2,
    "decoder_depth": 1, "dropout": 0.0, "drop_path": 0.0,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "vit": {}, "conv": {"blocks": "conv", "levels": 2, "depth": 1, "input_skip": True},
}  # fmt: skip
of_both = pytest.mark.parametrize("kind", KINDS)


def config(kind: str, noise_dim: int = 3, **changes: Any) -> ModelConfig:
    return ModelConfig(**(SIZE | KINDS[kind] | {"noise_dim": noise_dim} | changes))


def image(dtype: torch.dtype = torch.float32) -> Tensor:
    x_BVHW = torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x_BVHW[0, 1, :2, :3] = torch.nan
    return x_BVHW.to(dtype)


def noise(members: int = 3, dim: int = 3) -> Tensor:
    return member_noise(7, [10, 11], range(members), dim)


def randomised(network: Any) -> Any:
    """In float64, all parameters random: zeros would hide gradients, and the noise."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.double().parameters():
            scale = 0.5 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * scale)
    return network


def test_the_noise_of_a_member_depends_on_nothing_else() -> None:
    whole = member_noise(3, [4, 2**63 + 5, -6], range(5), 8)
    assert whole.shape == (3, 5, 8)
    assert whole.dtype == torch.float32
    assert torch.equal(member_noise(3, [-6, 4], [3, 1], 8), whole[[2, 0]][:, [3, 1]])
    assert torch.equal(member_noise(3, [4], [0], 3)[0, 0], whole[0, 0, :3])
    others = [member_noise(2, [4], [0], 8), member_noise(3, [5], [0], 8), member_noise(3, [4], [0], 8, step=1)]
    for other in [*others, whole[:1, 1:2], whole[1:2, :1]]:
        assert abs(torch.corrcoef(torch.stack([other.flatten(), whole[0, 0]]))[0, 1]) < 0.95
        assert not torch.equal(other[0, 0], whole[0, 0])


def test_the_noise_is_standard_normal_and_independent() -> None:
    x_BMZ = member_noise(0, range(400), range(10), 4).double()
    assert x_BMZ.mean().abs() < 4 / 126  # 16 000 numbers
    assert x_BMZ.std() == pytest.approx(1, abs=0.02)
    assert x_BMZ.pow(4).mean() == pytest.approx(3, abs=0.3)
    of_members_MM = torch.corrcoef(x_BMZ.transpose(0, 1).flatten(1)) - torch.eye(10)
    assert of_members_MM.abs().max() < 0.12  # 1600 numbers each


@of_both
def test_starts_as_the_network_without_noise(kind: str) -> None:
    plain, noisy = build_network(config(kind, 0)).eval(), build_network(config(kind)).eval()
    if plain.config.input_skip:
        torch.nn.init.normal_(plain.input_skip.weight, std=0.02)
    missing, unexpected = noisy.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert missing
    assert all("noise" in name for name in missing)
    expected = plain(image(), LEADS, NAMES, OUTS)
    assert torch.equal(noisy(image(), LEADS, NAMES, OUTS), expected)
    assert torch.equal(noisy(image(), LEADS, NAMES, OUTS, noise_BMZ=noise(1)), expected)
    members = noisy(image(), LEADS, NAMES, OUTS, noise_BMZ=noise())
    assert torch.equal(members, of_members(expected, 3))


@of_both
def test_members_and_gradients_are_those_of_one_member_at_a_time(kind: str) -> None:
    ours, textbook = randomised(ClimaXNetwork(config(kind))), TextbookClimaX(config(kind)).double()
    textbook.load_state_dict(ours.state_dict())
    found = []
    for network in (ours, textbook):
        x_BVHW, noise_BMZ = image(torch.float64).requires_grad_(), noise().double().requires_grad_()
        y_nOHW = network(x_BVHW, LEADS, NAMES, OUTS, noise_BMZ=noise_BMZ)
        probe = torch.randn(y_nOHW.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        (y_nOHW * probe).sum().backward()
        gradients = {"x": x_BVHW.grad, "noise": noise_BMZ.grad}
        found.append((y_nOHW, gradients | {name: p.grad for name, p in network.named_parameters()}))
    (y_nOHW, gradients), (expected, of_textbook) = found
    assert y_nOHW.shape == (6, 2, 8, 16)
    assert relative_error(y_nOHW, expected) < 1e-12
    assert relative_error(y_nOHW[0], y_nOHW[1].detach()) > 1e-3, "members differ"
    for name, gradient in gradients.items():
        if name == "aggregator.in_proj_bias":  # the key bias cancels in the softmax
            gradient, of_textbook[name] = (torch.cat([g[:12], g[24:]]) for g in (gradient, of_textbook[name]))
        assert relative_error(gradient, of_textbook[name]) < 1e-10, name


def test_where_the_noise_enters_tokens() -> None:
    scale = randomised(NoiseScale(3))
    noise_nZ, lead_n = noise(1)[:, 0].double(), LEADS.double() / 100
    hidden_nZ = lead_n[:, None] * scale.hidden.weight[:, 0] + scale.hidden.bias
    gain_nZ = (hidden_nZ * hidden_nZ.sigmoid()) @ scale.out.weight.T + scale.out.bias
    assert relative_error(scale(noise_nZ, lead_n), (1 + gain_nZ) * noise_nZ) < 1e-14
    shift = randomised(NoiseShift(3, 5))
    tokens_nLD = torch.arange(30, dtype=torch.float64).view(2, 3, 5)
    expected = torch.stack(
        [
            (1 + shift.weight[:5] @ z) * tokens + shift.weight[5:] @ z
            for z, tokens in zip(noise_nZ, tokens_nLD, strict=True)
        ]
    )
    assert relative_error(shift.of_tokens(tokens_nLD, noise_nZ), expected) < 1e-14


@of_both
def test_the_front_end_runs_once_for_all_members(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, rows = build_network(config(kind)), {"aggregator": 0, "block": 0, "input_skip": 0}
    parts = {"aggregator": network.aggregator, "block": next(iter(network.blocks)), "input_skip": network.input_skip}
    for name, part in parts.items():
        if part is not None:
            part.register_forward_hook(lambda *call, name=name: rows.update({name: rows[name] + len(call[2])}))
    network(image(), LEADS, NAMES, OUTS, noise_BMZ=noise(5))
    assert rows == {"aggregator": 2, "block": 10, "input_skip": 2 if kind == "conv" else 0}


@of_both
def test_recomputed_blocks_and_bfloat16(kind: str) -> None:
    kept = randomised(build_network(config(kind))).train()
    again = build_network(config(kind, activation_checkpointing=True)).double().train()
    again.load_state_dict(kept.state_dict())
    for network in (kept, again):
        network(image(torch.float64), LEADS, NAMES, OUTS, noise_BMZ=noise()).square().mean().backward()
    for (name, parameter), other in zip(kept.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad), name
    exact, low = kept.eval(), again.bfloat16().eval()
    expected = exact(image(torch.float64), LEADS, NAMES, OUTS, noise_BMZ=noise())
    rounded = low(image(), LEADS, NAMES, OUTS, noise_BMZ=noise())
    assert rounded.dtype == torch.bfloat16
    assert relative_error(rounded.double(), expected) < 0.05


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"model.noise_dim = 4: model.kind unet takes no noise; leave out"):
        ModelConfig(**(SIZE | {"kind": "unet", "noise_dim": 4, "height": 16}))
    with pytest.raises(UserError, match=r"model.noise_dim = 4: a climate projection takes no noise"):
        ModelConfig(**(SIZE | {"noise_dim": 4, "years": 2, "projected": ("diurnal_temperature_range",)}))
    with pytest.raises(UserError, match=r"model.noise_dim = -1: must be at least 0"):
        config("vit", -1)
    for network, given in ((build_network(config("vit", 0)), noise()), (build_network(config("conv")), noise(2, 4))):
        with pytest.raises(ValueError, match=r"noise has shape \(2, \d, \d\), but the network with model.noise_dim"):
            network(image(), LEADS, NAMES, OUTS, noise_BMZ=given)
