"""The CRPS of an ensemble against its textbook form, by hand, against xskillscore, and with missing targets."""

import math
import os
import shutil

import pytest
import torch
import xarray as xr
import xskillscore
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from climax_hpc.kernels.ensemble_crps import cpu
from climax_hpc.kernels.ensemble_crps.members import broken_code, code_dtype, pair_weight
from climax_hpc.kernels.ensemble_crps.op import ensemble_crps, ensemble_crps_of_fields
from climax_hpc.kernels.ensemble_crps.reference import ensemble_crps_of_fields_reference, ensemble_crps_reference
from climax_hpc.kernels.ensemble_crps.unfused import ensemble_crps_broadcast, ensemble_crps_unfused
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_loss
from climax_hpc.kernels.lat_weighted_loss.reference import unpatchify
from climax_hpc.kernels.testing import relative_error, saved_bytes, scatter_missing

SIZES = [(1, 1, 3, 5), (5, 2, 3, 5), (48, 4, 3, 1), (3, 8, 1, 2)]  # O, p, patch rows, patch columns
SIZE = SIZES[1]
ALPHAS = [0.0, 0.95, 1.0]


def problem(size=SIZE, members: int = 3, missing: bool = True, ties: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Head outputs of two samples, targets with gaps, weights; some members equal each other and the target."""
    num_out, p, rows, columns = size
    draw = torch.Generator().manual_seed(sum(size))
    h_BMLPO = torch.randn(2, members, rows * columns, p * p * num_out, generator=draw, dtype=torch.float64)
    y_BOHW = torch.randn(2, num_out, rows * p, columns * p, generator=draw, dtype=torch.float64)
    if ties:
        h_BMLPO, y_BOHW = (4 * h_BMLPO).round() / 4, (4 * y_BOHW).round() / 4
    weight_H = torch.rand(rows * p, generator=draw, dtype=torch.float64) + 0.1
    return h_BMLPO, scatter_missing(y_BOHW, p) if missing else y_BOHW, weight_H


def with_gradient(function, h: Tensor, *arguments, **options) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, loss_BO and the gradient of the members."""
    h = h.detach().requires_grad_()
    loss, loss_BO = function(h, *arguments, **options)
    assert not loss_BO.requires_grad
    return loss.detach(), loss_BO, torch.autograd.grad(loss, h)[0]


def fields(h_BMLPO: Tensor, y_BOHW: Tensor, patch: int) -> Tensor:
    return torch.stack([unpatchify(h_MLPO, *y_BOHW.shape[2:], patch) for h_MLPO in h_BMLPO])


def assert_same(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], tolerance: float = 1e-12) -> None:
    assert torch.equal(ours[1].isnan(), theirs[1].isnan())
    for mine, other in zip(ours, theirs, strict=True):
        assert relative_error(mine.nan_to_num(), other.nan_to_num()) < tolerance


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("members", [1, 2, 3, 8, 32])
def test_matches_textbook_and_autograd_of_the_broadcast_form(members, alpha):
    inputs = problem(members=members)
    ours = with_gradient(ensemble_crps, *inputs, 2, alpha=alpha)
    assert_same(ours, with_gradient(ensemble_crps_reference, *inputs, 2, alpha=alpha))
    assert_same(ours, with_gradient(ensemble_crps_broadcast, *inputs, 2, alpha=alpha))


@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "variable_weights"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes_and_variable_weights(size, weighted):
    variable_weight_O = torch.arange(1.0, size[0] + 1, dtype=torch.float64) if weighted else None
    inputs = problem(size)
    ours, theirs = (
        with_gradient(function, *inputs, size[1], variable_weight_O=variable_weight_O)
        for function in (ensemble_crps, ensemble_crps_reference)
    )
    assert_same(ours, theirs)


def test_sorted_form_is_the_same_without_ties():
    inputs = problem(members=5, ties=False)
    assert_same(with_gradient(ensemble_crps, *inputs, 2), with_gradient(ensemble_crps_unfused, *inputs, 2))


@pytest.mark.parametrize("members", [43, 44, 60])
def test_more_members_than_one_byte_holds(members):
    """Codes reach 3·(M - 1) + 1 when all members are apart; one byte ends at 127."""
    assert code_dtype(members) == (torch.int8 if members == 43 else torch.int16)
    inputs = problem((1, 1, 2, 3), members, ties=False)
    assert_same(
        with_gradient(ensemble_crps, *inputs, 1), with_gradient(ensemble_crps_broadcast, *inputs, 1), tolerance=1e-11
    )


