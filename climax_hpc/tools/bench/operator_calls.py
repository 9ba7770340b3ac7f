"""Operator calls and host waits of one training step, counted on the CPU.

python -m climax_hpc.tools.bench.operator_calls

Prints {"eager": {"calls": …, "kernels": …, "waits": …, "by_operator": {…}, "waiting": {…}}, "compiled": {…}}: all
calls, those among them that start a kernel (no views, no allocations), and those for which the host would wait. The
step is the training loop's: forward, loss, backward, guard, optimiser, with the precision and stage of the 108 M recipe
on one rank. The width is smaller, which changes no call.
"""

import argparse
import json
from typing import Any

import torch

import climax_hpc.training.optimizer
from climax_hpc.config.training import OptimizerConfig, TrainConfig
from climax_hpc.data.sampler import MicroBatch
from climax_hpc.distributed import process_group
from climax_hpc.model.climax import ClimaXNetwork
from climax_hpc.model.config import ModelConfig
from climax_hpc.tools.plan.measure import RandomBatch
from climax_hpc.training.compilation import compile_network
from climax_hpc.training.deepspeed_engine import build_engine, set_learning_rate, torch_functions_restored
from climax_hpc.training.step_guard import StepGuard
from climax_hpc.utils.operator_calls import OperatorCalls, counted_kernels

B = 2


def count(config: ModelConfig, train: TrainConfig) -> OperatorCalls:
    """Calls of the third step: the first one creates AdamW's moments and compiles."""
    torch.manual_seed(train.seed)
    model = ClimaXNetwork(config).to(process_group.device()).train()
    compile_network(model, train)
    optimizer = OptimizerConfig()
    engine = build_engine(model, train=train, optimizer=optimizer, micro_batch_size=B, micro_batches_per_rank=1)
    guard = StepGuard(engine, micro_batches=1, rank=0, check_gradients=train.precision != "float16")
    batch = RandomBatch(config, B)
    counter = OperatorCalls()
    with counted_kernels(), counter:
        for step in range(3):
            counter.clear()
            set_learning_rate(engine, optimizer.lr)
            loss = batch.loss(engine)
            engine.backward(loss)
            guard.add(MicroBatch(source="random", key=step, samples=()), loss)
            guard.check(step, stop=False)
            engine.step()
    engine.destroy()
    return counter


def main() -> None:
    """Print the counts as JSON."""
    parser = argparse.ArgumentParser(prog="python -m climax_hpc.tools.bench.operator_calls", description=__doc__)
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--zero-stage", type=int, default=1, choices=(0, 1, 2, 3))
    parser.add_argument("--embed-dim", type=int, default=64)
    parser.add_argument("--depth", type=int, default=ModelConfig().depth)
    parser.add_argument("--eager-only", action="store_true", help="do not compile")
    options = parser.parse_args()
    process_group.connect()
    climax_hpc.training.optimizer.fused = lambda: True  # AdamW as on a GPU
    torch.set_num_threads(1)
    config = ModelConfig(embed_dim=options.embed_dim, depth=options.depth)
    found: dict[str, Any] = {}
    for form in ("eager",) if options.eager_only else ("eager", "compiled"):
        train = TrainConfig(precision=options.precision, zero_stage=options.zero_stage, compile=form == "compiled")
        with torch_functions_restored():
            counter = count(config, train)
        found[form] = {
            "calls": counter.calls.total(), "kernels": counter.kernels.total(), "waits": counter.waits.total(),
            "by_operator": dict(counter.kernels.most_common()), "waiting": dict(counter.waits),
        }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
