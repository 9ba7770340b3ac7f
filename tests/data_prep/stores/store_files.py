"""ERA5 as a zarr store, an icechunk repository and kerchunk references, all with the same values."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..sources.test_era5 import LEVELS, SHORT_AND_LONG, era5_fields

NAMES = ("2m_temperature", "geopotential", "temperature")
SETTINGS: dict[str, Any] = {
    "layout": "era5", "grid_spacing_deg": 22.5, "steps_per_shard": 4, "network_retry_seconds": 60.0,
    "network_timeout_seconds": 2.0,
}  # fmt: skip


def dataset(steps: int = 8) -> xr.Dataset:
    """Three variables, one of the surface, two on four levels."""
    fields, lat, lon = era5_fields(steps)
    data = {}
    for short, name in SHORT_AND_LONG.items():
        if name in NAMES:
            values = fields[short].astype(np.float32)
            data[name] = (("time", *(("level",) if values.ndim == 4 else ()), "latitude", "longitude"), values)
    time = np.datetime64("1979-01-01T00", "ns") + np.arange(steps) * np.timedelta64(6, "h")
    return xr.Dataset(data, {"time": time, "level": LEVELS, "latitude": lat, "longitude": lon})


def write_zarr(path: Any, steps: int = 8, zarr_format: int = 2, checksums: bool = False, **options: Any) -> None:
    """A store with one chunk a step; `checksums`: each chunk ends in its crc32c."""
    held = dataset(steps)
    encoding: dict[str, Any] = {name: {"chunks": (1, *held[name].shape[1:])} for name in NAMES}
    if checksums:
        from zarr.codecs import BloscCodec, Crc32cCodec

        for name in NAMES:
            encoding[name]["compressors"] = (BloscCodec(typesize=4), Crc32cCodec())
    held.to_zarr(path, zarr_format=zarr_format, encoding=encoding, **options)  # type: ignore[call-overload]


def write_icechunk(storage: Any) -> None:
    """The branch `main` of a new repository, one chunk a step."""
    import icechunk

    session = icechunk.Repository.create(storage).writable_session("main")
    held = dataset()
    encoding: dict[str, Any] = {name: {"chunks": (1, *held[name].shape[1:])} for name in NAMES}
    held.to_zarr(session.store, zarr_format=3, consolidated=False, encoding=encoding)
    session.commit("fields")


def write_references(path: Path, store: Path, base: str) -> None:
    """References to the chunks of a zarr store of format 2 at `base`, in one file behind each other; axes inline."""
    refs: dict[str, Any] = {}
    joined = bytearray()
    for file in sorted(p for p in store.rglob("*") if p.is_file()):
        key, raw = file.relative_to(store).as_posix(), file.read_bytes()
        if key == ".zmetadata":
            continue
        if file.name.startswith("."):
            refs[key] = raw.decode()
        elif key.split("/")[0] in NAMES:
            refs[key] = [f"{base}/{path.stem}.bin", len(joined), len(raw)]
            joined += raw
        else:
            refs[key] = f"base64:{base64.b64encode(raw).decode()}"
    path.with_suffix(".bin").write_bytes(joined)
    path.write_text(json.dumps({"version": 1, "refs": refs}))
