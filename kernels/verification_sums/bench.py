"""The sums of an evaluation: op against textbook and unfused form. Run by `climax-hpc bench kernels`.

Dimensions as in `op.py`.
"""

import torch
from torch import Tensor

from climax_hpc.kernels.benchmarking import Machine, Row, Run, Stopwatch, check_same
from climax_hpc.kernels.verification_sums.op import verification_sums
from climax_hpc.kernels.verification_sums.reference import verification_sums_reference
from climax_hpc.kernels.verification_sums.unfused import verification_sums_unfused

B, NUM_OUT, H, W = 2, 48, 128, 256
TOLERANCE = 2e-5  # two float32 forms, each within 1e-5 of the truth (tests/kernels)


def evaluation_rows(case: str, watch: Stopwatch, machine: Machine) -> list[Row]:
    """Time of the sums over forecast, truth and climatology: float64 on a processor, float32 on a GPU."""
    draw = torch.Generator().manual_seed(0)
    dtype = torch.float32 if watch.device.type == "cuda" else torch.float64
    fields = torch.randn(3, B, NUM_OUT, H, W, generator=draw, dtype=dtype).to(watch.device)
    forecast, truth, climatology = fields
    weight_H = (torch.rand(H, generator=draw, dtype=dtype) + 0.1).to(watch.device)

    def ours() -> Tensor:
        sums = verification_sums(forecast, truth, climatology, weight_H)
        return torch.stack([total for total in sums if total is not None])

    runs: dict[str, Run] = {
        "ours": ours,
        "textbook": lambda: verification_sums_reference(forecast, truth, climatology, weight_H),
        "unfused": lambda: verification_sums_unfused(forecast, truth, climatology, weight_H),
    }
    f, y, c = fields.double()
    check_same(case, list(ours()), list(verification_sums_reference(f, y, c, weight_H.double())), TOLERANCE)
    times = watch.times(runs)
    mine = times.pop("ours")
    return machine.time_rows(case, mine, {name: time.median for name, time in times.items()}, nbytes=fields.nbytes)
