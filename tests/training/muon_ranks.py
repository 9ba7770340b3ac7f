"""One rank of test_muon.py: prints {"stage precision": relative distance of the step taken from that in float64}.

Four steps of a small network with odd sizes, of which every rank sees a part of the batch. The reference is written
here for one process, without ZeRO.
"""

import json
import math
import os
import sys

import torch
from torch import Tensor, nn

from climax_hpc.config.training import OptimizerConfig, TrainConfig
from climax_hpc.distributed import process_group
from climax_hpc.training import matrix_exchange
from climax_hpc.training.deepspeed_engine import build_engine, full_weights, set_learning_rate, torch_functions_restored

RATE, DECAY, STEPS, BATCH = 0.02, 0.1, 4, 6
CASES = [
    (stage, precision) for precision in ("float32", "bfloat16") for stage in range(4) if stage or precision == "float32"
]


class Block(nn.Module):
    """A joint `qkv`, a linear map, a convolution, and a map of the lead time, which is no matrix of the trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.fc2 = nn.Linear(5, 15), nn.Linear(15, 5)
        self.conv, self.lead = nn.Conv2d(5, 5, 3, padding=1), nn.Linear(1, 5)

    def forward(self, x_B5HW: Tensor) -> Tensor:
        """Same shape."""
        x_BHW5 = x_B5HW.movedim(1, -1)
        x_BHW5 = x_BHW5 + self.fc2(torch.tanh(self.qkv(x_BHW5))) + self.lead(torch.ones_like(x_BHW5[:1, :1, :1, :1]))
        return x_BHW5.movedim(-1, 1) + self.conv(x_BHW5.movedim(-1, 1).contiguous())


class Net(nn.Module):
    """First and last convolution, and a trunk of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 2, 1)
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x_B3HW: Tensor) -> Tensor:
        """(B, 2, H, W)."""
        h_B5HW = self.first(x_B3HW)
        for block in self.blocks:
            h_B5HW = block(h_B5HW)
        return self.last(h_B5HW)


def build() -> Net:
    """The same start on all ranks."""
    torch.manual_seed(0)
    return Net()


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of all ranks."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(BATCH, 3, 4, 6, generator=generator), torch.randn(BATCH, 2, 4, 6, generator=generator)


def trained(stage: int, precision: str) -> dict[str, Tensor]:
    """Weights after all steps at a ZeRO stage; empty on all ranks but the first."""
    rank, part = torch.distributed.get_rank(), BATCH // torch.distributed.get_world_size()
    with torch_functions_restored():
        engine = build_engine(
            build(),
            train=TrainConfig(zero_stage=stage, precision=precision),
            optimizer=OptimizerConfig(kind="muon", lr=RATE, weight_decay=DECAY),
            micro_batch_size=part,
            micro_batches_per_rank=1,
        )
        set_learning_rate(engine, RATE)
        for step in range(STEPS):
            x, y = (all_ranks[rank * part : (rank + 1) * part] for all_ranks in batch(step))
            loss = (engine(x.to(next(engine.module.parameters()).dtype)).float() - y).square().mean()
            engine.backward(loss)
            engine.step()
        return full_weights(engine)


def reference() -> dict[str, Tensor]:
    """The same in float64: Muon as in Jordan et al. with the scale of Liu et al., beside torch's AdamW."""
    net = build().double()
    matrices = {n: p for n, p in net.named_parameters() if "blocks" in n and "lead" not in n and "weight" in n}
    rest = [p for n, p in net.named_parameters() if n not in matrices]
    groups = [{"params": [p for p in rest if p.ndim > 1]}, {"params": [p for p in rest if p.ndim < 2]}]
    adamw = torch.optim.AdamW(
        [groups[0] | {"weight_decay": DECAY}, groups[1] | {"weight_decay": 0.0}], RATE, (0.9, 0.95)
    )
    momentum = {name: torch.zeros_like(p) for name, p in matrices.items()}
    for step in range(STEPS):
        net.zero_grad()
        x, y = batch(step)
        (net(x.double()) - y).square().mean().backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in net.parameters()))
        for parameter in net.parameters():
            parameter.grad *= min(1.0, 1 / (norm + 1e-6))
        adamw.step()
        for name, parameter in matrices.items():
            momentum[name] = 0.95 * momentum[name] + 0.05 * parameter.grad
            nesterov = 0.95 * momentum[name] + 0.05 * parameter.grad
            update = torch.cat([orthogonal(part) for part in nesterov.chunk(3 if "qkv" in name else 1)])
            parameter.data -= RATE * (DECAY * parameter.data + update)
    return {name: parameter.detach() for name, parameter in net.named_parameters()}


def orthogonal(weight: Tensor) -> Tensor:
    """0.2 · √max(R, C) · U p(S) Vᵀ by the singular values, of which Newton and Schulz's iteration takes polynomials."""
    u, s, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    s = s / (s.norm() + 1e-7)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return 0.2 * math.sqrt(max(weight.flatten(1).shape)) * ((u * s) @ v).view_as(weight)


def flat(weights: dict[str, Tensor]) -> Tensor:
    """All weights in the order of the network."""
    return torch.cat([weights[name].detach().double().flatten() for name, _ in build().named_parameters()])


if __name__ == "__main__":
    matrix_exchange.ROUND = int(sys.argv[1])
    world = process_group.connect()
    done = {f"{stage} {precision}": trained(stage, precision) for stage, precision in CASES}
    if world.is_first:
        right, start = flat(reference()), flat(dict(build().named_parameters()))
        print(json.dumps({case: float((flat(w) - right).norm() / (right - start).norm()) for case, w in done.items()}))
    # DeepSpeed's engines hold gloo's threads, whose teardown at exit now and then aborts a rank that is done.
    process_group.disconnect()
    sys.stdout.flush()
    os._exit(0)
