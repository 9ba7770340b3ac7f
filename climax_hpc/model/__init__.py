"""Networks: ClimaX with aggregator, blocks, head and output modes; and the baselines that it is compared with."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from climax_hpc.model.config import ModelConfig

if TYPE_CHECKING:
    from climax_hpc.model.build import build_network
    from climax_hpc.model.climax import ClimaXNetwork

__all__ = ["ClimaXNetwork", "ModelConfig", "build_network"]

_MODULES = {"ClimaXNetwork": "climax_hpc.model.climax", "build_network": "climax_hpc.model.build"}


def __getattr__(name: str) -> Any:
    """Import the networks on first use: config, `--help` and `submit` need no torch, whose import takes seconds."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
