"""Training reads from a local disk of the node, which holds the chunks that its ranks read and no others."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from climax_hpc.config.training import DataConfig, PretrainConfig, TrainConfig
from climax_hpc.data.batches import Batch
from climax_hpc.data.prefetch import read_now
from climax_hpc.data_prep.config import RepackConfig
from climax_hpc.data_prep.repack import repack
from climax_hpc.distributed import process_group
from climax_hpc.errors import UserError
from climax_hpc.model.band import RowBand
from climax_hpc.model.config import ModelConfig
from climax_hpc.training.task import TrainingTask

CHANNELS = ("2m_temperature", "geopotential_500", "temperature_500", "v_component_of_wind_850")
SIZES: dict[str, Any] = {"height": 8, "width": 16, "patch": 1, "embed_dim": 8, "depth": 1, "heads": 4}
USED = ("2m_temperature", "v_component_of_wind_850", "latitude")


@pytest.fixture(scope="module")
def dataset(make_dataset: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every channel has chunks of its own, of two of the eight rows."""
    folder, output = make_dataset(channels=CHANNELS, years=1), tmp_path_factory.mktemp("banded") / "data"
    return repack(RepackConfig(dataset=str(folder), output=str(output), chunks="1x2")).parent


def of_rank(dataset: Path, band: RowBand | None, **data: Any) -> tuple[Batch, Any]:
    """The first batch of a rank, and what it was read from."""
    config = PretrainConfig(
        data=DataConfig(dataset=str(dataset), in_variables=USED, micro_batch_size=2, micro_batches_per_step=2, **data),
        model=ModelConfig(variables=(*CHANNELS, "latitude"), **SIZES),
        train=TrainConfig(steps=1),
        run_folder=str(dataset.parent / "run"),
    )
    task = TrainingTask(config)
    task.band = band
    training = task.prepare_data(None)
    (builder,) = training.builders.values()
    micro_batch = training.sampler.micro_batches(0)[0]
    spec: Any = builder.spec.of(micro_batch)
    raw = read_now(spec, micro_batch.samples, torch.device("cpu"))
    return builder.assemble(micro_batch, raw), spec.source


@pytest.mark.parametrize(("random_flip", "stop"), [(False, 4), (True, 8)])
def test_the_chunks_of_the_bands_of_the_node_are_staged(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_flip: bool, stop: int
) -> None:
    """The first two of four bands, of two ranks; their mirror images are those of the other two."""
    monkeypatch.setattr(process_group, "gathered", lambda own: [own, (own[0], 0), ("another node", 3)])
    band = RowBand(place=1, size=4, group="none")
    expected, _ = of_rank(dataset, band, random_flip=random_flip)
    batch, source = of_rank(dataset, band, random_flip=random_flip, stage_to=str(tmp_path / "stage"))
    assert torch.equal(batch.x_BVHW, expected.x_BVHW)
    assert torch.equal(batch.y_BOHW, expected.y_BOHW)
    there = source.part_of(USED[:2], (0, stop))
    assert source.read(3, there).shape == (2, stop, 16)
    others = source.part_of(CHANNELS[1:3], (0, stop))
    for absent in (others, *([] if stop == 8 else [replace(there, rows=(4, 6))])):
        with pytest.raises(UserError, match="does not match its checksum"):
            source.read(3, absent)


def test_every_chunk_of_the_variables_is_staged_without_bands(dataset: Path, tmp_path: Path) -> None:
    expected, _ = of_rank(dataset, None)
    batch, source = of_rank(dataset, None, stage_to=str(tmp_path / "stage"))
    assert torch.equal(batch.x_BVHW, expected.x_BVHW)
    assert source.read(3, source.part_of(USED[:2])).shape == (2, 8, 16)
    with pytest.raises(UserError, match="does not match its checksum"):
        source.read(3)
