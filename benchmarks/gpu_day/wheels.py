"""Wheels of what training needs on a bare GPU machine: `python -m benchmarks.gpu_day.wheels FOLDER` (make gpu-wheels).

Names from wheels.txt, versions and hashes from constraints.txt; for Python 3.12 on x86-64 Linux, whatever runs here.
Without a package that is not in the standard library.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT = 64 << 20
"""Bytes of checkout and wheels together that travel to a lent machine."""
GLIBC = (34, 31, 28, 27, 24, 17, 12, 5)
"""Minor versions of glibc 2 whose wheels are taken; pip compares them exactly."""
SOURCE_ONLY = ("deepspeed",)
"""Packages that publish no wheel. Without compiled operators DeepSpeed's own is the same for every platform."""


def names() -> list[str]:
    """The packages of wheels.txt."""
    lines = (ROOT / "benchmarks" / "gpu_day" / "wheels.txt").read_text().splitlines()
    return [name for line in lines if (name := line.split("#")[0].strip())]


def requirements(constraints: str, packages: list[str]) -> str:
    """The lines of constraints.txt of these packages, hashes included.

    Raises:
        SystemExit: one of them is not there.
    """
    pinned = {line.split("==")[0]: line for line in re.sub(r"\\\n", " ", constraints).splitlines() if "==" in line}
    if missing := [name for name in packages if name not in pinned]:
        raise SystemExit(f"wheels.txt: constraints.txt has no {', '.join(missing)}")
    return "".join(pinned[name] + "\n" for name in packages)


def fetch(folder: Path) -> None:
    """Download the wheels, and build those that are not published."""
    constraints = (ROOT / "constraints.txt").read_text()
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in GLIBC]
    platforms += [f"manylinux{old}_x86_64" for old in ("2014", "2010", "1")]
    target = ["--only-binary=:all:", "--implementation=cp", "--python-version=3.12"]
    target += [f"--platform={platform}" for platform in platforms]
    published = [name for name in names() if name not in SOURCE_ONLY]
    for packages, command in (
        (published, ["download", *target, "--dest"]),
        (list(SOURCE_ONLY), ["wheel", "--no-build-isolation", "--wheel-dir"]),
    ):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(requirements(constraints, packages))
            file.flush()
            pip = [sys.executable, "-m", "pip", *command, str(folder)]
            options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--requirement"]
            subprocess.run([*pip, *options, file.name], check=True, env=os.environ | {"DS_BUILD_OPS": "0"})


def check(folder: Path) -> str:
    """What is there, in one line.

    Raises:
        SystemExit: a wheel is missing, there twice, or compiled for this machine alone; or all is too large to travel.
    """
    found = sorted(path.name for path in folder.glob("*.whl"))
    for name in names():
        wheels = [wheel for wheel in found if wheel.split("-")[0].lower() == name.replace("-", "_")]
        if len(wheels) != 1:
            raise SystemExit(f"{folder}: {len(wheels)} wheels of {name}, expected one; remove the folder and try again")
        if wheels[0].endswith(("-linux_x86_64.whl", "-linux_aarch64.whl")):
            raise SystemExit(f"{folder / wheels[0]}: compiled for this machine, not for any with Python 3.12")
    wheel_bytes = sum((folder / wheel).stat().st_size for wheel in found)
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    tree_bytes = sum(
        (ROOT / path).lstat().st_size for path in set(listing.split("\0")) - {""} if (ROOT / path).exists()
    )
    sizes = f"{len(found)} wheels of {wheel_bytes / 2**20:.1f} MiB, checkout {tree_bytes / 2**20:.1f} MiB"
    if wheel_bytes + tree_bytes >= LIMIT:
        raise SystemExit(f"{folder}: {sizes}: together {LIMIT >> 20} MiB or more, too large for a lent machine")
    return f"{folder}: {sizes}"


if __name__ == "__main__":
    target_folder = Path(sys.argv[1])
    try:
        fetch(target_folder)
    except subprocess.CalledProcessError:  # pip has said why
        sys.exit(f"{target_folder}: not all wheels can be fetched; this needs network, or a mirror in PIP_INDEX_URL")
    print(check(target_folder))
