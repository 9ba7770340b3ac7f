"""One rank of test_sequence_parallel.py: prints {case: [loss, distance, ratios]} of plain gradient steps in a layout.

Argument: {case: {"sequence", "stage", "model", "train", "rollout", "members"}}. Of every case: relative error of the
loss, relative distance of all updates from those of one process, smallest and largest ratio of the update of a
parameter to the right one. AdamW hides a wrong scale of the gradients, a step of plain gradient descent does not.
"""

import json
import os
import sys
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from climax_hpc.config.training import OptimizerConfig, TrainConfig
from climax_hpc.data.batches import Batch
from climax_hpc.distributed import process_group
from climax_hpc.distributed.launcher import World
from climax_hpc.distributed.replicas import replica_of
from climax_hpc.model.band import RowBand, share
from climax_hpc.model.build import build_network
from climax_hpc.model.config import ModelConfig
from climax_hpc.training import deepspeed_engine
from climax_hpc.training.loss import Members, batch_loss

VARIABLES = ("2m_temperature", "geopotential_500", "u_component_of_wind_850", "v_component_of_wind_850")
SIZES = {"height": 16, "width": 16, "patch": 2, "embed_dim": 16, "depth": 2, "heads": 4, "dropout": 0.1}
MICRO_BATCHES = 4


class Alone:
    """What the loss needs of an engine, without DeepSpeed."""

    def __init__(self, network: nn.Module) -> None:
        self.module = network

    def __call__(self, *arguments: Any, **options: Any) -> Tensor:
        """The network's output."""
        return self.module(*arguments, **options)


def network(config: ModelConfig) -> nn.Module:
    """The same start on all ranks, with no gradient that is 0 by symmetry."""
    torch.manual_seed(0)
    built = build_network(config)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return built.train()


def micro_batch(config: ModelConfig, number: int, rollout: int) -> Batch:
    """Random fields with missing cells; one variable misses in the first half of the rows, or everywhere."""
    draw = torch.Generator().manual_seed(number)
    shape = (2, len(VARIABLES), config.height, config.width)
    x_BVHW, lead_B = torch.randn(shape, generator=draw), torch.tensor([6.0, 60.0])
    y_BKOHW = torch.randn((2, rollout, *shape[1:]), generator=draw)
    for fields in (x_BVHW, y_BKOHW):
        fields[torch.rand(fields.shape, generator=draw) < 0.1] = torch.nan
    y_BKOHW[0, :, 1, : config.height // 2] = torch.nan
    y_BKOHW[1, :, 2] = torch.nan
    return Batch(
        in_variables=VARIABLES, out_variables=VARIABLES, x_BVHW=x_BVHW, x_BTVHW=None, lead_hours_B=lead_B,
        y_BOHW=y_BKOHW[:, 0], skip_BOHW=None, r_BO=None, s_BO=None, y_BKOHW=y_BKOHW if rollout > 1 else None,
        variable_weight_O=torch.tensor([1.0, 2.0, 0.5, 1.0]), noise_keys=(2 * number, 2 * number + 1),
    )  # fmt: skip


def cut(batch: Batch, band: RowBand | None) -> Batch:
    """The batch with the rows of a band."""
    if band is None:
        return batch
    fields = {
        name: band.of_whole(field).contiguous()
        for name in ("x_BVHW", "y_BOHW", "y_BKOHW")
        if (field := getattr(batch, name)) is not None
    }
    return replace(batch, **fields, band=band)


def step(engine: Any, batch: Batch, weight_H: Tensor, number: int, case: dict[str, Any]) -> Tensor:
    """Loss of a micro-batch, with the dropout that belongs to it."""
    torch.manual_seed(number)
    return batch_loss(engine, batch, weight_H, Members(count=case.get("members", 1)))


def right(
    config: ModelConfig, weight_H: Tensor, case: dict[str, Any]
) -> tuple[float, dict[str, Tensor], dict[str, Tensor]]:
    """Mean loss of all micro-batches, the weights at the start, and the updates of one process."""
    alone = Alone(network(config))
    start = {name: p.detach().clone() for name, p in alone.module.named_parameters()}
    total = 0.0
    for number in range(MICRO_BATCHES):
        batch = micro_batch(config, number, case.get("rollout", 1))
        loss = step(alone, batch, weight_H, number, case) / MICRO_BATCHES
        loss.backward()
        total += loss.item()
    return total, start, {name: -p.grad for name, p in alone.module.named_parameters() if p.grad is not None}


def shared(world: World, case: dict[str, Any], config: ModelConfig, weight_H: Tensor) -> tuple[float, Any]:
    """Mean loss of all ranks and the weights after one step of this layout."""
    replica = replica_of(world, case["sequence"])
    built = network(config)
    if replica.band:
        share(built, replica.band)
    train = TrainConfig(zero_stage=case["stage"], **case.get("train", {}))
    per_rank = MICRO_BATCHES // replica.count
    with deepspeed_engine.torch_functions_restored():
        engine = deepspeed_engine.build_engine(
            built, train=train,
            optimizer=OptimizerConfig(gradient_clipping=0.0), micro_batch_size=2, micro_batches_per_rank=per_rank,
        )  # fmt: skip
        mean = torch.zeros(())
        for number in range(replica.number, MICRO_BATCHES, replica.count):
            batch = micro_batch(config, number, case.get("rollout", 1))
            loss = step(engine, cut(batch, replica.band), weight_H, number, case)
            engine.backward(loss)
            engine.step()
            mean += loss.detach() / per_rank
        return float(process_group.sum_over_ranks(mean)) / world.size, deepspeed_engine.full_weights(engine)


def compared(world: World, case: dict[str, Any]) -> list[float]:
    """Relative error of the loss, relative distance of the updates, smallest and largest ratio."""
    config = ModelConfig(variables=VARIABLES, **(SIZES | case.get("model", {})))
    weight_H = torch.linspace(0.5, 1.5, config.height)
    loss, weights = shared(world, case, config, weight_H)
    if not world.is_first:
        return []
    expected, start, updates = right(config, weight_H, case)
    ratios, wrong, size = [], 0.0, 0.0
    for name, update in updates.items():
        u, v = update.double().flatten(), (weights[name] - start[name]).double().flatten()
        wrong, size = wrong + float((v - u).square().sum()), size + float(u.square().sum())
        if u.norm() > 1e-5:  # less is rounding of the weights
            ratios.append(float(u @ v / (u @ u)))
    return [abs(loss / expected - 1), (wrong / size) ** 0.5, min(ratios), max(ratios)]


if __name__ == "__main__":
    deepspeed_engine.build_optimizer = lambda model, _: torch.optim.SGD(model.parameters(), lr=1.0)
    torch.set_num_threads(1)
    process = process_group.connect()
    found = {name: compared(process, case) for name, case in json.loads(sys.argv[1]).items()}
    if process.is_first:
        print(json.dumps(found))
    # DeepSpeed's engines hold gloo's threads, whose teardown at exit now and then aborts a rank that is done.
    process_group.disconnect()
    sys.stdout.flush()
    os._exit(0)
