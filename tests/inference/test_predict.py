"""`climax-hpc predict`: the numbers of a plain forward pass, whatever the input; CF files that other tools open."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cf_xarray  # noqa: F401  (registers the accessor `cf`)
import cftime
import numpy as np
import pytest
import xarray as xr

from climax_hpc.cli import main
from climax_hpc.config.inference import PredictConfig
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.sampler import Sample
from climax_hpc.errors import UserError
from climax_hpc.inference.forecaster import Forecaster
from climax_hpc.inference.predict import predict
from climax_hpc.inference.writers import SETTINGS_FILE
from climax_hpc.tools.convert import convert
from climax_hpc.tools.convert_config import ConvertConfig
from climax_hpc.utils.files import write_json

from .conftest import as_cmip6, seal

Z500, T2M = "geopotential_500", "2m_temperature"
FIRST = 144 + 8  # time index of 2004-01-03, 00 h


def opened(path: Path, **options: Any) -> xr.Dataset:
    return xr.open_dataset(path, decode_timedelta=False, **options).load()


def of_evaluation(dataset: Path, checkpoint: str, start: int, leads: tuple[int, ...]) -> dict[str, Any]:
    """Variable -> (leads, H, W) by the forecaster that `evaluate` scores, in physical units."""
    source = DataSet(dataset).select(None)[0]
    model = Forecaster.load(checkpoint, source)
    z = model.forecast([Sample(time_index=start, lead_steps=lead // 6) for lead in leads]).numpy()
    places = [source.channels.index(v) for v in model.variables]
    physical = z * source.std_C[places][:, None, None] + source.mean_C[places][:, None, None]
    return {name: physical[:, i] for i, name in enumerate(model.variables)}


@pytest.mark.parametrize("mode", ["full", "anomaly"])
def test_forecasts_are_those_that_evaluation_scores(
    config: PredictConfig, dataset: Path, checkpoints: dict[str, str], mode: str
) -> None:
    folder = predict(replace(config, models={mode: checkpoints[mode]}))
    files = sorted(folder.glob("*.nc"))
    assert [f.name for f in files] == [f"forecast_20040103T{h:02d}0000.nc" for h in (0, 6, 12, 18)]
    for i, file in enumerate(files):
        expected = of_evaluation(dataset, checkpoints[mode], FIRST + i, (6, 24, 30))
        for name, field in opened(file)[list(expected)].items():
            spread = expected[str(name)].std()
            np.testing.assert_allclose(field.values, expected[str(name)], atol=1e-4 * spread, rtol=2e-7)


def test_file_follows_cf(config: PredictConfig) -> None:
    ds = opened(sorted(predict(config).glob("*.nc"))[1])
    assert ds.attrs["Conventions"] == "CF-1.11"
    assert ds[Z500].dims == ("time", "lat", "lon")
    assert ds[Z500].attrs["standard_name"] == "geopotential"
    assert ds[Z500].attrs["units"] == "m2 s-2"
    assert ds[Z500].attrs["long_name"] == "geopotential at 500 hPa"
    assert ds.cf["forecast_reference_time"].item() == cftime.datetime(2004, 1, 3, 6, calendar="noleap")
    np.testing.assert_array_equal(ds.cf["forecast_period"], [6, 24, 30])
    assert ds.cf["forecast_period"].attrs["units"] == "hours"
    assert ds.time.values[1] == cftime.datetime(2004, 1, 4, 6, calendar="noleap")
    assert {axis: names for axis, names in ds.cf.axes.items() if axis != "Z"} == {
        "T": ["time"],
        "X": ["lon"],
        "Y": ["lat"],
    }
    assert ds.cf.bounds["lat"] == ["lat_bnds"]
    np.testing.assert_allclose(ds.lat_bnds[0], [-90, -67.5])
    assert ds[Z500].plev_500.item() == 50000
    assert ds[T2M].height_2m.item() == 2
    assert "plev_500" not in ds[T2M].encoding["coordinates"]
    assert "sha256" in ds.attrs["members"]


@pytest.mark.skipif(shutil.which("cdo") is None, reason="no cdo on PATH: apt install cdo")
@pytest.mark.parametrize("several", [False, True])
def test_cdo_reads_it(config: PredictConfig, checkpoints: dict[str, str], several: bool) -> None:
    models = {label: checkpoints[label] for label in (("full", "other") if several else ("full",))}
    file = sorted(predict(replace(config, models=models)).glob("*.nc"))[0]
    done = subprocess.run(["cdo", "sinfo", str(file)], capture_output=True, text=True, check=True)
    assert "points=128 (16x8)" in done.stdout
    assert "cellbounds" in done.stdout
    assert "2004-01-03 06:00:00" in done.stdout
    # cdo 2.1 has room for one dimension beside time, lat and lon: a level or a member.
    assert ("realization : 0 to 1" if several else "plev_500 : 50000 Pa") in done.stdout
    mean = subprocess.run(
        ["cdo", "-s", "outputf,%.8g", "-fldmean", f"-selname,{Z500}", str(file)],
        capture_output=True,
        text=True,
        check=True,
    )
    ds = opened(file)
    weight = np.diff(np.sin(np.deg2rad(ds.lat_bnds)), axis=1)[:, 0]
    expected = ds[Z500].mean("lon").weighted(xr.DataArray(weight, dims="lat")).mean("lat").values.ravel()
    np.testing.assert_allclose([float(x) for x in mean.stdout.split()], expected, rtol=2e-6)


def test_netcdf_input_in_other_names_units_and_orientation(
    config: PredictConfig, physical: xr.Dataset, tmp_path: Path
) -> None:
    folder = predict(config)
    as_cmip6(physical).to_netcdf(tmp_path / "states.nc")
    other = predict(replace(config, input=str(tmp_path / "states.nc"), output=str(tmp_path / "from_netcdf")))
    for file in sorted(folder.glob("*.nc")):
        ours, theirs = opened(file), opened(other / file.name)
        for name in (Z500, T2M):
            np.testing.assert_allclose(theirs[name], ours[name], atol=1e-3 * float(ours[name].std()), rtol=2e-7)


def test_one_file_per_variable_and_zarr(config: PredictConfig, physical: xr.Dataset, tmp_path: Path) -> None:
    folder = predict(config)
    expected = opened(sorted(folder.glob("*.nc"))[0])
    cmip6 = as_cmip6(physical)
    split = tmp_path / "files"
    split.mkdir()
    for name in cmip6.data_vars:
        for part, steps in enumerate((slice(0, 4), slice(4, 12)) if "time" in cmip6[name].dims else (slice(None),)):
            piece = (
                cmip6[[name]].isel(time=steps)
                if "time" in cmip6[name].dims
                else cmip6[[name]].drop_vars("time", errors="ignore")
            )
            piece.to_netcdf(split / f"{name}_{part}.nc")
    physical.to_zarr(tmp_path / "states.zarr")
    for number, given in enumerate((str(split), str(tmp_path / "states.zarr"))):
        out = predict(replace(config, input=given, output=str(tmp_path / f"o{number}")))
        found = opened(sorted(out.glob("*.nc"))[0])
        np.testing.assert_allclose(found[Z500], expected[Z500], atol=1e-3 * float(expected[Z500].std()), rtol=2e-7)


def test_roll_out_goes_on_from_its_own_forecasts(
    config: PredictConfig, dataset: Path, checkpoints: dict[str, str], physical: xr.Dataset, tmp_path: Path
) -> None:
    single = replace(
        config, period=("2004-01-03", "2004-01-03"), start_every_hours=24, lead_hours=(12,), rollout_hours=6
    )
    twice = opened(next(predict(single).glob("*.nc")))
    once = opened(next(predict(replace(single, output=str(tmp_path / "a"), lead_hours=(6,))).glob("*.nc")))
    state = physical.isel(time=[9])  # 2004-01-03 06 h: replaced by the forecast valid then
    for name in (v for v in physical.data_vars if "time" in physical[v].dims):
        state[name] = (("time", "lat", "lon"), once[name].values, physical[name].attrs)
    state.to_netcdf(tmp_path / "state.nc")
    again = predict(
        replace(
            config,
            input=str(tmp_path / "state.nc"),
            lead_hours=(6,),
            output=str(tmp_path / "b.nc"),
            start_every_hours=None,
        )
    )
    np.testing.assert_allclose(opened(again)[Z500], twice[Z500], atol=1e-3 * float(twice[Z500].std()), rtol=2e-7)
    direct = opened(next(predict(replace(single, rollout_hours=None, output=str(tmp_path / "c"))).glob("*.nc")))
    assert float(abs(direct[Z500] - twice[Z500]).max()) > 0.1 * float(twice[Z500].std())


def test_ensemble_in_a_zarr_store(config: PredictConfig, checkpoints: dict[str, str], tmp_path: Path) -> None:
    both = {"full": checkpoints["full"], "other": checkpoints["other"]}
    ds = opened(predict(replace(config, models=both, output=str(tmp_path / "out.zarr"))), engine="zarr")
    assert ds[Z500].dims == ("forecast_reference_time", "lead_time", "realization", "lat", "lon")
    assert ds.realization.attrs["standard_name"] == "realization"
    assert ds.time.values[1, 2] == cftime.datetime(2004, 1, 4, 12, calendar="noleap")
    assert ds.attrs["members"].startswith("0: full (step 7")
    for member, label in enumerate(both):
        alone = predict(replace(config, models={label: both[label]}, output=str(tmp_path / label)))
        for i, file in enumerate(sorted(alone.glob("*.nc"))):
            np.testing.assert_array_equal(ds[Z500].values[i, :, member], opened(file)[Z500].values)


def test_batches_do_not_matter(config: PredictConfig, tmp_path: Path) -> None:
    runs = [predict(replace(config, batch_size=size, output=str(tmp_path / f"b{size}"))) for size in (1, 5)]
    for file in runs[0].glob("*.nc"):
        a, b = (opened(run / file.name)[Z500] for run in runs)
        np.testing.assert_allclose(a, b, atol=1e-4 * float(a.std()), rtol=2e-7)


@pytest.mark.parametrize("name", ["out", "out.zarr"])
def test_interrupted_prediction_resumes(
    config: PredictConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """The second of four starts cannot be read until the file is restored: the first is kept, the rest follows."""
    copy = shutil.copytree(str(config.input), tmp_path / "data")
    config = replace(config, input=str(copy), output=str(tmp_path / name), batch_size=1)
    shard = sorted(copy.glob("JCM-C*/JCM-C*_2004*.h5"))[0]
    whole = shard.read_bytes()
    step = DataSet(copy).select(None)[0].read(FIRST + 1).tobytes()
    damaged = bytearray(whole)
    damaged[whole.index(step)] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(UserError, match="does not match its checksum"):
        predict(config)
    assert [p.name for p in tmp_path.glob("out/*.nc")] == (["forecast_20040103T000000.nc"] if name == "out" else [])
    assert not list(tmp_path.glob("out/.*"))
    assert not (tmp_path / "out.zarr").exists()
    shard.write_bytes(whole)
    with pytest.raises(UserError, match=r"holds a prediction with another lead_hours .* or choose another output"):
        predict(replace(config, lead_hours=(6,)))
    resumed = predict(config)
    assert "resuming after 1 of 4 starts" in capsys.readouterr().out
    plain = predict(replace(config, output=str(tmp_path / f"plain_{name}")))
    if name == "out":
        for file in plain.glob("*.nc"):
            xr.testing.assert_equal(opened(resumed / file.name), opened(file))
    else:
        xr.testing.assert_equal(opened(resumed, engine="zarr"), opened(plain, engine="zarr"))
        assert not list(tmp_path.glob(".*"))


def test_a_converted_file_predicts_as_its_checkpoint(
    config: PredictConfig, checkpoints: dict[str, str], tmp_path: Path
) -> None:
    one = tmp_path / "one.safetensors"
    convert(ConvertConfig(source=checkpoints["full"], output=str(one)))
    config = replace(config, lead_hours=(6,))
    written = {}
    for name, model in (("folder", checkpoints["full"]), ("file", str(one))):
        folder = predict(replace(config, models={"full": model}, output=str(tmp_path / name)))
        written[name] = [xr.load_dataset(file) for file in sorted(folder.glob("*.nc"))]
    assert len(written["file"]) == len(written["folder"]) > 1
    for found, expected in zip(written["file"], written["folder"], strict=True):
        assert len(found.data_vars) > 1
        xr.testing.assert_equal(found, expected)


def test_untrained_leads_and_missing_inputs_are_said(
    make_checkpoint: Callable[..., Path], config: PredictConfig, physical: xr.Dataset, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A checkpoint that knows its training range: 240 h is outside, 9 h between the steps."""
    folder = make_checkpoint(Path(str(config.input)), mode="full")
    about = json.loads((folder / "model.json").read_text())
    source = DataSet(str(config.input)).select(None)[0]
    grid = source.grid.to_dict()
    about["trained"] = {"min_lead_hours": 6.0, "max_lead_hours": 168.0, "lead_step_hours": 6.0, "grid": grid}
    write_json(folder / "model.json", about)
    seal(folder)
    physical.drop_vars("orography").to_netcdf(tmp_path / "in.nc")
    known = replace(config, models={"m": str(folder)}, input=str(tmp_path / "in.nc"))
    ds = opened(sorted(predict(replace(known, lead_hours=(9, 240))).glob("*.nc"))[0])
    said = capsys.readouterr().out
    for text in ("240 h is outside", "9 h is interpolated", "trained with orography, which the input lacks"):
        assert text in said
        assert text in ds.attrs["comment"]
    shifted = physical.assign_coords(lat=physical.lat * 0.99)
    shifted.to_netcdf(tmp_path / "shifted.nc")
    with pytest.raises(UserError, match=r"lies on 8 × 16 cells \(-77.9.*set regrid to conservative or bilinear"):
        predict(replace(known, input=str(tmp_path / "shifted.nc"), output=str(tmp_path / "x")))
    predict(replace(known, input=str(tmp_path / "shifted.nc"), output=str(tmp_path / "x"), regrid="bilinear"))


