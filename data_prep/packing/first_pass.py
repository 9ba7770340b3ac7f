"""Records of the first pass for the second pass and for a resumed run: moments and regridded fields.

One JSON and one raw file per work unit below `.first_pass/` of the output, removed when the pack is finished. They are
used only if the key of the work unit (settings, input hashes, steps) and all checksums match; otherwise the work unit
is read from the input again. Shapes: T time steps, C channels, H rows, W columns of the target grid.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray

from climax_hpc.data_prep.packing.statistics import Moments
from climax_hpc.utils.files import write_text
from climax_hpc.utils.system_errors import NO_ROOM

FOLDER = ".first_pass"
Fields = NDArray[np.float32]


def record_files(unit_file: str) -> tuple[str, str, str]:
    """Files of a work unit, relative to the output: moments, sha256 of the finished shard, fields."""
    return tuple(f"{FOLDER}/{unit_file}.{what}" for what in ("json", "done.json", "raw"))  # type: ignore[return-value]


class FirstPass:
    """The records of one work unit between the passes."""

    def __init__(self, output: Path, unit_file: str, key: Any) -> None:
        """`key`: everything that the fields depend on, JSON-serialisable."""
        self._record, self._shard_record, self._fields = (output / file for file in record_files(unit_file))
        self._key = sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self._file: BinaryIO | None = None
        self._checksums: list[int] = []

    def moments(self) -> list[Moments] | None:
        """Moments of each channel; None if no earlier run recorded them."""
        content = self._read(self._record)
        return None if content is None else [Moments.from_json(m) for m in content["moments"]]

    def keep(self, fields_TCHW: Fields) -> None:
        """Add a block of fields; if the disk is full, they are dropped and the second pass reads the input."""
        if self._file is None:
            if self._checksums:
                return
            self._fields.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._fields.open("wb")
        self._checksums += [xxhash.xxh3_64_intdigest(field.data) for field in fields_TCHW]
        try:
            self._file.write(fields_TCHW.data)
            self._file.flush()
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self.forget_fields()

    def finish(self, moments: list[Moments]) -> None:
        """After the last block: record the moments, atomically."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._write(self._record, {"moments": [m.to_json() for m in moments], "checksums": self._checksums})

    def fields(self, shape: tuple[int, ...], block: int) -> Iterator[tuple[int, Fields]]:
        """The kept fields (T, C, H, W) in blocks, as (first step, fields); ends at the first damaged block."""
        content = self._read(self._record)
        checksums = [] if content is None else content["checksums"]
        if len(checksums) != shape[0]:
            return
        with suppress(FileNotFoundError), self._fields.open("rb") as file:
            for first in range(0, shape[0], block):
                fields = np.empty((min(block, shape[0] - first), *shape[1:]), np.float32)
                whole = file.readinto(fields.data) == fields.nbytes
                found = [xxhash.xxh3_64_intdigest(field.data) for field in fields]
                if not whole or found != checksums[first : first + len(fields)]:
                    return
                yield first, fields

    def finish_shard(self, digest: str) -> None:
        """After the shard is in place: record its sha256, and remove the fields."""
        self._write(self._shard_record, digest)
        self.forget_fields()

    def finished_shard(self) -> str | None:
        """sha256 of the shard that an earlier run finished; None if there is none."""
        return self._read(self._shard_record)

    def finish_climatology(self, digest: str, empty_slots: int) -> None:
        """After a climatology is in place: record its sha256, and how many slots have no value."""
        self._write(self._shard_record, [digest, empty_slots])

    def finished_climatology(self) -> tuple[str, int] | None:
        """What an earlier run recorded of a climatology that it finished; None if there is none."""
        content = self._read(self._shard_record)
        return None if content is None else (content[0], content[1])

    def forget_fields(self) -> None:
        """Remove the fields; the moments are kept until the pack is finished."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None
        with suppress(FileNotFoundError):
            os.unlink(self._fields)

    def _write(self, path: Path, content: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        body = json.dumps(content)
        write_text(path, json.dumps({"key": self._key, "sha256": _digest(body), "body": body}))

    def _read(self, path: Path) -> Any | None:
        """A record; None if it is absent, damaged, or belongs to other settings or inputs."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            sound = record["key"] == self._key and _digest(record["body"]) == record["sha256"]
            return json.loads(record["body"]) if sound else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None


def finished_units(output: Path) -> int:
    """Number of files and records that an interrupted pack keeps: moments, shards, climatologies, static fields."""
    records = sum(1 for _ in (output / FOLDER).rglob("*.json"))
    return records + sum(1 for _ in output.rglob("*.h5"))


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
