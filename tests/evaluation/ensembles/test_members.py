"""Ensembles to compare with: what their members are, and that ranks, batches and numbers of members change nothing."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.config.ensembles import EnsembleScoresConfig
from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sample
from climax_hpc.errors import UserError
from climax_hpc.evaluation.baselines.base import ChannelReader
from climax_hpc.evaluation.ensembles.base import draw
from climax_hpc.evaluation.ensembles.build import EnsembleData
from climax_hpc.evaluation.ensembles.calendar_pool import CalendarPool, times_of
from climax_hpc.evaluation.ensembles.checkpoints import CheckpointEnsemble
from climax_hpc.evaluation.ensembles.climatological import ClimatologicalEnsemble
from climax_hpc.evaluation.ensembles.dressed import DressedForecast
from climax_hpc.evaluation.ensembles.perturbed import PerturbedForecast
from climax_hpc.evaluation.ensembles.thresholds import BIN_DAYS, MOST_STATES, ClimatologyPercentiles, percentiles_of
from climax_hpc.evaluation.evaluate import ForecastEvaluation
from climax_hpc.fields.averaging_window import WindowSteps
from climax_hpc.inference.forecaster import Forecaster

from ...synthetic import with_vivid_members

NAMES = ("geopotential_500", "2m_temperature")
TRAIN = ("2001", "2003")
SAMPLES = [Sample(time_index=150, lead_steps=4), Sample(time_index=161, lead_steps=4)]


def pool_of(source: PackedSource, days: float) -> CalendarPool:
    return CalendarPool(source, times_of(source, TRAIN), days)


def climatological(source: PackedSource, members: int, seed: int = 0) -> ClimatologicalEnsemble:
    return ClimatologicalEnsemble(
        ChannelReader(source, NAMES), NAMES, pool_of(source, 2), source, members=members, seed=seed, window_days=2
    )


class Constant:
    """Forecasts the state at the start plus a number."""

    inputs = NAMES
    variables = NAMES

    def __init__(self, source: PackedSource, offset: float = 0.0) -> None:
        self._reader, self.offset = ChannelReader(source, NAMES), offset

    def input_fields(self, samples: Sequence[Sample]) -> Tensor:
        return self._reader.fields([s.time_index for s in samples])

    def forecast(self, samples: Sequence[Sample], perturbation_BVHW: Tensor | None = None) -> Tensor:
        found = self.input_fields(samples) + self.offset
        return found if perturbation_BVHW is None else found + perturbation_BVHW


def test_draws_are_different_ones_keyed_by_seed_and_time() -> None:
    whole = draw(3, 1000, 20, 20)
    assert sorted(whole) == list(range(20))
    np.testing.assert_array_equal(draw(3, 1000, 20, 5), whole[:5])
    assert not np.array_equal(draw(4, 1000, 20, 20), whole)
    assert not np.array_equal(draw(3, 1060, 20, 20), whole)
    assert len(draw(3, 1000, 4, 9)) == 4


@pytest.mark.parametrize("calendar", ["noleap", "proleptic_gregorian"])
def test_times_near_a_calendar_day(make_dataset: Callable[..., Path], calendar: str) -> None:
    source = DataSet(make_dataset(calendar=calendar)).select(None)[0]
    pool = CalendarPool(source, np.arange(source.steps), 2)
    near = pool.near(49)  # the second step of 2002: 1 January, 6 h
    assert 49 not in near
    dates = [source.date(int(t)) for t in near]
    assert {d.hour for d in dates} == {6}
    assert {d.dayofyr for d in dates} == {1, 2, 3}
    assert {d.year for d in dates} == {2001, 2002, 2003, 2004}
    assert len(pool.nearest(49, len(near))) == len(near)
    assert len(pool.nearest(49, len(near) + 1)) > len(near)


def test_climatological_members_are_states_of_other_years(source: PackedSource) -> None:
    found = climatological(source, 5).forecast_members(SAMPLES)
    assert found.shape == (2, 5, 2, 8, 16)
    states = ChannelReader(source, NAMES).fields(times_of(source, TRAIN).tolist())
    for members, sample in zip(found, SAMPLES, strict=True):
        valid = source.date(sample.time_index + sample.lead_steps)
        for member in members:
            place = int((states - member).abs().sum(dim=(1, 2, 3)).argmin())
            torch.testing.assert_close(states[place], member)
            date = source.date(place)
            assert date.year < 2004
            assert date.hour == valid.hour
            assert abs(date.dayofyr - valid.dayofyr) <= 2
        assert len({float(member.sum()) for member in members}) == 5


def test_company_of_samples_and_members_changes_nothing(source: PackedSource) -> None:
    many, few = climatological(source, 6), climatological(source, 3)
    together = many.forecast_members(SAMPLES)
    alone = torch.cat([few.forecast_members([sample]) for sample in SAMPLES])
    torch.testing.assert_close(together[:, :3], alone, rtol=0, atol=0)
    longer = Sample(time_index=SAMPLES[0].time_index - 2, lead_steps=6)  # the same valid time
    torch.testing.assert_close(many.forecast_members([longer]), together[:1], rtol=0, atol=0)
    other_seed = climatological(source, 6, seed=1).forecast_members(SAMPLES)
    assert not torch.equal(other_seed, together)
    torch.testing.assert_close(many.forecast(SAMPLES), together.double().mean(dim=1))


def test_too_few_states_are_refused(source: PackedSource) -> None:
    with pytest.raises(UserError, match=r"ensemble of 40 members has only \d+ times of train_period near 2004-01-"):
        climatological(source, 40).check(SAMPLES)
    climatological(source, 6).check(SAMPLES)


def dressed(model: Constant, source: PackedSource, members: int) -> DressedForecast:
    past = {lead: [Sample(time_index=t, lead_steps=lead) for t in range(0, 40, 2)] for lead in (2, 4)}
    return DressedForecast(
        model, ChannelReader(source, NAMES), past, source, members=members, seed=0, label="it", period="2001"
    )


def test_dressed_members_differ_from_the_forecast_by_past_errors(source: PackedSource) -> None:
    model = Constant(source)
    found = dressed(model, source, 4).forecast_members(SAMPLES)
    reader = ChannelReader(source, NAMES)
    errors = reader.fields(range(0, 40, 2)) - reader.fields(range(4, 44, 2))
    for members, forecast in zip(found, model.forecast(SAMPLES), strict=True):
        for member in members:
            apart = (errors - (forecast - member)).abs().amax(dim=(1, 2, 3))
            assert apart.min() < 1e-5
    few = dressed(model, source, 2)
    torch.testing.assert_close(few.forecast_members(SAMPLES[1:])[0], found[1, :2], rtol=0, atol=0)
    other_lead = [Sample(time_index=150, lead_steps=2)]
    assert not torch.equal(few.forecast_members(other_lead)[0], few.forecast_members(SAMPLES[:1])[0])


def test_dressing_removes_the_bias(source: PackedSource) -> None:
    """A forecast with an offset, dressed, has the members of the one without."""
    plain, biased = (dressed(Constant(source, offset), source, 4).forecast_members(SAMPLES) for offset in (0.0, 5.0))
    torch.testing.assert_close(biased, plain, rtol=0, atol=1e-5)


def perturbed(source: PackedSource, members: int, scale: float = 0.2) -> PerturbedForecast:
    return PerturbedForecast(
        Constant(source), pool_of(source, 3), source, members=members, seed=0, scale=scale, lead_steps=4, label="it"
    )


def test_perturbed_starts_come_in_pairs_of_the_asked_size(source: PackedSource) -> None:
    found, start = perturbed(source, 5).forecast_members(SAMPLES), Constant(source).forecast(SAMPLES)
    away = found - start[:, None]
    torch.testing.assert_close(away[:, 0], -away[:, 1], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, 4], start)
    assert not torch.allclose(away[:, 0], away[:, 2])
    assert not torch.allclose(away[0, 0], away[1, 0])
    doubled = perturbed(source, 5, 0.4).forecast_members(SAMPLES) - start[:, None]
    torch.testing.assert_close(doubled, 2 * away, atol=1e-5, rtol=0)
    # States differ by √2 of their anomalies' spread, which is about 0.2 of that of the fields here.
    assert 0.1 < float(away[:, :4].std() / 0.2 / start.std()) < 1.5
    torch.testing.assert_close(perturbed(source, 2).forecast_members(SAMPLES[1:]), found[1:, :2], rtol=0, atol=0)


def test_static_inputs_are_not_perturbed(
    source: PackedSource, dataset: Path, make_checkpoint: Callable[..., Path]
) -> None:
    model = Forecaster.load(make_checkpoint(dataset), source)
    ensemble = PerturbedForecast(
        model, pool_of(source, 3), source, members=2, seed=0, scale=0.2, lead_steps=4, label="it"
    )
    change = ensemble._perturbation(SAMPLES, 0)
    static = [model.inputs.index(name) for name in ("orography", "latitude")]
    assert (change[:, static] == 0).all()
    assert (change[:, 0] != 0).any()
    members = ensemble.forecast_members(SAMPLES)
    assert not torch.allclose(members[:, 0], members[:, 1])
    with pytest.raises(UserError, match=r"80 perturbed starts need 80 states of train_period near 2004-01-"):
        PerturbedForecast(
            model, pool_of(source, 3), source, members=80, seed=0, scale=0.2, lead_steps=4, label="it"
        ).check(SAMPLES)


def test_checkpoints_are_members_of_what_they_have_in_common(source: PackedSource) -> None:
    some, other = Constant(source), Constant(source, 1.0)
    other.variables = NAMES[::-1]
    found = CheckpointEnsemble({"a": some, "b": other}, "both").forecast_members(SAMPLES)
    expected = some.forecast(SAMPLES)
    torch.testing.assert_close(found[:, 0], expected)
    torch.testing.assert_close(found[:, 1], (expected + 1).flip(1))
    other.variables = ("2m_dewpoint",)
    with pytest.raises(UserError, match=r"ensembles.checkpoints.both: the checkpoints have no variable in common"):
        CheckpointEnsemble({"a": some, "b": other}, "both")


def test_two_checkpoints_never_have_the_same_noise(
    dataset: Path, make_evaluation: Callable[..., EvaluateConfig], make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Of copies of one network all members differ, and the first has those that it has alone."""
    noisy = with_vivid_members(make_checkpoint(dataset, noise_dim=3))
    copied = shutil.copytree(noisy, tmp_path / "copy")
    alone = replace(make_evaluation(dataset), models={"noisy": str(noisy)}, members=2)
    both = EnsembleScoresConfig(checkpoints={"both": [str(noisy), str(copied)]})
    evaluation = ForecastEvaluation(replace(alone, ensembles=both, members=2), {"noisy": load_checkpoint(str(noisy))})
    found = evaluation._scoring.with_members
    members_BMOHW, own_BMOHW = (found[label].forecast_members(SAMPLES[:1]) for label in ("both", "noisy"))
    assert torch.equal(members_BMOHW[:, :2], own_BMOHW)
    assert len(torch.unique(members_BMOHW[0].flatten(1), dim=0)) == 4


