"""Prepares the data of a training run: sampler, batch builders, normalisation, latitude weights."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from climax_hpc.checkpoint.metadata import TrainingMetadata
from climax_hpc.config.parser import nearest
from climax_hpc.config.training import DataConfig, PretrainConfig
from climax_hpc.data.batch_builder import SourceBatchBuilder
from climax_hpc.data.batches import BatchBuilder, choose_variables
from climax_hpc.data.dataset import DataSet, check_grids
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.normalisation_fit import fit_normalisation
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sampler, SourceTimes
from climax_hpc.data.shared_work import share_headers
from climax_hpc.data.solar_inputs import with_solar
from climax_hpc.data.staging import staged
from climax_hpc.data.tendency_fit import with_tendencies
from climax_hpc.distributed import process_group
from climax_hpc.distributed.datagrams import node_name
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import Grid, latitude_weights
from climax_hpc.fields.regional_grid import Domain
from climax_hpc.fields.variables import SOLAR, in_registry_order, lookup
from climax_hpc.model.band import RowBand
from climax_hpc.model.rollout import check_closed
from climax_hpc.training.kept_normalisation import KeptNormalisation, kept_or_fitted
from climax_hpc.training.variable_weights import variable_weights, weight_tensor


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The data side of a training run."""

    sampler: Sampler
    builders: Mapping[str, BatchBuilder]
    normalisation: Normalisation
    in_variables: tuple[str, ...]
    """Inputs of any source, in registry order."""
    out_variables: tuple[str, ...]
    """Outputs of any source, in registry order."""
    weight_H: torch.Tensor
    training_metadata: TrainingMetadata
    variable_weights: Mapping[str, float] = field(default_factory=dict)
    """Weight of every output in the loss; empty: all count alike."""
    kept: KeptNormalisation | None = None
    """What the run folder keeps for later starts; None where no fields, or few, are read for it."""


def prepare_data(
    config: PretrainConfig,
    dataset: DataSet,
    base: Normalisation | None,
    domain: Domain | None,
    band: RowBand | None = None,
) -> TrainingData:
    """Sampler, batch builders, normalisation and latitude weights of a training run.

    Args:
        base: normalisation of the checkpoint that training starts from; kept for the variables that it contains.
        domain: of a regional model.
        band: the rows that this rank owns of every sample; None: all.

    Raises:
        UserError: the data do not match the config.
    """
    data = config.data
    share_headers(dataset.select(data.sources))
    sources = dataset.select(data.sources)
    if domain is None:
        check_grids(sources, config.model.height, config.model.width)
        check_augmentation(data, sources)
    check_variables(config, sources, computed=[*SOLAR, *(name for s in sources for name in s.tendencies)])
    chosen = {
        s.name: choose_variables(s, config.model.variables, data.in_variables, data.out_variables) for s in sources
    }
    spans = {s.name: sample_times(s, data, data.period, chosen[s.name][0]) for s in sources}
    sampler = training_sampler(config, spans, dataset.full_name)
    kept = _normalisation(config, dataset, sources, {v for names, _ in chosen.values() for v in names})
    normalisation = kept.normalisation
    normalisation = with_solar(normalisation, [v for v in SOLAR if any(v in names for names, _ in chosen.values())])
    if base and base.mode == normalisation.mode:
        normalisation = base.with_tables_of(normalisation) if data.window() else base.extended(normalisation)
    outputs = in_registry_order(name for _, names in chosen.values() for name in names)
    weights = variable_weights(data.variable_weights, outputs)
    builders = {
        s.name: make_builder(s, data, normalisation, *chosen[s.name], domain, weights, band=band, augmented=True)
        for s in sources
    }
    _stage(data, dataset, builders, band)
    grid = domain.grid if domain else sources[0].grid
    weight_H = latitude_weights(grid, data.latitude_weights)
    return TrainingData(
        sampler=sampler,
        builders=builders,
        normalisation=normalisation,
        in_variables=tuple(in_registry_order(v for builder in builders.values() for v in builder.inputs)),
        out_variables=tuple(outputs),
        weight_H=torch.as_tensor(weight_H, dtype=torch.float32, device=process_group.device()),
        training_metadata=_training_metadata(data, sources, grid, domain),
        variable_weights=weights,
        kept=kept if kept.reads_fields else None,
    )


def _stage(
    data: DataConfig, dataset: DataSet, builders: Mapping[str, SourceBatchBuilder], band: RowBand | None
) -> None:
    """Let the builders read from a local disk of the node, if one is given; all ranks call this together.

    Any rank may read any sample of the period, but none reads what no batch on this node holds.
    """
    if not data.stage_to:
        return
    places = {0}
    if band is not None:
        ranks = process_group.gathered((node_name(), band.place))
        places = {place for node, place in ranks if node == node_name()}
    here = staged(
        dataset,
        Path(data.stage_to),
        data.sources,
        period=data.period,
        parts={name: builder.parts_read(places) for name, builder in builders.items()},
        shown=process_group.detect().is_first,
    )
    for name, builder in builders.items():
        builder.read_from(here.sources[name])


