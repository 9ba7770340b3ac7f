"""A checkpoint forecasts with what it was trained on, whatever else a source holds."""

from collections.abc import Callable
from pathlib import Path

import torch

from climax_hpc.data.dataset import DataSet
from climax_hpc.data.sampler import Sample
from climax_hpc.inference.forecaster import Forecaster

TRAINED = ("geopotential_500", "2m_temperature")
KNOWN = (*TRAINED, "mean_sea_level_pressure", "orography", "latitude")
SAMPLES = [Sample(time_index=0, lead_steps=4)]


def test_channels_never_trained_are_neither_fed_nor_forecast(
    make_dataset: Callable[..., Path], make_checkpoint: Callable[..., Path]
) -> None:
    narrow = make_dataset(channels=TRAINED, seed=1)
    wide = make_dataset(channels=(*TRAINED, "mean_sea_level_pressure"), seed=1)
    # The model has parameters for sea level pressure, but its checkpoint has never seen any.
    checkpoint = make_checkpoint(narrow, variables=KNOWN)
    forecasters = {
        folder: Forecaster.load(checkpoint, DataSet(folder).select(None)[0], device=torch.device("cpu"))
        for folder in (narrow, wide)
    }
    assert {frozenset(f.variables) for f in forecasters.values()} == {frozenset(TRAINED)}
    assert forecasters[wide].inputs == forecasters[narrow].inputs
    assert torch.isfinite(forecasters[wide].forecast(SAMPLES)).all()


def test_static_field_never_trained_is_not_fed(
    make_dataset: Callable[..., Path], make_checkpoint: Callable[..., Path]
) -> None:
    dataset = make_dataset(channels=TRAINED)
    checkpoint = make_checkpoint(dataset, variables=(*TRAINED, "latitude"))
    forecaster = Forecaster.load(checkpoint, DataSet(dataset).select(None)[0])
    assert sorted(forecaster.inputs) == sorted((*TRAINED, "latitude"))
