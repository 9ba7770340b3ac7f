"""dtype of the image in the aggregation kernels, by device and by the network's dtype."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from climax_hpc.model.aggregator import VariableAggregator, product_dtype

# Device, weights -> image of the products: a GPU takes the network's type, a processor computes in float32.
CASES = [
    ("cuda", torch.float32, torch.float32),
    ("cuda", torch.bfloat16, torch.bfloat16),
    ("cuda", torch.float16, torch.float16),
    ("cuda", torch.float64, torch.float64),
    ("cpu", torch.bfloat16, torch.float32),
    ("cpu", torch.float64, torch.float64),
]


@pytest.mark.parametrize(("device", "weights", "expected"), CASES)
def test_type_of_the_products(device, weights, expected):
    """With fake tensors, which need no GPU."""
    with FakeTensorMode():
        x_BVHW = torch.empty(1, 3, 4, 4, device=device)
    assert product_dtype(x_BVHW, torch.promote_types(weights, torch.float32), weights) == expected


def test_autocast_counts_as_the_networks_type(monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda")
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: torch.float16)
    with FakeTensorMode():
        x_BVHW = torch.empty(1, 3, 4, 4, device="cuda")
        assert product_dtype(x_BVHW, torch.float32, torch.float32) == torch.float16
        assert product_dtype(x_BVHW.double(), torch.float32, torch.float32) == torch.float64
        assert product_dtype(x_BVHW.cpu(), torch.float32, torch.float32) == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_have_the_type_of_the_weights(dtype):
    z_BLD = VariableAggregator(3, 2, 8, 2).to(dtype)(torch.zeros(1, 3, 4, 4), range(3))
    assert z_BLD.dtype == dtype


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device")
def test_bfloat16_network_on_a_gpu_is_as_near_as_on_a_processor():
    torch.manual_seed(0)
    module = VariableAggregator(5, 2, 64, 2)
    torch.nn.init.normal_(module.query)
    x_BVHW = torch.randn(2, 5, 8, 8)
    truth = module.double()(x_BVHW.double(), range(5))
    z_BLD = module.to("cuda", torch.bfloat16)(x_BVHW.cuda(), range(5)).cpu().double()
    assert (z_BLD - truth).norm() < 1e-2 * truth.norm()
