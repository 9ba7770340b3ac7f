"""Yearly data of packed scenarios: years that can be projected, and their fields in physical units.

Dimensions: N projected years · T years of input, oldest first · C channels · H, W grid.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import SourceTimes
from climax_hpc.errors import UserError

Array = NDArray[np.float64]


def check_yearly(source: PackedSource) -> None:
    """Refuse a source that has no yearly means.

    Raises:
        UserError: names the source.
    """
    if source.frequency != "yr":
        raise UserError(
            f"source {source.name} is not yearly: a climate projection takes yearly means, as "
            "`climax-hpc pack --config climatebench` writes them"
        )


def training_years(source: PackedSource, period: tuple[str, str] | None, years: int) -> SourceTimes:
    """Sample times of a period: a sample is a year and the `years - 1` years before it, with lead time 0.

    Raises:
        UserError: not a yearly source, or the period is empty.
    """
    check_yearly(source)
    segments = tuple((s.first, s.steps) for s in source.within(period))
    return SourceTimes(segments=segments, min_lead_steps=0, max_lead_steps=0, history_steps=years - 1)


def projected_years(source: PackedSource, period: tuple[str, str] | None, years: int, key: str = "period") -> list[int]:
    """Time indices in a period with `years - 1` years directly before them, inside or outside the period.

    Raises:
        UserError: not a yearly source, or there is no such year.
    """
    check_yearly(source)
    fitting = {
        t for segment in source.segments for t in range(segment.first + years - 1, segment.first + segment.steps)
    }
    found = [t for s in source.within(period) for t in range(s.first, s.first + s.steps) if t in fitting]
    if not found:
        raise UserError(
            f"{key}: source {source.name} has no year with {years - 1} years of input before it in "
            f"{' … '.join(period) if period else 'all its times'}; widen the period"
        )
    return found


def fields(source: PackedSource, names: Sequence[str], time_index: int) -> Array:
    """Fields (C, H, W) of one year in physical units; names may include static fields.

    Raises:
        UserError: a file is missing, truncated, or does not match its checksums.
    """
    z_CHW = source.read(time_index)
    found = np.empty((len(names), *source.grid.shape))
    for i, name in enumerate(names):
        if name in source.static:
            found[i] = source.static[name]
        else:
            c = source.channels.index(name)
            found[i] = z_CHW[c].astype(np.float64) * source.std_C[c] + source.mean_C[c]
    return found


def all_fields(
    sources: Sequence[PackedSource], names: Sequence[str], period: tuple[str, str] | None
) -> Iterator[Array]:
    """Fields (C, H, W) of every year of these sources in the period."""
    for source in sources:
        for segment in source.within(period):
            for t in range(segment.first, segment.first + segment.steps):
                yield fields(source, names, t)


def check_holds(source: PackedSource, names: Sequence[str], what: str) -> None:
    """Refuse a source that lacks a variable.

    Raises:
        UserError: names the source and what it lacks.
    """
    lacking = [name for name in names if name not in source.channels and name not in source.static]
    if lacking:
        raise UserError(
            f"source {source.name} lacks {', '.join(lacking)}, {what}; it holds "
            f"{', '.join([*source.channels, *source.static])}"
        )


def units_of(
    sources: Sequence[PackedSource], names: Sequence[str], period: tuple[str, str] | None
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and standard deviation of every variable over all cells and years of the training period.

    Computed from the fields: a forcing that an experiment lacks is constant there, and its shard then records a
    standard deviation of 1, which is only a placeholder.
    """
    count_C, total_C, square_C = (np.zeros(len(names)) for _ in range(3))
    reference_C: Array | None = None
    for field_CHW in all_fields(sources, names, period):
        if reference_C is None:  # sums about a typical value, so that squares keep their precision
            reference_C = np.nan_to_num(np.nanmean(field_CHW, axis=(1, 2)))
        away_CHW = field_CHW - reference_C[:, None, None]
        count_C += np.isfinite(away_CHW).sum((1, 2))
        total_C += np.nansum(away_CHW, axis=(1, 2))
        square_C += np.nansum(away_CHW**2, axis=(1, 2))
    if reference_C is None or not count_C.all():
        empty = [name for name, count in zip(names, count_C, strict=True) if not count]
        raise UserError(f"{', '.join(empty)}: every value of the training period is missing; pack the data again")
    away_C = total_C / count_C
    std_C = np.sqrt(np.maximum(square_C / count_C - away_C**2, 0.0))
    std_C = np.where(std_C > 1e-12 * np.abs(reference_C + away_C), std_C, 1.0)
    return (
        dict(zip(names, (reference_C + away_C).tolist(), strict=True)),
        dict(zip(names, std_C.tolist(), strict=True)),
    )
