"""Runs of patches that fit a processor's cache, cut from a head output and its target, and the layouts of both.

Dimensions: B batch · O output variables · H latitude rows · W longitude columns · p patch edge · P = p·p pixels ·
L = (H/p)·(W/p) patches, row-major · h, w patch rows and columns of one run · n = h·w·P pixels of one run. A leading
`...` stands for samples, or samples and ensemble members.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from climax_hpc.kernels.workspace import Scratch

Box = tuple[int, slice, slice]
"""Sample, patch rows and patch columns of one run."""


def are_fields(h_BLPO: Tensor, patch: int) -> bool:
    """Whether the head output (..., L, P·O) is a view of fields (..., O, H, W), as operators on fields hand them in."""
    return patch == 1 and not h_BLPO.is_contiguous() and h_BLPO.transpose(-2, -1).is_contiguous()


def gradient_like(h_BLPO: Tensor, patch: int, dtype: torch.dtype | None = None) -> Tensor:
    """Unwritten memory for the gradient: laid out as fields where the head output is, else contiguous."""
    if are_fields(h_BLPO, patch):
        return h_BLPO.new_empty(h_BLPO.transpose(-2, -1).shape, dtype=dtype).transpose(-2, -1)
    return h_BLPO.new_empty(h_BLPO.shape, dtype=dtype)


def head_shape(y_BOHW: Tensor, patch: int) -> tuple[int, int]:
    """Patches L and their numbers P·O in the head output of these targets.

    Raises:
        ValueError: the fields are not made of whole patches.
    """
    _, num_out, H, W = y_BOHW.shape
    if H % patch or W % patch:
        raise ValueError(f"fields of {H} rows and {W} columns are not made of whole {patch}×{patch} patches")
    return (H // patch) * (W // patch), patch * patch * num_out


def check_weights(weight_H: Tensor, y_BOHW: Tensor) -> None:
    """Refuse area weights of other rows than those of the targets.

    Raises:
        ValueError: names both.
    """
    if weight_H.shape != y_BOHW.shape[2:3]:
        raise ValueError(
            f"latitude weights have shape {tuple(weight_H.shape)}, the targets have {y_BOHW.shape[2]} rows"
        )


def sum_dtype(h_BLPO: Tensor, y_BOHW: Tensor) -> torch.dtype:
    """Type of sums: float64 if prediction or target is, else float32."""
    return torch.float64 if torch.float64 in (h_BLPO.dtype, y_BOHW.dtype) else torch.float32


class PatchRuns:
    """Sizes, runs and buffers of one call; numbers in `dtype`."""

    def __init__(self, num_out: int, width: int, weight_H: Tensor, patch: int, dtype: torch.dtype) -> None:
        self.num_out, self.patch, self.dtype = num_out, patch, dtype
        self.rows, self.columns = len(weight_H) // patch, width // patch
        weight_hp = weight_H.to(dtype).view(self.rows, 1, patch, 1)
        self.weight_hwpp = weight_hp.expand(self.rows, self.columns, patch, patch).contiguous()
        self.buffer = Scratch(weight_H, dtype)

    def boxes(self, samples: int, run_bytes: int) -> Iterator[Box]:
        """Sample, patch rows and patch columns of each run of at most so many bytes, at least one patch."""
        patches = max(1, run_bytes // (self.patch**2 * self.num_out * self.dtype.itemsize))
        columns = min(self.columns, patches)
        rows = max(1, min(self.rows, patches // columns))
        for b in range(samples):
            for h in range(0, self.rows, rows):
                for w in range(0, self.columns, columns):
                    yield b, slice(h, min(h + rows, self.rows)), slice(w, min(w + columns, self.columns))

    def of_head(self, t_BLPO: Tensor) -> Tensor:
        """A tensor like the head output as patch rows and columns, pixel rows and columns, variables."""
        p = self.patch
        return t_BLPO.unflatten(-1, (p, p, self.num_out)).unflatten(-4, (self.rows, self.columns))

    def target(self, y_BOHW: Tensor, box: Box) -> Tensor:
        """The target of a run, transposed in the cache to the order of the head output: y_hwppO."""
        b, rows, columns = box
        p, h, w = self.patch, rows.stop - rows.start, columns.stop - columns.start
        n = h * w * p * p
        target_On = self.buffer("target", self.num_out, n)
        target_On.view(self.num_out, h * p, w * p).copy_(
            y_BOHW[b, :, rows.start * p : rows.stop * p, columns.start * p : columns.stop * p]
        )
        y_nO = self.buffer("transposed", n, self.num_out).copy_(target_On.t())
        return y_nO.view(h, p, w, p, self.num_out).transpose(1, 2)

    def weight(self, box: Box) -> Tensor:
        """Weights of the pixels of a run: weight_n."""
        return self.weight_hwpp[box[1:]].flatten()
