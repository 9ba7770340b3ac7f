"""Spread of the tendencies, the changes over the last 6 h, which networks take in units of it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.normalisation_fit import anomaly
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import latitude_weights

_MOST_PAIRS = 200  # of times 6 h apart, per source, evenly spaced: the spread stays accurate to about 1 %


def with_tendencies(
    normalisation: Normalisation,
    sources: Sequence[PackedSource],
    names: Sequence[str],
    period: tuple[str, str] | None,
) -> Normalisation:
    """The normalisation with mean 0 and the root mean square of these tendencies, pooled over the training period.

    Raises:
        UserError: one that does not change at all.
    """
    if not names:
        return normalisation
    sums = {name: np.zeros(2) for name in names}
    for source in sources:
        places = {name: source.tendencies.index(name) for name in names if name in source.tendencies}
        if places:
            square_C, weight_C = _sums(source, period, anomalies=normalisation.mode == "anomaly")
            for name, place in places.items():
                sums[name] += square_C[place], weight_C[place]
    if still := [name for name, (square, _) in sums.items() if square <= 0]:
        raise UserError(f"{still[0]} is zero or missing in the training period: leave it out of model.variables")
    spread = {name: float(np.sqrt(square / weight)) for name, (square, weight) in sums.items()}
    return Normalisation(
        mode=normalisation.mode,
        mean=normalisation.mean | dict.fromkeys(names, 0.0),
        std=normalisation.std | spread,
        anomaly_std=normalisation.anomaly_std | (spread if normalisation.mode == "anomaly" else {}),
        lead_hours=normalisation.lead_hours,
        r=normalisation.r,
        s=normalisation.s,
    )


def _sums(
    source: PackedSource, period: tuple[str, str] | None, *, anomalies: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted sums (C,) of the squares, and of the weights, over pairs of times [physical units]."""
    steps = source.tendency_steps
    assert steps is not None
    later = [segment.first + i for segment in source.within(period) for i in range(steps, segment.steps)]
    weight_HW = np.repeat(latitude_weights(source.grid)[:, None], source.grid.shape[1], axis=1)
    std_C11 = source.std_C[:, None, None]

    def field(time_index: int) -> NDArray[np.float64]:
        return (anomaly(source, time_index) if anomalies else source.read(time_index) * std_C11).astype(np.float64)

    square_C, total_C = np.zeros(len(source.channels)), np.zeros(len(source.channels))
    for t in later[:: -(-len(later) // _MOST_PAIRS)]:
        change_CHW = field(t) - field(t - steps)
        valid_CHW = np.isfinite(change_CHW)
        square_C += (np.where(valid_CHW, change_CHW, 0) ** 2 * weight_HW).sum(axis=(1, 2))
        total_C += (valid_CHW * weight_HW).sum(axis=(1, 2))
    return square_C, total_C
