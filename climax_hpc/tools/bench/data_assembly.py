"""The assembly cases of `bench data`: batches built block by block on a processor against whole-tensor operations.

Both start from a micro-batch of four samples that was read. `whole_fields` is what a GPU does, and what the processor
did before: every operation takes the micro-batch and most write to new memory. One thread.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from climax_hpc.data.batch_builder import SourceBatchBuilder
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.prefetch import read_now
from climax_hpc.data.sampler import MicroBatch, Sample, hash64
from climax_hpc.kernels.benchmarking import Row, WrongResult, interleaved, time_rows
from climax_hpc.tools.bench.loader_data import NAMES, write_source

CASES = {"assembly_128x256": False, "assembly_128x256_augmented": True}
"""Name of a case -> whether samples are shifted and mirrored."""
_SAMPLES = tuple(Sample(time_index=t, lead_steps=t + 1) for t in range(4))
_CALLS = 4
"""Micro-batches built in one timed run."""


def rows_of(case: str, repeats: int) -> list[Row]:
    """The row of a case; its data are written below TMPDIR and removed afterwards.

    Raises:
        WrongResult: the two forms differ in a bit.
    """
    units = {name: float(i + 1) for i, name in enumerate(NAMES)}
    norm = Normalisation(mode="full", mean=units, std=units, anomaly_std={}, lead_hours=[], r={}, s={})
    augmented = CASES[case]
    with tempfile.TemporaryDirectory(prefix="climax-bench-") as folder:
        source = write_source(Path(folder), rows=128, shards=1, steps=8)
        builder = SourceBatchBuilder(
            source, norm, inputs=source.channels, outputs=source.channels, device=torch.device("cpu"),
            random_roll=augmented, random_flip=augmented,
        )  # fmt: skip
        micro_batch = MicroBatch(source=source.name, samples=_SAMPLES, key=hash64(1))
        raw = read_now(builder.spec, _SAMPLES, builder.device)
        torch.set_num_threads(1)
        forms = {
            "ours": lambda: builder.field_blocks(micro_batch, raw),
            "whole_fields": lambda: builder.whole_fields(micro_batch, raw),
        }
        ours, whole = (form() for form in forms.values())
        if not (torch.equal(ours.x_BVHW, whole.x_BVHW) and torch.equal(ours.y_BOHW, whole.y_BOHW)):
            raise WrongResult(f"{case}: blocks and whole fields differ; no times are shown")
        del ours, whole
        runs = {name: _several(form) for name, form in forms.items()}
        return time_rows(case, interleaved(runs, 3 * repeats, uncounted=1))


def _several(form: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(_CALLS):
            form()

    return run
