"""Divergence of a forecast ensemble from the true distribution, of which an ensemble of true members is a sample.

Everything is unbiased for the numbers of members, so it may fall a little below its optimum. With forecast members x,
true members y, and means over pairs of different members, each start gives, in every cell and averaged over the valid
cells by area, the values of `SERIES`; the metrics of `DIVERGENCE` are functions of their means over starts. A single
forecast (M = 1) counts as a distribution without spread.

- CRPS against one true member, averaged over them: A - B/2. What a true ensemble has against a member that is left out:
  C/2. The difference is the integral of (F - G)² of the two distribution functions; 0 only for equal ones.
- The energy distance of whole fields, of norm |x| = sqrt(<x²>), also sees patterns in space: 2A - B - C with the norm.

Dimensions: B starts of a batch · N all starts · M forecast members · T true members · O variables · H, W grid ·
K zonal wavenumbers · R draws.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from climax_hpc.data.device_copy import to_device
from climax_hpc.evaluation.metrics import Array, ForecastMeans, Metric, ratio
from climax_hpc.evaluation.readback import Readback
from climax_hpc.evaluation.spectra import band_rows, zonal_power_on_device
from climax_hpc.model.indices import index_tensor

SERIES = {
    "apart": "A = <|x - y|>, all pairs",
    "forecast_apart": "B = <|x - x'|>, different members",
    "truth_apart": "C = <|y - y'|>, different members",
    "forecast_variance": "<variance of x>",
    "truth_variance": "<variance of y>",
    "square_error": "<(mean of x - y)²> - <variance of x> / M, averaged over y",
    "square_shift": "<(mean of x - mean of y)²> - <variance of x> / M - <variance of y> / T",
    "energy": "2 mean |x - y| - mean |x - x'| - mean |y - y'|, norms of fields",
}
"""What `DivergenceSums` keeps of every start; NaN where no cell is valid."""


def _root(values_RO: Array) -> Array:
    """Square root; NaN below 0, where the sample is too small to tell."""
    return np.sqrt(np.where(values_RO >= 0, values_RO, np.nan))


def _crps(means: ForecastMeans) -> Array:
    return means.mean("apart") - means.mean("forecast_apart") / 2


def _crps_of_truth(means: ForecastMeans) -> Array:
    return means.mean("truth_apart") / 2


def _spread_ratio(means: ForecastMeans) -> Array:
    return np.sqrt(ratio(means.mean("forecast_variance"), means.mean("truth_variance")))


def _spread_skill(means: ForecastMeans) -> Array:
    return np.sqrt(ratio(means.mean("forecast_variance"), means.mean("square_error")))


def _metric(
    name: str, title: str, compute: Callable[[ForecastMeans], Array], optimum: float | None, description: str
) -> Metric[ForecastMeans]:
    return Metric(
        name=name,
        title=title,
        compute=compute,
        better="lower" if optimum == 0 else None,
        optimum=optimum,
        description=description,
        dimensionless=name in ("spread_ratio", "spread_skill"),
    )


_TABLE = (
    _metric(
        "crps_difference",
        "CRPS above the truth's",
        lambda means: _crps(means) - _crps_of_truth(means),
        0,
        "the fair CRPS against single true members, minus what the true ensemble has against a member left out",
    ),
    _metric("crps", "CRPS", _crps, None, "the fair CRPS against single true members, averaged over them"),
    _metric(
        "crps_of_truth",
        "CRPS of the truth",
        _crps_of_truth,
        None,
        "the fair CRPS that the true ensemble has against a member left out: the least that can be reached",
    ),
    _metric(
        "energy_distance",
        "energy distance",
        lambda means: means.mean("energy"),
        0,
        "the energy distance of the distributions of whole fields, of the root mean square norm",
    ),
    _metric(
        "spread_ratio",
        "spread / true spread",
        _spread_ratio,
        1,
        "the root mean variance of the forecast members over that of the true members",
    ),
    _metric(
        "spread_skill",
        "spread / skill",
        _spread_skill,
        1,
        "the root mean variance of the forecast members over the RMSE of their mean against single true members",
    ),
    _metric(
        "mean_shift",
        "shift of the mean",
        lambda means: _root(means.mean("square_shift")),
        0,
        "the root mean square difference of the two means, without the sampling error of both; undefined (–) where "
        "that exceeds it",
    ),
    _metric(
        "true_spread",
        "true spread",
        lambda means: np.sqrt(means.mean("truth_variance")),
        None,
        "the root mean variance of the true members",
    ),
)
DIVERGENCE: dict[str, Metric[ForecastMeans]] = {metric.name: metric for metric in _TABLE}
"""Name -> metric, in the order of tables."""


def mean_apart(members_BMOHW: Tensor) -> Tensor:
    """Mean of |x - x'| over pairs of different members (B, O, H, W); 0 for one member."""
    count = members_BMOHW.shape[1]
    if count == 1:
        return torch.zeros_like(members_BMOHW[:, 0])
    # In order, member i is larger than i others and smaller than the rest.
    places = torch.arange(count, dtype=members_BMOHW.dtype, device=members_BMOHW.device)
    factor_M = (2 * places - (count - 1)) * (2 / (count * (count - 1)))
    return torch.einsum("m,bmohw->bohw", factor_M, members_BMOHW.sort(dim=1).values)


