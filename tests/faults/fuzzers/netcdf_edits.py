"""Changes of a CMIP6 NetCDF file: storage, attributes, axes, values and raw bytes, each with what may come of it."""

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np

from .netcdf_attributes import FREE, HARMLESS, WRONG

Open = Callable[[Any], object]


@dataclass(frozen=True)
class Change:
    """A change of one file."""

    name: str
    apply: Callable[[Path], object]
    expects: str
    """As `Case.expects`."""
    raw: bool = False
    """Raw bytes: what the file holds now must be read to know."""


NAMES = {
    "": (
        "source_id",
        "experiment_id",
        "variant_label",
        "variable_id",
        "frequency",
        "table_id",
        "grid_label",
        "mip_era",
    ),
    "data": ("units", "cell_methods"),
    "time": ("units", "calendar", "standard_name", "axis"),
    "lat": ("units", "standard_name", "bounds"),
    "lon": ("units", "standard_name", "bounds"),
}
"""Attributes that are deleted, and set to values of other types, by owner."""
OTHER_TYPES: dict[str, Any] = {
    "numbers": np.arange(3.0), "integer": np.int32(7), "NaN": np.float32("nan"), "strings": ["a", "b"],
}  # fmt: skip


def holder(file: Any, owner: str) -> Any:
    """The object that holds an attribute: the file, its data variable or an axis."""
    return file if owner == "" else file[data_name(file) if owner == "data" else owner]


def data_name(file: Any) -> str:
    """Name of the variable that is not an axis."""
    return max(file.variables, key=lambda name: file[name].ndim)


def opened(change: Open) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with netCDF4.Dataset(path, "a") as file:
            file.set_auto_maskandscale(False)
            change(file)

    return apply


def attribute_changes() -> Iterator[Change]:
    """Every attribute of the tables set, deleted, and given a value of another type."""
    for table, expects in ((HARMLESS, "same"), (WRONG, "same"), (FREE, "free")):
        for owner, name, values in table:
            for value in values:
                yield Change(
                    f"{owner or 'global'} {name} = {ascii(value)[:40]}", opened(_set(owner, name, value)), expects
                )
    for owner, names in NAMES.items():
        for name in names:
            expects = "free" if name in ("calendar", "bounds", "mip_era") else "same"
            yield Change(f"{owner or 'global'} {name} deleted", opened(_delete(owner, name)), expects)
            for kind, value in OTHER_TYPES.items():
                yield Change(f"{owner or 'global'} {name} = {kind}", opened(_set(owner, name, value)), "free")


def _set(owner: str, name: str, value: Any) -> Open:
    def change(file: Any) -> None:
        where = holder(file, owner)
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            where.setncattr_string(name, value)
        else:
            where.setncattr(name, value)

    return change


def _delete(owner: str, name: str) -> Open:
    def change(file: Any) -> None:
        if name in holder(file, owner).ncattrs():
            holder(file, owner).delncattr(name)

    return change


def _rows(array: Any) -> Any:
    """Numbers of the rows of an axis (N,) or of bounds (N, 2)."""
    return np.arange(len(array)).reshape(-1, *(1 for _ in array.shape[1:]))


AXES: dict[str, tuple[Callable[[np.ndarray[Any, Any]], Any], str]] = {
    "NaN": (lambda a: np.where(_rows(a) == 1, np.nan, a), "same"),
    "all NaN": (lambda a: a * np.nan, "same"),
    "infinite": (lambda a: np.where(_rows(a) == len(a) - 1, np.inf, a), "same"),
    "fill value": (lambda a: np.where(_rows(a) == 2, 9.969209968386869e36, a), "same"),
    "duplicate": (lambda a: np.concatenate([a[:1], a[:1], a[2:]]), "same"),
    "constant": (lambda a: a * 0 + a[0], "same"),
    "not monotonic": (lambda a: np.concatenate([a[:3][::-1], a[3:]]), "same"),
    "shuffled": (lambda a: np.random.default_rng(0).permutation(a), "same"),
    "out of range": (lambda a: a * 1e9, "same"),
    "tiny": (lambda a: a * 1e-12, "same"),
    "cells of other sizes": (lambda a: a + np.where(_rows(a) % 2, 0.4, 0) * abs(a[1] - a[0]), "free"),
    "rounding": (lambda a: a * (1 + 1e-9), "free"),
    "shifted by a cell": (lambda a: a + (a[1] - a[0]), "free"),
    "negated": (lambda a: -a, "free"),
    "gap": (lambda a: np.concatenate([a[:-2], a[-2:] + 3 * (a[1] - a[0])]), "free"),
    "large offset": (lambda a: a + 360.0, "free"),
}


