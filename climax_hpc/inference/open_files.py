"""Opens NetCDF files and zarr stores lazily."""

from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from climax_hpc.errors import UserError


def open_files(paths: Sequence[str | Path]) -> list[xr.Dataset]:
    """Open NetCDF files and zarr stores; a folder stands for all NetCDF files below it.

    Raises:
        UserError: a path does not exist, holds no NetCDF file, or cannot be read.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(path.rglob("*.nc")) if path.is_dir() and not _is_zarr(path) else [path]
        if not inside:
            raise UserError(f"input: {path} is a folder without NetCDF files, zarr metadata or manifest.json")
        files += inside
    return [_open(path) for path in files]


def _is_zarr(path: Path) -> bool:
    return any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zmetadata"))


def _open(path: Path) -> xr.Dataset:
    if not path.exists():
        raise UserError(f"input: {path} does not exist")
    try:
        return xr.open_dataset(path, engine="zarr" if _is_zarr(path) else "netcdf4", chunks=None, cache=False)
    except Exception as error:  # every engine raises its own kinds
        raise UserError(
            f"input: {path} cannot be opened as NetCDF or zarr ({' '.join(str(error).split())[:200]})"
        ) from None
