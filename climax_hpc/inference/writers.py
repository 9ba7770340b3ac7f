"""Writes forecasts field by field: NetCDF files of each start, or one zarr store; complete or absent, resumable.

NetCDF: the files of a start are written under temporary names, then renamed; the start is finished when all are there.
Zarr: everything is written to a hidden store with a list of its finished starts, which is renamed at the end. The same
command resumes an interrupted one; a command with other checkpoints, input or settings is refused.
"""

import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import netCDF4
import numpy as np
from numpy.typing import NDArray

from climax_hpc.config.inference import Layout
from climax_hpc.errors import UserError
from climax_hpc.inference.cf import FILL, FileLayout, FileVariable, ForecastContent
from climax_hpc.inference.layouts import FILES, STORES
from climax_hpc.inference.layouts.base import ForecastFiles, ForecastStore, Piece
from climax_hpc.utils.atomic import AtomicFile, explained, remove_temporaries, sync, sync_folder
from climax_hpc.utils.files import made_folder, read_json, write_json
from climax_hpc.utils.folder_lock import FolderLock, is_empty, locked_folder
from climax_hpc.utils.typed_json import Count, typed

SETTINGS_FILE = "predict.json"
_ABOUT = "the settings of a climax_hpc prediction"
_FIX = "choose another output"
_CONTENTS = {"input_sha256": "input", "climatology_sha256": "climatology"}
"""Setting -> the setting whose files it tells apart; predictions of before 2026-12 lack both."""


class Writer(Protocol):
    """Stores forecasts, a few starts at a time."""

    def todo(self) -> list[int]:
        """Indices of the starts that are not written yet."""
        ...

    def open(self, places: Sequence[int]) -> None:
        """Begin these starts."""
        ...

    def write(self, place: int, lead: int, member: int, fields_OHW: NDArray[Any]) -> None:
        """Store the fields of one forecast of an open start."""
        ...

    def write_statistics(self, place: int, lead: int, members_MOHW: NDArray[np.float32]) -> None:
        """Store the statistics over all members of one lead time of an open start."""
        ...

    def close(self) -> None:
        """Finish the open starts."""
        ...

    def finish(self) -> Path:
        """Finish the output and return its path."""
        ...

    def abort(self) -> None:
        """Discard the open starts."""
        ...


@contextmanager
def open_writer(
    output: str, layout: Layout, content: ForecastContent, start_hours: Sequence[float], settings: dict[str, Any]
) -> Iterator[Writer]:
    """A writer chosen by the path: `….zarr` is a store, `….nc` one file for a single start, else a folder of files.

    `layout` and the path must fit each other, as `config.inference.check_layout` demands.

    No other process can write a folder or store meanwhile. After an error, what is not finished is removed.

    Raises:
        UserError: the path holds something else, or a prediction made with other settings, or is being written; the
            layout cannot hold the forecasts.
    """
    path = Path(output)
    with ExitStack() as held:
        if path.suffix == ".zarr":
            store = STORES[layout](content)
            held.enter_context(made_folder(path.parent, "output"))
            lock = FolderLock(path.with_name(f".{path.name}.lock"), path, "output")
            held.callback(lock.release)
            writer: Writer = ZarrWriter(path, store, start_hours, settings)
        elif path.suffix == ".nc":
            if len(start_hours) > 1:
                raise UserError(
                    f"output: {path} is one NetCDF file, but there are {len(start_hours)} starts: give a folder, a "
                    "path ending in .zarr, or a period of one start"
                )
            files = FILES[layout](content)
            held.enter_context(made_folder(path.parent, "output"))
            names = [dict.fromkeys(files.names(hours), path.name) for hours in start_hours]
            writer = NetcdfWriter(path.parent, names, files, start_hours, None)
        else:
            files = FILES[layout](content)
            held.enter_context(locked_folder(path, "output"))
            writer = NetcdfWriter(path, [files.names(hours) for hours in start_hours], files, start_hours, settings)
        try:
            yield writer
        except BaseException:
            writer.abort()
            raise


