"""calibration.npz: the calibrations that an evaluation has fitted, for `predict` and the Python API.

Arrays, in physical units: those of the grid (`Grid`); of ensemble n and lead time t, `cycle_n_t` (D, K) and `bias_n_t`
(K, O, H, W); of ensemble n, `square_error_n` and `variance_n` (T, O); `about`, JSON in UTF-8: the ensembles, in this
order (`StoredCalibrations`).

Dimensions: T lead times · K functions of an annual cycle · D = 366 days of a leap year · O variables · H, W grid.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from climax_hpc.errors import UserError
from climax_hpc.fields.calendar_days import DAYS, DayRun, check_days
from climax_hpc.fields.grid import Grid
from climax_hpc.inference.calibration import Calibration
from climax_hpc.utils.files import check_is_plain_file
from climax_hpc.utils.typed_json import Count, Number, Sha256, check_schema, typed

CALIBRATION_FILE = "calibration.npz"
SCHEMA, SCHEMA_VERSION = "climax_hpc/calibration", 2
_WHAT = f"the {CALIBRATION_FILE} of `climax-hpc evaluate` with ensembles.baselines: [calibrated]"
_FIX = "run `climax-hpc evaluate` again"
_OF_GRID = [field.name for field in fields(Grid)]


@dataclass(frozen=True, kw_only=True)
class CalibratedEntry:
    """What one of the calibrations is for."""

    label: str
    """Label of the ensemble in the evaluation."""
    weights_sha256: list[Sha256]
    """Of its networks: one with noise, or the checkpoints that are its members."""
    variables: list[str]
    lead_hours: list[Number]
    rollout_hours: Number | None
    """Step of the roll-out; None: each lead time in one pass."""
    members: Count
    """Of the forecasts that it was fitted on."""
    source: str
    period: str
    """Of these forecasts."""
    days: list[DayRun] | None = None
    """The calendar days that the data of the period cover; None in files of before they were stored."""

    def __post_init__(self) -> None:
        check_days(self.days or ())


@dataclass(frozen=True, kw_only=True)
class StoredCalibrations:
    """The part of calibration.npz that is JSON."""

    schema: str
    schema_version: int
    ensembles: list[CalibratedEntry]


def calibration_writer(
    grid: Grid, fitted: Sequence[tuple[CalibratedEntry, Sequence[Calibration]]]
) -> Callable[[Path], None]:
    """Writes calibrations in physical units, one for each lead time of its entry."""
    about = StoredCalibrations(schema=SCHEMA, schema_version=SCHEMA_VERSION, ensembles=[entry for entry, _ in fitted])
    arrays: dict[str, NDArray[Any]] = {name: getattr(grid, name) for name in _OF_GRID}
    arrays["about"] = _as_bytes(asdict(about))
    for n, (_, some) in enumerate(fitted):
        for t, one in enumerate(some):
            arrays[f"cycle_{n}_{t}"] = one.cycle_DK.numpy()
            arrays[f"bias_{n}_{t}"] = one.bias_KOHW.numpy().astype(np.float32)
        arrays[f"square_error_{n}"] = torch.stack([one.square_error_O for one in some]).numpy()
        arrays[f"variance_{n}"] = torch.stack([one.variance_O for one in some]).numpy()

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    return write


@dataclass(frozen=True, kw_only=True)
class EnsembleCalibration:
    """The calibration of one ensemble, as it is read."""

    path: str
    entry: CalibratedEntry
    grid: Grid
    cycles: tuple[NDArray[np.float64], ...]
    """By lead time, (D, K)."""
    biases: tuple[NDArray[np.float32], ...]
    """By lead time, (K, O, H, W); 0 in cells that never had a truth in the period of the fit."""
    square_error_TO: NDArray[np.float64]
    variance_TO: NDArray[np.float64]

    def check(self, variables: Sequence[str], grid: Grid, rollout_hours: float | None) -> None:
        """Refuse forecasts that it is not for.

        Raises:
            UserError: other variables, another grid, or another step of the roll-out.
        """
        if lacking := [name for name in variables if name not in self.entry.variables]:
            raise UserError(
                f"calibration: {self.path} lacks {', '.join(lacking)}; it is for {', '.join(self.entry.variables)}: "
                "set variables, or evaluate with all of them"
            )
        if not self.grid.same_centres(grid):
            raise UserError(f"calibration: {self.path} is for another grid; {_FIX} on the grid of the forecasts")
        if self.entry.rollout_hours != rollout_hours:
            fitted, asked = _how(self.entry.rollout_hours), _how(rollout_hours)
            raise UserError(f"calibration: {self.path} is for forecasts {fitted}, not {asked}: change rollout_hours")

    def check_leads(self, lead_hours: Sequence[float]) -> None:
        """Refuse lead times that were not fitted.

        Raises:
            UserError: names them.
        """
        known = self.entry.lead_hours
        if lacking := [lead for lead in lead_hours if lead not in known]:
            raise UserError(
                f"calibration: {self.path} was fitted for {_hours(known)}, not for {_hours(lacking)}: change the lead "
                "times, or evaluate with them"
            )

    def of(self, variables: Sequence[str], lead_hours: Sequence[float]) -> list[Calibration]:
        """Those of the lead times, for these variables.

        Raises:
            UserError: a lead time that was not fitted.
        """
        self.check_leads(lead_hours)
        places = [self.entry.variables.index(name) for name in variables]
        return [
            Calibration(
                cycle_DK=torch.from_numpy(self.cycles[t]),
                bias_KOHW=torch.from_numpy(self.biases[t][:, places]),
                square_error_O=torch.from_numpy(self.square_error_TO[t][places]),
                variance_O=torch.from_numpy(self.variance_TO[t][places]),
                members=self.entry.members,
            )
            for t in (self.entry.lead_hours.index(lead) for lead in lead_hours)
        ]

    @property
    def description(self) -> str:
        """For the attributes of a file."""
        return (
            "members without the bias in each cell on the calendar day of the start, and with the spread scaled to the "
            f"error, of forecasts of {self.entry.source} in {self.entry.period}"
        )


def read_calibration(path: str | Path, weights_sha256: Sequence[str]) -> EnsembleCalibration:
    """The calibration of the ensemble of these networks.

    Raises:
        UserError: no such file, a damaged one, or one of other checkpoints.
    """
    arrays = _arrays(Path(path))
    content = _as_json(arrays.get("about"), path)
    check_schema(content, SCHEMA, SCHEMA_VERSION, str(path), _FIX, oldest=SCHEMA_VERSION)
    stored: StoredCalibrations = typed(content, StoredCalibrations, str(path), _FIX)
    for n, entry in enumerate(stored.ensembles):
        if sorted(entry.weights_sha256) == sorted(weights_sha256):
            return _checked(path, arrays, n, entry)
    labels = ", ".join(repr(entry.label) for entry in stored.ensembles)
    raise UserError(
        f"calibration: {path} is for other checkpoints, those that its evaluation called {labels}: evaluate the "
        "models of this forecast, or leave calibration out"
    )


def _checked(
    path: str | Path, arrays: Mapping[str, NDArray[Any]], n: int, entry: CalibratedEntry
) -> EnsembleCalibration:
    by_lead = (len(entry.lead_hours), len(entry.variables))
    try:
        grid = Grid.from_dict({name: arrays[name] for name in _OF_GRID if name in arrays})
    except ValueError as error:
        raise UserError(f"{path}: is damaged ({error}); {_FIX}") from None
    leads = range(by_lead[0])
    shapes: dict[str, tuple[int | None, ...]] = {f"square_error_{n}": by_lead, f"variance_{n}": by_lead}
    for t in leads:
        shapes |= {f"cycle_{n}_{t}": (DAYS, None), f"bias_{n}_{t}": (None, by_lead[1], *grid.shape)}
    for name, shape in shapes.items():
        _check_shape(arrays, name, shape, path)
    for t in leads:
        if len(arrays[f"bias_{n}_{t}"]) != arrays[f"cycle_{n}_{t}"].shape[1]:
            raise UserError(f"{path}: is damaged (bias_{n}_{t} and cycle_{n}_{t} do not fit together); {_FIX}")
    return EnsembleCalibration(
        path=str(path),
        entry=entry,
        grid=grid,
        cycles=tuple(arrays[f"cycle_{n}_{t}"].astype(np.float64) for t in leads),
        biases=tuple(np.nan_to_num(arrays[f"bias_{n}_{t}"].astype(np.float32)) for t in leads),
        square_error_TO=arrays[f"square_error_{n}"],
        variance_TO=arrays[f"variance_{n}"],
    )


def _check_shape(
    arrays: Mapping[str, NDArray[Any]], name: str, shape: tuple[int | None, ...], path: str | Path
) -> None:
    """`shape`: None is any length."""
    found = arrays.get(name)
    fits = (
        found is not None
        and found.dtype.kind == "f"
        and found.ndim == len(shape)
        and all(size in (None, own) for size, own in zip(shape, found.shape, strict=True))
    )
    if not fits:
        raise UserError(f"{path}: is damaged ({name} is missing or has another shape); {_FIX}")


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    check_is_plain_file(path, _WHAT)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:
        raise UserError(f"{path} is not readable ({error}): expected {_WHAT}") from None


def _as_bytes(content: Any) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(content).encode(), np.uint8)


def _as_json(found: NDArray[Any] | None, path: str | Path) -> Any:
    try:
        return json.loads(b"" if found is None else found.tobytes())
    except ValueError:
        raise UserError(f"{path} is no calibration: expected {_WHAT}") from None


def _how(rollout_hours: float | None) -> str:
    return "in one pass" if rollout_hours is None else f"rolled out in steps of {rollout_hours:g} h"


def _hours(leads: Sequence[float]) -> str:
    return ", ".join(f"{lead:g}" for lead in leads) + " h"