def test_fields_and_head_output_agree():
    h_BMLPO, y_BOHW, weight_H = problem()
    of_head = with_gradient(ensemble_crps, h_BMLPO, y_BOHW, weight_H, 2)
    pred_BMOHW = fields(h_BMLPO, y_BOHW, 2)
    for function in (ensemble_crps_of_fields, ensemble_crps_of_fields_reference):
        loss, loss_BO, dpred_BMOHW = with_gradient(function, pred_BMOHW, y_BOHW, weight_H)
        assert_same((loss, loss_BO, dpred_BMOHW), (*of_head[:2], fields(of_head[2], y_BOHW, 2)))


def test_by_hand():
    """Members 0 and 2, truth 1: errors 1 and 1, one pair 2 apart: fair 1 - 2/2, plain 1 - 2/4, almost fair between."""
    pred_BMOHW, y_BOHW = torch.tensor([0.0, 2.0]).view(1, 2, 1, 1, 1), torch.ones(1, 1, 1, 1)
    found = [ensemble_crps_of_fields(pred_BMOHW, y_BOHW, torch.ones(1), alpha=alpha)[0].item() for alpha in (1, 0, 0.9)]
    assert found == pytest.approx([0.0, 0.5, 0.05])


def test_fair_score_alone_does_not_see_one_bad_member():
    """Members 0, 0, 0, 5, truth 0: error 5/4, half of the pairs' sum 15: fair 5/4 - 15/12, plain 5/4 - 15/16."""
    pred_BMOHW, y_BOHW = torch.tensor([0.0, 0, 0, 5]).view(1, 4, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    found = [ensemble_crps_of_fields(pred_BMOHW, y_BOHW, torch.ones(1), alpha=alpha)[0].item() for alpha in (1, 0)]
    assert found == pytest.approx([0.0, 5 / 16], abs=1e-6)  # float32


def test_plain_score_is_xskillscores():
    h_BMLPO, y_BOHW, weight_H = problem(members=7, missing=False)
    _, loss_BO = ensemble_crps(h_BMLPO, y_BOHW, weight_H, 2, alpha=0)
    members = xr.DataArray(fields(h_BMLPO, y_BOHW, 2).numpy(), dims=("b", "member", "o", "h", "w"))
    truth = xr.DataArray(y_BOHW.numpy(), dims=("b", "o", "h", "w"))
    weights = xr.DataArray(weight_H.numpy(), dims="h").broadcast_like(truth[0, 0])
    expected = xskillscore.crps_ensemble(truth, members, dim=["h", "w"], weights=weights)
    assert relative_error(loss_BO, torch.from_numpy(expected.transpose("b", "o").values)) < 1e-12


@pytest.mark.parametrize("alpha", ALPHAS)
def test_one_member_is_the_absolute_error(alpha):
    h_BMLPO, y_BOHW, weight_H = problem(members=1)
    ours = with_gradient(ensemble_crps, h_BMLPO, y_BOHW, weight_H, 2, alpha=alpha)
    loss, loss_BO, dh_BLPO = with_gradient(lat_weighted_loss, h_BMLPO[:, 0], y_BOHW, weight_H, 2, kind="mae")
    assert_same(ours, (loss, loss_BO, dh_BLPO[:, None]))


@given(
    members=st.lists(st.integers(-20, 20), min_size=1, max_size=9),
    truth=st.integers(-20, 20),
    shift=st.integers(-20, 20),
    alpha=st.floats(0, 1),
    randomly=st.randoms(use_true_random=False),
)
def test_order_shift_scale_and_sign(members, truth, shift, alpha, randomly):
    """The score knows no order, moves with nothing, grows with the unit; the plain one is never negative."""

    def score(values: list[int], target: int, alpha: float = alpha) -> float:
        pred_BMOHW = torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1, 1)
        y_BOHW = torch.tensor(float(target), dtype=torch.float64).view(1, 1, 1, 1)
        return ensemble_crps_of_fields(pred_BMOHW, y_BOHW, torch.ones(1), alpha=alpha)[0].item()

    value = score(members, truth)
    shuffled = randomly.sample(members, len(members))
    assert score(shuffled, truth) == pytest.approx(value, abs=1e-12)
    assert score([x + shift for x in members], truth + shift) == pytest.approx(value, abs=1e-12)
    assert score([-3 * x for x in members], -3 * truth) == pytest.approx(3 * value, abs=1e-12)
    assert score(members, truth, alpha=0.0) >= -1e-12
    between = alpha * score(members, truth, alpha=1.0) + (1 - alpha) * score(members, truth, alpha=0.0)
    assert value == pytest.approx(between, abs=1e-12)


