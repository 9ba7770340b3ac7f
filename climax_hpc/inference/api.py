"""The Python API: `ClimaX.from_pretrained("jcm-small").forecast(ds, lead="72h")`, xarray in and xarray out."""

import re
import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from climax_hpc.checkpoint.format import Checkpoint, load_checkpoint
from climax_hpc.config.ensemble_output import EnsembleOutputConfig, check_statistics_layout
from climax_hpc.config.inference import Layout, Precision, check_precision, check_rollout
from climax_hpc.data.dataset import DataSet
from climax_hpc.errors import UserError
from climax_hpc.inference.cf import ForecastContent, as_dataset
from climax_hpc.inference.ensemble import Ensemble, model_grid
from climax_hpc.inference.initial_conditions import ShardClimatology, choose_source
from climax_hpc.inference.layouts import FILES, STORES
from climax_hpc.inference.member_statistics import MemberGatherer
from climax_hpc.inference.precision import tf32
from climax_hpc.inference.xarray_input import XarrayInitialConditions, describe
from climax_hpc.model.output_modes import ANOMALY_NOTE

Lead = str | float | int | timedelta | np.timedelta64


class ClimaX:
    """One trained model, or an ensemble, ready to forecast (`climax_hpc.model.ClimaXNetwork` is the network alone)."""

    def __init__(self, checkpoints: dict[str, Checkpoint]) -> None:
        self.checkpoints = checkpoints
        """Label -> weights, settings and normalisation."""

    @classmethod
    def from_pretrained(cls, path: str | Path | Sequence[str | Path]) -> "ClimaX":
        """Load and verify trained weights; several make an ensemble.

        Args:
            path: run folder, checkpoint folder, file of `climax-hpc convert`, or the name of weights in the package,
                such as `jcm-small` (`climax-hpc weights` lists them); a folder of that name comes first.

        Raises:
            UserError: there is no checkpoint, or it is damaged.
        """
        paths = [path] if isinstance(path, str | Path) else list(path)
        return cls({str(p): load_checkpoint(Path(p).expanduser()) for p in paths})

    def forecast(
        self,
        ds: xr.Dataset,
        lead: Lead | Sequence[Lead],
        *,
        rollout: Lead | None = None,
        variables: Sequence[str] | None = None,
        climatology: str | Path | None = None,
        climatology_source: str | None = None,
        regrid: str | None = None,
        batch_size: int = 8,
        precision: Precision = "float32",
        layout: Layout = "cf",
        members: int = 1,
        noise_seed: int = 0,
        calibration: str | Path | None = None,
        statistics: Sequence[str] = (),
        quantiles: Sequence[float] = (),
        exceedance: Mapping[str, Sequence[float]] | None = None,
        keep_members: bool = True,
    ) -> xr.Dataset:
        """Forecast from every time of `ds`, in memory; a model that takes tendencies, from those with one 6 h before.

        Args:
            ds: states in physical units on a global grid, with coordinates `time`, `lat`, `lon` and, for variables on
                pressure levels, `plev` or `level`; variables named as in the registry (`climax-hpc variables`), CMIP6
                or WeatherBench, each with the attribute `units`.
            lead: lead time or times: "72h", a number of hours, or a timedelta.
            rollout: step of an iterative roll-out; None makes one pass per lead time.
            variables: registry names wanted; None for all that the model forecasts.
            climatology: packed data set that provides the climatology of an `anomaly` model.
            climatology_source: name of its source, if it holds several.
            regrid: `conservative` or `bilinear` if `ds` is not on the grid of the model.
            batch_size: forecasts per forward pass, members counted.
            precision: arithmetic of the network: `float32`, `tf32` or `bfloat16`.
            layout: `cf`, or `weatherbench`: dimensions, names and units of WeatherBench 2, as `predict` writes them;
                `cmip` is one data set per variable and start, which only `climax-hpc predict` writes.
            members: members that each network with noise makes; the same start, member and `noise_seed` give the same
                noise.
            noise_seed: seed of the noise.
            calibration: `calibration.npz` of an evaluation: members without the bias and with the spread that it found.
            statistics: `mean`, `spread`, `minimum`, `maximum` of the members, as variables of their own.
            quantiles: quantiles of the members, between 0 and 1, ascending.
            exceedance: registry name -> thresholds in its units: the share of the members above each.
            keep_members: False returns the statistics alone.

        Returns:
            Physical units and CF attributes; dimensions (forecast_reference_time, lead_time, [realization,] lat, lon),
            with the valid `time` as a coordinate, lead times in hours, and caveats in the attribute `comment`. With
            `weatherbench`: (time, prediction_timedelta, [realization,] [level,] latitude, longitude), lead times as
            timedelta64. Statistics are named as `predict` writes them, such as `2m_temperature_spread`.

        Raises:
            UserError: bad input; the message says how to fix it.
        """
        _check_dataset(ds)
        leads = sorted({hours_of(one) for one in ([lead] if isinstance(lead, _ONE) else lead)})
        if not leads or leads[0] <= 0:
            raise UserError("lead: give at least one lead time above 0 h")
        step = None if rollout is None else hours_of(rollout)
        check_rollout(step, leads)
        check_precision(precision)
        _check_layout(layout)
        output = EnsembleOutputConfig(
            members=members,
            noise_seed=noise_seed,
            calibration=None if calibration is None else str(Path(calibration).expanduser()),
            statistics=list(statistics),
            quantiles=list(quantiles),
            exceedance={name: list(thresholds) for name, thresholds in (exceedance or {}).items()},
            keep_members=keep_members,
        )
        check_statistics_layout(output, layout)
        first = next(iter(self.checkpoints.values()))
        states = XarrayInitialConditions([ds], describe(ds), target=model_grid(first), regrid=regrid)
        packed = None
        if climatology is not None:
            packed = ShardClimatology(choose_source(DataSet(climatology), climatology_source, "climatology_source"))
        ensemble = Ensemble(
            self.checkpoints,
            states,
            climatology=packed,
            variables=variables,
            rollout_hours=step,
            precision=precision,
            output=output,
        )
        starts = ensemble.starts(range(len(states.hours)), lambda note: warnings.warn(note, stacklevel=4))
        for note in ensemble.notes(leads, states.hours[starts].tolist()):
            if note != ANOMALY_NOTE:
                warnings.warn(note, stacklevel=2)
        with tf32(allowed=precision == "tf32"):
            return _forecast_all(ensemble, states, starts, leads, batch_size, output, layout)


