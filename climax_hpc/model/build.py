"""Builds the network of a ModelConfig. Register a new `model.kind` here."""

from climax_hpc.model.base import BaseNetwork
from climax_hpc.model.climate_projection import FieldProjection, LinearProjection, ProjectionClimaX
from climax_hpc.model.climax import ClimaXNetwork
from climax_hpc.model.config import ModelConfig
from climax_hpc.model.linear import LinearRegression
from climax_hpc.model.resnet import ResNet
from climax_hpc.model.unet import UNet

NETWORKS: dict[str, type[BaseNetwork]] = {
    "climax": ClimaXNetwork,
    "linear": LinearRegression,
    "resnet": ResNet,
    "unet": UNet,
}
PROJECTIONS: dict[str, type[BaseNetwork]] = {
    "climax": ProjectionClimaX,
    "linear": LinearProjection,
    "resnet": FieldProjection,
    "unet": FieldProjection,
}


def build_network(config: ModelConfig) -> BaseNetwork:
    """Network with random weights; all kinds have the same `forward` and their config as `.config`."""
    return (PROJECTIONS if config.years else NETWORKS)[config.kind](config)
