"""`climax-hpc doctor`: a whole run, and every kind of fault, injected for real, is reported with its fix."""

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from climax_hpc.cli import main
from climax_hpc.tools.doctor import ranks, software, storage
from climax_hpc.tools.doctor.check_result import limited, ok

LIMIT = 120.0  # [s], far above the duration of a check, for busy machines
CHECKS = [
    "python", "packages", "devices", "deepspeed", "triton", "host name", "mpi", "slurm", "collectives", "open files",
    "file locks", "file system", "data set",
]  # fmt: skip


def program(folder: Path, name: str, text: str) -> None:
    """Write a shell script of that name."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def only_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with a single empty folder, for fake programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.mark.slow
def test_whole_run(make_dataset: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "doctor.json"
    arguments = ["--folder", str(tmp_path), "--dataset", str(make_dataset()), "--time_limit", str(LIMIT)]
    try:
        main(["doctor", *arguments, "--json", str(out)])
        status = 0
    except SystemExit as stop:
        status = int(str(stop.code))
    content = json.loads(out.read_text())
    found = {entry["check"]: entry for entry in content["checks"]}
    assert list(found) == CHECKS
    failed = {name for name, entry in found.items() if entry["status"] == "fail"}
    assert status == (1 if failed else 0)
    assert content["counts"]["fail"] == len(failed)
    assert found["collectives"]["status"] != "fail"  # "warn" on a busy machine
    for name in ("python", "deepspeed", "triton", "data set"):
        assert found[name]["status"] == "ok", found[name]
    assert all(bool(entry["fix"]) == (entry["status"] != "ok") for entry in found.values())
    text = capsys.readouterr().out
    assert all(f"\n{name}" in text for name in CHECKS)


def test_damaged_data_set_fails(
    make_dataset: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset()
    shard = sorted(dataset.rglob("*.h5"))[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0x40
    shard.write_bytes(content)
    result = storage.dataset(dataset)
    assert result.status == "fail"
    assert str(shard) in result.found
    # Exit status of the command, without the slow checks.
    monkeypatch.setattr("climax_hpc.tools.doctor.doctor._checks", lambda *_: [("data set", lambda: result, LIMIT)])
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 1
    assert "0 ok, 0 warn, 1 fail" in capsys.readouterr().out
    assert storage.dataset(dataset.parent / "nowhere").status == "fail"


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    assert storage.file_system(tmp_path).status in ("ok", "warn")
    assert not list(tmp_path.iterdir())
    for folder in (Path("/proc"), tmp_path / "absent"):
        result = storage.file_system(folder)
        assert result.status == "fail"
        assert "choose a writable folder" in result.fix


def test_no_mpiexec(only_path: Path) -> None:
    result = ranks.mpi(LIMIT)
    assert (result.status, result.found) == ("warn", "no mpiexec on PATH")
    assert "climax_hpc[mpi]" in result.fix


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("echo no such plugin >&2; exit 3", "no such plugin"),
        ("echo 'rank 1 MPICH'; echo 'rank 1 MPICH'", "starts 2 ranks, mpi4py sees 1"),
        ("/bin/sleep 60", "no result in time"),
    ],
)
def test_mpiexec_that_does_not_work(only_path: Path, text: str, found: str) -> None:
    program(only_path, "mpiexec", text)
    start = time.perf_counter()
    result = ranks.mpi(2.0)
    assert time.perf_counter() - start < 30
    assert result.status == "fail"
    assert found in result.found
    assert "mpi4py" in result.fix


@pytest.mark.mpi
@pytest.mark.skipif(
    not Path(sys.executable).with_name("mpiexec").exists(), reason="no mpiexec beside python: climax_hpc[mpi]"
)
def test_mpi_of_two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    result = ranks.mpi(LIMIT)
    assert result.status == "ok", result


def test_slurm(only_path: Path) -> None:
    assert ranks.slurm(LIMIT).found == "no Slurm on this machine"
    program(only_path, "sinfo", "echo 'sinfo: error: Unable to contact slurm controller' >&2; exit 1")
    result = ranks.slurm(LIMIT)
    assert (result.status, result.found) == ("fail", "sbatch, srun, scontrol not on PATH")
    for name in ("sbatch", "srun", "scontrol"):
        program(only_path, name, "exit 0")
    result = ranks.slurm(LIMIT)
    assert (result.status, result.found) == ("fail", "sinfo: sinfo: error: Unable to contact slurm controller")
    program(only_path, "sinfo", "echo 'gpu* n1 down*'")
    assert ranks.slurm(LIMIT).status == "warn"
    program(only_path, "sinfo", "printf '%s\\n' 'gpu* n1 idle' 'gpu* n2 alloc' 'x n1 idle' 'x n3 down'")
    assert ranks.slurm(LIMIT).found == "2 partitions, 2 nodes up"


@pytest.mark.parametrize("package", ["deepspeed", "triton"])
def test_package_that_does_not_import(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{package}.py").write_text("raise ImportError('undefined symbol: cuGetErrorName')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = getattr(software, package)(LIMIT)
    assert result.status == "fail"
    assert "undefined symbol: cuGetErrorName" in result.found
    assert f"pip install --force-reinstall {package}" in result.fix


def test_two_builds_of_triton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch for ROCm brings its own, which PyPI's overwrites."""
    vendor = tmp_path / "pytorch_triton_rocm-3.6.0.dist-info"
    vendor.mkdir()
    (vendor / "METADATA").write_text("Metadata-Version: 2.1\nName: pytorch-triton-rocm\nVersion: 3.6.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    result = software.triton(LIMIT)
    assert (result.status, result.found.split(" own")[0]) == ("fail", "triton and pytorch-triton-rocm")
    assert "pip uninstall triton" in result.fix


def test_dependency_in_a_wrong_version(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["torch>=99", "no_such_distribution", "numpy>=1", 'mpi4py>=99; extra == "mpi"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: declared)
    result = software.packages()
    assert result.status == "fail"
    assert "(>=99 needed), no_such_distribution missing" in result.found
    assert "mpi4py" not in result.found


def test_ranks_that_cannot_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nonexistent0")
    result = ranks.collectives(LIMIT)
    assert result.status == "fail"
    assert "GLOO_SOCKET_IFNAME" in result.fix


def test_check_that_hangs_or_breaks() -> None:
    start = time.perf_counter()
    result = limited("sleeper", lambda: time.sleep(60) or ok(""), 0.2)  # type: ignore[func-returns-value]
    assert time.perf_counter() - start < 10
    assert (result.check, result.status) == ("sleeper", "fail")
    assert "--time_limit" in result.fix
    assert limited("sleeper", lambda: time.sleep(9) or ok(""), 0.1, late="set X").fix == "set X"  # type: ignore[func-returns-value]
    result = limited("broken", lambda: ok(str(1 // 0)), 5)
    assert (result.status, result.found.split(":")[0]) == ("fail", "ZeroDivisionError")


def test_bad_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--time_limit", "0"])
    assert stop.value.code == 2
    assert "time_limit = 0" in capsys.readouterr().err
