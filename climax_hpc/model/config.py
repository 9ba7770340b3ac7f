"""Size and options of a network, checked on construction."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal, get_args

from climax_hpc.errors import UserError
from climax_hpc.fields.variables import CLIMAX_48, lookup
from climax_hpc.utils.bounds import bounded, check_numbers

Init = Literal["climax", "scaled"]
OutputMode = Literal["full", "anomaly"]
Kind = Literal["climax", "linear", "resnet", "unet"]
Blocks = Literal["vit", "conv"]
Edges = Literal["globe", "first_pole", "last_pole", "band", "window"]
UNET_LEVELS = 4  # resolutions of the U-Net, each half of the previous one


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A network; the defaults are the paper's 5.625° ClimaX (108.1 M parameters).

    Raises:
        UserError: an invalid value; the message names the key and how to fix it.
    """

    kind: Kind = "climax"
    """The network: `climax`; or a trained baseline: `linear`, `resnet`, `unet` (docs/guides/baselines.md)."""
    blocks: Blocks = "vit"
    """Blocks of `climax`: `vit`, attention over all patches (ClimaX); `conv`, see docs/concepts/blocks.md."""
    levels: int = bounded(3, 16)
    """Grids of the pyramid of `conv` blocks, each with half the rows and columns of the one before it."""
    edges: Edges = "globe"
    """What `conv` blocks see beyond the edges of the grid; data.region sets it (docs/concepts/blocks.md)."""
    input_skip: bool = False
    """With `conv` blocks: adds a linear map of the inputs around each cell to the output (docs/concepts/blocks.md)."""
    variables: tuple[str, ...] = tuple(v.name for v in CLIMAX_48)
    """Registry names of the model's variables, in the order of its parameters (ClimaX: its 48, in checkpoint order)."""
    height: int = bounded(32, 100_000)
    """Latitude rows of the grid (ClimaX at 5.625°: 32)."""
    width: int = bounded(64, 100_000)
    """Longitude columns of the grid (ClimaX at 5.625°: 64)."""
    patch: int = bounded(2, 1024)
    """Patch edge in grid cells; divides height and width (ClimaX: 2 at 5.625°, 4 at 1.40625°)."""
    embed_dim: int = bounded(1024, 65_536)
    """Width D of tokens and blocks; a multiple of 4 and of `heads` (ClimaX, table 6); channels of `resnet`, `unet`."""
    depth: int = bounded(8, 1000)
    """Transformer blocks (ClimaX, table 6). Residual blocks of `resnet`; per resolution of `unet`, `conv`, each way."""
    heads: int = bounded(16, 1024)
    """Attention heads, in the blocks and in the variable aggregation (ClimaX, table 6)."""
    mlp_ratio: float = bounded(4.0, 1000)
    """Hidden width of a block's MLP as a multiple of embed_dim (ClimaX, table 6)."""
    decoder_depth: int = bounded(2, 100)
    """Linear+GELU pairs before the last linear layer of the head (ClimaX, table 6)."""
    dropout: float = 0.1
    """Dropout rate after the embedding, the attention projection and in the MLP, 0 <= rate < 1 (ClimaX, table 6)."""
    drop_path: float = 0.1
    """Stochastic-depth rate of the last block, rising linearly from 0 at the first, 0 <= rate < 1 (ClimaX, table 6)."""
    init: Init = "scaled"
    """Start values: `climax`: ClimaX's; `scaled`: the input is not lost (docs/concepts/initial-values.md)."""
    output_mode: OutputMode = "full"
    """`full`: the network's output is the forecast (ClimaX); `anomaly` (not in ClimaX): departures from the climatology
    in, and climatology + damped anomaly + scaled output of the network out (docs/guides/training.md#output-modes)."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass: less memory for about a third more arithmetic."""
    noise_dim: int = bounded(0, 4096)
    """Length of the noise vector that makes the members of an ensemble (FGN: 32); 0: none, the network is
    deterministic (docs/guides/ensembles.md)."""
    years: int = bounded(0, 1000)
    """Years of input of a climate projection (ClimaX: 10, docs/guides/climate-projection.md); 0: forecasting."""
    projected: tuple[str, ...] = ()
    """Registry names that a climate projection predicts from `variables`."""

    def __post_init__(self) -> None:
        check_numbers(type(self), vars(self), "model.")
        object.__setattr__(self, "variables", tuple(self.variables))
        object.__setattr__(self, "projected", tuple(self.projected))
        self._check_variables()
        self._check_projection()
        for key in ("height", "width", "patch", "embed_dim", "depth", "heads"):
            if getattr(self, key) < 1:
                raise UserError(f"model.{key} = {getattr(self, key)}: must be at least 1")
        for key in ("height", "width"):
            if getattr(self, key) % self.patch:
                raise UserError(
                    f"model.{key} = {getattr(self, key)} is not a multiple of model.patch = {self.patch}; "
                    "choose a patch that divides the grid"
                )
        if self.kind not in get_args(Kind):
            raise UserError(f"model.kind = {self.kind!r}: use one of {', '.join(get_args(Kind))}")
        if self.init not in get_args(Init):
            raise UserError(f"model.init = {self.init!r}: use one of {', '.join(get_args(Init))}")
        if self.blocks not in get_args(Blocks):
            raise UserError(f"model.blocks = {self.blocks!r}: use one of {', '.join(get_args(Blocks))}")
        if self.edges not in get_args(Edges):
            raise UserError(f"model.edges = {self.edges!r}: use one of {', '.join(get_args(Edges))}")
        for key in ("levels", "edges", "input_skip"):
            if getattr(self, key) != getattr(type(self), key) and self.blocks != "conv":
                raise UserError(
                    f"model.{key} = {getattr(self, key)}: only model.blocks conv has it; leave out model.{key}"
                )
        if self.noise_dim < 0:
            raise UserError(f"model.noise_dim = {self.noise_dim}: must be at least 0, which is no noise")
        if self.noise_dim and (self.kind != "climax" or self.years):
            what = f"model.kind {self.kind}" if self.kind != "climax" else "a climate projection"
            raise UserError(f"model.noise_dim = {self.noise_dim}: {what} takes no noise; leave out model.noise_dim")
        if self.kind == "climax":
            self._check_climax()
        else:
            self._check_baseline()
        for key in ("dropout", "drop_path"):
            if not 0 <= getattr(self, key) < 1:
                raise UserError(f"model.{key} = {getattr(self, key)}: a rate must be at least 0 and below 1")
        if self.output_mode not in get_args(OutputMode):
            raise UserError(f"model.output_mode = {self.output_mode!r}: use one of {', '.join(get_args(OutputMode))}")

    def _check_climax(self) -> None:
        codes = (4, "4 (2-D sin-cos positions)") if self.blocks == "vit" else (2, "2 (sin-cos embeddings)")
        for divisor, key in (codes, (self.heads, f"model.heads = {self.heads}")):
            if self.embed_dim % divisor:
                raise UserError(f"model.embed_dim = {self.embed_dim} is not a multiple of {key}")
        if not self.mlp_ratio * self.embed_dim >= 1:
            raise UserError(f"model.mlp_ratio = {self.mlp_ratio}: mlp_ratio × embed_dim must be at least 1")
        if self.decoder_depth < 0:
            raise UserError(f"model.decoder_depth = {self.decoder_depth}: must be at least 0")
        if self.blocks == "conv":
            self._check_pyramid()

    def _check_pyramid(self) -> None:
        if self.levels < 1:
            raise UserError(f"model.levels = {self.levels}: must be at least 1")
        halvings = 2 ** (self.levels - 1)
        even = halvings if self.edges in ("band", "window") else 2 * halvings
        rows, columns = self.patches
        if rows % halvings or columns % even:
            raise UserError(
                f"model.levels = {self.levels}: model.blocks conv halves the {rows} × {columns} patches "
                f"{self.levels - 1} times and then needs an even number of columns, so they must be multiples of "
                f"{halvings} and {even}; use fewer levels, another patch or another grid"
            )

    def _check_baseline(self) -> None:
        if self.blocks != "vit":
            raise UserError(
                f"model.blocks = {self.blocks!r}: model.kind {self.kind} has its own blocks; leave out model.blocks, "
                "or use model.kind climax"
            )
        if self.width % 2:
            raise UserError(
                f"model.width = {self.width}: model.kind {self.kind} pads fields across the poles with cells 180° of "
                "longitude away, which needs an even number of columns"
            )
        coarsest = 2 ** (UNET_LEVELS - 1)
        if self.kind == "unet" and (self.height % coarsest or self.width % (2 * coarsest)):
            raise UserError(
                f"model.height × width = {self.height} × {self.width}: model.kind unet halves both {UNET_LEVELS - 1} "
                f"times and then needs an even number of columns, so they must be multiples of {coarsest} and "
                f"{2 * coarsest}; use another grid or kind"
            )

    def _check_projection(self) -> None:
        if self.years < 0:
            raise UserError(f"model.years = {self.years}: must be at least 0")
        if bool(self.years) != bool(self.projected):
            raise UserError(
                f"model.years = {self.years} with model.projected = {list(self.projected)}: a climate projection needs "
                "both, a forecast neither"
            )
        if len(set(self.projected)) != len(self.projected):
            raise UserError("model.projected names a variable more than once")
        for name in self.projected:
            if lookup(name).static or name in self.variables:
                raise UserError(
                    f"model.projected: {name} is {'static' if lookup(name).static else 'among model.variables too'}; "
                    "a climate projection predicts other variables than its inputs"
                )
        if self.years and self.output_mode != "full":
            raise UserError(f"model.output_mode = {self.output_mode!r}: a climate projection supports only full")
        if self.years and self.kind in ("resnet", "unet") and self.embed_dim % self.heads:
            raise UserError(
                f"model.embed_dim = {self.embed_dim} is not a multiple of model.heads = {self.heads}, which attend "
                "over the years of a climate projection"
            )

    def _check_variables(self) -> None:
        if not self.variables:
            raise UserError("model.variables is empty; name at least one variable")
        repeated = [name for name, count in Counter(self.variables).items() if count > 1]
        if repeated:
            raise UserError(f"model.variables names {', '.join(repeated)} more than once")
        for name in self.variables:
            lookup(name)

    @property
    def unit(self) -> int:
        """Edge in cells of what grids and regions consist of: a patch, or for `conv` a cell of the coarsest grid."""
        return self.patch * 2 ** (self.levels - 1) if self.blocks == "conv" else self.patch

    @property
    def patches(self) -> tuple[int, int]:
        """Patch rows and patch columns; their product is the sequence length L."""
        return self.height // self.patch, self.width // self.patch
