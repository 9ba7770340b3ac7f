"""From a model of the globe to one of a region: the same weights, the position embeddings of the region's patches.

Dimensions: L patches, row-major · D embedding.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from climax_hpc.checkpoint.format import Checkpoint
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import Grid
from climax_hpc.fields.regional_grid import Domain, same_domain
from climax_hpc.fields.regions import region_of
from climax_hpc.model.config import ModelConfig
from climax_hpc.model.positions import sincos_2d

POSITIONS = "pos_embed"
"""The only weights of a ClimaX that belong to places."""


def domain_of(checkpoint: Checkpoint) -> Domain | None:
    """What a regional checkpoint sees; None for a model of the globe."""
    metadata = checkpoint.metadata
    return metadata.training.domain(metadata.config.patch) if metadata.training else None


def global_config(checkpoint: Checkpoint) -> ModelConfig:
    """Model config of a checkpoint; of a regional one, that of the global model that it is a part of."""
    domain = domain_of(checkpoint)
    if domain is None:
        return checkpoint.metadata.config
    height, width = domain.globe.shape
    return replace(checkpoint.metadata.config, height=height, width=width)


def choose_domain(
    region: str | Sequence[float] | None, model: ModelConfig, start: Checkpoint | None, sources: Sequence[PackedSource]
) -> Domain | None:
    """The domain that `data.region` asks for; None without a region.

    Its globe is the grid of the checkpoint, else that of the data.

    Raises:
        UserError: a network that knows no patches, data on another grid, or a regional checkpoint of another region.
    """
    had = domain_of(start) if start else None
    if region is None:
        if start and had:
            raise UserError(
                f"checkpoint {start.path} is a model of region {had.region.name} alone: set data.region as it was, or "
                "start from the global checkpoint"
            )
        return None
    if model.kind != "climax":
        raise UserError(f"data.region: model.kind {model.kind} continues fields round the globe; use kind climax")
    globe = _globe(model, start, had, sources)
    domain = Domain(
        region=region_of(list(region) if not isinstance(region, str) else region), globe=globe, patch=model.patch
    )
    if start and had and not same_domain(domain, [had]):
        raise UserError(
            f"checkpoint {start.path} is a model of region {had.region.name}, and data.region asks for "
            f"{domain.region.name}: the positions of other patches are gone; start from the global checkpoint"
        )
    return domain


def _globe(model: ModelConfig, start: Checkpoint | None, had: Domain | None, sources: Sequence[PackedSource]) -> Grid:
    if had:
        return had.globe
    size = (model.height, model.width)
    if start and start.metadata.training and (cells := start.metadata.training.cells()).shape == size:
        return cells  # another size: `climax_hpc.checkpoint.transfer` brought it to the grid of the data
    source = sources[0]
    if source.grid.shape != size:
        raise UserError(
            f"data.region: source {source.name} lies on a grid of {source.grid.shape[0]} × {source.grid.shape[1]}, the "
            f"global model on {model.height} × {model.width}: with data.region, model.height and model.width are those "
            "of the globe"
        )
    return source.grid


def regional_config(model: ModelConfig, domain: Domain) -> ModelConfig:
    """The global model's config on the rows and columns of a domain."""
    height, width = domain.grid.shape
    return replace(model, height=height, width=width)


def regional_checkpoint(start: Checkpoint, domain: Domain) -> Checkpoint:
    """The checkpoint with the positions of the domain's patches alone; as it is where it is regional already."""
    if domain_of(start):
        return start
    places = torch.as_tensor(domain.patch_indices)
    return replace(start, weights=start.weights | {POSITIONS: start.weights[POSITIONS][:, places].contiguous()})


@torch.no_grad()
def place_positions(network: Any, domain: Domain) -> None:
    """Give a new network the start values that a global one has at the domain's patches."""
    rows, columns = (size // domain.patch for size in domain.globe.shape)
    table_LD: Tensor = sincos_2d(rows, columns, network.config.embed_dim)
    network.pos_embed.copy_(table_LD[torch.as_tensor(domain.patch_indices)])
