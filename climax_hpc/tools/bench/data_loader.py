"""The loader cases of `bench data`: ours against raw `preadv`, h5py and a research loader, warm and cold page cache.

Loading includes sample order, reads, checksums, and delivery of the stored float16 inputs and targets of all 48
channels on the device, here the CPU, so without a copy. The rows `samples_per_s_batches` add the conversion to
normalised float32, which on a GPU runs there.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain, count, islice
from pathlib import Path

import h5py
import numpy as np
import torch

from climax_hpc.config.training import DataConfig
from climax_hpc.data.batch_builder import SourceBatchBuilder
from climax_hpc.data.batches import batches
from climax_hpc.data.chunk_reader import FileHandle
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.prefetch import read_micro_batches
from climax_hpc.data.raw_batch import SourceBatchSpec
from climax_hpc.data.sampler import MicroBatch, Sampler
from climax_hpc.kernels.benchmarking import Row, WrongResult, interleaved, time_rows
from climax_hpc.shards.chunk_table import chunk_table
from climax_hpc.tools.bench.loader_data import NAMES, write_npz, write_source
from climax_hpc.tools.bench.page_cache import empty_page_cache

COLD_THREADS = 4
_WARM_REPEATS = 3  # factor on `repeats`: a run takes a quarter of a second and varies
_RESEARCH_PASSES = 2
_SETTLING = 0.2  # [s] for read-ahead to end before the page cache is emptied
_CPU = torch.device("cpu")
_DEFAULTS = DataConfig(dataset="")
# Large blocks stay in the heap, which is never returned to the system: pages are faulted in only once.
_TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
_RESEARCH = {"research": ("released", {}), "research_tuned": ("released", _TUNED), "research_lean": ("lean", _TUNED)}
"""Name of a baseline -> form of the research loader, environment of its process."""


@dataclass(frozen=True, kw_only=True)
class LoaderCase:
    """The data of one case."""

    rows: int
    shards: int
    steps: int
    """Time steps per shard, and per .npz file."""
    micro_batch_size: int
    micro_batches: int
    """Micro-batches read in one timed run."""
    buffer: int
    """Shuffle buffer of the research loader [samples]."""
    cold: bool = False


_SMALL = LoaderCase(
    rows=32, shards=4, steps=182, micro_batch_size=16, micro_batches=250, buffer=512
)  # file size of ClimaX
_LARGE = LoaderCase(rows=128, shards=3, steps=48, micro_batch_size=4, micro_batches=100, buffer=32)
CASES = {
    "loader_32x64": _SMALL,
    "loader_128x256": _LARGE,
    "loader_32x64_cold": replace(_SMALL, micro_batches=60, cold=True),
    "loader_128x256_cold": replace(_LARGE, micro_batches=30, cold=True),
}


class LoaderBench:
    """The data of a case, and the loaders that read it."""

    def __init__(self, folder: Path, size: LoaderCase) -> None:
        self._size = size
        self.source = write_source(folder, rows=size.rows, shards=size.shards, steps=size.steps)
        self._paths = [folder / entry.file for entry in self.source.files]
        self._handles = [FileHandle(str(path)) for path in self._paths]
        self._sampler = Sampler(
            {self.source.name: self.source.times(None, 6, 168)},
            seed=1,
            micro_batch_size=size.micro_batch_size,
            micro_batches_per_step=1,
        )
        self._chunk = 2 * int(np.prod(self.source.chunk_shape))
        self._times = [t for _, micro_batch in self.micro_batches() for t in _times_of(micro_batch)]
        self.samples = size.micro_batches * size.micro_batch_size

    def micro_batches(self) -> list[tuple[int, MicroBatch]]:
        """(step, micro-batch) of one run."""
        return list(self._sampler.stream(0, self._size.micro_batches))

    def loader(self, threads: int, prefetch: int = _DEFAULTS.prefetch_micro_batches) -> Callable[[], None]:
        """Ours: order, reads, checksums, delivery.

        One stream serves all runs, as in training, so that its buffers are as warm as those of the other loaders. A run
        takes `prefetch` micro-batches more, because as many may have been read before it.
        """
        again = chain.from_iterable(self._sampler.stream(0, self._size.micro_batches) for _ in count())
        stream = self._stream(again, threads, prefetch)

        def run() -> None:
            for _ in islice(stream, self._size.micro_batches + prefetch):
                pass

        return run

    def _stream(self, micro_batches: Iterable[tuple[int, MicroBatch]], threads: int, prefetch: int) -> Iterator[object]:
        return read_micro_batches(
            micro_batches,
            {self.source.name: SourceBatchSpec(source=self.source)},
            micro_batch_size=self._size.micro_batch_size,
            device=_CPU,
            threads=threads,
            prefetch_micro_batches=prefetch,
        )

    def batches(self) -> Callable[[], None]:
        """Ours with normalisation to float32, on the CPU."""
        units = {name: float(i + 1) for i, name in enumerate(NAMES)}
        norm = Normalisation(mode="full", mean=units, std=units, anomaly_std={}, lead_hours=[], r={}, s={})
        names = self.source.channels
        builder = SourceBatchBuilder(self.source, norm, inputs=names, outputs=names, device=_CPU)

        def run() -> None:
            for _ in batches(
                self._sampler,
                {self.source.name: builder},
                first_step=0,
                steps=self._size.micro_batches,
                rank=0,
                ranks=1,
            ):
                pass

        return run

    def preadv(self, buffers: int, threads: int = 1) -> Callable[[], None]:
        """Raw reads of the same bytes in the same order into reused buffers; files open, offsets known."""
        places = self._places()
        ring = [memoryview(bytearray(b"\1") * self._chunk) for _ in range(buffers * threads)]

        def read(thread: int) -> None:
            own = ring[thread * buffers : (thread + 1) * buffers]
            for i, (descriptor, offset) in enumerate(places[thread::threads]):
                os.preadv(descriptor, [own[i % buffers]], offset)

        if threads == 1:
            return lambda: read(0)
        pool = ThreadPoolExecutor(threads)

        def together() -> None:
            for _ in pool.map(read, range(threads)):
                pass

        return together

    def h5py(self, stack: ExitStack) -> Callable[[], None]:
        """`dset[t]` of the same steps in the same order, one micro-batch in memory at a time; files open."""
        fields = [stack.enter_context(h5py.File(path))["fields"] for path in self._paths]
        micro_batches = [_times_of(micro_batch) for _, micro_batch in self.micro_batches()]
        steps = self._size.steps

        def run() -> None:
            held = []
            for times in micro_batches:
                held = [fields[t // steps][t % steps] for t in times]
            del held

        return run

    def check(self) -> None:
        """Check that the loader and h5py read the same values.

        Raises:
            WrongResult: they differ.
        """
        stream = read_micro_batches(
            self.micro_batches()[:2],
            {self.source.name: SourceBatchSpec(source=self.source)},
            micro_batch_size=self._size.micro_batch_size,
            device=_CPU,
        )
        for _, micro_batch, raw in stream:
            found = torch.cat([raw.x_BTCHW[:, 0], raw.y_BCHW]).numpy()
            for t, field_CHW in zip(_times_of(micro_batch), found, strict=True):
                with h5py.File(self._paths[t // self._size.steps]) as file:
                    if not np.array_equal(file["fields"][t % self._size.steps], field_CHW):
                        raise WrongResult(f"time step {t}: the loader and h5py differ; no times are shown")

    def empty_page_cache(self) -> None:
        """Evict the shards from the page cache.

        Raises:
            WrongResult: they stay, because the file system is in memory.
        """
        empty_page_cache(self._paths)

    def _places(self) -> list[tuple[int, int]]:
        tables = []
        for path in self._paths:
            with h5py.File(path) as file:
                tables.append(chunk_table(file["fields"]).offset_N.tolist())
        steps = self._size.steps
        return [(self._handles[t // steps].descriptor, tables[t // steps][t % steps]) for t in self._times]


def rows_of(case: str, repeats: int) -> list[Row]:
    """The rows of a case; its data are written below TMPDIR and removed afterwards.

    Raises:
        WrongResult: the loader and h5py read different values, or the page cache cannot be emptied.
    """
    size = CASES[case]
    with tempfile.TemporaryDirectory(prefix="climax-bench-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        job = LoaderBench(folder, size)
        job.check()
        torch.set_num_threads(1)  # as in the research loader: more threads do not help for fields of a few MB
        return _cold_rows(case, job, repeats) if size.cold else _warm_rows(case, job, repeats, folder, stack)


def _warm_rows(case: str, job: LoaderBench, repeats: int, folder: Path, stack: ExitStack) -> list[Row]:
    size = CASES[case]
    ring = 2 * size.micro_batch_size * (_DEFAULTS.prefetch_micro_batches + 1)
    seconds = interleaved(
        {
            "ours": job.loader(_DEFAULTS.read_threads),
            "preadv": job.preadv(ring),
            "preadv_one_buffer": job.preadv(1),
            "h5py": job.h5py(stack),
            "four_threads": job.loader(4, 4),
            "batches": job.batches(),
        },
        _WARM_REPEATS * repeats,
        uncounted=1,
    )
    median = {form: statistics.median(values) for form, values in seconds.items()}
    rows = time_rows(case, {form: times for form, times in seconds.items() if form != "batches"})
    write_npz(folder / "npz", rows=size.rows, shards=size.shards, steps=size.steps)
    # Raw reads by one thread are the upper limit of a loader without a second thread.
    metrics = {"samples_per_s": "ours", "samples_per_s_batches": "batches", "samples_per_s_preadv": "preadv"}
    for name, (form, environment) in _RESEARCH.items():
        baseline = _research(folder / "npz", form, size, environment)
        rows += [
            Row(
                case=case, metric=metric, against=name, ours=job.samples / median[mine], baseline=baseline,
                unit="samples/s", more_is_better=True,
            )
            for metric, mine in metrics.items()
        ]  # fmt: skip
    return rows


def _cold_rows(case: str, job: LoaderBench, repeats: int) -> list[Row]:
    ring = 2 * CASES[case].micro_batch_size
    forms = {
        "ours": job.loader(COLD_THREADS, COLD_THREADS),
        "preadv": job.preadv(ring, COLD_THREADS),
        "preadv_1_thread": job.preadv(ring),
    }

    def before() -> None:
        time.sleep(_SETTLING)
        job.empty_page_cache()

    return time_rows(case, interleaved(forms, -(-repeats // 2), before=before, uncounted=1))


def _research(folder: Path, form: str, size: LoaderCase, environment: Mapping[str, str]) -> float:
    """Median samples/s of the research loader, warm page cache."""
    numbers = [str(n) for n in (size.micro_batch_size, size.buffer, _RESEARCH_PASSES)]
    command = [sys.executable, "-m", "climax_hpc.tools.bench.research_loader", str(folder), form, *numbers]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return statistics.median(json.loads(done.stdout))


def _times_of(micro_batch: MicroBatch) -> Sequence[int]:
    """Time indices that a micro-batch reads: inputs, then targets."""
    return [s.time_index for s in micro_batch.samples] + [s.time_index + s.lead_steps for s in micro_batch.samples]
