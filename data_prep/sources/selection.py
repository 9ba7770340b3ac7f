"""Which variables and sources of the input a pack reads."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from climax_hpc.data_prep.sources.conversions import derivation_of
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import STEP_HOURS
from climax_hpc.fields.variables import channels_of, lookup


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The keys of a pack config that select input; None selects all. `PackConfig` documents them."""

    variables: list[str] | None = None
    sources: list[str] | None = None
    exclude_sources: list[str] | None = None
    tables: list[str] | None = None
    frequency: str | None = None

    @classmethod
    def of(cls, config: Any) -> "Selection":
        """The keys of a config that has them all."""
        return cls(**{key.name: getattr(config, key.name) for key in fields(cls)})

    def keeps(self, source: str) -> bool:
        """True if `sources` and `exclude_sources` select a source by its name."""
        inside = self.sources is None or any(fnmatchcase(source, pattern) for pattern in self.sources)
        return inside and not any(fnmatchcase(source, pattern) for pattern in self.exclude_sources or ())

    def reads(self, table_id: str, branding: str) -> bool:
        """True if `tables` selects the table of CMIP6 or the branding suffix of CMIP7; wildcards * and ?."""
        return self.tables is None or any(fnmatchcase(n, p) for n in (table_id, branding) for p in self.tables)


def check_selection(selection: Selection) -> None:
    """Refuse keys that select nothing, or what no input holds.

    Raises:
        UserError: names the key.
    """
    for key in ("variables", "sources", "tables"):
        if getattr(selection, key) is not None and not getattr(selection, key):
            raise UserError(f"{key}: an empty list selects nothing; leave the key out to select all")
    if selection.frequency is not None and selection.frequency not in STEP_HOURS:
        raise UserError(f"frequency: {selection.frequency!r} is not one of {', '.join(STEP_HOURS)}")
    for name in selection.variables or ():
        if lookup(name).is_computed:
            raise UserError(f"variables: {name} is computed when a network takes it, never packed; leave it out")


def select_names(names: list[str], selection: Selection) -> list[str]:
    """The source names that the selection keeps.

    Raises:
        UserError: a pattern matches no source; the message lists the nearest names.
    """
    for key, patterns in (("sources", selection.sources), ("exclude_sources", selection.exclude_sources)):
        for pattern in patterns or ():
            if not any(fnmatchcase(name, pattern) for name in names):
                near = get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:5]
                raise UserError(f"{key}: no source {pattern!r} in the input; there are {', '.join(near) or 'none'}")
    return [name for name in names if selection.keeps(name)]


def has_wildcard(pattern: str) -> bool:
    """True for a pattern of names, False for a name."""
    return any(character in pattern for character in "*?[")


def with_ingredients(names: Iterable[str]) -> set[str]:
    """Registry names, and the names of what they can be derived from at the same level."""
    found = set(names)
    for name in tuple(found):
        entry = lookup(name)
        rule = derivation_of(entry.variable_id or "")
        if rule is not None:
            found |= {v.name for i in rule.ingredients for v in channels_of(i) if v.level_hpa == entry.level_hpa}
    return found


def nearest_held(name: str, held: list[str]) -> str:
    """The end of a message that refuses a variable: the most similar names that the input contains."""
    near = get_close_matches(name, held, n=3, cutoff=0.3) or held[:5]
    return f"the nearest are {', '.join(near)}" if near else "the input contains no variable that can be packed"
