"""Running the simulator with a stand-in for the GCM: several sources, resuming, existing members, failures."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest

from climax_hpc.data_prep.simulation import machine, processes
from climax_hpc.data_prep.simulation.config import SimulateConfig, sources
from climax_hpc.data_prep.simulation.driver_settings import MIP_ERA, drs_member
from climax_hpc.data_prep.simulation.jcm_venv import JCM_VERSION
from climax_hpc.data_prep.simulation.simulate import simulate
from climax_hpc.errors import UserError

TOY = Path(__file__).with_name("toy_model.py")
DAYS, SPIN_UP = 28, 5  # four blocks of ten days; segments: what is left of a year, and the days after it
Make = Callable[..., SimulateConfig]


def fake_venv(folder: Path, script: str) -> Path:
    """An environment whose `python` answers the version question and runs `script` instead of the driver."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nif [ "$1" = -c ]; then echo {JCM_VERSION}; exit 0; fi\n{script}\n')
    python.chmod(0o755)
    return folder


def toy_config(folder: Path, output: str = "out", **changes: Any) -> SimulateConfig:
    """A config that runs the toy model; its switches lie in the folder, beside the output."""
    if not (folder / "venv").exists():
        fake_venv(folder / "venv", f'exec "{sys.executable}" "{TOY}" "$@"')
    given = {"days": DAYS, "start": "2001-12-10", "spin_up_days": SPIN_UP, "variables": ["2m_temperature"], "jobs": 2}
    return SimulateConfig(**{"output": str(folder / output), "venv": str(folder / "venv"), **given, **changes})


