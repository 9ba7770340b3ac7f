"""Checks that the variables of a source can be combined (one table, calendar and phase), and their common steps."""

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.sources.catalog import CatalogEntry
from climax_hpc.data_prep.sources.intervals import is_instantaneous, is_mean
from climax_hpc.data_prep.sources.read_file import InputFile
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import GREGORIAN_REFORM, STEP_HOURS, iso, step_index, to_dates

Index = NDArray[np.int64]


def refuse_two_kinds(name: str, files: list[tuple[CatalogEntry, InputFile]], config: PackConfig) -> None:
    """Refuse one variable from two tables or grids, and time means mixed with instantaneous fields.

    Raises:
        UserError: the message names both.
    """
    for variable_id in sorted({e.variable_id for e, _ in files}):
        kinds = {e.data_set: e.file for e, _ in files if e.variable_id == variable_id}
        if len(kinds) > 1:
            listed = " and ".join(f"{kind} ({file})" for kind, file in sorted(kinds.items()))
            raise UserError(
                f"{name}: {variable_id} comes from {listed}, expected one table or branding_suffix: select it with "
                "`tables`, or leave only one grid in the input folder"
            )
    point = [f.file for _, f in files if is_instantaneous(f.cell_methods)]
    mean = [f.file for _, f in files if is_mean(f.cell_methods)]
    if point and mean and not config.allow_mixed_cell_methods:
        raise UserError(
            f"{name}: mixes instantaneous fields ({point[0]}) and time means ({mean[0]}); select one kind with "
            "`tables` or `variables`, or set allow_mixed_cell_methods: true"
        )


def one_calendar(name: str, files: list[InputFile]) -> str:
    """The calendar of all files.

    Raises:
        UserError: the files have several calendars.
    """
    by_calendar = {f.calendar: f.file for f in files}
    same_days = min(f.seconds[0] for f in files) >= GREGORIAN_REFORM
    if same_days and set(by_calendar) <= {"standard", "proleptic_gregorian"}:
        return "standard"
    if len(by_calendar) > 1:
        listed = ", ".join(f"{calendar} in {file}" for calendar, file in sorted(by_calendar.items()))
        raise UserError(f"{name}: mixes calendars ({listed}); remove the files of one of them from the input")
    return next(iter(by_calendar))


def in_time_order(files: list[InputFile], frequency: str) -> list[InputFile]:
    """Files of one variable by first time; each file and all together strictly increasing.

    Raises:
        UserError: time stamps repeat or run backwards; the message names the file and the stamp.
    """
    files = sorted(files, key=lambda f: (f.seconds[0], f.file))
    last, before = None, files[0]
    for f in files:
        index = step_index(f.seconds, f.calendar, frequency)
        backward = np.flatnonzero(np.diff(index) <= 0)
        if len(backward):
            i = int(backward[0]) + 1
            kind = "repeats" if index[i] == index[i - 1] else "runs backwards"
            raise UserError(
                f"{f.file}: its time axis {kind} at step {i} ({iso(f.seconds[i], f.calendar)}); "
                "sort it, remove the repeated step (`cdo mergetime`), or download it again"
            )
        if last is not None and index[0] <= last:
            both = ("", "") if f.name == before.name else (f"{f.name} ", f"{before.name} of ")
            raise UserError(
                f"{f.file}: {both[0]}overlaps {both[1]}{before.file} in time (both contain "
                f"{iso(f.seconds[0], f.calendar)}); remove one"
            )
        last, before = index[-1], f
    return files


def refuse_phases(name: str, by_variable: dict[str, list[InputFile]], step_hours: float, config: PackConfig) -> None:
    """Refuse variables whose time stamps differ in phase, such as 00, 06, … UTC and 03, 09, … UTC.

    Raises:
        UserError: the message names a file of each.
    """
    if step_hours in (0, 24) or config.allow_mixed_cell_methods:
        return
    step = round(3600 * step_hours)
    seen: dict[int, str] = {}
    for f in (f for files in by_variable.values() for f in files):
        for phase in np.unique(f.seconds % step):
            seen.setdefault(int(phase), f.file)
    if len(seen) > 1:
        listed = " and ".join(f"{phase / 3600:g} h in {file}" for phase, file in sorted(seen.items())[:2])
        raise UserError(
            f"{name}: time stamps are shifted against each other (offsets of {listed}, step {step_hours:g} h); "
            "select variables of one table (`tables`), or correct the time axis"
        )


def refuse_unknown_intervals(name: str, by_variable: dict[str, list[InputFile]], frequency: str) -> None:
    """Refuse means stamped at the edges of steps that begin and end one step apart from another variable.

    Such stamps come from files without bounds, and are the start or the end of each interval. Equal periods show that
    it is the start; periods shifted by one step, that one of the variables is stamped at the end.

    Raises:
        UserError: the message names a file of each.
    """
    covered = {
        v: np.array([step_index(files[i].seconds, files[i].calendar, frequency)[i] for i in (0, -1)])
        for v, files in by_variable.items()
    }
    for v, files in by_variable.items():
        if not all(_at_edges(f, frequency) for f in files):
            continue
        for other, steps in covered.items():
            if tuple(covered[v] - steps) in ((1, 1), (-1, -1)):
                raise UserError(
                    f"{name}: {files[0].file} has no intervals (bounds) of time, and its stamps begin and "
                    f"end one step apart from those of {by_variable[other][0].file}: the start of each interval in "
                    "one, the end in the other? Add bounds, correct the stamps, or select one with `variables`"
                )


def _at_edges(file: InputFile, frequency: str) -> bool:
    """True if every value is a mean, and stamped where one step ends and the next begins."""
    months = frequency == "mon"
    if is_instantaneous(file.cell_methods) or not (months or frequency == "day" or is_mean(file.cell_methods)):
        return False
    if months:
        return all((d.day, d.hour, d.minute) == (1, 0, 0) for d in to_dates(file.seconds, file.calendar))
    return frequency != "yr" and not (file.seconds % round(3600 * STEP_HOURS[frequency])).any()


def common_steps(name: str, by_variable: dict[str, list[InputFile]], frequency: str) -> tuple[Index, int]:
    """Numbers of the steps that all variables have, and the count of steps that at least one has.

    Raises:
        UserError: the variables have no step in common.
    """
    steps = {
        v: np.concatenate([step_index(f.seconds, f.calendar, frequency) for f in files])
        for v, files in by_variable.items()
    }
    common, union = next(iter(steps.values())), next(iter(steps.values()))
    for own in steps.values():
        common, union = np.intersect1d(common, own), np.union1d(union, own)
    if not len(common):
        periods = ", ".join(
            f"{v} {iso(fs[0].seconds[0], fs[0].calendar)[:10]}…{iso(fs[-1].seconds[-1], fs[-1].calendar)[:10]}"
            for v, fs in by_variable.items()
        )
        raise UserError(
            f"{name}: its variables have no time step in common ({periods}); leave one out with `variables`"
        )
    return common, len(union)
