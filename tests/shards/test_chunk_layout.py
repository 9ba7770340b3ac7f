"""The chunks of a time step: sizes, every cell in one chunk, refused settings."""

import numpy as np
import pytest

from climax_hpc.errors import UserError
from climax_hpc.shards.chunk_layout import ChunkLayout, choose_layout

MIB = 1 << 20


@pytest.mark.parametrize(
    ("shape", "itemsize", "channels", "rows"),
    [
        ((48, 32, 64), 2, 48, 32),  # 5.625°: one chunk, as in version 1
        ((48, 128, 256), 2, 48, 128),  # 1.40625°: one chunk
        ((100, 128, 256), 2, 15, 128),
        ((100, 360, 720), 2, 2, 360),
        ((100, 720, 1440), 2, 1, 360),
        ((100, 721, 1440), 2, 1, 361),
        ((100, 721, 1440), 4, 1, 181),
        ((3, 721, 1440), 2, 1, 721),
        ((1, 3601, 7200), 2, 1, 73),
    ],
)
def test_the_size_of_a_step_decides(shape: tuple[int, int, int], itemsize: int, channels: int, rows: int) -> None:
    layout = choose_layout(shape, itemsize)
    assert (layout.channels, layout.rows) == (channels, rows)
    assert layout.is_whole == (np.prod(shape) * itemsize <= 4 * MIB)
    if not layout.is_whole:
        assert 0.9 * MIB < layout.chunk_cells * itemsize <= 4 * MIB


def test_twelve_of_a_hundred_variables_at_a_quarter_degree_are_at_most_a_fifth() -> None:
    """Whichever they are: no chunk holds two of them in the worst case."""
    layout = choose_layout((100, 721, 1440), 2)
    stored = layout.per_step * layout.chunk_cells
    assert 12 * layout.bands * layout.chunk_cells <= 0.2 * stored


@pytest.mark.parametrize(("channels", "rows"), [(1, 1), (2, 3), (5, 7), (4, 5), (3, 4)])
def test_every_cell_lies_in_one_chunk(channels: int, rows: int) -> None:
    layout = ChunkLayout(shape=(5, 7, 3), channels=channels, rows=rows)
    counts = np.zeros((5, 7), int)
    for number in range(layout.per_step):
        counts[layout.cells_of(number)] += 1
    np.testing.assert_array_equal(counts, 1)


def test_explicit_chunks_are_at_most_the_fields() -> None:
    whole = choose_layout((3, 32, 64), 2, "step")
    assert whole.is_whole
    assert choose_layout((3, 32, 64), 2, "500x500") == whole
    layout = choose_layout((3, 32, 64), 2, "2x180")
    assert (layout.channels, layout.rows, layout.blocks, layout.bands) == (2, 32, 2, 1)


@pytest.mark.parametrize("chunks", ["", "whole", "2", "0x4", "2x0", "-1x4", "2x4x3", "2 x 4", "1e3x4", "2x4\n"])
def test_other_values_are_refused(chunks: str) -> None:
    with pytest.raises(UserError, match=r"^chunks: .* is not auto, step .* or channels x rows .* 1x180$"):
        choose_layout((3, 32, 64), 2, chunks)
