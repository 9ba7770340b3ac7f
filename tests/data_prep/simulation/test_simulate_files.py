"""What the simulator writes is CF and CMIP6-DRS: the shipped sample, and one real short run of the GCM."""

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
import yaml

import climax_hpc.data_prep
from climax_hpc.data_prep.simulation.config import SimulateConfig, sources
from climax_hpc.data_prep.simulation.driver_settings import drs_member, global_attributes, variables
from climax_hpc.data_prep.simulation.jcm_variables import VARIABLES
from climax_hpc.data_prep.simulation.jcm_venv import JCM_VERSION, default_venv, installed_version
from climax_hpc.data_prep.simulation.simulate import DRIVER, simulate

SAMPLE = Path(climax_hpc.data_prep.__file__).parent / "sample"
CONFIGS = Path(climax_hpc.__file__).parent / "configs"
NAMES = ("a", "b", "c")


def sample_config(name: str) -> SimulateConfig:
    return SimulateConfig(**yaml.safe_load((CONFIGS / f"sample_jcm_{name}.yaml").read_text()))


def sample_files() -> list[Path]:
    return sorted(SAMPLE.rglob("*.nc"))


def instant(time: netCDF4.Variable, index: int) -> Any:
    """One instant of a time axis as a date of its calendar."""
    return netCDF4.num2date(time[index], time.units, time.calendar)


def check_cf(path: Path) -> None:
    """CF-1.7 axes and attributes, and agreement of the DRS path, the file name and the header."""
    with netCDF4.Dataset(path) as file:
        attributes = {key: file.getncattr(key) for key in file.ncattrs()}
        assert attributes["Conventions"] == "CF-1.7"
        assert "NOT a CMIP6 product" in attributes["comment"]
        keys = ("mip_era", "activity_id", "institution_id", "source_id", "experiment_id", "variant_label", "table_id")
        drs = [attributes[key] for key in (*keys, "variable_id", "grid_label")]
        assert list(path.parts[-11:-2]) == drs
        assert path.parts[-2].startswith("v20")
        name = attributes["variable_id"]
        stem = "_".join(
            [name, *(attributes[k] for k in ("table_id", "source_id", "experiment_id", "variant_label")), "gn"]
        )
        variable = file[name]
        assert (variable.standard_name, variable.units) == (VARIABLES[name].standard_name, VARIABLES[name].units)
        assert "area: mean" in variable.cell_methods
        assert variable._FillValue == variable.missing_value
        axes = {"lat": ("Y", "degrees_north"), "lon": ("X", "degrees_east")}
        for axis, (letter, units) in axes.items():
            assert (file[axis].axis, file[axis].units, file[axis].bounds) == (letter, units, f"{axis}_bnds")
            bounds = file[f"{axis}_bnds"][:]
            assert ((bounds[:, 0] < file[axis][:]) & (file[axis][:] < bounds[:, 1])).all()
        if attributes["table_id"] == "fx":
            assert path.name == f"{stem}.nc"
            assert variable.dimensions == ("lat", "lon")
            return
        assert variable.cell_methods == "area: mean time: point"
        assert (attributes["frequency"], file["time"].calendar) == ("6hrPt", "proleptic_gregorian")
        time = file["time"]
        first, last = (instant(time, index).strftime("%Y%m%d%H%M") for index in (0, -1))
        assert path.name == f"{stem}_{first}-{last}.nc"
        if "plev" in variable.dimensions:
            assert (file["plev"].units, file["plev"].positive) == ("Pa", "down")
            assert (np.diff(file["plev"][:]) < 0).all()
        if name in ("tas", "uas", "vas"):
            assert variable.coordinates == "height"
            assert float(file["height"][:]) == (2.0 if name == "tas" else 10.0)
        assert np.isfinite(np.ma.filled(variable[:], np.nan)).all()


def test_every_sample_file_follows_cf_and_the_drs() -> None:
    files = sample_files()
    assert files
    for path in files:
        check_cf(path)


@pytest.mark.parametrize("name", NAMES)
def test_the_sample_matches_its_configuration(name: str) -> None:
    wanted = sample_config(name)
    member = SAMPLE / drs_member(str(wanted.parameter_set))
    assert len(list(member.rglob("*.nc"))) == len(variables(wanted)) * (wanted.years or 0) + 2
    for variable, levels in variables(wanted).items():
        paths = sorted(member.rglob(f"{variable}_6hrPlevPt_*.nc"))
        assert len(paths) == wanted.years
        for year, path in enumerate(paths, start=2001):
            with netCDF4.Dataset(path) as file:
                assert file.seed == wanted.seed
                assert file.jcm_version == JCM_VERSION
                assert json.loads(file.parameter_set) == json.loads(
                    str(global_attributes(sources(wanted)[0])["parameter_set"])
                )
                assert list(file["plev"][:] if levels else []) == levels
                steps = np.round((file["time"][:] - file["time"][0]) * 4, 6)
                assert (steps == np.arange(120)).all()
                start = instant(file["time"], 0)
                assert (start.year, start.month, start.day, start.hour) == (year, 1, 1, 0)


def test_the_samples_share_the_headline_channels_and_differ_in_the_rest() -> None:
    sets = [set(sample_config(name).variables or []) for name in NAMES]
    headline = {"geopotential_500", "temperature_850", "2m_temperature", "u_component_of_wind_850"}
    assert headline | {"v_component_of_wind_850"} <= sets[0] & sets[1] & sets[2]
    assert sets[0] != sets[1] != sets[2] != sets[0]