def axis_changes() -> Iterator[Change]:
    for axis in ("lat", "lon", "time"):
        for name, (change, expects) in AXES.items():
            free = (axis == "lon" and name in ("large offset", "tiny")) or (
                axis == "time" and name in ("tiny", "out of range")
            )
            yield Change(f"{axis} {name}", opened(_axis(axis, change)), "free" if free else expects)
    for name, (change, _) in AXES.items():
        for bounds in ("lat_bnds", "lon_bnds"):
            yield Change(f"{bounds} {name}", opened(_axis(bounds, change)), "free")


def _axis(axis: str, change: Callable[[Any], Any]) -> Open:
    def apply(file: Any) -> None:
        file[axis][:] = change(np.asarray(file[axis][:]))

    return apply


def copied(
    path: Path, edit: Callable[[str, Any], Any] | None = None, *, data_format: str = "NETCDF4", **storage: Any
) -> None:
    """Write a file again: `edit(name, values)` gives other values; `storage`: arguments of createVariable."""
    target = path.with_suffix(".new")
    with netCDF4.Dataset(path) as old, netCDF4.Dataset(target, "w", format=data_format) as new:
        old.set_auto_maskandscale(False)
        new.set_auto_maskandscale(False)
        new.setncatts({k: old.getncattr(k) for k in old.ncattrs()})
        for name, dimension in old.dimensions.items():
            new.createDimension(name, None if dimension.isunlimited() else len(dimension))
        for name, variable in old.variables.items():
            attributes = {k: variable.getncattr(k) for k in variable.ncattrs()}
            made = new.createVariable(
                name, variable.dtype, variable.dimensions, fill_value=attributes.pop("_FillValue", None),
                **(storage if variable.ndim > 2 else {}),
            )  # fmt: skip
            made.setncatts(attributes)
            made[:] = variable[:] if edit is None else edit(name, variable[:])
    shutil.move(target, path)


def _reversed(axis: str) -> Callable[[Path], None]:
    def change(file: Any) -> None:
        for name in file.variables:
            dimensions = file[name].dimensions
            if axis in dimensions:
                file[name][:] = np.flip(file[name][:], dimensions.index(axis))

    return opened(change)


