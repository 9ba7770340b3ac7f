"""Augmentation of a whole micro-batch, bit for bit against one sample at a time."""

import pytest
import torch
from torch import Tensor

from climax_hpc.data.augmentation import Augmentation
from climax_hpc.data.sampler import hash64, uniform

NORTHWARD, OFFSET = torch.tensor([False, True, False]), torch.tensor([0.0, 0.37, 0.1])[:, None, None]


def one_sample(key: int, i: int, roll: bool, flip: bool, fields: list[Tensor], latitude: list[int]) -> list[Tensor]:
    """Input, target, solar and static fields of sample i, as `Augmentation` documents them."""
    shift = int(uniform(key, 1, i) * fields[0].shape[-1]) if roll else 0
    parts = [torch.roll(field, shift, -1) for field in fields]
    if flip and uniform(key, 2, i) < 0.5:
        parts = [part.flip(-2) for part in parts]
        for k in (0, 1):
            parts[k] = torch.where(NORTHWARD[:, None, None], -parts[k] - OFFSET, parts[k])
    parts[3][latitude] = fields[3][latitude]
    return parts


@pytest.mark.parametrize(("roll", "flip"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("latitude_S", [[False, True], [False], []])
@pytest.mark.parametrize("times", [(2,), ()])
def test_all_samples_at_once_have_the_bits_of_each_alone(
    roll: bool, flip: bool, latitude_S: list[bool], times: tuple[int, ...]
) -> None:
    draw = torch.Generator().manual_seed(1)
    x, y = (torch.randn(5, *shape, 3, 4, 7, generator=draw) for shape in ((2,), times))
    x[0, 0, 1, 2, 3] = y[1, ..., 1, 0, 6] = torch.nan
    solar = torch.randn(5, 3, 2 * len(times), 4, 7, generator=draw)  # of three steps; of no variable without times
    static = torch.randn(len(latitude_S), 4, 7, generator=draw).expand(5, -1, -1, -1)
    augment = Augmentation(
        roll=roll, flip=flip, northward_N=torch.tensor([1]), offset_N=OFFSET[1, 0],
        latitude_S=torch.tensor(latitude_S, dtype=torch.bool),
    )  # fmt: skip
    for key in map(hash64, range(8)):
        latitude = [s for s, is_latitude in enumerate(latitude_S) if is_latitude]
        samples = [one_sample(key, i, roll, flip, [x[i], y[i], solar[i], static[i]], latitude) for i in range(5)]
        for found, *expected in zip(augment(key, x, y, solar, static), *samples, strict=True):
            assert found.is_contiguous()
            torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=0, equal_nan=True)