def mean_apart_from(members_BMOHW: Tensor, truth_BTOHW: Tensor) -> Tensor:
    """Mean of |x - y| over all pairs (B, O, H, W)."""
    total_BOHW = torch.zeros_like(members_BMOHW[:, 0])
    for truth_BOHW in truth_BTOHW.unbind(1):
        total_BOHW += (members_BMOHW - truth_BOHW[:, None]).abs().mean(dim=1)
    return total_BOHW / truth_BTOHW.shape[1]


def energy_distance(members_BMOC: Tensor, truth_BTOC: Tensor, weight_BOC: Tensor) -> Tensor:
    """Energy distance (B, O) of fields of C cells; weights add up to 1; one forecast member has no spread."""
    own, true = members_BMOC.shape[1], truth_BTOC.shape[1]
    both = torch.cat([members_BMOC, truth_BTOC], dim=1).permute(0, 2, 1, 3)
    centred = (both - truth_BTOC.mean(dim=1)[:, :, None]) * weight_BOC.sqrt()[:, :, None]
    gram_BOPP = centred @ centred.transpose(-1, -2)
    square_BOP = gram_BOPP.diagonal(dim1=-2, dim2=-1)
    apart_BOPP = (square_BOP[..., None] + square_BOP[..., None, :] - 2 * gram_BOPP).clamp(min=0).sqrt()
    apart_BOPP = apart_BOPP - torch.diag_embed(apart_BOPP.diagonal(dim1=-2, dim2=-1))  # rounding: 0 on the diagonal
    across_BO = apart_BOPP[..., :own, own:].mean(dim=(-2, -1))
    within_own_BO = apart_BOPP[..., :own, :own].sum(dim=(-2, -1)) / max(own * (own - 1), 1)
    within_true_BO = apart_BOPP[..., own:, own:].sum(dim=(-2, -1)) / max(true * (true - 1), 1)
    return 2 * across_BO - within_own_BO - within_true_BO


def variance(members_BMOHW: Tensor) -> Tensor:
    """Unbiased variance of the members (B, O, H, W); 0 for one."""
    if members_BMOHW.shape[1] == 1:
        return torch.zeros_like(members_BMOHW[:, 0])
    return members_BMOHW.var(dim=1)


def variance_by_wavenumber(members_BMOHW: Tensor, weight_H: Tensor) -> Tensor:
    """Unbiased variance of the members about their mean (B, O, K), averaged over rows with their weights.

    Rows with a missing cell in any member are left out; NaN where none is left. 0 for one member.
    """
    count = members_BMOHW.shape[1]
    about_BMOHW = members_BMOHW - members_BMOHW.mean(dim=1, keepdim=True)
    power_BOHK = zonal_power_on_device(about_BMOHW).sum(dim=1) / max(count - 1, 1)
    valid_BOH = torch.isfinite(power_BOHK).all(dim=-1)
    weight_BOH = valid_BOH * weight_H.double()
    total_BOK = torch.einsum("boh,bohk->bok", weight_BOH, torch.where(valid_BOH[..., None], power_BOHK, 0.0))
    total_BO1 = weight_BOH.sum(dim=-1, keepdim=True)
    return torch.where(total_BO1 > 0, total_BOK / total_BO1, torch.nan)