class NetcdfWriter:
    """One or several NetCDF-4 files per start."""

    def __init__(
        self,
        folder: Path,
        names: Sequence[dict[str, str]],
        layout: ForecastFiles,
        start_hours: Sequence[float],
        settings: dict[str, Any] | None,
    ) -> None:
        """`names`: of every start, key of a file in the layout -> its name in the folder.

        `settings`: kept in a folder of files for resuming; None for a single file, which is always rewritten.
        """
        self._folder, self._names, self._layout, self._hours = folder, list(names), layout, list(start_hours)
        self._open: dict[tuple[int, str], tuple[AtomicFile, Any]] = {}
        self._resumes = settings is not None
        if settings is not None:
            _check_settings(folder, folder / SETTINGS_FILE, settings)
            remove_temporaries(folder)
            if not (folder / SETTINGS_FILE).exists():
                write_json(folder / SETTINGS_FILE, settings)

    def todo(self) -> list[int]:
        """Indices of the starts that lack a file."""
        if not self._resumes:
            return list(range(len(self._names)))
        return [i for i, names in enumerate(self._names) if not all(map(self._is_there, names.values()))]

    def _is_there(self, name: str) -> bool:
        return (self._folder / name).exists()

    def open(self, places: Sequence[int]) -> None:
        """Create the files of these starts, under temporary names."""
        for place in places:
            for key, name in self._names[place].items():
                shape = self._layout.file(key, self._hours[place])
                target = AtomicFile(self._folder / name)
                self._open[place, key] = target, None
                with target.explained():
                    self._open[place, key] = target, create_netcdf(target.temporary, shape)

    def write(self, place: int, lead: int, member: int, fields_OHW: NDArray[Any]) -> None:
        """The fields of one forecast of an open start."""
        self._store(place, self._layout.pieces(lead, member, fields_OHW))

    def write_statistics(self, place: int, lead: int, members_MOHW: NDArray[np.float32]) -> None:
        """The statistics of one lead time of an open start."""
        self._store(place, self._layout.statistics(lead, members_MOHW))

    def _store(self, place: int, pieces: Iterable[tuple[str, Piece]]) -> None:
        for key, piece in pieces:
            target, file = self._open[place, key]
            with target.explained():
                file.variables[piece.variable][piece.place] = piece.field_HW

    def close(self) -> None:
        """Flush the open files and rename them."""
        for target, file in self._open.values():
            with target.explained():
                file.close()
                target.flush()
        for target, _ in self._open.values():
            target.commit()
        self._open.clear()

    def finish(self) -> Path:
        """The folder, or the single file."""
        return self._folder if self._resumes else self._folder / next(iter(self._names[0].values()))

    def abort(self) -> None:
        """Remove the temporary files, and the settings where no file is finished."""
        for target, file in self._open.values():
            with suppress(RuntimeError, OSError):  # on a full disk closing fails too
                if file is not None:
                    file.close()
            target.discard()
        self._open.clear()
        if self._resumes and not any(self._is_there(name) for names in self._names for name in names.values()):
            (self._folder / SETTINGS_FILE).unlink(missing_ok=True)


def create_netcdf(path: Path, shape: FileLayout) -> Any:
    """A new NetCDF-4 file with everything but its fields, open for writing."""
    file = netCDF4.Dataset(path, "w", format="NETCDF4")
    file.setncatts(shape.attributes)
    for name, size in shape.sizes.items():
        file.createDimension(name, None if name == "time" else size)
    for name, entry in shape.coordinates.items():
        values = np.asarray(entry.values)
        variable = file.createVariable(name, values.dtype, entry.dims)
        variable.setncatts(entry.attributes)
        variable[...] = values
    for name, entry in shape.fields.items():
        chunk = [1] * (len(entry.dims) - 2) + [shape.sizes[d] for d in entry.dims[-2:]]
        variable = file.createVariable(
            name, "f4", entry.dims, compression="zlib", complevel=1, shuffle=True, chunksizes=chunk, fill_value=FILL
        )
        variable.setncatts(entry.attributes)
    return file


