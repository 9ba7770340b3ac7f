"""The latitude-weighted loss against its textbook form, by hand, and with missing targets."""

import os
import shutil

import pytest
import torch
from torch import Tensor

from climax_hpc.kernels.lat_weighted_loss import cpu
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_error, lat_weighted_loss
from climax_hpc.kernels.lat_weighted_loss.reference import (
    lat_weighted_error_reference,
    lat_weighted_loss_reference,
    unpatchify,
)
from climax_hpc.kernels.lat_weighted_loss.unfused import lat_weighted_loss_unfused
from climax_hpc.kernels.testing import relative_error, saved_bytes, scatter_missing

KINDS = ["mse", "mae", "huber"]
SIZES = [(1, 1, 3, 5), (5, 2, 3, 5), (48, 4, 3, 1), (3, 8, 1, 2)]  # O, p, patch rows, patch columns


def head_target_weights(size, missing: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    num_out, p, rows, columns = size
    draw = torch.Generator().manual_seed(0)
    h_BLPO = torch.randn(3, rows * columns, p * p * num_out, generator=draw, dtype=torch.float64)
    y_BOHW = torch.randn(3, num_out, rows * p, columns * p, generator=draw, dtype=torch.float64)
    weight_H = torch.rand(rows * p, generator=draw, dtype=torch.float64) + 0.1
    return h_BLPO, scatter_missing(y_BOHW, p) if missing else y_BOHW, weight_H


def assert_same(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], tolerance: float = 1e-12) -> None:
    assert relative_error(ours[0], theirs[0]) < tolerance
    assert torch.equal(ours[1].isnan(), theirs[1].isnan())
    assert relative_error(ours[1].nan_to_num(), theirs[1].nan_to_num()) < tolerance


@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "variable_weights"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_matches_textbook(size, kind, weighted):
    h_BLPO, y_BOHW, weight_H = head_target_weights(size)
    variable_weight_O = torch.arange(1.0, size[0] + 1, dtype=torch.float64) if weighted else None
    results = []
    for function in (lat_weighted_loss, lat_weighted_loss_reference):
        h = h_BLPO.clone().requires_grad_()
        loss, loss_BO = function(h, y_BOHW, weight_H, size[1], kind=kind, variable_weight_O=variable_weight_O)
        loss.backward()
        assert not loss_BO.requires_grad
        results.append((loss, loss_BO, h.grad))
    assert_same(results[0][:2], results[1][:2])
    assert relative_error(results[0][2], results[1][2]) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_fields_and_head_output_agree(kind):
    h_BLPO, y_BOHW, weight_H = head_target_weights((5, 2, 3, 5))
    pred_BOHW = unpatchify(h_BLPO, 6, 10, 2)
    of_head = lat_weighted_loss(h_BLPO, y_BOHW, weight_H, 2, kind=kind)
    assert_same(lat_weighted_error(pred_BOHW, y_BOHW, weight_H, kind=kind), of_head)
    assert_same(lat_weighted_error_reference(pred_BOHW, y_BOHW, weight_H, kind=kind), of_head)


def test_by_hand():
    """Weights 1 and 3, errors 2 (row 0) and 1 (row 1): (1·4 + 3·1) / 4; the second variable has only row 0."""
    nan = torch.nan
    pred = torch.tensor([[[[2.0], [1.0]], [[3.0], [9.0]]]])
    target = torch.tensor([[[[0.0], [0.0]], [[0.0], [nan]]]])
    loss, loss_BO = lat_weighted_error(pred, target, torch.tensor([1.0, 3.0]))
    assert torch.allclose(loss_BO, torch.tensor([[7 / 4, 9.0]]))
    assert torch.isclose(loss, torch.tensor((7 / 4 + 9) / 2))


def test_head_order_is_rows_columns_variable_fastest():
    y_BOHW = unpatchify(torch.arange(16.0).view(1, 2, 8), 2, 4, 2)  # two patches side by side, two variables
    assert y_BOHW[0, 0].tolist() == [[0, 2, 8, 10], [4, 6, 12, 14]]
    assert y_BOHW[0, 1].tolist() == [[1, 3, 9, 11], [5, 7, 13, 15]]


def test_huber_joins_square_and_line():
    pred, target = torch.tensor([0.5, 1.0, 3.0]).view(3, 1, 1, 1), torch.zeros(3, 1, 1, 1)
    _, loss_BO = lat_weighted_error(pred, target, torch.ones(1), kind="huber", huber_delta=1.0)
    assert loss_BO.flatten().tolist() == [0.125, 0.5, 2.5]


