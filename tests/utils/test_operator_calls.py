"""Counted operators, fused kernels and host waits of code whose calls are known."""

import pytest
import torch

from climax_hpc.utils.operator_calls import OperatorCalls, counted_kernels


def test_views_are_calls_but_no_kernels() -> None:
    x = torch.ones(2, 3)
    with OperatorCalls() as counter:
        x.t().exp().unsqueeze(0)
        torch.empty(3)
    assert counter.calls == {"t": 1, "exp": 1, "unsqueeze": 1, "empty": 1}
    assert +counter.kernels == {"exp": 1}
    assert not counter.waits
    x.exp()
    assert counter.calls["exp"] == 1


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(), lambda x: bool(x[0] > 0), lambda x: float(x[0]), lambda x: x.tolist(),
        lambda x: x.cpu(), lambda x: x[x > 0], lambda x: x.nonzero(), lambda x: torch.tensor(1.0, device=x.device),
    ],
)  # fmt: skip
def test_host_waits(wait: object) -> None:
    x = torch.ones(3)
    with OperatorCalls() as counter:
        x.mul_(2)
        wait(x)  # type: ignore[operator]
    assert counter.waits.total() == 1


@pytest.mark.slow
def test_fused_kernels_of_compiled_code() -> None:
    function = torch.compile(lambda x, w: (x.sin() * 2 + 1) @ w)
    x, w = torch.ones(4, 4), torch.ones(4, 4)
    with counted_kernels(), OperatorCalls() as counter:
        function(x, w)
        counter.clear()
        function(x, w)
    assert +counter.kernels == {"compiled": 1, "mm": 1}