BAD = {
    "no such period": ({"period": ("1990", "1990")}, "select no start time of JCM-C.*covers 2001-01-01"),
    "unknown variable": ({"variables": ["geopotental_500"]}, "did you mean geopotential_500"),
    "variable not forecast": ({"variables": ["temperature_500"]}, "but not temperature_500; change the list"),
    "input absent": ({"input": "nowhere.nc"}, "input: nowhere.nc does not exist"),
    "input is text": ({"input": __file__}, "cannot be opened as NetCDF or zarr"),
    "regrid packed data": ({"regrid": "bilinear"}, "does not apply to a packed data set"),
    "several starts in one file": ({"output": "x.nc"}, "one NetCDF file, but there are 4 starts"),
    "output in a file": ({"output": f"{__file__}/x"}, "output: .* is a file"),
    "no checkpoint": ({"models": {"a": "nowhere"}}, "no checkpoint in nowhere"),
    "no such source": ({"source": "ERA5"}, "no source 'ERA5'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(config: PredictConfig, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    change, message = BAD[name]
    with pytest.raises(UserError, match=message):
        predict(replace(config, **change))  # type: ignore[arg-type]
    assert not Path(config.output).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": {}}, "models is empty"),
        ({"lead_hours": ()}, "lead_hours: give one lead time or more"),
        ({"lead_hours": (24, 6)}, "must ascend"),
        ({"rollout_hours": 12}, "lead_hours: 6 h is not a multiple of rollout_hours = 12"),
        ({"rollout_hours": -6}, "rollout_hours must be above 0"),
        ({"batch_size": 0}, "batch_size"),
        ({"start_every_hours": 0}, "start_every_hours"),
        ({"regrid": "nearest"}, "regrid: use conservative"),
        ({"variables": []}, "variables is empty"),
        ({"input": []}, "input is empty"),
    ],
)
def test_bad_values(config: PredictConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(config, **change)


BAD_FILES: dict[str, tuple[Callable[[xr.Dataset], xr.Dataset], str]] = {
    "no units": (
        lambda ds: ds.assign(tas=ds.tas.assign_attrs(units="")),
        r"tas has no units .*; set the attribute `units` of the variable, or",
    ),
    "wrong units": (lambda ds: ds.assign(tas=ds.tas.assign_attrs(units="m")), "tas in 'm' does not convert to 'K'"),
    "no time": (lambda ds: ds.isel(time=0, drop=True), "has no coordinate `time`"),
    "regional": (lambda ds: ds.isel(lat=slice(0, 4)), "covers only"),
    "nothing known": (
        lambda ds: ds.rename({v: f"x{v}" for v in ds.data_vars}),
        "none of .* is a registry or CMIP6 name",
    ),
    "infinite": (lambda ds: ds.assign(tas=(ds.tas * np.inf).assign_attrs(units="K")), "tas has infinite values"),
    "no levels": (lambda ds: ds.assign(zg=ds.zg.isel(plev=0)), "zg has no pressure level"),
    "an ensemble": (lambda ds: ds.assign(tas=ds.tas.expand_dims(number=2)), "has a dimension number of length 2"),
    "other grid": (lambda ds: ds.isel(lon=slice(None, None, 2)), "lies on 8 × 8 cells .*set regrid"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(config: PredictConfig, physical: xr.Dataset, tmp_path: Path, name: str) -> None:
    change, message = BAD_FILES[name]
    change(as_cmip6(physical)).to_netcdf(tmp_path / "in.nc")
    with pytest.raises(UserError, match=message):
        predict(replace(config, input=str(tmp_path / "in.nc")))
    assert not list(tmp_path.glob("out/*.nc"))


def test_same_time_twice(config: PredictConfig, physical: xr.Dataset, tmp_path: Path) -> None:
    for name in "ab":
        physical.to_netcdf(tmp_path / f"{name}.nc")
    with pytest.raises(UserError, match="has one time twice"):
        predict(replace(config, input=[str(tmp_path / "a.nc"), str(tmp_path / "b.nc")]))


def test_anomaly_mode_needs_a_climatology(
    config: PredictConfig, checkpoints: dict[str, str], physical: xr.Dataset, tmp_path: Path
) -> None:
    physical.to_netcdf(tmp_path / "in.nc")
    bare = replace(config, models={"anomaly": checkpoints["anomaly"]}, input=str(tmp_path / "in.nc"))
    with pytest.raises(UserError, match="needs the climatology of the input: set climatology"):
        predict(bare)
    with pytest.raises(UserError, match=r"has no day 73 of the year at 00 h: forecast for days"):
        predict(replace(bare, climatology=str(config.input), lead_hours=(24.0 * 70,)))
    given = predict(replace(bare, climatology=str(config.input), output=str(tmp_path / "given")))
    packed = predict(replace(config, models=bare.models, output=str(tmp_path / "packed")))
    for file in packed.glob("*.nc"):
        ours, theirs = opened(file)[Z500], opened(given / file.name)[Z500]
        np.testing.assert_allclose(theirs, ours, atol=1e-3 * float(ours.std()), rtol=2e-7)


def test_sources_of_several_and_their_grids(
    make_dataset: Callable[..., Path], config: PredictConfig, physical: xr.Dataset, tmp_path: Path
) -> None:
    two = str(make_dataset({"A_x_r1": {}, "B_x_r1": {}}, dtype="float32"))
    with pytest.raises(UserError, match=r"source: .* holds A_x_r1, B_x_r1; name one"):
        predict(replace(config, input=two))
    physical.to_netcdf(tmp_path / "in.nc")
    with pytest.raises(UserError, match=r"climatology_source: .* holds A_x_r1, B_x_r1; name one"):
        predict(replace(config, input=str(tmp_path / "in.nc"), climatology=two))
    coarse = str(make_dataset(shape=(4, 8)))
    with pytest.raises(UserError, match=r"climatology: source JCM-C.* is on another grid than the input"):
        predict(replace(config, climatology=coarse))
    with pytest.raises(UserError, match=r"JCM-C.* has 4 × 8 cells, the model .* 8 × 16: pack or regrid"):
        predict(replace(config, input=coarse))
    assert not Path(config.output).exists()


def test_other_files_are_left_alone(config: PredictConfig) -> None:
    Path(config.output).mkdir()
    (Path(config.output) / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no prediction"):
        predict(config)
    assert [p.name for p in Path(config.output).iterdir()] == ["thesis.txt"]


def test_command_line(config: PredictConfig, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--models", json.dumps(config.models), "--input", str(config.input), "--output", config.output]
    main(["predict", *words, "--period", '["2004-01-03", "2004-01-03"]', "--lead_hours", "[6]"])
    assert (Path(config.output) / SETTINGS_FILE).exists()
    assert "4 starts, 1 lead times" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["predict", *words, "--lead_hour", "[6]"])
    assert "did you mean lead_hours?" in capsys.readouterr().err
