"""Packing end to end: contents against plain numpy, gaps, files in parts, calendars, gzip, real CMIP6."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cftime
import h5py
import numpy as np
import pytest
import xxhash

from climax_hpc.config.parser import read_config
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.packing.regrid import regridder
from climax_hpc.data_prep.verify import verify
from climax_hpc.fields.grid import regular_grid
from climax_hpc.shards.manifest import read_manifest
from climax_hpc.shards.xarray_view import open_physical
from climax_hpc.utils.files import sha256

from .packed import NAME, physical, static

Settings = Callable[..., PackConfig]


def test_a_shard_has_the_documented_contents(cmip6: Any, settings: Settings) -> None:
    rng = np.random.default_rng(0)
    raw = {"tas": 280 + rng.standard_normal((8, 12, 24)), "zg": 5500 + rng.standard_normal((8, 2, 12, 24))}
    raw["zg"][:, 0] -= 4000
    raw["tas"][2, 3] = np.nan
    cmip6("tas", values=raw["tas"])
    cmip6("zg", values=raw["zg"], plev_hpa=[850, 500])
    cmip6("sftlf", table="fx", frequency="fx", units="%", values=np.full((12, 24), 25.0))
    folder = pack(settings()).parent
    manifest = verify(folder)
    source = manifest.sources[NAME]
    assert source.channels == ["2m_temperature", "geopotential_500", "geopotential_850"]
    assert source.static == ["land_sea_mask", "latitude"]
    assert [(s.steps, s.first, s.last) for s in source.shards] == [(8, "1850-01-01T00:00:00", "1850-01-02T18:00:00")]
    grid = regular_grid(22.5)
    edges = [np.linspace(a, b, n + 1) for a, b, n in ((-90, 90, 12), (-7.5, 352.5, 24))]
    source_grid = type(grid)(
        lat=np.arange(-82.5, 90, 15),
        lon=np.arange(0, 360, 15.0),
        lat_bnds=np.stack([edges[0][:-1], edges[0][1:]], axis=-1),
        lon_bnds=np.stack([edges[1][:-1], edges[1][1:]], axis=-1),
    )
    to_target = regridder(source_grid, grid, "conservative")
    z500 = to_target(np.float32(raw["zg"][:, 1]).astype(float) * 9.80665).astype(np.float32).astype(float)
    assert np.allclose(physical(folder)[:, 1], z500, rtol=1e-7)
    t2m = to_target(np.float32(raw["tas"]).astype(float))
    assert np.allclose(physical(folder)[:, 0], t2m, rtol=1e-6, equal_nan=True)
    assert not np.isnan(t2m).any()  # a row of 15° does not cover a row of 22.5°
    with h5py.File(folder / source.shards[0].file) as file:
        assert file["fields"].chunks == (1, 3, 8, 16)
        assert file["fields"].dtype == np.float32
        assert file["time"].attrs["calendar"] == "noleap"
        assert np.array_equal(file["time"][:], np.arange(8) * 6.0)
        assert [int(c) for c in file["checksum"][:]] == [
            xxhash.xxh3_64_intdigest(step.tobytes()) for step in file["fields"][:]
        ]
        assert "static" not in file
        assert json.loads(file.attrs["cell_methods"])["2m_temperature"] == "area: mean time: point"
        inputs = json.loads(file.attrs["inputs"])
        assert len(inputs) == 3
        assert all(sha256(cmip6.root / entry["file"]) == entry["sha256"] for entry in inputs)
    fields = static(folder)
    assert list(fields) == ["land_sea_mask", "latitude"]
    assert np.allclose(fields["land_sea_mask"], 0.25)
    assert np.allclose(fields["latitude"], np.array(source.grid["lat"])[:, None])
    stored = source.statistics["geopotential_500"]
    assert stored["mean"] == pytest.approx(z500.mean(), rel=1e-12)
    assert stored["std"] == pytest.approx(z500.std(), rel=1e-10)
    assert (stored["min"], stored["max"]) == (z500.min(), z500.max())


def test_shards_open_as_xarray_in_registry_units(cmip6: Any, settings: Settings) -> None:
    cmip6("tas", times=cmip6.six_hourly(12), calendar="360_day")
    folder = pack(settings()).parent
    source = read_manifest(folder).sources[NAME]
    view = open_physical(folder / source.shards[0].file)
    assert np.allclose(view["2m_temperature"].values, physical(folder)[:, 0], rtol=1e-6)
    assert view["2m_temperature"].units == "K"
    assert view["latitude"].dims == ("lat", "lon")
    assert view.time.values[1].isoformat() == "1850-01-01T06:00:00"
    assert source.climatology is not None
    assert open_physical(folder / source.climatology.file)["2m_temperature"].shape == (12, 8, 16)


def test_statistics_use_only_the_training_period(cmip6: Any, settings: Settings) -> None:
    cmip6("tas", times=cmip6.six_hourly(4 * 365 * 2))
    folder = pack(settings(train_period=["1850", "1850"], dtype="float16", steps_per_shard=500)).parent
    fields = physical(folder)
    stored = read_manifest(folder).sources[NAME].statistics["2m_temperature"]
    assert stored["mean"] == pytest.approx(fields[: 4 * 365].mean(), abs=1e-3)
    assert stored["std"] == pytest.approx(fields[: 4 * 365].std(), rel=1e-3)
    assert abs(fields.mean() - stored["mean"]) > 1e-2


def test_a_gap_splits_and_is_never_filled(cmip6: Any, settings: Settings) -> None:
    times = np.concatenate([cmip6.six_hourly(6), cmip6.six_hourly(5, start_day=20)])
    cmip6("tas", times=times)
    cmip6("psl", times=np.delete(times, 8))  # one variable lacks a step: a gap of the source
    folder = pack(settings()).parent
    source = verify(folder).sources[NAME]
    assert [(s.steps, s.segment) for s in source.shards] == [(6, 0), (2, 1), (2, 2)]
    assert [gap["after"] for gap in source.gaps] == ["1850-01-02T06:00:00", "1850-01-21T06:00:00"]
    assert source.dropped_steps == 1


def test_variables_in_several_files_are_joined(cmip6: Any, settings: Settings, tmp_path: Path) -> None:
    values = 280 + np.random.default_rng(0).standard_normal((12, 12, 24))
    cmip6("psl", times=cmip6.six_hourly(12))
    cmip6("tas", times=cmip6.six_hourly(12), values=values)
    whole = physical(pack(settings()).parent)
    shutil.rmtree(tmp_path / "in" / "TEST-1" / "historical" / "r1i1p1f1" / "6hrPlevPt" / "tas")
    for i, cut in enumerate((slice(0, 5), slice(5, 7), slice(7, 12))):
        cmip6("tas", times=cmip6.six_hourly(12)[cut], values=values[cut], part=f"_part{2 - i}")
    parts = pack(settings(output=str(tmp_path / "parts"))).parent
    assert np.array_equal(physical(parts), whole)
    assert len(read_manifest(parts).sources[NAME].shards) == 1


def test_the_block_size_does_not_change_the_fields(
    cmip6: Any, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = 280 + np.random.default_rng(0).standard_normal((30, 12, 24))
    values[3:20, 4:6] = np.nan
    cmip6("tas", times=cmip6.six_hourly(30), values=values)
    one = physical(pack(settings(dtype="float16")).parent)
    monkeypatch.setattr("climax_hpc.data_prep.packing.field_blocks._BLOCK_BYTES", 3 * 8 * 12 * 24)
    other = physical(pack(settings(dtype="float16", output=str(tmp_path / "small"))).parent)
    assert np.allclose(one, other, rtol=1e-12, equal_nan=True)


def test_only_requested_variables_are_packed(cmip6: Any, settings: Settings) -> None:
    cmip6("tas")
    cmip6("psl")
    cmip6("ta", plev_hpa=[850, 500])
    cmip6("psl", source="OTHER")
    manifest = verify(pack(settings(variables=["temperature_850", "2m_temperature"], climatology=False)).parent)
    assert manifest.sources[NAME].channels == ["2m_temperature", "temperature_850"]
    assert manifest.sources[NAME].static == []
    assert manifest.sources[NAME].climatology is None
    assert list(manifest.sources) == [NAME]
    assert {s["reason"] for s in manifest.skipped} == {"variable psl is not among the selected variables"}


def test_gzip_stores_the_same_fields_in_fewer_bytes(cmip6: Any, settings: Settings, tmp_path: Path) -> None:
    cmip6("tas", values=280 + np.repeat(np.arange(8.0), 12 * 24).reshape(8, 12, 24))
    plain = pack(settings(steps_per_shard=5)).parent
    zipped = pack(settings(steps_per_shard=5, output=str(tmp_path / "zip"), compression="gzip")).parent
    verify(zipped)
    for entry in read_manifest(plain).sources[NAME].shards:
        with h5py.File(plain / entry.file) as one, h5py.File(zipped / entry.file) as other:
            assert other["fields"].compression == "gzip"
            assert np.array_equal(one["fields"][:], other["fields"][:])
            assert np.array_equal(one["checksum"][:], other["checksum"][:])
            assert other["fields"].id.get_storage_size() < one["fields"].id.get_storage_size()


def test_the_statistics_do_not_depend_on_the_length_of_the_shards(
    cmip6: Any, settings: Settings, tmp_path: Path
) -> None:
    values = 280 + np.random.default_rng(0).standard_normal((20, 12, 24))
    values[3:9, 2:5] = np.nan
    cmip6("tas", times=cmip6.six_hourly(20), values=values)
    found = [
        read_manifest(pack(settings(steps_per_shard=n, output=str(tmp_path / str(n)))).parent).sources[NAME].statistics
        for n in (3, 7, 20)
    ]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(("calendar", "days"), [("standard", 366), ("noleap", 365), ("360_day", 360)])
def test_calendars_members_and_static_fields_pack_end_to_end(
    cmip6: Any, settings: Settings, calendar: str, days: int
) -> None:
    start = {"standard": 730 + 58, "noleap": 730 + 58, "360_day": 720 + 58}[calendar]  # late February 1852, a leap year
    for member in ("r1i1p1f1", "r2i1p1f1"):
        cmip6("tas", times=cmip6.six_hourly(12, start_day=start), calendar=calendar, member=member)
    orography = 100 * np.random.default_rng(0).random((12, 24))
    cmip6("orog", table="fx", frequency="fx", values=orography, member="r1i1p1f1")
    folder = pack(settings()).parent
    manifest = verify(folder)
    assert list(manifest.sources) == [f"TEST-1_historical_r{i}i1p1f1" for i in (1, 2)]
    means = {source.statistics["2m_temperature"]["mean"] for source in manifest.sources.values()}
    assert len(means) == 2
    for name, source in manifest.sources.items():
        assert (source.calendar, source.gaps, sum(s.steps for s in source.shards)) == (calendar, [], 12)
        assert source.static == ["orography", "latitude"]
        last = {"standard": "1852-03-01", "noleap": "1852-03-02", "360_day": "1852-03-01"}[calendar]
        assert source.shards[0].last == f"{last}T18:00:00"
        with h5py.File(folder / source.shards[0].file) as file:
            view = cftime.num2date(file["time"][:], file["time"].attrs["units"], calendar)
            assert (view[0].month, view[0].day, view[0].calendar) == (2, {"360_day": 29}.get(calendar, 28), calendar)
        assert static(folder, name)["orography"].mean() == pytest.approx(orography.mean(), rel=0.2)


@pytest.mark.slow
def test_the_shipped_sample_packs_with_the_shipped_settings(tmp_path: Path) -> None:
    config = read_config(PackConfig, "climax-hpc pack", ["--config", "demo_pack", "--output", str(tmp_path / "out")])
    manifest = verify(pack(config).parent)
    steps = {name.split("_")[0]: sum(s.steps for s in source.shards) for name, source in manifest.sources.items()}
    assert steps == {"JCM-A": 360, "JCM-B": 360, "JCM-C": 480}
    for source in manifest.sources.values():
        assert {"2m_temperature", "geopotential_500", "temperature_850", "u_component_of_wind_850"} < {*source.channels}
        assert source.climatology is not None
        assert source.climatology.slots == 120
    assert manifest.skipped == [{"file": "README.md", "reason": "its name does not end in .nc"}]


@pytest.mark.shared_data
def test_real_access_esm1_5(shared_data: Path, tmp_path: Path) -> None:
    config = PackConfig(input=str(shared_data / "climate-ref-sample-data"), output=str(tmp_path / "out"))
    manifest = verify(pack(config).parent)
    assert len(manifest.sources) == 8
    historical = manifest.sources["ACCESS-ESM1-5_historical_r1i1p1f1"]
    assert historical.channels == ["2m_temperature", "total_precipitation_rate", "skin_temperature"]
    assert "land_sea_mask" in historical.static
    assert 270 < historical.statistics["2m_temperature"]["mean"] < 290
    reasons = {s["file"].rsplit("/", 1)[-1].split("_")[0]: s["reason"] for s in manifest.skipped}
    assert "curvilinear" in reasons["tos"]
    assert "not in the registry" in reasons["areacella"]


@pytest.mark.shared_data
def test_real_canesm5(shared_data: Path, tmp_path: Path) -> None:
    config = PackConfig(
        input=str(shared_data / "xcdat-data"), output=str(tmp_path / "out"), train_period=["1870", "1872"]
    )
    source = verify(pack(config).parent).sources["CanESM5_historical_r13i1p1f1"]
    assert (source.calendar, sum(s.steps for s in source.shards), source.gaps) == ("noleap", 60, [])
