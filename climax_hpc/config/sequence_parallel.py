"""Which networks `train.sequence_parallel` can share out, and among how many ranks."""

from climax_hpc.errors import UserError
from climax_hpc.model.config import ModelConfig

_KEY = "train.sequence_parallel"


def check_shares(model: ModelConfig, ranks: int, *, regional: bool) -> None:
    """Refuse a network that so many ranks cannot share; the rows of a region are known once the data are.

    Raises:
        UserError: names the setting that does not fit, and what to change.
    """
    if ranks == 1:
        return
    if model.years:
        raise UserError(f"{_KEY} = {ranks}: a climate projection averages over all patches; leave {_KEY} out")
    kind = model.blocks if model.kind == "climax" else model.kind
    if kind != "vit":
        what = "model.blocks conv" if model.kind == "climax" else f"model.kind {model.kind}"
        raise UserError(
            f"{_KEY} = {ranks}: {what} cannot share a sample among ranks yet; leave {_KEY} out, or use model.kind "
            "climax with model.blocks vit"
        )
    if model.heads % ranks:
        raise UserError(
            f"{_KEY} = {ranks} does not divide model.heads = {model.heads}, which the ranks share out in the "
            "attention; use a number that divides both heads and patch rows"
        )
    if not regional:
        check_rows(model, ranks)


def check_rows(model: ModelConfig, ranks: int, where: str = "model.height / model.patch") -> None:
    """Refuse a number of patch rows that so many ranks cannot share out evenly; `where`: what the rows are those of.

    Raises:
        UserError: names both numbers.
    """
    rows = model.patches[0]
    if rows % ranks:
        raise UserError(
            f"{_KEY} = {ranks} does not divide the {rows} patch rows ({where}), of which each rank owns a band; use a "
            "number that divides both patch rows and heads"
        )
