"""Blocks compiled for a test, with a count of their graphs."""

from collections.abc import Iterable
from typing import Any

from torch._dynamo.testing import CompileCounterWithBackend


def compiled(blocks: Iterable[Any], backend: str = "aot_eager") -> CompileCounterWithBackend:
    """Compile every block; the result counts the graphs."""
    counter = CompileCounterWithBackend(backend)
    for block in blocks:
        block.compile(fullgraph=True, backend=counter)
    return counter
