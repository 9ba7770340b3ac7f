"""`climax-hpc inspect`: the table against the packed data, the figures against the fields, refused input."""

import shutil
from pathlib import Path
from typing import Any

import h5py
import matplotlib.image as mpimg
import numpy as np
import pytest

from climax_hpc.cli import main
from climax_hpc.data.dataset import DataSet
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import decode_times
from climax_hpc.fields.grid import latitude_weights, regular_grid
from climax_hpc.shards.manifest import read_manifest
from climax_hpc.tools.inspect.axes import round_ticks, time_axis, time_ticks
from climax_hpc.tools.inspect.inspect import InspectConfig, inspect
from climax_hpc.tools.inspect.scan import scan
from climax_hpc.tools.inspect.table import describe

SOURCE = "JCM-C_piClim-control_r1i1p1f1"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The third model of the sample at 22.5°: four Januaries, so three gaps."""
    output = tmp_path_factory.mktemp("inspect") / "data"
    config = PackConfig(
        input="@sample",
        output=str(output),
        grid_spacing_deg=22.5,
        sources=[SOURCE],
        variables=[
            "2m_temperature",
            "u_component_of_wind_850",
            "mean_sea_level_pressure",
            "orography",
            "land_sea_mask",
        ],
        climatology=False,
    )
    return pack(config).parent


def fields_of(dataset: Path) -> np.ndarray:
    """All steps (T, C, H, W) in physical units."""
    parts = []
    for shard in read_manifest(dataset).sources[SOURCE].shards:
        with h5py.File(dataset / shard.file) as file:
            parts.append(np.float64(file["fields"][:]) * file["std"][:][:, None, None] + file["mean"][:][:, None, None])
    return np.concatenate(parts)


def test_the_table_tells_what_is_packed(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", str(dataset)])
    text = capsys.readouterr().out
    statistics = read_manifest(dataset).sources[SOURCE].statistics
    assert f"{dataset}: 1 source, 480 time steps, 4 shards, " in text
    assert "grid      8 × 16 cells, -90 … 90° N, -11.25 … 348.8° E" in text
    assert "time      6-hourly, standard calendar, 2001-01-01T00:00 … 2004-01-30T18:00, 480 steps" in text
    assert "gaps      3: 2001-01-30T18:00 … 2002-01-01T00:00; " in text
    assert "static    land_sea_mask, orography\n" in text
    row = next(line for line in text.splitlines() if "2m_temperature" in line).split()
    assert row[:3] == ["2m_temperature", "T2m", "K"]
    assert [float(v) for v in row[3:7]] == [
        pytest.approx(statistics["2m_temperature"][key], rel=1e-4) for key in ("mean", "std", "min", "max")
    ]
    assert row[7] == "none"


def test_missing_cells_and_derived_channels_are_marked(dataset: Path) -> None:
    manifest = read_manifest(dataset)
    source = manifest.sources[SOURCE]
    for value, shown in ((0.125, "12.5 %"), (1e-7, "<0.001 %")):
        source.statistics["2m_temperature"]["missing_share"] = value
        assert shown in describe(dataset, manifest, [SOURCE])
    source.derived["2m_temperature"] = "from the weather outside"
    text = describe(dataset, manifest, [SOURCE])
    assert "2m_temperature *" in text
    assert "  * from the weather outside" in text


@pytest.mark.parametrize("most", [0, 37])
def test_means_and_series_are_those_of_the_shards(dataset: Path, most: int) -> None:
    found = scan(DataSet(dataset).sources[SOURCE], most)
    fields_TCHW = fields_of(dataset)
    chosen = np.arange(480) if most == 0 else np.unique(np.linspace(0, 479, most).round().astype(int))
    weights_H = latitude_weights(regular_grid(22.5))
    assert np.allclose(found.means_CHW, fields_TCHW[chosen].mean(axis=0), rtol=1e-12)
    expected = np.average(fields_TCHW[chosen].mean(axis=3), axis=2, weights=weights_H)
    assert np.allclose(found.series_TC, expected, rtol=1e-12)
    assert found.segment.tolist() == (chosen // 120).tolist()
    assert set(found.static) == {"land_sea_mask", "orography"}


def test_pictures_are_drawn_and_differ_with_the_data(dataset: Path, tmp_path: Path) -> None:
    main(["inspect", str(dataset), "--output", str(tmp_path / "pictures"), "--steps", "50"])
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == [
        f"{SOURCE}_means.png",
        f"{SOURCE}_series.png",
        "table.txt",
    ]
    for kind in ("means", "series"):
        image = mpimg.imread(tmp_path / "pictures" / f"{SOURCE}_{kind}.png")
        assert image.shape[1] > 1000
        assert len(np.unique(image.reshape(-1, image.shape[-1])[::7], axis=0)) > 50  # not an empty image
    assert (tmp_path / "pictures" / "table.txt").read_text().startswith(f"{dataset}: 1 source")


def test_a_region_with_padding_is_drawn(cmip6_region: Path, tmp_path: Path) -> None:
    inspect(InspectConfig(dataset=str(cmip6_region), output=str(tmp_path / "p")))
    assert len(list((tmp_path / "p").glob("*.png"))) == 2


@pytest.fixture
def cmip6_region(tmp_path: Path) -> Path:
    """Africa, across the prime meridian, padded to a multiple of 8 cells."""
    config = PackConfig(
        input="@sample", output=str(tmp_path / "africa"), sources=[SOURCE], variables=["2m_temperature", "orography"],
        region="Africa", pad_to=8, climatology=False,
    )  # fmt: skip
    return pack(config).parent


@pytest.mark.parametrize(
    ("first", "last", "calendar", "labels"),
    [
        ("2000-01-16", "2014-12-16", "standard", ["2000", "2005", "2010", "2015"]),
        ("0101-01-16", "0180-12-16", "360_day", ["120", "140", "160", "180"]),
        (
            "2001-01-01",
            "2001-12-31",
            "noleap",
            ["Jan 2001", "Mar 2001", "May 2001", "Jul 2001", "Sep 2001", "Nov 2001", "Jan 2002"],
        ),
        ("2020-01-01", "2020-01-31", "standard", ["1 Jan 2020", "11 Jan 2020", "21 Jan 2020", "31 Jan 2020"]),
    ],
)
def test_ticks_stand_at_round_dates(first: str, last: str, calendar: str, labels: list[str]) -> None:
    def at(text: str) -> int:
        seconds, _ = decode_times(np.array([0.0]), f"days since {text}", calendar, "f")
        return int(seconds[0])

    _, found = time_ticks(np.array([at(first), at(last)]), calendar)
    assert found == labels


def test_stretches_far_apart_stand_side_by_side() -> None:
    day = 86400
    seconds = np.concatenate([np.arange(5) * day, np.arange(5) * day + 365 * day])
    at, ticks, labels = time_axis(seconds, [np.arange(5), np.arange(5, 10)], "noleap")
    assert at[5] - at[4] < 2 * day
    assert (np.diff(at) > 0).all()
    assert (len(ticks), labels) == (2, ["Jan 1850", "Jan 1851"])
    near = np.concatenate([np.arange(5) * day, np.arange(6, 10) * day])
    assert np.array_equal(time_axis(near, [np.arange(5), np.arange(5, 9)], "noleap")[0], near)


def test_round_ticks_lie_inside() -> None:
    assert round_ticks(-90, 90).tolist() == [-90, -45, 0, 45, 90]
    assert round_ticks(44.9, 55.9).tolist() == [45, 50, 55]


def test_bad_input_is_one_line(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            main(["inspect", *arguments])
        assert stopped.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        return lines[0]

    assert "holds no manifest.json" in refused(str(tmp_path))
    assert "sources: 'JCM-Z' is not in" in refused(str(dataset), "--sources", '["JCM-Z"]')
    assert "steps = -1: must be 0 (all) or positive" in refused(str(dataset), "--steps", "-1")
    (tmp_path / "file").write_text("mine")
    assert "output: " in refused(str(dataset), "--output", str(tmp_path / "file"))
    with pytest.raises(UserError, match="dataset is empty"):
        InspectConfig(dataset="")


def test_absent_and_cut_shards_are_named(dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    shard: Any = sorted((copy / SOURCE).glob(f"{SOURCE}_*.h5"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:5000])
    with pytest.raises(UserError, match=rf"{shard.name} has 5000 bytes instead of {len(whole)}; restore it"):
        inspect(InspectConfig(dataset=str(copy)))
    shard.unlink()
    with pytest.raises(UserError, match=rf"{shard.name} is missing; restore it"):
        inspect(InspectConfig(dataset=str(copy)))


def test_a_picture_is_not_drawn_from_damaged_steps(dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    shard = sorted((copy / SOURCE).glob(f"{SOURCE}_*.h5"))[1]
    with h5py.File(shard) as file:
        place = file["fields"].id.get_chunk_info_by_coord((7, 0, 0, 0)).byte_offset
    raw = bytearray(shard.read_bytes())
    raw[place + 5] ^= 1
    shard.write_bytes(bytes(raw))
    with pytest.raises(UserError, match=rf"{shard.name}: time step 7 does not match its checksum"):
        inspect(InspectConfig(dataset=str(copy), output=str(tmp_path / "pictures"), steps=0))
    assert not list((tmp_path / "pictures").glob("*.png"))
