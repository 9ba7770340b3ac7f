"""Index tensors: made once, usable in training whoever asked first, constants of compiled code."""

import warnings

import torch

from climax_hpc.model.indices import index_tensor

CPU = torch.device("cpu")


def test_equal_indices_are_one_tensor() -> None:
    assert index_tensor([3, 1], CPU) is index_tensor((3, 1), CPU)
    assert index_tensor([3, 1], CPU).tolist() == [3, 1]
    assert index_tensor([], CPU).dtype == torch.int64


def test_indices_of_a_forecast_serve_training() -> None:
    with torch.inference_mode():
        index_tensor([4, 2], CPU)
    x = torch.arange(5.0, requires_grad=True)
    (x.index_select(0, index_tensor([4, 2], CPU)) ** 2).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 4, 0, 8]


def test_compiled_code_holds_them() -> None:
    compiled = torch.compile(
        lambda x: x.index_select(0, index_tensor([2, 0], x.device)), backend="eager", fullgraph=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compiled(torch.arange(3.0)).tolist() == [2, 0]
