"""What to ask an index of ESGF: the facets of every query, and the same query in the words of other tools."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote

from climax_hpc.data_prep.fetching.config import FetchConfig
from climax_hpc.data_prep.sources.selection import has_wildcard, with_ingredients
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import REGISTRY, in_registry_order, lookup

Facets = Mapping[str, tuple[str, ...]]
FOUND_MODELS = "(those found)"
"""Stands for models that a wildcard will find."""
_TABLE_FACET = {"CMIP7": "branding_suffix"}
_MEMBER_FACET = {"CMIP7": "variant_label"}


@dataclass(frozen=True, kw_only=True)
class Query:
    """One question to an index: the data sets whose facets have one of these values."""

    project: str
    facets: Facets
    static: bool = False
    """True if static fields are asked for, of any experiment of a model."""
    ingredients: tuple[str, ...] = ()
    """Those of the variables that are only taken if a requested one has to be derived from them."""

    def text(self) -> str:
        """The facets on one line."""
        return "; ".join(
            [f"project: {self.project}", *(f"{key}: {', '.join(values)}" for key, values in self.facets.items())]
        )


def variable_ids(config: FetchConfig, *, static: bool) -> list[str]:
    """CMIP names of the requested variables, or of all in the registry."""
    wanted = [lookup(name) for name in config.variables] if config.variables else list(REGISTRY.values())
    return list(dict.fromkeys(v.cmip6 for v in wanted if v.cmip6 and v.static == static))


def time_queries(config: FetchConfig) -> list[Query]:
    """The queries for what changes in time: one for each entry of `sources`; what it can be derived from is asked too.

    Raises:
        UserError: an entry of `sources` fixes neither model nor experiment; `tables` has static fields only.
    """
    if config.tables and all(_is_static(table) for table in config.tables):
        raise UserError(f"tables: {config.tables} hold static fields only; add the table of what changes in time")
    names = in_registry_order(config.variables) if config.variables else list(REGISTRY)
    wanted = [v for v in map(lookup, with_ingredients(names)) if v.cmip6 and not v.static]
    found = tuple(sorted({str(v.cmip6) for v in wanted}))
    if not found:
        return []
    common = {"variable_id": found, **_table_facets(config), **_frequency_facets(config)}
    extra = tuple(variable_id for variable_id in found if variable_id not in variable_ids(config, static=False))
    queries = [
        Query(project=config.era, facets=_run_facets(source, config.era) | common, ingredients=extra)
        for source in config.sources or ()
    ]
    return list({query.text(): query for query in queries}.values())


def static_query(config: FetchConfig, models: tuple[str, ...]) -> Query | None:
    """The query for static fields of these models; None if none are wanted.

    Raises:
        UserError: `tables` leaves out static variables that `variables` names.
    """
    found = variable_ids(config, static=True)
    if not found:
        return None
    if not config.wants_static:
        if config.variables is None:
            return None
        name = next(name for name in config.variables if lookup(name).cmip6 == found[0])
        label = '"ti-*"' if config.era == "CMIP7" else "fx"
        raise UserError(f"tables: {config.tables} leave out {name}, which is static; add {label}, or leave {name} out")
    table = {"frequency": ("fx",)} if config.era == "CMIP7" else {"table_id": ("fx",)}
    return Query(project=config.era, facets={"source_id": models, "variable_id": tuple(found), **table}, static=True)


def models_of(config: FetchConfig) -> tuple[str, ...]:
    """The models that `sources` names without wildcards, for queries before the index has answered."""
    models = [source.split("_")[0] for source in config.sources or ()]
    return tuple(dict.fromkeys(FOUND_MODELS if has_wildcard(model) else model for model in models))


def _run_facets(source: str, era: str) -> dict[str, tuple[str, ...]]:
    """Facets of the parts of an entry of `sources` that hold no wildcard.

    Raises:
        UserError: it fixes neither model nor experiment.
    """
    parts = source.split("_")
    keys = ("source_id", "experiment_id", _MEMBER_FACET.get(era, "member_id"))
    if len(parts) < len(keys):  # a * may stand for several parts
        parts = parts[: next((i for i, part in enumerate(parts) if has_wildcard(part)), len(parts))]
    fixed = ((key, part) for key, part in zip(keys, parts, strict=False) if part and not has_wildcard(part))
    found: dict[str, tuple[str, ...]] = {key: (part,) for key, part in fixed}
    if not found.keys() & {"source_id", "experiment_id"}:
        raise UserError(
            f"sources: {source!r} fixes neither model nor experiment, and ESGF holds millions of data sets; write for "
            "example [MPI-ESM1-2-HR_historical_r1i1p1f1] or ['*_historical_r1i1p1f1']"
        )
    return found


def _table_facets(config: FetchConfig) -> dict[str, tuple[str, ...]]:
    """The tables, if none of those in time is a pattern; patterns are compared with the answer."""
    tables = tuple(t for t in config.tables or () if not _is_static(t))
    if not tables or any(has_wildcard(table) for table in tables):
        return {}
    return {_TABLE_FACET.get(config.era, "table_id"): tables}


def _is_static(table: str) -> bool:
    return table == "fx" or table.startswith("ti-")


def _frequency_facets(config: FetchConfig) -> dict[str, tuple[str, ...]]:
    """The frequency, in CMIP6 of means and of instants (6hrPt); not beside tables, which say it, and better."""
    if config.frequency is None or _table_facets(config).get("table_id"):
        return {}
    plain = config.frequency
    return {"frequency": (plain,) if config.era == "CMIP7" or plain == "day" else (plain, f"{plain}Pt")}


def commands_of(query: Query, output: str) -> list[str]:
    """The same search and download with esgpull and with intake-esgf, which know no CMIP7."""
    if query.project == "CMIP7" or FOUND_MODELS in query.facets.get("source_id", ()):
        return []
    facets = {"project": (query.project,), **query.facets}
    facets["variable_id"] = tuple(name for name in facets["variable_id"] if name not in query.ingredients)
    words = " ".join(quote(f"{key}:{','.join(values)}") for key, values in facets.items())
    arguments = ", ".join(
        f"{key}={json.dumps(values if len(values) > 1 else values[0])}" for key, values in facets.items()
    )
    script = (
        f"import intake_esgf as i; i.conf.set(local_cache={json.dumps(output)}); i.ESGFCatalog().search({arguments})"
        ".to_path_dict()"
    )
    return [f"esgpull add {words} --distrib true --tag climax --track", f"python -c {quote(script)}"]
