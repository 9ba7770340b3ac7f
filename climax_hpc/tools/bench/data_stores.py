"""The store case of `climax-hpc bench data`: reading for a pack over a slow link, against the rate of that link."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.packing.context import PackContext
from climax_hpc.data_prep.packing.disk_usage import disk_usage_of
from climax_hpc.data_prep.packing.process_unit import measure_work_unit
from climax_hpc.data_prep.packing.work_units import make_plan
from climax_hpc.data_prep.sources.input_root import identity_of
from climax_hpc.data_prep.stores.sessions import close_sessions
from climax_hpc.errors import UserError
from climax_hpc.kernels.benchmarking import Row, WrongResult

CASES = ("store_50ms",)
_MB_PER_S, _LATENCY_S = 20.0, 0.05
_STEPS, _LEVELS_HPA, _ROWS = 256, (1000, 850, 500, 250), 64
_NAMES = ("temperature", "geopotential")


def rows_of(case: str, repeats: int) -> list[Row]:
    """The first pass over a zarr store at a link of 20 MB/s and 50 ms; planning and the check of the input excluded.

    Raises:
        WrongResult: the moments differ from those of the store on disk.
        UserError: the packages of the extra `stores` are missing.
    """
    with TemporaryDirectory(prefix="bench_store_") as folder:
        size = _write_store(Path(folder) / "in" / "x.zarr")
        expected = _first_pass(str(Path(folder) / "in" / "x.zarr"), Path(folder) / "disk")[1]
        rates = []
        with _slow_server(Path(folder) / "in") as url:
            for number in range(max(1, repeats // 2)):
                close_sessions()
                seconds, moments = _first_pass(f"{url}/x.zarr", Path(folder) / str(number))
                if moments != expected:
                    raise WrongResult(f"{case}: other moments than from disk; no rate is shown")
                rates.append(size / seconds)
    return [
        Row(
            case=case, metric="rate", against="link of 20 MB/s", ours=median(rates), baseline=_MB_PER_S * 1e6,
            unit="B/s", more_is_better=True, ours_p20=min(rates), ours_p80=max(rates),
        )
    ]  # fmt: skip


def _write_store(path: Path) -> int:
    """A store without compression, one chunk a step; bytes of its fields."""
    import xarray as xr

    rng = np.random.default_rng(0)
    shape = (_STEPS, len(_LEVELS_HPA), _ROWS, 2 * _ROWS)
    levels = np.array(_LEVELS_HPA, np.float32)[:, None, None]
    noise = rng.standard_normal(shape, dtype=np.float32)
    fields = {"temperature": 250 + 5 * noise, "geopotential": 9.8 * (8000 * np.log(1010 / levels) + 20 * noise)}
    axes = {
        "time": np.datetime64("1979-01-01", "ns") + np.arange(_STEPS) * np.timedelta64(6, "h"),
        "level": list(_LEVELS_HPA),
        "latitude": (np.arange(_ROWS) + 0.5) * 180 / _ROWS - 90,
        "longitude": np.arange(2 * _ROWS) * 180 / _ROWS,
    }
    held = xr.Dataset({name: (tuple(axes), values.astype(np.float32)) for name, values in fields.items()}, axes)
    encoding = {name: {"chunks": (1, *shape[1:]), "compressors": None} for name in _NAMES}
    held.to_zarr(path, zarr_format=2, consolidated=True, encoding=encoding)
    return sum(held[name].nbytes for name in _NAMES)


def _first_pass(given: str, output: Path) -> tuple[float, list[object]]:
    """Time of the first pass over all units [s], and its moments."""
    config = PackConfig(input=given, output=str(output), layout="era5", steps_per_shard=64, climatology=False)
    output.mkdir()
    plan = make_plan(config)
    files = plan.sources[0].input_files()
    context = PackContext(
        plan=plan, config=config, output=output, hashes={file: identity_of(plan.root / file) for file in files},
        disk_usage=disk_usage_of(plan, config),
    )  # fmt: skip
    start = time.perf_counter()
    moments = [[m.to_json() for m in measure_work_unit(context, unit)] for unit in plan.work_units]
    return time.perf_counter() - start, [*moments]


@contextmanager
def _slow_server(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "climax_hpc.tools.bench.slow_server", str(folder), str(_MB_PER_S), str(_LATENCY_S)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        if not port:
            raise UserError("cases: the server of store_50ms did not start; run it by itself to see why")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()