class DivergenceSums:
    """The `SERIES` and the variance by wavenumber of every start, of one forecast ensemble at one lead time."""

    def __init__(self, variables: Sequence[str], lat: Array, weight_H: Array) -> None:
        self.variables = tuple(variables)
        self._rows, self._weight_H = band_rows(lat).tolist(), weight_H
        self._parts: dict[str, list[Array]] = {name: [] for name in SERIES}
        self._spectra: dict[str, list[Array]] = {"forecast": [], "truth": []}

    def add(
        self, forecast_BMOHW: Tensor, truth_BTOHW: Tensor, valid_BOHW: Tensor, readback: Readback | None = None
    ) -> None:
        """Add a batch of starts in physical units; cells that are not valid may hold anything.

        With a `readback`, the batch counts from when that is run. Cells where a member is not finite are not valid.
        """
        own = readback or Readback()
        x, y = forecast_BMOHW, truth_BTOHW
        valid_BOHW = valid_BOHW & torch.isfinite(x).all(dim=1) & torch.isfinite(y).all(dim=1)
        weight_H = to_device(self._weight_H, x.device).to(x.dtype)
        area_BOHW = valid_BOHW * weight_H[:, None]
        weight_BOHW = area_BOHW / area_BOHW.sum(dim=(2, 3), keepdim=True)  # NaN where no cell is valid
        x, y = (torch.where(valid_BOHW[:, None], one, 0.0) for one in (x, y))
        values = {
            name: (field_BOHW.double() * weight_BOHW.double()).sum(dim=(2, 3))
            for name, field_BOHW in _fields(x, y).items()
        }
        values["energy"] = energy_distance(
            x.flatten(3).double(), y.flatten(3).double(), weight_BOHW.flatten(2).double()
        )
        own.want(torch.stack([values[name] for name in SERIES]), self._keep)
        rows_R = index_tensor(self._rows, x.device)
        for name, members in (("forecast", forecast_BMOHW), ("truth", truth_BTOHW)):
            kept = torch.where(valid_BOHW[:, None], members, torch.nan).index_select(3, rows_R)
            spectrum_BOK = variance_by_wavenumber(kept, weight_H.index_select(0, rows_R))
            own.want(spectrum_BOK, partial(self._keep_spectrum, name))
        if readback is None:
            own.run()

    def _keep(self, values_SBO: Array) -> None:
        for name, value_BO in zip(SERIES, values_SBO, strict=True):
            self._parts[name].append(value_BO)

    def _keep_spectrum(self, name: str, spectrum_BOK: Array) -> None:
        self._spectra[name].append(spectrum_BOK)

    @property
    def series(self) -> dict[str, Array]:
        """`SERIES` name -> values (N, O), in the order added."""
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}

    @property
    def spectra(self) -> dict[str, Array]:
        """`forecast` and `truth` -> variance by wavenumber (N, O, K), in the order added."""
        return {name: np.concatenate(parts) for name, parts in self._spectra.items()}

    def __iadd__(self, other: "DivergenceSums") -> "DivergenceSums":
        for mine, theirs in ((self._parts, other._parts), (self._spectra, other._spectra)):
            for name, parts in theirs.items():
                mine[name] += parts
        return self


def _fields(x_BMOHW: Tensor, y_BTOHW: Tensor) -> Mapping[str, Tensor]:
    """The values of `SERIES` in every cell (B, O, H, W), all but the energy distance."""
    var_x, var_y = variance(x_BMOHW), variance(y_BTOHW)
    mean_x, mean_y = x_BMOHW.mean(dim=1), y_BTOHW.mean(dim=1)
    return {
        "apart": mean_apart_from(x_BMOHW, y_BTOHW),
        "forecast_apart": mean_apart(x_BMOHW),
        "truth_apart": mean_apart(y_BTOHW),
        "forecast_variance": var_x,
        "truth_variance": var_y,
        "square_error": (mean_x[:, None] - y_BTOHW).square().mean(dim=1) - var_x / x_BMOHW.shape[1],
        "square_shift": (mean_x - mean_y).square() - var_x / x_BMOHW.shape[1] - var_y / y_BTOHW.shape[1],
    }


def mean_spectra(spectra: Mapping[str, Array], weight_RN: Array) -> dict[str, Array]:
    """`forecast`, `truth` and their `ratio` -> (R, O, K): variance by wavenumber, averaged over the starts of draws."""
    found = {}
    for name, values_NOK in spectra.items():
        defined_NOK = np.isfinite(values_NOK)
        total_ROK = np.tensordot(weight_RN, np.where(defined_NOK, values_NOK, 0.0), 1)
        found[name] = ratio(total_ROK, np.tensordot(weight_RN, defined_NOK.astype(np.float64), 1))
    return found | {"ratio": ratio(found["forecast"], found["truth"])}
