"""Members in inference: alone or together, in any batch, from shards or states, directly and in roll-outs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from climax_hpc.checkpoint.format import Checkpoint, load_checkpoint
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sample
from climax_hpc.errors import UserError
from climax_hpc.inference.forecaster import Forecaster, StateForecaster
from climax_hpc.inference.initial_conditions import ShardClimatology, ShardInitialConditions

from ..synthetic import with_vivid_members

SAMPLES = [Sample(time_index=3, lead_steps=2), Sample(time_index=9, lead_steps=2), Sample(time_index=4, lead_steps=1)]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(dataset: Path) -> PackedSource:
    return DataSet(dataset).select(None)[0]


@pytest.fixture(scope="module")
def noisy(dataset: Path, make_checkpoint: Callable[..., Path]) -> Checkpoint:
    """A checkpoint of `anomaly` mode whose members differ."""
    folder = make_checkpoint(dataset, noise_dim=3)
    return load_checkpoint(with_vivid_members(folder))


def forecaster(checkpoint: Checkpoint, source: PackedSource, *members: int, **options: object) -> Forecaster:
    return Forecaster(checkpoint, source, variables=None, device=CPU, members=members or None, **options)  # type: ignore[arg-type]


def close(found: Tensor, expected: Tensor) -> bool:
    """Rows of one product may be added in another order in another batch."""
    return torch.allclose(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("rollout_hours", [None, 6.0], ids=["direct", "roll-out"])
def test_a_member_does_not_depend_on_its_company(
    noisy: Checkpoint, source: PackedSource, rollout_hours: float | None
) -> None:
    five = forecaster(noisy, source, 0, 1, 2, 3, 4, rollout_hours=rollout_hours)
    y_BMOHW = five.forecast_members(SAMPLES)
    assert y_BMOHW.shape == (3, 5, len(five.variables), *source.grid.shape)
    assert (y_BMOHW.std(1).mean((-2, -1)) > 0.02).all(), "every variable of every sample has spread"
    alone = forecaster(noisy, source, 3, rollout_hours=rollout_hours)
    for b in (2, 0, 1):
        assert close(alone.forecast_members(SAMPLES[b : b + 1])[0, 0], y_BMOHW[b, 3])
    assert torch.equal(five.forecast(SAMPLES), y_BMOHW.mean(1))
    first = forecaster(noisy, source, rollout_hours=rollout_hours)
    assert first.members == (0,)
    assert close(first.forecast(SAMPLES), y_BMOHW[:, 0])
    other = forecaster(noisy, source, 3, rollout_hours=rollout_hours, noise_seed=1)
    assert not close(other.forecast_members(SAMPLES)[:, 0], y_BMOHW[:, 3])


def test_a_roll_out_has_new_noise_in_each_step(noisy: Checkpoint, source: PackedSource) -> None:
    """Its second step is a forecast from the member's first, with the noise of step 1 of that member."""
    rolled = forecaster(noisy, source, 0, 2, rollout_hours=6.0)
    network, batch = rolled._network, rolled._builder.build_batch([SAMPLES[0]])
    hours, lead_B = [float(source.hours[3])], torch.full((1,), source.step_hours)
    first_MOHW = network(batch.x_BVHW, lead_B, network.noise(hours, (0, 2), 0))
    for place, member in enumerate((0, 2)):
        state_BIHW = first_MOHW[
            place : place + 1, [network.outputs.index(v) for v in network.inputs if v in network.outputs]
        ]
        x_BVHW = torch.cat([state_BIHW, batch.x_BVHW[:, state_BIHW.shape[1] :]], dim=1)
        second = network(x_BVHW, lead_B, network.noise(hours, (member,), 1))
        expected = rolled._builder.to_shard_z_scores(second, SAMPLES[:1])
        found = rolled.forecast_members(SAMPLES[:1])[:, place]
        assert close(found, expected)


def states(checkpoint: Checkpoint, source: PackedSource) -> tuple[StateForecaster, np.ndarray, list[float]]:
    held = ShardInitialConditions(source)
    model = StateForecaster(
        checkpoint, held, climatology=ShardClimatology(source), calendar=source.calendar, variables=None, device=CPU
    )
    state_BIHW = np.stack([held.read(s.time_index)[[source.channels.index(v) for v in model.dynamic]] for s in SAMPLES])
    return model, state_BIHW, [float(source.hours[s.time_index]) for s in SAMPLES]


def test_predict_and_evaluate_have_the_same_members(noisy: Checkpoint, source: PackedSource) -> None:
    """In physical units and in z-scores of the shards, directly and in two steps of a roll-out."""
    model, state_BIHW, hours_B = states(noisy, source)
    members = (0, 1, 4)
    packed = forecaster(noisy, source, *members)
    places = [source.channels.index(v) for v in packed.variables]
    mean_O11, std_O11 = (a[places][:, None, None] for a in (source.mean_C, source.std_C))

    def same(found_nOHW: np.ndarray, expected_BMOHW: Tensor) -> bool:
        order = [model.outputs.index(v) for v in packed.variables]
        z_nOHW = torch.from_numpy((found_nOHW[:, order] - mean_O11) / std_O11).float()
        return torch.allclose(z_nOHW.unflatten(0, (-1, len(members))), expected_BMOHW, rtol=0, atol=1e-3)

    lead_B = [s.lead_steps * source.step_hours for s in SAMPLES]
    found_nOHW = model.step(state_BIHW, hours_B, lead_B, members)
    assert found_nOHW.shape[0] == 9
    assert same(found_nOHW, packed.forecast_members(SAMPLES))
    assert np.allclose(model.step(state_BIHW, hours_B, lead_B), found_nOHW[::3], rtol=1e-4, atol=1e-2)

    two = [Sample(time_index=s.time_index, lead_steps=2) for s in SAMPLES]
    rolled = forecaster(noisy, source, *members, rollout_hours=source.step_hours).forecast_members(two)
    step_B = [source.step_hours] * 3
    first_nOHW = model.step(state_BIHW, hours_B, step_B, members)
    into = [model.outputs.index(v) for v in model.dynamic]
    later_B = [hours + source.step_hours for hours in hours_B]
    assert same(model.step(first_nOHW[:, into], later_B, step_B, members, number=1), rolled)


def test_a_deterministic_network_has_one_member(
    dataset: Path, source: PackedSource, make_checkpoint: Callable[..., Path]
) -> None:
    plain = load_checkpoint(make_checkpoint(dataset))
    model = forecaster(plain, source, 0, 1, 2)
    assert model.members == (0,)
    assert torch.equal(model.forecast_members(SAMPLES)[:, 0], model.forecast(SAMPLES))
    of_states, state_BIHW, hours_B = states(plain, source)
    with pytest.raises(UserError, match=r"members: a network without noise has one forecast; ask for one, or train it"):
        of_states.step(state_BIHW, hours_B, [6.0] * 3, (0, 1))
