"""Runs the Triton kernels of the variable aggregation: layouts, launches, chunks of patches.

Dimensions: B batch · V variables · H latitude rows · W longitude columns · p patch edge · P = p·p · Q = P+1 ·
L = (H/p)·(W/p) patches · R = B·L rows · D embedding · N heads · K = D/N head width · J = K padded to a power of two
>= 16 · C = ceil(V/16) blocks of 16 variables · Z parts of the rows; layouts as in `kernels.py`.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from climax_hpc.kernels.dispatch import TRITON_DTYPES, device_of
from climax_hpc.kernels.variable_aggregation import kernels, tiles
from climax_hpc.kernels.variable_aggregation.map_layouts import score_maps, value_maps
from climax_hpc.kernels.variable_aggregation.tiles import LANES, Problem, constants

LOG2E = float(kernels.LOG2E.value)
MAX_HEAD_WIDTH = 128
DMAPS_PROGRAMS = 1024
"""Parts of the rows are added until dM has about this many programs: 8 for each of the 132 units of an H100."""


def aggregate_variables_triton_forward(
    x_BVHW: Tensor, S_NVP: Tensor, S0_NV: Tensor, M_NVKP: Tensor, M0_NVK: Tensor, bias_D: Tensor, patch: int
) -> tuple[Tensor, Tensor]:
    """Heads' outputs o_BLD in the type of x, and lse_BLN = log(sum(exp(score))), float32, -inf where all is missing.

    Matrix products take operands of the type of x (float32 as three TF32 products on NVIDIA) and add up in float32.

    Raises:
        ValueError: patch edge, head width or data type that the kernels do not take.
    """
    x_BVHW = x_BVHW.contiguous()
    size = _problem(x_BVHW, M_NVKP, patch)
    of_scores, M_CNQ16J = _maps(size, S_NVP, S0_NV, M_NVKP, M0_NVK, x_BVHW.dtype)
    o_RD = x_BVHW.new_empty(size.R, size.N * size.K)
    lse_RN = x_BVHW.new_empty(size.R, size.N, dtype=torch.float32)
    chunk = size.chunk_rows(x_BVHW.itemsize, backward=False)
    packed, a = _packed(size, x_BVHW, chunk), _weights(size, x_BVHW, chunk)
    scale_RN = lse_RN.new_empty(chunk, size.N)
    options = _constants("values", size, x_BVHW)
    with device_of(x_BVHW):
        for first in range(0, size.R, chunk):
            rows = min(chunk, size.R - first)
            _pack(size, x_BVHW, packed, first, rows)
            _weigh(size, packed, of_scores, lse_RN[first:], scale_RN, a, rows)
            kernels.values_kernel[(size.N // options["HEADS"], triton.cdiv(rows, options["BLOCK"]))](
                packed, a, scale_RN, M_CNQ16J, bias_D.contiguous(), o_RD[first:], rows, chunk, size.C, **options
            )
    return o_RD.view(size.B, size.L, -1), lse_RN.view(size.B, size.L, -1)


def aggregate_variables_triton_backward(
    do_BLD: Tensor,
    x_BVHW: Tensor,
    S_NVP: Tensor,
    S0_NV: Tensor,
    M_NVKP: Tensor,
    M0_NVK: Tensor,
    bias_D: Tensor,
    o_BLD: Tensor,
    lse_BLN: Tensor,
    patch: int,
    need_dx: bool,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients (dx or None, dS_NVP, dS0_NV, dM_NVKP, dM0_NVK, dbias_D), each in the type of its input.

    The softmax is computed again from `lse_BLN`; o_BLD enters through do·(o - bias), the softmax's centre.
    """
    x_BVHW = x_BVHW.contiguous()
    size = _problem(x_BVHW, M_NVKP, patch)
    of_scores, M_CNQ16J = _maps(size, S_NVP, S0_NV, M_NVKP, M0_NVK, x_BVHW.dtype)
    do_RD = do_BLD.reshape(size.R, -1).to(x_BVHW.dtype).contiguous()
    o_RD, lse_RN = o_BLD.reshape(size.R, -1).contiguous(), lse_BLN.reshape(size.R, -1).contiguous()
    chunk = size.chunk_rows(x_BVHW.itemsize, backward=True)
    packed, a = _packed(size, x_BVHW, chunk), _weights(size, x_BVHW, chunk)
    ds = torch.empty_like(a, dtype=x_BVHW.dtype)
    dx = _ImageGradient(size, x_BVHW, packed, S_NVP, M_CNQ16J) if need_dx else None
    partials = _Partials(size, x_BVHW, chunk)
    options = _constants("dweights", size, x_BVHW)
    with device_of(x_BVHW):
        for first in range(0, size.R, chunk):
            rows = min(chunk, size.R - first)
            _pack(size, x_BVHW, packed, first, rows)
            # The grids span the padded rows: every element of a and ds that a later kernel reads is written, with 0.
            _weigh(size, packed, of_scores, lse_RN[first:], None, a, rows)
            kernels.dweights_kernel[(size.N, chunk // options["BLOCK"])](
                packed,
                M_CNQ16J,
                bias_D.contiguous(),
                o_RD[first:],
                do_RD[first:],
                a,
                ds,
                rows,
                chunk,
                size.C,
                **options,
            )
            partials.add(packed, a, ds, do_RD[first:], rows, is_first=first == 0)
            if dx is not None:
                dx.fill(a, ds, do_RD[first:], first, rows)
    dS_NVQ, dM_NVKQ = partials.maps()
    dbias_D = do_RD.sum(0, dtype=torch.float32)
    gradients = (dS_NVQ[..., :-1], dS_NVQ[..., -1], dM_NVKQ[..., :-1], dM_NVKQ[..., -1], dbias_D)
    maps = (S_NVP, S0_NV, M_NVKP, M0_NVK, bias_D)
    # Copies: of one head, variable and pixel they would be views of one tensor, which an operator must not return.
    copies = (
        torch.empty_like(m, memory_format=torch.contiguous_format).copy_(g)
        for m, g in zip(maps, gradients, strict=True)
    )
    return dx.dx_BVHW if dx else None, *copies  # type: ignore[return-value]


def _problem(x_BVHW: Tensor, M_NVKP: Tensor, patch: int) -> Problem:
    if patch not in (1, 2, 4, 8, 16):
        raise ValueError(f"patch edge {patch}: the Triton kernels take 1, 2, 4, 8 or 16")
    if x_BVHW.dtype not in TRITON_DTYPES:
        raise ValueError(f"image in {x_BVHW.dtype}: the Triton kernels take float32, bfloat16 and float16")
    N, _, K, _ = M_NVKP.shape
    if K > MAX_HEAD_WIDTH:
        raise ValueError(f"heads of width {K}: the Triton kernels take at most {MAX_HEAD_WIDTH}; use more heads")
    B, V, H, W = x_BVHW.shape
    return Problem(B, V, H, W, patch, N, K)


def _constants(kernel: str, size: Problem, x_BVHW: Tensor) -> dict[str, Any]:
    return constants(kernel, size, x_BVHW.itemsize, _target(x_BVHW.device))


@cache
def _target(device: torch.device) -> str:
    """Compile target of a device; empty for the interpreter's processor."""
    if device.type != "cuda":
        return ""
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def _maps(
    size: Problem, S_NVP: Tensor, S0_NV: Tensor, M_NVKP: Tensor, M0_NVK: Tensor, dtype: torch.dtype
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Score maps of the weights kernel, and value maps; variables padded with 0 to whole blocks."""
    options = constants("weights", size, dtype.itemsize, "")
    shape = (options["LANES"], options["HEADS"], options["PLANES"], options["TERMS"])
    spare = size.C * LANES - size.V
    S_NVP, S0_NV = F.pad(S_NVP, (0, 0, 0, spare)), F.pad(S0_NV, (0, spare))
    M_NVKP, M0_NVK = F.pad(M_NVKP, (0, 0, 0, 0, 0, spare)), F.pad(M0_NVK, (0, 0, 0, spare))
    return score_maps(S_NVP * LOG2E, S0_NV * LOG2E, dtype, *shape), value_maps(M_NVKP, M0_NVK, dtype, LANES, size.J)


def _packed(size: Problem, x_BVHW: Tensor, chunk: int) -> Tensor:
    return x_BVHW.new_empty(size.C, chunk, size.Q, LANES)


def _weights(size: Problem, x_BVHW: Tensor, chunk: int) -> Tensor:
    """Memory of the softmax weights; they lie in [0, 1], where float16 has three digits more than bfloat16."""
    dtype = torch.float32 if x_BVHW.dtype == torch.float32 else torch.float16
    return x_BVHW.new_empty(size.C, chunk, size.N, LANES, dtype=dtype)


def _pack(size: Problem, x_BVHW: Tensor, packed: Tensor, first: int, rows: int) -> None:
    options = _constants("pack", size, x_BVHW)
    chunk = packed.shape[1]
    kernels.pack_kernel[(chunk // options["BLOCK"], size.C)](
        x_BVHW, packed, first, rows, chunk, *size.image_arguments(), **options
    )


def _weigh(
    size: Problem,
    packed: Tensor,
    of_scores: tuple[Tensor, Tensor],
    lse_RN: Tensor,
    scale_RN: Tensor | None,
    a: Tensor,
    rows: int,
) -> None:
    """Weights of one chunk; without `scale_RN`, lse_RN is known."""
    options = _constants("weights", size, packed)
    chunk = packed.shape[1]
    kernels.weights_kernel[(triton.cdiv(size.N, options["HEADS"]), chunk // options["BLOCK"])](
        packed, *of_scores, lse_RN, lse_RN if scale_RN is None else scale_RN, a, rows, chunk, size.C,
        KNOWN=scale_RN is None, **options,
    )  # fmt: skip


class _ImageGradient:
    """dx, a chunk of rows at a time."""

    def __init__(self, size: Problem, x_BVHW: Tensor, packed: Tensor, S_NVP: Tensor, M_CNQ16J: Tensor) -> None:
        self.size, self.x_BVHW, self.M_CNQ16J = size, x_BVHW, M_CNQ16J
        self.dpacked, self.dx_BVHW = torch.empty_like(packed), torch.empty_like(x_BVHW)
        S_NVQ = F.pad(S_NVP.float(), (0, 1, 0, size.C * LANES - size.V))
        self.S_CNQ16 = S_NVQ.unflatten(1, (-1, LANES)).permute(1, 0, 3, 2).contiguous()

    def fill(self, a: Tensor, ds: Tensor, do_RD: Tensor, first: int, rows: int) -> None:
        size, chunk = self.size, a.shape[1]
        options = _constants("dx", size, self.x_BVHW)
        groups = (size.Q - 1) // options["PLANES"]
        kernels.dx_kernel[(size.C * groups, chunk // options["BLOCK"])](
            a, ds, self.S_CNQ16, self.M_CNQ16J, do_RD, self.dpacked, rows, chunk, size.C, size.Q, **options
        )
        options = _constants("unpack", size, self.x_BVHW)
        kernels.unpack_kernel[(chunk // options["BLOCK"], size.C)](
            self.x_BVHW, self.dpacked, self.dx_BVHW, first, rows, chunk, *size.image_arguments(), **options
        )


class _Partials:
    """dM and dS as partial sums over parts of the rows: each chunk adds to each part, the parts are summed last."""

    def __init__(self, size: Problem, x_BVHW: Tensor, chunk: int) -> None:
        self.size, self.options = size, _constants("dmaps", size, x_BVHW)
        self.columns = size.C * triton.cdiv(size.Q, self.options["PLANES"])
        parts = min(triton.cdiv(DMAPS_PROGRAMS, self.columns * size.N), chunk // tiles.ROW_BLOCK)
        self.rows_per_part = triton.cdiv(chunk // tiles.ROW_BLOCK, parts) * tiles.ROW_BLOCK
        self.parts = triton.cdiv(chunk, self.rows_per_part)
        empty = x_BVHW.new_empty
        self.dM_ZNCQ16J = empty(self.parts, size.N, size.C, size.Q, LANES, size.J, dtype=torch.float32)
        self.dS_ZNCQ16 = empty(self.parts, size.N, size.C, size.Q, LANES, dtype=torch.float32)

    def add(self, packed: Tensor, a: Tensor, ds: Tensor, do_RD: Tensor, rows: int, is_first: bool) -> None:
        kernels.dmaps_kernel[(self.columns, self.size.N, self.parts)](
            packed, a, ds, do_RD, self.dM_ZNCQ16J, self.dS_ZNCQ16, rows, packed.shape[1], self.size.C,
            self.size.Q, self.rows_per_part, ADD=not is_first, **self.options,
        )  # fmt: skip

    def maps(self) -> tuple[Tensor, Tensor]:
        """dS_NVQ and dM_NVKQ."""
        size = self.size
        dS_NVQ = self.dS_ZNCQ16.sum(0).transpose(2, 3).flatten(1, 2)[:, : size.V]
        dM_NVQJ = self.dM_ZNCQ16J.sum(0).transpose(2, 3).flatten(1, 2)[:, : size.V]
        return dS_NVQ, dM_NVQJ[..., : size.K].transpose(2, 3)
