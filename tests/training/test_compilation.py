"""Which networks are compiled, and what happens on a machine that cannot compile."""

from typing import Any

import pytest
import torch
from torch import nn

from climax_hpc.config.training import TrainConfig
from climax_hpc.distributed import process_group
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import CLIMAX_48
from climax_hpc.model import ModelConfig, build_network
from climax_hpc.training import compilation
from climax_hpc.training.compilation import compile_network, compiler_problem

SIZE: dict[str, Any] = {
    "variables": tuple(v.name for v in CLIMAX_48[:5]), "height": 8, "width": 16, "patch": 4, "embed_dim": 8, "heads": 2,
    "depth": 2,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "climax": {},
    "regional": {"width": 12},
    "conv": {"blocks": "conv", "levels": 1, "depth": 2},
    "projection": {"years": 2, "projected": ("diurnal_temperature_range",)},
    "resnet": {"kind": "resnet"},
    "linear": {"kind": "linear"},
}


def compiled_parts(kind: str, device: str, monkeypatch: pytest.MonkeyPatch, **train: Any) -> tuple[list[str], str]:
    """Names of the modules of a network that are compiled on such a device, and the network's class."""
    process_group.connect()
    monkeypatch.setattr(process_group, "device", lambda: torch.device(device))
    network = build_network(ModelConfig(**(SIZE | KINDS[kind])))
    names = {module: name for name, module in network.named_modules()}
    found: list[str] = []

    def compile_module(module: nn.Module, **_: Any) -> None:
        found.append(names[module])

    monkeypatch.setattr(nn.Module, "compile", compile_module)
    compile_network(network, TrainConfig(**train))
    return found, type(network).__name__


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("device", "train", "compiles"),
    [
        ("cuda", {}, True), ("cuda", {"compile": False}, False), ("cuda", {"zero_stage": 2}, True),
        ("cuda", {"zero_stage": 3}, False), ("cuda", {"sequence_parallel": 2}, False),
        ("cpu", {}, False), ("cpu", {"compile": True}, True),
    ],
    ids=str,
)  # fmt: skip
def test_blocks_are_compiled_by_default_on_a_gpu(
    kind: str, device: str, train: dict[str, Any], compiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "compiler_problem", lambda device: None)
    found, name = compiled_parts(kind, device, monkeypatch, **train)
    if "ClimaX" in name:
        blocks = ["blocks.residual.0", "blocks.residual.1"] if kind == "conv" else ["pos_drop", "blocks.0", "blocks.1"]
        assert found == (blocks if compiles else [])
    else:
        assert found == ([""] if train.get("compile") else [])


def test_more_sizes_than_graphs_are_allowed_are_computed_without_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    process_group.connect()
    monkeypatch.setattr(compilation, "compiler_problem", lambda device: None)
    compile_module, graphs = nn.Module.compile, 0

    def count(graph: Any, inputs: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return graph.forward

    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: compile_module(self, backend=count, **how))
    network = build_network(ModelConfig(**SIZE)).eval()
    with torch._dynamo.config.patch(recompile_limit=2, automatic_dynamic_shapes=False), torch.no_grad():
        sizes = [torch.randn(batch, 8, 8) for batch in (1, 2, 3, 4)]
        eager = [network.blocks[0](z_BLD) for z_BLD in sizes]
        compile_network(network, TrainConfig(compile=True))
        assert all(torch.equal(network.blocks[0](z_BLD), one) for z_BLD, one in zip(sizes, eager, strict=True))
    assert graphs == 2
    torch.compiler.reset()


def test_a_machine_without_a_compiler_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "/bin/false"))
    problem = compiler_problem(torch.device("cpu"))
    assert problem
    assert problem.startswith("torch.compile fails on this machine (")
    assert problem.endswith("install g++")
    assert "\n" not in problem
    monkeypatch.setattr(compilation, "compiler_problem", lambda device: problem)
    with pytest.raises(UserError, match=r"train.compile: .* install g\+\+; or set it to false$"):
        compiled_parts("climax", "cuda", monkeypatch, compile=True)
    found, _ = compiled_parts("climax", "cuda", monkeypatch)
    assert found == []
    assert capsys.readouterr().out == f"train.compile: the blocks are not compiled: {problem}\n"
