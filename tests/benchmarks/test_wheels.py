"""`make gpu-wheels`, and `gpu_day.sh` on a machine that has nothing but the wheels."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("kernels", "launch", "data_prep", "slurm")
DRIVER = """import json, pathlib, sys
import climax_hpc, from_a_wheel
seen = {"arguments": sys.argv[2:], "parts": sorted(p.name for p in pathlib.Path(climax_hpc.__path__[0]).iterdir())}
pathlib.Path(sys.argv[1], "seen.json").write_text(json.dumps(seen))
sys.exit(3)
"""


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.gpu_day import wheels

    return wheels


def wheel(folder: Path, name: str, version: str = "1.0", content: str = "", platform: str = "any") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-{platform}.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", content)
        info = f"{name}-{version}.dist-info"
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return path


def test_every_wheel_is_pinned_with_hashes(wheels):
    pinned = wheels.requirements((ROOT / "constraints.txt").read_text(), wheels.names()).splitlines()
    assert len(pinned) == len(wheels.names()) > 20
    assert all("==" in line and "--hash=sha256:" in line for line in pinned)
    with pytest.raises(SystemExit, match=r"wheels\.txt: constraints\.txt has no nothing"):
        wheels.requirements("a==1 \\\n    --hash=sha256:0\n", ["a", "nothing"])


def test_wheels_are_for_the_other_machine(wheels, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(wheels.subprocess, "run", lambda command, **options: calls.append((command, options)))
    wheels.fetch(tmp_path)
    assert len(calls) == 2
    for command, options in calls:
        assert {"--require-hashes", "--no-deps"} <= set(command)
        assert options["check"]
        assert options["env"]["DS_BUILD_OPS"] == "0"
    assert {"--only-binary=:all:", "--python-version=3.12", "--platform=manylinux2014_x86_64"} <= set(calls[0][0])


def test_what_is_incomplete_or_too_large_is_refused(wheels, monkeypatch, tmp_path):
    monkeypatch.setattr(wheels, "names", lambda: ["typing-extensions"])
    with pytest.raises(SystemExit, match="0 wheels of typing-extensions, expected one"):
        wheels.check(tmp_path)
    one = wheel(tmp_path, "typing_extensions")
    assert "1 wheels of 0.0 MiB" in wheels.check(tmp_path)
    two = wheel(tmp_path, "typing_extensions", "2.0")
    with pytest.raises(SystemExit, match="2 wheels"):
        wheels.check(tmp_path)
    two.unlink()
    with one.open("r+b") as file:
        file.truncate(wheels.LIMIT)
    with pytest.raises(SystemExit, match="together 64 MiB or more"):
        wheels.check(tmp_path)
    one.unlink()
    wheel(tmp_path, "typing_extensions", platform="linux_x86_64")
    with pytest.raises(SystemExit, match="compiled for this machine"):
        wheels.check(tmp_path)


@pytest.mark.parametrize("given", [False, True], ids=["found", "given"])
def test_a_bare_machine_gets_the_wheels_and_the_checkout(tmp_path, given):
    root = tmp_path / "a checkout"
    for folder in (*PARTS, "climax_hpc", "benchmarks"):
        (root / folder).mkdir(parents=True)
    (root / "climax_hpc" / "__init__.py").touch()
    (root / "benchmarks" / "gpu_day").mkdir()
    shutil.copy(ROOT / "benchmarks" / "gpu_day.sh", root / "benchmarks")
    (root / "benchmarks" / "gpu_day" / "__main__.py").write_text(DRIVER)
    wheel(folder := tmp_path / "elsewhere" if given else root / ".whl", "from_a_wheel")
    bare = tmp_path / "python"  # an interpreter that has pip, and no climax_hpc
    bare.write_text(f'#!/bin/sh\ncase "$1" in -c) exit 1;; esac\nexec {sys.executable} "$@"\n')
    bare.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key not in ("WHEELS", "PYTHONPATH")}
    environment |= {"PYTHON": "./python"} | ({"WHEELS": str(folder)} if given else {})
    command = ["bash", str(root / "benchmarks" / "gpu_day.sh"), "out put", "5", "--rehearsal"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    seen = json.loads((tmp_path / "out put" / "seen.json").read_text())
    assert seen["arguments"][:3] == ["5", "--rehearsal", "--since"]
    assert set(PARTS) < set(seen["parts"])


def test_a_bare_machine_has_no_other_package(wheels):
    from benchmarks.gpu_day import bare_machine

    finder = bare_machine.OnlyThese(bare_machine.allowed(), list(sys.meta_path))
    assert finder.find_spec("torch")
    assert finder.find_spec("h5py")
    assert finder.find_spec("json")
    assert finder.find_spec("matplotlib") is None
    everything = finder.find_distributions(metadata.DistributionFinder.Context())
    assert any(found.name == "matplotlib" for found in everything)


@pytest.mark.parametrize("python", ["none/python", "no-such-python"])
def test_the_day_names_a_python_that_is_not_there(tmp_path: Path, python: str) -> None:
    python = str(tmp_path / python) if "/" in python else python
    command = ["bash", str(ROOT / "benchmarks" / "gpu_day.sh"), str(tmp_path / "out"), "600"]
    done = subprocess.run(command, env=os.environ | {"PYTHON": python}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"there is no program {python}" in done.stderr


def test_without_network_the_last_line_says_what_is_needed(tmp_path: Path) -> None:
    offline = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [sys.executable, "-m", "benchmarks.gpu_day.wheels", str(tmp_path / "whl")]
    done = subprocess.run(command, env=os.environ | offline, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "not all wheels can be fetched; this needs network" in done.stderr.splitlines()[-1]
