"""Reads a zarr store (format 2 or 3, as xarray writes it) like a NetCDF file: unpacked, missing values as NaN."""

import base64
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from climax_hpc.data_prep.sources.array_dataset import ArrayDataset, ArrayVariable
from climax_hpc.data_prep.sources.blosc_header import HEADER_BYTES, is_blosc, is_whole
from climax_hpc.data_prep.sources.claimed_size import check_claim
from climax_hpc.data_prep.sources.conversions import short
from climax_hpc.errors import UserError
from climax_hpc.utils.system_errors import refuse_system_error


class ZarrArrayVariable(ArrayVariable):
    """One array of a store of any kind."""

    def __init__(self, array: Any, name: str) -> None:
        attributes = dict(array.attrs)
        named = getattr(array.metadata, "dimension_names", None) or attributes.get("_ARRAY_DIMENSIONS")
        super().__init__(name, tuple(named or (f"dim_{i}" for i in range(array.ndim))), array, attributes)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the store says about the array."""
        return dict(self._array.metadata.to_dict())

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return math.prod(self.shape) * int(self.dtype.itemsize)

    @property
    def stored_attributes(self) -> dict[str, Any]:
        """Attributes as of a file, with the fill value that the store states elsewhere."""
        held = {key: value for key, value in self._attributes.items() if key != "_ARRAY_DIMENSIONS"}
        for key in {"_FillValue", "missing_value"} & held.keys():
            held[key] = _fill(held[key])
        if self._array.metadata.zarr_format == 2 and self._array.fill_value is not None:
            held.setdefault("_FillValue", self._array.fill_value)
        return held

    def unpacked(self, raw: NDArray[Any]) -> NDArray[Any]:
        """Numbers as they are meant, missing values as NaN."""
        scale, offset = self._attributes.get("scale_factor"), self._attributes.get("add_offset")
        fills = [_fill(self._attributes.get(key)) for key in ("_FillValue", "missing_value")]
        if self._array.metadata.zarr_format == 2:  # in format 2 xarray stores its fill value as the array's own
            fills.append(self._array.fill_value)
        marked = [f for f in fills if isinstance(f, int | float | np.number) and not np.isnan(f)]
        packed = scale is not None or offset is not None
        if not packed and (not marked or raw.dtype.kind != "f"):
            return raw
        missing = np.isin(raw, np.array(marked))
        values = raw.astype(np.float64) * (1.0 if scale is None else scale) + (0.0 if offset is None else offset)
        return np.where(missing, np.nan, values)

    def region_of(self, chunk: str) -> tuple[slice, ...]:
        """The part of the array that a chunk, a key of `chunks_of`, holds."""
        numbers = re.findall(r"\d+", chunk[len(self.name) + 1 :]) if self.ndim else []
        at = zip(map(int, numbers), self._array.chunks, strict=True)
        return tuple(slice(number * size, (number + 1) * size) for number, size in at)

    def chunks_of(self, key: tuple[Any, ...]) -> tuple[list[str], list[int]]:
        """Keys of the chunks (or shards) that a part of the array lies in, and the shape of all of them together."""
        sizes = getattr(self._array, "shards", None) or self._array.chunks
        whole = (*(() if key == (...,) else key), *[slice(None)] * (self.ndim - len(key) + (key == (...,))))
        spans = []
        for part, length, size in zip(whole, self.shape, sizes, strict=True):
            if not isinstance(part, slice):
                part = slice(int(part) % length, int(part) % length + 1)
            start, stop, _ = part.indices(length)
            spans.append(range(start // size, -(-stop // size)))
        encode = self._array.metadata.encode_chunk_key
        names = [
            f"{self.name}/{encode(tuple(s[i] for s, i in zip(spans, chunk, strict=True)))}"
            for chunk in np.ndindex(*(len(span) for span in spans))
        ]
        return names, [len(span) * size for span, size in zip(spans, sizes, strict=True)]


class ZarrVariable(ZarrArrayVariable):
    """One array of a store on disk."""

    def __init__(self, array: Any, name: str, store: Path, file: str) -> None:
        super().__init__(array, name)
        self._store, self._file = store, file

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Unpacked numbers, missing values as NaN. Integers without packing stay integers.

        Raises:
            UserError: a chunk is absent or damaged.
        """
        self._refuse_absent_chunks(key if isinstance(key, tuple) else (key,))
        try:
            raw = np.asarray(self._array[key])
        except Exception as error:  # every codec raises its own kind
            refuse_system_error(error, self._store / self.name)
            raise UserError(f"{self._file}: {self.name} cannot be read ({short(error)}); download it again") from error
        return self.unpacked(raw)

    def _refuse_absent_chunks(self, key: tuple[Any, ...]) -> None:
        """Refuse incomplete downloads, which zarr reads as fill values, and chunks that claim more than they hold."""
        names, shape = self.chunks_of(key)
        stored = 0
        for name in names:
            if not (self._store / name).is_file():
                raise UserError(
                    f"{self._file}: chunk {name[len(self.name) + 1 :]} of {self.name} is absent, so the store is "
                    "incomplete; download it again (or, if the store leaves out empty chunks, rewrite it with xarray's "
                    "`write_empty_chunks`)"
                )
            size = (self._store / name).stat().st_size
            if is_blosc(self._array) and not is_whole(_head(self._store / name), size):
                raise UserError(
                    f"{self._file}: {self.name} cannot be read (chunk {name[len(self.name) + 1 :]} has {size} bytes, "
                    "another number than its header says); download it again"
                )
            stored += size
        check_claim(self.name, shape, self.dtype.itemsize, stored, self._file)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEADER_BYTES)


def _fill(value: Any) -> Any:
    """The number of a fill value; xarray stores it in format 3 as the base64 of a little-endian double."""
    return struct.unpack("<d", base64.b64decode(value))[0] if isinstance(value, str) and len(value) == 12 else value


def open_zarr(store: Path, name: str) -> ArrayDataset:
    """The arrays of a local store.

    Raises:
        UserError: the folder is not a zarr group.
    """
    try:
        group = zarr.open_group(str(store), mode="r", use_consolidated=False)
        arrays = dict(group.arrays())
    except Exception as error:  # zarr and its codecs raise many kinds
        refuse_system_error(error, store)
        raise UserError(f"{name}: cannot be opened as a zarr store ({short(error)}); download it again") from error
    variables = {key: ZarrVariable(array, key, store, name) for key, array in arrays.items()}
    return ArrayDataset(variables, dict(group.attrs), tuple(group.group_keys()))