def test_checkpoints_with_noise_have_all_their_members(source: PackedSource) -> None:
    class Noisy(Constant):
        members = (0, 1, 2)

        def forecast_members(self, samples: Sequence[Sample]) -> Tensor:
            return torch.stack([self.forecast(samples) + member for member in self.members], dim=1)

    ensemble = CheckpointEnsemble({"a": Noisy(source), "b": Constant(source)}, "both")
    found, middle = ensemble.forecast_members(SAMPLES), Constant(source).forecast(SAMPLES)
    assert ensemble.members == found.shape[1] == 4
    assert ensemble.description.startswith("4 members of 2 checkpoints")
    for member, offset in enumerate((0, 1, 2, 0)):
        torch.testing.assert_close(found[:, member], middle + offset)


@pytest.mark.parametrize(("window", "tail"), [(None, 0), (WindowSteps(steps=3, stride=1), 2)])
def test_no_mean_of_the_training_period_reaches_into_the_test_period(
    source: PackedSource, window: WindowSteps | None, tail: int
) -> None:
    period = ("2002-01-05", "2002-01-06")
    config = EvaluateConfig(
        run_folder="e", models={"a": "b"}, dataset="d", source=source.name, period=period, train_period=TRAIN
    )
    data = EnsembleData(
        config=config, source=source, variables=NAMES, models={}, baselines={}, samples=SAMPLES, window=window
    )
    tested = {span.first + step for span in source.within(period) for step in range(span.steps)}
    times = data.training_times("it")
    read = {int(time) + offset for time in times for offset in range(tail + 1)}
    assert tested
    assert not read & tested
    assert min(tested) - tail - 1 in times
    assert max(tested) + 1 in times


