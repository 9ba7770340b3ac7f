"""Coarse fields in physical units from a packed source, NetCDF files or zarr stores.

Dimensions: B times · C coarse channels · h, w coarse grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cftime
import numpy as np
from numpy.typing import NDArray

from climax_hpc.data.packed_source import PackedSource
from climax_hpc.fields.grid import Array
from climax_hpc.inference.initial_conditions import InitialConditions, date_of


@dataclass(frozen=True, kw_only=True, eq=False)
class CoarseFields:
    """Coarse fields at a list of times."""

    fields_BChw: Array
    climatology_BChw: Array | None
    """Climatology of the source at the same times; None if no model needs it."""
    dates: tuple[cftime.datetime, ...]


class CoarseReader:
    """Reads the channels of a packed coarse source in physical units."""

    def __init__(self, source: PackedSource, *, climatology: bool) -> None:
        """`climatology`: also read the climatology, for models that need it."""
        self.source, self._climatology = source, climatology
        self._mean_C11, self._std_C11 = (a[:, None, None] for a in (source.mean_C, source.std_C))

    def read(self, steps: Sequence[int]) -> CoarseFields:
        """The fields of these time steps.

        Raises:
            UserError: a damaged shard, or a missing climatology.
        """
        source = self.source
        normal = [source.read_climatology(t) for t in steps] if self._climatology else None
        return CoarseFields(
            fields_BChw=self._physical([source.read(t) for t in steps]),
            climatology_BChw=None if normal is None else self._physical(normal),
            dates=tuple(source.date(t) for t in steps),
        )

    def _physical(self, parts: Sequence[NDArray[Any]]) -> Array:
        return np.stack(parts).astype(np.float64) * self._std_C11 + self._mean_C11


class UnpackedReader:
    """Reads states that are not packed, with the climatology of `like`, the packed coarse source of the pairs."""

    def __init__(self, states: InitialConditions, like: PackedSource, *, climatology: bool) -> None:
        """`climatology`: also read the climatology, for models that need it; NaN for channels that `like` lacks."""
        self._states, self._like, self._climatology = states, like, climatology
        held = [name for name in states.channels if name in like.channels]
        self._to = [list(states.channels).index(name) for name in held]
        self._from = [like.channels.index(name) for name in held]

    def read(self, steps: Sequence[int]) -> CoarseFields:
        """The fields of these times.

        Raises:
            UserError: the climatology lacks the day and hour of a time.
        """
        states = self._states
        dates = tuple(date_of(states.hours[t], states.calendar) for t in steps)
        return CoarseFields(
            fields_BChw=np.stack([states.read(t) for t in steps]),
            climatology_BChw=np.stack([self._normal(date) for date in dates]) if self._climatology else None,
            dates=dates,
        )

    def _normal(self, date: cftime.datetime) -> Array:
        like = self._like
        z_Chw = like.read_climatology_of(date)[self._from]
        fields_Chw = np.full((len(self._states.channels), *like.grid.shape), np.nan)
        fields_Chw[self._to] = z_Chw * like.std_C[self._from, None, None] + like.mean_C[self._from, None, None]
        return fields_Chw
