"""Which networks can be trained with members."""

from climax_hpc.errors import require
from climax_hpc.model.config import ModelConfig


def check_members(model: ModelConfig, members: int) -> None:
    """Refuse several members of a network without noise, or with another source of spread.

    Raises:
        UserError: names the key, and what to set it to.
    """
    if members == 1:
        return
    require(
        model.noise_dim > 0,
        f"train.members = {members}: members differ by their noise, and model.noise_dim is 0: set it to 32, or leave "
        "out train.members",
    )
    for key in ("dropout", "drop_path"):
        require(
            getattr(model, key) == 0,
            f"model.{key} = {getattr(model, key):g}: it would give the train.members = {members} of a sample a spread "
            f"that their forecasts lack: set model.{key} to 0",
        )
