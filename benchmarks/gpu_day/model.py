"""Stages of the whole 108 M model at 32×64 in bfloat16: seconds of a training step, samples/s, memory.

A step is forward, loss, backward and AdamW on float32 masters, as DeepSpeed's bfloat16 mode has it on one device.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial, partialmethod
from itertools import pairwise
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.gpu_day.record import Record
from benchmarks.gpu_day.schedule import AGGREGATION, LOSS
from benchmarks.gpu_day.timing import device, seconds
from climax_hpc.config.training import TrainConfig
from climax_hpc.distributed import process_group
from climax_hpc.fields.variables import CLIMAX_48
from climax_hpc.kernels.benchmarking import Timing
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_loss
from climax_hpc.model.climax import ClimaXNetwork
from climax_hpc.model.config import ModelConfig
from climax_hpc.model.reference import TextbookClimaX
from climax_hpc.training import compilation
from climax_hpc.training.flop import step_flop
from climax_hpc.training.shape import Shape

# A compiled model gets one size, as in training: each further one compiles every block again, up to dynamo's limit.
MICRO_BATCHES = {"eager": (8, 32, 64, 128), "foreach": (64,), "compiled": (64,), "textbook": (8, 32, 64)}
REPEATS = 15
TINY = ModelConfig(
    variables=tuple(v.name for v in CLIMAX_48[:5]), height=4, width=8, embed_dim=32, heads=2, depth=2, decoder_depth=1
)


class Training:
    """A bfloat16 model with float32 masters, random fields, and its training step."""

    def __init__(self, model: ClimaXNetwork, B: int, fused: bool = True) -> None:
        config = model.config
        self.model = model
        self.parameters: list[Tensor] = list(model.parameters())
        self.masters = [p.detach().float().clone() for p in self.parameters]
        self.gradients = [torch.zeros_like(master) for master in self.masters]
        for master, gradient in zip(self.masters, self.gradients, strict=True):
            master.grad = gradient
        self.optimizer = torch.optim.AdamW(self.masters, lr=1e-5, fused=fused, foreach=not fused)
        self.names = config.variables
        self.outputs = [v.name for v in CLIMAX_48 if v.name in config.variables and not v.static]
        shape = (config.height, config.width)
        self.x_BVHW = torch.randn(B, len(self.names), *shape, device=device())
        self.y_BOHW = torch.randn(B, len(self.outputs), *shape, device=device())
        self.weight_H = torch.ones(config.height, device=device())
        self.lead_hours_B = torch.full((B,), 24.0, device=device())
        if isinstance(model, TextbookClimaX):  # ours takes images in float32 and rounds them itself
            self.x_BVHW = self.x_BVHW.bfloat16()

    def loss(self) -> Tensor:
        """Training loss."""
        h_BLPO = self.model(self.x_BVHW, self.lead_hours_B, self.names, self.outputs, patched=True)
        return lat_weighted_loss(h_BLPO, self.y_BOHW, self.weight_H, self.model.config.patch)[0]

    def step(self) -> Tensor:
        """Forward, backward, optimiser."""
        loss = self.loss()
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        with torch.no_grad():
            torch._foreach_copy_(self.gradients, gradients)
            self.optimizer.step()
            torch._foreach_copy_(self.parameters, self.masters)
        return loss.detach()


def build(kind: type[ClimaXNetwork], rehearsal: bool) -> ClimaXNetwork:
    """The model in training mode, its weights in bfloat16."""
    torch.manual_seed(0)
    return kind(TINY if rehearsal else ModelConfig()).to(device(), torch.bfloat16).train()


def steps_seconds(step: Callable[[], Tensor], repeats: int) -> Timing:
    """Seconds of steps that follow each other as in training, the device never waited for in between."""
    for _ in range(3):
        loss = step()
    assert loss.isfinite()
    if not torch.cuda.is_available():
        return seconds(step)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        step()
        mark.record()
    torch.cuda.synchronize()
    return Timing.of([a.elapsed_time(b) / 1e3 for a, b in pairwise(marks)])


def model(record: Record, form: str) -> None:
    """Every micro-batch that fits.

    Args:
        form: eager; foreach (eager, AdamW in whole-list kernels instead of fused ones); compiled (blocks); textbook
            (eager).
    """
    network = build(TextbookClimaX if form == "textbook" else ClimaXNetwork, record.rehearsal)
    if form == "compiled":
        compile_blocks(record, network)
    for B in (2,) if record.rehearsal else MICRO_BATCHES[form]:
        try:
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            training = Training(network, B, fused=form != "foreach")
            found = steps_seconds(training.step, REPEATS)
            # The textbook form has kernels of its own for the variables, but our loss.
            of = [LOSS] if form == "textbook" else [AGGREGATION, LOSS]
            shape = Shape(
                model=network.config, B=B, V=len(training.names), O=len(training.outputs), micro_batches_per_rank=1,
                ranks=1,
            )  # fmt: skip
            peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
            step_rows(record, "model_108m_32x64", form, shape, found, of, peak)
            del training
        except torch.OutOfMemoryError as error:
            print(f"{form}, micro-batch {B} does not fit: {str(error)[:200]}", flush=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def compile_blocks(record: Record, network: ClimaXNetwork) -> None:
    """As training does; a rehearsal traces what is compiled and leaves out the compiler."""
    process_group.connect()
    compile_module = nn.Module.compile
    with ExitStack() as patches:
        if record.rehearsal:
            traced = partialmethod(compile_module, backend="eager")
            patches.enter_context(mock.patch.object(nn.Module, "compile", traced))
            patches.enter_context(mock.patch.object(compilation, "compiler_problem", return_value=None))
        compilation.compile_network(network, TrainConfig(compile=True))


def step_rows(
    record: Record, model: str, form: str, shape: Shape, found: Timing, of: Sequence[str], peak: int | None = None
) -> None:
    """Seconds of a step, samples/s with the share of the measured matrix rate, peak memory [bytes] where known."""
    rate = record.value("ceilings", "bf16_matrix_rate")
    flop = sum(step_flop(shape).values())
    name, share = f"{model}/b{shape.B}", flop / found.median / rate if rate else None
    record.add(
        f"{name}/step/{form}", found.median, "s", of=of, form=form, p20=found.p20, p80=found.p80, flop=flop,
        limit=flop / rate if rate else None,
    )  # fmt: skip
    record.add(f"{name}/samples_per_second/{form}", shape.B / found.median, "1/s", of=of, form=form, flop_share=share)
    if peak is not None:
        record.add(f"{name}/peak_memory/{form}", peak, "B", of=of, form=form)


def eager(record: Record) -> None:
    """With fused AdamW at every size, then with the other AdamW at one."""
    model(record, "eager")
    model(record, "foreach")


def compile_model(record: Record) -> None:
    """One step of compiled blocks, which fills the cache on disk for the stages that take the times."""
    network = build(ClimaXNetwork, record.rehearsal)
    compile_blocks(record, network)
    start = time.perf_counter()
    Training(network, 2 if record.rehearsal else MICRO_BATCHES["compiled"][0]).step()
    record.add("compile/model_108m_32x64", time.perf_counter() - start, "s")


STAGES = {
    "compile_model": compile_model, "model_eager": eager,
    "model_compiled": partial(model, form="compiled"), "model_textbook": partial(model, form="textbook"),
}  # fmt: skip
