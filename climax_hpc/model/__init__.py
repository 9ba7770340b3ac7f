"""ClimaX: aggregator, blocks, head, output modes."""

from typing import TYPE_CHECKING, Any

from climax_hpc.model.config import ModelConfig

if TYPE_CHECKING:
    from climax_hpc.model.climax import ClimaX

__all__ = ["ClimaX", "ModelConfig"]


def __getattr__(name: str) -> Any:
    """The model class, on first use: settings, `--help` and `submit` need no torch, which takes seconds to import."""
    if name != "ClimaX":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from climax_hpc.model.climax import ClimaX

    return ClimaX
