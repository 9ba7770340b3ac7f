"""The scores of ensembles as a table for a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from climax_hpc.evaluation.ensemble_metrics import ensemble_metrics
from climax_hpc.evaluation.output import lead_key, lead_titles
from climax_hpc.fields.variables import lookup
from climax_hpc.utils.formatting import format_score, pretty_units

_SHOWN = ("fair_crps", "spread_skill")


def ensemble_text(content: Mapping[str, Any], variables: Sequence[str]) -> Iterator[str]:
    """Lines with fair CRPS and spread/skill of these variables; none where no forecast has members."""
    ensembles, leads = content.get("ensembles", {}), list(content["lead_hours"])
    if not ensembles:
        return
    metrics, width = ensemble_metrics(()), max(len(label) for label in ensembles) + 2
    titles = ", ".join(metrics[name].title for name in _SHOWN)
    sizes = ", ".join(f"{label}: {one['members']}" for label, one in ensembles.items())
    yield f"{titles} of ensembles (members of {sizes})"
    yield " " * width + "".join(f"{title:>9} " for title in lead_titles(leads))
    for variable in variables:
        for name in _SHOWN:
            units = pretty_units(metrics[name].units(variable))
            yield f"{lookup(variable).short_name} {metrics[name].title}" + (f" [{units}]" if units != "1" else "")
            for label in ensembles:
                table = content["ensemble_scores"][label].get(variable)
                values = [None if table is None else table[lead_key(lead)][name] for lead in leads]
                cells = ("-" if value is None else format_score(value) for value in values)
                yield f"{label:<{width}}" + "".join(f"{cell:>9} " for cell in cells)
