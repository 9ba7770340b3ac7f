"""Reads a climate4R grid (.rda, Santander), as R's loadeR and transformeR save it, like a NetCDF file of one variable.

The file holds one list: `Variable`, `Data` (time, lat, lon), `xyCoords`, `Dates`.
"""

import bz2
import gzip
import lzma
import re
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import rdata

from climax_hpc.data_prep.sources.array_dataset import ArrayDataset, ArrayVariable
from climax_hpc.data_prep.sources.claimed_size import check_expanded
from climax_hpc.data_prep.sources.conversions import short
from climax_hpc.errors import UserError
from climax_hpc.utils.system_errors import refuse_system_error

_UNITS = "days since 1850-01-01"
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?: (\d\d):(\d\d):(\d\d))?")
_PARTS = ("Variable", "Data", "xyCoords", "Dates")
_COMPRESSIONS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open,
}  # fmt: skip
_LONGEST_MAGIC = max(map(len, _COMPRESSIONS))
_PIECE = 4 << 20


def open_rda(path: Path, name: str) -> ArrayDataset:
    """The grid in an .rda file.

    Raises:
        UserError: the file is not R data, or does not contain exactly one grid.
    """
    return _read(str(path), path.stat().st_mtime_ns, name)


@lru_cache(maxsize=64)  # every work unit reads the files of its source, and parsing takes most of a second
def _read(path: str, _changed: int, name: str) -> ArrayDataset:
    try:
        with warnings.catch_warnings():  # rdata warns before it raises
            warnings.simplefilter("ignore")
            objects = rdata.conversion.convert(_parsed(Path(path), name))
    except UserError:
        raise
    except Exception as error:  # rdata raises many kinds for what is not R data
        refuse_system_error(error, path)
        raise UserError(f"{name}: cannot be read as R data ({short(error)}); download it again") from error
    grids = [g for g in objects.values() if isinstance(g, dict) and all(part in g for part in _PARTS)]
    if len(grids) != 1 or np.ndim(grids[0]["Data"]) != 3:
        raise UserError(
            f"{name}: contains {len(grids)} climate4R grids (lists of {', '.join(_PARTS)}, data by time, lat, lon) "
            "instead of one; save each grid, of one member, in a separate file"
        )
    return _dataset(grids[0], name)


def _parsed(path: Path, name: str) -> Any:
    """The objects in a file, as rdata's parser gives them.

    Raises:
        UserError: they are far larger than the file.
    """
    stored_bytes = path.stat().st_size
    content = _expanded(path, stored_bytes, name)
    size = len(content)

    def bounded(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def sequence(state: Any) -> Any:
            nonlocal size
            size += 8 * int(state.value[0])
            check_expanded(size, stored_bytes, name)
            return read(state)

        return sequence

    readers = dict(rdata.parser.DEFAULT_ALTREP_MAP)
    # R stores three numbers of 1:n, whatever n is.
    readers |= {kind: bounded(readers[kind]) for kind in (b"compact_intseq", b"compact_realseq")}
    return rdata.parser.parse_data(content, altrep_constructor_dict=readers, extension=".rda")


def _expanded(path: Path, stored_bytes: int, name: str) -> bytes:
    """Content of a file without its compression."""
    with path.open("rb") as file:
        start = file.read(_LONGEST_MAGIC)
    opener = next((opener for magic, opener in _COMPRESSIONS.items() if start.startswith(magic)), open)
    content = bytearray()
    with opener(path, "rb") as file:
        while piece := file.read(_PIECE):
            content += piece
            check_expanded(len(content), stored_bytes, name)
    return bytes(content)


def _dataset(grid: dict[str, Any], name: str) -> ArrayDataset:
    variable_id = str(np.atleast_1d(grid["Variable"]["varName"])[0])
    level = grid["Variable"].get("level")
    lat, lon = (np.asarray(grid["xyCoords"][key], np.float64) for key in ("y", "x"))
    days = np.array([_days(str(text), name) for text in grid["Dates"]["start"]])
    values = np.asarray(grid["Data"], np.float64)
    if values.shape != (len(days), len(lat), len(lon)):
        raise UserError(f"{name}: data of shape {values.shape} do not match the coordinates; save the grid again")
    variables = {
        axis: ArrayVariable(axis, (axis,), array, attributes)
        for axis, array, attributes in (
            ("lat", lat, {"standard_name": "latitude", "units": "degrees_north"}),
            ("lon", lon, {"standard_name": "longitude", "units": "degrees_east"}),
            ("time", days, {"standard_name": "time", "units": _UNITS, "calendar": "standard"}),
        )
    }
    dimensions: tuple[str, ...] = ("time", "lat", "lon")
    if level is not None:
        variables["plev"] = ArrayVariable("plev", ("plev",), np.atleast_1d(level).astype(np.float64), {"units": "hPa"})
        dimensions, values = ("time", "plev", "lat", "lon"), values[:, None]
    variables[variable_id] = ArrayVariable(variable_id, dimensions, values, {})
    return ArrayDataset(variables, {"variable_id": variable_id})


def _days(text: str, name: str) -> float:
    found = _DATE.match(text)
    if found is None:
        raise UserError(f"{name}: {text!r} is not a date; save the grid again")
    year, month, day, *clock = (int(part or 0) for part in found.groups())
    return float(cftime.date2num(cftime.datetime(year, month, day, *clock, calendar="standard"), _UNITS, "standard"))
