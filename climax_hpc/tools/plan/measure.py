"""Measured memory of real training steps on this rank's device, from PyTorch's own record, model included.

    python -m climax_hpc.tools.plan.measure '[{"model": {…}, "train": {…}, "micro_batch_size": 2}, …]'

prints {"peak_bytes": […]}: the peak of allocated bytes during the second step (the first one creates AdamW's moments),
on rank 0: of the GPU's memory where there is one, else of the host's. Runs under torchrun too. Dimensions as in
`shape.py`.
"""

import gc
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch._C._profiler import _EventType
from torch.utils._python_dispatch import TorchDispatchMode

from climax_hpc.config.training import OptimizerConfig, TrainConfig
from climax_hpc.distributed import process_group
from climax_hpc.distributed.replicas import Replica, replica_of
from climax_hpc.fields.variables import lookup
from climax_hpc.kernels.ensemble_crps.op import ensemble_crps
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_loss
from climax_hpc.model.band import share
from climax_hpc.model.climax import ClimaXNetwork
from climax_hpc.model.config import ModelConfig
from climax_hpc.model.noise import member_noise
from climax_hpc.training.deepspeed_engine import build_engine, torch_functions_restored

Step = Callable[[], Tensor]
"""One optimiser step; returns the training loss of its last micro-batch."""


class RandomBatch:
    """Random fields of one micro-batch on this rank's device, fixed on each replica, and a model's loss on them."""

    def __init__(self, config: ModelConfig, B: int, replica: Replica | None = None, members: int = 1) -> None:
        """`replica`: that of this rank; None: every rank is one. `members`: of a network with noise."""
        self.band = replica.band if replica else None
        seed = replica.number if replica else torch.distributed.get_rank()
        draw, device = torch.Generator().manual_seed(seed), process_group.device()
        self.inputs = config.variables
        self.outputs = [v for v in config.variables if lookup(v).can_be_forecast]
        self.x_BVHW = torch.randn(B, len(self.inputs), config.height, config.width, generator=draw).to(device)
        self.y_BOHW = torch.randn(B, len(self.outputs), config.height, config.width, generator=draw).to(device)
        self.weight_H = torch.ones(config.height, device=device)
        self.lead_hours_B = torch.full((B,), 24.0, device=device)
        self.patch, self.members = config.patch, members
        self.noise: dict[str, Tensor] = {}
        if config.noise_dim:
            self.noise["noise_BMZ"] = member_noise(0, range(B), range(members), config.noise_dim).to(device)
        if self.band:
            self.x_BVHW = self.band.of_whole(self.x_BVHW, -2).contiguous()
            self.y_BOHW = self.band.of_whole(self.y_BOHW, -2).contiguous()
            self.weight_H = self.band.of_whole(self.weight_H, 0)

    def loss(self, model: Any) -> Tensor:
        """Training loss."""
        h_nLPO = model(self.x_BVHW, self.lead_hours_B, self.inputs, self.outputs, patched=True, **self.noise)
        parts, total = (1, None) if self.band is None else (self.band.size, self.band.total)
        against = (self.y_BOHW, self.weight_H, self.patch)
        if self.noise:
            return parts * ensemble_crps(h_nLPO.unflatten(0, (-1, self.members)), *against, total=total)[0]
        return parts * lat_weighted_loss(h_nLPO, *against, total=total)[0]


def engine_step(
    config: ModelConfig, train: TrainConfig, micro_batch_size: int, micro_batches_per_rank: int, kind: str = "adamw"
) -> tuple[Step, Any]:
    """A training step as in the training loop, on random data, and its engine."""
    replica, network = replica_of(process_group.detect(), train.sequence_parallel), ClimaXNetwork(config)
    if replica.band:
        share(network, replica.band)
    engine = build_engine(
        network.to(process_group.device()).train(),
        train=train,
        optimizer=OptimizerConfig(kind=kind),
        micro_batch_size=micro_batch_size,
        micro_batches_per_rank=micro_batches_per_rank,
    )
    batch = RandomBatch(config, micro_batch_size, replica, train.members)

    def step() -> Tensor:
        for _ in range(micro_batches_per_rank):
            loss = batch.loss(engine)
            engine.backward(loss)
            engine.step()
        return loss.detach() if replica.band is None else replica.band.total(loss) / replica.band.size

    return step, engine


