"""Tests of Triton kernels: on a GPU where there is one, else in Triton's interpreter on the CPU.

`TRITON_INTERPRET` must be set before triton is imported, which other tests of the suite do without it, so
`tests/kernels/test_triton_kernels.py` runs this folder in processes of its own. Without the variable and without a GPU
nothing here is collected. By hand: `TRITON_INTERPRET=1 pytest tests/kernels/triton_kernels`.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from climax_hpc.kernels.dispatch import interpreting
from climax_hpc.kernels.testing import bfloat16_in_the_interpreter

collect_ignore_glob = [] if interpreting() or torch.cuda.is_available() else ["test_*.py"]


@pytest.fixture(autouse=True)
def bfloat16_as_on_hardware() -> Iterator[None]:
    """The interpreter's bfloat16 is wrong as it stands."""
    with bfloat16_in_the_interpreter() if interpreting() else nullcontext():
        yield


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is allocated unwritten holds NaN: what a kernel forgets to write shows."""
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        allocate = getattr(owner, name)

        def poisoned(*args: Any, _allocate: Callable[..., torch.Tensor] = allocate, **options: Any) -> torch.Tensor:
            out = _allocate(*args, **options)
            return out.fill_(torch.nan) if out.is_floating_point() else out

        monkeypatch.setattr(owner, name, poisoned)
