"""Where the chunks of a shard begin: at multiples of pages, without gaps between them."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from climax_hpc.fields.grid import regular_grid
from climax_hpc.shards.chunk_table import chunk_table
from climax_hpc.shards.shard import ShardWriter
from climax_hpc.tools.bench.loader_data import NAMES, header

PAGE = 4096


@pytest.mark.parametrize(
    ("spacing", "channels", "alignment"),
    [
        (5.625, 3, PAGE),  # 3 pages
        (5.625, 6, 2 * PAGE),
        (5.625, 40, 8 * PAGE),
        (5.625, 48, 16 * PAGE),
        (2.8125, 16, 16 * PAGE),  # 64 pages: not aligned to more than 16
        (22.5, 3, 1),  # 768 bytes
    ],
)
def test_chunks_are_aligned_as_far_as_no_gap_is_left(
    tmp_path: Path, spacing: float, channels: int, alignment: int
) -> None:
    grid, steps = regular_grid(spacing), 5
    fields = np.random.default_rng(0).random((steps, channels, *grid.shape)).astype(np.float16)
    writer = ShardWriter(tmp_path / "a.h5", header(grid, NAMES[:channels]), {"time": 6.0 * np.arange(steps)}, "float16")
    for step in reversed(range(steps)):
        writer.write(step, fields[step])
    writer.close()
    with h5py.File(tmp_path / "a.h5") as file:
        offset_N = chunk_table(file["fields"]).offset_N
        assert np.array_equal(file["fields"][:], fields)
    assert not (offset_N % alignment).any()
    assert np.array_equal(np.diff(offset_N), [fields[0].nbytes] * (steps - 1))
    assert offset_N[0] < 2 * 16 * PAGE, "the header grew by more than the alignment"
