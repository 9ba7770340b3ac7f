"""Base class of all networks: config, indices of variables, and checks of the input.

Dimensions: B batch · V input variables · H, W grid, or the rows of this rank's band.
"""

from collections.abc import Sequence
from difflib import get_close_matches

from torch import Tensor, nn

from climax_hpc.errors import UserError
from climax_hpc.model.band import RowBand
from climax_hpc.model.config import ModelConfig

LEAD_UNIT_HOURS = 100.0  # networks take the lead time in hundreds of hours, as ClimaX


class BaseNetwork(nn.Module):
    """Base of the networks that `build_network` creates."""

    band: RowBand | None = None
    """The rows that this rank takes and gives; None: all."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.index = {name: i for i, name in enumerate(config.variables)}

    @property
    def bands(self) -> int:
        """Number of bands that a sample is shared out in."""
        return 1 if self.band is None else self.band.size

    def variable_ids(self, names: Sequence[str]) -> list[int]:
        """Indices of these variables among the model's.

        Raises:
            UserError: a variable that the model does not have, or one given twice.
        """
        for name in names:
            if name not in self.index:
                near = get_close_matches(name, self.index, n=3, cutoff=0.5)
                hint = f"; nearest: {', '.join(near)}" if near else ""
                raise UserError(f"variable {name!r} is not among the model's {len(self.index)} variables{hint}")
        if len(set(names)) != len(names):
            raise UserError(f"a variable is given twice: {', '.join(sorted(names))}")
        return [self.index[name] for name in names]

    def check_image(self, x_BVHW: Tensor, in_variables: Sequence[str]) -> None:
        """Check that an image matches these variables and the model's grid.

        Raises:
            ValueError: another grid, or another number of channels than names.
        """
        expected = (len(in_variables), self.config.height // self.bands, self.config.width)
        if tuple(x_BVHW.shape[1:]) != expected:
            raise ValueError(
                f"input has (channels, rows, columns) = {tuple(x_BVHW.shape[1:])}, but variable names and model need "
                f"{expected}; regrid the input, or build the model for its grid"
            )
