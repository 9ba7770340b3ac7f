"""The layout `cmip`: one NetCDF file per start, variable and member, named and described as those of CMIP6.

`time` is the valid time; the start is the scalar `forecast_reference_time` and, as in CMIP6's predictions, the
`sub_experiment_id` before the variant in file names. Legend: P pressure levels · O channels of a forecast · H, W grid.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data_prep.sources.intervals import is_mean
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import STANDARD_GRAVITY, channels_of, lookup
from climax_hpc.inference.cf import (
    FileLayout,
    FileVariable,
    ForecastContent,
    global_attributes,
    horizontal,
    temperature_scale,
    times,
    vertical_coordinates,
)
from climax_hpc.inference.initial_conditions import date_of
from climax_hpc.inference.layouts.base import Piece, WithoutStatistics, refuse_means
from climax_hpc.utils.formatting import whole_steps

_EXPERIMENT = "forecast"
_INSTANTS = ((6.0, "6hrPlevPt", "6hrPt"), (3.0, "E3hrPt", "3hrPt"), (1.0, "E1hr", "1hrPt"))
"""(hours that all lead times are multiples of, table_id, frequency) of states at instants."""
_MEANS = {24.0: ("day", "day"), 6.0: ("6hrPlev", "6hr"), 3.0: ("3hr", "3hr"), 1.0: ("E1hr", "1hr")}
"""Time step of the input [h] -> (table_id, frequency) of means over it."""


@dataclass(frozen=True, kw_only=True)
class _Definition:
    """What CMIP6's tables say of a variable, where the registry does not say it."""

    long_name: str
    standard_name: str | None = None
    """None: the registry's."""
    units: str | None = None
    """None: the registry's."""
    scale: float = 1.0
    """Value in `units` = scale · registry value + offset."""
    offset: float = 0.0


_DEFINITIONS = {
    "tas": _Definition(long_name="Near-Surface Air Temperature"),
    "uas": _Definition(long_name="Eastward Near-Surface Wind"),
    "vas": _Definition(long_name="Northward Near-Surface Wind"),
    "zg": _Definition(
        long_name="Geopotential Height", standard_name="geopotential_height", units="m", scale=1 / STANDARD_GRAVITY
    ),
    "ua": _Definition(long_name="Eastward Wind"),
    "va": _Definition(long_name="Northward Wind"),
    "ta": _Definition(long_name="Air Temperature"),
    "hur": _Definition(long_name="Relative Humidity"),
    "hus": _Definition(long_name="Specific Humidity"),
    "psl": _Definition(long_name="Sea Level Pressure"),
    "ps": _Definition(long_name="Surface Air Pressure"),
    "pr": _Definition(long_name="Precipitation"),
    "ts": _Definition(long_name="Surface Temperature"),
    "tos": _Definition(long_name="Sea Surface Temperature", units="degC", offset=-273.15),
}


