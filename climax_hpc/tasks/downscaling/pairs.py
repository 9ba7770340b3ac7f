"""Reads pairs of coarse and fine time steps, as listed in the file of `climax-hpc pair`.

Dimensions: B samples · T input times (1) · C channels · h, w coarse grid · H, W fine grid · N pairs of steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from climax_hpc.data.dataset import DataSet
from climax_hpc.data.field_part import ALL, FieldPart
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.raw_batch import RawBatch, SourceBatchSpec
from climax_hpc.data.sampler import Sample, SourceTimes
from climax_hpc.data.segments import Segment
from climax_hpc.data_prep.pairs import Index, Pair, read_pairs, time_numbers
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import to_seconds
from climax_hpc.utils.files import sha256


class PairedSource:
    """A coarse and a fine source; their pairs of steps are numbered 0 … N-1 in time order."""

    def __init__(self, coarse: PackedSource, fine: PackedSource, pair: Pair) -> None:
        self.coarse, self.fine, self.name = coarse, fine, fine.name
        self.coarse_N, self.fine_N = pair.steps()
        self._check()
        lengths = [segment.steps for segment in pair.segments]
        self._run_N = np.repeat(np.arange(len(lengths)), lengths)

    def _check(self) -> None:
        """A file of pairs of version 1 does not notice itself that it was edited."""
        known = all(index_N.max() < s.steps for index_N, s in ((self.coarse_N, self.coarse), (self.fine_N, self.fine)))
        if not known or not np.array_equal(_numbers(self.coarse, self.coarse_N), _numbers(self.fine, self.fine_N)):
            raise UserError(
                f"the pairs of {self.name} are not of equal times, so the file was edited; run `climax-hpc pair` again"
            )

    def within(self, period: tuple[str, str] | None) -> list[Segment]:
        """Gap-free segments of pairs within a period (first and last date, inclusive).

        Raises:
            UserError: the period contains no pair.
        """
        inside_T = np.zeros(self.fine.steps, bool)
        for segment in self.fine.within(period):
            inside_T[segment.first : segment.first + segment.steps] = True
        chosen = np.flatnonzero(inside_T[self.fine_N])
        if not len(chosen):
            assert period is not None
            raise UserError(f"the pairs of {self.name} have no step in {period[0]} … {period[1]}: widen the period")
        breaks = np.flatnonzero((np.diff(chosen) != 1) | (np.diff(self._run_N[chosen]) != 0)) + 1
        return [Segment(first=int(part[0]), steps=len(part)) for part in np.split(chosen, breaks)]

    def times(self, period: tuple[str, str] | None) -> SourceTimes:
        """Sample times: one sample per pair of steps, with lead time 0."""
        segments = tuple((s.first, s.steps) for s in self.within(period))
        return SourceTimes(segments=segments, min_lead_steps=0, max_lead_steps=0)


def _numbers(source: PackedSource, index_N: Index) -> Index:
    seconds = to_seconds(source.hours[index_N])
    return time_numbers(seconds, source.calendar, source.frequency, source.step_hours)


@dataclass(frozen=True, kw_only=True)
class PairBatchSpec(SourceBatchSpec):
    """Tensors of a micro-batch of pairs; `source` is the fine one, `Sample.time_index` is the number of the pair."""

    paired: PairedSource
    coarse_part: FieldPart = ALL
    """Channels that are read of the coarse source; `part` is of the fine one."""

    def shapes(self, samples: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of each tensor of `RawBatch`."""
        coarse, fine = self.paired.coarse, self.paired.fine
        coarse_field, fine_field = self.coarse_part.shape_in(coarse.chunk_shape), self.part.shape_in(fine.chunk_shape)
        shapes = (samples, 1, *coarse_field), (samples, *fine_field)
        dtypes = [torch.float16 if s.dtype.itemsize == 2 else torch.float32 for s in (coarse, fine)]
        found: list[tuple[tuple[int, ...], torch.dtype]] = list(zip(shapes, dtypes, strict=True))
        return found + ([(shape, torch.float32) for shape in shapes] if self.climatology else [])

    def read_into(self, raw: RawBatch, samples: Sequence[Sample]) -> None:
        """Fill the tensors with these pairs; see `SourceBatchSpec.read_into`."""
        paired = self.paired
        at_coarse, at_fine = ([int(steps[s.time_index]) for s in samples] for steps in (paired.coarse_N, paired.fine_N))
        of_coarse, of_fine = self.coarse_part, self.part
        paired.coarse.read_into(at_coarse, raw.x_BTCHW.flatten(0, 1).numpy(), of_coarse)
        paired.fine.read_into(at_fine, raw.y_BCHW.numpy(), of_fine)
        if raw.x_climatology_BTCHW is not None and raw.y_climatology_BCHW is not None:
            paired.coarse.read_climatology_into(at_coarse, raw.x_climatology_BTCHW.flatten(0, 1).numpy(), of_coarse)
            paired.fine.read_climatology_into(at_fine, raw.y_climatology_BCHW.numpy(), of_fine)


class PairedData:
    """The coarse and fine data sets of a file of pairs."""

    def __init__(self, path: str | Path) -> None:
        """Open both data sets.

        Raises:
            UserError: no such file, a damaged file, or a data set that was repacked since.
        """
        self.path = Path(path)
        if self.path.is_dir():
            raise UserError(
                f"data.dataset: {path} is a folder; downscaling takes the file that `climax-hpc pair` wrote"
            )
        found = read_pairs(self.path)
        self.sha256 = sha256(self.path)
        coarse, fine = DataSet(found.coarse), DataSet(found.fine)
        self._fine = fine
        for p in found.pairs:
            if p.coarse not in coarse.sources or p.fine not in fine.sources:
                raise UserError(
                    f"{path}: its data sets hold no source {p.coarse} or {p.fine}; run `climax-hpc pair` again"
                )
        self.sources = {p.fine: PairedSource(coarse.sources[p.coarse], fine.sources[p.fine], p) for p in found.pairs}

    def select(self, names: list[str] | None) -> list[PairedSource]:
        """Pairs by full name or source_id of the fine source, in name order; None selects all.

        Raises:
            UserError: no such source, or it has no pair.
        """
        chosen = self.sources if names is None else {self.full_name(name) for name in names}
        return [self.sources[name] for name in sorted(chosen)]

    def full_name(self, name: str) -> str:
        """Full name of a fine source given by full name or by source_id; see `select`."""
        full = self._fine.full_name(name)
        if full not in self.sources:
            raise UserError(f"{self.path} pairs no source {full}; it pairs {', '.join(sorted(self.sources))}")
        return full
