"""`train.deterministic`: in force before the GPU is used, restored after; every operator has a deterministic form."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from climax_hpc.errors import UserError
from climax_hpc.model.build import build_network
from climax_hpc.model.config import ModelConfig
from climax_hpc.training.determinism import WORKSPACE, deterministic_algorithms

from .conftest import train_here

# Operators that have no deterministic form on a GPU (torch.use_deterministic_algorithms) by the start of their name.
REFUSED = (
    "avg_pool3d_backward", "_adaptive_avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "fractional_max_pool",
    "max_unpool", "upsample_linear", "upsample_bilinear", "upsample_bicubic", "upsample_trilinear", "_upsample_bi",
    "reflection_pad", "nll_loss", "_ctc_loss", "_embedding_bag", "put", "histc", "bincount", "median", "kthvalue",
    "grid_sampler", "cumsum", "cumprod", "scatter_reduce",
)  # fmt: skip
NAMES = ("orography", "geopotential_500", "2m_temperature", "u_component_of_wind_850")
SMALL = {"variables": NAMES, "height": 16, "width": 16, "embed_dim": 8, "depth": 1}


def state() -> tuple[Any, ...]:
    cudnn = torch.backends.cudnn
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,
    )


class Operators(TorchDispatchMode):
    """Collects the names of operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


def test_in_force_before_the_process_group_and_the_device(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses on a CPU are the same bits."""
    monkeypatch.setenv(WORKSPACE, "")  # so that it is removed afterwards
    monkeypatch.delenv(WORKSPACE)
    seen: list[tuple[Any, ...]] = []
    connect = torch.distributed.is_initialized
    monkeypatch.setattr(
        torch.distributed, "is_initialized", lambda: (seen.append((*state(), os.environ.get(WORKSPACE))), connect())[1]
    )
    before = state()
    losses = {}
    for deterministic in (False, True):
        settings["train"]["deterministic"] = deterministic
        settings["run_folder"] = str(tmp_path / str(deterministic))
        seen.clear()
        with Operators() as ran:
            losses[deterministic] = train_here(settings, tmp_path)
        assert "convolution_backward" in ran.names or "mm" in ran.names  # the backward pass is seen
        assert not [name for name in ran.names if name.startswith(REFUSED)]
        assert set(seen) == {(True, False, True, False, False, ":4096:8") if deterministic else (*before, None)}
        assert state() == before
        assert WORKSPACE not in os.environ
    assert losses[True] == losses[False]


def test_a_work_space_that_is_not_deterministic_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, ":0:0")
    line = "CUBLAS_WORKSPACE_CONFIG=':0:0': use one of :4096:8, :16:8, or unset it"
    with pytest.raises(UserError, match=line), deterministic_algorithms(True):
        raise AssertionError


@pytest.mark.parametrize("given", [None, ":16:8"])
def test_the_work_space_is_as_before_after_the_block(monkeypatch: pytest.MonkeyPatch, given: str | None) -> None:
    monkeypatch.setenv(WORKSPACE, given or "")
    if given is None:
        monkeypatch.delenv(WORKSPACE)
    with deterministic_algorithms(True):
        assert os.environ[WORKSPACE] == (given or ":4096:8")
    assert os.environ.get(WORKSPACE) == given


@pytest.mark.parametrize("kind", ["climax", "linear", "resnet", "unet", "projection"])
def test_every_operator_of_a_step_has_a_deterministic_form(kind: str) -> None:
    config = ModelConfig(**{
        "climax": SMALL | {"heads": 2},
        "projection": SMALL | {"heads": 2, "variables": NAMES[2:], "years": 2, "projected": NAMES[1:2]},
    }.get(kind, SMALL | {"kind": kind}))  # fmt: skip
    network = build_network(config)
    shape = (2, config.years) if config.years else (2,)
    x = torch.randn(*shape, len(config.variables), 16, 16)
    outputs = config.projected or NAMES[1:3]
    with Operators() as ran:
        network(x, torch.tensor([6.0, 72.0]), config.variables, outputs).square().mean().backward()
    assert "convolution_backward" in ran.names or "mm" in ran.names  # the backward pass is seen
    assert not [name for name in ran.names if name.startswith(REFUSED)]
