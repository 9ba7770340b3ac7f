"""Calibrated members of `predict` and the Python API: what an evaluation has fitted, applied; and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import climax_hpc
from climax_hpc.config.ensembles import EnsembleScoresConfig
from climax_hpc.config.inference import EvaluateConfig, PredictConfig
from climax_hpc.data.dataset import DataSet
from climax_hpc.errors import UserError
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.inference.predict import predict

pytestmark = pytest.mark.filterwarnings("ignore:.*does not record which lead times")
Z500, T2M = "geopotential_500", "2m_temperature"
FITTED = ("2003", "2003")
LEADS = (24, 48)
DAY_OF_START = 2
"""Of 3 January."""


@pytest.fixture(scope="module")
def evaluated(
    dataset: Path, noisy: str, checkpoints: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> EvaluateConfig:
    """An evaluation that has calibrated a network with noise, and one that consists of two checkpoints."""
    config = EvaluateConfig(
        run_folder=str(tmp_path_factory.mktemp("evaluated") / "e"), models={"noisy": noisy}, dataset=str(dataset),
        source="JCM-C", period=("2004", "2004"), train_period=("2001", "2003"), lead_hours=LEADS, map_lead_hours=24,
        start_every_hours=24, members=3, resamples=0, spectra=False,
        ensembles=EnsembleScoresConfig(
            baselines=["calibrated"], calibration_period=FITTED, percentiles=(),
            checkpoints={"both": [checkpoints["full"], checkpoints["other"]]},
        ),
    )  # fmt: skip
    evaluate(config)
    return config


@pytest.fixture(scope="module")
def file(evaluated: EvaluateConfig) -> Path:
    return Path(evaluated.run_folder) / "calibration.npz"


@pytest.fixture
def asked(config: PredictConfig, noisy: str, file: Path) -> PredictConfig:
    """Calibrated members from every start of the fit."""
    return replace(
        config, models={"noisy": noisy}, members=3, calibration=str(file),
        output=str(Path(config.output).with_name("out.zarr")), period=FITTED, start_every_hours=24,
        lead_hours=LEADS, batch_size=7,
    )  # fmt: skip


def opened(path: Path) -> xr.Dataset:
    return xr.open_dataset(path, engine="zarr", decode_timedelta=False).load()


def truth_of(dataset: Path, name: str, hours: float) -> np.ndarray[Any, Any]:
    """Fields (start, lat, lon) at the valid times of the starts at 0 h of the fitted year, in physical units."""
    source = DataSet(dataset).select(None)[0]
    steps, place = round(hours / source.step_hours), source.channels.index(name)
    times = [t for t in range(source.steps) if source.date(t).year == 2003]
    found = [
        source.read(t + steps)[place].astype(np.float64) * source.std_C[place] + source.mean_C[place]
        for t in times
        if source.date(t).hour == 0 and t + steps <= times[-1]
    ]
    return np.stack(found)


def test_less_bias_and_a_fitting_spread_over_the_starts_of_the_fit(asked: PredictConfig, dataset: Path) -> None:
    """What `evaluate` has fitted with its own forecasts, in other units and with another code path."""
    ds = opened(predict(asked))
    assert "bias in each cell" in ds.attrs["calibration"]
    plain = opened(predict(replace(asked, calibration=None, output=str(Path(asked.output).parent / "plain.zarr"))))
    assert "calibration" not in plain.attrs
    for name in (Z500, T2M):
        for place, hours in enumerate(LEADS):
            truth = truth_of(dataset, name, hours)
            x, raw = (d[name].values[: len(truth), place].astype(np.float64) for d in (ds, plain))
            error, before = ((values.mean(axis=1) - truth) for values in (x, raw))
            left, mean = error.mean(axis=0), before.mean(axis=0)
            share = (left * mean).sum() / (mean**2).sum()  # of the mean error that is taken for chance
            assert 0 <= share < 0.5
            assert abs(left - share * mean).max() < 1e-3 * abs(mean).max()
            weight = np.cos(np.deg2rad(ds.lat.values))[:, None] * np.ones(error.shape[1:])
            square, variance = (
                np.average(values.mean(axis=0), weights=weight) for values in (error**2, x.var(axis=1, ddof=1))
            )
            assert np.sqrt(4 / 3 * variance / square) == pytest.approx(1, rel=0.02)  # weights of another kind


@pytest.mark.parametrize("rollout", [False, True])
def test_statistics_are_those_of_calibrated_members(
    asked: PredictConfig, evaluated: EvaluateConfig, tmp_path: Path, rollout: bool
) -> None:
    step = 24.0 if rollout else None
    if rollout:
        other = replace(evaluated, run_folder=str(tmp_path / "e"), rollout_hours={"noisy": 24.0})
        evaluate(replace(other, ensembles=replace(evaluated.ensembles, checkpoints={})))
        asked = replace(asked, calibration=str(tmp_path / "e" / "calibration.npz"), rollout_hours=step)
    few = replace(asked, period=("2004-01-03", "2004-01-03"), statistics=["mean", "spread"])
    ds = opened(predict(few))
    members = ds[T2M].astype(np.float64)
    for kind, expected in (("mean", members.mean("realization")), ("spread", members.std("realization", ddof=1))):
        np.testing.assert_array_equal(ds[f"{T2M}_{kind}"].values, expected.values.astype(np.float32))
    alone = opened(predict(replace(few, keep_members=False, batch_size=1, output=str(tmp_path / "alone.zarr"))))
    close = 1e-4 * float(abs(members).max())  # other batches round otherwise
    np.testing.assert_allclose(alone[f"{T2M}_mean"], ds[f"{T2M}_mean"], rtol=0, atol=close)


def test_an_ensemble_of_checkpoints(
    asked: PredictConfig, checkpoints: dict[str, str], file: Path, dataset: Path
) -> None:
    both = {label: checkpoints[label] for label in ("other", "full")}  # in another order than in the evaluation
    few = replace(asked, models=both, members=1, period=("2004-01-03", "2004-01-03"), variables=[T2M])
    ds = opened(predict(few))
    plain = opened(predict(replace(few, calibration=None, output=str(Path(few.output).parent / "plain.zarr"))))
    with np.load(file) as arrays:
        n = [one["label"] for one in json.loads(arrays["about"].tobytes())["ensembles"]].index("both")
        entry = json.loads(arrays["about"].tobytes())["ensembles"][n]
        place = entry["variables"].index(T2M)
        on_the_day = [
            np.tensordot(arrays[f"cycle_{n}_{t}"][DAY_OF_START], arrays[f"bias_{n}_{t}"][:, place], 1)
            for t in range(len(entry["lead_hours"]))
        ]
        bias = np.stack(on_the_day)
        assert not np.allclose(arrays[f"cycle_{n}_0"][DAY_OF_START], arrays[f"cycle_{n}_0"][DAY_OF_START + 1])
    change = plain[T2M].mean("realization") - ds[T2M].mean("realization")
    np.testing.assert_allclose(change.values[0], bias, rtol=0, atol=1e-5 * abs(plain[T2M].values).max())
    shown = DataSet(dataset).select(None)[0]
    assert entry["source"] == shown.name


def with_entries(file: Path, path: Path, **changes: Any) -> Path:
    """A copy of the file whose entries have other values; None removes one."""
    with np.load(file) as found:
        arrays = {name: found[name] for name in found.files}
    about = json.loads(arrays["about"].tobytes())
    for entry in about["ensembles"]:
        entry |= changes
        for name in [name for name, value in changes.items() if value is None]:
            del entry[name]
    np.savez(path, **arrays | {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)})
    return path


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ([["01-01", "01-31"]], None),
        ([["06-01", "08-31"], ["12-01", "01-04"]], None),
        (
            [["12-01", "01-03"]],
            "The calibration has its bias and spread from the calendar days 12-01 … 01-03: 1 of 2 valid times lie "
            "outside of them, such as 2004-01-04T00:00:00, where both may differ.",
        ),
        (None, "The calibration does not record the calendar days that its bias and spread are from."),
    ],
)
def test_other_seasons_are_named_alike_in_the_command_python_and_the_file(
    asked: PredictConfig, noisy: str, file: Path, physical: xr.Dataset, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], days: Any, expected: str | None,
) -> None:  # fmt: skip
    """Valid times: 3 and 4 January 2004."""
    changed = with_entries(file, tmp_path / "changed.npz", days=days)
    few = replace(asked, calibration=str(changed), period=("2004-01-02", "2004-01-02"), variables=[T2M])
    ds = opened(predict(few))
    notes = [line for line in capsys.readouterr().out.splitlines() if "bias and spread" in line]
    assert notes == ([f"predict: note: {expected}"] if expected else [])
    model = climax_hpc.ClimaX.from_pretrained(noisy)
    state = physical.sel(time=[t for t in physical.time.values if (t.day, t.hour) == (2, 0)])
    with pytest.warns() as warned:
        found = model.forecast(state, lead=list(LEADS), members=3, calibration=changed, variables=[T2M])
    texts = [str(one.message) for one in warned if "bias and spread" in str(one.message)]
    assert texts == ([expected] if expected else [])
    for written in (ds, found):
        assert (expected in written.attrs["comment"]) if expected else "bias and" not in written.attrs["comment"]


def test_the_days_of_the_fit_are_written(file: Path, asked: PredictConfig, tmp_path: Path) -> None:
    with np.load(file) as arrays:
        entries = json.loads(arrays["about"].tobytes())["ensembles"]
    assert [entry["days"] for entry in entries] == [[["01-01", "01-12"]]] * 2
    broken = with_entries(file, tmp_path / "broken.npz", days=[["01-01", "02-30"]])
    with pytest.raises(
        UserError, match=r"broken.npz: is damaged \(ensembles\[0\]: '02-30' is no day of the year: expec"
    ):
        predict(replace(asked, calibration=str(broken)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": 1}, r"calibration scales the spread of members, and there is one: set members, or leave it out"),
        ({"lead_hours": (6, 24)}, r"calibration: \S+calibration.npz was fitted for 24, 48 h, not for 6 h: change the"),
        (
            {"rollout_hours": 24.0},
            r"is for forecasts in one pass, not rolled out in steps of 24 h: change rollout_ho",
        ),
        ({"models": "other"}, r"is for other checkpoints, those that its evaluation called 'noisy', 'both': evaluate"),
        ({"calibration": "missing.npz"}, r"missing.npz does not exist: expected the calibration.npz of `climax-hpc ev"),
    ],
)
def test_other_forecasts_are_refused(
    asked: PredictConfig, checkpoints: dict[str, str], changes: dict[str, Any], message: str
) -> None:
    if "models" in changes:
        changes = {"models": {label: checkpoints[label] for label in ("full", "anomaly")}, "members": 1}
    with pytest.raises(UserError, match=message):
        predict(replace(asked, **changes))
    assert not Path(asked.output).exists()


def test_other_variables_and_grids_are_refused(
    asked: PredictConfig, file: Path, tmp_path: Path, evaluated: EvaluateConfig
) -> None:
    only = replace(evaluated, run_folder=str(tmp_path / "e"), variables=[T2M])
    evaluate(only)
    with pytest.raises(UserError, match=r"calibration.npz lacks geopotential_500.*; it is for 2m_temperature: set var"):
        predict(replace(asked, calibration=str(tmp_path / "e" / "calibration.npz")))
    with np.load(file) as found:
        arrays = {name: found[name] for name in found.files}
    np.savez(tmp_path / "moved.npz", **arrays | {"lon": arrays["lon"] + 1})
    with pytest.raises(UserError, match=r"moved.npz is for another grid; run `climax-hpc evaluate` again on the grid"):
        predict(replace(asked, calibration=str(tmp_path / "moved.npz")))
    evaluate(replace(only, ensembles=replace(only.ensembles, baselines=[], calibration_period=None)))
    assert not (tmp_path / "e" / "calibration.npz").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: {"about": np.frombuffer(b"{", np.uint8)}, r"is no calibration: expected the calibration.npz"),
        (lambda arrays: {"about": np.frombuffer(b'{"schema": "x"}', np.uint8)}, r"is x version None, not climax_hpc/c"),
        (
            lambda arrays: {
                "about": np.frombuffer(arrays["about"].tobytes().replace(b'version": 2', b'version": 1'), np.uint8)
            },
            r"broken.npz: is climax_hpc/calibration version 1, not climax_hpc/calibration version 2; run `climax-h",
        ),
        (lambda arrays: {"lat": arrays["lat"][1:]}, r"is damaged \(grid.lat_bnds must hold"),
        (lambda arrays: {"lon": arrays["lon"] * np.nan}, r"is damaged \(grid.lon must hold .* finite numbers\)"),
        (lambda arrays: {"bias_0_1": arrays["bias_0_1"][:, :1]}, r"is damaged \(bias_0_1 is missing or has another sh"),
        (lambda arrays: {"bias_0_1": arrays["bias_0_1"][:1]}, r"is damaged \(bias_0_1 and cycle_0_1 do not fit togeth"),
        (lambda arrays: {"cycle_0_0": arrays["cycle_0_0"][1:]}, r"is damaged \(cycle_0_0 is missing or has another sh"),
        (lambda arrays: {"variance_0": arrays["variance_0"][:1]}, r"is damaged \(variance_0 is missing or has another"),
        (None, r"broken.npz is not readable"),
    ],
)
def test_damaged_files_are_refused(
    asked: PredictConfig, file: Path, tmp_path: Path, change: Callable[[Any], Any] | None, message: str
) -> None:
    path = tmp_path / "broken.npz"
    if change is None:
        path.write_bytes(file.read_bytes()[:200])
    else:
        with np.load(file) as found:
            arrays = {name: found[name] for name in found.files}
        np.savez(path, **arrays | change(arrays))
    with pytest.raises(UserError, match=message):
        predict(replace(asked, calibration=str(path)))


def test_python_gives_the_numbers_of_the_command(
    asked: PredictConfig, noisy: str, file: Path, physical: xr.Dataset, tmp_path: Path
) -> None:
    states = physical.isel(time=[8])
    states.to_netcdf(tmp_path / "in.nc")
    expected = opened(predict(replace(asked, input=str(tmp_path / "in.nc"), period=None, start_every_hours=None)))
    model = climax_hpc.ClimaX.from_pretrained(noisy)
    found = model.forecast(states, lead=list(LEADS), members=3, calibration=file)
    assert str(found.time.values.ravel()[0]).startswith("2004-01-04")
    close = 1e-4 * float(abs(expected[T2M]).max())
    np.testing.assert_allclose(found[T2M].values, expected[T2M].values, rtol=0, atol=close)
    assert found.attrs["calibration"] == expected.attrs["calibration"]
