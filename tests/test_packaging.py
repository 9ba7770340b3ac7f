"""The package as installed: one top-level name, all folders in it, imports in one direction."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
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
        "py.typed",
        "configs/demo_pack.yaml",
        "report/page.html",
        "data_prep/simulation/jcm_requirements.txt",
        "slurm/job.sh",
        "slurm/sites/generic.env",
    ):
        assert (tmp_path / "climax_hpc" / file).is_file(), file
    assert len(list((tmp_path / "climax_hpc" / "data_prep" / "sample").rglob("*.nc"))) > 50
    assert packaged_weights(tmp_path) == packaged_weights(ROOT) >= {"__init__.py"}


def packaged_weights(root: Path) -> set[str]:
    """Files of the trained weights and their cards in a tree of the package."""
    folder = root / "climax_hpc" / "pretrained"
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in files if "__pycache__" not in path.parts}


ORDER = (
    "errors", "utils", "fields", "kernels", "model", "shards", "config", "distributed", "data_prep", "data",
    "checkpoint", "inference", "evaluation", "training", "report", "tasks", "tools", "launch", "experiments", "cli",
)  # fmt: skip
"""Every package and module below climax_hpc, lowest first: each imports only from those before it."""
NO_CODE = {"configs", "pretrained", "slurm"}
REFERENCE = re.compile(r"^(climax_hpc[\w.]*):\w+$")


def module_files() -> dict[str, Path]:
    """Dotted name -> file of every module of the package."""
    found = {}
    for name, folder in package_folders().items():
        for path in folder.glob("*.py"):
            found[name if path.stem == "__init__" else f"{name}.{path.stem}"] = path
    return found


FILES = module_files()


def imported_modules(path: Path) -> set[str]:
    """Modules of this package that a file imports, at the top, inside functions, for types only or by "module:name"."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= submodules & FILES.keys() or {node.module}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.update(REFERENCE.findall(node.value))
    return names & FILES.keys()


def rank_of(module: str) -> int:
    """Place of a module's package in ORDER; the package itself and its entry point come last."""
    parts = module.split(".")
    return ORDER.index(parts[1]) if len(parts) > 1 and parts[1] != "__main__" else len(ORDER)


def test_order_names_every_package() -> None:
    below = {name.split(".")[1] for name in FILES if name.count(".")} - {"__main__"}
    assert below - NO_CODE == set(ORDER)


@pytest.mark.parametrize("package", ORDER)
def test_imports_run_one_way(package: str) -> None:
    for module, path in FILES.items():
        if module.split(".")[1:2] == [package]:
            later = {name for name in imported_modules(path) if rank_of(name) > rank_of(module)}
            assert not later, f"{module} imports {', '.join(sorted(later))}: against the order {' <- '.join(ORDER)}"


def test_modules_import_no_circle() -> None:
    graph = {module: imported_modules(path) - {module} for module, path in FILES.items()}
    sorter = TopologicalSorter(graph)
    try:
        sorter.prepare()
    except CycleError as error:
        pytest.fail(f"circle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("module", FILES)
def test_no_import_of_a_mapped_folder_by_its_bare_name(module: str) -> None:
    tops = {name.split(".")[0] for name in imports_of(FILES[module])}
    assert not tops & MAPPED.keys(), f"{module}: import climax_hpc.{(tops & MAPPED.keys()).pop()}"


def test_every_file_says_what_it_is() -> None:
    for folder in package_folders().values():
        for path in folder.glob("*.py"):
            assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no first line that says what it does"


def test_no_class_name_twice() -> None:
    found: dict[str, list[str]] = {}
    for module, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(module)
    twice = {name: modules for name, modules in found.items() if len(modules) > 1}
    assert not twice, f"one name for two classes, rename one of each: {twice}"
