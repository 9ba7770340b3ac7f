"""Scores models and baselines on the same forecasts, the same cells and the same truth, lead time by lead time.

Dimensions: B forecasts · O variables scored · M variables of one model · E members · H, W grid.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor
from tqdm import tqdm

from climax_hpc.data.device_copy import to_device
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sample
from climax_hpc.distributed.launcher import World
from climax_hpc.errors import UserError
from climax_hpc.evaluation.accumulators import Accumulator, AccumulatorPlan, ScoreSums, Truth, cells_of
from climax_hpc.evaluation.baselines.base import ChannelReader, ForecastModel, valid_times
from climax_hpc.evaluation.ensemble_sums import EnsembleSums, Thresholds
from climax_hpc.evaluation.ensembles.base import EnsembleModel, mean_of
from climax_hpc.evaluation.ensembles.thresholds import ClimatologyPercentiles
from climax_hpc.evaluation.member_maps import member_maps
from climax_hpc.evaluation.metrics import Array
from climax_hpc.evaluation.output import lead_key
from climax_hpc.evaluation.readback import Readback
from climax_hpc.evaluation.stored import TRUTH
from climax_hpc.evaluation.worker_pool import worker_pool
from climax_hpc.fields.averaging_window import WindowSteps
from climax_hpc.fields.regional_grid import Domain
from climax_hpc.fields.regions import Cells, cut, whole_patches
from climax_hpc.model.indices import index_tensor

OnLead = Callable[[float, Sequence[Sample], Mapping[str, Accumulator]], None]
"""Called with a lead time [h], its forecasts, and the sums by label; those of spectra have the label `TRUTH` too."""


@dataclass(frozen=True, kw_only=True)
class BatchForecasts:
    """A batch of forecasts of several labels, and their truth, on the device."""

    truth: Truth
    forecasts: dict[str, Tensor]
    """(B, M, H, W) in physical units minus the source's mean; of an ensemble the mean of its members."""
    members: dict[str, Tensor]
    """Of every ensemble: members (B, E, M, H, W) in the source's z-scores."""


