"""climax_hpc: from raw CMIP6 simulations to ClimaX-type foundation models and verified forecasts."""

from typing import TYPE_CHECKING, Any

from climax_hpc.utils.provenance import package_version

if TYPE_CHECKING:
    from climax_hpc.inference.api import ClimaX

__all__ = ["ClimaX", "__version__"]
__version__ = package_version()


def __getattr__(name: str) -> Any:
    """`climax_hpc.ClimaX`, imported when it is asked for: the command line must not wait for torch."""
    if name == "ClimaX":
        from climax_hpc.inference.api import ClimaX

        return ClimaX
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