def test_sample_opens_in_xarray_with_decoded_times() -> None:
    for path in sample_files():
        with xr.open_dataset(path, decode_times=True) as dataset:
            if "time" in dataset:
                assert dataset["time"].dtype.kind == "M"


def test_the_models_have_distinct_climates() -> None:
    """Surface drag and convection differ, so the mean trade wind of every year identifies the model."""
    years: dict[str, list[float]] = {}
    for name in NAMES:
        member = SAMPLE / drs_member(str(sample_config(name).parameter_set))
        for path in sorted(member.rglob("uas_6hrPlevPt_*.nc")):
            with xr.open_dataset(path) as dataset:
                tropics = dataset["uas"].sel(lat=slice(-20, 20)).mean(("time", "lon"))
                years.setdefault(name, []).append(
                    float(np.average(tropics, weights=np.cos(np.deg2rad(tropics["lat"]))))
                )
    ranges = sorted((min(values), max(values)) for values in years.values())
    assert len(ranges) == 3
    assert all(low[1] < high[0] for low, high in itertools.pairwise(ranges)), years


def test_the_sample_stays_small() -> None:
    size = sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file())
    assert size <= 32e6


def real_config(output: Path, **changes: Any) -> SimulateConfig:
    """A short run of the GCM; skips the test where it is not installed."""
    if installed_version(default_venv()) != JCM_VERSION:
        pytest.skip(f"no environment with jcm {JCM_VERSION} at {default_venv()}; `climax-hpc simulate` creates it")
    channels = ["geopotential_500", "2m_temperature"]
    return SimulateConfig(**{"output": str(output), "parameter_set": "JCM-B", "variables": channels, **changes})


@pytest.mark.slow
def test_a_real_short_run(tmp_path: Path) -> None:
    root = simulate(real_config(tmp_path, days=1, spin_up_days=2))
    files = sorted(path.name.split("_")[0] for path in root.rglob("*.nc"))
    assert files == ["orog", "sftlf", "tas", "zg"]
    for path in root.rglob("*.nc"):
        check_cf(path)
    (path,) = root.rglob("zg_*.nc")
    with xr.open_dataset(path) as dataset:
        assert list(dataset["time"].values.astype("datetime64[h]").astype(str)) == [
            f"2001-01-01T{hour:02}" for hour in (0, 6, 12, 18)
        ]
        assert 5000 < float(dataset["zg"].mean()) < 6200


@pytest.mark.faults
def test_a_killed_real_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    check_killed(tmp_path, "state/model", files=4, days=12, spin_up_days=9)


@pytest.mark.faults
def test_a_killed_real_ensemble_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    """Killed in the second member of the second start, after the first block of the control."""
    starts = ["2001-01-01", "2001-01-05"]
    given = {"members": 2, "starts": starts, "member_hours": 30, "days": 12, "spin_up_days": 9}
    check_killed(tmp_path, "state/blocks-1/200101050600.npz", files=4 + 2 * 6, **given)
    members = sorted((tmp_path / "parted").rglob("zg_*i2p1f1_gn_200101050600-*.nc"))
    for path in members:
        check_cf(path)
    (control,) = (tmp_path / "parted").rglob("zg_*r1i1p1f1*.nc")
    with xr.open_dataset(control) as of_control, xr.open_dataset(members[0]) as one, xr.open_dataset(members[1]) as two:
        apart = [np.abs(a["zg"] - of_control["zg"].sel(time=a["time"])).mean() for a in (one, two)]
        assert all(0.1 < float(distance) < 20 for distance in apart)  # [m]
        assert float(np.abs(one["zg"] - two["zg"]).mean()) > 0.1


def check_killed(folder: Path, until: str, *, files: int, **settings: Any) -> None:
    """Kill a run when this file of its unfinished folder is there; it goes on with the bits of an undisturbed one."""
    whole, parted = (real_config(folder / name, **settings) for name in ("whole", "parted"))
    simulate(whole)
    modules = "".join(f"from climax_hpc.data_prep.simulation.{name} import *\n" for name in ("ensemble", "simulate"))
    code = f"{modules}simulate({parted!r})"
    reached = folder / ".parted-JCM-B-r1-partial" / until
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL) as run:
        while not reached.exists():
            assert run.poll() is None
            time.sleep(0.05)
        run.kill()
    lines: list[str] = []
    simulate(parted, lines.append)
    assert any("resumes at day" in line for line in lines)
    paths = {name: sorted((folder / name).rglob("*.nc")) for name in ("whole", "parted")}
    assert len(paths["whole"]) == len(paths["parted"]) == files
    for one, other in zip(paths["whole"], paths["parted"], strict=True):
        with netCDF4.Dataset(one) as a, netCDF4.Dataset(other) as b:
            for name in a.variables:
                assert np.asarray(a[name][:]).tobytes() == np.asarray(b[name][:]).tobytes(), (one.name, name)


@pytest.mark.slow
def test_perturbations_have_their_amplitudes_in_the_real_model() -> None:
    real_config(Path("unused"), days=1)
    script = Path(__file__).with_name("measure_perturbation.py")
    run = subprocess.run(
        [default_venv() / "bin" / "python", script, DRIVER], capture_output=True, text=True, check=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["temperature"] == pytest.approx([0.3] * 5, rel=1e-3)  # [K], at every level
    assert found["wind"] == pytest.approx([0.5] * 5, rel=0.01)  # [m/s], of each component
    assert found["humidity"] == pytest.approx([0.2] * 5, rel=0.02)  # of its logarithm; the spectrum is cut off
    assert found["divergence"] == found["dry"] == [0.0] * 5
    assert found["mean"] == pytest.approx(0, abs=1e-6)
    assert found["members_differ"]
    assert found["same_bits"]
