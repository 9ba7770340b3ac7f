"""Stages `loss` and `evaluation`: the latitude-weighted loss and the sums of an evaluation at 128×256.

Errors against float64 come first, then seconds. The textbook forms are loops over fields: each costs a thousand
launches, and torch.compile unrolls nothing of the kind; what is compiled is the whole-tensor form.
Dimensions as in `kernels/lat_weighted_loss/op.py`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_day.front_end import timed
from benchmarks.gpu_day.record import Record
from benchmarks.gpu_day.schedule import LOSS, SUMS
from benchmarks.gpu_day.timing import Run, copies, device, device_seconds, poison, seconds
from climax_hpc.kernels.benchmarking import step
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_loss
from climax_hpc.kernels.lat_weighted_loss.reference import lat_weighted_loss_reference
from climax_hpc.kernels.lat_weighted_loss.unfused import lat_weighted_loss_unfused
from climax_hpc.kernels.testing import poisoned_memory, relative_error, scatter_missing
from climax_hpc.kernels.verification_sums.op import VerificationSums, verification_sums
from climax_hpc.kernels.verification_sums.reference import verification_sums_reference
from climax_hpc.kernels.verification_sums.unfused import verification_sums_unfused

TOLERANCE = {"loss": 1e-6, "gradient": 2**-8, "sums": 1e-6}  # the gradient is rounded to bfloat16
COMPILED = "unfused_compiled"


def loss(record: Record) -> None:
    """48 variables; batch 16, head output in bfloat16, fields in float32."""
    B, num_out, H, W, p = (2, 3, 8, 16, 4) if record.rehearsal else (16, 48, 128, 256, 4)
    label = f"{H}x{W}_b{B}_bfloat16"
    h_BLPO = torch.randn(B, H * W // p**2, p * p * num_out, device=device()).bfloat16().requires_grad_()
    y_BOHW = scatter_missing(torch.randn(B, num_out, H, W), p).to(device())
    weight_H = torch.rand(H, device=device()) + 0.1
    if not loss_is_correct(record, label, h_BLPO, y_BOHW, weight_H, p):
        return
    forms: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
        "ours": lat_weighted_loss, "unfused": lat_weighted_loss_unfused,
        COMPILED: compiled(record, lat_weighted_loss_unfused), "textbook": lat_weighted_loss_reference,
    }  # fmt: skip
    values, nbytes = h_BLPO.numel(), 2 * (h_BLPO.nbytes + y_BOHW.nbytes) + h_BLPO.nbytes
    limit = record.limit(10 * values, nbytes)
    inputs = [(h_BLPO, y_BOHW)]
    inputs += [
        (h_BLPO.detach().clone().requires_grad_(), y_BOHW.clone())
        for _ in range(copies(h_BLPO.nbytes + y_BOHW.nbytes) - 1)
    ]

    def on(function: Callable[..., tuple[Tensor, Tensor]], h: Tensor, y: Tensor) -> Run:
        return step(lambda: function(h, y, weight_H, p)[0], [h])

    for form, function in forms.items():
        runs = [on(function, h, y) for h, y in inputs]
        all_forms(record, f"loss/{label}/step", form, runs, LOSS, limit=limit, bytes=nbytes)


def compiled(record: Record, function: Callable[..., Any]) -> Callable[..., Any]:
    """Under torch.compile."""
    return torch.compile(function, backend="eager" if record.rehearsal else "inductor")


def all_forms(record: Record, name: str, form: str, runs: list[Run], kernel: str, **more: Any) -> None:
    """Seconds of one form, launched by Python and, where a CUDA graph can hold it, as the device runs it."""
    of = [kernel] if form == "ours" else []
    timed(record, name, form, seconds(*runs), of=of, **more)
    if form in ("ours", "unfused"):
        timed(record, f"{name}_device", form, device_seconds(*runs), of=of, **more)


def loss_is_correct(record: Record, label: str, h_BLPO: Tensor, y_BOHW: Tensor, weight_H: Tensor, p: int) -> bool:
    """Loss and gradient against the unfused form in float64, which the tests hold against the textbook."""
    outcomes = []
    for function, h, y, w in (
        (lat_weighted_loss_unfused, h_BLPO.detach().double().requires_grad_(), y_BOHW.double(), weight_H.double()),
        (lat_weighted_loss, h_BLPO, y_BOHW, weight_H),
        (lat_weighted_loss, h_BLPO, y_BOHW, weight_H),
    ):
        poison(h.device)
        with poisoned_memory():
            value, _ = function(h, y, w, p)
            outcomes.append((value.detach(), torch.autograd.grad(value, h)[0]))
    truth, ours, again = outcomes
    errors = {name: relative_error(a, b) for name, a, b in zip(("loss", "gradient"), ours, truth, strict=True)}
    for name, error in errors.items():
        record.add(f"error/loss/{label}/{name}", error, "1", form="ours", of=[LOSS])
    same = all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))
    passed = same and all(error < TOLERANCE[name] for name, error in errors.items())
    return record.check(f"loss/{label}", passed, of=[LOSS])


def evaluation(
    record: Record,
    operator: Callable[..., VerificationSums] = verification_sums,
    kernel: str = SUMS,
    times_what_is_wrong: bool = False,
) -> None:
    """Sums over forecast, truth and climatology in float32; a rehearsal gives an operator that is wrong."""
    B, num_out, H, W = (2, 3, 8, 16) if record.rehearsal else (16, 48, 128, 256)
    label = f"{H}x{W}_b{B}_float32" if kernel == SUMS else kernel
    fields = torch.randn(3, B, num_out, H, W, device=device())
    fields[1] = scatter_missing(fields[1].cpu(), 1).to(device())
    weight_H = torch.rand(H, device=device()) + 0.1

    def ours(forecast: Tensor, truth: Tensor, climatology: Tensor) -> Tensor:
        sums = operator(forecast, truth, climatology, weight_H)
        return torch.stack([total for total in sums if total is not None])

    expected = verification_sums_unfused(*fields.double(), weight_H.double())
    poison(fields.device)
    with poisoned_memory():
        mine, again = ours(*fields), ours(*fields)
    worst = max(relative_error(a, b) for a, b in zip(mine, expected, strict=True))
    record.add(f"error/evaluation/{label}", worst, "1", form="ours", of=[kernel])
    passed = worst < TOLERANCE["sums"] and torch.equal(mine, again)
    if not record.check(f"evaluation/{label}", passed, of=[kernel]) and not times_what_is_wrong:
        return
    limit = record.limit(20 * fields[0].numel(), fields.nbytes)
    inputs = [fields, *(fields.clone() for _ in range(copies(fields.nbytes) - 1))]
    forms: dict[str, Callable[..., Tensor]] = {"ours": ours}
    if kernel == SUMS:
        unfused = partial(verification_sums_unfused, weight_H=weight_H)
        textbook = partial(verification_sums_reference, weight_H=weight_H)
        forms |= {"unfused": unfused, COMPILED: compiled(record, unfused), "textbook": textbook}
    for form, function in forms.items():
        runs: list[Run] = [partial(function, *each) for each in inputs]
        all_forms(record, f"evaluation/{label}/sums", form, runs, kernel, limit=limit, bytes=fields.nbytes)


STAGES = {"loss": loss, "evaluation": evaluation}
