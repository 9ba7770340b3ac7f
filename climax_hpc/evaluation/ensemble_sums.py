"""Means over the cells of every ensemble forecast, from which the probabilistic scores are computed.

With w the area weight of a cell, <·> its weighted mean over the valid cells of one forecast, x_1 … x_M the members, x̄
their mean, y the truth: each forecast contributes the values of `EnsembleSums.series`, as each of `accumulators` does.
A forecast is scored by itself, so that no more than its own members are held in the type of the scores.

Dimensions: B forecasts of a batch · N all forecasts · M members · R = M + 1 ranks or probabilities · Q thresholds ·
O variables · H, W grid · K = H·W cells.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from climax_hpc.data.device_copy import to_device
from climax_hpc.evaluation.ensemble_metrics import PERCENTILES_BELOW
from climax_hpc.evaluation.metrics import Array
from climax_hpc.evaluation.readback import Readback
from climax_hpc.kernels.ensemble_crps.op import ensemble_crps_of_fields

_ENERGY_RUN = 1 << 18  # numbers of all members and variables in a run of cells: they fit a processor's cache


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Values that events are defined by, for a batch, in physical units; NaN where there is none."""

    percentiles: tuple[float, ...]
    values_QBOHW: Tensor

    def select(self, places: Tensor) -> "Thresholds":
        """The same for some of the variables."""
        return Thresholds(percentiles=self.percentiles, values_QBOHW=self.values_QBOHW.index_select(2, places))

    def of(self, b: int) -> dict[float, Tensor]:
        """Percentile -> values (O, H, W) for forecast b."""
        return dict(zip(self.percentiles, self.values_QBOHW[:, b], strict=True))


class EnsembleSums:
    """The series of every forecast of one ensemble at one lead time.

    `scale_O`: what the variables are divided by in the energy score, in physical units.
    """

    def __init__(self, variables: Sequence[str], scale_O: Array) -> None:
        self.variables = tuple(variables)
        self._scale_O = scale_O
        self._parts: dict[str, list[Array]] = {}
        self.members = 0

    def add(
        self,
        members_of: Callable[[int], Tensor],
        truth_BOHW: Tensor,
        weight_H: Tensor,
        thresholds: Thresholds | None = None,
        readback: Readback | None = None,
    ) -> None:
        """Add a batch of forecasts: `members_of(b)` are the members (M, O, H, W) of forecast b in physical units.

        They are on the device and in the type of the truth, which is NaN in cells that do not count; there they may
        hold anything. `weight_H`: area weight of a cell in each row, in any unit. With a `readback`, the batch counts
        from when that is run.
        """
        own, found = readback or Readback(), []
        for b in range(len(truth_BOHW)):
            x_MOHW = members_of(b)
            self.members = len(x_MOHW)
            scale_O = to_device(self._scale_O, x_MOHW.device).to(x_MOHW.dtype)
            found.append(_means_of_one(x_MOHW, truth_BOHW[b], weight_H, scale_O))
            if thresholds is not None:
                found[-1] |= _event_means(x_MOHW, truth_BOHW[b], weight_H, thresholds.of(b))
        for name in found[0]:
            own.want(torch.stack([means[name] for means in found]), partial(self._keep, name))
        if readback is None:
            own.run()

    def _keep(self, name: str, values: Array) -> None:
        self._parts.setdefault(name, []).append(values.copy())

    def __iadd__(self, other: "EnsembleSums") -> "EnsembleSums":
        for name, parts in other._parts.items():
            self._parts.setdefault(name, []).extend(parts)
        return self

    @property
    def series(self) -> dict[str, Array]:
        """Name -> values (N, O), of ranks and reliability (N, O, R), of the energy score (N, 1); in the order added.

        NaN where no cell is valid, and for fair scores of one member.

        - `crps`: CRPS of the ensemble as it is, <1/M Σ|x_i - y| - 1/(2 M²) Σ_ij |x_i - x_j|> (Gneiting and Raftery
          2007, equation 21; CRPSEnsemble with fair=False of WeatherBench-X).
        - `fair_crps`: the same with 2 M (M-1) in place of 2 M²: without bias for M (Ferro 2014; fair=True).
        - `square_error`: <(x̄ - y)²>. `variance`: <s²>, s² = 1/(M-1) Σ (x_i - x̄)² (EnsembleVariance).
        - `unbiased_square_error`: <(x̄ - y)² - s²/M> (UnbiasedEnsembleMeanSquaredError).
        - `total_variance`: (M+1)/M <s²>, what <(x̄ - y)²> is on average for a perfect ensemble (Fortin et al. 2014).
        - `brier_p`: <(k/M - e)²>, k of M members in the event of percentile p, e = 1 where the truth is (Brier 1950);
          `fair_brier_p`: <(k/M - e)² - k (M-k) / (M² (M-1))> (Ferro 2014).
        - `rank_histogram`: share of the area by the number of members below the truth; a truth that equals some
          members counts in equal parts in all ranks that it could have among them (Hamill 2001).
        - `outliers`: the first plus the last of these shares.
        - `forecasts_p`: share of the area by probability k/M; `events_p`: the part of it where the event was.
        - `energy_score`: <1/M Σ‖u_i - v‖ - 1/(2 M²) Σ_ij ‖u_i - u_j‖> with u and v the vectors of all variables in a
          cell over their scale, of cells where all are valid (Gneiting and Raftery 2007, section 4.3);
          `fair_energy_score`: with 2 M (M-1).
        """
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}