def _normalisation(
    config: PretrainConfig, dataset: DataSet, sources: Sequence[PackedSource], inputs: Collection[str]
) -> KeptNormalisation:
    """The normalisation of the sources and of the tendencies among `inputs`, fitted here or at an earlier start."""
    data, mode = config.data, config.model.output_mode
    tendencies = in_registry_order(v for v in inputs if lookup(v).tendency_of)
    leads = {key: getattr(data, key) for key in ("min_lead_hours", "max_lead_hours", "lead_stride_hours")}

    def fit() -> Normalisation:
        fitted = fit_normalisation(sources, mode=mode, period=data.period, window=data.window(), **leads)
        return with_tendencies(fitted, sources, tendencies, data.period)

    determined_by = {
        "manifest_sha256": dataset.manifest_sha256,
        "sources": [source.name for source in sources],
        "period": list(data.period) if data.period else None,
        "mode": mode,
        "tendencies": tendencies,
        **leads,
        "window_hours": data.window_hours,
        "window_step_hours": data.window_step_hours,
    }
    return kept_or_fitted(Path(config.run_folder), determined_by, fit)


def training_sampler(
    config: PretrainConfig, spans: Mapping[str, SourceTimes], full_name: Callable[[str], str]
) -> Sampler:
    """The order of the training micro-batches; `full_name` expands the names of sources in `data.weights`."""
    data = config.data
    return Sampler(
        spans,
        seed=config.train.seed,
        micro_batch_size=data.micro_batch_size,
        micro_batches_per_step=data.micro_batches_per_step,
        weights={full_name(name): weight for name, weight in data.weights.items()} if data.weights else None,
        lead_exponent=data.lead_exponent,
        stratified_leads=data.lead_sampling == "stratified",
        rollout_steps=(data.min_rollout_steps, data.rollout_steps) if data.min_rollout_steps else None,
    )


def sample_times(
    source: PackedSource, data: DataConfig, period: tuple[str, str] | None, inputs: Sequence[str]
) -> SourceTimes:
    """Segments and lead times of a split, with room for tendencies, and for a whole averaging window or roll-out."""
    window = data.window()
    tail = window.over(source.step_hours, source.name).tail if window else 0
    if data.rollout_steps > 1:
        tail = (data.rollout_steps - 1) * max(1, round(data.max_lead_hours / (source.step_hours or 1)))
    return source.times(
        period,
        data.min_lead_hours,
        data.max_lead_hours,
        history_steps=(source.tendency_steps or 0) if any(lookup(v).tendency_of for v in inputs) else 0,
        tail_steps=tail,
        lead_stride_hours=data.lead_stride_hours,
    )


def make_builder(
    source: PackedSource,
    data: DataConfig,
    normalisation: Normalisation,
    inputs: Sequence[str],
    outputs: Sequence[str],
    domain: Domain | None,
    weights: Mapping[str, float],
    *,
    band: RowBand | None,
    augmented: bool,
) -> SourceBatchBuilder:
    """The batch builder of one source; `weights`: see `TrainingData.variable_weights`; `band`: see `prepare_data`.

    Raises:
        UserError: the source lacks cells of the region, a roll-out has inputs that it does not forecast, or no output
            of the source counts in the loss.
    """
    if data.rollout_steps > 1:
        who = f"the model on source {source.name}"
        check_closed(inputs, outputs, "data.rollout_steps", who, data.max_lead_hours)
    return SourceBatchBuilder(
        source,
        normalisation,
        inputs=inputs,
        outputs=outputs,
        device=process_group.device(),
        random_roll=data.random_roll and augmented,
        random_flip=data.random_flip and augmented,
        crop=domain.crop(source.grid, f"source {source.name}") if domain else None,
        band=band,
        counted_HW=domain.inside_HW if domain else None,
        window=data.window(),
        rollout_steps=data.rollout_steps,
        variable_weight_O=weight_tensor(weights, outputs, f"source {source.name}", process_group.device()),
    )


def _training_metadata(
    data: DataConfig, sources: list[PackedSource], grid: Grid, domain: Domain | None
) -> TrainingMetadata:
    step_hours = min(s.step_hours for s in sources)
    metadata = TrainingMetadata(
        min_lead_hours=data.min_lead_hours,
        max_lead_hours=data.max_lead_hours,
        lead_step_hours=data.lead_stride_hours or step_hours,
        grid=grid.to_dict(),
        region=domain.to_dict() if domain else None,
        window_hours=data.window_hours,
        window_step_hours=(data.window_step_hours or step_hours) if data.window_hours else None,
    )
    return with_periods(metadata, data, [s.name for s in sources])


def with_periods(metadata: TrainingMetadata, data: DataConfig, sources: list[str]) -> TrainingMetadata:
    """The metadata with the sources and periods of the training."""
    period, validation = (None if one is None else list(one) for one in (data.period, data.validation_period))
    return replace(metadata, sources=sources, period=period, validation_period=validation)


def check_augmentation(data: DataConfig, sources: Sequence[PackedSource]) -> None:
    """Check that random_roll and random_flip are only used with global grids.

    Raises:
        UserError: names the source that is not global.
    """
    for source in sources:
        if (data.random_roll or data.random_flip) and not source.grid.is_global:
            raise UserError(
                f"data.random_roll and data.random_flip need a global grid, but source {source.name} is "
                "regional: set both to false"
            )


def check_variables(config: PretrainConfig, sources: list[PackedSource], computed: Iterable[str] = ()) -> None:
    """Check that the model and some source know the variables of data.in_variables and data.out_variables.

    `computed`: those that no source holds and that the task computes from it, or from the date.

    Raises:
        UserError: names the key, the variable and the alternatives.
    """
    held = in_registry_order({name for s in sources for name in (*s.channels, *s.static)} | {*computed})
    for key in ("in_variables", "out_variables"):
        for name in getattr(config.data, key) or ():
            if name not in config.model.variables:
                raise UserError(f"data.{key}: {name} is not in model.variables; add it there or remove it here")
            if name not in held:
                raise UserError(f"data.{key}: no source has {name}{nearest(name, held)}; available: {', '.join(held)}")
