"""Digest of what a command has made, without times and versions: equal digests are equal results."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np

_VOLATILE = {"provenance", "updated", "restarts", "seconds", "created", "checkpoint", "host", "inputs"}


PRINTED = "printed"
"""Result of a verb that only prints."""


def result_of(verb: str, folder: Path) -> str:
    """Digest of what a verb has made in `folder`; PRINTED of verbs that only print."""
    return hashlib.sha256(_RESULTS[verb](folder).encode()).hexdigest() if verb in _RESULTS else PRINTED


def printed_result(output: str) -> str:
    """What a verb has printed, without durations, rates and ages."""
    output = re.sub(r"\d[\w ]* ago", "", output)
    output = re.sub(r"/\S*/(case|baseline)(/temporary-disk)?/", "", output)
    output = re.sub(r" +", " ", output)
    return re.sub(r"\d+(\.\d+)?(e[+-]\d+)? ?(s|MB|MB/s|starts/s|samples/s|seconds?)\b.*", "", output)


def dataset_content(folder: Path) -> str:
    """All that the loader gives of a packed data set: sources, axes, statistics, every value."""
    from climax_hpc.data.dataset import DataSet

    parts: list[Any] = []
    for source in DataSet(folder).select(None):
        values = [_bytes(source.read(t)) for t in range(source.steps)]
        statistics = [_bytes(source.mean_C), _bytes(source.std_C)]
        static = {name: _bytes(source.static[name]) for name in sorted(source.static)}
        grid = {key: _bytes(np.asarray(axis)) for key, axis in source.grid.to_dict().items() if axis is not None}
        parts += [source.name, source.identity, source.channels, source.calendar, source.frequency, source.step_hours]
        parts += [[(s.first, s.steps) for s in source.segments], _bytes(source.hours)]
        parts += [values, statistics, static, grid, _climatology(source)]
    return json.dumps(parts, default=str)


def _climatology(source: Any) -> list[str]:
    return [_bytes(source.read_climatology(t)) for t in range(source.steps)]


def netcdf_content(path: Path) -> str:
    """Dimensions, variables, attributes and values of a NetCDF file, read with netCDF4 alone."""
    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        parts: list[Any] = [{name: len(d) for name, d in file.dimensions.items()}]
        parts.append({k: str(file.getncattr(k)) for k in file.ncattrs() if k not in ("history", "date_created")})
        for name, variable in file.variables.items():
            attributes = {k: str(variable.getncattr(k)) for k in variable.ncattrs()}
            parts.append([name, variable.dimensions, attributes, _bytes(np.asarray(variable[:]))])
    return json.dumps(parts)


def _bytes(values: Any) -> str:
    values = np.ascontiguousarray(values)
    return f"{values.shape}{values.dtype}{hashlib.sha256(values.tobytes()).hexdigest()}"


def safetensors_content(path: Path) -> str:
    """Header and weights; the library writes the entries of the header in any order."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    return json.dumps([json.loads(data[8 : 8 + size]), hashlib.sha256(data[8 + size :]).hexdigest()], sort_keys=True)


def _json(path: Path) -> str:
    return json.dumps(_stable(json.loads(path.read_text())), sort_keys=True)


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _stable(v) for k, v in value.items() if k not in _VOLATILE and not k.endswith("sha256")}
    return [_stable(v) for v in value] if isinstance(value, list) else value


def _losses(folder: Path) -> str:
    run = folder / ("out" if (folder / "out").is_dir() else "run")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    latest = run / "checkpoints" / (run / "checkpoints/latest").read_text().strip()
    losses = [(row["step"], row.get("loss")) for row in rows]
    return json.dumps([losses, safetensors_content(latest / "weights.safetensors")])


_RESULTS: dict[str, Callable[[Path], str]] = {
    "pack": lambda folder: dataset_content(folder / ("out" if (folder / "out").is_dir() else "data")),
    "repack": lambda folder: dataset_content(folder / "out"),
    "pair": lambda folder: _json(folder / "out.json"),
    "pretrain": _losses,
    "finetune": _losses,
    "evaluate": lambda folder: _json(folder / "out/evaluation.json"),
    "predict": lambda folder: netcdf_content(folder / "out.nc"),
    "report": lambda folder: re.sub(r"\d{4}-\d\d-\d\d[T ][\d:]+", "", (folder / "out.html").read_text()),
    "convert": lambda folder: safetensors_content(folder / "out.safetensors"),
    "inspect": lambda folder: (
        (folder / "out/table.txt").read_text()
        + str(sorted(name for name in os.listdir(folder / "out") if name[0] != "." and name != "mine"))
    ),
    "submit": lambda folder: re.sub(r"/\S*/", "", (folder / "out/members.tsv").read_text()),
    "verify": lambda folder: dataset_content(folder / "data"),
    "loader": lambda folder: dataset_content(folder / "data"),
    "doctor": lambda folder: "done",
}
