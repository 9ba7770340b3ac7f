"""The packing cases of `climax-hpc bench data`: regridding, packing and shard writing against baselines.

`script` prepares CMIP6 as research code does: xarray opens the files of a variable, `interp` interpolates each level to
the new grid, numpy writes npz files and the statistics, without checks, checksums or exact weights. Both read from a
warm page cache. Shapes: N fields, H, W source rows and columns, T time steps, C channels.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from climax_hpc.data_prep.packing.regrid import regridder
from climax_hpc.data_prep.sources.orientation import orient
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import Grid, regular_grid
from climax_hpc.kernels.benchmarking import Row, WrongResult, interleaved, time_rows
from climax_hpc.shards.shard import ShardWriter
from climax_hpc.tools.bench.cmip6_input import LEVELS_HPA, ON_LEVELS, ROWS, SURFACE, gaussian_rows, write_input
from climax_hpc.tools.bench.loader_data import header

CASES = ("regrid", "shard_write", "pack", "pack_2ranks")
_STEPS, _STEPS_PER_SHARD = 80, 10
# For two ranks against one: about ten seconds on one rank. Real packing takes hours, so planning, which one rank does,
# and waiting for the last work unit must not dominate here either.
_LONG_STEPS, _LONG_STEPS_PER_SHARD = 480, 16
_RANKS = """
import sys, time
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack_with
from climax_hpc.data_prep.packing.work_queue import WorkQueue
queue = WorkQueue.join()
for i, source in enumerate(sys.argv[3:5]):
    folders = dict(input=source, output=f"{sys.argv[1]}/{i}")
    config = PackConfig(**folders, steps_per_shard=int(sys.argv[2]), climatology=False)
    queue.wait()
    start = time.perf_counter()
    pack_with(queue, config)
    if queue.is_root and i:  # the first run includes imports and memory growth
        print("seconds", time.perf_counter() - start, flush=True)
