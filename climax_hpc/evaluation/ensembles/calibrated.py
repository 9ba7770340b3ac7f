"""Calibrated ensembles: the members of another ensemble with the bias and the spread that a held-out period asks for.

Dimensions: B samples · M members · O variables · H, W grid.
"""

from collections.abc import Mapping, Sequence
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from climax_hpc.config.ensembles import FEWEST_TO_CALIBRATE
from climax_hpc.data.device_copy import to_device
from climax_hpc.data.sampler import Sample
from climax_hpc.distributed import process_group
from climax_hpc.distributed.launcher import World
from climax_hpc.errors import UserError
from climax_hpc.evaluation.baselines.base import ChannelReader, starts, valid_times
from climax_hpc.evaluation.ensembles.base import EnsembleModel, Kind
from climax_hpc.evaluation.ensembles.calibration_sums import CalibrationSums, blocks_of
from climax_hpc.evaluation.metrics import Array
from climax_hpc.evaluation.worker_pool import worker_pool
from climax_hpc.fields.annual_cycle import annual_cycle
from climax_hpc.fields.calendar_days import DayRun
from climax_hpc.inference.calibration import Calibration


class CalibratedEnsemble(EnsembleModel):
    """The ensemble with each lead time calibrated on forecasts of another period (`inference.calibration`)."""

    kind: Kind = "calibrated"
    may_miss_cells = True

    def __init__(
        self, ensemble: EnsembleModel, reader: ChannelReader, past: Mapping[int, Sequence[Sample]],
        weight_H: Array, *, label: str, period: str, batch_size: int,
        days: Sequence[DayRun] | None = None,
    ) -> None:  # fmt: skip
        """Calibrate an ensemble.

        Args:
            ensemble: what is calibrated.
            reader: of its variables.
            past: lead steps -> forecasts of another period that the calibration is fitted on.
            weight_H: area weight of a cell in each row.
            label: name of the ensemble.
            period: that of `past`, for the description.
            batch_size: members to forecast at a time in the fit.
            days: the calendar days of the period.
        """
        self.variables, self.members, self.days = ensemble.variables, ensemble.members, days
        self.description = (
            f"{label} without its bias in each cell on the calendar day and with its spread scaled to its error, as "
            f"{max(len(samples) for samples in past.values())} forecasts of each lead time in {period} showed them"
        )
        self._ensemble, self._reader, self._past, self._weight_H = ensemble, reader, past, weight_H
        self.label, self.period, self._batch = label, period, max(1, batch_size // self.members)
        self._fitted: dict[int, Calibration] = {}
        self._lock = Lock()

    @property
    def lead_steps(self) -> list[int]:
        """Lead times that it has forecasts to be fitted on for."""
        return list(self._past)

    def forecast_members(self, samples: Sequence[Sample]) -> Tensor:
        """Members (B, M, O, H, W) in the source's z-scores."""
        return self._calibrated(self._ensemble.forecast_members(samples), samples)

    def members_beside(self, others: Mapping[str, Tensor], samples: Sequence[Sample]) -> Tensor:
        """As `forecast_members`, from the members of the ensemble itself where they are among `others`."""
        own = others.get(self.label)
        return self.forecast_members(samples) if own is None else self._calibrated(own, samples)

    def _calibrated(self, members_BMOHW: Tensor, samples: Sequence[Sample]) -> Tensor:
        days = self._reader.days(starts(samples))
        return torch.stack(
            [
                self.calibration(sample.lead_steps).apply(x_MOHW, day)
                for x_MOHW, sample, day in zip(members_BMOHW, samples, days, strict=True)
            ]
        )

    def calibration(self, lead_steps: int) -> Calibration:
        """That of a lead time; fitted when it is first asked for, if it was not given.

        Raises:
            UserError: as `fit`.
        """
        with self._lock:
            if lead_steps not in self._fitted:
                self._fitted[lead_steps] = self.fit(lead_steps)
            return self._fitted[lead_steps]

    def give(self, lead_steps: int, calibration: Calibration) -> None:
        """Take the calibration of a lead time that was fitted elsewhere."""
        with self._lock:
            self._fitted[lead_steps] = calibration

    def fit(self, lead_steps: int) -> Calibration:
        """Fit a lead time in one pass; forecasts are added one by one, in the same order for all sizes of batches.

        Raises:
            UserError: too few forecasts of a variable have a truth.
        """
        past, sums = self._past[lead_steps], None
        blocks, days = blocks_of(self._reader.hours(starts(past))), self._reader.days(starts(past))
        cycle_DK = torch.from_numpy(annual_cycle(np.array(days)))
        for first in range(0, len(past), self._batch):
            here = slice(first, first + self._batch)
            some = past[here]
            members_BMOHW = self._ensemble.forecast_members(some)
            truth_BOHW = to_device(self._reader.fields(valid_times(some)), members_BMOHW.device)
            sums = sums or CalibrationSums(to_device(self._weight_H, members_BMOHW.device), cycle_DK)
            for x_MOHW, y_OHW, day, block in zip(members_BMOHW, truth_BOHW, days[here], blocks[here], strict=True):
                sums.add(x_MOHW, y_OHW, day=day, block=block)
        assert sums is not None
        for name, number in zip(self.variables, sums.forecasts_O.tolist(), strict=True):
            if number < FEWEST_TO_CALIBRATE:
                raise UserError(
                    f"ensembles.calibration_period: {number:.0f} forecasts of {name} in {self.period} have a truth, "
                    f"too few to calibrate on, it takes {FEWEST_TO_CALIBRATE}: choose another period, or exclude the "
                    "variable with variables"
                )
        return sums.calibration()


def fit_together(
    ensembles: Sequence[CalibratedEnsemble], *, threads: int, world: World, sequence_parallel: int = 1
) -> None:
    """Fit all lead times of all ensembles: every rank, or group of ranks that forecasts together, fits its share.

    Each fit is made by one of them in one order, so that the number of ranks changes no bit. All ranks call this.

    Raises:
        UserError: as `CalibratedEnsemble.fit`.
    """
    jobs = [(place, lead) for place, one in enumerate(ensembles) for lead in one.lead_steps]
    group, groups = world.rank // sequence_parallel, world.size // sequence_parallel
    mine = jobs[group::groups]
    with worker_pool(threads) as pool:
        found = dict(zip(mine, pool.map(lambda job: ensembles[job[0]].fit(job[1]), mine), strict=True))
    shares = process_group.gathered(found) if world.size > 1 else [found]
    for share in shares:
        for (place, lead), calibration in share.items():
            ensembles[place].give(lead, calibration)
