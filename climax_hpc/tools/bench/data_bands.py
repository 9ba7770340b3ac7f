"""The cases of `bench data` for parts of a time step at 0.25°: shards in bands against one chunk per time step.

One step of 100 channels of noise on 720 × 1440 cells in float16, 207 MB. `bytes` are those that the process asked the
operating system for while it read; `bytes_cold` are those that the storage gave it after the page cache of the files
was emptied, read-ahead included. Times are of one thread, checksums included: `time` with the files in the page cache,
`time_cold` without.
"""

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data.field_part import FieldPart
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.fields.grid import regular_grid
from climax_hpc.fields.regions import region_of, region_rows
from climax_hpc.kernels.benchmarking import Row, Timing, WrongResult, interleaved
from climax_hpc.shards.chunk_layout import AUTO, STEP
from climax_hpc.tools.bench.loader_data import write_source
from climax_hpc.tools.bench.page_cache import empty_page_cache

NAMES = [f"channel_{c:03d}" for c in range(100)]
_IO = Path("/proc/self/io")


@dataclass(frozen=True, kw_only=True)
class BandCase:
    """What one case reads."""

    chunks: tuple[str, ...]
    """Layouts, as the key `chunks` of `pack`; the first is the default."""
    channels: tuple[int, ...] | None = None
    bands: tuple[int, int] | None = None
    """Number of the band, and into how many equal ones the rows are divided."""
    region: str | None = None
    rows: int = 720

    @property
    def part(self) -> FieldPart:
        """Channels and rows that are read."""
        if self.region:
            inside = region_rows(regular_grid(180 / self.rows).lat, region_of(self.region))
            return FieldPart(rows=(int(inside[0]), int(inside[-1]) + 1))
        if self.bands:
            number, count = self.bands
            return FieldPart(rows=(number * self.rows // count, (number + 1) * self.rows // count))
        return FieldPart(channels=self.channels)


CASES = {
    # Every eighth channel: no two are neighbours, so that no block serves two of them.
    "subset_0.25deg": BandCase(chunks=(AUTO,), channels=tuple(range(0, 96, 8))),
    "band_0.25deg": BandCase(chunks=(AUTO, "2x180"), bands=(1, 4)),
    "region_0.25deg": BandCase(chunks=(AUTO, "4x90"), region="Europe"),
}


def rows_of(case: str, repeats: int) -> list[Row]:
    """The rows of a case; its data are written below TMPDIR and removed afterwards.

    Raises:
        WrongResult: the layouts give different values, or the page cache cannot be emptied.
    """
    size = CASES[case]
    with tempfile.TemporaryDirectory(prefix="climax-bench-") as temporary:
        folders = {chunks: Path(temporary) / chunks for chunks in (STEP, *size.chunks)}
        sources = {chunks: _written(folder, size, chunks) for chunks, folder in folders.items()}
        part = size.part
        expected = _cut(sources[STEP].read(0), part)
        for chunks in size.chunks:
            if not np.array_equal(sources[chunks].read(0, part), expected):
                raise WrongResult(f"chunks {chunks} and one chunk per time step differ; no figures are shown")
        files = [folder / entry.file for chunks, folder in folders.items() for entry in sources[chunks].files]

        def before() -> None:
            empty_page_cache(files)

        rows = []
        for metric, key, first in (("bytes", "rchar", lambda: None), ("bytes_cold", "read_bytes", before)):
            whole = _counted(key, first, lambda: sources[STEP].read(0))
            for chunks in size.chunks:
                found = _counted(key, first, partial(sources[chunks].read, 0, part))
                rows.append(_row(case, metric, chunks, found, whole))
        rows += _times(case, "time", sources, part, repeats, lambda: None)
        return rows + _times(case, "time_cold", sources, part, repeats, before)


def _written(folder: Path, size: BandCase, chunks: str) -> PackedSource:
    folder.mkdir()
    return write_source(folder, rows=size.rows, shards=1, steps=1, names=NAMES, chunks=chunks)


def _cut(fields_CHW: NDArray[Any], part: FieldPart) -> NDArray[Any]:
    channels, (first, stop) = part.of((fields_CHW.shape[0], fields_CHW.shape[1], fields_CHW.shape[2]))
    return fields_CHW[list(channels), first:stop]


def _counted(key: str, before: Callable[[], None], read: Callable[[], object]) -> float:
    """How much a counter of bytes of this process grows in `read`, without what reading the counter itself adds."""

    def count() -> int:
        return int(dict(line.split(": ") for line in _IO.read_text().splitlines())[key])

    before()
    start = count()
    own = count() - start
    start = count()
    read()
    return float(count() - start - own)


def _times(
    case: str,
    metric: str,
    sources: dict[str, PackedSource],
    part: FieldPart,
    repeats: int,
    before: Callable[[], None],
) -> list[Row]:
    """Rows of the time to read the part in each layout, against a whole step of one chunk, as before version 2."""
    forms: dict[str, Callable[[], None]] = {}
    for chunks, source in sources.items():
        wanted = FieldPart() if chunks == STEP else part
        out = np.zeros((1, *wanted.shape_in(source.chunk_shape)), source.dtype)
        forms[chunks] = _reader(source, out, wanted)
    seconds = interleaved(forms, repeats, before=before, uncounted=1)
    whole = statistics.median(seconds.pop(STEP))
    return [_row(case, metric, chunks, times, whole) for chunks, times in seconds.items()]


def _reader(source: PackedSource, out_NCHW: NDArray[Any], part: FieldPart) -> Callable[[], None]:
    return lambda: source.read_into([0], out_NCHW, part)


def _row(case: str, metric: str, chunks: str, ours: float | list[float], whole: float) -> Row:
    """A row against the whole step; `ours`: bytes, or seconds of each run."""
    name = metric if chunks == AUTO else f"{metric}_{chunks}"
    if isinstance(ours, float):
        return Row(case=case, metric=name, against="whole", ours=ours, baseline=whole, unit="bytes")
    timing = Timing.of(ours)
    return Row(
        case=case, metric=name, against="whole", ours=timing.median, baseline=whole, unit="s",
        ours_p20=timing.p20, ours_p80=timing.p80,
    )  # fmt: skip
