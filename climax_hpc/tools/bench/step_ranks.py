"""One rank of `climax-hpc bench step`: alternating training steps of ours and of the textbook model under DDP.

Both start from the same weights and draw the same dropout masks, so their losses must agree at every step.
Rank 0 prints {"losses": {form: […]}, "seconds": {form: […]}, "peak_bytes": {form: …}, "pass_bytes": {form: those above
what is held between steps}, "processor_seconds": {form: those of a step on all ranks}, "checkpoint_seconds": {form:
[standing still, with steps]}} as its last line; with the `vit` of a request, that model is a form too and
flop_per_second is the rate of a plain matrix product. Its `plain` is a deterministic model, a form too.
Dimensions: B samples · V input variables · O output variables · H, W grid.
"""

import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
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
from climax_hpc.kernels.benchmarking import Machine, Stopwatch, interleaved
from climax_hpc.model.config import ModelConfig
from climax_hpc.model.reference import TextbookClimaX
from climax_hpc.tools.plan.measure import RandomBatch, Step, engine_step, held_and_peak_of
from climax_hpc.training.checkpoint_writer import CheckpointWriter
from climax_hpc.training.optimizer import adamw
from climax_hpc.training.save import save
from climax_hpc.training.state import TrainingState

_OPTIM = OptimizerConfig()
_CHECKPOINT_FORMS = ("background", "synchronous")


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
        self._processor_seconds: list[float] = []
        torch.manual_seed(0)
        self._step, self.owner, held, self.peak_bytes = held_and_peak_of(lambda: self._repeatable(*build()))
        self.pass_bytes = self.peak_bytes - held

    def _repeatable(self, step: Step, owner: Any) -> tuple[Step, Any]:
        def run() -> Tensor:
            torch.manual_seed(len(self.losses))  # dropout of the step
            loss = step()
            self.losses.append(loss.item())
            return loss

        return run, owner

    def processor_seconds(self) -> float:
        """Processor time of a step, all threads of all ranks; the median over the steps of each rank. A collective."""
        own = torch.tensor(statistics.median(self._processor_seconds), dtype=torch.float64)
        return float(process_group.sum_over_ranks(own.to(process_group.device())))

    def __call__(self) -> None:
        start = time.process_time()
        self._step()
        self._processor_seconds.append(time.process_time() - start)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        torch.distributed.barrier()


class Checkpoints:
    """Checkpoints of an engine, each followed by as many training steps as one takes to be written."""

    def __init__(self, form: Form, config: ModelConfig, folder: Path) -> None:
        units = dict.fromkeys(config.variables, 1.0)
        normalisation = Normalisation(mode="full", mean=units, std=units, anomaly_std={}, lead_hours=[], r={}, s={})
        self._metadata = CheckpointMetadata(
            step=1, config=config, normalisation=normalisation, in_variables=config.variables,
            out_variables=tuple(v for v in config.variables if lookup(v).can_be_forecast),
        )  # fmt: skip
        self._form, self._folder = form, folder
        self._writers = {name: CheckpointWriter(in_background=name == "background") for name in _CHECKPOINT_FORMS}

    def write(self, name: str, steps: int) -> tuple[float, float]:
        """Time that training stands still, and time until checkpoint and steps are done [s]."""
        writer = self._writers[name]
        state = TrainingState(step=1, ranks=torch.distributed.get_world_size())
        torch.distributed.barrier()
        start = time.perf_counter()
        save(
            self._folder, engine=self._form.owner, ema=None, metadata=self._metadata, state=state, keep=1, keep_best=0,
            writer=writer,
        )  # fmt: skip
        torch.distributed.barrier()
        stall = time.perf_counter() - start
        for _ in range(steps):
            self._form()
        writer.wait()
        torch.distributed.barrier()
        return stall, time.perf_counter() - start


def checkpoint_seconds(form: Form, config: ModelConfig, repeats: int, step_seconds: float) -> dict[str, list[float]]:
    """Median times of `Checkpoints.write`, by form, in turn; the first checkpoint is not counted."""
    with tempfile.TemporaryDirectory(prefix="climax-hpc-bench-") as own:
        checkpoints = Checkpoints(form, config, Path(process_group.from_first(lambda: own)))
        took = checkpoints.write("synchronous", 0)[0]
        steps = process_group.from_first(lambda: 1 + math.ceil(took / step_seconds))
        found = [{name: checkpoints.write(name, steps) for name in _CHECKPOINT_FORMS} for _ in range(repeats)]
    return {
        name: [statistics.median(turn[name][which] for turn in found) for which in (0, 1)] for name in _CHECKPOINT_FORMS
    }


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
    if vit := request.get("vit"):
        forms["vit"] = Form(lambda: engine_step(ModelConfig(**vit), train, B, micro_batches_per_rank=1))
    if plain := request.get("plain"):
        alone = replace(train, members=1)
        forms["plain"] = Form(lambda: engine_step(ModelConfig(**plain), alone, B, micro_batches_per_rank=1))
    result: dict[str, Any] = {
        "seconds": interleaved(forms, request["repeats"], before=torch.distributed.barrier),
        "losses": {name: list(form.losses) for name, form in forms.items()},
        "peak_bytes": {name: form.peak_bytes for name, form in forms.items()},
        "pass_bytes": {name: form.pass_bytes for name, form in forms.items()},
        "processor_seconds": {name: form.processor_seconds() for name, form in forms.items()},
    }
    if vit:
        result["flop_per_second"] = Machine.measure(Stopwatch(device=process_group.device().type)).flop_per_second
    if request.get("checkpoint"):
        step_seconds = statistics.median(result["seconds"]["ours"])
        result["checkpoint_seconds"] = checkpoint_seconds(forms["ours"], config, request["repeats"], step_seconds)
    if world.is_first:
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
