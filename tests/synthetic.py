"""Packed data sets for tests, in the format of docs/concepts/shards.md, from seeded AR(1) noise.

Every channel is a daily cycle plus smooth anomalies a(t+1) = phi·a(t) + noise, so that damped persistence is better
than persistence and climatology at every lead time.
Dimensions: T time steps · C channels · K entries of the climatology · S static fields · H, W grid.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cftime
import h5py
import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from climax_hpc.checkpoint.metadata import CheckpointMetadata
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.normalisation_fit import fit_normalisation
from climax_hpc.fields.grid import Grid, midpoint_bounds
from climax_hpc.fields.periods import TIME_UNITS, period_hours
from climax_hpc.fields.variables import in_registry_order
from climax_hpc.model import ClimaXNetwork, ModelConfig
from climax_hpc.shards.chunk_table import header_checksum
from climax_hpc.utils.files import sha256, write_json, write_text

CHANNELS = ("2m_temperature", "geopotential_500", "u_component_of_wind_850", "temperature_850")
_CLIMATE = {"geopotential_500": (54000.0, 700.0), "2m_temperature": (280.0, 6.0), "temperature_850": (275.0, 5.0)}
_STEP_HOURS = 6.0
_WINDOW_DAYS = 30


@dataclass(frozen=True, kw_only=True)
class SyntheticSource:
    """One source: 1 January of `first_year` and of every following year starts a segment of `steps_per_year` steps."""

    channels: Sequence[str] = CHANNELS
    first_year: int = 2001
    years: int = 4
    steps_per_year: int = 48
    offset_hours: float = 0.0
    """Hours after 1 January at which the segments start in fact."""
    shape: tuple[int, int] = (8, 16)
    train_period: tuple[str, str] = ("2001", "2003")
    phi: float = 0.9
    """Correlation of anomalies one step apart."""
    drift_cells: int = 0
    """Cells by which anomalies move eastward per step; above 0, a model can learn something."""
    shards_per_segment: int = 2
    dtype: str = "float16"
    calendar: str = "noleap"
    missing: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    """Channel -> (H, W), True where always missing."""
    climatology: bool = True
    climate: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Channel -> mean and spread, where they are not the usual ones."""


def write_dataset(folder: Path, sources: Mapping[str, SyntheticSource], *, seed: int = 0) -> Path:
    """Write a data set of these sources, given by full name; returns its folder."""
    entries = {}
    for number, (name, spec) in enumerate(sorted(sources.items())):
        (folder / name).mkdir(parents=True)
        entries[name] = _write_source(folder, name, spec, np.random.default_rng([seed, number]))
    first = next(iter(sources.values()))
    manifest = {
        "schema": "climax_hpc/dataset",
        "schema_version": 1,
        "climax_hpc_version": "0.1.0",
        "settings": {"grid": 180 / first.shape[0], "dtype": first.dtype, "train_period": list(first.train_period)},
        "sources": entries,
        "skipped": [],
    }
    write_json(folder / "manifest.json", manifest)
    return folder


def write_checkpoint(
    folder: Path, dataset: Path, *, source: str = "JCM-C", mode: str = "anomaly", seed: int = 0, **model: Any
) -> Path:
    """An untrained ClimaX for one source, as `climax_hpc.checkpoint.format` reads it; returns the checkpoint folder.

    The last layer is divided by a thousand: in `anomaly` mode it forecasts damped persistence plus a little noise.
    """
    data = DataSet(dataset).select([source])[0]
    rows, columns = data.grid.shape
    small: dict[str, Any] = {"height": rows, "width": columns, "patch": 4, "embed_dim": 16, "depth": 1, "heads": 2}
    small |= {"variables": (*data.channels, "land_sea_mask", "orography", "latitude"), "output_mode": mode}
    config = ModelConfig(**(small | model))
    normalisation = fit_normalisation([data], mode=mode, period=("2001", "2003"), min_lead_hours=6, max_lead_hours=168)
    torch.manual_seed(seed)
    weights = ClimaXNetwork(config).state_dict()
    last = max(name for name in weights if name.startswith("head.") and name.endswith("weight"))
    weights[last] *= 0.001
    target = folder / "step_00000007"
    target.mkdir(parents=True)
    save_file(weights, target / "weights.safetensors")
    metadata = CheckpointMetadata(
        step=7,
        config=config,
        normalisation=normalisation,
        in_variables=tuple(v for v in config.variables if v in (*data.channels, *data.static)),
        out_variables=tuple(v for v in config.variables if v in data.channels),
    )
    write_json(target / "model.json", metadata.to_dict())
    write_json(target / "SHA256SUMS.json", {n: sha256(target / n) for n in ("model.json", "weights.safetensors")})
    write_text(folder / "latest", target.name + "\n")
    return target


