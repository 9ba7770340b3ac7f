"""Noise for a deterministic checkpoint, so that fine-tuning makes an ensemble of it: at first without any effect."""

from dataclasses import replace

import torch

from climax_hpc.checkpoint.format import Checkpoint
from climax_hpc.distributed import process_group
from climax_hpc.model import build_network
from climax_hpc.model.noise import NoiseScale, NoiseShift


def with_noise(start: Checkpoint, noise_dim: int, seed: int) -> Checkpoint:
    """The checkpoint of a network with noise whose members all forecast what the deterministic one does.

    `seed`: of the weights that make the noise depend on the lead time; the maps from noise to blocks start at 0.
    """
    config = replace(start.metadata.config, noise_dim=noise_dim)
    weights = dict(start.weights)
    with torch.device("meta"):
        network = build_network(config)
    torch.manual_seed(seed)
    for name, module in network.named_modules():
        if isinstance(module, NoiseScale | NoiseShift):
            module.to_empty(device="cpu")
            module.reset_parameters()
            weights |= {f"{name}.{key}": value.clone() for key, value in module.state_dict().items()}
    return replace(start, metadata=replace(start.metadata, config=config), weights=weights)


def announce_noise(start: Checkpoint) -> None:
    """Print on rank 0 what `with_noise` has added."""
    if process_group.detect().rank == 0:
        print(
            f"noise: checkpoint {start.path} is deterministic; model.noise_dim = {start.metadata.config.noise_dim} "
            "begins without effect",
            flush=True,
        )
