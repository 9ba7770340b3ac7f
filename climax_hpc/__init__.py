"""climax_hpc: from raw CMIP6 simulations to ClimaX-type foundation models and verified forecasts."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from climax_hpc.inference.api import ClimaX

__all__ = ["ClimaX", "__version__"]
__version__ = version("climax_hpc")


def __getattr__(name: str) -> Any:
    """`climax_hpc.ClimaX`, imported when it is asked for: the command line must not wait for torch."""
    if name == "ClimaX":
        from climax_hpc.inference.api import ClimaX

        return ClimaX
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