def with_vivid_members(folder: Path) -> Path:
    """The checkpoint in this folder, of a network with noise, with weights that make its members differ much."""
    weights = load_file(folder / "weights.safetensors")
    draw = torch.Generator().manual_seed(3)
    scale = {"head": 60, "aggregator": 10, "blocks": 10}
    vivid = {
        name: torch.randn(w.shape, generator=draw) if "noise" in name else w * scale.get(name.split(".")[0], 1)
        for name, w in weights.items()
    }
    save_file(vivid, folder / "weights.safetensors")
    write_json(folder / "SHA256SUMS.json", {n: sha256(folder / n) for n in ("model.json", "weights.safetensors")})
    return folder


def make_grid(shape: tuple[int, int]) -> Grid:
    """A global grid of any number of rows and columns, otherwise as in ClimaX."""
    rows, columns = shape
    lat: NDArray[np.float64] = -90 + 180 / rows * (np.arange(rows, dtype=np.float64) + 0.5)
    lon: NDArray[np.float64] = 360 / columns * np.arange(columns, dtype=np.float64)
    lon_bnds = np.stack([lon - 180 / columns, lon + 180 / columns], axis=-1)
    return Grid(lat=lat, lon=lon, lat_bnds=midpoint_bounds(lat, -90.0, 90.0), lon_bnds=lon_bnds)


def _write_source(folder: Path, name: str, spec: SyntheticSource, random: np.random.Generator) -> dict[str, Any]:
    channels, grid = in_registry_order(spec.channels), make_grid(spec.shape)
    hours_T, segment_T = _times(spec)
    values_TCHW = _values(spec, channels, grid, hours_T, random)
    lower, upper = period_hours(spec.train_period, spec.calendar)
    train_T = (hours_T >= lower) & (hours_T < upper)
    mean_C = np.nanmean(values_TCHW[train_T], axis=(0, 2, 3))
    std_C = np.nanstd(values_TCHW[train_T], axis=(0, 2, 3))
    z_TCHW = (values_TCHW - mean_C[:, None, None]) / std_C[:, None, None]
    common = {"channel": np.array(channels, h5py.string_dtype()), "mean": mean_C, "std": std_C}
    common |= {key: getattr(grid, key) for key in ("lat", "lon", "lat_bnds", "lon_bnds")}
    common |= _static(grid)
    attributes = _attributes(name, channels, spec)
    shards = []
    for segment in range(spec.years):
        for part in np.array_split(np.flatnonzero(segment_T == segment), spec.shards_per_segment):
            file = (
                f"{name}/{name}_{_date(hours_T[part[0]], spec):%Y%m%d%H}_{_date(hours_T[part[-1]], spec):%Y%m%d%H}.h5"
            )
            _write_h5(folder / file, z_TCHW[part].astype(spec.dtype), attributes, common | {"time": hours_T[part]})
            shards.append(_shard_entry(folder, file, hours_T[part], segment, spec))
    entry: dict[str, Any] = {
        "identity": json.loads(attributes["identity"]),
        "frequency": "6hr",
        "step_hours": _STEP_HOURS,
        "calendar": spec.calendar,
        "channels": channels,
        "static": ["land_sea_mask", "orography"],
        "grid": grid.to_dict(),
        "statistics": _statistics(channels, values_TCHW, mean_C, std_C),
        "shards": shards,
        "gaps": [],
        "climatology": None,
    }
    if spec.climatology:
        file = f"{name}/climatology.h5"
        coordinates, fields_KCHW = _climatology(spec, hours_T, train_T, z_TCHW)
        _write_h5(folder / file, fields_KCHW, attributes, common | coordinates)
        entry["climatology"] = {
            "file": file,
            "sha256": sha256(folder / file),
            "header_xxh3": header_checksum(folder / file),
            "slots": len(fields_KCHW),
        }
    return entry


