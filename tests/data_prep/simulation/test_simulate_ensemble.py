"""Perfect-model ensembles of the simulator with a stand-in for the GCM: starts, members, interruptions, refusals."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest

from climax_hpc.config.parser import read_config
from climax_hpc.data_prep.simulation import unfinished
from climax_hpc.data_prep.simulation.config import SimulateConfig, sources, starts_of
from climax_hpc.data_prep.simulation.driver_settings import drs_member, record
from climax_hpc.data_prep.simulation.ensemble import INITIALIZATION, Perturbation
from climax_hpc.data_prep.simulation.simulate import simulate
from climax_hpc.errors import UserError
from tests.data_prep.simulation.test_simulate_runs import contents, partial, quiet, toy_config

STARTS = ["2001-12-12", "2001-12-30", "2002-01-04"]  # in the first block; two in the third, over the new year
MEMBERS, HOURS = 3, 78


def ensemble(folder: Path, **changes: Any) -> SimulateConfig:
    return toy_config(folder, **{"members": MEMBERS, "starts": STARTS, "member_hours": HOURS, **changes})


def config(**changes: Any) -> SimulateConfig:
    return SimulateConfig(**{"output": "unused", "days": 40, "members": 2, "start_every_days": 10, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of an undisturbed ensemble."""
    return simulate(ensemble(tmp_path_factory.mktemp("undisturbed")), quiet)


def values(output: Path, member: int, start: str) -> np.ndarray:
    """Temperatures of a member from a start on."""
    pattern = f"tas_*_r{member}i{INITIALIZATION}p1f1_gn_{start.replace('-', '')}0600-*.nc"
    (path,) = output.rglob(pattern)
    with netCDF4.Dataset(path) as file:
        return np.asarray(file["tas"][:])


# ---------------------------------------------------------------- members


def test_every_member_is_a_source_of_all_starts(whole: Path) -> None:
    for member in range(1, MEMBERS + 1):
        folder = whole / drs_member("JCM-A", member, INITIALIZATION)
        assert folder.name == f"r{member}i2p1f1"
        assert sorted(path.name.split("_")[0] for path in folder.rglob("*.nc")) == ["orog", "sftlf", *3 * ["tas"]]
        for start in STARTS:
            assert len(values(whole, member, start)) == HOURS // 6
        (path,) = folder.rglob("tas_*_200112120600-200112150600.nc")
        with netCDF4.Dataset(path) as file:
            assert (file.variant_label, file.realization_index, file.initialization_index) == (folder.name, member, 2)
            assert (file.parent_variant_label, file.source_id) == ("r1i1p1f1", "JCM-A")
            assert "0.05 K" in file.variant_info
            assert json.loads(file.simulation_settings)["ensemble"]["members"] == MEMBERS


