"""The reading threads: order, memory, back-pressure, errors at their micro-batch, no thread left behind."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from climax_hpc.data.dataset import DataSet
from climax_hpc.data.field_part import FieldPart
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.prefetch import read_micro_batches, read_now
from climax_hpc.data.raw_batch import RawBatch, SourceBatchSpec
from climax_hpc.data.sampler import MicroBatch, Sample, Sampler
from climax_hpc.errors import UserError

from ..fake_cuda import DEVICE, FakeCuda

MakeDataset = Callable[..., Path]
CPU = torch.device("cpu")


def only_source(folder: Path) -> PackedSource:
    return DataSet(folder).select(None)[0]


def micro_batches_of(
    source: PackedSource, steps: int, micro_batch_size: int = 2, history_steps: int = 0
) -> list[tuple[int, MicroBatch]]:
    times = source.times(None, 6, 60, history_steps=history_steps)
    return list(
        Sampler({source.name: times}, seed=5, micro_batch_size=micro_batch_size, micro_batches_per_step=2).stream(
            0, steps
        )
    )


def read(
    source: PackedSource, micro_batches: Iterator[tuple[int, MicroBatch]] | list[tuple[int, MicroBatch]], **options: int
) -> Iterator[tuple[int, MicroBatch, RawBatch]]:
    spec = SourceBatchSpec(source=source, history_steps=options.pop("history_steps", 0))
    size = options.pop("micro_batch_size", 2)
    return read_micro_batches(micro_batches, {source.name: spec}, micro_batch_size=size, device=CPU, **options)


def reader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("climax-reader")]


@pytest.mark.parametrize(("threads", "prefetch"), [(1, 1), (1, 4), (3, 3), (4, 7)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_micro_batches_come_in_order_with_their_fields(
    make_dataset: MakeDataset, threads: int, prefetch: int, dtype: str
) -> None:
    source = only_source(make_dataset(dtype=dtype, shape=(5, 7), years=2, shards_per_segment=3))
    truth = [source.read(t) for t in range(source.steps)]
    micro_batches = micro_batches_of(source, 20)
    seen = []
    for step, micro_batch, raw in read(source, micro_batches, threads=threads, prefetch_micro_batches=prefetch):
        seen.append((step, micro_batch))
        for b, s in enumerate(micro_batch.samples):
            np.testing.assert_array_equal(raw.x_BTCHW[b, 0], truth[s.time_index])
            np.testing.assert_array_equal(raw.y_BCHW[b], truth[s.time_index + s.lead_steps])
    assert seen == micro_batches
    assert not reader_threads()


def test_history_is_oldest_first_and_never_from_another_segment(make_dataset: MakeDataset) -> None:
    source = only_source(make_dataset(shape=(4, 6), years=3, steps_per_year=20, shards_per_segment=3))
    for _, micro_batch, raw in read(source, micro_batches_of(source, 30, history_steps=3), history_steps=3):
        assert raw.x_BTCHW.shape[:2] == (2, 4)
        for b, s in enumerate(micro_batch.samples):
            segment = next(x for x in source.segments if x.first <= s.time_index < x.first + x.steps)
            assert s.time_index - 3 >= segment.first
            assert s.time_index + s.lead_steps < segment.first + segment.steps
            for k in range(4):
                np.testing.assert_array_equal(raw.x_BTCHW[b, k], source.read(s.time_index - 3 + k))


def test_a_roll_out_reads_its_own_number_of_targets_and_no_more(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = only_source(make_dataset(dtype="float32", shape=(5, 7), years=2))
    truth, read_steps = [source.read(t) for t in range(source.steps)], 0
    spec = SourceBatchSpec(source=source, rollout_steps=4)
    micro_batches = [
        (step, MicroBatch(source=source.name, samples=(Sample(time_index=3 * step, lead_steps=2),) * 2, key=0,
                          rollout_steps=(2, 4, 1, 3, None)[step % 5]))
        for step in range(20)
    ]  # fmt: skip
    real = PackedSource.read_into

    def counting(self: PackedSource, time_indices: list[int], out: np.ndarray, part: FieldPart) -> None:
        nonlocal read_steps
        read_steps += len(time_indices)
        real(self, time_indices, out, part)

    monkeypatch.setattr(PackedSource, "read_into", counting)
    stream = read_micro_batches(
        micro_batches, {source.name: spec}, micro_batch_size=2, device=CPU, threads=2, prefetch_micro_batches=3
    )
    for _, micro_batch, raw in stream:
        targets = micro_batch.rollout_steps or 4
        assert len(raw.y_BCHW) == 2 * targets
        first = micro_batch.samples[0].time_index
        for k in range(targets):
            np.testing.assert_array_equal(raw.y_BCHW[k], truth[first + 2 * (k + 1)])
            np.testing.assert_array_equal(raw.y_BCHW[targets + k], truth[first + 2 * (k + 1)])
    assert read_steps == sum(2 * (1 + (micro_batch.rollout_steps or 4)) for _, micro_batch in micro_batches)


def test_nothing_is_read_before_there_is_room(make_dataset: MakeDataset) -> None:
    source = only_source(make_dataset())
    requested = 0

    def counting() -> Iterator[tuple[int, MicroBatch]]:
        nonlocal requested
        for item in micro_batches_of(source, 30):
            requested += 1
            yield item

    stream = read(source, counting(), prefetch_micro_batches=3, threads=2)
    for taken in range(1, 6):
        next(stream)
        time.sleep(0.05)
        # One micro-batch is with the consumer, three are ahead.
        assert requested == taken + 3
    stream.close()


def damage(source: PackedSource, time_index: int) -> None:
    """Flip a bit of one time step on disk, in place."""
    entry = source._file(source._shards[0])
    with open(entry._path, "r+b") as file:
        file.seek(entry._offsets[time_index] + 11)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))


@pytest.mark.parametrize("threads", [1, 4])
def test_an_error_comes_at_its_micro_batch_and_ends_all_threads(make_dataset: MakeDataset, threads: int) -> None:
    source = only_source(make_dataset(years=1, shards_per_segment=1))
    damage(source, 30)
    sound = MicroBatch(source=source.name, samples=(Sample(time_index=0, lead_steps=1),), key=0)
    bad = MicroBatch(source=source.name, samples=(Sample(time_index=29, lead_steps=1),), key=0)
    micro_batches = [(i, bad if i == 6 else sound) for i in range(12)]
    stream = read(source, micro_batches, threads=threads, prefetch_micro_batches=4, micro_batch_size=1)
    assert [next(stream)[0] for _ in range(6)] == list(range(6))
    with pytest.raises(UserError, match=r"_2001010100_\d+\.h5: time step 30 does not match its checksum.*restore it"):
        next(stream)
    assert not reader_threads()


def test_an_abandoned_stream_leaves_no_thread(make_dataset: MakeDataset) -> None:
    source = only_source(make_dataset())
    stream = read(source, micro_batches_of(source, 30), threads=3, prefetch_micro_batches=6)
    next(stream)
    assert len(reader_threads()) == 3
    stream.close()
    assert not reader_threads()
    stream = read(source, micro_batches_of(source, 30), threads=3, prefetch_micro_batches=6)
    next(stream)
    del stream
    gc.collect()
    assert not reader_threads()


def test_an_error_of_the_consumer_ends_all_threads(make_dataset: MakeDataset) -> None:
    source = only_source(make_dataset())

    def consume() -> None:
        for step, _, _ in read(source, micro_batches_of(source, 30), threads=2):
            step / 0

    with pytest.raises(ZeroDivisionError):
        consume()
    gc.collect()
    assert not reader_threads()


@pytest.mark.parametrize(("threads", "prefetch"), [(1, 1), (3, 4)])
def test_a_gpu_gets_every_micro_batch_however_late_it_works(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch, threads: int, prefetch: int
) -> None:
    source = only_source(make_dataset(shape=(3, 5), years=1))
    micro_batches = micro_batches_of(source, 12)
    truth = [source.read(t) for t in range(source.steps)]
    cuda, spec = FakeCuda(monkeypatch), SourceBatchSpec(source=source)
    used: list[tuple[torch.Tensor, torch.Tensor]] = []
    stream = read_micro_batches(
        micro_batches, {source.name: spec}, micro_batch_size=2, device=DEVICE, threads=threads,
        prefetch_micro_batches=prefetch,
    )  # fmt: skip
    for _, _, raw in stream:
        cuda.default.todo.append(lambda raw=raw: used.append((raw.x_BTCHW.clone(), raw.y_BCHW.clone())))
    assert len(used) < len(micro_batches)  # the device is behind
    cuda.finish()
    for (x_BTCHW, y_BCHW), (_, micro_batch) in zip(used, micro_batches, strict=True):
        for b, s in enumerate(micro_batch.samples):
            np.testing.assert_array_equal(x_BTCHW[b, 0], truth[s.time_index])
            np.testing.assert_array_equal(y_BCHW[b], truth[s.time_index + s.lead_steps])
    readers = {name: device for name, device in cuda.devices.items() if name.startswith("climax-reader")}
    assert readers
    assert set(readers.values()) == {DEVICE}


def test_buffers_of_an_abandoned_stream_are_not_overwritten_later(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = only_source(make_dataset(years=1))
    cuda, spec = FakeCuda(monkeypatch), SourceBatchSpec(source=source)
    stream = read_micro_batches(
        micro_batches_of(source, 12), {source.name: spec}, micro_batch_size=2, device=DEVICE, threads=1
    )
    next(stream)
    stream.close()
    cuda.finish()
    assert [len(other.todo) for other in cuda.others] == [0]  # what gets their memory comes after this


def test_samples_read_now_are_on_the_gpu_before_they_are_used(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = only_source(make_dataset(years=1))
    expected = source.read(7)
    cuda = FakeCuda(monkeypatch)
    raw = read_now(SourceBatchSpec(source=source), [Sample(time_index=6, lead_steps=1)], DEVICE)
    cuda.default.todo.append(lambda: np.testing.assert_array_equal(raw.y_BCHW[0], expected))
    cuda.finish()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device")
def test_a_gpu_that_is_behind_gets_every_micro_batch(make_dataset: MakeDataset) -> None:
    """As on the imitated one: every step begins with work that keeps the GPU busy for milliseconds."""
    source, gpu = only_source(make_dataset(shape=(32, 64), years=1)), torch.device("cuda", torch.cuda.current_device())
    micro_batches, specs = micro_batches_of(source, 12), {source.name: SourceBatchSpec(source=source)}
    used = []
    for _, _, raw in read_micro_batches(micro_batches, specs, micro_batch_size=2, device=gpu):
        torch.cuda._sleep(10_000_000)
        used.append((raw.x_BTCHW.clone(), raw.y_BCHW.clone()))
    for (x_BTCHW, y_BCHW), (_, micro_batch) in zip(used, micro_batches, strict=True):
        for b, s in enumerate(micro_batch.samples):
            np.testing.assert_array_equal(x_BTCHW[b, 0].cpu(), source.read(s.time_index))
            np.testing.assert_array_equal(y_BCHW[b].cpu(), source.read(s.time_index + s.lead_steps))


_FOREVER = """
import itertools, signal, sys, torch
from climax_hpc.data.sampler import MicroBatch, Sample
from climax_hpc.data.prefetch import read_micro_batches
from climax_hpc.data.raw_batch import SourceBatchSpec
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.field_part import FieldPart
source = DataSet(sys.argv[1]).select(None)[0]
micro_batch = MicroBatch(source=source.name, samples=(Sample(time_index=0, lead_steps=1),), key=0)
stream = read_micro_batches(((i, micro_batch) for i in itertools.count()),
                            {source.name: SourceBatchSpec(source=source)}, micro_batch_size=1,
                            device=torch.device("cpu"), threads=3, prefetch_micro_batches=4)
signal.signal(signal.SIGINT, signal.default_int_handler)  # the shell that started the tests may ignore it
for step, _, _ in stream:
    if step == 100:
        print("reading", flush=True)
"""


def test_an_interrupt_ends_the_process_at_once(make_dataset: MakeDataset) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _FOREVER, str(make_dataset())], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "KeyboardInterrupt" in errors
    assert process.returncode in (-signal.SIGINT, 130)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_is_flat_over_100_000_samples(make_dataset: MakeDataset) -> None:
    source = only_source(make_dataset(shape=(4, 8), years=2, steps_per_year=600, climatology=False))
    sampler = Sampler({source.name: source.times(None, 6, 60)}, seed=1, micro_batch_size=50, micro_batches_per_step=2)
    stream = read(source, sampler.stream(0, 1000), micro_batch_size=50)
    before = samples = 0
    for step, micro_batch, _ in stream:
        samples += len(micro_batch.samples)
        if step == 100 and not before:
            before = resident_bytes()
    assert samples == 100_000
    # Less than 10 bytes for each of 90 000 samples; a leak of one Python object per sample would be 50.
    assert resident_bytes() - before < 900_000
