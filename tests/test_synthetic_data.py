"""The data sets of the other tests: readable, valid, with the predictability that they are made with."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from climax_hpc.data.dataset import DataSet
from climax_hpc.data.normalisation_fit import fit_normalisation
from climax_hpc.inference.forecaster import Forecaster

from .synthetic import SyntheticSource, write_dataset


def test_every_step_and_climatology_entry_reads_back(make_dataset: Callable[..., Path]) -> None:
    source = DataSet(make_dataset()).select(["JCM-C"])[0]
    assert [s.steps for s in source.segments] == [48] * 4
    z_TCHW = np.stack([source.read(t).astype(np.float64) for t in range(len(source.hours))])
    assert np.abs(z_TCHW[:144].mean(axis=(0, 2, 3))).max() < 1e-3
    assert np.abs(z_TCHW[:144].std(axis=(0, 2, 3)) - 1).max() < 1e-3
    assert np.isfinite(source.read_climatology(190)).all()
    assert set(source.static) == {"latitude", "land_sea_mask", "orography"}


def test_same_seed_same_bytes(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    again = write_dataset(tmp_path, {"JCM-C_synthetic_r1i1p1f1": SyntheticSource()}, seed=3)
    assert DataSet(make_dataset(seed=3)).manifest_sha256 == DataSet(again).manifest_sha256
    assert DataSet(make_dataset(seed=3)).manifest_sha256 != DataSet(make_dataset(seed=4)).manifest_sha256


def test_every_call_gives_a_data_set_of_its_own(make_dataset: Callable[..., Path]) -> None:
    one, other = make_dataset(seed=3), make_dataset(seed=3)
    (one / "manifest.json").write_text("changed")
    assert DataSet(other).manifest_sha256 == DataSet(make_dataset(seed=3)).manifest_sha256


def test_damping_is_that_of_the_process(make_dataset: Callable[..., Path]) -> None:
    source = DataSet(make_dataset(steps_per_year=120, phi=0.9)).select(None)
    norm = fit_normalisation(source, mode="anomaly", period=("2001", "2003"), min_lead_hours=6, max_lead_hours=24)
    for r_L in norm.r.values():
        assert r_L == pytest.approx([0.9, 0.81, 0.729, 0.6561], abs=0.06)


@pytest.mark.parametrize("mode", ["anomaly", "full"])
def test_checkpoint_loads_and_forecasts(
    make_dataset: Callable[..., Path], make_checkpoint: Callable[..., Path], mode: str
) -> None:
    folder = make_dataset()
    source = DataSet(folder).select(None)[0]
    forecaster = Forecaster.load(make_checkpoint(folder, mode=mode), source)
    assert set(forecaster.variables) == set(source.channels)
