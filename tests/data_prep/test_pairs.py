"""Pairs for downscaling: a GCM run and its coarse-graining, NCEP and E-OBS over Iberia, mismatches."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from climax_hpc.cli import main
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.pairs import PairConfig, pair, read_pairs
from climax_hpc.errors import UserError
from climax_hpc.shards.manifest import read_manifest, write_manifest

Settings = Callable[..., PackConfig]
SOURCE = "JCM-C_piClim-control_r1i1p1f1"
IBERIA = [34.0, 46.0, -11.0, 6.0]


def channel(dataset: Path, source: str, name: str) -> NDArray[Any]:
    """One channel (T, H, W) in registry units."""
    entry = read_manifest(dataset).sources[source]
    at, parts = entry.channels.index(name), []
    for shard in entry.shards:
        with h5py.File(dataset / shard.file) as file:
            parts.append(np.float64(file["fields"][:, at]) * file["std"][at] + file["mean"][at])
    return np.concatenate(parts)


def times(dataset: Path, source: str) -> NDArray[Any]:
    """Hours since 1850 of all steps (T,)."""
    parts = []
    for shard in read_manifest(dataset).sources[source].shards:
        with h5py.File(dataset / shard.file) as file:
            parts.append(file["time"][:])
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def gcm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run of the sample at 11.25° and, of its last two years, at 5.625°."""
    root = tmp_path_factory.mktemp("pairs")
    common: dict[str, Any] = {"input": "@sample", "sources": [SOURCE], "climatology": False, "dtype": "float32"}
    common["variables"] = ["2m_temperature", "geopotential_500"]
    coarse = PackConfig(output=str(root / "coarse"), grid_spacing_deg=11.25, **common)
    fine = PackConfig(output=str(root / "fine"), grid_spacing_deg=5.625, steps_per_shard=50, **common)
    return {"coarse": pack(coarse).parent, "fine": pack(fine).parent, "root": root}


def test_a_run_is_paired_with_its_own_coarse_graining(gcm: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    output = gcm["root"] / "pairs.json"
    main(["pair", "--coarse", str(gcm["coarse"]), "--fine", str(gcm["fine"]), "--output", str(output)])
    assert f"{SOURCE} -> {SOURCE}: 480 steps in 4 segments (6hr)" in capsys.readouterr().out
    found = read_pairs(output)
    assert (found.coarse, found.fine) == (gcm["coarse"].resolve(), gcm["fine"].resolve())
    coarse_T, fine_T = found.pairs[0].steps()
    assert np.array_equal(times(found.coarse, SOURCE)[coarse_T], times(found.fine, SOURCE)[fine_T])
    coarse = channel(found.coarse, SOURCE, "geopotential_500")[coarse_T]
    fine = channel(found.fine, SOURCE, "geopotential_500")[fine_T]
    # Rows nest two in one; columns are half a fine cell apart, so each coarse cell is one fine cell and two halves.
    halves = (np.roll(fine, 1, axis=2) + 2 * fine + np.roll(fine, -1, axis=2))[:, :, ::2] / 4
    edges = np.sin(np.deg2rad(np.linspace(-90, 90, 33)))
    area = np.diff(edges)[:, None]
    nested = (halves * area).reshape(len(fine), 16, 2, 32).sum(axis=2) / area.reshape(16, 2, 1).sum(axis=1)
    assert np.allclose(nested, coarse, rtol=0, atol=0.05 * coarse.std())
    assert (
        abs(nested - coarse).mean() < 0.1 * abs(np.roll(nested, 1, axis=0) - coarse).mean()
    )  # and not the step before


def test_pairs_open_after_moving_and_are_refused_after_packing_again(gcm: dict[str, Path], tmp_path: Path) -> None:
    for kind in ("coarse", "fine"):
        shutil.copytree(gcm[kind], tmp_path / "a" / kind)
    pair(
        PairConfig(coarse=str(tmp_path / "a/coarse"), fine=str(tmp_path / "a/fine"), output=str(tmp_path / "a/p.json"))
    )
    (tmp_path / "a").rename(tmp_path / "b")
    assert read_pairs(tmp_path / "b" / "p.json").coarse == tmp_path / "b" / "coarse"
    manifest = tmp_path / "b" / "fine" / "manifest.json"
    write_manifest(manifest.parent, replace(read_manifest(manifest.parent), climax_hpc_version="9"))
    with pytest.raises(UserError, match=r"p\.json: the fine data set .*/b/fine was packed again since; run"):
        read_pairs(tmp_path / "b" / "p.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("pairs"), r"is damaged \(pairs is missing\)"),
        (lambda c: c.update(schema="other"), "is other version 2, not climax_hpc/pairs version 1 or 2"),
        (lambda c: c["pairs"][0].update(speed=3), r"pairs\[0\]\.speed is no key"),
        (lambda c: c["pairs"][0]["runs"][0].update(steps=0), r"runs\[0\]\.steps is 0: .* greater than or equal to 1"),
        (lambda c: c["fine"].update(manifest_sha256=None), "manifest_sha256 is null: .* string"),
        (lambda c: c["pairs"][0]["runs"][0].update(coarse_start=1), "was edited or damaged"),
        (lambda c: c.pop("sha256"), "was edited or damaged"),
    ],
)
def test_damaged_pairs(gcm: dict[str, Path], tmp_path: Path, change: Any, message: str) -> None:
    output = pair(PairConfig(coarse=str(gcm["coarse"]), fine=str(gcm["fine"]), output=str(tmp_path / "p.json")))
    content = json.loads(output.read_text())
    change(content)
    output.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_pairs(output)


