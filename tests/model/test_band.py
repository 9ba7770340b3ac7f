"""Bands of rows put together are the whole: dropout, rows beyond a band, group norms, losses; what is refused."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from climax_hpc.config.sequence_parallel import check_rows, check_shares
from climax_hpc.errors import UserError
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_error, lat_weighted_loss
from climax_hpc.model.band import RowBand
from climax_hpc.model.config import ModelConfig
from climax_hpc.model.dropout import BandDropout, Dropout


def bands(size: int) -> list[RowBand]:
    """All bands of a sample, without a process group."""
    return [RowBand(place=place, size=size, group="none") for place in range(size)]


def test_bands_are_the_rows_in_order() -> None:
    rows = torch.arange(12).view(1, 12, 1)
    assert torch.equal(torch.cat([band.of_whole(rows) for band in bands(4)], 1), rows)
    assert [band.part(12) for band in bands(3)] == [slice(0, 4), slice(4, 8), slice(8, 12)]
    assert bands(3)[0].whole_shape(torch.Size((2, 5, 4, 7))) == (2, 5, 12, 7)


@pytest.mark.parametrize("kind", [Dropout, BandDropout])
@pytest.mark.parametrize("shape", [(2, 12, 5), (2, 3, 8, 5)])
def test_dropout_of_bands_is_that_of_the_whole(kind: type[BandDropout], shape: tuple[int, ...]) -> None:
    x, dropout = torch.randn(shape, requires_grad=True), kind(0.4)
    torch.manual_seed(1)
    whole = dropout(x)
    (slope,) = torch.autograd.grad(whole.sum(), x)
    drawn = torch.rand(())
    parts, slopes = [], []
    for band in bands(4):
        dropout.band = band
        own = band.of_whole(x.detach()).requires_grad_()
        torch.manual_seed(1)
        parts.append(dropout(own))
        assert torch.equal(torch.rand(()), drawn)  # generators stay alike
        slopes.append(torch.autograd.grad(parts[-1].sum(), own)[0])
    assert 0 < (whole == 0).sum() < whole.numel()
    torch.testing.assert_close(torch.cat(parts, -2), whole, rtol=0, atol=0)
    torch.testing.assert_close(torch.cat(slopes, -2), slope, rtol=0, atol=0)
    assert dropout.eval()(own) is own


@dataclass
class Sums:
    """Sums of what all bands hand in, which are known before: `RowBand.total` without ranks."""

    value: Tensor

    def __call__(self, part: Tensor) -> Tensor:
        """The sum."""
        assert part.shape == self.value.shape
        return self.value


def test_shares_of_the_loss_add_up_to_it() -> None:
    torch.manual_seed(0)
    y_BOHW, weight_H = torch.randn(3, 4, 8, 6), torch.rand(8)
    y_BOHW[torch.rand(y_BOHW.shape) < 0.3] = torch.nan
    y_BOHW[0, 1, :4] = torch.nan  # misses in one band
    y_BOHW[1, 2] = torch.nan  # misses in both
    net_BOHW, weight_O = torch.randn(y_BOHW.shape, requires_grad=True), torch.tensor([1.0, 2.0, 0.0, 0.5])
    valid = (~y_BOHW.isnan()).float()
    sums = Sums(torch.einsum("bohw,h->bo", valid, weight_H))

    def loss(part: slice, **total: Any) -> Tensor:
        fields = net_BOHW[:, :, part], y_BOHW[:, :, part], weight_H[part]
        return lat_weighted_error(*fields, variable_weight_O=weight_O, **total)[0]

    whole = loss(slice(None))
    shares = [loss(band.part(8), total=sums) for band in bands(2)]
    torch.testing.assert_close(sum(shares), whole)
    expected, found = (torch.autograd.grad(value, net_BOHW)[0] for value in (whole, sum(shares)))
    torch.testing.assert_close(found, expected)
    h_BLPO, y_BOhW = torch.randn(3, 6, 16), y_BOHW[:, :, :4]
    once = lat_weighted_loss(h_BLPO, y_BOhW, weight_H[:4], 2, total=sums)[0]
    twice = lat_weighted_loss(h_BLPO, y_BOhW, weight_H[:4], 2, total=Sums(2 * sums.value))[0]
    torch.testing.assert_close(2 * twice, once)


VIT = {"variables": ("2m_temperature", "geopotential_500"), "height": 32, "width": 64, "patch": 2, "heads": 16}


@pytest.mark.parametrize(
    ("model", "ranks", "message"),
    [
        ({}, 3, "does not divide model.heads = 16, which the ranks share"),
        ({"heads": 4, "height": 20}, 4, r"does not divide the 10 patch rows \(model.height\)"),
        ({"blocks": "conv", "levels": 3}, 8, r"does not divide the 4 rows of the coarsest grid"),
        ({"kind": "unet"}, 8, r"does not divide the 4 rows of the coarsest grid"),
        ({"kind": "resnet"}, 16, "leaves 2 rows to each rank, and the first convolution of model.kind resnet takes 3"),
        ({"years": 2, "projected": ("total_precipitation_rate",)}, 2, "a climate projection averages over all patches"),
    ],
)
def test_networks_that_ranks_cannot_share(model: dict[str, Any], ranks: int, message: str) -> None:
    config = ModelConfig(**(VIT | model))
    check_shares(config, 1)
    with pytest.raises(UserError, match=message) as refused:
        check_shares(config, ranks)
    assert str(refused.value).startswith(f"train.sequence_parallel = {ranks}")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("model", [{}, {"blocks": "conv"}, {"kind": "unet"}, {"kind": "resnet"}, {"kind": "linear"}])
def test_networks_that_ranks_can_share(model: dict[str, Any]) -> None:
    config = ModelConfig(**(VIT | model))
    check_shares(config, 4)
    check_rows(config, 4)


def test_only_transformer_blocks_are_compiled_with_bands() -> None:
    check_shares(ModelConfig(**VIT), 2, None, True)
    for other in ({"blocks": "conv"}, {"kind": "unet"}):
        check_shares(ModelConfig(**(VIT | other)), 1, None, True)
        check_shares(ModelConfig(**(VIT | other)), 2, None, False)
        with pytest.raises(UserError, match=r"train.sequence_parallel = 2: with it train.compile works for model.kind"):
            check_shares(ModelConfig(**(VIT | other)), 2, None, True)


def test_rows_of_a_region_are_checked_later() -> None:
    config = ModelConfig(**(VIT | {"height": 20, "heads": 4}))
    check_shares(config, 4, "Europe")
    with pytest.raises(UserError, match=r"10 patch rows \(data.region\)"):
        check_rows(config, 4, "data.region")
