"""The package as installed: one top-level name, all folders in it, imports in one direction."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAPPED = {name: f"climax_hpc.{name}" for name in ("kernels", "launch", "data_prep", "slurm")}
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())


def package_folders() -> dict[str, Path]:
    """Dotted name -> folder of every package in the repository."""
    found = {}
    for top in ("climax_hpc", *MAPPED):
        for init in (ROOT / top).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT).parts
            name = ".".join((MAPPED.get(parts[0], parts[0]), *parts[1:]))
            found[name] = init.parent
    return found


def imports_of(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, at the top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_every_package_is_listed() -> None:
    assert sorted(SETTINGS["tool"]["setuptools"]["packages"]) == sorted(package_folders())


def test_nothing_but_climax_hpc_is_importable_outside_the_repository(tmp_path: Path) -> None:
    names = ("climax_hpc", *MAPPED)
    code = f"import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['climax_hpc']"


def test_wheel_holds_one_top_level_package_with_configs_and_sample(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*command, "--target", str(tmp_path), str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tops = {p.name for p in tmp_path.iterdir() if p.is_dir() and not p.name.endswith(".dist-info") and p.name != "bin"}
    assert tops == {"climax_hpc"}
    for file in (
        "configs/demo_pack.yaml",
        "report/page.html",
        "data_prep/simulation/jcm_requirements.txt",
        "slurm/job.sh",
        "slurm/sites/generic.env",
    ):
        assert (tmp_path / "climax_hpc" / file).is_file(), file
    assert len(list((tmp_path / "climax_hpc" / "data_prep" / "sample").rglob("*.nc"))) > 50


FORBIDDEN = {
    "kernels": (
        "climax_hpc.model",
        "climax_hpc.data",
        "climax_hpc.training",
        "climax_hpc.config.training",
        "climax_hpc.data_prep",
    ),
    "data_prep": ("climax_hpc.model", "climax_hpc.kernels", "climax_hpc.training", "climax_hpc.data", "torch"),
    "launch": ("torch", "climax_hpc.model", "climax_hpc.kernels", "climax_hpc.data"),
    "climax_hpc/model": ("climax_hpc.data", "climax_hpc.training", "climax_hpc.evaluation", "climax_hpc.cli"),
    "climax_hpc/data": ("climax_hpc.training", "climax_hpc.evaluation", "climax_hpc.cli"),
    "climax_hpc/training": ("climax_hpc.evaluation", "climax_hpc.tasks", "climax_hpc.inference", "climax_hpc.cli"),
    "climax_hpc/baselines": ("climax_hpc.training", "climax_hpc.evaluation", "climax_hpc.report"),
    "climax_hpc/evaluation": ("climax_hpc.tasks", "climax_hpc.inference", "climax_hpc.report", "climax_hpc.cli"),
    "climax_hpc/tasks": ("climax_hpc.report", "climax_hpc.cli"),
}


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_run_one_way(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        for name in imports_of(path):
            bad = [f for f in FORBIDDEN[folder] if name == f or name.startswith(f + ".")]
            assert not bad, f"{path.relative_to(ROOT)} imports {name}"
            assert name.split(".")[0] not in MAPPED, f"{path.relative_to(ROOT)}: import {MAPPED[name.split('.')[0]]}"


def test_every_file_says_what_it_is() -> None:
    for folder in package_folders().values():
        for path in folder.glob("*.py"):
            assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no first line that says what it does"