def _values(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def apply(file: Any) -> None:
        data = file[data_name(file)]
        data[:] = change(np.asarray(data[:]))

    return opened(apply)


def _transposed(path: Path, order: str) -> None:
    """Dimensions of the data variable in another order."""
    target = path.with_suffix(".new")
    with netCDF4.Dataset(path) as old, netCDF4.Dataset(target, "w") as new:
        old.set_auto_maskandscale(False)
        new.setncatts({k: old.getncattr(k) for k in old.ncattrs()})
        for name, dimension in old.dimensions.items():
            new.createDimension(name, len(dimension))
        data = data_name(old)
        for name, variable in old.variables.items():
            attributes = {k: variable.getncattr(k) for k in variable.ncattrs()}
            axes = list(range(variable.ndim))
            if name == data:
                axes = axes[::-1] if order == "reversed" else [*axes[1:], axes[0]]
            made = new.createVariable(
                name,
                variable.dtype,
                [variable.dimensions[i] for i in axes],
                fill_value=attributes.pop("_FillValue", None),
            )
            made.set_auto_maskandscale(False)
            made.setncatts(attributes)
            made[:] = np.transpose(variable[:], axes)
    shutil.move(target, path)


STORAGE: dict[str, dict[str, Any]] = {
    "zlib": {"zlib": True}, "shuffle": {"zlib": True, "shuffle": True}, "fletcher32": {"fletcher32": True},
    "contiguous": {}, "big endian": {"endian": "big"}, "zstd": {"compression": "zstd"},
}  # fmt: skip


def storage_changes() -> Iterator[Change]:
    """The same values in another form: the result must stay the same, bit by bit."""
    for form in ("NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA", "NETCDF4_CLASSIC"):
        yield Change(f"format {form}", lambda path, form=form: copied(path, data_format=form), "same")
    for name, storage in STORAGE.items():
        yield Change(f"storage {name}", lambda path, storage=storage: copied(path, **storage), "same")
    for axis in ("lat", "lon", "time"):
        yield Change(f"{axis} reversed with its values", _reversed(axis), "same")
    for order in ("reversed", "rotated"):
        yield Change(f"dimensions {order}", lambda path, order=order: _transposed(path, order), "same")
    yield Change("another variable beside", opened(lambda f: f.createVariable("extra", "f8", ("lat",))), "same")
    yield Change("a scalar beside", opened(lambda f: f.createVariable("height", "f8", ())), "same")
    yield Change("a group beside", opened(lambda f: f.createGroup("inner").createDimension("z", 5)), "same")
    yield Change("an empty unlimited dimension", opened(lambda f: f.createDimension("nothing", None)), "same")
    yield Change("two copies", lambda path: shutil.copy(path, path.with_name(f"copy_{path.name}")), "same")
    yield Change("link", lambda path: path.with_name(f"link_{path.name}").symlink_to(path.name), "same")
    yield Change("dangling link", lambda path: path.with_name(f"gone_{path.name}").symlink_to("nowhere"), "same")
    yield Change("folder named .nc", lambda path: path.with_name("folder.nc").mkdir(exist_ok=True), "same")
    yield Change("empty file beside", lambda path: path.with_name("empty.nc").touch(), "same")
    yield Change("text file beside", lambda path: path.with_name("README.txt").write_text("x"), "same")


def value_changes() -> Iterator[Change]:
    """Values that no instrument gives: refused, told, or missing."""
    bad = {"infinite": np.inf, "1e33": 1e33, "-999": -999.0, "-1e30": -1e30, "9.97e36": 9.96921e36, "32767": 32767.0}
    for name, value in bad.items():
        yield Change(f"one value {name}", _values(_one(value)), "free" if name == "9.97e36" else "same")
        yield Change(
            f"all values {name}", _values(lambda a, value=value: a * 0 + value), "free" if "e36" in name else "same"
        )
    yield Change("all missing", _values(lambda a: a * 0 + 1e20), "free")
    yield Change("all NaN", _values(lambda a: a * np.nan), "free")
    yield Change("constant", _values(lambda a: a * 0 + a.flat[0]), "free")
    yield Change("a thousand times too large", _values(lambda a: a * 1000), "same")
    yield Change("a thousand times too small", _values(lambda a: a / 1000), "same")
    yield Change("negated", _values(lambda a: -a), "same")


def _one(value: float) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array.flat[array.size // 2] = value
        return array

    return change


def raw_changes(size: int, count: int, seed: int, *, classic: bool) -> Iterator[Change]:
    """Bits flipped, bytes overwritten, files cut; two thirds within the header of a classic file or the first 4 KB."""
    chance = random.Random(f"{seed} {classic}")
    for number in range(count):
        place = chance.randrange(min(size, 4096) if number % 3 else size)
        kind = ("flip", "flip", "bytes", "cut", "hole")[number % 5]
        bit, junk = chance.randrange(8), chance.randbytes(8)
        name = f"{'classic ' if classic else ''}{kind} {seed} {number} at {place}"
        yield Change(name, _raw(kind, place, bit, junk, classic), "same", raw=True)


def _raw(kind: str, place: int, bit: int, junk: bytes, classic: bool) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        if classic:
            copied(path, data_format="NETCDF3_CLASSIC")
        data = bytearray(path.read_bytes())
        at = min(place, len(data) - 9)
        if kind == "flip":
            data[at] ^= 1 << bit
        elif kind == "bytes":
            data[at : at + 8] = junk
        elif kind == "hole":
            data[at : at + 64] = bytes(min(64, len(data) - at))
        else:
            del data[at:]
        path.write_bytes(data)

    return apply
