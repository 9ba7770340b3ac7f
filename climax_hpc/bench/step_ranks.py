"""One rank of `climax-hpc bench step`: training steps of ours and of the textbook under DDP, in turn, with random data.

Rank 0 prints {"seconds": {form: […]}, "peak_bytes": {form: …}, "checkpoint_seconds": …} as its last line.
Dimensions: B samples · V input variables · O output variables · H, W grid.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from climax_hpc import dist
from climax_hpc.checkpoint import About
from climax_hpc.checkpoint_writer import save
from climax_hpc.config import OptimConfig, TrainConfig
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.kernels.benchmarking import interleaved
from climax_hpc.model.config import ModelConfig
from climax_hpc.model.reference import TextbookClimaX
from climax_hpc.optim import adamw
from climax_hpc.plan.measure import Batch, Step, engine_step, peak_of
from climax_hpc.training_state import TrainingState
from climax_hpc.variables import lookup

_OPTIM = OptimConfig()


def ddp_textbook(config: ModelConfig, group_size: int) -> tuple[Step, Any]:
    """A training step of the textbook model under plain DDP, with the same optimiser, clipping and batch."""
    model = DistributedDataParallel(TextbookClimaX(config).train())
    optimiser, batch = adamw(model, _OPTIM), Batch(config, group_size)

    def step() -> None:
        batch.loss(model).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), _OPTIM.gradient_clipping)
        optimiser.step()
        optimiser.zero_grad()

    return step, model


def on_all_ranks(step: Step) -> Step:
    """The step, over once every rank has made it."""

    def run() -> None:
        step()
        torch.distributed.barrier()

    return run


def checkpoint_seconds(engine: Any, config: ModelConfig) -> float:
    """Time for which all ranks wait while one checkpoint is written, hashed, flushed and renamed."""
    units = dict.fromkeys(config.variables, 1.0)
    normalisation = Normalisation(mode="full", mean=units, std=units, anomaly_std={}, lead_hours=[], r={}, s={})
    about = About(
        step=1, config=config, normalisation=normalisation, in_variables=config.variables,
        out_variables=tuple(v for v in config.variables if not lookup(v).static),
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="climax-hpc-bench-") as own:
        folder = [own]
        torch.distributed.broadcast_object_list(folder)
        torch.distributed.barrier()
        start = time.perf_counter()
        state = TrainingState(step=1, ranks=torch.distributed.get_world_size())
        save(Path(folder[0]), engine=engine, ema=None, about=about, state=state, keep=1, keep_best=0)
        torch.distributed.barrier()
        return time.perf_counter() - start


def main() -> None:
    """One request as JSON."""
    request = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    world = dist.connect()
    config = ModelConfig(**request["model"])
    torch.manual_seed(0)
    result: dict[str, Any] = {"peak_bytes": {}}
    train, B = TrainConfig(**request["train"]), request["group_size"]
    step, engine, result["peak_bytes"]["ours"] = peak_of(
        lambda: engine_step(config, train, B, request["groups_per_rank"])
    )
    steps = {"ours": step}
    if request.get("textbook"):
        steps["ddp_textbook"], _, result["peak_bytes"]["ddp_textbook"] = peak_of(lambda: ddp_textbook(config, B))
    waited = {name: on_all_ranks(step) for name, step in steps.items()}
    result["seconds"] = interleaved(waited, request["repeats"], before=torch.distributed.barrier)
    if request.get("checkpoint"):
        result["checkpoint_seconds"] = checkpoint_seconds(engine, config)
    if world.is_first:
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
