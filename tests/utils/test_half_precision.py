"""A processor that emulates half precision is named in one line; others, and float32, print nothing."""

import pytest
import torch

from climax_hpc.utils.half_precision import warn_if_emulated


@pytest.mark.parametrize(
    ("precision", "device", "supported", "warns"),
    [
        ("bfloat16", "cpu", False, True),
        ("float16", "cpu", False, True),
        ("bfloat16", "cpu", True, False),
        ("float32", "cpu", False, False),
        ("tf32", "cpu", False, False),
        ("bfloat16", "cuda", False, False),
    ],
)
def test_emulated_half_precision(
    precision: str,
    device: str,
    supported: bool,
    warns: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name in ("_is_mkldnn_bf16_supported", "_is_mkldnn_fp16_supported"):
        monkeypatch.setattr(torch.ops.mkldnn, name, lambda: supported)
    warn_if_emulated("train.precision", precision, torch.device(device))
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == warns
    assert all(line.startswith(f"climax-hpc: warning: train.precision {precision}") for line in lines)
    assert all(line.endswith("use train.precision float32 here") for line in lines)
