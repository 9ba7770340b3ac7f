"""Stage `loss`: the latitude-weighted loss and the sums of an evaluation, errors against float64, then seconds.

Dimensions as in `kernels/lat_weighted_loss/op.py`.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu_day.front_end import timed
from benchmarks.gpu_day.record import Record
from benchmarks.gpu_day.timing import device, device_seconds, poison, seconds
from climax_hpc.kernels.benchmarking import step
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_loss
from climax_hpc.kernels.lat_weighted_loss.unfused import lat_weighted_loss_unfused
from climax_hpc.kernels.testing import relative_error, scatter_missing
from climax_hpc.kernels.verification_sums.op import verification_sums
from climax_hpc.kernels.verification_sums.unfused import verification_sums_unfused

TOLERANCE = {"loss": 1e-6, "gradient": 2**-8, "sums": 1e-6}  # the gradient is rounded to bfloat16


def loss(record: Record) -> None:
    """Both operators at 128×256 with 48 variables; batch 16, head output in bfloat16, fields in float32."""
    B, num_out, H, W, p = (2, 3, 8, 16, 4) if record.rehearsal else (16, 48, 128, 256, 4)
    label = f"{H}x{W}_b{B}_bfloat16"
    h_BLPO = torch.randn(B, H * W // p**2, p * p * num_out, device=device()).bfloat16().requires_grad_()
    y_BOHW = scatter_missing(torch.randn(B, num_out, H, W), p).to(device())
    weight_H = torch.rand(H, device=device()) + 0.1
    if not loss_is_correct(record, label, h_BLPO, y_BOHW, weight_H, p):
        return
    forms: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
        "ours": lat_weighted_loss, "unfused": lat_weighted_loss_unfused,
        "unfused_compiled": torch.compile(
            lat_weighted_loss_unfused, backend="eager" if record.rehearsal else "inductor"
        ),
    }  # fmt: skip
    values, nbytes = h_BLPO.numel(), 2 * (h_BLPO.nbytes + y_BOHW.nbytes) + h_BLPO.nbytes
    limit = record.limit(10 * values, nbytes)
    for form, function in forms.items():
        run = step(lambda function=function: function(h_BLPO, y_BOHW, weight_H, p)[0], [h_BLPO])
        timed(record, f"loss/{label}/step", form, seconds(run), limit=limit, bytes=nbytes)
        if form != "unfused_compiled":
            timed(record, f"loss/{label}/step_device", form, device_seconds(run), limit=limit)


def loss_is_correct(record: Record, label: str, h_BLPO: Tensor, y_BOHW: Tensor, weight_H: Tensor, p: int) -> bool:
    """Loss and gradient against the unfused form in float64, which the tests hold against the textbook."""
    outcomes = []
    for function, h, y, w in (
        (lat_weighted_loss_unfused, h_BLPO.detach().double().requires_grad_(), y_BOHW.double(), weight_H.double()),
        (lat_weighted_loss, h_BLPO, y_BOHW, weight_H),
        (lat_weighted_loss, h_BLPO, y_BOHW, weight_H),
    ):
        poison(h.device)
        value, _ = function(h, y, w, p)
        outcomes.append((value.detach(), torch.autograd.grad(value, h)[0]))
    truth, ours, again = outcomes
    errors = {name: relative_error(a, b) for name, a, b in zip(("loss", "gradient"), ours, truth, strict=True)}
    for name, error in errors.items():
        record.add(f"error/loss/{label}/{name}", error, "1", form="ours")
    same = all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))
    within = same and all(error < TOLERANCE[name] for name, error in errors.items())
    record.add(f"correct/loss/{label}", float(within), "1")
    return within


def evaluation(record: Record) -> None:
    """Sums of an evaluation over forecast, truth and climatology in float32."""
    B, num_out, H, W = (2, 3, 8, 16) if record.rehearsal else (16, 48, 128, 256)
    label = f"{H}x{W}_b{B}_float32"
    fields = torch.randn(3, B, num_out, H, W, device=device())
    fields[1] = scatter_missing(fields[1].cpu(), 1).to(device())
    forecast, truth, climatology = fields
    weight_H = torch.rand(H, device=device()) + 0.1

    def ours() -> Tensor:
        sums = verification_sums(forecast, truth, climatology, weight_H)
        return torch.stack([total for total in sums if total is not None])

    expected = verification_sums_unfused(*fields.double(), weight_H.double())
    poison(fields.device)
    mine, again = ours(), ours()
    worst = max(relative_error(a, b) for a, b in zip(mine, expected, strict=True))
    record.add(f"error/evaluation/{label}", worst, "1", form="ours")
    within = worst < TOLERANCE["sums"] and torch.equal(mine, again)
    record.add(f"correct/evaluation/{label}", float(within), "1")
    if not within:
        return
    limit = record.limit(20 * forecast.numel(), fields.nbytes)
    unfused = partial(verification_sums_unfused, forecast, truth, climatology, weight_H)
    for form, run in (("ours", ours), ("unfused", unfused)):
        timed(record, f"evaluation/{label}/sums", form, seconds(run), limit=limit, bytes=fields.nbytes)
        timed(record, f"evaluation/{label}/sums_device", form, device_seconds(run), limit=limit)


STAGES = {"loss": loss, "evaluation": evaluation}