class CmipFiles(WithoutStatistics):
    """One file per start, variable and member; pressure levels are the dimension `plev`, from the ground up."""

    def __init__(self, content: ForecastContent) -> None:
        """Raises UserError for variables without a CMIP6 name, and for times that fit no table of CMIP6."""
        refuse_means(content, "cmip")
        ids = [lookup(name).cmip6 for name in content.variables]
        if unknown := [name for name, i in zip(content.variables, ids, strict=True) if i not in _DEFINITIONS]:
            raise UserError(
                f"variables: layout cmip has no name for {', '.join(unknown)}: list the other variables, or use "
                "layout: cf"
            )
        self._content = content
        self._ids = [str(i) for i in ids]
        self._tables = {i: _table(content, i) for i in self._ids}
        self._levels = {i: _levels(content, i) for i in self._ids}

    def names(self, start_hours: float) -> dict[str, str]:
        """See `ForecastFiles.names`."""
        first, last = (
            f"{date_of(start_hours + lead, self._content.calendar):%Y%m%d%H%M}"
            for lead in (self._content.lead_hours[0], self._content.lead_hours[-1])
        )
        found = {}
        for member in range(len(self._content.members)):
            facets = self._run(start_hours, member)
            member_id = f"{facets['sub_experiment_id']}-{facets['variant_label']}"
            run = f"{facets['source_id']}_{_EXPERIMENT}_{member_id}_{facets['grid_label']}"
            for variable_id, (table, _) in self._tables.items():
                found[_key(variable_id, member)] = f"{variable_id}_{table}_{run}_{first}-{last}.nc"
        return found

    def file(self, key: str, start_hours: float) -> FileLayout:
        """See `ForecastFiles.file`."""
        variable_id, number = key.split()
        content = replace(self._content, members=(self._content.members[int(number)],))
        (axis,), coordinates = times(content, [start_hours], single=True)
        scalars = [name for name in coordinates if name != axis]
        about = self._about(variable_id)
        dims: tuple[str, ...] = (axis,)
        coordinates |= horizontal(content.grid)
        if levels := self._levels[variable_id]:
            dims, coordinates["plev"] = (axis, "plev"), _plev(levels)
        elif height := vertical_coordinates(channels_of(variable_id)[0].name):
            (coordinates["height"],) = height.values()
            scalars.append("height")
        about["coordinates"] = " ".join(scalars)
        sizes = {dim: np.asarray(coordinates[dim].values).size for dim in (*dims, "lat", "lon")} | {"bnds": 2}
        table, frequency = self._tables[variable_id]
        facets = {"variable_id": variable_id, "table_id": table, "frequency": frequency}
        return FileLayout(
            sizes=sizes,
            coordinates=coordinates,
            fields={variable_id: FileVariable(dims=(*dims, "lat", "lon"), values=None, attributes=about)},
            attributes=global_attributes(content) | self._run(start_hours, int(number)) | facets,
        )

    def pieces(self, lead: int, member: int, fields_OHW: NDArray[Any]) -> Iterator[tuple[str, Piece]]:
        """See `ForecastFiles.pieces`."""
        for name, variable_id, field_HW in zip(self._content.variables, self._ids, fields_OHW, strict=True):
            level, entry = lookup(name).level_hpa, _DEFINITIONS[variable_id]
            index = (lead,) if level is None else (lead, self._levels[variable_id].index(level))
            yield _key(variable_id, member), Piece(variable_id, index, field_HW * entry.scale + entry.offset)

    def _run(self, start_hours: float, member: int) -> dict[str, Any]:
        """Global attributes that name the run: CMIP6's facets, of a source that is not registered with CMIP6."""
        return {
            "mip_era": "CMIP6-format",
            "institution_id": "climax-hpc",
            "institution": "made with climax_hpc; no modelling centre",
            "source_id": re.sub(r"[^A-Za-z0-9]+", "-", self._content.labels[member]).strip("-") or "model",
            "experiment_id": _EXPERIMENT,
            "sub_experiment_id": f"s{date_of(start_hours, self._content.calendar):%Y%m%d%H%M}",
            "variant_label": f"r{member + 1}i1p1f1",
            "realization_index": np.int32(member + 1),
            "initialization_index": np.int32(1),
            "physics_index": np.int32(1),
            "forcing_index": np.int32(1),
            "product": "model-output",
            "realm": "atmos",
            "grid_label": "gn",
        }

    def _about(self, variable_id: str) -> dict[str, Any]:
        """Attributes of a variable."""
        entry, known = _DEFINITIONS[variable_id], channels_of(variable_id)[0]
        about: dict[str, Any] = {
            "standard_name": entry.standard_name or known.standard_name,
            "long_name": entry.long_name,
            "units": entry.units or known.units,
        }
        about |= temperature_scale(about["standard_name"], about["units"])
        methods = _cell_methods(self._content, variable_id)
        return about | ({"cell_methods": methods} if methods else {})


def _key(variable_id: str, member: int) -> str:
    return f"{variable_id} {member}"


def _levels(content: ForecastContent, variable_id: str) -> list[int]:
    """Pressure levels [hPa] of a variable among the forecasts, from the ground up; empty at the surface."""
    of_variable = [lookup(name) for name in content.variables if lookup(name).cmip6 == variable_id]
    return sorted((v.level_hpa for v in of_variable if v.level_hpa is not None), reverse=True)


def _plev(levels_hpa: list[int]) -> FileVariable:
    about = {"standard_name": "air_pressure", "long_name": "pressure", "units": "Pa", "positive": "down", "axis": "Z"}
    return FileVariable(dims=("plev",), values=100.0 * np.asarray(levels_hpa, np.float64), attributes=about)


def _cell_methods(content: ForecastContent, variable_id: str) -> str:
    """Cell methods of the input's variable; empty where the input states none, or its levels differ."""
    channels = [name for name in content.variables if lookup(name).cmip6 == variable_id]
    found = {content.cell_methods.get(name, "") for name in channels}
    return found.pop() if len(found) == 1 else ""


def _table(content: ForecastContent, variable_id: str) -> tuple[str, str]:
    """(table_id, frequency) of a variable: for instants from the lead times, for means from the step of the input.

    Raises:
        UserError: lead times that are no whole hours, or means over a time that no table has.
    """
    if is_mean(_cell_methods(content, variable_id)):
        step = content.step_hours
        if step not in _MEANS:
            found = "an unknown time" if step is None else f"{step:g} h"
            raise UserError(
                f"variables: layout cmip has no table for {variable_id}, a mean over {found} in the input (known: "
                f"{', '.join(f'{h:g}' for h in _MEANS)} h): leave it out, or use layout: cf"
            )
        return _MEANS[step]
    for hours, table, frequency in _INSTANTS:
        if all(whole_steps(lead, hours) is not None for lead in content.lead_hours):
            return table, frequency
    raise UserError("lead_hours: layout cmip has tables for whole hours only: give whole hours, or use layout: cf")
