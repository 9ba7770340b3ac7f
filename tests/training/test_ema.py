"""The moving average of the weights, by hand."""

from types import SimpleNamespace

import pytest
import torch

from climax_hpc.distributed import process_group
from climax_hpc.training.ema import Ema


def test_moving_average() -> None:
    process_group.connect()
    model = torch.nn.Linear(1, 1, bias=False)
    engine = SimpleNamespace(module=model, zero_optimization_stage=lambda: 0)
    torch.nn.init.constant_(model.weight, 1.0)
    ema = Ema(engine, 0.9)
    torch.nn.init.constant_(model.weight, 2.0)
    ema.update(engine, 0)  # rate 1 - 1/10
    assert ema.weights(engine)["weight"].item() == pytest.approx(1.9)
    ema.update(engine, 1000)  # rate 1 - 0.9
    assert ema.weights(engine)["weight"].item() == pytest.approx(1.91)
    assert model.weight.item() == 2.0