def test_fair_score_does_not_depend_on_the_number_of_members():
    """Mean over many cells of the score of M members and truth from N(0, 1): 1/√π when fair, (1 + 1/M)/√π when not."""
    draw = torch.Generator().manual_seed(0)
    y_BOHW = torch.randn(1, 1, 200, 200, generator=draw, dtype=torch.float64)
    for M in (2, 5, 16):
        pred_BMOHW = torch.randn(1, M, 1, 200, 200, generator=draw, dtype=torch.float64)
        for alpha in ALPHAS:
            found = ensemble_crps_of_fields(pred_BMOHW, y_BOHW, torch.ones(200), alpha=alpha)[0].item()
            expected = (1 + (1 - alpha) / M) / math.sqrt(math.pi)
            assert found == pytest.approx(expected, abs=0.02)  # five standard errors of 4e4 cells


def test_field_with_no_valid_pixel_is_left_out():
    h_BMLPO, y_BOHW, weight_H = problem(missing=False)
    pred_BMOHW, kept = fields(h_BMLPO, y_BOHW, 2), [0, 1, 3, 4]
    y_BOHW[:, 2] = torch.nan
    loss, loss_BO = ensemble_crps_of_fields(pred_BMOHW, y_BOHW, weight_H)
    assert loss_BO[:, 2].isnan().all()
    without, _ = ensemble_crps_of_fields(pred_BMOHW[:, :, kept], y_BOHW[:, kept], weight_H)
    assert relative_error(loss, without) < 1e-14


def test_missing_targets_give_no_gradient_and_no_nan():
    """Single pixels, whole rows and a sample with nothing at all; what a member is there, even NaN, never counts."""
    h_BMLPO, y_BOHW, weight_H = problem()
    y_BOHW[:, :, 2] = torch.nan
    y_BOHW[1] = torch.nan
    found = with_gradient(ensemble_crps, h_BMLPO, y_BOHW, weight_H, 2)
    missing_BMOHW = y_BOHW.isnan()[:, None].expand(-1, 3, -1, -1, -1)
    assert found[0].isfinite()
    assert found[2].isfinite().all()
    assert (fields(found[2], y_BOHW, 2)[missing_BMOHW] == 0).all()
    pred_BMOHW = fields(h_BMLPO, y_BOHW, 2)
    other = with_gradient(ensemble_crps_of_fields, pred_BMOHW.masked_fill(missing_BMOHW, torch.nan), y_BOHW, weight_H)
    assert_same((*other[:2], other[2]), (*found[:2], fields(found[2], y_BOHW, 2)))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing"])
def test_broken_member_is_not_hidden(value, missing):
    """The training guard must see it; a NaN member's own gradient is NaN, and no other's."""
    h_BMLPO, y_BOHW, weight_H = problem(missing=missing)
    h_BMLPO[0, 1, 1, 3] = value
    y_BOHW[0, 3, 0, 2] = 0.0
    loss, loss_BO, dh_BMLPO = with_gradient(ensemble_crps, h_BMLPO, y_BOHW, weight_H, 2)
    assert not loss.isfinite()
    assert (~loss_BO[0].isfinite() & ~y_BOHW[0].isnan().all(dim=(1, 2))).nonzero().tolist() == [[3]]
    expected = [[0, 1, 1, 3]] if math.isnan(value) else []
    assert dh_BMLPO.isnan().nonzero().tolist() == expected


def test_gradcheck():
    h_BMLPO, y_BOHW, weight_H = problem((3, 2, 2, 1), ties=False)
    h_BMLPO.requires_grad_()
    assert torch.autograd.gradcheck(lambda h: ensemble_crps(h, y_BOHW, weight_H, 2)[0], (h_BMLPO,))


@pytest.mark.parametrize("patches", [1, 2, 3, 5, 11], ids=lambda n: f"{n}_patches")
def test_no_cut_into_runs_changes_the_result(patches, monkeypatch):
    """Part of a patch row, one row, two rows with one left over; gaps in some runs only."""
    h_BMLPO, y_BOHW, weight_H = problem()
    y_BOHW[:, :, :2] = 0.5
    whole = with_gradient(ensemble_crps, h_BMLPO, y_BOHW, weight_H, 2)
    monkeypatch.setattr(cpu, "RUN_BYTES", 3 * patches * 4 * 5 * 8)
    assert_same(with_gradient(ensemble_crps, h_BMLPO, y_BOHW, weight_H, 2), whole, 1e-14)


