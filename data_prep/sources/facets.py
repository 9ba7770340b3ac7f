"""Facets of a file of CMIP5, CMIP6, CMIP6Plus or CMIP7, from its header, and from its name where the header lacks them.

Names: `<variable>_<table>_<source>_<experiment>_<variant>_<grid>[_<time>].nc`; CMIP5 has no grid, and CMIP7 (CMIP7-CVs,
drs_specs.yaml) `<variable>_<branding>_<frequency>_<region>_<grid>_<source>_<experiment>_<variant>[_<time>].nc`.
"""

import re
from collections.abc import Mapping
from typing import Any

from climax_hpc.data_prep.sources.branding import BRANDING_LABELS, branding_of
from climax_hpc.data_prep.sources.coordinates import Unusable

_RUN = r"(?P<source_id>[^_]+)_(?P<experiment_id>[^_]+)_(?:(?P<sub_experiment_id>s\d+)-)?(?P<variant_label>[^_.]+)"
_DATES = r"\d{4,14}(-\d{4,14})?(-\w+)?(_.*)?\.nc"
_CMIP7_NAME = re.compile(
    r"(?P<variable_id>[A-Za-z0-9]+)_(?P<branding_suffix>t[a-z]+-[A-Za-z0-9-]+)_(?P<frequency>[A-Za-z0-9]+)"
    rf"_(?P<region>[^_]+)_(?P<grid_label>g[^_]+)_{_RUN}(_[^_]*)?\.nc"
)
_CMIP6_NAME = re.compile(  # and CMIP5, whose names have no grid label before the range of dates
    rf"(?P<variable_id>[A-Za-z0-9]+)_(?P<table_id>[A-Za-z0-9]+)_{_RUN}(_(?P<grid_label>(?!{_DATES})[^_.]+))?(_.*)?\.nc"
)
_CMIP5_TABLE = re.compile(r"Table (\w+)")  # "Table Amon (27 April 2011) a5a1c518f52ae340313ba0aada03f862"
_CMIP7 = "CMIP7"
_GLOBE = "glb"
_RUN_FACETS = ("source_id", "experiment_id", "variant_label", "variable_id")
_CMIP7_FACETS = {"branding_suffix": "such as tavg-h2m-hxy-u", "region": _GLOBE}
_OPTIONAL = ("sub_experiment_id", "table_id", "branding_suffix", "frequency", "grid_label", "region")
_SAME_DATA_SET = ("source_id", "experiment_id", "sub_experiment_id", "variant_label", "branding_suffix", "region")
_NO_RUNS = {"input4mips": "input4MIPs", "obs4mips": "obs4MIPs"}
"""Activities whose data sets are forcings and observations: most have no experiment and member, and names of a form of
their own."""
FACETS = {*_RUN_FACETS, *_OPTIONAL, *BRANDING_LABELS, "branded_variable", "mip_era", "activity_id"}
"""Global attributes that `facets_of` reads."""


def distance_of_runs(field: tuple[str, str, str], run: tuple[str, str, str]) -> tuple[bool, ...]:
    """How far a static field is from a run of its model, each (experiment, member, grid label): smallest is nearest."""
    return tuple(of_field != of_run for of_field, of_run in zip(field, run, strict=True))


def facets_of(attributes: dict[str, str], name: str) -> dict[str, str]:
    """Facets of the file `name` with these global attributes; "" for optional ones that are absent.

    Raises:
        Unusable: one that is needed is in neither; header and name name different data sets; forcings and observations
            that belong to no run.
    """
    no_run = _activity_without_runs(attributes, name)
    era7 = attributes.get("mip_era") == _CMIP7
    stated = _stated(attributes)
    named = {} if no_run else _named(name, era7)
    other = [key for key in _SAME_DATA_SET if stated.get(key) and named.get(key) and stated[key] != named[key]]
    if other:
        listed = ", ".join(f"{key} {stated[key]} and {named[key]}" for key in other)
        raise Unusable(f"its header and its name differ ({listed}): rename it, or correct the header")
    facets = dict.fromkeys(_OPTIONAL, "") | named | stated
    era7 = era7 or _has_no_table(facets)
    needed = (*_RUN_FACETS, *(_CMIP7_FACETS if era7 else ("table_id",)))
    absent = [key for key in needed if not facets.get(key)]
    if absent and no_run:
        raise Unusable(
            f"{no_run}, expected the output of a model run: its header lacks {', '.join(absent)}; leave it out"
        )
    if absent:
        listed = ", ".join(f"{key} ({_CMIP7_FACETS[key]})" if key in _CMIP7_FACETS else key for key in absent)
        raise Unusable(f"its header and name lack {listed}: not a {_CMIP7 if era7 else 'CMIP6'} file")
    return facets if era7 else facets | {"region": ""}


def region_of(attributes: Mapping[str, Any]) -> str:
    """The region in global attributes of CMIP7; empty for other files, whose `region` may be any text."""
    stated = _stated({key: str(value) for key, value in attributes.items()})
    era7 = attributes.get("mip_era") == _CMIP7 or _has_no_table(stated)
    return stated.get("region", "") if era7 else ""


def refuse_region(region: str) -> None:
    """Refuse a region of CMIP7 that is not the globe; an empty one passes.

    Raises:
        Unusable: names the region and the one that is expected.
    """
    if region not in ("", _GLOBE):
        raise Unusable(
            f"its region is {region}, expected {_GLOBE} (the globe): take the global file, and cut out a region with "
            "the key `region`"
        )


def _has_no_table(facets: Mapping[str, str]) -> bool:
    """True for facets of CMIP7: a branding where CMIP6 has a table."""
    return bool(facets.get("branding_suffix") and not facets.get("table_id"))


def _activity_without_runs(attributes: dict[str, str], name: str) -> str:
    """What says that a file holds forcings or observations: its header, or its name; empty if neither does."""
    for activity in attributes.get("activity_id", "").split():
        if known := _NO_RUNS.get(activity.lower()):
            return f"its activity_id is {known}"
    named = _NO_RUNS.get("".join(name.split("_")[1:2]).lower())
    return f"its name says {named}" if named else ""


def _stated(attributes: dict[str, str]) -> dict[str, str]:
    """Facets in the header that say something."""
    stated = {key: attributes[key] for key in (*_RUN_FACETS, *_OPTIONAL) if attributes.get(key, "") not in ("", "none")}
    if table := _CMIP5_TABLE.match(stated.get("table_id", "")):
        stated["table_id"] = table.group(1)
    if branding := stated.get("branding_suffix") or branding_of(attributes | {"branding_suffix": ""}):
        stated["branding_suffix"] = branding
    return stated


def _named(name: str, era7: bool) -> dict[str, str]:
    """Facets in the name of a file; files of CMIP7 have no other form of names."""
    for pattern in (_CMIP7_NAME,) if era7 else (_CMIP7_NAME, _CMIP6_NAME):
        if match := pattern.fullmatch(name):
            return {key: value for key, value in match.groupdict().items() if value}
    return {}
