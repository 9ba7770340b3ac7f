"""An ensemble of the truth: sources that hold the members of a perfect-model ensemble, and the starts that they share.

`climax-hpc simulate` with `members` makes them: every run of a member begins one step after a start of the control, and
starts are further apart than runs are long. So a segment that begins sooner is the rest of a run after a gap.
Dimensions: B starts · T true members · O variables · H, W grid.
"""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from climax_hpc.data.dataset import DataSet
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sample
from climax_hpc.data.segments import Segment
from climax_hpc.errors import UserError
from climax_hpc.evaluation.baselines.base import ChannelReader
from climax_hpc.fields.grid import check_same_cells

KEY = "truth_members"
Start = tuple[float, float]
"""Start [h since 1850-01-01] and lead time [h]."""


class TrueEnsemble:
    """The members at all starts, read as states of the control."""

    def __init__(self, members: Sequence[PackedSource], control: PackedSource, variables: Sequence[str]) -> None:
        """`members`: sources of the same grid and calendar as `control`, which the forecasts start from.

        Raises:
            UserError: a member has another grid, calendar or step, or lacks a variable; or they share no start.
        """
        for member in members:
            _check_like(member, control, variables)
        self._readers = [(member, ChannelReader(member, variables)) for member in members]
        places = [control.channels.index(name) for name in variables]
        self._mean_O = control.mean_C[places]
        self._variables = tuple(variables)
        longest = max(segment.steps * member.step_hours for member in members for segment in member.segments)
        runs = [runs_of(member, longest) for member in members]
        self.left_out = [one for member, (_, rests) in zip(members, runs, strict=True) for one in _words(member, rests)]
        """A source and a time: the segments that are no runs of their own."""
        self.run_hours = longest
        """Length of the longest run."""
        tables = [times_of_starts(member, whole) for member, (whole, _) in zip(members, runs, strict=True)]
        shared = set(tables[0]).intersection(*tables[1:])
        if not shared:
            raise UserError(f"{KEY}: the members share no start; name those of one ensemble")
        self._index: Mapping[Start, tuple[int, ...]] = {key: tuple(table[key] for table in tables) for key in shared}

    def __len__(self) -> int:
        """Number of members."""
        return len(self._readers)

    def has(self, start_hours: float, lead_hours: float) -> bool:
        """True where every member holds this lead time of this start [h since 1850-01-01]."""
        return (start_hours, lead_hours) in self._index

    def fields(self, starts: Sequence[Start]) -> Tensor:
        """The members (B, T, O, H, W) at these starts and lead times, in physical units minus the control's mean."""
        members = []
        for place, (source, reader) in enumerate(self._readers):
            z_BOHW = reader.fields([self._index[start][place] for start in starts]).double()
            channels = [source.channels.index(name) for name in self._variables]
            shift_O = torch.from_numpy(source.mean_C[channels] - self._mean_O)
            std_O = torch.from_numpy(source.std_C[channels])
            members.append(z_BOHW * std_O[:, None, None] + shift_O[:, None, None])
        return torch.stack(members, dim=1)


def runs_of(source: PackedSource, length_hours: float) -> tuple[list[Segment], list[Segment]]:
    """The segments of a member that begin runs of at most this length [h], and the rests of runs after a gap."""
    runs: list[Segment] = []
    rests: list[Segment] = []
    for segment in source.segments:
        is_rest = bool(runs) and source.hours[segment.first] - source.hours[runs[-1].first] < length_hours
        (rests if is_rest else runs).append(segment)
    return runs, rests


def _words(source: PackedSource, segments: Sequence[Segment]) -> list[str]:
    return [f"{source.name} from {source.date(segment.first).isoformat()}" for segment in segments]


def times_of_starts(source: PackedSource, runs: Sequence[Segment]) -> dict[Start, int]:
    """Start and lead time [h] -> time index of a member; a run begins one step after its start."""
    found: dict[Start, int] = {}
    for segment in runs:
        hours = source.hours[segment.first : segment.first + segment.steps]
        start = float(hours[0] - source.step_hours)
        found |= {(start, float(hour - start)): segment.first + place for place, hour in enumerate(hours)}
    return found


def choose_members(dataset: str, names: Sequence[str]) -> list[PackedSource]:
    """The sources of a data set that these names, or patterns with `*`, name; in the order of the data set.

    Raises:
        UserError: one names no source, or fewer than two are found.
    """
    folder = DataSet(dataset)
    every = [source.name for source in folder.select(None)]
    wanted: list[str] = []
    for name in names:
        matching = [one for one in every if fnmatchcase(one, name)]
        if not matching:
            raise UserError(f"{KEY}: no source of {dataset} is {name!r}; it holds {', '.join(every)}")
        wanted += [one for one in matching if one not in wanted]
    if len(wanted) < 2:
        raise UserError(f"{KEY}: {wanted[0]} is one member; a distribution needs 2 or more")
    return folder.select(wanted)


def samples_with_truth(
    pairs: Mapping[float, Sequence[Sample]], source: PackedSource, truth: TrueEnsemble, note: Callable[[str], None]
) -> dict[float, list[Sample]]:
    """Lead time [h] -> those of its forecasts whose start and lead time every member holds.

    Args:
        pairs: lead time -> forecasts.
        source: what they start from.
        truth: the members.
        note: is told of segments that are no runs, and of lead times that the members do not reach: both are left out.

    Raises:
        UserError: no lead time has such a forecast.
    """
    if truth.left_out:
        note(gap_note(truth))
    found = {
        lead: [s for s in samples if truth.has(float(source.hours[s.time_index]), lead)]
        for lead, samples in pairs.items()
    }
    without = ", ".join(f"{lead:g}" for lead, samples in found.items() if not samples)
    if not any(found.values()):
        raise UserError(
            f"{KEY}: no forecast of {without} h starts where the members do; choose other lead_hours, or period and "
            "start_every_hours so that their starts (00 UTC in `simulate`) are among the forecasts"
        )
    if without:
        note(f"{KEY}: the members hold no forecast of {without} h, whose divergence is left out")
    return {lead: samples for lead, samples in found.items() if samples}


def gap_note(truth: TrueEnsemble, most: int = 3) -> str:
    """What is left out because of gaps, the first `most` of it by name, and what to do."""
    more = f" and {len(truth.left_out) - most} more" if len(truth.left_out) > most else ""
    shown = ", ".join(truth.left_out[:most]) + more
    return (
        f"{KEY}: {len(truth.left_out)} segments begin within {truth.run_hours:g} h, the length of a run, after the "
        f"start of another: they are its rest after a gap, and are left out ({shown}); pack the members without "
        "gaps to score them"
    )


def _check_like(member: PackedSource, control: PackedSource, variables: Sequence[str]) -> None:
    check_same_cells(
        member.grid, control.grid, f"{KEY}: {member.name}", f"source {control.name}", "pack both on one grid"
    )
    if (member.step_hours, member.calendar) != (control.step_hours, control.calendar):
        raise UserError(f"{KEY}: {member.name} has another time step or calendar than {control.name}")
    lacking = [name for name in variables if name not in member.channels]
    if lacking:
        raise UserError(f"{KEY}: {member.name} lacks {', '.join(lacking)}; exclude them with variables")
