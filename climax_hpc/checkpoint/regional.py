"""Regional models: the weights of a global model with the position embeddings of the region's patches.

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
from climax_hpc.model.config import Edges, ModelConfig
from climax_hpc.model.positions import EMBEDDING_SCALE, sincos_2d
from climax_hpc.model.spherical_conv import POLES

POSITIONS = "pos_embed"
"""The only weights of ClimaX that depend on the location; `conv` blocks have none that do."""


def domain_of(checkpoint: Checkpoint) -> Domain | None:
    """Domain of a regional checkpoint; None for a global one."""
    metadata = checkpoint.metadata
    return metadata.training.domain(metadata.config.unit) if metadata.training else None


def global_config(checkpoint: Checkpoint) -> ModelConfig:
    """Model config of a checkpoint; for a regional one, that of the global model that it is part of."""
    domain = domain_of(checkpoint)
    if domain is None:
        return checkpoint.metadata.config
    height, width = domain.globe.shape
    return replace(checkpoint.metadata.config, height=height, width=width, edges="globe")


def choose_domain(
    region: str | Sequence[float] | None, model: ModelConfig, start: Checkpoint | None, sources: Sequence[PackedSource]
) -> Domain | None:
    """The domain for `data.region`; None without a region.

    Its global grid is that of the checkpoint, or of the data without one.

    Raises:
        UserError: a network without patches, `model.edges` given, data on another grid, a checkpoint of another region.
    """
    had = domain_of(start) if start else None
    if model.edges != "globe":
        raise UserError(f"model.edges = {model.edges}: data.region sets it; leave it out")
    if region is None:
        if start and had:
            raise UserError(
                f"checkpoint {start.path} is regional ({had.region.name}): set the same data.region, or start from the "
                "global checkpoint"
            )
        return None
    if model.kind != "climax":
        raise UserError(f"data.region: model.kind {model.kind} needs a global grid; use model.kind climax")
    globe = _globe(model, start, had, sources)
    domain = Domain(
        region=region_of(list(region) if not isinstance(region, str) else region), globe=globe, patch=model.unit
    )
    if start and had and not same_domain(domain, [had]):
        raise UserError(
            f"checkpoint {start.path} is a model of region {had.region.name}, but data.region is {domain.region.name}: "
            "it has no position embeddings for other patches; start from the global checkpoint"
        )
    return domain


def _globe(model: ModelConfig, start: Checkpoint | None, had: Domain | None, sources: Sequence[PackedSource]) -> Grid:
    if had:
        return had.globe
    size = (model.height, model.width)
    if start and start.metadata.training and (cells := start.metadata.training.cells()).shape == size:
        return cells  # with another size, `transfer` interpolated it to the grid of the data
    source = sources[0]
    if source.grid.shape != size:
        raise UserError(
            f"data.region: source {source.name} has a grid of {source.grid.shape[0]} × {source.grid.shape[1]}, the "
            f"model {model.height} × {model.width}: with data.region, set model.height and model.width to those of the "
            "global grid"
        )
    return source.grid


def regional_config(model: ModelConfig, domain: Domain) -> ModelConfig:
    """The global model's config with the rows, columns and edges of a domain."""
    height, width = domain.grid.shape
    return replace(model, height=height, width=width, edges=_edges(domain) if model.blocks == "conv" else model.edges)


def _edges(domain: Domain) -> Edges:
    if len(domain.columns) < domain.globe.shape[1]:
        return "window"
    poles = [row in domain.rows for row in (0, domain.globe.shape[0] - 1)]
    return next(name for name, there in POLES.items() if list(there) == poles)


def regional_checkpoint(start: Checkpoint, domain: Domain) -> Checkpoint:
    """The checkpoint with the position embeddings of the domain's patches only; unchanged if regional or without."""
    if domain_of(start) or POSITIONS not in start.weights:
        return start
    places = torch.as_tensor(domain.patch_indices)
    return replace(start, weights=start.weights | {POSITIONS: start.weights[POSITIONS][:, places].contiguous()})


@torch.no_grad()
def place_positions(network: Any, domain: Domain) -> None:
    """Initialise the position embeddings of a new network, if any, as those of a global one at the domain's patches."""
    if network.config.blocks == "conv":
        return
    rows, columns = (size // domain.patch for size in domain.globe.shape)
    table_LD: Tensor = sincos_2d(rows, columns, network.config.embed_dim) * EMBEDDING_SCALE[network.config.init]
    network.pos_embed.copy_(table_LD[torch.as_tensor(domain.patch_indices)])
