"""climax_hpc: from raw CMIP6 simulations to ClimaX-type foundation models and verified forecasts."""

from importlib import import_module
from typing import TYPE_CHECKING

from climax_hpc.utils.provenance import package_version

if TYPE_CHECKING:
    from climax_hpc import launch
    from climax_hpc.data.dataset import DataSet
    from climax_hpc.data_prep.config import PackConfig
    from climax_hpc.data_prep.pack import pack
    from climax_hpc.data_prep.verify import verify
    from climax_hpc.errors import UserError
    from climax_hpc.inference.api import ClimaX
    from climax_hpc.shards.xarray_view import open_physical

__all__ = ["ClimaX", "DataSet", "PackConfig", "UserError", "__version__", "launch", "open_physical", "pack", "verify"]
__version__ = package_version()

# Imported when asked for: the command line must not wait for torch.
_MODULES = {
    "ClimaX": "climax_hpc.inference.api",
    "DataSet": "climax_hpc.data.dataset",
    "PackConfig": "climax_hpc.data_prep.config",
    "UserError": "climax_hpc.errors",
    "open_physical": "climax_hpc.shards.xarray_view",
    "pack": "climax_hpc.data_prep.pack",
    "verify": "climax_hpc.data_prep.verify",
}

if not TYPE_CHECKING:  # type checkers see the imports above, and report any other name

    def __getattr__(name: str) -> object:
        """A public name, imported when it is first asked for."""
        if name == "launch":
            return import_module("climax_hpc.launch")
        if name in _MODULES:
            return getattr(import_module(_MODULES[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted(__all__)
