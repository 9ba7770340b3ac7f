"""The GCM's separate Python environment, created on demand; jcm pins jax, so it is not a dependency of this package."""

import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from climax_hpc.errors import UserError

JCM_VERSION = "3.0.0"
REQUIREMENTS = Path(__file__).with_name("jcm_requirements.txt")
ENVIRONMENT_VARIABLE = "CLIMAX_HPC_JCM_VENV"


def default_venv() -> Path:
    """`$CLIMAX_HPC_JCM_VENV`, else `~/.cache/climax_hpc/jcm-venv`."""
    return Path(os.environ.get(ENVIRONMENT_VARIABLE) or "~/.cache/climax_hpc/jcm-venv").expanduser()


def run_streaming(argv: list[str], report: Callable[[str], None], env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a command and pass each line of its output to `report`; returns the exit status and the last lines.

    The child is terminated when the caller is interrupted, so that no orphan keeps a core busy.
    """
    tail: deque[str] = deque(maxlen=5)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as child:
        try:
            assert child.stdout is not None
            for line in child.stdout:
                tail.append(line.rstrip())
                report(line.rstrip())
        except BaseException:
            child.terminate()
            raise
    return child.returncode, " | ".join(tail)


def installed_version(venv: Path) -> str | None:
    """Version of jcm in that environment; None if it has none."""
    python = venv / "bin" / "python"
    if not python.exists():
        return None
    code = "import importlib.metadata as m; print(m.version('jcm'))"
    found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def ensure_venv(venv: Path, report: Callable[[str], None]) -> Path:
    """The environment's Python; the environment is created if it is missing.

    It is built in a temporary folder and renamed when complete, so that interrupted or concurrent builds do no harm.

    Raises:
        UserError: the folder holds something else, or the installation failed.
    """
    python = venv / "bin" / "python"
    if venv.exists():
        version = installed_version(venv)
        if version != JCM_VERSION:
            found = f"jcm {version}" if version else "no jcm"
            raise UserError(
                f"{venv}: has {found}, but the simulator needs jcm {JCM_VERSION}; delete it, or set "
                f"{ENVIRONMENT_VARIABLE} to another folder"
            )
        return python
    report(f"creating the GCM's environment in {venv} (once; about 1.5 GB, 2-4 minutes)")
    building = venv.with_name(f"{venv.name}.building-{os.getpid()}")
    try:
        building.parent.mkdir(parents=True, exist_ok=True)
        _build(building, report)
        # Renaming is safe: only bin/python is used afterwards, and it finds its packages relative to itself.
        if not venv.exists():
            building.rename(venv)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return python


def _build(folder: Path, report: Callable[[str], None]) -> None:
    def progress(line: str) -> None:
        if line.startswith(("Collecting", "Installing", "ERROR")):  # pip prints about 700 lines
            report(line[:100])

    pip = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--progress-bar",
        "off",
    ]
    for argv in (
        [sys.executable, "-m", "venv", str(folder)],
        [*pip, "--require-hashes", "--no-deps", "-r", str(REQUIREMENTS)],
    ):
        status, tail = run_streaming(argv, progress)
        if status:
            raise UserError(f"creating the GCM's environment failed: {tail}; check the network and `pip config list`")
