"""Weights of the output variables in the loss: all alike (ClimaX), by pressure (GraphCast), or given by name."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from climax_hpc.config.parser import nearest
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import lookup

_SURFACE = 0.1  # GraphCast: 10 m wind, mean sea-level pressure and precipitation
_OF_2M_TEMPERATURE = 1.0


def variable_weights(setting: str | Mapping[str, float], outputs: Sequence[str]) -> dict[str, float]:
    """Weight of every output variable in the loss, which divides by their sum; empty: all count alike.

    Args:
        setting: `data.variable_weights`.
        outputs: variables that the run forecasts, of any source.

    Raises:
        UserError: a weight of a variable that the run does not forecast.
    """
    if isinstance(setting, str):
        return pressure_weights(outputs) if setting == "pressure" else {}
    for name in setting:
        if name not in outputs:
            raise UserError(
                f"data.variable_weights: {name} is not among the outputs{nearest(name, outputs)}; the outputs are "
                f"{', '.join(outputs)}"
            )
    return {name: float(setting.get(name, 1.0)) for name in outputs}


def pressure_weights(outputs: Sequence[str]) -> dict[str, float]:
    """Weights of GraphCast (Lam et al. 2023, training objective; `losses.py` and `graphcast.py` of its code).

    On pressure levels they are proportional to the pressure, which stands for the density of the air, and those of one
    variable add up to 1; 2 m temperature has 1, any other variable at the surface 0.1.
    """
    variables = [lookup(name) for name in outputs]
    sums: dict[str | None, int] = {}
    for variable in variables:
        sums[variable.variable_id] = sums.get(variable.variable_id, 0) + (variable.level_hpa or 0)
    surface = {"2m_temperature": _OF_2M_TEMPERATURE}
    return {
        v.name: v.level_hpa / sums[v.variable_id] if v.level_hpa else surface.get(v.name, _SURFACE) for v in variables
    }


def weight_tensor(
    weights: Mapping[str, float], outputs: Sequence[str], who: str, device: torch.device
) -> Tensor | None:
    """Weights (O,) of the outputs of one source, `who` in messages; None where all count alike.

    Raises:
        UserError: all are 0.
    """
    if not weights:
        return None
    if not any(weights[name] for name in outputs):
        raise UserError(
            f"data.variable_weights: every output of {who} has weight 0 ({', '.join(outputs)}): give one of them a "
            "weight, or leave the source out with data.sources"
        )
    return torch.tensor([weights[name] for name in outputs], device=device)


def loss_in_words(output_mode: str, setting: str | Mapping[str, float], members: int | None = None) -> str:
    """What the loss is and in which unit, for one line of a training; `members`: of a network with noise."""
    unit = "of errors divided by s (docs/guides/training.md)" if output_mode == "anomaly" else "in z-scores"
    kind = "mean square" if members is None else "mean absolute value" if members == 1 else f"CRPS of {members} members"
    words = {"uniform": "all variables alike", "pressure": "variables weighted by pressure"}
    return f"loss: {kind} {unit}, {words[setting] if isinstance(setting, str) else 'variables weighted as given'}"
