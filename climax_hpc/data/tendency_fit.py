"""Spread of the tendencies, the changes over the last 6 h, which networks take in units of it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.normalisation_fit import anomaly
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.shared_work import computed_in_shares
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

    The ranks share the work, as in `fit_normalisation`.

    Raises:
        UserError: one that does not change at all.
    """
    if not names:
        return normalisation
    holding = [source for source in sources if any(name in source.tendencies for name in names)]
    times = [(source, t) for source in holding for t in _times(source, period)]
    sums = {name: np.zeros(2) for name in names}
    in_anomalies = normalisation.mode == "anomaly"
    terms = computed_in_shares(
        [2 * len(source.channels) for source, _ in times], lambda n: _terms(*times[n], anomalies=in_anomalies)
    )
    for source in holding:
        of_source = [terms_N.reshape(2, -1) for (s, _), terms_N in zip(times, terms, strict=True) if s is source]
        total_2C = sum(of_source, np.zeros((2, len(source.channels))))
        for name in names:
            if name in source.tendencies:
                sums[name] += total_2C[:, source.tendencies.index(name)]
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


def _times(source: PackedSource, period: tuple[str, str] | None) -> list[int]:
    """Time indices of the later times of the pairs."""
    steps = source.tendency_steps
    assert steps is not None
    later = [segment.first + i for segment in source.within(period) for i in range(steps, segment.steps)]
    return later[:: -(-len(later) // _MOST_PAIRS)] if later else []


def _terms(source: PackedSource, time_index: int, *, anomalies: bool) -> NDArray[np.float64]:
    """Weighted sums over the cells (2, C) of the squares, and of the weights, of one pair of times [physical units]."""
    assert source.tendency_steps is not None
    weight_HW = np.repeat(latitude_weights(source.grid)[:, None], source.grid.shape[1], axis=1)
    std_C11 = source.std_C[:, None, None]

    def field(t: int) -> NDArray[np.float64]:
        return (anomaly(source, t) if anomalies else source.read(t) * std_C11).astype(np.float64)

    change_CHW = field(time_index) - field(time_index - source.tendency_steps)
    valid_CHW = np.isfinite(change_CHW)
    square_C = (np.where(valid_CHW, change_CHW, 0) ** 2 * weight_HW).sum(axis=(1, 2))
    return np.stack([square_C, (valid_CHW * weight_HW).sum(axis=(1, 2))])
