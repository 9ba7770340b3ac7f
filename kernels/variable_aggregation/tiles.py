"""Tiles, chunks and compile-time arguments of the Triton kernels, by the sizes of a call.

Dimensions: B batch · V variables · H latitude rows · W longitude columns · p patch edge · P = p·p · Q = P+1 ·
L = (H/p)·(W/p) patches · R = B·L rows · N heads · K head width · J = K padded to a power of two >= 16 ·
C = ceil(V/16) blocks of 16 variables.
"""

import math
from typing import Any, NamedTuple

import triton

LANES = 16
SCRATCH_BYTES = 128 << 20
"""Packed pixels and score scratch of one chunk. On an H100 few large chunks beat many that stay in its cache."""
MAX_CHUNK_ROWS = 1 << 16
"""Keeps offsets into o (rows · D) in 32 bits up to D = 32768."""
ROW_BLOCK = 128
"""Rows are padded to this, the largest row tile, so that no load of packed pixels needs a mask."""


class Tile(NamedTuple):
    """Shape of the work of one program; `python -m climax_hpc.kernels.aot` compiles each one for each target."""

    rows: int
    planes: int
    warps: int
    stages: int
    heads: int = 1


def tile(kernel: str, itemsize: int, head: int, patch: int) -> Tile:
    """Tile of one kernel, for elements of `itemsize` bytes and a padded head width of `head`; reasons in README.md."""
    wide, single = head > 64, itemsize == 4
    if kernel in ("pack", "unpack"):
        return Tile(rows=64 // patch, planes=1, warps=4, stages=1)
    if kernel == "weights":
        columns = (32 if single else 64) // lanes(patch)
        return Tile(rows=64, planes=min(columns, patch * patch), warps=4, stages=2, heads=columns)
    if kernel == "values":
        if single or patch == 1:
            return Tile(rows=64, planes=1, warps=8 if wide else 4, stages=2, heads=1 if single else 2)
        return Tile(rows=64, planes=4, warps=4, stages=2, heads=2 if wide else 4)
    if kernel == "dweights":
        if single or patch == 1:
            few = head <= 32 or (single and not wide)
            return Tile(rows=32 if single and wide and patch > 1 else 64, planes=1, warps=4 if few else 8, stages=2)
        return Tile(rows=64, planes=4, warps=8 if wide else 4, stages=2)
    if kernel == "dmaps":
        rows = 64 if not single else 16 if wide else 32
        return Tile(rows=rows, planes=4, warps=8 if wide else 4, stages=2)
    planes = 1 if single or patch == 1 else 4
    return Tile(rows=64, planes=planes, warps=8 if wide or single else 4, stages=2)


def lanes(patch: int) -> int:
    """Neighbouring variables of one product of the weights kernel: few, as each is multiplied with every other."""
    return 4 if patch > 2 else LANES


class Problem(NamedTuple):
    """Sizes of one call."""

    B: int
    V: int
    H: int
    W: int
    p: int
    N: int
    K: int

    @property
    def Q(self) -> int:
        return self.p * self.p + 1

    @property
    def L(self) -> int:
        return (self.H // self.p) * (self.W // self.p)

    @property
    def R(self) -> int:
        return self.B * self.L

    @property
    def C(self) -> int:
        return triton.cdiv(self.V, LANES)

    @property
    def J(self) -> int:
        return max(16, triton.next_power_of_2(self.K))

    def image_arguments(self) -> tuple[int, ...]:
        return self.L, self.W // self.p, self.V, self.W, self.H * self.W

    def chunk_rows(self, itemsize: int, backward: bool) -> int:
        """Rows of one chunk, a multiple of the row block; sizes alone decide, so that sums keep their order."""
        row_bytes = self.C * LANES * itemsize * (self.Q + (2 if backward else 1) * self.N)
        limit = max(min(SCRATCH_BYTES // row_bytes, MAX_CHUNK_ROWS), ROW_BLOCK)
        chunks = triton.cdiv(self.R, limit)
        return triton.cdiv(triton.cdiv(self.R, chunks), ROW_BLOCK) * ROW_BLOCK


def constants(kernel: str, size: Problem, itemsize: int, target: str) -> dict[str, Any]:
    """Compile-time arguments and launch options of one kernel for one target, such as "sm_90" or "gfx942".

    Products of float32 are `tf32x3` on NVIDIA: tensor cores, float32's accuracy. AMD multiplies float32 as it is.
    """
    shape = tile(kernel, itemsize, size.J, size.p)
    options: dict[str, Any] = {"BLOCK": shape.rows, "num_warps": shape.warps, "num_stages": shape.stages}
    if kernel in ("pack", "unpack"):
        return {"p": size.p, **options}
    precision = "tf32x3" if target.startswith("sm_") and itemsize == 4 else "ieee"
    options |= {"N": size.N, "PLANES": shape.planes, "PRECISION": precision}
    if kernel in ("weights", "values", "dweights"):
        options["P"] = size.p * size.p
    if kernel == "weights":
        heads = min(shape.heads, max(triton.next_power_of_2(size.N), LANES // lanes(size.p)))
        return {**options, "LANES": lanes(size.p), "HEADS": heads, "TERMS": 1 if itemsize == 4 else 2}
    if kernel == "values":
        # Before Hopper both operands of a product lie in registers, and as many heads would spill.
        heads = max(shape.heads // 2, 1) if target.startswith("sm_8") else shape.heads
        if size.K < size.J <= 32:  # two narrow heads with masks spill on AMD, and with Triton 3.6.0 on Blackwell
            heads = 1
        options["HEADS"] = math.gcd(size.N, heads)
    if kernel == "dx" and target.startswith("sm_8") and itemsize == 4 and size.J > 64:  # for the same reason
        options["BLOCK"] = 32
    return {"HEAD": size.K, "K": size.J, **options}
