"""Which of the data sets that the indices list are fetched: the newest versions of what the config selects."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from climax_hpc.data_prep.fetching.config import FetchConfig
from climax_hpc.data_prep.fetching.queries import variable_ids
from climax_hpc.data_prep.fetching.records import EsgfDataSet
from climax_hpc.data_prep.sources.conversions import derivation_of
from climax_hpc.data_prep.sources.coordinates import Unusable
from climax_hpc.data_prep.sources.facets import distance_of_runs, refuse_region
from climax_hpc.data_prep.sources.selection import has_wildcard
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import channels_of

_MODEL_LEVELS = re.compile(r".*Lev")
_MOST_NAMED = 8


@dataclass(kw_only=True)
class Choice:
    """Data sets to fetch, each with all of its copies, and what is left out."""

    kept: list[list[EsgfDataSet]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """DRS id -> reason."""

    @property
    def sources(self) -> dict[str, list[EsgfDataSet]]:
        """One copy of each data set in time, by source."""
        found: dict[str, list[EsgfDataSet]] = {}
        for copies in self.kept:
            found.setdefault(copies[0].source, []).append(copies[0])
        return found


def choose(config: FetchConfig, listed: Iterable[EsgfDataSet], asked: str) -> Choice:
    """The data sets of what changes in time; `asked` says what was asked, for the message if there are none.

    Raises:
        UserError: nothing is left; a named source lacks a variable; a variable is in several tables or on several
            grids.
    """
    choice = Choice()
    usable = []
    for data_set in listed:
        if reason := _why_not(config, data_set):
            choice.left_out[data_set.drs] = reason
        else:
            usable.append(data_set)
    choice.kept = _newest(usable, choice.left_out)
    _refuse_several(choice, "table", "tables")
    _refuse_several(choice, "grid_label", "grid_label")
    _check_variables(config, choice)
    missing = [name for name in config.sources or () if not has_wildcard(name) and name not in choice.sources]
    if missing or not choice.kept:
        raise UserError(_nothing(config, choice, missing, asked))
    return choice


def choose_static(config: FetchConfig, listed: Sequence[EsgfDataSet], choice: Choice) -> list[str]:
    """Add one data set of each static variable of each model, preferably of the same run; returns notes.

    Raises:
        UserError: a variable that `variables` names is missing.
    """
    usable = []
    for data_set in listed:
        reason = "its data set is retracted" if data_set.retracted else _wrong_region(data_set)
        if reason:
            choice.left_out[data_set.drs] = reason
        else:
            usable.append(data_set)
    groups = _newest(usable, choice.left_out)
    notes = []
    for model, run in {sets[0]["source_id"]: sets[0] for sets in choice.sources.values()}.items():
        for variable_id in variable_ids(config, static=True):
            own = [g for g in groups if (g[0]["source_id"], g[0]["variable_id"]) == (model, variable_id)]
            if own:
                best = min(own, key=lambda group: _distance(group[0], run))
                choice.kept.append(best)
                others = {group[0].drs: "a static field of another run of the model" for group in own if group != best}
                choice.left_out |= others
            elif config.variables:
                name = channels_of(variable_id)[0].name
                raise UserError(
                    f"variables: no experiment of {model} has {variable_id} ({name}) in table fx; leave {name} out, or "
                    "exclude the model"
                )
            else:
                notes.append(f"{model} has no {variable_id} in table fx")
    return notes


def _why_not(config: FetchConfig, data_set: EsgfDataSet) -> str:
    """Why a data set is not fetched, whatever else there is; empty if it may be."""
    if not config.selection.keeps(data_set.source):
        return f"source {data_set.source} is not selected"
    if data_set.retracted:
        return "its data set is retracted"
    if not config.selection.reads(data_set["table_id"], data_set["branding_suffix"]):
        return f"table {data_set.table} is not among the selected tables"
    levels = any(v.level_hpa for v in channels_of(data_set["variable_id"]))
    if levels and _MODEL_LEVELS.fullmatch(data_set["table_id"]) and not config.tables:
        return f"table {data_set.table} is on model levels, which `pack` does not read"
    if config.grid_label not in (None, data_set["grid_label"]):
        return f"grid {data_set['grid_label']} is not the selected one ({config.grid_label})"
    return _wrong_region(data_set)


def _wrong_region(data_set: EsgfDataSet) -> str:
    try:
        refuse_region(data_set["region"])
    except Unusable as error:
        return str(error)
    return ""


def _newest(data_sets: Iterable[EsgfDataSet], left_out: dict[str, str]) -> list[list[EsgfDataSet]]:
    """All copies of the newest version of each data set, the original before replicas."""
    groups: dict[str, list[EsgfDataSet]] = {}
    for data_set in data_sets:
        groups.setdefault(data_set.master, []).append(data_set)
    chosen = []
    for _, group in sorted(groups.items()):
        newest = max(group, key=lambda d: d.version)
        for other in group:
            if other.version != newest.version:
                left_out[other.drs] = f"version {other['version']} is replaced by {newest['version']}"
        copies = {(d.node, d.index): d for d in group if d.version == newest.version}
        chosen.append(sorted(copies.values(), key=lambda d: d.replica))
    return chosen


def _refuse_several(choice: Choice, facet: str, key: str) -> None:
    """Refuse a variable of a source in several tables, or on several grids: `pack` cannot combine them."""
    found: dict[tuple[str, str], list[str]] = {}
    for data_set, *_ in choice.kept:
        value = data_set.table if facet == "table" else data_set[facet]
        found.setdefault((data_set.source, data_set["variable_id"]), []).append(value)
    for (source, variable_id), values in found.items():
        if len(several := sorted(set(values))) > 1:
            fix = f"{key}: [{several[0]}]" if facet == "table" else f"{key}: {several[0]}"
            what = "tables" if facet == "table" else "grids"
            raise UserError(f"{key}: {source} has {variable_id} in the {what} {', '.join(several)}; choose, as {fix}")


def _check_variables(config: FetchConfig, choice: Choice) -> None:
    """Leave out ingredients that nothing is derived from, and sources that lack a variable, or refuse those named."""
    if config.variables is None:
        return
    wanted = variable_ids(config, static=False)
    needed: dict[str, set[str]] = {}
    for source, data_sets in choice.sources.items():
        held = {d["variable_id"] for d in data_sets}
        needed[source] = {v for v in wanted if v in held}
        lacking = []
        for variable_id in (v for v in wanted if v not in held):
            rule = derivation_of(variable_id)
            if rule and held.issuperset(rule.ingredients):
                needed[source] |= set(rule.ingredients)
            else:
                lacking.append(variable_id)
        if lacking and config.names(source):
            raise UserError(_lacks(config, source, lacking, held))
        if lacking:
            needed[source] = set()
            choice.left_out |= {d.drs: f"{source} has no {', '.join(lacking)}" for d in data_sets}
    kept = []
    for copies in choice.kept:
        first = copies[0]
        if first["variable_id"] in needed[first.source]:
            kept.append(copies)
        else:
            choice.left_out.setdefault(first.drs, f"variable {first['variable_id']} is not among the selected ones")
    choice.kept = kept


def _lacks(config: FetchConfig, source: str, lacking: list[str], held: set[str]) -> str:
    names = [v.name for variable_id in lacking for v in channels_of(variable_id) if v.name in (config.variables or ())]
    more = f", and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    where = f"in tables {', '.join(config.tables)}" if config.tables else f"with frequency {config.frequency}"
    return (
        f"variables: {source} has no {', '.join(lacking)} ({', '.join(names[:_MOST_NAMED])}{more}) {where}; the index "
        f"lists {', '.join(sorted(held))}: leave the others out, or exclude the source"
    )


def _nothing(config: FetchConfig, choice: Choice, missing: list[str], asked: str) -> str:
    """Why a source, or everything, is missing."""
    reasons = list(dict.fromkeys(choice.left_out.values()))
    why = f" ({'; '.join(reasons[:3])}{'; …' if len(reasons) > 3 else ''})" if reasons else ""
    what = f"no data set of {', '.join(missing)}" if missing else "no data set of the selected sources"
    return (
        f"sources: {asked} lists {what} that can be fetched{why}; compare sources, tables, frequency and grid_label "
        "with the index, or ask another one (index)"
    )


def _distance(data_set: EsgfDataSet, run: EsgfDataSet) -> tuple[tuple[bool, ...], str]:
    """How far a static field is from a run: as `pack` prefers them."""
    ours, theirs = ((d["experiment_id"], d["member_id"], d["grid_label"]) for d in (data_set, run))
    return distance_of_runs(ours, theirs), data_set.drs
