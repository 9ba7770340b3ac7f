"""What the training loop needs of the data: sample order, batch makers, normalisation, latitude weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from climax_hpc import dist
from climax_hpc.arguments import nearest
from climax_hpc.config import PretrainConfig
from climax_hpc.data.batches import BatchMaker, Maker, choose_variables
from climax_hpc.data.normalisation import Normalisation, fit_normalisation
from climax_hpc.data.order import SampleOrder
from climax_hpc.data.shards import DataSet, Source
from climax_hpc.data.staging import staged
from climax_hpc.data_prep.manifest import grid_as_json
from climax_hpc.errors import UserError
from climax_hpc.grid import latitude_weights
from climax_hpc.trained import Trained
from climax_hpc.variables import in_registry_order


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Everything the loop needs of the data."""

    order: SampleOrder
    makers: Mapping[str, Maker]
    normalisation: Normalisation
    in_variables: tuple[str, ...]
    """All that some source is fed with."""
    out_variables: tuple[str, ...]
    """All that some source is trained to forecast."""
    weight_H: torch.Tensor
    trained: Trained


def prepare_data(config: PretrainConfig, dataset: DataSet, base: Normalisation | None) -> TrainingData:
    """Order, batch makers, normalisation and latitude weights of a training run."""
    data = config.data
    if data.stage_to:
        dataset = staged(dataset, Path(data.stage_to), data.sources, shown=dist.detect().rank == 0)
    sources = dataset.select(data.sources)
    check_grids(sources, config.model.height, config.model.width)
    spans = {s.name: s.times(data.period, data.min_lead_hours, data.max_lead_hours) for s in sources}
    weights = {dataset.full_name(name): w for name, w in data.weights.items()} if data.weights else None
    order = SampleOrder(
        spans,
        seed=config.train.seed,
        group_size=data.group_size,
        groups_per_step=data.groups_per_step,
        weights=weights,
        lead_exponent=data.lead_exponent,
    )
    check_variables(config, sources)
    chosen = {
        s.name: choose_variables(s, config.model.variables, data.in_variables, data.out_variables) for s in sources
    }
    normalisation = fit_normalisation(
        sources,
        mode=config.model.output_mode,
        period=data.period,
        min_lead_hours=data.min_lead_hours,
        max_lead_hours=data.max_lead_hours,
    )
    if base and base.mode == normalisation.mode:
        normalisation = base.extended(normalisation)
    makers = {
        s.name: BatchMaker(
            s,
            normalisation,
            inputs=chosen[s.name][0],
            outputs=chosen[s.name][1],
            device=dist.device(),
            random_roll=data.random_roll,
            random_flip=data.random_flip,
        )
        for s in sources
    }
    weight_H = latitude_weights(sources[0].grid, data.latitude_weights)
    return TrainingData(
        order=order,
        makers=makers,
        normalisation=normalisation,
        in_variables=tuple(in_registry_order(v for maker in makers.values() for v in maker.inputs)),
        out_variables=tuple(in_registry_order(v for maker in makers.values() for v in maker.outputs)),
        weight_H=torch.as_tensor(weight_H, dtype=torch.float32, device=dist.device()),
        trained=_trained(config, sources),
    )


def _trained(config: PretrainConfig, sources: list[Source]) -> Trained:
    return Trained(
        min_lead_hours=config.data.min_lead_hours,
        max_lead_hours=config.data.max_lead_hours,
        lead_step_hours=min(s.step_hours for s in sources),
        grid=grid_as_json(sources[0].grid),
    )


def check_variables(config: PretrainConfig, sources: list[Source]) -> None:
    """Refuse variables asked for by name that the model does not know or no source holds.

    Raises:
        UserError: names key, variable and what there is.
    """
    held = in_registry_order({name for s in sources for name in (*s.channels, *s.static)})
    for key in ("in_variables", "out_variables"):
        for name in getattr(config.data, key) or ():
            if name not in config.model.variables:
                raise UserError(f"data.{key}: {name} is not in model.variables; add it there or leave it out")
            if name not in held:
                raise UserError(f"data.{key}: no source holds {name}{nearest(name, held)}; they hold {', '.join(held)}")


def check_grids(sources: list[Source], height: int, width: int) -> None:
    """Refuse sources on another grid than the model's.

    Raises:
        UserError: names the source, its grid and the mend.
    """
    for source in sources:
        if source.grid.shape != (height, width):
            raise UserError(
                f"source {source.name} lies on a grid of {source.grid.shape[0]} × {source.grid.shape[1]}, the model on "
                f"{height} × {width}: set model.height and model.width, or pack with another grid_spacing_deg"
            )
