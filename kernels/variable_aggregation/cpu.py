"""Aggregation on a processor: run over chunks of patches that fit its cache; the backward recomputes what it needs.

Dimensions: B batch · V variables · H latitude rows · W longitude columns · p patch edge · P = p·p pixels of a patch ·
Q = P+1 (the pixels and one availability plane, which turns M0 and S0 into one more pixel) · C = V·Q · L = (H/p)·(W/p)
patches, row-major · R = B·L · r patches of one chunk · D embedding · N heads · K = D/N head width.

Within a chunk the patches run fastest (x_VQr, u_VQr, attn_VNr): every element-wise step then works on long contiguous
rows, whatever V and p, and the matrix products take u as it lies; o is summed as o_NKr = Mᵀ u, because uᵀ M was
measured slower. A head's operand u_vQr = attn·x of some variables is made in one buffer, multiplied, and
made anew for the next head: no operand of all heads or all patches ever exists.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from climax_hpc.kernels.workspace import Scratch

# Patches of a chunk: a product reads a head's part of the map for 2·r/4 FLOP per byte, which 512 patches make enough
# even from memory. The operand of one head and as many variables as fit, and the part of x it is made from, shall
# stay in the second-level cache (1 MiB and more on current server cores) while all heads use that part of x.
PATCHES = 512
OPERAND_BYTES = 1 << 19

Box = tuple[slice, slice, slice]


def forward(
    x_BVHW: Tensor, S_NVP: Tensor, S0_NV: Tensor, M_NVKP: Tensor, M0_NVK: Tensor, bias_D: Tensor, patch: int
) -> tuple[Tensor, Tensor]:
    """o_BLD in the dtype of x, and the log-sum-exp of the scores lse_BLN in that of the arithmetic.

    Arithmetic in float32, or float64 if the maps are. Where every variable is missing lse is the least finite number.
    """
    work = _Work(x_BVHW, M_NVKP, patch)
    B, N, K, D = x_BVHW.shape[0], work.N, work.K, work.N * work.K
    S_VNQ, M_NCK = work.score_map(S_NVP, S0_NV), work.value_map(M_NVKP, M0_NVK)
    work_bias_D = bias_D.to(work.dtype)
    o_RD = x_BVHW.new_empty(B * work.L, D)
    lse_RN = x_BVHW.new_empty(B * work.L, N, dtype=work.dtype)
    for run, box in work.chunks():
        x_VQr, missing_V1r, _ = work.pack(box)
        attn_VNr = work.scores(S_VNQ, x_VQr, missing_V1r)
        top_Nr = attn_VNr.amax(dim=0)
        sum_Nr = attn_VNr.sub_(top_Nr).exp_().sum(dim=0)
        attn_VNr.div_(sum_Nr)
        lse_RN[run] = sum_Nr.log_().add_(top_Nr).t()

        o_NKr = work.buffer("o", N, K, x_VQr.shape[2])
        o_NKr.copy_(work_bias_D.view(N, K, 1))
        for vs, cs in work.blocks():
            u_vQr = work.buffer("u", *x_VQr[vs].shape)
            for n in range(N):
                torch.mul(x_VQr[vs], attn_VNr[vs, n, None], out=u_vQr)
                o_NKr[n].addmm_(M_NCK[n, cs].t(), u_vQr.flatten(0, 1))
        o_RD[run] = o_NKr.flatten(0, 1).t()
    return o_RD.view(B, -1, D), lse_RN.view(B, -1, N)


def backward(
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
    wants_dx: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x (empty unless `wants_dx`), S, S0, M, M0 and bias, each in the dtype of what it belongs to.

    Per head: attn = exp(score - lse), u = attn·x, dM = u·do, du = M·do, dattn = Σ_q du·x, dscore = attn·(dattn - Δ)
    with Δ = do·(o - bias), then dS = dscore·x and dx = attn·du + dscore·S. Chunks are summed in order of the patches.
    """
    work = _Work(x_BVHW, M_NVKP, patch)
    N, K, P = work.N, work.K, work.P
    S_VNQ, M_NCK = work.score_map(S_NVP, S0_NV), work.value_map(M_NVKP, M0_NVK)
    work_bias_D = bias_D.to(work.dtype)
    dS_VNQ, dM_NCK, dbias_D = torch.zeros_like(S_VNQ), torch.zeros_like(M_NCK), torch.zeros_like(work_bias_D)
    dx_BVHW = torch.empty_like(x_BVHW, memory_format=torch.contiguous_format) if wants_dx else x_BVHW.new_empty(0)
    do_RD, o_RD, lse_RN = do_BLD.flatten(0, 1), o_BLD.flatten(0, 1), lse_BLN.flatten(0, 1)
    for run, box in work.chunks():
        x_VQr, missing_V1r, nan_VPr = work.pack(box)
        attn_VNr = work.scores(S_VNQ, x_VQr, missing_V1r).sub_(lse_RN[run].t().contiguous()).exp_()
        do_rD = do_RD[run].to(work.dtype)
        delta_Nr = (o_RD[run] - work_bias_D).mul_(do_rD).unflatten(1, (N, K)).sum(dim=-1).t().contiguous()
        dbias_D += do_rD.sum(dim=0)

        ds_VNr = work.buffer("ds", *attn_VNr.shape)
        dx_VPr = work.buffer("dx", len(x_VQr), P, x_VQr.shape[2]).zero_() if wants_dx else None
        for vs, cs in work.blocks():
            u_vQr = work.buffer("u", *x_VQr[vs].shape)
            for n in range(N):
                do_rK = do_rD[:, n * K : (n + 1) * K]
                torch.mul(x_VQr[vs], attn_VNr[vs, n, None], out=u_vQr)
                dM_NCK[n, cs].addmm_(u_vQr.flatten(0, 1), do_rK)
                du_vQr = u_vQr  # the operand is spent: its memory takes the operand's gradient
                torch.mm(M_NCK[n, cs], do_rK.t(), out=du_vQr.flatten(0, 1))
                if dx_VPr is not None:
                    dx_VPr[vs].addcmul_(du_vQr[:, :P], attn_VNr[vs, n, None])
                torch.sum(du_vQr.mul_(x_VQr[vs]), dim=1, out=ds_VNr[vs, n])
        ds_VNr.sub_(delta_Nr).mul_(attn_VNr)
        dS_VNQ.baddbmm_(ds_VNr, x_VQr.transpose(1, 2))
        if dx_VPr is not None:
            dx_VPr.baddbmm_(S_VNQ[:, :, :P].transpose(1, 2), ds_VNr)
            work.patches(dx_BVHW, box).copy_(work.as_patches(dx_VPr.masked_fill_(nan_VPr, 0), box))
    dS_NVQ, dM_NVQK = dS_VNQ.transpose(0, 1), dM_NCK.unflatten(1, (-1, P + 1))
    return (
        dx_BVHW,
        _own(dS_NVQ[..., :P], S_NVP),
        _own(dS_NVQ[..., P], S0_NV),
        _own(dM_NVQK[:, :, :P].transpose(2, 3), M_NVKP),
        _own(dM_NVQK[:, :, P], M0_NVK),
        dbias_D.to(bias_D.dtype),
    )