def _check_dataset(ds: object) -> None:
    if not isinstance(ds, xr.Dataset):
        raise UserError(
            f"ds: must be an xarray.Dataset, not {type(ds).__name__}: open shards with climax_hpc.open_physical, other "
            "files with xarray.open_dataset"
        )


def _forecast_all(
    ensemble: Ensemble,
    states: XarrayInitialConditions,
    starts: Sequence[int],
    leads: Sequence[float],
    batch_size: int,
    output: EnsembleOutputConfig,
    layout: Layout,
) -> xr.Dataset:
    """Forecasts from the states with these time indices, with the statistics of the output."""
    hours = states.hours[list(starts)].tolist()
    content = ensemble.content(leads, hours, {"input": states.name})
    memory = InMemoryWriter(content, hours, layout)
    write = memory.write
    if output.has_statistics:
        write = MemberGatherer(memory, ensemble.size, keep_members=output.keep_members).write
    ensemble.forecast(list(enumerate(starts)), leads, batch_size, write)
    return as_dataset(memory.shape, memory.fields, decode_leads=layout != "cf")


class InMemoryWriter:
    """Collects forecasts in the arrays of a layout, with the `write` of the file writers."""

    def __init__(self, content: ForecastContent, start_hours: Sequence[float], layout: Layout = "cf") -> None:
        self._store = STORES[layout](content)
        self.shape = self._store.store(start_hours)
        self.fields: dict[str, NDArray[np.float32]] = {
            name: np.full([self.shape.sizes[d] for d in entry.dims], np.nan, np.float32)
            for name, entry in self.shape.fields.items()
        }

    def write(self, place: int, lead: int, member: int, fields_OHW: NDArray[Any]) -> None:
        """Store the fields of one forecast."""
        for piece in self._store.pieces(place, lead, member, fields_OHW):
            self.fields[piece.variable][piece.place] = piece.field_HW

    def write_statistics(self, place: int, lead: int, members_MOHW: NDArray[np.float32]) -> None:
        """Store the statistics of one start and lead time."""
        for piece in self._store.statistics(place, lead, members_MOHW):
            self.fields[piece.variable][piece.place] = piece.field_HW


def _check_layout(name: str) -> None:
    """Raises UserError for layouts that are no single data set, and unknown ones."""
    if name in STORES:
        return
    known = " or ".join(STORES)
    if name in FILES:
        raise UserError(
            f"layout: {name} is a file per variable and start, not one data set; take {known}, or write the files with "
            f"`climax-hpc predict --layout {name}`"
        )
    raise UserError(f"layout: {name!r} is unknown; take {known}")


_LENGTH = re.compile(r"(-?\d+(?:\.\d+)?) ?(h|d)")
_ONE = (str, float, int, timedelta, np.timedelta64)


def hours_of(lead: Lead) -> float:
    """Hours of a lead time; plain numbers are hours already.

    Raises:
        UserError: not a lead time.
    """
    if isinstance(lead, int | float):
        return float(lead)
    if isinstance(lead, timedelta):
        return lead / timedelta(hours=1)
    if isinstance(lead, np.timedelta64):
        return float(lead / np.timedelta64(1, "h"))
    match = _LENGTH.fullmatch(lead.strip().lower())
    if match is None:
        raise UserError(f'lead: {lead!r} is not a lead time; write "72h" or "3d"')
    return float(match[1]) * (24 if match[2] == "d" else 1)