"""


def rows_of(case: str, repeats: int) -> list[Row]:
    """Medians of interleaved runs.

    Raises:
        WrongResult: the two sides give different fields.
        UserError: scipy, dask or mpiexec is missing, or a run under mpiexec fails.
    """
    return {"regrid": _regrid, "shard_write": _shard_write, "pack": _pack, "pack_2ranks": _pack_2ranks}[case](repeats)


def _source_grid() -> Grid:
    return orient(gaussian_rows(), np.arange(2 * ROWS) * 180.0 / ROWS, None, None).grid


def _regrid(repeats: int) -> list[Row]:
    """Conservative regridding against two products with dense weight matrices."""
    source, target = _source_grid(), regular_grid(5.625)
    regrid = regridder(source, target, "conservative")
    rows_IH = regrid.rows.dense(ROWS)
    columns_WJ = np.ascontiguousarray(regrid.columns.dense(2 * ROWS).T)
    fields_NHW = np.random.default_rng(0).standard_normal((64, *source.shape))
    if not np.allclose(regrid(fields_NHW), (rows_IH @ fields_NHW) @ columns_WJ, rtol=0, atol=1e-12):
        raise WrongResult("regrid: differs from the two matrix products; no times are shown")
    forms = {"ours": lambda: regrid(fields_NHW), "matmul": lambda: (rows_IH @ fields_NHW) @ columns_WJ}
    return time_rows("regrid", interleaved(forms, 5 * repeats))


def _shard_write(repeats: int) -> list[Row]:
    """Writing a shard with checksums, without fsync, against `write` of the same chunks to a plain file."""
    grid, steps = regular_grid(5.625), 1460
    head = header(grid)
    chunk_CHW = np.random.default_rng(0).standard_normal((len(head.channels), *grid.shape)).astype(np.float16)
    with TemporaryDirectory() as folder:
        shard, raw = Path(folder) / "shard.h5", Path(folder) / "raw"

        def ours() -> None:
            writer = ShardWriter(shard, head, {"time": 6.0 * np.arange(steps)}, "float16")
            for step in range(steps):
                writer.write(step, chunk_CHW)
            writer.close()

        def write() -> None:
            with raw.open("wb", buffering=0) as file:
                for _ in range(steps):
                    file.write(chunk_CHW.data)

        def clear() -> None:
            shard.unlink(missing_ok=True)
            raw.unlink(missing_ok=True)

        forms = {"ours": ours, "write": write}
        # The uncounted round allocates the first pages of the folder.
        return time_rows("shard_write", interleaved(forms, 3 * repeats, before=clear, uncounted=1))


@cache
def input_files(steps: int) -> "TemporaryDirectory[str]":
    """The synthetic CMIP6 files, removed when the process ends."""
    folder = TemporaryDirectory(prefix="bench_cmip6_")
    write_input(Path(folder.name), steps)
    return folder


def _pack(repeats: int) -> list[Row]:
    """The packer on two ranks against the script, whose dask threads also use both cores; same files, to 5.625°."""
    _check_script_needs()
    mpiexec = _mpiexec("pack")
    seconds: dict[str, list[float]] = {"ours": [], "one_rank": [], "script": []}
    with TemporaryDirectory() as folder:
        script = Path(folder) / "script"
        _check_script(script)
        for _ in range(_few(repeats)):
            seconds["ours"] += _seconds_under_mpi(mpiexec, 2, _STEPS, _STEPS_PER_SHARD)
            seconds["one_rank"] += _seconds_under_mpi(mpiexec, 1, _STEPS, _STEPS_PER_SHARD)
            start = time.perf_counter()
            _script(script)
            seconds["script"].append(time.perf_counter() - start)
    rows = time_rows("pack", {"ours": seconds["ours"], "script": seconds["script"]})
    return rows + time_rows("pack_1rank", {"ours": seconds["one_rank"], "script": seconds["script"]})


def _check_script_needs() -> None:
    absent = [name for name in ("scipy", "dask") if find_spec(name) is None]
    if absent:
        raise UserError(f"cases: `pack` needs {absent[0]} for its baseline; pip install '.[dev]'")


def _script(folder: Path) -> None:
    """The usual preparation script: open, interpolate, save by segments, statistics at the end."""
    import xarray

    folder.mkdir(exist_ok=True)
    target = regular_grid(5.625)
    saved: dict[str, Any] = {}
    for name in (*SURFACE, *ON_LEVELS):
        files = sorted(str(path) for path in Path(input_files(_STEPS).name).glob(f"{name}_*.nc"))
        with xarray.open_mfdataset(files, combine="by_coords") as dataset:
            fields = dataset[name].interp(lat=target.lat, lon=target.lon, method="linear")
            if name in SURFACE:
                saved[name] = fields.to_numpy()[:, None].astype(np.float32)
            for level in LEVELS_HPA if name in ON_LEVELS else ():
                saved[f"{name}_{level}"] = fields.sel(plev=100.0 * level).to_numpy()[:, None].astype(np.float32)
    for start in range(0, _STEPS, _STEPS_PER_SHARD):
        segment = {name: fields[start : start + _STEPS_PER_SHARD] for name, fields in saved.items()}
        np.savez(folder / f"{start}.npz", **segment)
    mean: dict[str, Any] = {name: np.nanmean(fields) for name, fields in saved.items()}
    std: dict[str, Any] = {name: np.nanstd(fields) for name, fields in saved.items()}
    np.savez(folder / "normalize_mean.npz", **mean)
    np.savez(folder / "normalize_std.npz", **std)


def _check_script(folder: Path) -> None:
    """The first field of the script equals our bilinear one, except at the date line: `interp` is not periodic."""
    import netCDF4

    _script(folder)
    with (
        np.load(folder / "0.npz") as segment,
        netCDF4.Dataset(next(Path(input_files(_STEPS).name).glob("tas_*_0.nc"))) as file,
    ):
        theirs = segment["tas"][0, 0]
        ours = regridder(_source_grid(), regular_grid(5.625), "bilinear")(np.asarray(file["tas"][:1], np.float64))[0]
    if not np.allclose(ours[1:-1, :-1], theirs[1:-1, :-1], rtol=1e-5):
        raise WrongResult("pack: the script gives different fields; no times are shown")


def _pack_2ranks(repeats: int) -> list[Row]:
    """Two ranks against one under mpiexec; the time excludes process start and imports."""
    mpiexec = _mpiexec("pack_2ranks")
    seconds: dict[str, list[float]] = {"ours": [], "one_rank": []}
    for _ in range(_few(repeats)):
        for name, ranks in (("ours", 2), ("one_rank", 1)):
            seconds[name] += _seconds_under_mpi(mpiexec, ranks, _LONG_STEPS, _LONG_STEPS_PER_SHARD)
    return time_rows("pack_2ranks", seconds)


def _few(repeats: int) -> int:
    """Number of whole packing runs, which take seconds each."""
    return max(1, repeats // 2)


def _mpiexec(case: str) -> str:
    mpiexec = which("mpiexec", path=str(Path(sys.executable).parent)) or which("mpiexec")
    if mpiexec is None:
        raise UserError(f"cases: `{case}` needs mpiexec; pip install '.[mpi]', or load the site's MPI")
    return mpiexec


def _seconds_under_mpi(mpiexec: str, ranks: int, steps: int, steps_per_shard: int) -> Sequence[float]:
    """Time to pack that many steps, after a first run on the short input [s]."""
    sources = [input_files(_STEPS).name, input_files(steps).name]
    with TemporaryDirectory() as folder:
        command = [mpiexec, "-n", str(ranks), sys.executable, "-c", _RANKS, folder, str(steps_per_shard), *sources]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"cases: packing on {ranks} ranks failed: {done.stderr.strip().splitlines()[-1:]}")
    return [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("seconds ")]
