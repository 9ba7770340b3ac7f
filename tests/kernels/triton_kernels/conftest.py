"""Tests of Triton kernels: on a GPU where there is one, else in Triton's interpreter on the CPU.

`TRITON_INTERPRET` must be set before triton is imported, which other tests of the suite do without it, so
`tests/kernels/test_triton_kernels.py` runs this folder in processes of its own. Without the variable and without a GPU
nothing here is collected. By hand: `TRITON_INTERPRET=1 pytest tests/kernels/triton_kernels`.
"""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch

from climax_hpc.kernels.dispatch import interpreting
from climax_hpc.kernels.testing import bfloat16_in_the_interpreter, poisoned_memory

collect_ignore_glob = [] if interpreting() or torch.cuda.is_available() else ["test_*.py"]


@pytest.fixture(autouse=True)
def bfloat16_as_on_hardware() -> Iterator[None]:
    """The interpreter's bfloat16 is wrong as it stands."""
    with bfloat16_in_the_interpreter() if interpreting() else nullcontext():
        yield


@pytest.fixture(autouse=True)
def unwritten_memory_is_poisoned() -> Iterator[None]:
    """What a kernel forgets to write shows."""
    with poisoned_memory():
        yield
