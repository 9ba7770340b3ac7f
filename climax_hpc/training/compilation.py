"""Compiles the transformer blocks with torch.compile: one graph for all of them, whatever their number and rates."""

import torch
from torch import Tensor, nn

from climax_hpc.config.training import TrainConfig, require
from climax_hpc.distributed import process_group
from climax_hpc.model.climax import Encoder


def compile_network(network: nn.Module, train: TrainConfig) -> None:
    """Compile blocks and embedding if `train.compile` is true, or if it is null on a GPU and every rank can compile.

    Weights and rates are inputs of the graph, so that all blocks share it; another size of micro-batch makes one more,
    for any further size. Baselines have no such blocks: they are compiled whole, and only if asked to.

    Raises:
        UserError: train.compile is true, and a rank cannot compile.
    """
    device, is_climax = process_group.device(), isinstance(network, Encoder)
    by_default = device.type != "cpu" and train.zero_stage < 3 and train.sequence_parallel == 1 and is_climax
    if not (by_default if train.compile is None else train.compile):
        return
    torch.compiler.reset()  # graphs of earlier networks count towards the limit of a function's graphs
    problem = compiler_problem(device)
    if train.compile:
        process_group.on_all(lambda: require(problem is None, f"train.compile: {problem}; or set it to false"))
    elif process_group.sum_over_ranks(torch.tensor(int(problem is not None))):
        if problem is not None:
            print(f"train.compile: the blocks are not compiled: {problem}", flush=True)
        return
    if not isinstance(network, Encoder):
        network.compile()
        return
    parts = network.blocks if network.config.blocks == "conv" else (network.pos_drop, *network.blocks)
    for part in parts:
        part.compile()  # one graph (tests/model); past torch's limit of graphs for a function, eager goes on


def compiler_problem(device: torch.device) -> str | None:
    """Why torch.compile does not work here, and the fix; None if it does: a small function is compiled for this."""
    try:
        torch.compile(_some_arithmetic, fullgraph=True, options={"fx_graph_cache": False})(
            torch.zeros(8, device=device)
        )
    except Exception as error:  # whatever compilers, drivers and caches raise
        tools = "g++" if device.type == "cpu" else "Triton and gcc"
        return f"torch.compile fails on this machine ({str(error).strip().splitlines()[0]}): install {tools}"
    return None


def _some_arithmetic(x: Tensor) -> Tensor:
    return x.sin() * 1.5
