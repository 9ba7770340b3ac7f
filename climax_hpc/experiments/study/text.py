"""Markdown fragments: tables, tables of scores, numbers and lists in sentences."""

from collections.abc import Sequence

from climax_hpc.experiments.study.scores import Scores
from climax_hpc.fields.variables import lookup
from climax_hpc.utils.formatting import pretty_units


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def scores_table(scores: Scores, variable: str, labels: Sequence[str], leads: Sequence[float]) -> str:
    """RMSE of one variable: a row per label, a column per lead time."""
    rows = [[label, *(scores.cell(label, variable, h) for h in leads)] for label in labels]
    return table([title(variable), *(lead(h) for h in leads)], rows)


def listed(words: Sequence[str]) -> str:
    """a, b and c."""
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1] if words else "none"


def lead(hours: float) -> str:
    """A lead time in hours or days, such as 6 h or 3 d."""
    return f"{hours:g} h" if hours < 48 or hours % 24 else f"{hours / 24:g} d"


def title(variable: str) -> str:
    """Short name and units, such as Z500 [m² s⁻²]."""
    known = lookup(variable)
    return f"{known.short_name} [{pretty_units(known.units)}]"


def signed_percent(ratio: float) -> str:
    """A ratio as a percentage change: 0.93 is −7.0 %."""
    return f"{100 * (ratio - 1):+.1f} %".replace("-", "−")
