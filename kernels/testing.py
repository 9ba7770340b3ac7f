"""What tests and benchmarks of kernels share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from climax_hpc.kernels.dispatch import interpreting


def relative_error(ours: Tensor, truth: Tensor) -> float:
    """|ours - truth| / |truth| in the 2-norm, computed in float64; |ours| where the truth is 0; inf where NaN."""
    ours64, truth64 = ours.detach().double(), truth.detach().double()
    error = (ours64 - truth64).norm() / (truth64.norm() if truth64.any() else 1)
    return float("inf") if error.isnan() else float(error)


def triton_device() -> str:
    """Where tests run Triton kernels: the CPU under the interpreter, else the GPU."""
    return "cpu" if interpreting() else "cuda"


def scatter_missing(x_BVHW: Tensor, patch: int) -> Tensor:
    """A copy with every kind of gap: single pixels, a whole patch, a whole variable, a location with nothing."""
    x_BVHW = x_BVHW.clone()
    pixels = torch.rand(x_BVHW.shape, generator=torch.Generator().manual_seed(1)) < 0.2
    x_BVHW[pixels] = torch.nan
    x_BVHW[0, 0, :patch, -patch:] = torch.nan
    x_BVHW[-1, -1] = torch.nan
    x_BVHW[0, :, -patch:, :patch] = torch.nan
    return x_BVHW


def saved_bytes(forward: Callable[[], Tensor], besides: Sequence[Tensor]) -> tuple[Tensor, int]:
    """Output of `forward`, and the bytes of the distinct storages that it saves for backward, `besides` not counted."""
    own = {t.untyped_storage().data_ptr() for t in besides}
    kept: list[Tensor] = []  # keeping them alive keeps two storages from having one address in turn

    def record(t: Tensor) -> Tensor:
        kept.append(t.detach())
        return t

    with torch.autograd.graph.saved_tensors_hooks(record, lambda t: t):
        output = forward()
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    return output, sum(size for pointer, size in storages.items() if pointer not in own)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Memory that is allocated unwritten holds NaN: what a kernel forgets to write shows."""

    def poisoned(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def allocated(*args: Any, **options: Any) -> Tensor:
            out = allocate(*args, **options)
            return out.fill_(torch.nan) if out.is_floating_point() else out

        return allocated

    with ExitStack() as patches:
        for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
            patches.enter_context(mock.patch.object(owner, name, poisoned(getattr(owner, name))))
        yield


@contextmanager
def bfloat16_in_the_interpreter() -> Iterator[None]:
    """Makes Triton's interpreter treat bfloat16 as hardware does: exact products, rounding to the nearest.

    It holds bfloat16 as bits in uint16, multiplies those as integers, and cuts float32 to make them. Here products
    widen their operands to float32, and float32 is rounded to the nearest bfloat16.
    """
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

    def widened(handle: Any) -> Any:
        if handle.dtype != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return create_dot(self, widened(a), widened(b), *rest)

    with (
        mock.patch.object(interpreter, "_convert_float", rounded),
        mock.patch.object(InterpreterBuilder, "create_dot", dot),
    ):
        yield
