"""Tests of Triton kernels: on a GPU where there is one, else in Triton's interpreter on the CPU.

`TRITON_INTERPRET` must be set before triton is imported, which other tests of the suite do without it, so
`tests/kernels/test_triton_kernels.py` runs this folder in processes of its own. Without the variable and without a GPU
nothing here is collected. By hand: `TRITON_INTERPRET=1 pytest tests/kernels/triton_kernels`.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from climax_hpc.kernels.dispatch import interpreting

collect_ignore_glob = [] if interpreting() or torch.cuda.is_available() else ["test_*.py"]


@pytest.fixture(autouse=True)
def bfloat16_as_on_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter holds bfloat16 as bits in uint16: it multiplies those as integers, and cuts float32 to make them.

    Here products widen their operands to float32, and float32 is rounded to the nearest bfloat16.
    """
    if not interpreting():
        return
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    create_dot: Callable[..., Any] = InterpreterBuilder.create_dot
    convert: Callable[..., Any] = interpreter._convert_float

    def rounded(data: Any, source: Any, target: Any, mode: Any) -> Any:
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert(data, source, target, mode)
        bits = np.ascontiguousarray(data).view(np.uint32)
        nearest = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
        return np.where(np.isnan(data), 0x7FC0, nearest).astype(np.uint16).reshape(data.shape)

    monkeypatch.setattr(interpreter, "_convert_float", rounded)

    def widened(handle: Any) -> Any:
        if handle.dtype != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    monkeypatch.setattr(
        InterpreterBuilder, "create_dot", lambda self, a, b, *rest: create_dot(self, widened(a), widened(b), *rest)
    )


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is allocated unwritten holds NaN: what a kernel forgets to write shows."""
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        allocate = getattr(owner, name)

        def poisoned(*args: Any, _allocate: Callable[..., torch.Tensor] = allocate, **options: Any) -> torch.Tensor:
            out = _allocate(*args, **options)
            return out.fill_(torch.nan) if out.is_floating_point() else out

        monkeypatch.setattr(owner, name, poisoned)
