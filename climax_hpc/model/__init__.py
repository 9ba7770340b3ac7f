"""ClimaX: aggregator, blocks, head, output modes."""

from climax_hpc.model.climax import ClimaX
from climax_hpc.model.config import ModelConfig

__all__ = ["ClimaX", "ModelConfig"]
