"""Bytes that a process reads to open every file of a packed source at 0.25°, and to read one time step of each.

python -m tests.shards.header_reads --shards 8

The input is made: one variable on 720 × 1440 cells, land-sea mask and orography, a time step in each shard.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from climax_hpc.data.dataset import DataSet
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from tests.data_prep.conftest import six_hourly, write_cmip6

_ROWS, _COLUMNS = 720, 1440


def packed(folder: Path, shards: int) -> Path:
    """A packed source of `shards` shards of one step, and no climatology."""
    step = 180 / _ROWS
    cells = {"lat": np.arange(-90 + step / 2, 90, step), "lon": np.arange(_COLUMNS) * step}
    write_cmip6(folder / "raw", "tas", times=six_hourly(shards), **cells)
    for name in ("sftlf", "orog"):
        write_cmip6(folder / "raw", name, table="fx", frequency="fx", **cells)
    settings = {"input": str(folder / "raw"), "output": str(folder / "packed")}
    return pack(PackConfig(**settings, grid_spacing_deg=None, steps_per_shard=1, climatology=False)).parent


def bytes_read() -> int:
    """Bytes that this process has read so far."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.shards.header_reads", description=__doc__)
    parser.add_argument("--shards", type=int, default=8)
    shards = parser.parse_args().shards
    with tempfile.TemporaryDirectory() as name:
        folder = packed(Path(name), shards)
        size = sum(path.stat().st_size for path in folder.rglob("*.h5"))
        before, began = bytes_read(), time.perf_counter()
        (source,) = DataSet(folder).select(None)
        fields = [source.read(t).nbytes for t in range(shards)] + [field.nbytes for field in source.static.values()]
        seconds, read = time.perf_counter() - began, bytes_read() - before
    found = {"shards": shards, "data_set_bytes": size, "bytes_read": read, "of_them_wanted": sum(fields)}
    print(json.dumps(found | {"seconds": round(seconds, 3)}))


if __name__ == "__main__":
    main()
