"""Keeps the steps of the GCM on disk until their segment of time is complete, then writes the segment's files.

FOLDER/TIME.npz: the kept steps of one block of the run. Nothing is kept in memory, so that a killed simulation goes on
after the last block whose state was saved (`jcm_driver.py`).
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from jcm_output import Array, Field, Times, stamp, write_field  # type: ignore[import-not-found]
from jcm_variables import VARIABLES  # type: ignore[import-not-found]

Settings = dict[str, Any]
TIMES = "times"


class SegmentWriter:
    """Collects the steps of each segment of time and writes its files when the segment is complete."""

    def __init__(self, settings: Settings, attributes: dict[str, object], folder: Path, *, quiet: bool = False) -> None:
        """`folder` holds the blocks; those of an interrupted run are used again. `quiet`: print no lines."""
        self.settings = settings
        self.attributes = attributes
        self.folder, self._quiet = folder, quiet
        self.member = Path(settings["folder"])
        self.segments = [(np.datetime64(a), np.datetime64(b)) for a, b in settings["segments"]]
        folder.mkdir(parents=True, exist_ok=True)

    def go_on_after(self, time: np.datetime64) -> None:
        """Leave out the segments that were complete at this instant: an interrupted run has written them."""
        self.segments = [(first, last) for first, last in self.segments if last > time]

    def wants(self, times: Times) -> bool:
        """True if any of these instants is kept."""
        return bool(self._kept(times).any())

    def add(self, times: Times, fields: dict[str, Array]) -> None:
        """Add a block of steps; write every segment that ends in it."""
        keep = self._kept(times)
        path = self.folder / f"{stamp(times[0])}.npz"
        arrays = {name: values[keep].astype(np.float32) for name, values in fields.items()}
        with path.with_suffix(".tmp").open("wb") as file:
            np.savez(file, **{TIMES: times[keep]}, **arrays)
            file.flush()
            os.fsync(file.fileno())
        path.with_suffix(".tmp").replace(path)
        self.write_until(times[-1])

    def has(self, first: np.datetime64) -> bool:
        """True if the block of steps that begins at this instant is kept."""
        return (self.folder / f"{stamp(first)}.npz").exists()

    def write_until(self, time: np.datetime64) -> None:
        """Write every segment that has ended at this instant."""
        while self.segments and time >= self.segments[0][1]:
            self._write_segment(*self.segments.pop(0))

    def remove_written(self) -> None:
        """Remove the blocks of complete segments; call it when the state of the model after them is saved."""
        for path in self._blocks():
            with np.load(path) as block:
                if not self.segments or block[TIMES][-1] < self.segments[0][0]:
                    path.unlink()

    def write(self, name: str, values: Array, times: Times | None = None, plev: Array | None = None) -> None:
        """Write one variable as one file, through to the disk."""
        field = Field(name=name, metadata=vars(VARIABLES[name]), values=values, times=times, plev=plev)
        path = write_field(self.member, field, self.settings["facets"], self.attributes, self.settings["quantise"])
        with path.open("rb") as file:
            os.fsync(file.fileno())

    def _kept(self, times: Times) -> Any:
        keep = np.zeros(len(times), dtype=bool)
        for first, last in self.segments:
            keep |= (times >= first) & (times <= last)
        return keep

    def _blocks(self) -> list[Path]:
        return sorted(self.folder.glob("*.npz"))

    def _write_segment(self, first: np.datetime64, last: np.datetime64) -> None:
        times = self._gather(TIMES, first, last)
        if len(times) != (last - first) // np.timedelta64(6, "h") + 1:
            raise ValueError(f"{len(times)} steps are there from {first} to {last}; delete {self.folder.parent}")
        for name, levels in self.settings["variables"].items():  # one at a time: a year of all is large
            values = self._gather(name, first, last).astype(np.float64)
            self.write(name, values, times, np.array(levels) if levels else None)
        if not self._quiet:
            print(f"wrote {times[0]} to {times[-1]}: {len(times)} steps", flush=True)

    def _gather(self, name: str, first: np.datetime64, last: np.datetime64) -> Any:
        parts = []
        for path in self._blocks():
            with np.load(path) as block:
                keep = (block[TIMES] >= first) & (block[TIMES] <= last)
                if keep.any():
                    parts.append(block[name][keep])
        return np.concatenate(parts)
