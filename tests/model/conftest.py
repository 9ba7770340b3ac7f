"""Fixtures of the tests of networks."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def no_earlier_graphs() -> Iterator[None]:
    """Compiles from nothing, and leaves no graphs."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()
