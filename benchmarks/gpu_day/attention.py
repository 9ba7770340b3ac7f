"""Stage `attention`: PyTorch's attention backends at the sizes of the blocks, flash against cuDNN.

Dimensions: B batch · N heads · L patches · K head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu_day.record import Record
from benchmarks.gpu_day.timing import Run, copies, device, device_seconds, seconds
from climax_hpc.kernels.benchmarking import step
from climax_hpc.kernels.testing import relative_error

SIZES = {"32x64_b64": (64, 16, 512, 64), "128x256_b16": (16, 16, 2048, 64)}
TINY = {"32x64_b64": (2, 2, 16, 8), "128x256_b16": (1, 2, 33, 8)}
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH}
CHECKED = 2
"""Samples held against float64, whose scores take gigabytes."""
TOLERANCE = 1.5e-2  # weights and output rounded to bfloat16, and sums over L of rounded gradients


def attention(record: Record) -> None:
    """Forward pass, and forward and backward pass, of each backend that runs here and is right."""
    for label, (B, N, L, K) in (TINY if record.rehearsal else SIZES).items():
        inputs = [torch.randn(4, B, N, L, K, device=device()).bfloat16() for _ in range(copies(4 * 2 * B * N * L * K))]
        truth = results("math", inputs[0][:, :CHECKED].double())
        # Two products of the scores' size forward, five backward, as plan counts them.
        product = 2 * B * N * L * L * K
        for backend in BACKENDS:
            if backend == "math" and not record.rehearsal:
                continue  # what flash and cuDNN replace takes seconds
            try:
                found = results(backend, inputs[0])
            except RuntimeError as error:
                print(f"attention/{label}: {backend} does not run here: {str(error)[:200]}", flush=True)
                continue
            worst = max(relative_error(mine[:CHECKED], theirs) for mine, theirs in zip(found, truth, strict=True))
            name = f"attention/{label}"
            record.add(f"error/{name}/{backend}", worst, "1")
            if record.check(f"{name}/{backend}", worst < TOLERANCE, tolerance=TOLERANCE):
                measure(record, name, backend, inputs, product)


def measure(record: Record, name: str, backend: str, inputs: list[Tensor], product: int) -> None:
    """Rows of one backend."""
    passes: dict[str, tuple[list[Run], int]] = {"forward": ([], 2), "step": ([], 7)}
    for qkv_do in inputs:
        q, k, v, do = qkv_do
        leaves = [t.detach().requires_grad_() for t in (q, k, v)]
        passes["forward"][0].append(lambda q=q, k=k, v=v: forward(backend, q, k, v))
        passes["step"][0].append(step(lambda leaves=leaves: forward(backend, *leaves), leaves, do))
    for which, (runs, products) in passes.items():
        limit = record.limit(products * product, inputs[0].nbytes)
        for suffix, clock in (("", seconds), ("_device", device_seconds)):
            time = clock(*runs)
            record.add(f"{name}/{which}{suffix}/{backend}", time.median, "s", p20=time.p20, p80=time.p80, limit=limit)


def forward(backend: str, q_BNLK: Tensor, k_BNLK: Tensor, v_BNLK: Tensor) -> Tensor:
    """Attention by one backend."""
    with sdpa_kernel(BACKENDS[backend]):
        return F.scaled_dot_product_attention(q_BNLK, k_BNLK, v_BNLK)


def results(backend: str, qkv_do: Tensor) -> list[Tensor]:
    """Output and gradients."""
    *leaves, do = (t.detach() for t in qkv_do)
    leaves = [t.requires_grad_() for t in leaves]
    output = forward(backend, *leaves)
    return [output.detach(), *torch.autograd.grad(output, leaves, do)]


STAGES = {"attention": attention}
