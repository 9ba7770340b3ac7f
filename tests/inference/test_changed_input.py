"""A resumed `predict` whose input or climatology has other contents than before is refused; restored, it resumes."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from climax_hpc.config.inference import PredictConfig
from climax_hpc.errors import UserError
from climax_hpc.inference import predict as module
from climax_hpc.inference.ensemble import Ensemble
from climax_hpc.inference.predict import predict
from climax_hpc.inference.xarray_input import XarrayInitialConditions

OUTPUTS = pytest.mark.parametrize("name", ["out", "out.zarr"])


@contextmanager
def interrupted_after_one_start(config: PredictConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[PredictConfig]:
    """The config of a prediction of which one start is finished."""
    config, one, calls = replace(config, batch_size=1), Ensemble.forecast, list[int]()

    def forecast(self: Ensemble, *given: Any) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise UserError("stopped")
        one(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Ensemble, "forecast", forecast)
        with pytest.raises(UserError, match="stopped"):
            predict(config)
    yield config
    assert predict(config).name == Path(config.output).name


def check_refused(config: PredictConfig, what: str) -> None:
    with pytest.raises(UserError, match=rf"holds a prediction, and the contents of {what} have changed since \(") as no:
        predict(config)
    assert str(no.value).endswith("): restore them to resume it, or choose another output")
    assert "\n" not in str(no.value)


def put(source: object, copy: Path) -> None:
    """A copy of a data set in the place of another."""
    shutil.rmtree(copy)
    shutil.copytree(str(source), copy)


@OUTPUTS
def test_a_packed_data_set(
    config: PredictConfig, make_dataset: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], name: str,
) -> None:  # fmt: skip
    copy = shutil.copytree(str(config.input), tmp_path / "data")
    asked = replace(config, input=str(copy), output=str(tmp_path / name))
    with interrupted_after_one_start(asked, monkeypatch) as asked:
        put(make_dataset(dtype="float32", seed=5), copy)
        check_refused(asked, "input")
        put(config.input, copy)
    assert "resuming after 1 of 4 starts" in capsys.readouterr().out


@OUTPUTS
@pytest.mark.parametrize("changed", ["2m_temperature", "orography"])
def test_netcdf(
    config: PredictConfig,
    physical: xr.Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    changed: str,
) -> None:
    """The last start, or a static field; a copy with other dates of modification is the same."""
    file = tmp_path / "in.nc"
    physical.to_netcdf(file)
    other = physical.copy(deep=True)
    other[changed][-1, ...] += 1e-3  # its last time, or its northernmost row
    with interrupted_after_one_start(
        replace(config, input=str(file), period=None, output=str(tmp_path / name)), monkeypatch
    ) as asked:
        other.to_netcdf(file)
        check_refused(asked, "input")
        file.unlink()
        physical.to_netcdf(file)


def test_a_climatology(
    config: PredictConfig, checkpoints: dict[str, str], physical: xr.Dataset, make_dataset: Callable[..., Path],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    physical.to_netcdf(tmp_path / "in.nc")
    copy = shutil.copytree(str(config.input), tmp_path / "data")
    asked = replace(
        config, models={"anomaly": checkpoints["anomaly"]}, input=str(tmp_path / "in.nc"), climatology=str(copy),
        period=None,
    )  # fmt: skip
    with interrupted_after_one_start(asked, monkeypatch) as asked:
        put(make_dataset(dtype="float32", seed=5), copy)
        check_refused(asked, "climatology")
        put(config.input, copy)


def test_predictions_of_before_resume(config: PredictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier versions kept no identity of the input."""
    with interrupted_after_one_start(config, monkeypatch):
        kept = Path(config.output) / "predict.json"
        content = json.loads(kept.read_text())
        del content["input_sha256"]
        kept.write_text(json.dumps(content))


def test_few_states_are_read_of_large_input_and_none_for_a_single_file(
    config: PredictConfig, physical: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    physical.to_netcdf(tmp_path / "in.nc")
    asked, read = replace(config, input=str(tmp_path / "in.nc"), period=None), list[list[int]]()
    one = XarrayInitialConditions.identity
    monkeypatch.setattr(XarrayInitialConditions, "identity", lambda self, times: read.append(times) or one(self, times))
    predict(replace(asked, output=str(tmp_path / "all")))
    monkeypatch.setattr(module, "_IDENTIFIED_BYTES", 3 * 8 * 4 * 8 * 16)
    predict(replace(asked, output=str(tmp_path / "few")))
    predict(replace(asked, output=str(tmp_path / "one.nc"), start_every_hours=24, period=("2004-01-02", "2004-01-02")))
    assert read == [list(range(12)), [0, 6, 11]]
