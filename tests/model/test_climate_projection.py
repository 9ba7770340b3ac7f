"""Networks of climate projection: shapes, gradients, aggregation by hand, independence of years, frozen blocks."""

from typing import Any

import pytest
import torch

from climax_hpc.errors import UserError
from climax_hpc.model import ModelConfig, build_network
from climax_hpc.model.climate_projection import ProjectionClimaX, TimeAggregator

FORCINGS = ("cumulative_co2_emissions", "methane_emissions", "sulfur_dioxide_emissions")
TARGETS = ("2m_temperature", "diurnal_temperature_range")
KINDS = ("climax", "linear", "resnet", "unet")


def make(kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    size = {"height": 8, "width": 16, "patch": 4, "embed_dim": 8, "depth": 1, "heads": 2}
    rates = {"dropout": 0.0, "drop_path": 0.0}
    config = ModelConfig(kind=kind, variables=FORCINGS, projected=TARGETS, years=3, **(size | rates | options))  # type: ignore[arg-type]
    return build_network(config)


@pytest.mark.parametrize("kind", KINDS)
def test_fields_of_the_last_year_and_gradients_of_all_parameters(kind: str) -> None:
    model, x_BTVHW = make(kind), torch.randn(2, 3, 3, 8, 16)
    torch.nn.init.normal_(model.projection_head.weight)
    y_BOHW = model(x_BTVHW, torch.zeros(2), FORCINGS, TARGETS)
    assert y_BOHW.shape == (2, 2, 8, 16)
    h_BLPO = model(x_BTVHW, torch.zeros(2), FORCINGS, TARGETS, patched=True)
    assert h_BLPO.shape == (2, 8, 32)
    patch_B44O = h_BLPO[:, 5].reshape(2, 4, 4, 2)  # second row of patches, second column
    assert torch.equal(patch_B44O, y_BOHW[:, :, 4:, 4:8].permute(0, 2, 3, 1))
    one_BOHW = model(x_BTVHW, torch.zeros(2), FORCINGS, TARGETS[1:])
    torch.testing.assert_close(one_BOHW, y_BOHW[:, 1:])
    shuffled_BOHW = model(x_BTVHW[:, :, [2, 0, 1]], torch.zeros(2), [FORCINGS[i] for i in (2, 0, 1)], TARGETS)
    torch.testing.assert_close(shuffled_BOHW, y_BOHW, rtol=1e-4, atol=1e-5)  # sums in another order
    h_BLPO.square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_time_aggregation_is_multi_head_attention() -> None:
    """Same weights in torch's module; with the initial query of 0 all years have equal weight."""
    torch.manual_seed(1)
    aggregator, f_BTD = TimeAggregator(8, 2).double(), torch.randn(3, 5, 8, dtype=torch.float64)
    there = torch.nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        torch.nn.init.zeros_(aggregator.q.bias)
        v_BTD = aggregator.kv(f_BTD).chunk(2, dim=-1)[1]
        torch.testing.assert_close(aggregator(f_BTD), aggregator.proj(v_BTD.mean(1)))
        for parameter in aggregator.parameters():
            parameter.copy_(torch.randn_like(parameter))
        there.in_proj_weight.copy_(torch.cat([aggregator.q.weight, aggregator.kv.weight]))
        there.in_proj_bias.copy_(torch.cat([aggregator.q.bias, aggregator.kv.bias]))
        there.out_proj.load_state_dict(aggregator.proj.state_dict())
        query_B1D = aggregator.query.expand(3, 1, 8)
        torch.testing.assert_close(aggregator(f_BTD), there(query_B1D, f_BTD, f_BTD)[0][:, 0])


def test_climax_encodes_every_year_separately_with_an_embedding_of_its_position() -> None:
    model, x_BTVHW = make("climax"), torch.randn(2, 3, 3, 8, 16)
    with torch.no_grad():
        years = [
            model.encode(x_BTVHW[:, t], torch.zeros(2), FORCINGS, model.time_embed[t].expand(2, -1)).mean(1)
            for t in range(3)
        ]
        expected_BD = model.time_aggregator(torch.stack(years, dim=1))
        torch.testing.assert_close(model.features(x_BTVHW, torch.zeros(2), FORCINGS), expected_BD)
        swapped, straight = (model(x, torch.zeros(2), FORCINGS, TARGETS) for x in (x_BTVHW.flip(1), x_BTVHW))
        assert not torch.equal(swapped, straight), "order counts"


def test_linear_regression_is_linear_and_starts_at_the_mean() -> None:
    model, x_BTVHW = make("linear"), torch.randn(2, 3, 3, 8, 16)
    assert not model(x_BTVHW, torch.zeros(2), FORCINGS, TARGETS).any()
    torch.nn.init.normal_(model.projection_head.weight)
    with torch.no_grad():
        y, twice = (model(k * x_BTVHW, torch.zeros(2), FORCINGS, TARGETS) for k in (1, 2))
        torch.testing.assert_close(twice, 2 * y)
        even = x_BTVHW.mean((-2, -1), keepdim=True).expand_as(x_BTVHW)
        torch.testing.assert_close(model(even, torch.zeros(2), FORCINGS, TARGETS), y, rtol=1e-4, atol=1e-5)


def test_frozen_leaves_attention_and_perceptrons() -> None:
    model = make("climax", depth=2)
    assert isinstance(model, ProjectionClimaX)
    model.freeze()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    parts = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert frozen == {f"blocks.{j}.{part}.{kind}" for j in (0, 1) for part in parts for kind in ("weight", "bias")}


@pytest.mark.parametrize("kind", KINDS)
def test_other_images_and_names_are_refused(kind: str) -> None:
    model, x_BTVHW = make(kind), torch.randn(1, 3, 3, 8, 16)
    with pytest.raises(ValueError, match="input has 2 years, the model takes 3"):
        model(x_BTVHW[:, :2], torch.zeros(1), FORCINGS, TARGETS)
    with pytest.raises(ValueError, match=r"\(channels, rows, columns\) = \(3, 8, 8\)"):
        model(x_BTVHW[..., :8], torch.zeros(1), FORCINGS, TARGETS)
    with pytest.raises(UserError, match="'orography' is not among the model's 3 variables"):
        model(x_BTVHW, torch.zeros(1), [*FORCINGS[:2], "orography"], TARGETS)
    with pytest.raises(UserError, match=r"the model projects 2m_temperature, .*, not 'orography'"):
        model(x_BTVHW, torch.zeros(1), FORCINGS, ["orography"])
