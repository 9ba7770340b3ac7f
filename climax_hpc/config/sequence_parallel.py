"""Which networks `train.sequence_parallel` can share out, and among how many ranks."""

from math import lcm

from climax_hpc.errors import UserError
from climax_hpc.model.config import UNET_LEVELS, ModelConfig

KEY = "train.sequence_parallel"
_HALO = {"linear": 2, "resnet": 3}
"""Rows that the widest convolution of a network takes from each neighbour, where it is more than one."""


def check_shares(
    model: ModelConfig, ranks: int, region: object = None, compiled: bool | None = None, *, key: str = KEY
) -> None:
    """Refuse a network that so many ranks cannot share.

    Args:
        region: of a regional model, whose rows are known once the data are; None: the global grid.
        compiled: `train.compile`.
        key: name of the setting, for messages.

    Raises:
        UserError: names the setting that does not fit, and what to change.
    """
    if ranks == 1:
        return
    if model.years:
        raise UserError(f"{key} = {ranks}: a climate projection averages over all patches; leave {key} out")
    transformer = model.kind == "climax" and model.blocks == "vit"
    if compiled and not transformer:
        raise UserError(
            f"{key} = {ranks}: with it train.compile works for model.kind climax with model.blocks vit only; leave "
            "train.compile out"
        )
    if transformer and model.heads % ranks:
        raise UserError(
            f"{key} = {ranks} does not divide model.heads = {model.heads}, which the ranks share out in the "
            "attention; use a number that divides both heads and patch rows"
        )
    if region is None:
        check_rows(model, ranks, key=key)


def check_rows(model: ModelConfig, ranks: int, where: str = "model.height", key: str = KEY) -> None:
    """Refuse a number of patch rows that so many ranks cannot share out evenly; `where`: what the rows are those of.

    Raises:
        UserError: names both numbers.
    """
    unit = _unit(model)
    if model.height % (ranks * unit):
        what = "patch rows" if unit == model.patch else "rows of the coarsest grid"
        raise UserError(
            f"{key} = {ranks} does not divide the {model.height // unit} {what} ({where}), of which each rank owns a "
            "band; use a number that does, or another grid"
        )
    own, halo = model.height // ranks, _HALO.get(model.kind, 1)
    if own < halo:
        raise UserError(
            f"{key} = {ranks} leaves {own} rows to each rank, and the first convolution of model.kind {model.kind} "
            f"takes {halo} of each neighbour; use a smaller number"
        )


def _unit(model: ModelConfig) -> int:
    """Rows of cells that a band consists of: those of a patch, and of a cell of the coarsest grid."""
    return lcm(model.patch, 2 ** (UNET_LEVELS - 1)) if model.kind == "unet" else model.unit
