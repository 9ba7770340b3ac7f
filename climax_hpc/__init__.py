"""climax_hpc: from raw CMIP6 simulations to ClimaX-type foundation models and verified forecasts."""

from importlib.metadata import version

__version__ = version("climax_hpc")