def test_unit_error_has_unit_loss_whatever_is_missing():
    """ClimaX divides by the unweighted mask: with a mask that varies with latitude its loss would not be 1."""
    _, y_BOHW, weight_H = head_target_weights((5, 2, 3, 5))
    loss, loss_BO = lat_weighted_error(y_BOHW.nan_to_num() + 1, y_BOHW, weight_H)
    assert torch.allclose(loss_BO[~loss_BO.isnan()], torch.ones((), dtype=torch.float64))
    assert torch.isclose(loss, torch.ones((), dtype=torch.float64))


def test_field_with_no_valid_pixel_is_left_out():
    h_BLPO, y_BOHW, weight_H = head_target_weights((5, 2, 3, 5), missing=False)
    pred_BOHW = unpatchify(h_BLPO, 6, 10, 2)
    y_BOHW[:, 2] = torch.nan
    kept = [0, 1, 3, 4]
    loss, loss_BO = lat_weighted_error(pred_BOHW, y_BOHW, weight_H)
    assert loss_BO[:, 2].isnan().all()
    assert relative_error(loss, lat_weighted_error(pred_BOHW[:, kept], y_BOHW[:, kept], weight_H)[0]) < 1e-14


def test_no_split_of_the_batch_changes_the_loss():
    h_BLPO, y_BOHW, weight_H = head_target_weights((5, 2, 3, 5))
    whole, _ = lat_weighted_loss(h_BLPO, y_BOHW, weight_H, 2)
    parts = [lat_weighted_loss(h_BLPO[b : b + 1], y_BOHW[b : b + 1], weight_H, 2)[0] for b in range(3)]
    assert relative_error(torch.stack(parts).mean(), whole) < 1e-14


@pytest.mark.parametrize("kind", KINDS)
def test_no_nan_reaches_loss_or_gradient(kind):
    h_BLPO, y_BOHW, weight_H = head_target_weights((5, 2, 3, 5))
    y_BOHW[1] = torch.nan  # a sample with nothing at all
    h_BLPO.requires_grad_()
    loss, _ = lat_weighted_loss(h_BLPO, y_BOHW, weight_H, 2, kind=kind)
    loss.backward()
    assert loss.isfinite()
    assert h_BLPO.grad.isfinite().all()
    assert (unpatchify(h_BLPO.grad, 6, 10, 2)[y_BOHW.isnan()] == 0).all()


def test_nothing_to_learn_from_is_zero_loss():
    h_BLPO, y_BOHW, weight_H = head_target_weights((2, 2, 1, 1))
    h_BLPO.requires_grad_()
    loss, loss_BO = lat_weighted_loss(h_BLPO, torch.full_like(y_BOHW, torch.nan), weight_H, 2)
    loss.backward()
    assert loss == 0
    assert loss_BO.isnan().all()
    assert (h_BLPO.grad == 0).all()


def test_broken_prediction_is_not_hidden():
    """The training guard must see it: only missing targets are masked."""
    loss, _ = lat_weighted_error(torch.full((1, 1, 2, 2), torch.nan), torch.zeros(1, 1, 2, 2), torch.ones(2))
    assert loss.isnan()


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind):
    h_BLPO, y_BOHW, weight_H = head_target_weights((3, 2, 2, 1))
    h_BLPO.requires_grad_()
    assert torch.autograd.gradcheck(lambda h: lat_weighted_loss(h, y_BOHW, weight_H, 2, kind=kind)[0], (h_BLPO,))


@pytest.mark.parametrize("patches", [1, 2, 3, 5, 11], ids=lambda n: f"{n}_patches")
def test_no_cut_into_runs_changes_the_result(patches, monkeypatch):
    """Part of a patch row, one row, two rows with one left over; gaps in some runs only."""
    h_BLPO, y_BOHW, weight_H = head_target_weights((5, 2, 3, 5))
    y_BOHW[:, :, :2] = 0.5
    whole = lat_weighted_loss(h_BLPO.requires_grad_(), y_BOHW, weight_H, 2)
    dh_BLPO = torch.autograd.grad(whole[0], h_BLPO)[0]
    monkeypatch.setattr(cpu, "RUN_BYTES", patches * 4 * 5 * 8)
    cut = lat_weighted_loss(h_BLPO, y_BOHW, weight_H, 2)
    assert_same(cut, whole)
    assert relative_error(torch.autograd.grad(cut[0], h_BLPO)[0], dh_BLPO) < 1e-14


