"""The lists of exact versions: complete, with hashes, and those of the environment that runs the tests."""

import re
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from climax_hpc.data_prep.simulation.jcm_venv import JCM_VERSION, REQUIREMENTS, default_venv, installed_version

ROOT = Path(__file__).parents[1]
HASHED = {"constraints.txt": ROOT / "constraints.txt", "jcm_requirements.txt": REQUIREMENTS}
_EXTRAS = ("", "mpi", "stores", "fetch", "dev", "docs")
_PACKAGE = "climax-hpc"


def lines(path: Path) -> list[str]:
    """The entries of a list, each on one line."""
    joined = path.read_text().replace("\\\n", " ").splitlines()
    return [line for line in joined if line and not line.startswith("#")]


def entries(path: Path) -> dict[str, str]:
    """Name of a package -> its entry. Where versions of Python have different ones, that of this Python."""
    found: dict[str, str] = {}
    for line in lines(path):
        requirement = Requirement(line.split("--hash")[0])
        name = canonicalize_name(requirement.name)
        assert name not in found or applies(line) != applies(found[name]), f"{name} is listed twice"
        if name not in found or applies(line):
            found[name] = line
    return found


def applies(line: str) -> bool:
    """Whether the marker of an entry holds here."""
    marker = Requirement(line.split("--hash")[0]).marker
    return marker is None or marker.evaluate()


def versions(path: Path) -> dict[str, Version]:
    """Name of a package -> the version listed."""
    pinned = {name: re.match(r"[\w.-]+==([^ ;]+)", line) for name, line in entries(path).items()}
    assert all(pinned.values()), [name for name, match in pinned.items() if not match]
    return {name: Version(match[1]) for name, match in pinned.items() if match}


def needed(name: str, extras: tuple[str, ...], done: set[str]) -> Iterator[str]:
    """Packages that an installed package needs here, and what those need; not what torch needs."""
    for text in metadata.requires(name) or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            continue
        other = canonicalize_name(requirement.name)
        if other not in done and other != _PACKAGE:
            done.add(other)
            yield other
            if other != "torch" and installed(other):
                yield from needed(other, tuple(requirement.extras), done)


def installed(name: str) -> Version | None:
    try:
        return Version(metadata.version(name))
    except metadata.PackageNotFoundError:
        return None


@pytest.mark.parametrize("file", HASHED)
def test_every_entry_has_a_version_and_a_hash(file: str) -> None:
    versions(HASHED[file])
    assert not [line for line in lines(HASHED[file]) if not re.search(r"--hash=sha256:[0-9a-f]{64}", line)]


def test_the_lists_hold_what_the_environment_has() -> None:
    listed = versions(ROOT / "constraints.txt") | versions(ROOT / "constraints-torch.txt")
    here = {name: version for name in needed(_PACKAGE, _EXTRAS, set()) if (version := installed(name))}
    assert len(here) > 80
    assert sorted(here.keys() - listed.keys()) == []
    # The local part of a version, as in 2.13.0+cpu, names a build.
    other = {n: (str(v), str(listed[n])) for n, v in here.items() if v.public != listed[n].public and n != "torch"}
    assert other == {}, "installed and listed versions"


def test_what_is_declared_is_listed_in_an_allowed_version() -> None:
    listed = versions(ROOT / "constraints.txt") | versions(ROOT / "constraints-torch.txt")
    for text in metadata.requires(_PACKAGE) or ():
        requirement = Requirement(text)
        assert requirement.specifier.contains(listed[canonicalize_name(requirement.name)]), text


def test_torch_alone_has_no_hash() -> None:
    torch = entries(ROOT / "constraints-torch.txt")
    assert all(re.match(r"(torch|nvidia|cuda)\b", name) for name in torch)
    assert not any("--hash" in line for line in torch.values())
    assert not torch.keys() & entries(ROOT / "constraints.txt").keys()


def test_the_gcm_has_the_listed_versions() -> None:
    listed = versions(REQUIREMENTS)
    assert listed["jcm"] == Version(JCM_VERSION)
    assert {"jax", "jaxlib", "dinosaur", "matplotlib"} <= listed.keys()
    venv = default_venv()
    if installed_version(venv) is None:
        return  # `climax-hpc simulate` makes it when it first runs
    command = "import importlib.metadata as m; [print(d.name, d.version) for d in m.distributions()]"
    printed = subprocess.run(
        [venv / "bin/python", "-I", "-c", command], capture_output=True, text=True, check=True
    ).stdout
    here = {canonicalize_name(name): version for name, version in map(str.split, printed.splitlines())}
    assert {n: v for n, v in here.items() if n not in ("pip", "setuptools") and str(listed.get(n)) != v} == {}
