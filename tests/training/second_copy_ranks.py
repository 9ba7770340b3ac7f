"""One rank of test_second_copy.py: prints {case: result} of three steps at ZeRO stage 3.

Argument: {case: {"hpz", "sequence", "precision", "kind"}}. Of every case: losses, a hash of the weights, bytes of all
parameters, and bytes that the last step gathered, by the size of the group. DeepSpeed partitions every tensor here, and
keeps none until it is needed again, as for a model of many billions.
"""

import json
import os
import sys
from collections import Counter
from hashlib import sha256
from typing import Any

import torch

from climax_hpc.config.training import OptimizerConfig, TrainConfig
from climax_hpc.distributed import process_group
from climax_hpc.distributed.launcher import World
from climax_hpc.distributed.replicas import replica_of
from climax_hpc.model.band import share
from climax_hpc.model.config import ModelConfig
from climax_hpc.training import deepspeed_engine

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from sequence_ranks import SIZES, VARIABLES, cut, micro_batch, network, step

PASSES = 2
GATHERED: Counter[int] = Counter()


def partition_all() -> None:
    """Change what DeepSpeed does by default with small models."""
    usual = deepspeed_engine.deepspeed_config

    def changed(*arguments: Any) -> dict[str, Any]:
        config = usual(*arguments)
        config["zero_optimization"] |= dict.fromkeys(("stage3_max_live_parameters", "stage3_max_reuse_distance"), 1) | {
            "stage3_param_persistence_threshold": 0
        }
        return config

    deepspeed_engine.deepspeed_config = changed


def count_gathers() -> None:
    """Count what every collective of parameters gathers."""
    usual = torch.distributed.all_gather_into_tensor

    def counted(output_tensor: Any, input_tensor: Any, group: Any = None, **options: Any) -> Any:
        GATHERED[torch.distributed.get_world_size(group)] += output_tensor.nbytes
        return usual(output_tensor, input_tensor, group=group, **options)

    torch.distributed.all_gather_into_tensor = counted


def train(world: World, case: dict[str, Any]) -> list[Any]:
    """Three steps; a loss without gradients after each, as in a validation."""
    config = ModelConfig(variables=VARIABLES, **SIZES)
    weight_H = torch.linspace(0.5, 1.5, config.height)
    replica, built, losses = replica_of(world, case.get("sequence", 1)), network(config), []
    if replica.band:
        share(built, replica.band)
    settings = TrainConfig(zero_stage=3, zero_hpz=case["hpz"], precision=case.get("precision", "float32"))
    with deepspeed_engine.torch_functions_restored():
        engine = deepspeed_engine.build_engine(
            built, train=settings, optimizer=OptimizerConfig(kind=case.get("kind", "adamw")),
            micro_batch_size=2, micro_batches_per_rank=PASSES,
        )  # fmt: skip
        deepspeed_engine.set_learning_rate(engine, 1e-2)
        for number in range(3 * PASSES):
            if number % PASSES == 0:
                GATHERED.clear()
            batch = micro_batch(config, number * replica.count + replica.number, 1)
            loss = step(engine, cut(batch, replica.band), weight_H, number, {})
            engine.backward(loss)
            engine.step()
            losses.append(loss.item())
            if number == PASSES:  # amid the passes of a step, and after another one
                with torch.no_grad():
                    losses.append(step(engine, cut(batch, replica.band), weight_H, number, {}).item())
        gathered = {str(size): count for size, count in GATHERED.items()}
        size = sum(p.ds_numel_aligned * p.element_size() for p in engine.module.parameters())
        weights = deepspeed_engine.full_weights(engine)
    content = b"".join(weight.numpy().tobytes() for weight in weights.values())
    return [losses, sha256(content).hexdigest(), size, gathered]


if __name__ == "__main__":
    world = process_group.connect()
    partition_all()
    count_gathers()
    results = {name: train(world, case) for name, case in json.loads(sys.argv[1]).items()}
    if world.is_first:
        print(json.dumps(results))
    process_group.disconnect()
    sys.stdout.flush()
    os._exit(0)  # as in reduce_gradients.py
