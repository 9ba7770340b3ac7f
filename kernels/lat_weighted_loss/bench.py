"""Latitude-weighted loss with its gradient: op against textbook and unfused form. Run by `climax-hpc bench kernels`.

Dimensions as in `op.py`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from climax_hpc.kernels.benchmarking import Machine, Row, Stopwatch, check_same, inspect, step
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_loss
from climax_hpc.kernels.lat_weighted_loss.reference import lat_weighted_loss_reference
from climax_hpc.kernels.lat_weighted_loss.unfused import lat_weighted_loss_unfused

B, NUM_OUT, H, W, PATCH = 2, 48, 128, 256, 4
TOLERANCE = 2e-5  # two float32 forms, each within 1e-5 of the truth (tests/kernels)
TRAFFIC = 5  # head output and target read forward and backward, gradient written: times the prediction's bytes


def loss_rows(case: str, watch: Stopwatch, machine: Machine) -> list[Row]:
    """Time and memory of loss and gradient; `input` is the prediction."""
    draw = torch.Generator().manual_seed(0)
    h_BLPO = torch.randn(B, H * W // PATCH**2, PATCH**2 * NUM_OUT, generator=draw).to(watch.device).requires_grad_()
    y_BOHW = torch.randn(B, NUM_OUT, H, W, generator=draw).to(watch.device)
    weight_H = (torch.rand(H, generator=draw) + 0.1).to(watch.device)

    def of(form: Callable[..., tuple[Tensor, Tensor]]) -> Callable[[], Tensor]:
        return lambda: form(h_BLPO, y_BOHW, weight_H, PATCH)[0]

    ours = inspect(of(lat_weighted_loss), [h_BLPO], watch=watch)
    others = {"textbook": of(lat_weighted_loss_reference), "unfused": of(lat_weighted_loss_unfused)}
    inspected = {}
    for name, form in others.items():
        inspected[name] = inspect(form, [h_BLPO], watch=watch)
        check_same(f"{case} against {name}", ours.results, inspected[name].results, TOLERANCE)
    times = watch.times(
        {name: step(form, [h_BLPO]) for name, form in {"ours": of(lat_weighted_loss), **others}.items()}
    )
    mine = times.pop("ours")
    medians = {name: time.median for name, time in times.items()}
    rows = machine.time_rows(case, mine, medians, nbytes=TRAFFIC * h_BLPO.nbytes)
    return [*rows, *machine.memory_rows(case, ours, inspected, h_BLPO.nbytes)]
