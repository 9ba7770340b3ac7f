"""Ensemble CRPS with its gradient: op against sorted and broadcast form. Run by `climax-hpc bench kernels`.

Dimensions as in `op.py`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from climax_hpc.kernels.benchmarking import Machine, Row, Stopwatch, check_same, inspect, step
from climax_hpc.kernels.ensemble_crps.op import ensemble_crps
from climax_hpc.kernels.ensemble_crps.unfused import ensemble_crps_broadcast, ensemble_crps_unfused
from climax_hpc.kernels.roofline import crps_bytes

MEMBERS, NUM_OUT, H, W, PATCH = 8, 48, 128, 256, 4
TOLERANCE = 2e-5  # two float32 forms, each within 1e-5 of the truth (tests/kernels)


def crps_rows(case: str, watch: Stopwatch, machine: Machine) -> list[Row]:
    """Time and memory of loss and gradient of one sample; `input` is members and target."""
    draw = torch.Generator().manual_seed(0)
    h_BMLPO = torch.randn(1, MEMBERS, H * W // PATCH**2, PATCH**2 * NUM_OUT, generator=draw)
    h_BMLPO = h_BMLPO.to(watch.device).requires_grad_()
    y_BOHW = torch.randn(1, NUM_OUT, H, W, generator=draw).to(watch.device)
    weight_H = (torch.rand(H, generator=draw) + 0.1).to(watch.device)

    def of(form: Callable[..., tuple[Tensor, Tensor]]) -> Callable[[], Tensor]:
        return lambda: form(h_BMLPO, y_BOHW, weight_H, PATCH)[0]

    ours = inspect(of(ensemble_crps), [h_BMLPO], watch=watch)
    others = {"broadcast": of(ensemble_crps_broadcast), "unfused": of(ensemble_crps_unfused)}
    inspected = {}
    for name, form in others.items():
        inspected[name] = inspect(form, [h_BMLPO], watch=watch)
        check_same(f"{case} against {name}", ours.results, inspected[name].results, TOLERANCE)
    times = watch.times({name: step(form, [h_BMLPO]) for name, form in {"ours": of(ensemble_crps), **others}.items()})
    mine = times.pop("ours")
    medians = {name: time.median for name, time in times.items()}
    nbytes = sum(crps_bytes(y_BOHW.numel(), MEMBERS, h_BMLPO.itemsize))
    rows = machine.time_rows(case, mine, medians, nbytes=nbytes)
    return [*rows, *machine.memory_rows(case, ours, inspected, h_BMLPO.nbytes + y_BOHW.nbytes)]