class _Work:
    """Sizes, chunks and buffers of one call: buffers are allocated once and serve every chunk."""

    def __init__(self, x_BVHW: Tensor, M_NVKP: Tensor, patch: int) -> None:
        self.x_BVHW, self.patch = x_BVHW, patch
        self.N, self.V, self.K, self.P = M_NVKP.shape
        self.rows, self.columns = x_BVHW.shape[2] // patch, x_BVHW.shape[3] // patch
        self.L = self.rows * self.columns
        self.dtype = torch.float64 if M_NVKP.dtype == torch.float64 else torch.float32
        self.buffer = Scratch(x_BVHW, self.dtype)

    def score_map(self, S_NVP: Tensor, S0_NV: Tensor) -> Tensor:
        """S_VNQ in the dtype of the arithmetic."""
        return torch.cat([S_NVP, S0_NV.unsqueeze(-1)], dim=-1).transpose(0, 1).to(self.dtype).contiguous()

    def value_map(self, M_NVKP: Tensor, M0_NVK: Tensor) -> Tensor:
        """M_NCK in the dtype of the arithmetic."""
        M_NVQK = torch.cat([M_NVKP.transpose(2, 3), M0_NVK.unsqueeze(2)], dim=2)
        return M_NVQK.to(self.dtype).flatten(1, 2).contiguous()

    def chunks(self) -> Iterator[tuple[slice, Box]]:
        """Runs of consecutive patches of the flattened R, each with its box of samples, patch rows, patch columns."""
        columns = min(self.columns, PATCHES)
        rows = min(self.rows, PATCHES // columns) if columns == self.columns else 1
        samples = PATCHES // self.L if rows == self.rows and columns == self.columns else 1
        start = 0
        for b in _slices(len(self.x_BVHW), samples):
            for h in _slices(self.rows, rows):
                for w in _slices(self.columns, columns):
                    stop = start + (b.stop - b.start) * (h.stop - h.start) * (w.stop - w.start)
                    yield slice(start, stop), (b, h, w)
                    start = stop

    def blocks(self) -> list[tuple[slice, slice]]:
        """Variables whose operand of one head is made and multiplied at a time, and their rows of C."""
        Q = self.P + 1
        most = max(1, OPERAND_BYTES // (Q * PATCHES * self.dtype.itemsize))
        return [(vs, slice(vs.start * Q, vs.stop * Q)) for vs in _slices(self.V, most)]

    def patches(self, image_BVHW: Tensor, box: Box) -> Tensor:
        """View of the box's pixels as variable, pixel row, pixel column, sample, patch row, patch column."""
        p = self.patch
        image_BVhpwp = image_BVHW.unflatten(3, (-1, p)).unflatten(2, (-1, p))
        return image_BVhpwp.permute(1, 3, 5, 0, 2, 4)[..., box[0], box[1], box[2]]

    def as_patches(self, t_VPr: Tensor, box: Box) -> Tensor:
        """A chunk's pixels in the shape of `patches`."""
        samples, rows, columns = (s.stop - s.start for s in box)
        return t_VPr.unflatten(2, (samples, rows, columns)).unflatten(1, (self.patch, self.patch))

    def pack(self, box: Box) -> tuple[Tensor, Tensor, Tensor]:
        """x_VQr with missing pixels at 0 and availability as its last plane, missing_V1r, nan_VPr."""
        pixels = self.patches(self.x_BVHW, box)
        r = pixels.shape[3:].numel()
        x_VQr = self.buffer("x", self.V, self.P + 1, r)
        x_VPr = x_VQr[:, : self.P]
        self.as_patches(x_VPr, box).copy_(pixels)
        nan_VPr = x_VPr.isnan()
        missing_V1r = nan_VPr.all(dim=1, keepdim=True)
        if nan_VPr.any():
            x_VPr.masked_fill_(nan_VPr, 0)
        torch.logical_not(missing_V1r, out=x_VQr[:, self.P :])
        return x_VQr, missing_V1r, nan_VPr

    def scores(self, S_VNQ: Tensor, x_VQr: Tensor, missing_V1r: Tensor) -> Tensor:
        """score_VNr, at the least finite number where the variable is missing.

        Not -inf: where every variable is missing the softmax stays finite, and x = 0 makes the sum over them empty.
        """
        score_VNr = self.buffer("score", self.V, self.N, x_VQr.shape[2])
        torch.bmm(S_VNQ, x_VQr, out=score_VNr)
        if missing_V1r.any():  # filling with a mask takes longer than the product
            score_VNr.masked_fill_(missing_V1r, torch.finfo(self.dtype).min)
        return score_VNr


def _slices(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _own(gradient: Tensor, like: Tensor) -> Tensor:
    """A contiguous tensor of its own: outputs of an operator may share no memory."""
    return gradient.to(like.dtype).clone(memory_format=torch.contiguous_format)