def test_files_keep_their_format(gcm: dict[str, Path], tmp_path: Path) -> None:
    """Segments are stored as `runs`, so that pairs written by earlier versions open."""
    output = pair(PairConfig(coarse=str(gcm["coarse"]), fine=str(gcm["fine"]), output=str(tmp_path / "p.json")))
    stored = json.loads(output.read_text())["pairs"][0]
    assert list(stored) == ["coarse", "fine", "frequency", "runs"]
    assert list(stored["runs"][0]) == ["coarse_start", "fine_start", "steps", "first", "last"]
    assert len(stored["runs"]) == len(read_pairs(output).pairs[0].segments)


def test_gaps_and_different_periods_leave_the_steps_in_common(cmip6: Any, settings: Settings, tmp_path: Path) -> None:
    times_of = {"C": np.delete(cmip6.six_hourly(20), 9), "F": cmip6.six_hourly(16, start_day=1)}
    for source, stamps in times_of.items():
        cmip6("tas", source=source, times=stamps)
    coarse = pack(settings(sources=["C_*"], output=str(tmp_path / "c"), grid_spacing_deg=45)).parent
    fine = pack(settings(sources=["F_*"], output=str(tmp_path / "f"))).parent
    found = read_pairs(pair(PairConfig(coarse=str(coarse), fine=str(fine), output=str(tmp_path / "p.json")))).pairs[0]
    assert (found.coarse, found.fine) == ("C_historical_r1i1p1f1", "F_historical_r1i1p1f1")
    assert [(r.coarse_start, r.fine_start, r.steps) for r in found.segments] == [(4, 0, 5), (9, 6, 10)]
    coarse_T, fine_T = found.steps()
    assert np.array_equal(times(coarse, found.coarse)[coarse_T], times(fine, found.fine)[fine_T])


