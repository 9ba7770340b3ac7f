"""Latitude-weighted loss and its gradient: op against textbook and unfused form. Run by `climax-hpc bench kernels`."""

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from climax_hpc.kernels.benchmarking import Machine, Row, check_same, inspect, memory_rows, seconds_of, step, time_rows
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_loss
from climax_hpc.kernels.lat_weighted_loss.reference import lat_weighted_loss_reference
from climax_hpc.kernels.lat_weighted_loss.unfused import lat_weighted_loss_unfused

B, NUM_OUT, H, W, PATCH = 2, 48, 128, 256, 4
TOLERANCE = 2e-5  # two float32 forms, each within 1e-5 of the truth (tests/kernels)
TRAFFIC = 5  # head output and target read forward and backward, gradient written: times the prediction's bytes


def rows_of(case: str, repeats: int, machine: Machine) -> list[Row]:
    """Time and memory of loss and gradient; `input` is the prediction."""
    draw = torch.Generator().manual_seed(0)
    h_BLPO = torch.randn(B, H * W // PATCH**2, PATCH**2 * NUM_OUT, generator=draw).requires_grad_()
    y_BOHW = torch.randn(B, NUM_OUT, H, W, generator=draw)
    weight_H = torch.rand(H, generator=draw) + 0.1

    def of(form: Callable[..., tuple[Tensor, Tensor]]) -> Callable[[], Tensor]:
        return lambda: form(h_BLPO, y_BOHW, weight_H, PATCH)[0]

    ours = inspect(of(lat_weighted_loss), [h_BLPO])
    others = {"textbook": of(lat_weighted_loss_reference), "unfused": of(lat_weighted_loss_unfused)}
    inspected = {}
    for name, form in others.items():
        inspected[name] = inspect(form, [h_BLPO])
        check_same(f"{case} against {name}", ours.results, inspected[name].results, TOLERANCE)
    seconds = seconds_of(step(of(lat_weighted_loss), [h_BLPO]), 4 * repeats)
    baselines = {
        name: statistics.median(seconds_of(step(form, [h_BLPO]), 4 * repeats)) for name, form in others.items()
    }
    baselines["roofline"] = machine.floor(0, TRAFFIC * h_BLPO.nbytes)
    return [*time_rows(case, seconds, baselines), *memory_rows(case, ours, inspected, h_BLPO.nbytes)]
