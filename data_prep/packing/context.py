"""What every rank needs to process any work unit: plan, settings, input hashes, expected sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.packing.disk_usage import DiskUsage
from climax_hpc.data_prep.packing.first_pass import FirstPass
from climax_hpc.data_prep.packing.plan import PackPlan, SourcePlan, WorkUnit
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import iso, within
from climax_hpc.shards.shard import SCHEMA_VERSION
from climax_hpc.utils.provenance import package_version


@dataclass(frozen=True, eq=False)
class PackContext:
    """One pack; the same on all ranks."""

    plan: PackPlan
    config: PackConfig
    output: Path
    hashes: dict[str, str]
    """Input file or array -> its identity (`identity_of`)."""
    disk_usage: DiskUsage
    ranks: int = 1
    """Ranks that share the work units; only one of them knows which unit it reads next."""

    def first_pass(self, unit: WorkUnit) -> FirstPass:
        """The record of a work unit between the two passes."""
        return FirstPass(
            self.output, unit.file, [*self._made_from(self.plan.sources[unit.source]), unit.start, unit.stop]
        )

    def record(self, source: SourcePlan, file: str, shards: Sequence[str] = ()) -> FirstPass:
        """The record of another file of a source: the static fields, or the climatology of shards of these sha256."""
        return FirstPass(self.output, file, [*self._made_from(source), list(shards)])

    def _made_from(self, source: SourcePlan) -> list[Any]:
        inputs = {file: self.hashes[file] for file in source.input_files()}
        return [package_version(), SCHEMA_VERSION, self.config.settings(), inputs]

    def in_training_period(self, source: SourcePlan) -> NDArray[np.bool_]:
        """True (T,) for the time steps of the training period.

        Raises:
            UserError: there are none.
        """
        return in_training_period(self.config, source)


def in_training_period(config: PackConfig, source: SourcePlan) -> NDArray[np.bool_]:
    """True (T,) for the time steps of the training period.

    Raises:
        UserError: there are none.
    """
    period = None if config.train_period is None else config.train
    inside = within(source.seconds, source.calendar, period)
    if not inside.any():
        first, last = (iso(source.seconds[i], source.calendar)[:10] for i in (0, -1))
        raise UserError(
            f"train_period: {' … '.join(config.train)} contains no time step of {source.name}, which covers "
            f"{first} to {last}; widen the period, or leave the source out with `exclude_sources`"
        )
    return inside