@dataclass(frozen=True, kw_only=True)
class ForecastScoring:
    """The models and baselines to score, and the data to score them on."""

    source: PackedSource
    variables: tuple[str, ...]
    models: Mapping[str, ForecastModel]
    baselines: Mapping[str, ForecastModel]
    weight_H: Array
    packed_period: str
    """The train_period that the data set, and so its climatology, was packed with; for messages."""
    regions: tuple[str, ...] = ()
    """Named regions scored in addition to the globe."""
    spectra_lead_hours: tuple[float, ...] = ()
    """Lead times at which zonal spectra are computed [h]."""
    domain: Domain | None = None
    """Region of regional models: only its cells are scored, for all models and baselines."""
    patch: int = 1
    """In regions, only patches of this size that lie inside as a whole are scored, as in ClimaX; 1: every cell."""
    window: WindowSteps | None = None
    """Averaging window of the forecasts; None where states are forecast."""
    sequence_parallel: int = 1
    """Ranks that make each forecast together."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where forecasts are scored: that of the models."""
    ensembles: Mapping[str, EnsembleModel] = field(default_factory=dict)
    """Ensembles scored in addition; networks with members are among `models`."""
    thresholds: ClimatologyPercentiles | None = None
    """Thresholds of the events that ensembles are scored on."""
    references: tuple[str, ...] = ()
    """Labels that ensembles are compared with; deterministic ones are also scored as ensembles of one member."""

    @cached_property
    def domain_cells(self) -> Cells | None:
        """Rows and columns of the domain that are scored; None for the globe."""
        return whole_patches(self.domain.cells, self.patch, self.domain.region.name) if self.domain else None

    @cached_property
    def cells(self) -> Cells | None:
        """Rows and columns of the source that are scored for regional models, eastward; None for the globe."""
        if self.domain is None or self.domain_cells is None:
            return None
        crop, (rows, columns) = self.domain.crop(self.source.grid, f"source {self.source.name}"), self.domain_cells
        return crop.rows[rows], crop.columns[columns]

    @cached_property
    def region_cells(self) -> dict[str, Cells]:
        """Rows and columns of the named regions that are scored."""
        return cells_of(self.source.grid, self.regions, self.patch)

    @property
    def all_models(self) -> dict[str, ForecastModel]:
        """Models, then other ensembles, then baselines, by label."""
        return {**self.models, **self.ensembles, **self.baselines}

    @property
    def with_members(self) -> dict[str, EnsembleModel]:
        """The models and ensembles that have members, by label."""
        return {label: model for label, model in self.all_models.items() if isinstance(model, EnsembleModel)}

    def score(
        self,
        pairs: Mapping[float, Sequence[Sample]],
        on_lead: OnLead,
        *,
        batch_size: int,
        threads: int = 1,
        world: World | None = None,
    ) -> None:
        """Forecast everything and pass the sums of each lead time to `on_lead`; they are dropped afterwards.

        `threads` batches are computed at a time and summed in order. With a `world` of several ranks, every rank takes
        its share of the batches; rank 0 gathers them, sums them in the same order with bit-identical results, and
        calls `on_lead`.

        Raises:
            UserError: a model's forecast is not finite, no forecast of a variable is valid, or a shard is damaged.
        """
        progress = _ForecastProgress(pairs)
        with worker_pool(threads) as pool:
            for lead, samples in pairs.items():
                batches = [samples[first : first + batch_size] for first in range(0, len(samples), batch_size)]
                parts = self._score_batches(batches, lead, pool, progress, world)
                if parts is None:
                    continue
                totals = parts[0]
                for part in parts[1:]:
                    for label, accumulator in part.items():
                        totals[label] += accumulator
                for label in self.all_models:
                    self._check_scored(lead, totals[label].globe)
                on_lead(lead, samples, totals)
        progress.close()

    def _score_batches(
        self,
        batches: Sequence[Sequence[Sample]],
        lead: float,
        pool: ThreadPoolExecutor,
        progress: "_ForecastProgress",
        world: World | None,
    ) -> list[dict[str, Accumulator]] | None:
        """The sums of every batch, in order; None on all ranks but the first."""
        size = self.sequence_parallel
        rank, ranks = (world.rank // size, world.size // size) if world else (0, 1)
        mine, found = list(batches[rank::ranks]), []
        for batch, part in zip(mine, pool.map(self._score_batch, mine, [lead] * len(mine)), strict=True):
            found.append(part)
            progress.add(lead, len(batch))
        if world is None or ranks == 1:
            return found if world is None or world.rank == 0 else None
        shares: list[Any] | None = [None] * world.size if world.rank == 0 else None
        torch.distributed.gather_object([] if world.rank % size else found, shares)
        return None if shares is None else [shares[i % ranks * size][i // ranks] for i in range(len(batches))]

    def _score_batch(self, samples: Sequence[Sample], lead: float) -> dict[str, Accumulator]:
        readback = Readback()
        batch = self.forecasts(samples, readback)
        thresholds = self._thresholds(samples)
        plan = AccumulatorPlan(
            regions=self.region_cells,
            lat=self.source.grid.lat,
            weight_H=self.weight_H,
            spectra=lead in self.spectra_lead_hours,
        )
        parts = {}
        for label, model in self.all_models.items():
            against = batch.truth.select(self._places(model))
            parts[label] = plan.start(model.variables)
            parts[label].add(batch.forecasts[label], against, readback)
            if label in batch.members or label in self.references:
                sums = parts[label].ensemble = EnsembleSums(model.variables, self._std(model.variables))
                members_of = partial(self._members, batch, label, model.variables)
                chosen = thresholds and thresholds.select(index_tensor(self._places(model), self.device))
                sums.add(members_of, against.counted_BOHW, against.weight_H, chosen, readback)
        if plan.spectra:
            parts[TRUTH] = plan.start(self.variables)
            parts[TRUTH].add(batch.truth.truth_BOHW, batch.truth, readback)
        readback.run()
        return parts

    def _members(self, batch: "BatchForecasts", label: str, variables: Sequence[str], b: int) -> Tensor:
        """Members (E, M, H, W) of one forecast in physical units; of a deterministic one, itself."""
        if label not in batch.members:
            return batch.forecasts[label][b : b + 1]
        return self._physical(batch.members[label][b], variables)

    def _thresholds(self, samples: Sequence[Sample]) -> Thresholds | None:
        if self.thresholds is None or not self.with_members:
            return None
        z_QBOHW = torch.from_numpy(self.thresholds.of(samples))
        return Thresholds(percentiles=self.thresholds.percentiles, values_QBOHW=self._physical(z_QBOHW, self.variables))

    def forecasts(
        self, samples: Sequence[Sample], readback: Readback, labels: Sequence[str] | None = None
    ) -> "BatchForecasts":
        """Truth and forecasts by label on the device, in physical units minus the source's mean.

        A cell counts where truth, climatology, all baselines and ensembles of past states or errors have a value, so
        that all are scored on the same cells. `readback` refuses forecasts of networks that are not finite. `labels`:
        only these; None: all.
        """
        reader = ChannelReader(self.source, self.variables, self.window)
        later = valid_times(samples)
        truth_BOHW, climatology_BOHW = (
            self._physical(z, self.variables) for z in (reader.fields(later), reader.climatology(later))
        )
        chosen = {label: model for label, model in self.all_models.items() if labels is None or label in labels}
        members: dict[str, Tensor] = {}
        forecasts: dict[str, Tensor] = {}
        for label, model in chosen.items():
            if isinstance(model, EnsembleModel):
                members[label] = model.members_beside(members, samples)
            z_BMHW = mean_of(members[label]) if label in members else model.forecast(samples)
            forecasts[label] = self._physical(z_BMHW, model.variables)
        valid_BOHW = torch.isfinite(truth_BOHW) & torch.isfinite(climatology_BOHW)
        if self._inside_HW is not None:
            valid_BOHW &= self._inside_HW
        networks = []
        for label, model in chosen.items():
            index_M = index_tensor(self._places(model), self.device)
            if label in self.baselines or (isinstance(model, EnsembleModel) and model.may_miss_cells):
                finite_BMHW = torch.isfinite(forecasts[label])
                valid_BOHW &= torch.ones_like(valid_BOHW).index_copy(1, index_M, finite_BMHW)
            else:
                networks.append((label, model.variables, index_M))
        for label, names, index_M in networks:
            bad_BMHW = ~torch.isfinite(forecasts[label]) & valid_BOHW.index_select(1, index_M)
            readback.want(bad_BMHW.sum(dim=(0, 2, 3)).double(), partial(_check_finite, label, names))
        weight_H = self._on_device(self.weight_H)
        truth = Truth(
            truth_BOHW=truth_BOHW, climatology_BOHW=climatology_BOHW, valid_BOHW=valid_BOHW, weight_H=weight_H
        )
        return BatchForecasts(truth=truth, forecasts=forecasts, members=members)

    @cached_property
    def _inside_HW(self) -> Tensor | None:
        """The cells of `cells` on the device."""
        if self.cells is None:
            return None
        inside_HW = np.zeros(self.source.grid.shape, bool)
        inside_HW[np.ix_(*self.cells)] = True
        return to_device(inside_HW, self.device)

    def _std(self, variables: Sequence[str]) -> Array:
        return self.source.std_C[[self.source.channels.index(name) for name in variables]]

    def _physical(self, z_BMHW: Tensor, variables: Sequence[str]) -> Tensor:
        z_BMHW = z_BMHW if z_BMHW.device == self.device else to_device(z_BMHW, self.device)
        return z_BMHW.to(scoring_dtype(self.device)) * self._on_device(self._std(variables))[:, None, None]

    def _on_device(self, values: Array) -> Tensor:
        return to_device(values, self.device).to(scoring_dtype(self.device))

    def _places(self, model: ForecastModel) -> list[int]:
        return [self.variables.index(name) for name in model.variables]

    def _check_scored(self, lead_hours: float, sums: ScoreSums) -> None:
        for name in sums.undefined:
            raise UserError(
                f"period: no forecast of {name} at {lead_hours:g} h can be scored, because the state at its start, the "
                f"truth or the climatology is missing in every cell. The climatology of {self.source.name} was packed "
                f"with train_period {self.packed_period}: choose a period with the same days of the year, pack with a "
                "train_period of whole years, or exclude the variable with variables"
            )


def scoring_dtype(device: torch.device) -> torch.dtype:
    """Type of the fields that are scored: the kernel of a GPU takes float32, and adds up parts of them in float64."""
    return torch.float64 if device.type == "cpu" else torch.float32


def _check_finite(label: str, variables: Sequence[str], bad_M: Array) -> None:
    """Refuse a model with `bad_M` cells of each variable that are not finite."""
    if bad_M.any():
        raise UserError(
            f"models: {label!r} forecasts non-finite values of {variables[int(np.argmax(bad_M > 0))]}: "
            "its training has diverged; use an older checkpoint"
        )


class _ForecastProgress:
    """A progress bar on a terminal, one line per lead time elsewhere."""

    def __init__(self, pairs: Mapping[float, Sequence[Sample]]) -> None:
        self._left = {lead: len(samples) for lead, samples in pairs.items()}
        self._total, self._done, self._began = sum(self._left.values()), 0, time.perf_counter()
        self._bar = tqdm(total=self._total, desc="evaluate", unit="forecast", dynamic_ncols=True, disable=None)

    def add(self, lead_hours: float, forecasts: int) -> None:
        """Record that these many forecasts of a lead time are scored."""
        self._done += forecasts
        self._left[lead_hours] -= forecasts
        self._bar.update(forecasts)
        if self._bar.disable and not self._left[lead_hours]:
            seconds = (time.perf_counter() - self._began) / self._done * (self._total - self._done)
            line = f"{lead_key(lead_hours)} h done, {self._done}/{self._total} forecasts, {seconds:.0f} s left"
            print(f"evaluate: {line}", flush=True)

    def close(self) -> None:
        """End the bar."""
        self._bar.close()


def sample_forecast(
    scoring: ForecastScoring, sample: Sample, label: str, fan_hours: Sequence[float] = ()
) -> dict[str, Any]:
    """Arrays of one forecast of one model for maps: forecast and truth (M, H, W), physical units, and the grid.

    Of an ensemble also its members, and their fans at the lead times `fan_hours` (`member_maps`).
    """
    readback = Readback()
    batch = scoring.forecasts([sample], readback, [label, *scoring.baselines])
    readback.run()
    truth_OHW, forecast_MHW = batch.truth.truth_BOHW[0].cpu().numpy(), batch.forecasts[label][0].cpu().numpy()
    source, names = scoring.source, scoring.models[label].variables
    mean_M = source.mean_C[[source.channels.index(name) for name in names]][:, None, None]
    places = [scoring.variables.index(name) for name in names]
    grid = scoring.domain.part(scoring.domain_cells) if scoring.domain and scoring.domain_cells else source.grid
    cells = scoring.cells or (np.arange(grid.shape[0]), np.arange(grid.shape[1]))
    arrays = {
        "variables": np.array(names),
        "lat": grid.lat,
        "lon": grid.lon,
        "forecast": cut((forecast_MHW + mean_M).astype(np.float32), cells),
        "truth": cut((truth_OHW[places] + mean_M).astype(np.float32), cells),
    }
    if "land_sea_mask" in source.static:
        arrays["land_sea_mask"] = cut(source.static["land_sea_mask"], cells)
    if label in scoring.with_members and scoring.window is None:
        steps = [round(hours / source.step_hours) for hours in fan_hours]
        arrays |= member_maps(scoring.with_members[label], source, sample, steps, grid, cells)
    return arrays