@pytest.fixture
def toy(tmp_path: Path) -> Make:
    """Makes configs that run the toy model."""
    return lambda *output, **changes: toy_config(tmp_path, *output, **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of an undisturbed command with two sources."""
    return simulate(toy_config(tmp_path_factory.mktemp("undisturbed"), parameter_set=["JCM-A", "JCM-B"]), quiet)


def quiet(line: str) -> None:
    """Takes the lines of a simulation that nobody reads."""


def contents(output: Path, name: str = "_") -> dict[str, bytes]:
    """Name -> values of every variable of every file, as bits; of the sources with this name."""
    found = {}
    for path in sorted(output.rglob(f"*{name}*.nc")):
        with netCDF4.Dataset(path) as file:
            file.set_auto_maskandscale(False)
            for name, variable in file.variables.items():
                found[f"{path.relative_to(output)}:{name}"] = np.asarray(variable[:]).tobytes()
    return found


def partial(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".*-partial"))


# ---------------------------------------------------------------- several sources


def test_one_command_simulates_several_sources(tmp_path: Path, toy: Make) -> None:
    lines: list[str] = []
    wanted = toy(parameter_set=["JCM-A", "JCM-B"], realization=[1, 2])
    assert simulate(wanted, lines.append) == tmp_path / "out"
    for one in sources(wanted):
        member = tmp_path / "out" / drs_member(one.parameter_set, one.realization)
        assert len(list(member.rglob("tas_*.nc"))) == 2
        assert f"{one.label}: wrote {member}" in lines
        assert any(line.startswith(f"{one.label}: day 40/40 (") and " days a minute, " in line for line in lines)
    assert "4 sources, 2 at a time (jobs)" in lines
    assert [path.name for path in (tmp_path / "out").iterdir()] == [MIP_ERA]
    assert partial(tmp_path) == []
    fields = {
        name.split("/")[-1].split(":")[0]: bits for name, bits in contents(tmp_path / "out").items() if "tas" in name
    }
    assert len(set(fields.values())) > 1


def test_a_source_alone_has_the_same_bits_as_beside_others(tmp_path: Path, toy: Make, whole: Path) -> None:
    simulate(toy(parameter_set="JCM-B"), quiet)
    alone = contents(tmp_path / "out")
    assert alone
    assert contents(whole, "JCM-B") == alone


def test_a_failing_source_leaves_the_others_alone_and_is_named(tmp_path: Path, toy: Make) -> None:
    (tmp_path / "fail").write_text("JCM-B")
    lines: list[str] = []
    with pytest.raises(UserError, match=r"1 of 3 sources failed; .* JCM-B r1: .*the model blew up") as refused:
        simulate(toy(parameter_set=["JCM-A", "JCM-B", "JCM-C"]), lines.append)
    assert "\n" not in str(refused.value)
    assert [line for line in lines if "failed" in line] == [
        "JCM-B r1: failed (exit status 1: the model blew up; try another seed, parameter set or number of layers)"
    ]
    assert {path.name for path in (tmp_path / "out" / drs_member("JCM-A")).parents[1].parent.iterdir()} == {
        "JCM-A",
        "JCM-C",
    }
    assert partial(tmp_path) == []


def test_no_more_than_jobs_run_at_the_same_time(tmp_path: Path) -> None:
    ended: dict[str, str | None] = {}
    running: set[str] = set()
    most = 0

    def report(name: str, line: str) -> None:
        nonlocal most
        running.add(name)
        most = max(most, len(running))

    def end(name: str, failure: str | None) -> None:
        running.discard(name)
        ended[name] = failure

    scripts = {f"{number}": ["sh", "-c", f"echo begin; sleep 0.3; echo end; exit {number % 2}"] for number in range(5)}
    processes.run_side_by_side(scripts, jobs=3, report=report, ended=end)
    assert most == 3
    assert ended == {name: "exit status 1: end" if int(name) % 2 else None for name in scripts}


def test_lines_without_an_end_and_processes_killed_are_reported() -> None:
    lines: list[tuple[str, str]] = []
    ended: list[str | None] = []
    script = ["sh", "-c", "echo one; printf two; kill -9 $$"]
    processes.run_side_by_side(
        {"a": script}, jobs=1, report=lambda *line: lines.append(line), ended=lambda name, why: ended.append(why)
    )
    assert lines == [("a", "one"), ("a", "two")]
    assert ended == ["ended by SIGKILL, often for lack of memory: use fewer jobs"]


@pytest.mark.parametrize(
    ("cores", "free", "says"),
    [(4, 1e12, 4), (64, 1e12, 6), (64, 2.5, 2), (64, 0.5, 1), (1, 1e12, 1)],
)
def test_the_number_of_jobs_follows_cores_memory_and_sources(
    monkeypatch: pytest.MonkeyPatch, cores: int, free: float, says: int
) -> None:
    wanted = sources(SimulateConfig(output="o", days=10, realization=[1, 2, 3, 4, 5, 6]))
    monkeypatch.setattr(machine, "usable_cores", lambda: cores)
    monkeypatch.setattr(machine, "free_memory", lambda: free * machine.memory_of(wanted[0].config))
    assert machine.default_jobs(wanted)[0] == says


def test_control_groups_limit_cores_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_control_groups", lambda: iter([tmp_path / "none", tmp_path]))
    assert machine.usable_cores() == len(os.sched_getaffinity(0))
    free = machine.free_memory()
    assert free > 0
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert machine.usable_cores() == len(os.sched_getaffinity(0))
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text("5000\n")
    assert machine.usable_cores() == 1
    assert machine.free_memory() == 4000


# ---------------------------------------------------------------- interrupted simulations


@pytest.mark.parametrize("day", [1, 30, 40])  # in the first block; in the third, where a segment ends; in the last
def test_a_killed_model_goes_on_with_the_same_bits(tmp_path: Path, toy: Make, whole: Path, day: int) -> None:
    (tmp_path / "die").write_text(str(day))
    with pytest.raises(UserError, match="the GCM failed: ended by SIGKILL"):
        simulate(toy(), quiet)
    done = 10 * (-(-day // 10) - 1)
    assert partial(tmp_path) == ([".out-JCM-A-r1-partial"] if done else [])
    assert not any((tmp_path / "out").iterdir())
    lines: list[str] = []
    simulate(toy(), lines.append)
    assert [line for line in lines if "resumes at" in line] == ([f"JCM-A r1: resumes at day {done}/40"] if done else [])
    assert contents(tmp_path / "out") == contents(whole, "JCM-A")
    assert partial(tmp_path) == []


def start(config: SimulateConfig) -> subprocess.Popen[str]:
    code = (
        "from climax_hpc.data_prep.simulation.ensemble import *\n"
        "from climax_hpc.data_prep.simulation.simulate import *\n"
        f"simulate({config!r}, lambda line: print(line, flush=True))"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def toys_running() -> list[str]:
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(TOY) in line and "ps -eo" not in line]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_command_goes_on_with_the_same_bits(
    tmp_path: Path, toy: Make, whole: Path, number: signal.Signals
) -> None:
    both = ["JCM-A", "JCM-B"]
    (tmp_path / "slow").touch()
    seen: set[str] = set()
    with start(toy(parameter_set=both)) as run:
        assert run.stdout is not None
        while len(seen) < 2:  # both have saved a state
            line = run.stdout.readline()
            assert line
            seen |= {line[:5]} if ": day " in line else set()
        run.send_signal(number)
        rest = run.stdout.read()
    assert run.returncode in {-signal.SIGKILL, 128 + signal.SIGTERM}
    if number != signal.SIGKILL:
        assert "stopped; the same command resumes JCM-A r1, JCM-B r1" in rest
    deadline = time.monotonic() + 20
    while any(str(tmp_path) in line for line in toys_running()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(str(tmp_path) in line for line in toys_running())
    assert partial(tmp_path) == [f".out-{name}-r1-partial" for name in both]
    (tmp_path / "slow").unlink()
    lines: list[str] = []
    simulate(toy(parameter_set=both), lines.append)
    assert len([line for line in lines if "resumes at day" in line]) == 2
    assert contents(tmp_path / "out") == contents(whole)


def test_an_unfinished_simulation_is_not_mixed_with_other_settings(tmp_path: Path, toy: Make) -> None:
    (tmp_path / "die").write_text("30")
    with pytest.raises(UserError, match="SIGKILL"):
        simulate(toy(), quiet)
    with pytest.raises(
        UserError, match=r"an unfinished simulation of JCM-A r1 with other settings \(days 28 there, 29 "
    ):
        simulate(toy(days=29), quiet)
    simulate(toy(), quiet)
    assert (tmp_path / "out" / drs_member("JCM-A")).is_dir()


def test_a_second_command_with_the_same_source_is_refused(tmp_path: Path, toy: Make) -> None:
    (tmp_path / "slow").touch()
    with start(toy()) as run:
        assert run.stdout is not None
        assert "day 10/40" in run.stdout.readline()
        with pytest.raises(UserError, match=r"output: .* is in use by process") as refused:
            simulate(toy(), quiet)
        assert "\n" not in str(refused.value)
        simulate(toy(parameter_set="JCM-B"), quiet)  # another source may share the output
        run.stdout.read()
    assert run.returncode == 0


# ---------------------------------------------------------------- members that are there


def test_finished_members_with_the_same_settings_are_kept(tmp_path: Path, toy: Make) -> None:
    simulate(toy(parameter_set="JCM-B"), quiet)
    member = tmp_path / "out" / drs_member("JCM-B")
    before = {path: path.stat().st_mtime_ns for path in member.rglob("*")}
    lines: list[str] = []
    simulate(toy(parameter_set=["JCM-A", "JCM-B"]), lines.append)
    assert f"JCM-B r1: is there with these settings: {member}" in lines
    assert not any(line.startswith("JCM-B r1: day") for line in lines)
    assert {path: path.stat().st_mtime_ns for path in member.rglob("*")} == before
    assert (tmp_path / "out" / drs_member("JCM-A")).is_dir()
    no_venv = toy(parameter_set=["JCM-A", "JCM-B"], venv=str(tmp_path / "no-venv"))
    simulate(no_venv, quiet)  # nothing to do: the environment is not needed
    assert not (tmp_path / "no-venv").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"days": 29}, "days 28 there, 29 wanted"),
        ({"start": "2001-12-11"}, "start 2001-12-10 there, 2001-12-11 wanted"),
        ({"spin_up_days": 6}, "spin_up_days 5 there, 6 wanted"),
        ({"seed": 7}, "seed 1 there, 7 wanted"),
        ({"variables": ["surface_pressure"]}, "other variables"),
        ({"quantise": False, "layers": 9}, "layers 8 there, 9 wanted, quantise True there, False wanted"),
        ({"version": "v19990101"}, "there, v19990101 wanted"),
    ],
)
def test_a_finished_member_with_other_settings_is_refused(whole: Path, changes: dict[str, Any], says: str) -> None:
    before = contents(whole)
    with pytest.raises(UserError, match=r"already exists, with other settings: .*; delete it") as refused:
        simulate(toy_config(whole.parent, parameter_set=["JCM-C", "JCM-A"], **changes), quiet)
    assert says in str(refused.value)
    assert contents(whole) == before  # nothing was started


def test_a_member_without_a_record_is_refused_and_not_changed(tmp_path: Path, toy: Make) -> None:
    for name in ("JCM-A", "JCM-B"):
        (tmp_path / "out" / drs_member(name)).mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"JCM-A.*without a record of its settings; delete it.*; .*JCM-B.*already"
    ) as one:
        simulate(toy(parameter_set=["JCM-A", "JCM-B"]), quiet)
    assert "\n" not in str(one.value)
    assert not any((tmp_path / "out" / drs_member("JCM-A")).iterdir())


# ---------------------------------------------------------------- failures


def test_a_failing_model_leaves_nothing_behind(tmp_path: Path) -> None:
    venv = fake_venv(tmp_path / "venv", "mkdir $(dirname $2)/member; echo error: the model blew up; exit 1")
    with pytest.raises(UserError, match="the GCM failed: exit status 1: the model blew up"):
        simulate(SimulateConfig(output=str(tmp_path / "out"), days=1, venv=str(venv)), quiet)
    assert not any((tmp_path / "out").iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"out", "venv"}


def test_a_command_stopped_at_once_leaves_neither_files_nor_a_running_model(tmp_path: Path) -> None:
    venv = fake_venv(tmp_path / "venv", "echo $$ > $(dirname $2)/../pid; echo started; exec sleep 60")
    with start(SimulateConfig(output=str(tmp_path / "runs" / "out"), venv=str(venv), days=1)) as run:
        assert run.stdout is not None
        assert run.stdout.readline().endswith("started\n")
        run.terminate()
    assert run.returncode == 128 + signal.SIGTERM
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"out", "pid"}
    assert not any((tmp_path / "runs" / "out").iterdir())
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "runs" / "pid").read_text()), 0)


def test_an_output_folder_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    venv = fake_venv(tmp_path / "venv", "exit 0")
    with pytest.raises(UserError, match="choose a folder that you can write to"):
        simulate(SimulateConfig(output=str(tmp_path / "file" / "out"), days=1, venv=str(venv)), quiet)
