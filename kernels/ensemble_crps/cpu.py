"""The CRPS sums and their gradient on a processor: over runs of patches whose members fit its cache.

Dimensions: B batch · M members · O output variables · H latitude rows · W longitude columns · p patch edge ·
P = p·p pixels · L = (H/p)·(W/p) patches, row-major · h, w patch rows and columns of one run · n = h·w·P pixels of one
run · N = n·O its cells.

A run of the target is brought to the order of the head output once and serves all members. Member i is compared with
those after it, in the cache: sign(x_i - x_j) is added to r_i and taken from r_j. That is M·(M - 1)/2 comparisons a
cell, but each is one pass of vector instructions, where a sort is a branch for each step: at M = 32 still faster than
`torch.sort`. The value is the sum of member × derivative (the CRPS is homogeneous of degree 1 in x - y), so nothing is
computed for the value alone. The derivatives are kept for the backward pass as codes of one byte (members.py), not
computed again.
"""

import math

import torch
from torch import Tensor

from climax_hpc.kernels.ensemble_crps.members import broken_code, code_dtype, pair_weight
from climax_hpc.kernels.patch_runs import PatchRuns, gradient_like, sum_dtype

# All members of a run. Three arrays of this size are in use at a time.
RUN_BYTES = 1 << 21


def forward(
    h_BMLPO: Tensor, y_BOHW: Tensor, weight_H: Tensor, patch: int, alpha: float, gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """numerator_BO = sum(w·m·CRPS), denominator_BO = sum(w·m), and with `gradient` the codes of all members.

    Sums in float32 at least, in float64 if prediction or target is.
    """
    B, M = h_BMLPO.shape[:2]
    dtype = sum_dtype(h_BMLPO, y_BOHW)
    runs = PatchRuns(y_BOHW.shape[1], y_BOHW.shape[3], weight_H, patch, dtype)
    h_BMhwppO = runs.of_head(h_BMLPO)
    numerator_BO = h_BMLPO.new_zeros(y_BOHW.shape[:2], dtype=dtype)
    denominator_BO = torch.zeros_like(numerator_BO)
    code_BMLPO = gradient_like(h_BMLPO, patch, code_dtype(M)) if gradient else h_BMLPO.new_empty(0, dtype=code_dtype(M))
    code_BMhwppO = runs.of_head(code_BMLPO) if gradient else None
    for box in runs.boxes(B, RUN_BYTES // M):
        b, weight_n = box[0], runs.weight(box)
        of_run = (b, slice(None), *box[1:])
        y_hwppO = runs.target(y_BOHW, box)
        x_MN = runs.buffer("members", M, y_hwppO.numel())
        x_MN.view(M, *y_hwppO.shape).copy_(h_BMhwppO[of_run])
        y_N = runs.buffer("ordered", y_hwppO.numel())
        y_N.view(y_hwppO.shape).copy_(y_hwppO)
        missing_N = y_N.isnan() if math.isnan(y_N.sum().item()) else None
        code_MhwppO = None if code_BMhwppO is None else code_BMhwppO[of_run]
        crps_nO = _crps(runs, x_MN, y_N, missing_N, pair_weight(M, alpha), code_MhwppO).view(-1, runs.num_out)
        numerator_BO[b] += torch.mv(crps_nO.t(), weight_n)
        if missing_N is None:
            denominator_BO[b] += weight_n.sum()
        else:
            denominator_BO[b] += torch.mv((~missing_N).view(-1, runs.num_out).to(dtype).t(), weight_n)
    return numerator_BO, denominator_BO, code_BMLPO


def _crps(
    runs: PatchRuns, x_MN: Tensor, y_N: Tensor, missing_N: Tensor | None, weight: float, code_MhwppO: Tensor | None
) -> Tensor:
    """CRPS of every cell of a run, 0 where the target is missing; writes the codes. Overwrites the members."""
    M, N = x_MN.shape
    r_MN = _below_minus_above(runs, x_MN)
    d_MN = torch.sub(x_MN, y_N, out=x_MN)
    t_MN = torch.sign(d_MN, out=runs.buffer("signs", M, N))
    if missing_N is not None:
        r_MN.masked_fill_(missing_N, 0)
        t_MN.masked_fill_(missing_N, 0)
    code_N = runs.buffer("ordered", N)
    if code_MhwppO is not None:
        for r_N, t_N, code_hwppO in zip(r_MN, t_MN, code_MhwppO, strict=True):
            code_hwppO.copy_(torch.add(t_N, r_N, alpha=3, out=code_N).view(code_hwppO.shape))
    slope_MN = t_MN.mul_(1 / M).sub_(r_MN, alpha=weight)
    crps_N = torch.sum(slope_MN.mul_(d_MN), dim=0, out=runs.buffer("crps", N))
    if missing_N is not None:
        crps_N.masked_fill_(missing_N, 0)
    if code_MhwppO is not None and math.isnan(crps_N.sum().item()):
        broken_MN = d_MN.isnan() if missing_N is None else d_MN.isnan() & ~missing_N
        code_MhwppO.masked_fill_(broken_MN.view(code_MhwppO.shape), broken_code(code_MhwppO.dtype))
    return crps_N


def _below_minus_above(runs: PatchRuns, x_MN: Tensor) -> Tensor:
    """r_MN = sum over j of sign(x_i - x_j): members below minus members above; what is not comparable counts as 0."""
    M, N = x_MN.shape
    r_MN = runs.buffer("ranks", M, N).zero_()
    for i in range(M - 1):
        sign = torch.sub(x_MN[i], x_MN[i + 1 :], out=runs.buffer("signs", M - 1 - i, N)).sign_()
        r_MN[i + 1 :].sub_(sign)
        r_MN[i].add_(torch.sum(sign, dim=0, out=runs.buffer("crps", N)))
    return r_MN


def backward(
    dnumerator_BO: Tensor, code_BMLPO: Tensor, weight_H: Tensor, patch: int, alpha: float, dtype: torch.dtype
) -> Tensor:
    """Gradient of the head output, in its dtype: dnumerator·w·m·(t/M - pair_weight·r)."""
    B, M, L, PO = code_BMLPO.shape
    width = L * patch**2 // len(weight_H)
    runs = PatchRuns(PO // patch**2, width, weight_H, patch, dnumerator_BO.dtype)
    dh_BMLPO = gradient_like(code_BMLPO, patch, dtype)
    code_BMhwppO, dh_BMhwppO = runs.of_head(code_BMLPO), runs.of_head(dh_BMLPO)
    for box in runs.boxes(B, RUN_BYTES // M):
        of_run = (box[0], slice(None), *box[1:])
        weight_n, code_MhwppO = runs.weight(box), code_BMhwppO[of_run]
        scale_nO = torch.outer(weight_n, dnumerator_BO[box[0]], out=runs.buffer("scale", len(weight_n), runs.num_out))
        t_MnO = runs.buffer("signs", M, *scale_nO.shape)
        t_MnO.view(code_MhwppO.shape).copy_(code_MhwppO)
        broken_MnO = t_MnO == broken_code(code_BMLPO.dtype) if t_MnO.min() == broken_code(code_BMLPO.dtype) else None
        r_MnO = torch.mul(t_MnO, 1 / 3, out=runs.buffer("ranks", *t_MnO.shape)).round_()
        slope_MnO = t_MnO.sub_(r_MnO, alpha=3).mul_(1 / M).sub_(r_MnO, alpha=pair_weight(M, alpha)).mul_(scale_nO)
        if broken_MnO is not None:
            slope_MnO.masked_fill_(broken_MnO, torch.nan)
        dh_BMhwppO[of_run].copy_(slope_MnO.view(code_MhwppO.shape))
    return dh_BMLPO
