"""ClimaX: aggregator, blocks, head, output modes; and the networks that it is compared with."""

from climax_hpc.model.build import build_network
from climax_hpc.model.climax import ClimaX
from climax_hpc.model.config import ModelConfig

__all__ = ["ClimaX", "ModelConfig", "build_network"]