def _means_of_one(x_MOHW: Tensor, truth_OHW: Tensor, weight_H: Tensor, scale_O: Tensor) -> dict[str, Tensor]:
    """The values of `EnsembleSums.series` of one forecast that need no thresholds, on its device, in float64."""
    valid_OHW, M = ~truth_OHW.isnan(), len(x_MOHW)
    x_MOHW, y_OHW = torch.where(valid_OHW, x_MOHW, 0.0), torch.where(valid_OHW, truth_OHW, 0.0)
    weight_OHW = valid_OHW * weight_H[:, None]
    fair_O = ensemble_crps_of_fields(x_MOHW[None], truth_OHW[None], weight_H, alpha=1.0)[1][0].double()
    error_O = _mean((x_MOHW - y_OHW).abs().mean(dim=0), weight_OHW)
    mean_OHW = x_MOHW.mean(dim=0)
    square_O = _mean((mean_OHW - y_OHW) ** 2, weight_OHW)
    variance_O = _mean(((x_MOHW - mean_OHW) ** 2).sum(dim=0), weight_OHW) / (M - 1) if M > 1 else square_O * torch.nan
    rank_OR = _rank_histogram(x_MOHW, y_OHW, weight_OHW)
    scale_O11 = scale_O[:, None, None]
    return {
        "crps": error_O + (fair_O - error_O) * ((M - 1) / M),
        "fair_crps": fair_O if M > 1 else error_O * torch.nan,
        "square_error": square_O,
        "variance": variance_O,
        "unbiased_square_error": square_O - variance_O / M,
        "total_variance": variance_O * ((M + 1) / M),
        "rank_histogram": rank_OR,
        "outliers": rank_OR[:, 0] + rank_OR[:, -1],
        **_energy(x_MOHW / scale_O11, y_OHW / scale_O11, weight_OHW * valid_OHW.all(dim=0)),
    }


def _event_means(
    x_MOHW: Tensor, truth_OHW: Tensor, weight_H: Tensor, limits: Mapping[float, Tensor]
) -> dict[str, Tensor]:
    """Brier scores and reliability of one forecast, by percentile; cells without a threshold do not count."""
    M = len(x_MOHW)
    found: dict[str, Tensor] = {}
    for percentile, limit_OHW in limits.items():
        beyond = torch.lt if percentile < PERCENTILES_BELOW else torch.gt
        inside_OHW, event_OHW = beyond(x_MOHW, limit_OHW).sum(dim=0), beyond(truth_OHW, limit_OHW)
        weight_OHW = ~(truth_OHW.isnan() | limit_OHW.isnan()) * weight_H[:, None]
        chance_OHW = inside_OHW.to(weight_OHW.dtype) / M
        brier_O = _mean((chance_OHW - event_OHW.to(weight_OHW.dtype)) ** 2, weight_OHW)
        excess_O = _mean(chance_OHW * (1 - chance_OHW), weight_OHW) / (M - 1) if M > 1 else brier_O * torch.nan
        found |= {
            f"brier_{percentile:g}": brier_O,
            f"fair_brier_{percentile:g}": brier_O - excess_O,
            f"forecasts_{percentile:g}": _shares(inside_OHW, weight_OHW, weight_OHW, M + 1),
            f"events_{percentile:g}": _shares(inside_OHW, weight_OHW * event_OHW, weight_OHW, M + 1),
        }
    return found