class SettledCollectives(TorchDispatchMode):
    """Makes every collective complete before it returns, so that its tensors are freed on this thread.

    The profiler records only this thread. If gloo's thread is the last to release the tensors of a collective, the
    profiler misses that, and the memory appears to grow from step to step.
    """

    _DROPPED = 0.005  # [s], generous time for gloo's thread to release the tensors after a collective
    _BLOCKING = ("send", "recv_")  # torch waits for these itself, and gloo for ever if it is asked to twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "c10d" and func._schema.name.removeprefix("c10d::") not in self._BLOCKING:
            (result[-1] if isinstance(result, (tuple, list)) else result).wait()
        if func.namespace == "c10d" or func is torch.ops.climax_hpc.exchange.default:
            time.sleep(self._DROPPED)
        return result


def peak_of(build: Callable[[], tuple[Step, Any]]) -> tuple[Step, Any, int]:
    """Build a step and run it twice; returns the step, its owner, and the peak of allocated bytes in the second run.

    Counts allocations from the build on, so earlier models are excluded; on a GPU those in its memory.
    """
    step, owner, _, peak = held_and_peak_of(build)
    return step, owner, peak


def held_and_peak_of(build: Callable[[], tuple[Step, Any]]) -> tuple[Step, Any, int, int]:
    """As `peak_of`, with the bytes that are held when the second run begins before the peak."""
    gc.collect()  # leftovers of an earlier measurement must not be freed, and counted, during this one
    device = process_group.device()
    return _peak_on_host(build) if device.type == "cpu" else _peak_on_gpu(build, device)


def _peak_on_gpu(build: Callable[[], tuple[Step, Any]], device: torch.device) -> tuple[Step, Any, int, int]:
    before = torch.cuda.memory_allocated(device)
    step, owner = build()
    step()
    torch.cuda.synchronize(device)
    held = torch.cuda.memory_allocated(device) - before
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return step, owner, held, torch.cuda.max_memory_allocated(device) - before


def _peak_on_host(build: Callable[[], tuple[Step, Any]]) -> tuple[Step, Any, int, int]:
    with torch.profiler.profile(profile_memory=True) as profile, SettledCollectives():
        step, owner = build()
        for turn in range(2):
            with torch.profiler.record_function(f"step {turn}"):
                step()
    events = list(_with_children(profile.profiler.kineto_results.experimental_event_tree()))
    start = next(event.start_time_ns for event in events if event.name == "step 1")
    changes = _changes_of_own(events)
    held = sum(nbytes for at, nbytes in changes if at < start)
    levels = accumulate((nbytes for at, nbytes in changes if at >= start), initial=held)
    return step, owner, held, max(levels)


def _with_children(events: Iterable[Any]) -> Iterator[Any]:
    """Events of a profile and all below them."""
    waiting = list(events)
    while waiting:
        event = waiting.pop()
        yield event
        waiting += event.children


def _changes_of_own(events: Iterable[Any]) -> list[tuple[int, int]]:
    """Time [ns] and bytes of each allocation and, negative, each release of what these events have allocated.

    What an earlier measurement allocated may be released during this one, by whatever takes its place.
    """
    found = [event for event in events if event.tag == _EventType.Allocation]
    own: set[int] = set()
    changes = []
    for event in sorted(found, key=lambda event: (event.start_time_ns, event.extra_fields.alloc_size)):
        at, nbytes, address = event.start_time_ns, event.extra_fields.alloc_size, event.extra_fields.ptr
        if nbytes > 0:
            own.add(address)
        elif address not in own:
            continue
        else:
            own.remove(address)
        changes.append((at, nbytes))
    return changes


def measure(
    model: dict[str, Any],
    train: dict[str, Any],
    micro_batch_size: int,
    micro_batches_per_rank: int = 1,
    kind: str = "adamw",
) -> int:
    """Peak bytes of a training step with these settings; `kind`: `optimizer.kind`."""
    config, settings = ModelConfig(**model), TrainConfig(**train)
    with torch_functions_restored():
        _, engine, peak = peak_of(lambda: engine_step(config, settings, micro_batch_size, micro_batches_per_rank, kind))
        engine.destroy()
    return peak


def main() -> None:
    """Run the measurements that the JSON argument requests."""
    world = process_group.connect()
    torch.set_num_threads(1)
    peaks = [measure(**request) for request in json.loads(sys.argv[1])]
    if world.is_first:
        print(json.dumps({"peak_bytes": peaks}))


if __name__ == "__main__":
    main()