def test_data_sets_that_do_not_match_are_refused(cmip6: Any, settings: Settings, tmp_path: Path) -> None:
    cmip6("tas", source="A")
    cmip6("tas", source="B", times=cmip6.six_hourly(8, start_day=100))
    cmip6("tas", source="D", calendar="360_day")
    cmip6("tas", source="M", table="Amon", frequency="mon", times=cmip6.mid_months(3))

    def packed(name: str, spacing: float, **changes: Any) -> str:
        output = tmp_path / f"{name}{spacing}{len(changes)}"
        if not output.exists():
            pack(settings(sources=[f"{name}_*"], output=str(output), grid_spacing_deg=spacing, **changes))
        return str(output)

    def refused(coarse: str, fine: str, message: str, **changes: Any) -> None:
        with pytest.raises(UserError, match=message):
            pair(PairConfig(coarse=coarse, fine=fine, output=str(tmp_path / "p.json"), **changes))
        assert not (tmp_path / "p.json").exists()

    refused(
        packed("A", 45), packed("B", 22.5), r"no time step in common \(1850-01-01T00:00 … 1850-01-02T18:00 and 1850-04"
    )
    refused(packed("A", 45), packed("D", 22.5), "calendar noleap and 360_day do not match")
    refused(packed("M", 45), packed("A", 22.5), "frequency mon and 6hr do not match")
    refused(packed("A", 22.5), packed("A", 45), r"rows of 22\.5°, the fine one of 45°; exchange `coarse` and `fine`")
    refused(packed("A", 45), packed("A", 45), r"the fine one of 45°; give data with larger cells as `coarse`")
    refused(
        packed("A", 30, region=[-90, 0, 0, 180]),
        packed("A", 22.5, region=[10, 90, 0, 180]),
        "different parts of the globe",
    )
    refused(packed("A", 45), packed("A", 22.5), r"sources: 'X' is not in .*; choose from A_hist", sources={"X": "Y"})
    refused(str(tmp_path / "none"), packed("A", 22.5), r"holds no manifest\.json")
    with pytest.raises(UserError, match="sources: an empty mapping pairs nothing"):
        PairConfig(coarse="a", fine="b", output="c", sources={})
    with pytest.raises(UserError, match="fine: is empty; give a folder"):
        PairConfig(coarse="a", fine="", output="c")


def test_files_that_are_not_climate4r_grids(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    config = settings(layout="climate4r", region=IBERIA)
    with pytest.raises(UserError, match=r"contains no \.rda file"):
        pack(config)
    (tmp_path / "in" / "NCEP_Iberia_tas.rda").write_bytes(b"not R data at all")
    with pytest.raises(UserError, match=r"NCEP_Iberia_tas\.rda: cannot be read as R data .*; download it again"):
        pack(config)


@pytest.mark.shared_data
def test_ncep_drives_eobs_over_iberia(settings: Settings, shared_data: Path, tmp_path: Path) -> None:
    """Real pairs: NCEP reanalysis at 2.5° and E-OBS on its own 0.5° grid, 1805 winter days of 20 winters."""
    (tmp_path / "in").mkdir()
    for name in ("NCEP_Iberia_tas", "NCEP_Iberia_ta850", "EOBS_Iberia_tas", "EOBS_Iberia_pr"):
        (tmp_path / "in" / f"{name}.rda").symlink_to(shared_data / "climate4R.datasets" / f"{name}.rda")
    common: dict[str, Any] = {"layout": "climate4r", "region": IBERIA, "climatology": False}
    with pytest.raises(
        UserError, match=r"NCEP_Iberia_.*\.rda: .* has no units \(expected .*\); state them with units: \{"
    ):
        pack(settings(**common, sources=["NCEP_*"], output=str(tmp_path / "n")))
    units = {"tas": "degC", "ta": "K"}
    coarse = pack(
        settings(**common, sources=["NCEP_*"], units=units, grid_spacing_deg=2.5, output=str(tmp_path / "n"))
    ).parent
    fine = pack(settings(**common, sources=["EOBS_*"], grid_spacing_deg=None, output=str(tmp_path / "e"))).parent
    source = read_manifest(fine).sources["EOBS_observed_Iberia"]
    assert source.channels == ["2m_temperature", "total_precipitation_rate"]
    assert (len(source.grid["lat"]), len(source.grid["lon"])) == (19, 29)
    assert 1e-5 < source.statistics["total_precipitation_rate"]["mean"] < 5e-5  # about 2 mm per day
    found = read_pairs(pair(PairConfig(coarse=str(coarse), fine=str(fine), output=str(tmp_path / "p.json")))).pairs[0]
    coarse_T, fine_T = found.steps()
    assert (len(coarse_T), len(found.segments)) == (1805, 20)
    ncep = np.nanmean(channel(coarse, found.coarse, "2m_temperature")[coarse_T], axis=(1, 2))
    eobs = np.nanmean(channel(fine, found.fine, "2m_temperature")[fine_T], axis=(1, 2))
    assert np.corrcoef(ncep, eobs)[0, 1] > 0.9
    assert np.corrcoef(ncep[10:], eobs[:-10])[0, 1] < 0.6  # paired by day, not by chance
