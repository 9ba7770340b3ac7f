"""Task `forecast`: fine-tunes a checkpoint, or trains from scratch, for global, regional or windowed forecasts."""

from dataclasses import replace

from climax_hpc.checkpoint.format import Checkpoint, load_checkpoint
from climax_hpc.checkpoint.noise import announce_noise, with_noise
from climax_hpc.checkpoint.regional import global_config
from climax_hpc.checkpoint.transfer import announce, check_same_model, transfer
from climax_hpc.config.training import FinetuneConfig
from climax_hpc.errors import UserError
from climax_hpc.training.train import train


def finetune(config: FinetuneConfig) -> None:
    """Fine-tune for forecasting on one data set.

    Raises:
        UserError: as `train`, or the checkpoint holds a model of another size.
    """
    train(config, starting_weights(config))


def starting_weights(config: FinetuneConfig) -> Checkpoint | None:
    """The checkpoint of the config, transferred to its model if asked for; None to start from random weights.

    Raises:
        UserError: no such checkpoint, or it does not fit the model (with `transfer`: nothing of it fits).
    """
    if config.checkpoint is None:
        return None
    start = load_checkpoint(config.checkpoint)
    if start.metadata.config.years:
        raise UserError(
            f"checkpoint {start.path} is a climate projection and can only start task: projection; give a checkpoint "
            "that forecasts or downscales, or train from scratch with checkpoint: null"
        )
    model, noise_dim = config.model, config.model.noise_dim
    if not start.metadata.config.noise_dim:  # it is added to what fits a network without
        model = replace(model, noise_dim=0)
    if config.transfer:
        start = transfer(start, model, config.train.seed)
        announce(start)
    else:
        check_same_model(replace(start, metadata=replace(start.metadata, config=global_config(start))), model)
    if noise_dim == start.metadata.config.noise_dim:
        return start
    start = with_noise(start, noise_dim, config.train.seed)
    announce_noise(start)
    return start
