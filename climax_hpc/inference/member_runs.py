"""Runs the members of an ensemble, directly or by roll-out, in an order that holds few forecasts at a time.

Dimensions: B states · M members · R rows of a batch, the members of a state one after the other · C channels of the
input · I dynamic inputs of a model · O outputs · H, W grid.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import NamedTuple

import torch
from torch import Tensor

from climax_hpc.inference.forecaster import StateForecaster
from climax_hpc.inference.initial_conditions import Array
from climax_hpc.model.rollout import roll_out


class MemberForecast(NamedTuple):
    """One forecast, by its place in the batch of states, the index of its lead time and its number in the ensemble."""

    state: int
    lead: int
    member: int
    fields_OHW: Array


@dataclass(frozen=True, kw_only=True)
class ModelMembers:
    """One model, and the members of the ensemble that it makes."""

    forecaster: StateForecaster
    places: tuple[int, ...]
    """Those of its outputs that are wanted."""
    first: int
    """Number of its first member in the ensemble."""
    noise: tuple[int, ...] | None
    """Numbers of the noise vectors of its members; None for a network without noise, which makes one member."""

    @property
    def size(self) -> int:
        """Number of its members."""
        return 1 if self.noise is None else len(self.noise)

    def parts(self, batch: int) -> "list[ModelMembers]":
        """The same members in parts of at most `batch`."""
        if self.noise is None:
            return [self]
        return [
            ModelMembers(
                forecaster=self.forecaster,
                places=self.places,
                first=self.first + start,
                noise=self.noise[start : start + batch],
            )
            for start in range(0, len(self.noise), batch)
        ]

    def dynamic(self, states_BCHW: Array, channels: Sequence[str]) -> Array:
        """The dynamic inputs (B, I, H, W) of the model."""
        return states_BCHW[:, [list(channels).index(v) for v in self.forecaster.dynamic]]

    def step(
        self, state_RIHW: Array, hours_B: Sequence[float], lead_hours_B: Sequence[float], *, number: int = 0
    ) -> Array:
        """Forecasts (R, O, H, W) of every member; `number`: of the step in a roll-out.

        The states are one (B, I, H, W) for all members of a forecast, or one (R, I, H, W) for each.
        """
        if self.noise is None:
            return self.forecaster.step(state_RIHW, hours_B, lead_hours_B)
        return self.forecaster.step(state_RIHW, hours_B, lead_hours_B, members=self.noise, number=number)


def direct(
    models: Sequence[ModelMembers],
    states_BCHW: Array,
    channels: Sequence[str],
    hours_B: Sequence[float],
    leads: Sequence[float],
    batch: int,
) -> Iterator[MemberForecast]:
    """One forward pass per lead time; all members of a state and lead time come before those of later ones."""
    pairs = [(b, k) for b in range(len(hours_B)) for k in range(len(leads))]
    at_once = max(1, batch // max(model.size for model in models))
    for first in range(0, len(pairs), at_once):
        some = pairs[first : first + at_once]
        for model in (part for whole in models for part in whole.parts(batch)):
            x_BIHW = model.dynamic(states_BCHW, channels)[[b for b, _ in some]]
            y_ROHW = model.step(x_BIHW, [hours_B[b] for b, _ in some], [leads[k] for _, k in some])
            for row, fields_OHW in enumerate(y_ROHW[:, model.places]):
                (b, k), member = some[row // model.size], row % model.size
                yield MemberForecast(b, k, model.first + member, fields_OHW)


def rolled_out(
    models: Sequence[ModelMembers],
    states_BCHW: Array,
    channels: Sequence[str],
    hours_B: Sequence[float],
    leads: Sequence[float],
    batch: int,
    *,
    step_hours: float,
    together: bool,
) -> Iterator[MemberForecast]:
    """Every member continues from its own forecast. `together`: all reach a lead time before any continues."""
    runs = [
        _run(model, model.dynamic(states_BCHW, channels), hours_B, leads, step_hours)
        for whole in models
        for model in whole.parts(batch)
    ]
    steps = chain.from_iterable(zip(*runs, strict=True)) if together else chain.from_iterable(runs)
    for forecasts in steps:
        yield from forecasts


def _run(
    model: ModelMembers, state_BIHW: Array, hours_B: Sequence[float], leads: Sequence[float], step_hours: float
) -> Iterator[list[MemberForecast]]:
    """The roll-out of one model; the forecasts of each step, none where its time is no lead time."""
    wanted = {round(lead / step_hours): k for k, lead in enumerate(leads)}
    numbers = count()

    def one_step(x_RIHW: Tensor) -> Tensor:
        number = next(numbers)
        now_B = [hours + number * step_hours for hours in hours_B]
        return torch.from_numpy(model.step(x_RIHW.numpy(), now_B, [step_hours] * len(now_B), number=number))

    start_BIHW, (inputs, outputs) = torch.from_numpy(state_BIHW), (model.forecaster.dynamic, model.forecaster.outputs)
    for number, y_ROHW in enumerate(roll_out(one_step, start_BIHW, inputs, outputs, max(wanted)), start=1):
        if number not in wanted:
            yield []
            continue
        yield [
            MemberForecast(row // model.size, wanted[number], model.first + row % model.size, fields_OHW)
            for row, fields_OHW in enumerate(y_ROHW[:, model.places].numpy())
        ]