@pytest.mark.parametrize("kind", KINDS)
def test_unfused_form_is_the_same(kind):
    h_BLPO, y_BOHW, weight_H = head_target_weights((5, 2, 3, 5))
    ours = lat_weighted_loss(h_BLPO, y_BOHW, weight_H, 2, kind=kind)
    assert_same(lat_weighted_loss_unfused(h_BLPO, y_BOHW, weight_H, 2, kind=kind), ours)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_near_the_float64_textbook(kind):
    h_BLPO, y_BOHW, weight_H = head_target_weights((48, 4, 3, 5))
    gradients = []
    for h, function in ((h_BLPO, lat_weighted_loss_reference), (h_BLPO.float(), lat_weighted_loss)):
        h = h.requires_grad_()
        loss, _ = function(h, y_BOHW.to(h.dtype), weight_H.to(h.dtype), 4, kind=kind)
        gradients.append((loss, torch.autograd.grad(loss, h)[0]))
    assert gradients[1][1].dtype == torch.float32
    assert relative_error(gradients[1][0], gradients[0][0]) < 1e-5
    assert relative_error(gradients[1][1], gradients[0][1]) < 1e-5


def test_operator_registrations():
    h_BLPO, y_BOHW, weight_H = head_target_weights((5, 2, 3, 5))
    for h in (h_BLPO, h_BLPO.bfloat16()):
        arguments = (h.requires_grad_(), y_BOHW, weight_H, 2, "huber", 1.0)
        torch.library.opcheck(torch.ops.climax_hpc.lat_weighted_sums.default, arguments)
        arguments = (torch.ones(3, 5, dtype=torch.float64), h.detach(), *arguments[1:])
        torch.library.opcheck(torch.ops.climax_hpc.lat_weighted_sums_backward.default, arguments)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_graph_breaks(backend):
    if backend == "inductor" and not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("inductor needs a C++ compiler (apt install g++)")
    h_BLPO, y_BOHW, weight_H = head_target_weights((5, 2, 3, 5))
    results = []
    for function in (torch.compile(lat_weighted_loss, fullgraph=True, backend=backend), lat_weighted_loss):
        h = h_BLPO.clone().requires_grad_()
        loss, loss_BO = function(h, y_BOHW, weight_H, 2)
        loss.backward()
        results.append((loss, loss_BO, h.grad))
    assert_same(results[0][:2], results[1][:2])
    assert relative_error(results[0][2], results[1][2]) < 1e-14


def test_same_bits_twice_and_nothing_kept_but_the_inputs():
    h_BLPO, y_BOHW, weight_H = head_target_weights((48, 4, 8, 16))
    h_BLPO, y_BOHW, weight_H = h_BLPO.float().requires_grad_(), y_BOHW.float(), weight_H.float()
    results = []
    for _ in range(2):
        loss, saved = saved_bytes(
            lambda: lat_weighted_loss(h_BLPO, y_BOHW, weight_H, 4)[0], besides=[h_BLPO, y_BOHW, weight_H]
        )
        assert saved < 0.01 * h_BLPO.nbytes
        results.append((loss, torch.autograd.grad(loss, h_BLPO, retain_graph=True)[0]))
        assert torch.equal(torch.autograd.grad(loss, h_BLPO)[0], results[-1][1])
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_half_precision_is_summed_in_float32():
    h_BLPO, y_BOHW, weight_H = head_target_weights((5, 2, 3, 5))
    h_BLPO = h_BLPO.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, loss_BO = lat_weighted_loss(h_BLPO, y_BOHW.float(), weight_H, 2)
    loss.backward()
    assert (loss.dtype, loss_BO.dtype, h_BLPO.grad.dtype) == (torch.float32, torch.float32, torch.bfloat16)
    expected = lat_weighted_loss_reference(h_BLPO.double(), y_BOHW, weight_H, 2)
    assert_same((loss, loss_BO), expected, 1e-6)


def test_refusals():
    h_BLPO, y_BOHW, weight_H = head_target_weights((5, 2, 3, 5))
    with pytest.raises(ValueError, match="not made of whole 4×4 patches"):
        lat_weighted_loss(h_BLPO, y_BOHW, weight_H, 4)
    with pytest.raises(ValueError, match="head output has shape"):
        lat_weighted_loss(h_BLPO[..., 1:], y_BOHW, weight_H, 2)
    with pytest.raises(ValueError, match="differ in shape"):
        lat_weighted_error(y_BOHW[:, 1:], y_BOHW, weight_H)
    with pytest.raises(ValueError, match="latitude weights have shape"):
        lat_weighted_error(y_BOHW, y_BOHW, weight_H[1:])
    with pytest.raises(ValueError, match="loss kind 'rmse': use one of mse, mae, huber"):
        lat_weighted_error(y_BOHW, y_BOHW, weight_H, kind="rmse")  # type: ignore[arg-type]