def test_members_start_near_the_control_and_part(whole: Path) -> None:
    (path,) = (whole / drs_member("JCM-A")).rglob("tas_*_200112100000-*.nc")
    with netCDF4.Dataset(path) as file:
        control = np.asarray(file["tas"][9 : 9 + HOURS // 6])  # six hours after the first start
    members = np.stack([values(whole, member, STARTS[0]) for member in range(1, MEMBERS + 1)])
    apart = np.abs(members - control).mean(axis=(0, 2, 3))
    assert 0 < apart[0] < 10  # the toy multiplies differences by up to 3.9 in each step
    assert apart[-1] > 1.5 * apart[0]
    assert len({one.tobytes() for one in members}) == MEMBERS


def test_the_control_has_the_same_bits_as_without_an_ensemble(tmp_path: Path, whole: Path) -> None:
    simulate(toy_config(tmp_path), quiet)
    assert contents(tmp_path / "out", "r1i1p1f1") == contents(whole, "r1i1p1f1")


def test_a_member_does_not_depend_on_the_others_nor_on_other_starts(tmp_path: Path, whole: Path) -> None:
    simulate(ensemble(tmp_path, members=2, starts=STARTS[1:2]), quiet)
    for member in (1, 2):
        assert values(tmp_path / "out", member, STARTS[1]).tobytes() == values(whole, member, STARTS[1]).tobytes()


@pytest.mark.parametrize("day", [8, 24, 27, 34])  # in a member; on the way to a start; in a member; in the control
def test_a_killed_ensemble_goes_on_with_the_same_bits(tmp_path: Path, whole: Path, day: int) -> None:
    (tmp_path / "die").write_text(str(day))
    with pytest.raises(UserError, match="the GCM failed: ended by SIGKILL"):
        simulate(ensemble(tmp_path), quiet)
    assert not any((tmp_path / "out").iterdir())
    lines: list[str] = []
    simulate(ensemble(tmp_path), lines.append)
    assert any("resumes at" in line for line in lines) == (day > 10)
    assert contents(tmp_path / "out") == contents(whole)
    assert partial(tmp_path) == []


def test_members_that_are_complete_are_not_simulated_again(tmp_path: Path, whole: Path) -> None:
    """Killed in the control after all members of a start; what they kept is used, where their files are torn, too."""
    (tmp_path / "die").write_text("30")
    with pytest.raises(UserError, match="SIGKILL"):
        simulate(ensemble(tmp_path), quiet)
    folder = tmp_path / ".out-JCM-A-r1-partial"
    for path in folder.glob("ensemble-*/**/tas_*_200112300600-*.nc"):
        path.write_bytes(path.read_bytes()[:100])
    kept = folder / "state" / "blocks-2" / "200112300600.npz"
    with np.load(kept) as block:
        np.savez(kept, times=block["times"], tas=block["tas"] + np.float32(1.0))  # to see where it goes
    simulate(ensemble(tmp_path), quiet)
    for member, warmer in ((1, 0.0), (2, 1.0), (3, 0.0)):
        shift = values(tmp_path / "out", member, STARTS[1]) - values(whole, member, STARTS[1])
        np.testing.assert_allclose(shift, warmer, atol=1e-3)


def test_an_ensemble_that_is_there_is_kept_and_another_refused(tmp_path: Path, whole: Path) -> None:
    lines: list[str] = []
    simulate(ensemble(tmp_path), quiet)
    assert simulate(ensemble(tmp_path), lines.append) == tmp_path / "out"
    assert "is there with these settings" in lines[0]
    with pytest.raises(UserError, match="already exists, with other settings: other ensemble"):
        simulate(ensemble(tmp_path, members=4), quiet)
    simulate(toy_config(tmp_path), lines.append)  # the control alone is there, too
    member = tmp_path / "out" / drs_member("JCM-A", 2, INITIALIZATION)
    control = tmp_path / "out" / drs_member("JCM-A")
    member.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="r2i2p1f1: is missing, while its control r1i1p1f1 is there"):
        simulate(ensemble(tmp_path), quiet)
    control.rename(tmp_path / "control")
    with pytest.raises(UserError, match="r1i2p1f1: already exists without its control"):
        simulate(ensemble(tmp_path), quiet)
    assert contents(whole)


def test_an_interruption_while_the_members_are_put_in_place_is_made_good(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[Path] = []

    def move_two(written: Path, place: Path) -> None:
        if len(moved) == 2:
            raise OSError("the machine fails")
        moved.append(place)
        written.rename(place)

    with monkeypatch.context() as patch:
        patch.setattr(unfinished.shutil, "move", move_two)
        with pytest.raises(UserError, match="the machine fails"):
            simulate(ensemble(tmp_path), quiet)
    assert [place.name for place in moved] == ["r1i2p1f1", "r2i2p1f1"]
    simulate(ensemble(tmp_path), quiet)
    assert contents(tmp_path / "out") == contents(whole)
    assert partial(tmp_path) == []


# ---------------------------------------------------------------- settings


def test_starts_every_so_many_days_lie_in_what_is_kept() -> None:
    found = starts_of(config())
    assert found == [dt.datetime(2001, 1, 1) + dt.timedelta(days=10 * k) for k in range(4)]
    winters = config(days=None, years=2, window="12-15:01-15", start="2001-12-01", start_every_days=20)
    assert [f"{one:%Y-%m-%d}" for one in starts_of(winters)] == [
        "2001-12-15", "2002-01-04", "2002-12-15", "2003-01-04",
    ]  # fmt: skip
    part = config(start_period=("2001-01-05", "2001-02-05"), start_every_days=14)
    assert [f"{one:%Y-%m-%d}" for one in starts_of(part)] == ["2001-01-05", "2001-01-19", "2001-02-02"]


def test_an_ensemble_is_read_from_the_command_line() -> None:
    words = ["--output=o", "--days=40", "--members=8", "--start_every_days=10", "--perturbation.temperature=0.1"]
    read = read_config(SimulateConfig, "simulate", words)
    assert (read.members, read.perturbation) == (8, Perturbation(temperature=0.1))


def test_the_record_of_a_simulation_without_an_ensemble_is_as_before() -> None:
    assert "ensemble" not in record(sources(SimulateConfig(output="o", days=3))[0])
    assert record(sources(config())[0])["ensemble"]["hours"] == 144  # type: ignore[index]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"members": 1}, "members: 1 is too small; an ensemble has 2"),
        ({"members": None}, "start_every_days: needs members"),
        ({"realization": [1, 2]}, "realization: an ensemble has one control"),
        ({"member_hours": 20}, "member_hours: 20 is not a multiple of 6 h"),
        ({"member_hours": 0}, "member_hours: 0"),
        ({"perturbation": Perturbation(temperature=-1.0)}, "perturbation.temperature: -1 is negative"),
        ({"perturbation": Perturbation(temperature=0.0, wind=0.0, humidity=0.0)}, "all amplitudes are 0"),
        ({"start_every_days": None}, "exactly one of the two"),
        ({"starts": ["2001-01-01"]}, "exactly one of the two"),
        ({"start_every_days": 6}, "2001-01-01 and 2001-01-07 are not in order and more than member_hours: 144 apart"),
        (
            {"start_every_days": None, "starts": ["2001-01-20", "2001-01-10"]},
            "2001-01-20 and 2001-01-10 are not in order",
        ),
        ({"start_every_days": None, "starts": ["2001-01-40"]}, "starts: '2001-01-40' is not a date"),
        ({"start_every_days": None, "starts": ["2001-03-01"]}, "2001-03-01 is not in the period and window"),
        ({"start_every_days": None, "starts": []}, "starts: there is none"),
        ({"start_every_days": -1}, "start_every_days: -1 is too small"),
        ({"start_period": ("2001-01-20", "2001-01-10")}, "is after 2001-01-10; swap them"),
        ({"start_period": ("2003-01-01", "2003-01-10")}, "there is none in what the control keeps"),
        ({"start_every_days": None, "starts": ["2001-01-01"], "start_period": ("2001-01-01", "2001-01-10")}, "goes wi"),
    ],
)
def test_invalid_ensembles_are_refused_with_the_fix(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as refused:
        config(**changes)
    assert "\n" not in str(refused.value)
