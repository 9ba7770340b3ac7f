"""Members of noise networks and statistics over members: numbers, CF description, memory, resuming, refusals."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

import climax_hpc
from climax_hpc.config.ensemble_output import EnsembleOutputConfig
from climax_hpc.config.inference import PredictConfig
from climax_hpc.errors import UserError
from climax_hpc.inference.member_statistics import MemberGatherer
from climax_hpc.inference.predict import predict
from climax_hpc.tasks import registry

pytestmark = pytest.mark.filterwarnings("ignore:.*does not record which lead times")
Z500, T2M = "geopotential_500", "2m_temperature"
ABOVE = f"probability_of_{T2M}_above_threshold"


@pytest.fixture
def ensemble(config: PredictConfig, noisy: str, tmp_path: Path) -> PredictConfig:
    """Four members of one network, all statistics, from two starts."""
    return replace(
        config, models={"noisy": noisy}, members=4, statistics=["mean", "spread", "minimum", "maximum"],
        quantiles=[0.1, 0.5, 0.9], exceedance={T2M: [287.5, 288.5]}, output=str(tmp_path / "out.zarr"),
        start_every_hours=12,
    )  # fmt: skip


def opened(path: Path) -> xr.Dataset:
    engine: Any = "zarr" if path.suffix == ".zarr" else None
    return xr.open_dataset(path, engine=engine, decode_timedelta=False).load()


def check_statistics(ds: xr.Dataset) -> None:
    """Every statistic is that of the members in the file, to the rounding of float32."""
    for name in (Z500, T2M):
        members = ds[name].astype(np.float64)
        assert float(members.std("realization").min()) > 0
        expected = {
            "mean": members.mean("realization"), "spread": members.std("realization", ddof=1),
            "minimum": members.min("realization"), "maximum": members.max("realization"),
        }  # fmt: skip
        for kind, wanted in expected.items():
            np.testing.assert_array_equal(ds[f"{name}_{kind}"].values, wanted.values.astype(np.float32))
        wanted = members.quantile([0.1, 0.5, 0.9], "realization").transpose(*ds[f"{name}_quantile"].dims)
        np.testing.assert_allclose(ds[f"{name}_quantile"].values, wanted.values, rtol=1e-7)
    share = (ds[T2M] > ds[f"threshold_of_{T2M}"]).mean("realization").transpose(*ds[ABOVE].dims)
    np.testing.assert_array_equal(ds[ABOVE].values, share.values.astype(np.float32))
    assert 0 < float(ds[ABOVE].mean()) < 1


@pytest.mark.parametrize("rollout", [None, 6.0])
def test_members_and_their_statistics(ensemble: PredictConfig, rollout: float | None) -> None:
    ds = opened(predict(replace(ensemble, rollout_hours=rollout)))
    start = ("forecast_reference_time", "lead_time")
    assert ds[Z500].dims == (*start, "realization", "lat", "lon")
    assert ds[f"{Z500}_mean"].dims == (*start, "lat", "lon")
    assert ds[f"{Z500}_quantile"].dims == (*start, "quantile", "lat", "lon")
    assert ds[ABOVE].dims == (*start, f"threshold_of_{T2M}", "lat", "lon")
    assert set(ds.variables) >= {"plev_500", "height_2m", "time"}
    check_statistics(ds)


def test_every_member_is_its_own_whatever_runs_beside_it(
    ensemble: PredictConfig, checkpoints: dict[str, str], tmp_path: Path
) -> None:
    """A member depends on neither their number nor the batch; statistics alone are those beside the members."""
    members = replace(ensemble, statistics=[], quantiles=[], exceedance={})
    for rollout in (None, 6.0):
        ds = opened(predict(replace(members, rollout_hours=rollout, output=str(tmp_path / f"a{rollout}.zarr"))))
        two = replace(
            members, rollout_hours=rollout, batch_size=1, members=2, output=str(tmp_path / f"b{rollout}.zarr")
        )
        pair = opened(predict(two))
        for name in (Z500, T2M):
            wanted = ds[name][:, :, :2]
            np.testing.assert_allclose(pair[name], wanted, atol=1e-4 * float(wanted.std()), rtol=2e-7)
    alone = predict(replace(members, members=1, output=str(tmp_path / "alone.zarr")))
    assert "realization" not in opened(alone)[Z500].dims
    assert set(EnsembleOutputConfig().settings().values()) == {None}


def test_statistics_alone(ensemble: PredictConfig, tmp_path: Path) -> None:
    beside = opened(predict(ensemble))
    only = opened(predict(replace(ensemble, keep_members=False, output=str(tmp_path / "only.zarr"))))
    assert not {"realization", Z500, T2M} & set(only.variables)
    assert f"{Z500}_spread" in only
    for name in only.data_vars:
        np.testing.assert_array_equal(only[name].values, beside[name].values)


def test_models_with_and_without_noise_make_one_ensemble(
    ensemble: PredictConfig, checkpoints: dict[str, str], tmp_path: Path
) -> None:
    models = {"full": checkpoints["full"]} | ensemble.models | {"other": checkpoints["other"]}
    for rollout in (None, 6.0):
        ds = opened(
            predict(replace(ensemble, models=models, rollout_hours=rollout, output=str(tmp_path / f"{rollout}.zarr")))
        )
        assert ds.sizes["realization"] == 6
        check_statistics(ds)
    assert [part.split(" (")[0] for part in ds.attrs["members"].split("; ")] == ["0: full", "1 … 4: noisy", "5: other"]
    assert "noise with seed 0" in ds.attrs["members"]
    alone = opened(predict(replace(
        ensemble, models={"other": models["other"]}, members=1, statistics=[], quantiles=[], exceedance={},
        rollout_hours=6.0, output=str(tmp_path / "alone.zarr"),
    )))  # fmt: skip
    np.testing.assert_allclose(ds[Z500][:, :, 5], alone[Z500], atol=1e-4 * float(alone[Z500].std()), rtol=2e-7)


def test_the_seed_changes_the_members(ensemble: PredictConfig, tmp_path: Path) -> None:
    first = opened(predict(ensemble))
    other = opened(predict(replace(ensemble, noise_seed=5, output=str(tmp_path / "b.zarr"))))
    assert float(abs(first[Z500] - other[Z500]).min()) > 0


def test_netcdf_follows_cf(ensemble: PredictConfig, tmp_path: Path) -> None:
    folder = predict(replace(ensemble, output=str(tmp_path / "nc"), start_every_hours=24))
    ds = opened(next(folder.glob("*.nc")))
    assert ds[Z500].dims == ("time", "realization", "lat", "lon")
    about = {"standard_name": "realization", "units": "1", "long_name": "ensemble member, see the attribute members"}
    assert ds.realization.attrs == about
    assert ds[f"{T2M}_mean"].attrs["cell_methods"] == "realization: mean"
    assert {ds[f"{T2M}{end}"].attrs["standard_name"] for end in ("", "_mean", "_spread", "_quantile")} == {
        "air_temperature"
    }
    named = {name for name, one in ds.variables.items() if "cmip6_variable_id" in one.attrs}
    states = {name for name in ds.data_vars if "realization" in ds[name].dims}
    assert named == states | {f"{name}_mean" for name in states}
    spread = ds[f"{T2M}_spread"].attrs
    assert spread["cell_methods"] == "realization: standard_deviation"
    assert spread["units_metadata"] == "temperature: difference"
    assert spread["long_name"] == "2 m temperature, standard deviation of 4 members (divisor 3)"
    assert ds[f"{T2M}_maximum"].attrs["cell_methods"] == "realization: maximum"
    quantile = ds[f"{Z500}_quantile"].attrs
    assert "cell_methods" not in quantile
    assert quantile["vertical"] == "air_pressure 50000.0 Pa"
    assert ds["quantile"].values.tolist() == [0.1, 0.5, 0.9]
    threshold = ds[f"threshold_of_{T2M}"]
    assert threshold.values.tolist() == [287.5, 288.5]
    assert (threshold.attrs["standard_name"], threshold.attrs["units"]) == ("air_temperature", "K")
    assert (ds[ABOVE].attrs["units"], ds[ABOVE].attrs["cell_methods"]) == ("1", "realization: mean")
    assert not {"standard_name", "units_metadata"} & set(ds[ABOVE].attrs)
    check_statistics(ds)


def test_statistics_are_no_input(ensemble: PredictConfig, tmp_path: Path) -> None:
    """Neither beside members, of which one is to be selected, nor alone, nor under the name of a state."""
    path = predict(replace(ensemble, output=str(tmp_path / "one.nc"), start_every_hours=24))
    ds = opened(path)
    spread, mean = (ds[f"{T2M}_{kind}"].rename(T2M) for kind in ("spread", "mean"))
    given = {
        "members": ds,
        "statistics": ds.drop_dims("realization"),
        "renamed": spread.to_dataset(),
        "mean": (0 * mean + 280).assign_attrs(mean.attrs).to_dataset(),
    }
    for label, one in given.items():
        one.to_netcdf(tmp_path / f"{label}.nc")
    again = replace(ensemble, period=None, start_every_hours=None, output=str(tmp_path / "again.zarr"))
    for label, message in (
        ("members", r"members.nc: \S+ has a dimension realization of length 4; select one entry first$"),
        ("statistics", r"_mean is a statistic of the members of an ensemble, and there are no states beside it; give"),
        (
            "renamed",
            r"2m_temperature: its values are a standard_deviation over the members of an ensemble, no state \(",
        ),
    ):
        with pytest.raises(UserError, match=message) as refused:
            predict(replace(again, input=str(tmp_path / f"{label}.nc")))
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "again.zarr").exists()
    assert opened(predict(replace(again, input=str(tmp_path / "mean.nc"), variables=[T2M]))).sizes["realization"] == 4


@pytest.mark.skipif(shutil.which("cdo") is None, reason="no cdo on PATH: apt install cdo")
def test_cdo_reads_statistics(ensemble: PredictConfig, tmp_path: Path) -> None:
    file = predict(replace(ensemble, output=str(tmp_path / "one.nc"), start_every_hours=24))
    done = subprocess.run(["cdo", "-s", "showname", str(file)], capture_output=True, text=True, check=True)
    wanted = {Z500, f"{Z500}_mean", f"{Z500}_spread", f"{Z500}_quantile", ABOVE}
    assert wanted <= set(done.stdout.split())


@pytest.mark.parametrize("rollout", [None, "6h"])
def test_python_gives_the_numbers_of_the_command(
    ensemble: PredictConfig, noisy: str, physical: xr.Dataset, tmp_path: Path, rollout: str | None
) -> None:
    physical = physical.isel(time=[0, 1, 2])
    physical.to_netcdf(tmp_path / "in.nc")
    step = 6.0 if rollout else None
    config = replace(ensemble, input=str(tmp_path / "in.nc"), period=None, start_every_hours=None)
    expected = opened(predict(replace(config, rollout_hours=step)))
    found = climax_hpc.ClimaX.from_pretrained(noisy).forecast(
        physical, lead=["6h", "24h", "30h"], rollout=rollout, batch_size=3, members=4,
        statistics=ensemble.statistics, quantiles=ensemble.quantiles, exceedance=ensemble.exceedance,
    )  # fmt: skip
    assert set(found.variables) == set(expected.variables)
    for name, variable in found.variables.items():
        assert variable.dims == expected[name].dims
        np.testing.assert_array_equal(variable.values, expected[name].values)


def test_interrupted_ensembles_resume(
    ensemble: PredictConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(ensemble, output=str(tmp_path / "nc"), start_every_hours=None, lead_hours=(6, 24))
    whole = predict(replace(config, output=str(tmp_path / "whole")))
    write = MemberGatherer.write

    def write_or_stop(self: MemberGatherer, place: int, lead: int, member: int, fields_OHW: NDArray[Any]) -> None:
        if (place, lead, member) == (2, 1, 3):
            raise KeyboardInterrupt
        write(self, place, lead, member, fields_OHW)

    monkeypatch.setattr(MemberGatherer, "write", write_or_stop)
    with pytest.raises(KeyboardInterrupt):
        predict(config)
    monkeypatch.undo()
    assert len(list((tmp_path / "nc").glob("*.nc"))) == 2
    with pytest.raises(UserError, match=r"holds a prediction with another members \(4 there, 3 now\)"):
        predict(replace(config, members=3))
    with pytest.raises(UserError, match=r"holds a prediction with another quantiles"):
        predict(replace(config, quantiles=[0.5]))
    resumed = predict(config)
    assert "resuming after 2 of 4 starts" in capsys.readouterr().out
    for file in whole.glob("*.nc"):
        xr.testing.assert_equal(opened(resumed / file.name), opened(file))


@pytest.mark.parametrize(("rollout", "batch"), [(None, 3), (None, 9), (6.0, 1), (6.0, 9)])
def test_memory_is_bounded(
    ensemble: PredictConfig, monkeypatch: pytest.MonkeyPatch, rollout: float | None, batch: int
) -> None:
    """Of the 2 starts × 3 lead times × 4 members at most those of one batch wait, or all members of one start."""
    gatherers: list[MemberGatherer] = []
    build = MemberGatherer.__init__

    def watched(self: MemberGatherer, *arguments: Any, **options: Any) -> None:
        gatherers.append(self)
        build(self, *arguments, **options)

    monkeypatch.setattr(MemberGatherer, "__init__", watched)
    predict(replace(ensemble, batch_size=batch, rollout_hours=rollout))
    assert gatherers[0].most_waiting <= max(batch, 4)


def test_other_layouts_hold_members_and_refuse_statistics(ensemble: PredictConfig, tmp_path: Path) -> None:
    members = replace(ensemble, statistics=[], quantiles=[], exceedance={}, start_every_hours=24)
    plain = opened(predict(members))
    wb = xr.open_zarr(predict(replace(members, layout="weatherbench", output=str(tmp_path / "wb.zarr"))))
    np.testing.assert_array_equal(wb["geopotential"].sel(level=500).values, plain[Z500].values)
    cmip = predict(replace(members, layout="cmip", output=str(tmp_path / "cmip")))
    for member in range(4):
        (file,) = cmip.glob(f"tas_*_noisy_forecast_*-r{member + 1}i1p1f1_*.nc")
        np.testing.assert_array_equal(opened(file).tas.values, plain[T2M].values[0, :, member])
    for layout, output in (("weatherbench", "x.zarr"), ("cmip", "x")):
        with pytest.raises(UserError, match=rf"^layout: {layout} holds members only, .*: use layout: cf$"):
            replace(ensemble, layout=layout, output=output)  # type: ignore[arg-type]


BAD_VALUES: list[tuple[dict[str, Any], str]] = [
    ({"members": 0}, "members must be at least 1"),
    ({"noise_seed": -1}, "noise_seed must be 0 or more"),
    ({"statistics": ["median"]}, "statistics: 'median' is unknown; use mean, spread, minimum, maximum"),
    ({"statistics": ["mean", "mean"]}, "statistics: name each of them once"),
    ({"quantiles": [0.0, 0.5]}, "quantiles must lie between 0 and 1"),
    ({"quantiles": [0.9, 0.5]}, "quantiles must ascend"),
    ({"exceedance": {"2m_temperatur": [1.0]}}, "did you mean 2m_temperature"),
    ({"exceedance": {T2M: [0.0, 280.0]}}, "exceedance: 0 is no 2m_temperature in K, which lies in 150 … 400; convert"),
    ({"exceedance": {T2M: []}}, "give 2m_temperature one threshold or more"),
    ({"exceedance": {T2M: [280.0, 270.0]}}, "the thresholds of 2m_temperature must ascend"),
    ({"keep_members": False}, "keep_members: nothing is left to write"),
]


@pytest.mark.parametrize(("change", "message"), BAD_VALUES)
def test_bad_values(config: PredictConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as found:
        replace(config, **change)
    assert "\n" not in str(found.value)


def test_what_models_cannot_do_is_refused(config: PredictConfig, noisy: str, physical: xr.Dataset) -> None:
    with pytest.raises(UserError, match=r"^members = 3: no model has noise \(model.noise_dim is 0\)"):
        predict(replace(config, members=3))
    with pytest.raises(UserError, match=r"^statistics, quantiles and exceedance need two members or more"):
        predict(replace(config, statistics=["mean"]))
    of_noisy = replace(config, models={"noisy": noisy}, members=2, variables=[Z500], exceedance={T2M: [280.0]})
    with pytest.raises(UserError, match=r"^exceedance: 2m_temperature is not among the variables that are written"):
        predict(of_noisy)
    assert not Path(config.output).exists()
    with pytest.raises(UserError, match="members belongs to task forecast"):
        registry.predict(replace(config, task="downscaling", members=2))
    with pytest.raises(UserError, match="layout: weatherbench holds members only"):
        climax_hpc.ClimaX.from_pretrained(noisy).forecast(
            physical, lead=6, members=2, statistics=["mean"], layout="weatherbench"
        )


class _Kept:
    """A writer that keeps what it gets."""

    def __init__(self) -> None:
        self.members: list[tuple[int, int, int]] = []
        self.statistics: dict[tuple[int, int], NDArray[np.float32]] = {}

    def write(self, place: int, lead: int, member: int, _fields_OHW: NDArray[Any]) -> None:
        self.members.append((place, lead, member))

    def write_statistics(self, place: int, lead: int, members_MOHW: NDArray[np.float32]) -> None:
        self.statistics[place, lead] = members_MOHW


def test_members_in_any_order_are_gathered_in_theirs() -> None:
    kept = _Kept()
    gatherer = MemberGatherer(kept, 3, keep_members=False)
    order: Sequence[int] = (2, 0, 1)
    for member in order:
        for place in (0, 1):
            gatherer.write(place, 0, member, np.full((1, 2, 2), 10 * place + member))
    assert kept.members == []
    assert {key: members[:, 0, 0, 0].tolist() for key, members in kept.statistics.items()} == {
        (0, 0): [0, 1, 2], (1, 0): [10, 11, 12]
    }  # fmt: skip
    assert gatherer.most_waiting == 5  # the last member of place 0 frees its three