class ZarrWriter:
    """One zarr store; each chunk holds one field, so starts are written independently."""

    def __init__(
        self, path: Path, layout: ForecastStore, start_hours: Sequence[float], settings: dict[str, Any]
    ) -> None:
        import zarr  # takes a second

        self._path, self._layout = path, layout
        self._partial = path.with_name(f".{path.name}.partial")
        self._done_file = self._partial.with_name(f"{self._partial.name}.json")
        if os.path.lexists(path):
            raise UserError(f"output: {path} already exists; choose another output, or remove it")
        self._settings = settings
        if self._done_file.exists():
            _check_settings(self._partial, self._done_file, settings)
        elif self._partial.exists():
            raise UserError(f"output: {self._partial} is not of a prediction; choose another output, or remove it")
        else:
            write_json(self._done_file, settings | {"done": []})  # before the store, which it makes ours
        self._starts = len(start_hours)
        self._done: list[int] = typed(
            _stored(self._done_file).get("done"), list[Count], f"{self._done_file}: done", _FIX
        )
        self._opened: list[int] = []
        try:
            with explained(path, self._partial):
                if not self._done:
                    shutil.rmtree(self._partial, ignore_errors=True)
                    _create_zarr(zarr.open_group(self._partial, mode="w"), layout.store(start_hours))
                self._group: Any = zarr.open_group(self._partial, mode="r+")
        except OSError:
            self.abort()
            raise

    def todo(self) -> list[int]:
        """Indices of the starts that are not in the list of finished ones."""
        return [i for i in range(self._starts) if i not in set(self._done)]

    def open(self, places: Sequence[int]) -> None:
        """Begin these starts."""
        self._opened = list(places)

    def write(self, place: int, lead: int, member: int, fields_OHW: NDArray[Any]) -> None:
        """The fields of one forecast of an open start."""
        self._store(self._layout.pieces(place, lead, member, fields_OHW))

    def write_statistics(self, place: int, lead: int, members_MOHW: NDArray[np.float32]) -> None:
        """The statistics of one lead time of an open start."""
        self._store(self._layout.statistics(place, lead, members_MOHW))

    def _store(self, pieces: Iterable[Piece]) -> None:
        with explained(self._path, self._partial):
            for piece in pieces:
                self._group[piece.variable][piece.place] = piece.field_HW.astype(np.float32)

    def close(self) -> None:
        """Add the open starts to the list of finished ones."""
        self._done = sorted({*self._done, *self._opened})
        write_json(self._done_file, self._settings | {"done": self._done})
        self._opened = []

    def finish(self) -> Path:
        """Consolidate the metadata and rename the store."""
        import zarr

        with warnings.catch_warnings(), explained(self._path, self._partial):
            # Not in the specification of format 3 yet; readers that do not know it ignore it, xarray opens faster.
            warnings.filterwarnings("ignore", "Consolidated metadata", zarr.errors.ZarrUserWarning)
            zarr.consolidate_metadata(self._partial)
            sync_folder(self._partial)
            os.replace(self._partial, self._path)
            sync(self._path.parent)
        self._done_file.unlink()
        return self._path

    def abort(self) -> None:
        """Remove a store without finished starts; others resume, and what is not in their list is written again."""
        self._opened = []
        if not self._done:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._done_file.unlink(missing_ok=True)


def _create_zarr(group: Any, shape: FileLayout) -> None:
    group.attrs.update(shape.attributes)

    def create(name: str, entry: FileVariable, dtype: Any, chunks: Sequence[int], fill: Any) -> Any:
        sizes = tuple(shape.sizes[d] for d in entry.dims)
        return group.create_array(
            name, shape=sizes, dtype=dtype, chunks=tuple(chunks), fill_value=fill, dimension_names=entry.dims,
            attributes=entry.attributes,
        )  # fmt: skip

    for name, entry in shape.coordinates.items():
        values = np.asarray(entry.values)
        # CF's _FillValue of a coordinate would turn a value of 0 into a gap: xarray reads it from the attribute alone.
        create(name, entry, values.dtype, values.shape, 0)[...] = values
    for name, entry in shape.fields.items():
        chunk = [1] * (len(entry.dims) - 2) + [shape.sizes[d] for d in entry.dims[-2:]]
        create(name, entry, "float32", chunk, FILL)


def _stored(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = typed(read_json(file, _ABOUT), dict[str, Any], str(file), _FIX)
    return found


def _check_settings(folder: Path, file: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder that holds anything but a prediction with these settings."""
    if not file.exists():
        if folder.is_dir() and not is_empty(folder):
            raise UserError(
                f"output: folder {folder} is not empty and holds no prediction; choose another one with --output"
            )
        return
    before = _stored(file)
    known = [key for key in settings if key not in _CONTENTS or key in before]
    differing = [key for key in known if before.get(key) != settings[key]]
    if differing:
        key = differing[0]
        if key in _CONTENTS:
            raise UserError(
                f"output: {folder} holds a prediction, and the contents of {_CONTENTS[key]} have changed since "
                f"({settings[_CONTENTS[key]]}): restore them to resume it, or choose another output"
            )
        raise UserError(
            f"output: {folder} holds a prediction with another {key} ({before.get(key)} there, {settings[key]} now): "
            "use the same settings to resume it, or choose another output"
        )
