"""Says where half precision is slower than float32: on processors without instructions for it."""

import sys

import torch


def warn_if_emulated(key: str, precision: str, device: torch.device) -> None:
    """Print one line if this processor has no instructions for products in `precision`, the value of setting `key`.

    Without AVX-512 PyTorch computes them element by element: on an AMD EPYC with AVX2 `climax-hpc bench kernels` took
    726 s for a front-end step in bfloat16 and 14.9 s in float32.
    """
    supported = {
        "bfloat16": torch.ops.mkldnn._is_mkldnn_bf16_supported,
        "float16": torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    if device.type == "cpu" and precision in supported and not supported[precision]():
        print(
            f"climax-hpc: warning: {key} {precision}: this processor has no instructions for it, so that products take "
            f"many times as long as in float32; use {key} float32 here",
            file=sys.stderr,
            flush=True,
        )
