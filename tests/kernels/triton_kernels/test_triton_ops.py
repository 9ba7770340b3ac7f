"""The public operators send tensors to the Triton kernels when told to, and give the same values and gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from climax_hpc.kernels.dispatch import VARIABLE
from climax_hpc.kernels.ensemble_crps.op import ensemble_crps, ensemble_crps_of_fields
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_error, lat_weighted_loss
from climax_hpc.kernels.testing import relative_error, scatter_missing, triton_device
from climax_hpc.kernels.variable_aggregation.op import aggregate_variables, build_maps
from climax_hpc.kernels.verification_sums.op import verification_sums


def both_ways(run: Callable[[], list[Tensor]], monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Results of the Triton kernels beside those of the PyTorch form."""
    results = []
    for choice in ("triton", "torch"):
        monkeypatch.setenv(VARIABLE, choice)
        results.append(run())
    return list(zip(*results, strict=True))


@pytest.mark.parametrize("wants_dx", [False, True])
def test_aggregation(monkeypatch: pytest.MonkeyPatch, wants_dx: bool) -> None:
    torch.manual_seed(0)
    V, D, N, p = 5, 48, 2, 2
    shapes = ((V, D, p, p), (V, D), (V, D), (D,), (3 * D, D), (3 * D,))
    parameters = [(torch.randn(shape) * 0.2).to(triton_device()) for shape in shapes]
    x_BVHW = scatter_missing(torch.randn(2, V, 8, 6), p).to(triton_device())
    do_BLD = torch.randn(2, 12, D).to(triton_device())

    def run() -> list[Tensor]:
        leaves = [t.clone().requires_grad_() for t in parameters]
        x = x_BVHW.clone().requires_grad_(wants_dx)
        o_BLD = aggregate_variables(x, *build_maps(*leaves, num_heads=N), p)
        o_BLD.backward(do_BLD)
        gradients = [t.grad for t in (*leaves, *([x] if wants_dx else []))]
        return [o_BLD.detach(), *(g for g in gradients if g is not None)]

    pairs = both_ways(run, monkeypatch)
    assert len(pairs) == 7 + wants_dx
    for triton, plain in pairs:
        # float32 sums in another order
        assert relative_error(triton, plain) < 1e-5


def test_gradients_share_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one variable, head and pixel those of M and M0 lie side by side; an operator must not return views."""
    monkeypatch.setenv(VARIABLE, "triton")
    shapes = ((1, 1, 1), (1, 1), (1, 1, 24, 1), (1, 1, 24), (24,))
    maps = [torch.randn(shape, device=triton_device(), requires_grad=True) for shape in shapes]
    x_BVHW = torch.randn(2, 1, 8, 6, device=triton_device())
    gradients = torch.autograd.grad(aggregate_variables(x_BVHW, *maps, 1).square().sum(), maps)
    assert len({t.untyped_storage().data_ptr() for t in gradients}) == len(maps)


@pytest.mark.parametrize("kind", ["mse", "mae", "huber"])
def test_loss(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    torch.manual_seed(0)
    y_BOHW = torch.randn(2, 3, 8, 6)
    y_BOHW[0, 1, 2:4] = torch.nan
    h_BLPO, weight_H = torch.randn(2, 12, 12), torch.rand(8)
    h_BLPO, y_BOHW, weight_H = (t.to(triton_device()) for t in (h_BLPO, y_BOHW, weight_H))

    def run() -> list[Tensor]:
        h = h_BLPO.clone().requires_grad_()
        loss, loss_BO = lat_weighted_loss(h, y_BOHW, weight_H, 2, kind=kind)  # type: ignore[arg-type]
        loss.backward()
        assert h.grad is not None
        return [loss.detach(), loss_BO, h.grad]

    for triton, plain in both_ways(run, monkeypatch):
        assert relative_error(triton, plain) < 1e-5


def test_loss_of_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    pred_BOHW, y_BOHW, weight_H = torch.randn(2, 3, 8, 6), torch.randn(2, 3, 8, 6), torch.rand(8)
    y_BOHW[0, 1, 2:4] = torch.nan
    pred_BOHW, y_BOHW, weight_H = (t.to(triton_device()) for t in (pred_BOHW, y_BOHW, weight_H))

    def run() -> list[Tensor]:
        pred = pred_BOHW.clone().requires_grad_()
        loss, loss_BO = lat_weighted_error(pred, y_BOHW, weight_H)
        loss.backward()
        assert pred.grad is not None
        return [loss.detach(), loss_BO, pred.grad]

    for triton, plain in both_ways(run, monkeypatch):
        assert relative_error(triton, plain) < 1e-5


@pytest.mark.parametrize("of_fields", [False, True], ids=["head", "fields"])
def test_ensemble_crps(monkeypatch: pytest.MonkeyPatch, of_fields: bool) -> None:
    torch.manual_seed(0)
    y_BOHW, weight_H = torch.randn(2, 3, 8, 6), torch.rand(8)
    y_BOHW[0, 1, 2:4] = torch.nan
    members = torch.randn(2, 5, 3, 8, 6) if of_fields else torch.randn(2, 5, 12, 12)
    members, y_BOHW, weight_H = (t.to(triton_device()) for t in (members, y_BOHW, weight_H))

    def run() -> list[Tensor]:
        leaf = members.clone().requires_grad_()
        if of_fields:
            loss, loss_BO = ensemble_crps_of_fields(leaf, y_BOHW, weight_H)
        else:
            loss, loss_BO = ensemble_crps(leaf, y_BOHW, weight_H, 2)
        loss.backward()
        assert leaf.grad is not None
        return [loss.detach(), loss_BO, leaf.grad]

    for triton, plain in both_ways(run, monkeypatch):
        assert relative_error(triton, plain) < 1e-5


def test_verification_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    forecast, truth, climatology = torch.randn(3, 2, 3, 8, 6).to(triton_device())
    truth[0, 1, 2:4] = torch.nan
    weight_H = torch.rand(8).to(triton_device())
    run = lambda: [t for t in verification_sums(forecast, truth, climatology, weight_H) if t is not None]  # noqa: E731
    pairs = both_ways(run, monkeypatch)
    assert len(pairs) == 7
    for triton, plain in pairs:
        assert relative_error(triton, plain) < 1e-6
