"""`model.input_skip` against sums over neighbours in float64; lead times, subsets, missing cells, start, transfer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from climax_hpc.checkpoint.format import Checkpoint
from climax_hpc.checkpoint.metadata import CheckpointMetadata
from climax_hpc.checkpoint.transfer import transfer
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.errors import UserError
from climax_hpc.kernels.testing import relative_error
from climax_hpc.model import ClimaXNetwork, ModelConfig
from climax_hpc.model.input_skip import InputSkip, shares
from climax_hpc.model.spherical_conv import pad_spherical

NAMES = ("orography", "2m_temperature", "geopotential_500", "u_component_of_wind_850", "geopotential_500_tendency")
SIGNS = torch.tensor([1.0, 1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
HOURS = torch.tensor([6.0, 15.0, 48.0, 72.0, 240.0])


def config(**changes: Any) -> ModelConfig:
    values: dict[str, Any] = {
        "variables": NAMES, "blocks": "conv", "levels": 2, "height": 8, "width": 16, "patch": 2, "embed_dim": 8,
        "depth": 1, "heads": 2, "decoder_depth": 0, "dropout": 0.0, "drop_path": 0.0, "input_skip": True,
    }  # fmt: skip
    return ModelConfig(**(values | changes))


def randomised(skip: InputSkip) -> InputSkip:
    with torch.no_grad():
        skip.double().weight.copy_(torch.randn(skip.weight.shape, generator=torch.Generator().manual_seed(0)))
    return skip


def by_hand(skip: InputSkip, x_BVHW: Tensor, ins: list[int], outs: list[int]) -> Tensor:
    """One pair of variables and one neighbour after the other; the shares of the knots as in the docs."""
    first = torch.tensor([1.0, 0.5, 0, 0, 0], dtype=torch.float64)
    second = torch.tensor([0.0, 0.5, 0.5, 0, 0], dtype=torch.float64)
    height, width = x_BVHW.shape[2:]
    padded = pad_spherical(x_BVHW.nan_to_num(0.0), 1, SIGNS[ins], skip.edges)
    y_BOHW = x_BVHW.new_zeros(len(x_BVHW), len(outs), height, width)
    for share_B, weight in zip((first, second), skip.weight, strict=True):
        for o, out in enumerate(outs):
            for v, into in enumerate(ins):
                for north in range(3):
                    for east in range(3):
                        near_BHW = padded[:, v, north : north + height, east : east + width]
                        y_BOHW[:, o] += share_B[:, None, None] * weight[out, into, north, east] * near_BHW
    return y_BOHW


@pytest.mark.parametrize("edges", ["globe", "first_pole", "last_pole", "band", "window"])
def test_values_and_gradients_are_those_of_sums_over_neighbours(edges: Any) -> None:
    skip = randomised(InputSkip(NAMES, edges))
    x_BVHW = torch.randn(5, 3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x_BVHW[0, 1, :2, :3] = x_BVHW[1, 2] = torch.nan
    ins, outs, found = [3, 0, 4], [4, 1], []
    for form in (lambda x: skip(x, HOURS / 100, ins, outs), lambda x: by_hand(skip, x, ins, outs)):
        x = x_BVHW.clone().requires_grad_()
        y_BOHW = form(x)
        probe = torch.randn(y_BOHW.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        found.append([y_BOHW, *torch.autograd.grad((y_BOHW * probe).sum(), [x, skip.weight])])
    for ours, expected in zip(*found, strict=True):
        assert relative_error(ours, expected) < 1e-6  # shares are of float32 lead times
    assert not found[0][0][3:].any(), "nothing from 72 h on"


def test_shares_of_the_knots() -> None:
    found = shares(torch.tensor([0.0, 6.0, 12.0, 24.0, 36.0, 72.0, 500.0]) / 100)
    expected = [[1, 0], [1, 0], [2 / 3, 1 / 3], [0, 1], [0, 0.75], [0, 0], [0, 0]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


def test_it_is_added_to_the_output_of_the_network_and_starts_at_0() -> None:
    torch.manual_seed(0)
    network, x_BVHW = ClimaXNetwork(config()), torch.randn(5, 5, 8, 16)
    plain = ClimaXNetwork(config(input_skip=False))
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("input_skip")})
    before, without = (n(x_BVHW, HOURS, NAMES, NAMES[1:4]) for n in (network, plain))
    assert torch.equal(before, without)
    torch.nn.init.normal_(network.input_skip.weight)
    added = network.input_skip(x_BVHW, HOURS / 100, range(5), [1, 2, 3])
    torch.testing.assert_close(network(x_BVHW, HOURS, NAMES, NAMES[1:4]), without + added)
    patched = network(x_BVHW, HOURS, NAMES, NAMES[1:4], patched=True)
    assert torch.equal(network.unpatchify(patched), network(x_BVHW, HOURS, NAMES, NAMES[1:4]))


def test_transfer_keeps_the_pairs_of_known_variables() -> None:
    network = ClimaXNetwork(config())
    torch.nn.init.normal_(network.input_skip.weight)
    unit = dict.fromkeys(NAMES, 1.0)
    scales = Normalisation(mode="full", mean=unit, std=unit, anomaly_std={}, lead_hours=[], r={}, s={})
    metadata = CheckpointMetadata(
        step=1, config=network.config, normalisation=scales, in_variables=NAMES, out_variables=NAMES[1:4]
    )
    start = Checkpoint(path=Path("a"), metadata=metadata, weights=network.state_dict())
    wanted = config(variables=("temperature_850", NAMES[3], NAMES[1]), patch=1)
    moved = transfer(start, wanted, seed=1)
    old, new = network.input_skip.weight, moved.weights["input_skip.weight"]
    assert torch.equal(new[:, 1, 2], old[:, 3, 1])
    assert torch.equal(new[:, 2, 2], old[:, 1, 1])
    assert not new[:, 0].any()
    assert not new[:, :, 0].any()
    total = sum(tensor.numel() for tensor in moved.weights.values())
    assert moved.transferred is not None
    assert moved.transferred["parameters_kept"] + moved.transferred["parameters_new"] == total
    assert moved.transferred["parameters_new"] > 2 * 9 * 5


def test_only_conv_blocks_have_it() -> None:
    with pytest.raises(UserError, match=r"input_skip = True: only model\.blocks conv has it"):
        config(blocks="vit", levels=3)
