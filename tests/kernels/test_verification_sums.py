"""The sums of an evaluation against their textbook form, with missing cells and any division into blocks."""

import pytest
import torch
from torch import Tensor

from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_error
from climax_hpc.kernels.testing import relative_error, scatter_missing
from climax_hpc.kernels.verification_sums import cpu
from climax_hpc.kernels.verification_sums.op import VerificationSums, verification_sums
from climax_hpc.kernels.verification_sums.reference import NAMES, verification_sums_reference

SIZES = [(1, 1, 1, 1), (3, 5, 7, 9), (2, 48, 32, 64)]  # B, O, H, W
TOLERANCE = 1e-13  # float64 sums of at most 2e3 terms of size 1


def fields(size, missing: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Forecast, truth and climatology, gaps in the latter two at different cells, and weights."""
    draw = torch.Generator().manual_seed(sum(size))
    forecast, truth, climatology = torch.randn(3, *size, generator=draw, dtype=torch.float64)
    if missing:
        truth, climatology = scatter_missing(truth, 1), scatter_missing(climatology.flip(0), 1).flip(0)
    return forecast, truth, climatology, torch.rand(size[2], generator=draw, dtype=torch.float64) + 0.1


def assert_same(ours: VerificationSums, truth_SBO: Tensor, tolerance: float = TOLERANCE) -> None:
    for name, mine, theirs in zip(NAMES, ours, truth_SBO, strict=True):
        assert mine is not None
        assert mine.dtype == torch.float64
        assert relative_error(mine, theirs) < tolerance, name


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_matches_textbook(size, missing):
    inputs = fields(size, missing)
    assert_same(verification_sums(*inputs), verification_sums_reference(*inputs))


def test_by_hand():
    """Weights 1 and 3; row 0: forecast 5, truth 3, climatology 1; row 1: 2, 3, 2; a third column is missing."""
    nan = torch.nan
    forecast = torch.tensor([[[[5.0, nan], [2.0, nan]]]])
    truth = torch.tensor([[[[3.0, nan], [3.0, nan]]]])
    climatology = torch.tensor([[[[1.0, 0.0], [2.0, nan]]]])
    sums = verification_sums(forecast, truth, climatology, torch.tensor([1.0, 3.0]))
    assert [float(t) for t in sums if t is not None] == [4, 2 - 3, 2 + 3, 4 + 3, 16 + 0, 4 + 3, 8 + 0]


def test_without_climatology_its_sums_are_absent_and_its_gaps_do_not_count():
    forecast, truth, climatology, weight_H = fields((3, 5, 7, 9))
    sums = verification_sums(forecast, truth, None, weight_H)
    assert sums[4:] == (None, None, None)
    complete = verification_sums_reference(forecast, truth, climatology.nan_to_num(), weight_H)
    for mine, theirs in zip(sums[:4], complete[:4], strict=True):
        assert mine is not None
        assert relative_error(mine, theirs) < TOLERANCE


@pytest.mark.parametrize("bytes_", [8, 8 * 9, 8 * 9 * 3, 8 * 9 * 7, 8 * 9 * 7 * 4], ids="{}B".format)
def test_no_division_into_blocks_changes_the_result(bytes_, monkeypatch):
    """Single rows, three rows and a rest, whole fields, several fields at once with a rest."""
    inputs = fields((3, 5, 7, 9))
    monkeypatch.setattr(cpu, "BLOCK_BYTES", bytes_)
    assert_same(verification_sums(*inputs), verification_sums_reference(*inputs))


def test_a_forecasts_sums_do_not_depend_on_the_batch():
    inputs = fields((3, 5, 7, 9))
    whole = verification_sums(*inputs)
    for b in range(3):
        alone = verification_sums(*(t[b : b + 1] for t in inputs[:3]), inputs[3])
        for mine, theirs in zip(alone, whole, strict=True):
            assert mine is not None
            assert theirs is not None
            assert torch.equal(mine[0], theirs[b])


def test_missing_cells_of_the_forecast_are_ignored_and_a_valid_nan_is_not():
    forecast, truth, climatology, weight_H = fields((3, 5, 7, 9))
    expected = verification_sums(forecast, truth, climatology, weight_H)
    missing = truth.isnan() | climatology.isnan()
    for anything in (torch.nan, torch.inf, -1e300):
        found = verification_sums(forecast.masked_fill(missing, anything), truth, climatology, weight_H)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))  # type: ignore[arg-type]
    broken = verification_sums(torch.full_like(forecast, torch.nan), truth, climatology, weight_H)
    assert broken.square_BO.isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_fields_are_summed_in_float64(dtype):
    inputs = tuple(t.to(dtype) for t in fields((2, 48, 32, 64)))
    assert_same(verification_sums(*inputs), verification_sums_reference(*(t.double() for t in inputs)))


def test_strided_fields():
    inputs = fields((3, 5, 7, 9))
    strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in inputs[:3]]
    assert_same(verification_sums(*strided, inputs[3]), verification_sums_reference(*inputs))


@pytest.mark.parametrize("kind", ["mse", "mae"])
def test_agree_with_the_loss(kind):
    forecast, truth, _, weight_H = fields((3, 5, 7, 9))
    sums = verification_sums(forecast, truth, None, weight_H)
    numerator_BO = sums.square_BO if kind == "mse" else sums.magnitude_BO
    _, loss_BO = lat_weighted_error(forecast, truth, weight_H, kind=kind)
    present = sums.area_BO > 0
    assert torch.equal(present, ~loss_BO.isnan())
    assert relative_error((numerator_BO / sums.area_BO)[present], loss_BO[present]) < TOLERANCE


def test_operator_registrations():
    operator = torch.ops.climax_hpc.verification_sums.default
    forecast, truth, climatology, weight_H = fields((3, 5, 7, 9))
    torch.library.opcheck(operator, (forecast, truth, climatology, weight_H))
    torch.library.opcheck(operator, (forecast.bfloat16(), truth.float(), None, weight_H))


def test_refusals():
    forecast, truth, climatology, weight_H = fields((3, 5, 7, 9))
    with pytest.raises(ValueError, match=r"forecast \(3, 5, 7, 9\) and truth \(3, 4, 7, 9\) differ in shape"):
        verification_sums(forecast, truth[:, 1:], climatology, weight_H)
    with pytest.raises(ValueError, match="and climatology"):
        verification_sums(forecast, truth, climatology[1:], weight_H)
    with pytest.raises(ValueError, match=r"latitude weights have shape \(6,\), the fields 7 rows"):
        verification_sums(forecast, truth, climatology, weight_H[1:])
