"""Baselines: what each one forecasts, and that damped persistence beats the others out of sample."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from climax_hpc.data.dataset import DataSet
from climax_hpc.data.normalisation_fit import fit_normalisation
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sample
from climax_hpc.errors import UserError
from climax_hpc.evaluation.accumulators import Accumulator
from climax_hpc.evaluation.baselines import BaselineData, build_baselines
from climax_hpc.evaluation.baselines.base import ForecastModel
from climax_hpc.evaluation.forecast_pairs import forecast_pairs
from climax_hpc.evaluation.scoring import ForecastScoring
from climax_hpc.fields.grid import latitude_weights

Z500, T2M = "geopotential_500", "2m_temperature"
SAMPLES = [Sample(time_index=150, lead_steps=4), Sample(time_index=160, lead_steps=12)]


@pytest.fixture
def source(make_dataset: Callable[..., Path]) -> PackedSource:
    return DataSet(make_dataset(steps_per_year=80)).select(None)[0]


def baselines(
    source: PackedSource, variables: Sequence[str] | None = None, lead_hours: tuple[float, ...] = (6, 24, 72, 120)
) -> dict[str, ForecastModel]:
    chosen = tuple(variables or source.channels)
    return build_baselines(
        BaselineData(source=source, variables=chosen, train_period=("2001", "2003"), lead_hours=lead_hours)
    )


def test_persistence_is_the_state_at_the_start(source: PackedSource) -> None:
    forecast = baselines(source, [Z500, T2M])["persistence"].forecast(SAMPLES)
    assert forecast.dtype == torch.float32
    for got, sample in zip(forecast, SAMPLES, strict=True):
        state = source.read(sample.time_index)
        for field, name in zip(got.numpy(), (Z500, T2M), strict=True):
            np.testing.assert_array_equal(field, state[source.channels.index(name)].astype(np.float32))


def test_climatology_is_that_of_the_valid_time(source: PackedSource) -> None:
    forecast = baselines(source)["climatology"].forecast(SAMPLES)
    np.testing.assert_array_equal(forecast[0], source.read_climatology(154))
    np.testing.assert_array_equal(forecast[1], source.read_climatology(172))


def test_damped_persistence_fades_at_the_fitted_rate(source: PackedSource) -> None:
    samples = [Sample(time_index=250, lead_steps=1), Sample(time_index=260, lead_steps=4)]
    forecast = baselines(source)["damped persistence"].forecast(samples).numpy()
    for got, sample in zip(forecast, samples, strict=True):
        anomaly = source.read(sample.time_index).astype(np.float32) - source.read_climatology(sample.time_index)
        left = got - source.read_climatology(sample.time_index + sample.lead_steps)
        share = (left * anomaly).sum() / (anomaly**2).sum()
        # phi = 0.9 each step; a climatology of 3 × 80 correlated steps contains some of the anomaly.
        assert share == pytest.approx(0.9**sample.lead_steps, abs=0.08)


def test_damped_persistence_takes_a_missing_anomaly_as_none(make_dataset: Callable[..., Path]) -> None:
    missing = np.zeros((8, 16), bool)
    missing[2, 3:6] = True
    source = DataSet(make_dataset(missing={T2M: missing})).select(None)[0]
    models = baselines(source, [T2M])
    assert models["persistence"].forecast(SAMPLES)[0, 0].isnan().sum() == 3
    assert models["damped persistence"].forecast(SAMPLES)[0, 0].isnan().sum() == 3  # where climatology is missing too


def test_leads_beyond_the_training_period_are_refused(source: PackedSource) -> None:
    with pytest.raises(UserError, match=r"train_period: .* at 480 h .* on 2001 … 2003: .* allows 474 h; widen train_"):
        baselines(source, [Z500], (6, 480))
    longest = baselines(source, [Z500], (6, 474))
    assert longest["damped persistence"].forecast([Sample(time_index=0, lead_steps=79)]).isfinite().all()


def test_a_training_period_without_any_pair_of_times_is_refused(source: PackedSource) -> None:
    with pytest.raises(UserError, match=r"has no two values 24 h or more apart .*widen data.period .*train_period"):
        fit_normalisation(
            [source], mode="anomaly", period=("2001-01-01", "2001-01-01"), min_lead_hours=24, max_lead_hours=72
        )


def test_damped_persistence_beats_both_others_out_of_sample(make_dataset: Callable[..., Path]) -> None:
    source = DataSet(make_dataset(steps_per_year=120)).select(None)[0]
    spans = source.within(("2004", "2004"))
    leads = (24.0, 72.0)
    scoring = ForecastScoring(
        source=source,
        variables=tuple(source.channels),
        models={},
        baselines=baselines(source, lead_hours=leads),
        weight_H=latitude_weights(source.grid),
        packed_period="2001 … 2003",
    )
    rmse: dict[tuple[str, str, float], float] = {}

    def on_lead(lead: float, _: Sequence[Sample], sums: Mapping[str, Accumulator]) -> None:
        for label, one in sums.items():
            rmse.update({(label, name, lead): values["rmse"] or 0.0 for name, values in one.globe.scores().items()})

    pairs = {lead: forecast_pairs(source, spans, lead, "lead_hours") for lead in leads}
    scoring.score(pairs, on_lead, batch_size=32)
    for name in source.channels:
        for lead in leads:
            damped, persistence, climatology = (
                rmse[label, name, lead] for label in ("damped persistence", "persistence", "climatology")
            )
            assert 0 < damped < min(persistence, climatology)
        # The theory of an AR(1) process: RMSE² of persistence is 2(1 - r), of damped persistence 1 - r².
        r = 0.9**4
        ratio = rmse["damped persistence", name, 24.0] / rmse["persistence", name, 24.0]
        assert ratio == pytest.approx(np.sqrt((1 - r**2) / (2 * (1 - r))), abs=0.03)