@pytest.mark.parametrize("members", [2, 8, 32])
def test_float32_is_near_the_float64_textbook(members):
    inputs = problem((7, 4, 3, 5), members)
    ours = with_gradient(ensemble_crps, *(t.float() for t in inputs), 4)
    assert ours[2].dtype == torch.float32
    # sums of 240 cells, and in each of at most 32 terms of both signs
    assert_same(ours, with_gradient(ensemble_crps_reference, *inputs, 4), 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_summed_in_float32(dtype):
    h_BMLPO, y_BOHW, weight_H = problem(ties=False)
    h_BMLPO = h_BMLPO.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = with_gradient(ensemble_crps, h_BMLPO, y_BOHW.float(), weight_H, 2)
    assert [t.dtype for t in found] == [torch.float32, torch.float32, dtype]
    expected = with_gradient(ensemble_crps_reference, h_BMLPO.double(), y_BOHW, weight_H, 2)
    assert_same(found[:2], expected[:2], 1e-6)
    assert relative_error(found[2], expected[2]) < torch.finfo(dtype).eps  # one rounding


def test_operator_registrations():
    h_BMLPO, y_BOHW, weight_H = problem()
    of_fields = fields(h_BMLPO, y_BOHW, 2).flatten(3).transpose(2, 3)
    for h, patch in ((h_BMLPO, 2), (h_BMLPO.bfloat16(), 2), (of_fields, 1)):
        for gradient in (True, False):
            arguments = (h.requires_grad_(gradient), y_BOHW, weight_H, patch, 0.95, gradient)
            torch.library.opcheck(torch.ops.climax_hpc.ensemble_crps_sums.default, arguments)
        code = torch.ops.climax_hpc.ensemble_crps_sums(h, y_BOHW, weight_H, patch, 0.95, True)[2]
        arguments = (torch.ones(2, 5, dtype=torch.float64), code, weight_H, patch, 0.95, h.dtype)
        torch.library.opcheck(torch.ops.climax_hpc.ensemble_crps_sums_backward.default, arguments)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_graph_breaks(backend):
    if backend == "inductor" and not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("inductor needs a C++ compiler (apt install g++)")
    inputs = problem()
    compiled = torch.compile(ensemble_crps, fullgraph=True, backend=backend)
    assert_same(with_gradient(compiled, *inputs, 2), with_gradient(ensemble_crps, *inputs, 2), 1e-14)


def test_same_bits_twice_and_one_byte_kept_for_each_member():
    inputs = [t.float() for t in problem((48, 4, 4, 8), 8)]
    h_BMLPO = inputs[0].requires_grad_()
    results = []
    for _ in range(2):
        loss, saved = saved_bytes(lambda: ensemble_crps(*inputs, 4)[0], besides=[inputs[2]])
        assert h_BMLPO.numel() < saved < 1.01 * h_BMLPO.numel()  # the members and the target are not among them
        results.append((loss, torch.autograd.grad(loss, h_BMLPO, retain_graph=True)[0]))
        assert torch.equal(torch.autograd.grad(loss, h_BMLPO)[0], results[-1][1])
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    with torch.no_grad():
        assert ensemble_crps(*inputs, 4)[0] == results[0][0]


def test_pair_weight_and_codes():
    assert pair_weight(8, 1.0) == 1 / 56
    assert pair_weight(8, 0.0) == pytest.approx(1 / 64)
    assert pair_weight(1, 0.5) == 0
    assert broken_code(torch.int8) == -128


def test_refusals():
    h_BMLPO, y_BOHW, weight_H = problem()
    with pytest.raises(ValueError, match="not made of whole 4×4 patches"):
        ensemble_crps(h_BMLPO, y_BOHW, weight_H, 4)
    with pytest.raises(ValueError, match=r"head output has shape .*, the targets ask for \(2, members, 15, 20\)"):
        ensemble_crps(h_BMLPO[..., 1:], y_BOHW, weight_H, 2)
    with pytest.raises(ValueError, match="head output has shape"):
        ensemble_crps(h_BMLPO[:, 0], y_BOHW, weight_H, 2)
    with pytest.raises(ValueError, match="differ in shape"):
        ensemble_crps_of_fields(y_BOHW, y_BOHW, weight_H)
    with pytest.raises(ValueError, match="latitude weights have shape"):
        ensemble_crps(h_BMLPO, y_BOHW, weight_H[1:], 2)
    with pytest.raises(ValueError, match="0 members: must be from 1 to"):
        ensemble_crps(h_BMLPO[:, :0], y_BOHW, weight_H, 2)
    for alpha in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"alpha = .*: must be from 0 \(plain CRPS\) to 1 \(fair CRPS\)"):
            ensemble_crps(h_BMLPO, y_BOHW, weight_H, 2, alpha=alpha)