def _times(spec: SyntheticSource) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Hours since 1850 (T,) and segment number (T,)."""
    starts = [
        float(cftime.date2num(cftime.datetime(spec.first_year + y, 1, 1, calendar=spec.calendar), TIME_UNITS))
        + spec.offset_hours
        for y in range(spec.years)
    ]
    hours = np.concatenate([start + _STEP_HOURS * np.arange(spec.steps_per_year) for start in starts])
    return hours, np.repeat(np.arange(spec.years), spec.steps_per_year)


def _values(
    spec: SyntheticSource, channels: Sequence[str], grid: Grid, hours_T: Any, random: np.random.Generator
) -> NDArray[np.float64]:
    """Physical values (T, C, H, W): mean, meridional gradient, daily cycle, anomalies with unit spread times std."""
    noise = _smooth(random.standard_normal((len(hours_T), len(channels), *grid.shape)))
    noise /= noise.std()
    anomaly = np.empty_like(noise)
    anomaly[0] = noise[0]
    for t in range(1, len(hours_T)):
        moved = np.roll(anomaly[t - 1], spec.drift_cells, axis=-1)
        anomaly[t] = spec.phi * moved + np.sqrt(1 - spec.phi**2) * noise[t]
        if t % spec.steps_per_year == 0:
            anomaly[t] = noise[t]
    angle = 2 * np.pi * (hours_T % 24)[:, None] / 24 + np.deg2rad(grid.lon)
    daily = np.repeat(np.cos(angle)[:, None, :], grid.shape[0], axis=1)
    south_north = np.repeat(np.cos(np.deg2rad(grid.lat))[:, None], grid.shape[1], axis=1)
    values = np.empty_like(anomaly)
    for c, name in enumerate(channels):
        mean, std = (_CLIMATE | dict(spec.climate)).get(name, (5.0, 8.0))
        values[:, c] = mean + std * (anomaly[:, c] + 0.3 * daily + 2 * south_north)
        if name in spec.missing:
            values[:, c, spec.missing[name]] = np.nan
    return values


def _smooth(noise: NDArray[np.float64]) -> NDArray[np.float64]:
    for axis in (-2, -1):
        noise = noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)
    return noise


def _climatology(
    spec: SyntheticSource, hours_T: Any, train_T: Any, z_TCHW: Any
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """Coordinates, and the mean (K, C, H, W) of training steps at the same hour within ±30 days, cyclic."""
    dates = [_date(h, spec) for h in hours_T]
    day_T, hour_T = (np.array([getattr(d, key) for d in dates]) for key in ("dayofyr", "hour"))
    entries = sorted(set(zip(day_T.tolist(), hour_T.tolist(), strict=True)))
    fields = []
    for day, hour in entries:
        distance_T = np.abs((day_T - day + 182) % 365 - 182)
        fields.append(z_TCHW[train_T & (hour_T == hour) & (distance_T <= _WINDOW_DAYS)].mean(axis=0))
    day_K, hour_K = np.array(entries, np.int32).T
    return {"day_of_year": day_K, "hour": hour_K}, np.array(fields, np.float32)


def _write_h5(path: Path, fields: NDArray[Any], attributes: Mapping[str, Any], datasets: Mapping[str, Any]) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("fields", data=fields, chunks=(1, *fields.shape[1:]))
        sums = [xxhash.xxh3_64_intdigest(chunk.tobytes()) for chunk in fields]
        file.create_dataset("checksum", data=np.array(sums, np.uint64))
        for name, values in datasets.items():
            file.create_dataset(name, data=values)
        if "time" in datasets:
            file["time"].attrs.update(units=TIME_UNITS, calendar=attributes["calendar"])
        file.attrs.update(attributes)


def _attributes(name: str, channels: Sequence[str], spec: SyntheticSource) -> dict[str, Any]:
    source_id, experiment_id, variant_label = name.split("_")
    identity = {"source_id": source_id, "experiment_id": experiment_id, "variant_label": variant_label}
    return {
        "schema": "climax_hpc/shard", "schema_version": 1, "source": name, "frequency": "6hr",
        "step_hours": _STEP_HOURS, "identity": json.dumps(identity), "inputs": "[]", "regrid": "conservative",
        "cell_methods": json.dumps(dict.fromkeys(channels, "time: point")), "calendar": spec.calendar,
    }  # fmt: skip


def _static(grid: Grid) -> dict[str, Any]:
    lat, lon = np.deg2rad(np.meshgrid(grid.lat, grid.lon, indexing="ij"))
    land = (np.sin(2 * lon) * np.cos(lat) + 0.5 * np.sin(3 * lat) > 0.2).astype(np.float32)
    fields = np.stack([land, 1000 * land * np.cos(lat)]).astype(np.float32)
    return {"static_channel": np.array(["land_sea_mask", "orography"], h5py.string_dtype()), "static": fields}


def _statistics(channels: Sequence[str], values_TCHW: Any, mean_C: Any, std_C: Any) -> dict[str, Any]:
    return {
        name: {
            "mean": float(mean_C[c]),
            "std": float(std_C[c]),
            "min": float(np.nanmin(values_TCHW[:, c])),
            "max": float(np.nanmax(values_TCHW[:, c])),
            "missing_share": float(np.isnan(values_TCHW[:, c]).mean()),
        }
        for c, name in enumerate(channels)
    }


def _shard_entry(folder: Path, file: str, hours: Any, segment: int, spec: SyntheticSource) -> dict[str, Any]:
    path = folder / file
    return {
        "file": file, "sha256": sha256(path), "header_xxh3": header_checksum(path),
        "bytes": path.stat().st_size, "steps": len(hours),
        "first": _date(hours[0], spec).isoformat(), "last": _date(hours[-1], spec).isoformat(), "segment": segment,
    }  # fmt: skip


def _date(hours: float, spec: SyntheticSource) -> Any:
    return cftime.num2date(hours, TIME_UNITS, calendar=spec.calendar)
