"""The fields of a file that holds several variables under the names of a layout; the others are listed."""

from typing import Any

from climax_hpc.data_prep.sources.conversions import ALIASES, Alias
from climax_hpc.data_prep.sources.coordinates import NOT_FIELDS, attribute
from climax_hpc.data_prep.sources.open_input import no_fields
from climax_hpc.data_prep.sources.skipped import Cause, SkippedFile
from climax_hpc.fields.variables import VARIABLE_IDS


def named_fields(
    dataset: Any, layout: str, file: str, separate: bool = False
) -> tuple[list[tuple[Any, Alias, str]], list[SkippedFile]]:
    """Each variable with an alias in the layout, its alias and its path; and what is left out.

    `separate`: variables are files of their own, as in a zarr store.
    """
    fields, skipped = [], []
    coordinates = _coordinates(dataset)
    if reason := no_fields(dataset):
        skipped.append(SkippedFile(file=file, reason=reason))
    for name, variable in dataset.variables.items():
        alias = ALIASES[layout].get(name)
        if not variable.dimensions or variable.dimensions == (name,) or (alias is None and name in coordinates):
            continue
        path = f"{file}/{name}" if separate else file
        if alias is None:
            reason, cause = f"variable {name} is not in the registry", Cause.NEVER_PACKED
            if name in VARIABLE_IDS:
                reason, cause = f"{name} is no name of layout {layout}; use layout cmip6", Cause.UNUSABLE
            skipped.append(SkippedFile(file=path, reason=reason, variable_id=name, cause=cause))
        else:
            fields.append((variable, alias, path))
    if not fields and not skipped:
        skipped.append(SkippedFile(file=file, reason="holds coordinates only"))
    return fields, skipped


def _coordinates(dataset: Any) -> set[str]:
    """Names of variables that are no fields: those that attributes of others name."""
    names = set(NOT_FIELDS)
    for variable in dataset.variables.values():
        for key in ("coordinates", "bounds", "grid_mapping"):
            names |= {*attribute(variable, key).split()}
    return names
