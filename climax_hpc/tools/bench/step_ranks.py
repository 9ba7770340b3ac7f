"""One rank of `climax-hpc bench step`: alternating training steps of ours and of the textbook model under DDP.

Both start from the same weights and draw the same dropout masks, so their losses must agree at every step.
Rank 0 prints {"losses": {form: […]}, "seconds": {form: […]}, "peak_bytes": {form: …}, "checkpoint_seconds": …} as its
last line.
Dimensions: B samples · V input variables · O output variables · H, W grid.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from climax_hpc.checkpoint.metadata import CheckpointMetadata
from climax_hpc.config.training import OptimizerConfig, TrainConfig
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.distributed import process_group
from climax_hpc.fields.variables import lookup
from climax_hpc.kernels.benchmarking import interleaved
from climax_hpc.model.config import ModelConfig
from climax_hpc.model.reference import TextbookClimaX
from climax_hpc.tools.plan.measure import RandomBatch, Step, engine_step, peak_of
from climax_hpc.training.checkpoint_writer import CheckpointWriter
from climax_hpc.training.optimizer import adamw
from climax_hpc.training.save import save
from climax_hpc.training.state import TrainingState

_OPTIM = OptimizerConfig()


def ddp_textbook(config: ModelConfig, micro_batch_size: int) -> tuple[Step, Any]:
    """A training step of the textbook model under DDP, with the same optimiser, clipping and batch."""
    model = DistributedDataParallel(TextbookClimaX(config).to(process_group.device()).train())
    optimiser, batch = adamw(model, _OPTIM), RandomBatch(config, micro_batch_size)

    def step() -> Tensor:
        loss = batch.loss(model)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), _OPTIM.gradient_clipping)
        optimiser.step()
        optimiser.zero_grad()
        return loss.detach()

    return step, model


class Form:
    """One of the compared implementations; a call runs one reproducible step on all ranks."""

    def __init__(self, build: Callable[[], tuple[Step, Any]]) -> None:
        self.losses: list[float] = []
        torch.manual_seed(0)
        self._step, self.owner, self.peak_bytes = peak_of(lambda: self._repeatable(*build()))

    def _repeatable(self, step: Step, owner: Any) -> tuple[Step, Any]:
        def run() -> Tensor:
            torch.manual_seed(len(self.losses))  # dropout of the step
            loss = step()
            self.losses.append(loss.item())
            return loss

        return run, owner

    def __call__(self) -> None:
        self._step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        torch.distributed.barrier()


def checkpoint_seconds(engine: Any, config: ModelConfig) -> float:
    """Time that all ranks wait while one checkpoint is written, hashed, synced and renamed [s]."""
    units = dict.fromkeys(config.variables, 1.0)
    normalisation = Normalisation(mode="full", mean=units, std=units, anomaly_std={}, lead_hours=[], r={}, s={})
    metadata = CheckpointMetadata(
        step=1, config=config, normalisation=normalisation, in_variables=config.variables,
        out_variables=tuple(v for v in config.variables if not lookup(v).static),
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="climax-hpc-bench-") as own:
        folder = [own]
        torch.distributed.broadcast_object_list(folder)
        torch.distributed.barrier()
        start = time.perf_counter()
        state = TrainingState(step=1, ranks=torch.distributed.get_world_size())
        writer = CheckpointWriter(in_background=False)
        save(
            Path(folder[0]), engine=engine, ema=None, metadata=metadata, state=state, keep=1, keep_best=0, writer=writer
        )
        torch.distributed.barrier()
        return time.perf_counter() - start


def main() -> None:
    """Run the request given as JSON."""
    request = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    world = process_group.connect()
    config = ModelConfig(**request["model"])
    train, B = TrainConfig(**request["train"]), request["micro_batch_size"]
    forms = {"ours": Form(lambda: engine_step(config, train, B, micro_batches_per_rank=1))}
    if request.get("textbook"):
        forms["ddp_textbook"] = Form(lambda: ddp_textbook(config, B))
    result: dict[str, Any] = {
        "seconds": interleaved(forms, request["repeats"], before=torch.distributed.barrier),
        "losses": {name: form.losses for name, form in forms.items()},
        "peak_bytes": {name: form.peak_bytes for name, form in forms.items()},
    }
    if request.get("checkpoint"):
        result["checkpoint_seconds"] = checkpoint_seconds(forms["ours"].owner, config)
    if world.is_first:
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