def _mean(term_OHW: Tensor, weight_OHW: Tensor) -> Tensor:
    """Weighted mean (O,), in float64; NaN where no cell counts."""
    total_O = (term_OHW * weight_OHW).sum(dim=(-2, -1), dtype=torch.float64)
    return total_O / weight_OHW.sum(dim=(-2, -1), dtype=torch.float64)


def _shares(place_OHW: Tensor, amount_OHW: Tensor, weight_OHW: Tensor, size: int) -> Tensor:
    """Share (O, size) of the weight by place from 0 to size - 1, where each cell has `amount` at its place."""
    total_OR = amount_OHW.new_zeros(len(place_OHW), size, dtype=torch.float64)
    total_OR.scatter_add_(1, place_OHW.flatten(1), amount_OHW.flatten(1).double())
    return total_OR / weight_OHW.sum(dim=(-2, -1), dtype=torch.float64)[:, None]


def _rank_histogram(x_MOHW: Tensor, y_OHW: Tensor, weight_OHW: Tensor) -> Tensor:
    """Share (O, R) of the weight by rank of the truth; a cell with e equal members is spread over e + 1 ranks.

    Each cell adds its part where its ranks begin and takes it away behind them; sums along the ranks spread it.
    """
    R = len(x_MOHW) + 1
    below_OHW, equal_OHW = (x_MOHW < y_OHW).sum(dim=0), (x_MOHW == y_OHW).sum(dim=0)
    part_OHW = weight_OHW / (equal_OHW + 1)
    tied_OHW = equal_OHW > 0
    alone_OR = _shares(below_OHW, torch.where(tied_OHW, 0.0, part_OHW), weight_OHW, R)
    among_OHW = torch.where(tied_OHW, part_OHW, 0.0)
    starts_OR = _shares(below_OHW, among_OHW, weight_OHW, R + 1)
    ends_OR = _shares(below_OHW + equal_OHW + 1, among_OHW, weight_OHW, R + 1)
    return alone_OR + (starts_OR - ends_OR).cumsum(dim=1)[:, :R].clamp_(min=0)  # below 0 by rounding only


def _energy(u_MOHW: Tensor, v_OHW: Tensor, weight_OHW: Tensor) -> dict[str, Tensor]:
    """The energy scores (1,), over runs of cells; each pair of members is taken once."""
    M, variables = u_MOHW.shape[:2]
    weight_K = weight_OHW[0].flatten()  # the same for all variables
    u_MOK, v_OK = u_MOHW.flatten(2), v_OHW.flatten(1)
    error = torch.zeros((), dtype=torch.float64, device=u_MOK.device)
    pairs = torch.zeros_like(error)
    run = max(1, _ENERGY_RUN // (M * variables))
    for u, v, weight in zip(u_MOK.split(run, dim=2), v_OK.split(run, dim=1), weight_K.split(run), strict=True):
        error += (torch.linalg.vector_norm(u - v, dim=1) * weight).sum(dtype=torch.float64)
        for m in range(M - 1):
            pairs += (torch.linalg.vector_norm(u[m + 1 :] - u[m], dim=1) * weight).sum(dtype=torch.float64)
    area = weight_K.sum(dtype=torch.float64)
    fair = (error / M - pairs / (M * (M - 1))) / area if M > 1 else area * torch.nan
    return {"energy_score": ((error / M - pairs / M**2) / area)[None], "fair_energy_score": fair[None]}
