"""Counts the operators that Python starts, the fused kernels of compiled code, and the waits of the host for a device.

On a GPU every call is at least one launch by the host, so their number is the least time of a step however small the
batch is. They are the same on a CPU, which therefore counts them for a GPU.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "lift_fresh", "bincount")
"""Operators for which the host waits for a GPU: values read by Python, sizes that depend on values, and tensors from
Python numbers, whose memory is not pinned."""
WITHOUT_A_KERNEL = ("_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
"""Operators beside the views that start no kernel."""
READING = ("tolist", "cpu", "numpy", "__array__")
"""Methods of a tensor that copy it to the host; on a CPU they start no operator."""


class OperatorCalls(TorchDispatchMode):
    """Counts every operator that this thread starts; compiled code stays compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        """Name of the operator, or `compiled` for a fused kernel -> calls."""
        self.kernels: Counter[str] = Counter()
        """The same without views and allocations: what a GPU would be given."""
        self.waits: Counter[str] = Counter()
        """Name -> calls for which the host would wait for a GPU."""
        self._reads = _Reads(self.waits)

    def clear(self) -> None:
        """Start again from zero."""
        for counter in (self.calls, self.kernels, self.waits):
            counter.clear()

    def add(self, name: str, *, kernel: bool = True) -> None:
        """Count one call."""
        self.calls[name] += 1
        self.kernels[name] += kernel

    def __enter__(self) -> "OperatorCalls":
        self._reads.__enter__()
        _counting.append(self)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _counting.remove(self)
        self._reads.__exit__(*error)

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """True: `torch.compile` compiles while this mode is active."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func.overloadpacket).split(".")[-1]
        self.add(name, kernel=not func.is_view and name not in WITHOUT_A_KERNEL)
        if name in WAITING or (name in ("index", "index_put_") and _has_mask(args[1])):
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))


def _has_mask(indices: Any) -> bool:
    return any(index is not None and index.dtype == torch.bool for index in indices)


class _Reads(TorchFunctionMode):
    """Counts the methods READING."""

    def __init__(self, waits: "Counter[str]") -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in READING:
            self._waits[func.__name__] += 1
        return func(*args, **(kwargs or {}))


_counting: list[OperatorCalls] = []


@contextmanager
def counted_kernels() -> Iterator[None]:
    """What is compiled for the CPU inside this block reports its fused kernels to the counters that are active."""
    from torch._inductor.async_compile import AsyncCompile

    compile_kernel = AsyncCompile.cpp_pybinding

    def counted(self: Any, *arguments: Any, **options: Any) -> Callable[..., Any]:
        kernel = compile_kernel(self, *arguments, **options)

        def run(*tensors: Any, **sizes: Any) -> Any:
            for counter in _counting:
                counter.add("compiled")
            return (kernel.result() if hasattr(kernel, "result") else kernel)(*tensors, **sizes)

        return run

    AsyncCompile.cpp_pybinding = counted  # type: ignore[method-assign]
    try:
        yield
    finally:
        AsyncCompile.cpp_pybinding = compile_kernel  # type: ignore[method-assign]
