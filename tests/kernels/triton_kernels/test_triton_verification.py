"""The Triton sums of an evaluation against the textbook form in float64."""

import pytest
import torch

from climax_hpc.kernels.testing import relative_error, scatter_missing, triton_device
from climax_hpc.kernels.verification_sums.launch_triton import verification_sums_triton
from climax_hpc.kernels.verification_sums.reference import verification_sums_reference

TOLERANCE = 1e-6  # float32 sums of at most 4096 terms of one sign, added in blocks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(1, 1, 1, 1), (3, 5, 7, 9), (2, 2, 90, 71)], ids=str)
def test_verification_sums(size, dtype):
    """One cell; a part of one tile; two parts, the second not full. Gaps in truth and climatology."""
    draw = torch.Generator().manual_seed(0)
    forecast, truth, climatology = torch.randn(3, *size, generator=draw).to(dtype)
    truth, climatology = scatter_missing(truth, 1), scatter_missing(climatology.flip(0), 1).flip(0)
    forecast = forecast.masked_fill(truth.isnan(), torch.nan)
    inputs = (forecast, truth, climatology, torch.rand(size[2], generator=draw) + 0.1)
    sums_SBO = verification_sums_triton(*(t.to(triton_device()) for t in inputs)).cpu()
    truth_SBO = verification_sums_reference(*(t.double() for t in inputs))
    assert sums_SBO.dtype == torch.float64
    for mine, theirs in zip(sums_SBO, truth_SBO, strict=True):
        assert relative_error(mine, theirs) < TOLERANCE

    forecast, truth, _, weight_H = (t.to(triton_device()) for t in inputs)
    sums_SBO = verification_sums_triton(forecast, truth, None, weight_H).cpu()
    truth_SBO = verification_sums_reference(*(t.double() for t in (*inputs[:2], climatology.nan_to_num(), inputs[3])))
    assert len(sums_SBO) == 4
    for mine, theirs in zip(sums_SBO, truth_SBO[:4], strict=True):
        assert relative_error(mine, theirs) < TOLERANCE


def test_refusals():
    field_BOHW = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match=r"a field in torch\.float64: the Triton kernel takes float32, bfloat16"):
        verification_sums_triton(field_BOHW.double(), field_BOHW, None, torch.ones(2))