def test_percentiles_leave_missing_values_out() -> None:
    random = np.random.default_rng(0)
    fields = random.standard_normal((9, 2, 3, 4)).astype(np.float32)
    fields[2:5, 0, 1, 1], fields[:, 1, 0, 0] = np.nan, np.nan
    found = percentiles_of(fields, (5, 50, 95))
    assert np.isnan(found[:, 1, 0, 0]).all()
    assert np.isnan(found).sum() == 3
    np.testing.assert_allclose(found[1, 0, 0, 0], np.median(fields[:, 0, 0, 0]), rtol=1e-6)
    np.testing.assert_allclose(found[0, 0, 1, 1], np.nanpercentile(fields[:, 0, 1, 1], 5), rtol=1e-6)


def test_thresholds_are_percentiles_of_states_of_the_training_period(source: PackedSource) -> None:
    reader, pool = ChannelReader(source, NAMES), pool_of(source, 2)
    thresholds = ClimatologyPercentiles(reader, pool, (10.0, 90.0))
    found = thresholds.of(SAMPLES)
    assert found.shape == (2, 2, 2, 8, 16)
    date = source.date(154)
    middle = (date.dayofyr - 1) // BIN_DAYS * BIN_DAYS + BIN_DAYS // 2 + 1
    times = [t for t in range(144) if source.date(t).hour == date.hour and abs(source.date(t).dayofyr - middle) <= 2]
    assert len(times) < MOST_STATES
    states = np.stack([source.read(t)[[source.channels.index(n) for n in NAMES]] for t in times]).astype(np.float32)
    np.testing.assert_allclose(found[:, 0], np.percentile(states, (10, 90), axis=0), rtol=1e-5, atol=1e-6)
    thresholds.check(SAMPLES)
    empty = CalendarPool(source, [3, 7], 2)
    with pytest.raises(UserError, match=r"ensembles.percentiles: train_period has no two times near day \d+ of the ye"):
        ClimatologyPercentiles(reader, empty, (10.0,)).check(SAMPLES)
