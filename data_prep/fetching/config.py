"""Settings of `climax-hpc fetch`: the keys of a pack config that select input, and what to do with the files."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from climax_hpc.config.paths import ConfigPath
from climax_hpc.data_prep.config import SAMPLE, PackConfig
from climax_hpc.data_prep.fetching.file_times import check_file_period
from climax_hpc.data_prep.sources.selection import Selection, check_selection
from climax_hpc.data_prep.stores.urls import display, is_url
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import lookup
from climax_hpc.utils.bounds import bounded

PROJECTS = ("CMIP6", "CMIP6Plus", "CMIP7")
_EXAMPLE = "write for example [MPI-ESM1-2-HR_historical_r1i1p1f1]"
_STATIC_TABLES = {"CMIP7": "ti-u-hxy-u"}


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """What to download from ESGF, and where to; a pack config is one too, with the same selection.

    Of a pack config `input` is the folder that is filled; keys that only packing needs are passed over.

    Raises:
        UserError: an invalid value; the message names the key and the fix.
    """

    output: ConfigPath
    """Folder of the files, a DRS tree that `pack --input` reads; several downloads may share it. In a pack config it is
    the key `input`."""
    variables: list[str] | None = None
    """Registry names, as for `pack`; a variable that a source lacks is an error. null: all of the registry."""
    sources: list[str] | None = None
    """Sources, `<source_id>_<experiment_id>_<variant_label>`, with wildcards * and ?, which the index expands; of
    sources found by a wildcard, those that lack a variable are left out."""
    exclude_sources: list[str] | None = None
    """Sources to leave out, in the same form."""
    tables: list[str] | None = None
    """CMIP6 tables, for example [6hrPlevPt, fx], or CMIP7 branding suffixes, for example [tpt-p7h-hxy-air, "ti-*"],
    with wildcards * and ?. null: all of the `frequency`."""
    frequency: str | None = None
    """`1hr`, `3hr`, `6hr`, `12hr`, `day`, `mon` or `yr`; required without `tables`."""
    period: list[str] | None = None
    """First and last partial date of the files, both included, for example ["1979", "2014-12"]; null: all times."""
    grid_label: str | None = None
    """Grid to take where a variable is on several, such as gn or gr."""
    project: str | None = None
    """`CMIP6`, `CMIP6Plus` or `CMIP7`; null: CMIP7 if `tables` holds branding suffixes, else CMIP6."""
    index: list[str] | None = None
    """Indices to ask: a name that intake-esgf knows (ESGF2-US-1.5-Catalog, esgf-data.dkrz.de, api.stac.ceda.ac.uk), or
    solr+URL, globus+ID or stac+URL. null: ESGF2-US-1.5-Catalog."""
    nodes: list[str] | None = None
    """Data nodes to try first, in this order, with wildcards * and ?; null: in the order of the index."""
    parallel: int = bounded(4, 64)
    """Files downloaded at the same time."""
    retries: int = bounded(5, 1000)
    """How often all nodes of a file are tried again without progress before it is given up."""
    retry_seconds: float = bounded(2.0, 3600)
    """Wait before the first retry [s]; doubled each time, at most a minute."""
    stall_seconds: float = bounded(60.0, 3600)
    """A connection that brings no byte for this long is given up [s]."""
    max_gigabytes: float | None = bounded(None, 1e7)
    """Refuse to begin if the files have more than this [GB]; null: only the room on the disk limits."""
    list_only: bool = False
    """Ask the index, print data sets and files with their sizes, keep the list in `output`, and download nothing."""
    dry_run: bool = False
    """Print the queries, the commands of other tools for them, and what a list of an earlier run says of the files; use
    no network and write nothing."""

    def __post_init__(self) -> None:
        if not self.output:
            raise UserError("output: is empty; give the folder of the files (an `input` that is a list is none)")
        if self.output == SAMPLE or is_url(self.output):
            raise UserError(f"output: {display(self.output)} is no folder that can be filled; give --output FOLDER")
        check_selection(self.selection)
        if not self.sources:
            raise UserError(f"sources: is not set, and ESGF holds all models; {_EXAMPLE}")
        if self.tables is None and self.frequency is None:
            raise UserError("frequency: neither `frequency` nor `tables` is set; write for example frequency: 6hr")
        for name in self.variables or ():
            if lookup(name).climatebench:
                raise UserError(f"variables: {name} is of ClimateBench, which ESGF does not hold; leave it out")
        if self.project is not None and self.project not in PROJECTS:
            raise UserError(f"project: {self.project!r} is not one of {', '.join(PROJECTS)}")
        if self.index is not None and not self.index:
            raise UserError("index: an empty list asks nobody; leave the key out for the default")
        for key in ("parallel", "stall_seconds"):
            if getattr(self, key) <= 0:
                raise UserError(f"{key}: {getattr(self, key)} must be positive")
        for key in ("retries", "retry_seconds", "max_gigabytes"):
            if (getattr(self, key) or 0) < 0:
                raise UserError(f"{key}: {getattr(self, key)} must not be negative")
        if self.period is not None:
            check_file_period(self.period)

    @classmethod
    def from_file(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a config file, which may be one of `pack`, as settings of `fetch`.

        Raises:
            UserError: it packs another layout than that of ESGF.
        """
        own, others = ({key.name for key in fields(config)} for config in (cls, PackConfig))
        if settings.get("layout", "cmip6") != "cmip6":
            raise UserError(
                f"layout: {settings['layout']} is not on ESGF, which holds cmip6 only; docs/guides/sources.md says "
                "where to get it"
            )
        found = {key: value for key, value in settings.items() if key in own or key not in others}
        if "input" in settings:  # a list is no folder: it is refused, unless the command line gives one
            found["output"] = "" if isinstance(settings["input"], list) else settings["input"]
        elif (others - own) & settings.keys() and "output" in found:
            del found["output"]  # of the packed data set
        return found

    @property
    def selection(self) -> Selection:
        """The keys that select input, as those of `pack`."""
        return Selection.of(self)

    @property
    def era(self) -> str:
        """The project to search."""
        brandings = any("-" in table for table in self.tables or ())
        return self.project or ("CMIP7" if brandings else "CMIP6")

    @property
    def wants_static(self) -> bool:
        """True if static fields are to be fetched too: `tables` does not leave them out."""
        return self.selection.reads("fx", _STATIC_TABLES.get(self.era, "fx"))

    def names(self, source: str) -> bool:
        """True if `sources` names a source itself, not by a wildcard."""
        return source in (self.sources or ())
