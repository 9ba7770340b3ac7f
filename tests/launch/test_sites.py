"""The site files: exactly the documented keys, each within the limits that the site publishes, with its sources."""

import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from climax_hpc.launch.scripts import scripts

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "guides"
FOLDER = scripts() / "sites"


@dataclass(frozen=True)
class Limits:
    """What a site publishes about its GPU nodes; the files name the pages."""

    hours: float
    """Longest job on four nodes, in the queue of the file."""
    gpus: int
    threads: int
    """Hardware threads of a node that jobs can use."""
    source: str


LIMITS = {
    "perlmutter": Limits(24, 4, 128, "docs.nersc.gov/jobs/policy"),
    "frontier": Limits(2, 8, 112, "docs.olcf.ornl.gov/systems/frontier_user_guide.html"),
    "lumi": Limits(48, 8, 63, "docs.lumi-supercomputer.eu/runjobs/scheduled-jobs/partitions"),
    "leonardo": Limits(24, 4, 32, "docs.hpc.cineca.it/hpc/leonardo.html"),
    "levante": Limits(12, 4, 256, "docs.dkrz.de/doc/levante/running-jobs/partitions-and-limits.html"),
    "juwels_booster": Limits(24, 4, 96, "apps.fz-juelich.de/jsc/hps/juwels"),
    "jupiter": Limits(24, 4, 288, "apps.fz-juelich.de/jsc/hps/jupiter"),
    "derecho": Limits(12, 4, 64, "github.com/NCAR/HPC-Docs"),
}
SLURM = sorted(LIMITS.keys() - {"derecho"})


def hours(time: str) -> float:
    """A time limit as sbatch and qsub take it: minutes, or [D-]H:MM:SS [h]."""
    if time.isdigit():
        return int(time) / 60
    days, _, rest = time.rpartition("-")
    hour, minute, second = map(int, rest.split(":"))
    return 24 * int(days or 0) + hour + minute / 60 + second / 3600


@cache
def keys_of(site: str) -> dict[str, str]:
    """The variables that a site file exports in a shell without modules."""
    code = f'set -u; . "{FOLDER}/{site}.env"; export -p'
    done = subprocess.run(
        ["bash", "--norc", "-c", code], capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}
    )
    found = dict(re.findall(r'^declare -x (\w+)="(.*)"$', done.stdout, re.MULTILINE))
    return {key: value for key, value in found.items() if key not in ("PATH", "OLDPWD", "PWD", "SHLVL", "_")}


def documented(site: str) -> set[str]:
    """The keys of a site in the table of the page; a key may end in `*`."""
    table = re.findall(r"^\| `([A-Z][A-Z0-9_*]+)` \| ([a-z_, ]+) \|", (GUIDES / "sites.md").read_text(), re.MULTILINE)
    assert len(table) > 20
    found = set()
    for key, sites in table:
        names = set(sites.removeprefix("all but ").split(", "))
        assert names <= LIMITS.keys(), f"{key}: {names - LIMITS.keys()}"
        if (site in names) != sites.startswith("all but "):
            found.add(key)
    return found


def test_every_site_file_is_known() -> None:
    assert {path.stem for path in FOLDER.glob("*.env")} == LIMITS.keys() | {"generic"}
    page = (GUIDES / "sites.md").read_text()
    assert all(f"| `{site}.env` |" in page for site in LIMITS)


@pytest.mark.parametrize("site", LIMITS)
def test_a_site_file_names_its_sources_and_that_it_is_unproven(site: str) -> None:
    text = (FOLDER / f"{site}.env").read_text()
    assert "# UNPROVEN: this project has not run on the machine." in text
    assert LIMITS[site].source in text
    cited = set(re.findall(r"\[(\d)\]", text))
    assert cited == set(re.findall(r"^#   \[(\d)\] \S+\.\S+/", text, re.MULTILINE)), "sources and references differ"


@pytest.mark.parametrize("site", LIMITS)
def test_a_site_file_sets_exactly_the_documented_keys(site: str) -> None:
    keys, listed = keys_of(site), documented(site)
    families = {key.rstrip("*") for key in listed if key.endswith("*")}
    found = {key for key in keys if not key.startswith(tuple(families) or ("-",))}
    conditional = {"LD_LIBRARY_PATH"}  # with modules only
    assert found == {key for key in listed if not key.endswith("*")} - conditional
    assert all(any(key.startswith(family) for key in keys) for family in families)


@pytest.mark.parametrize("site", SLURM)
def test_values_are_within_the_limits_of_the_site(site: str) -> None:
    keys, limits = keys_of(site), LIMITS[site]
    assert 0 < hours(keys["SBATCH_TIMELIMIT"]) <= limits.hours
    ranks, cores = int(keys["CLIMAX_HPC_TASKS_PER_NODE"]), int(keys["SRUN_CPUS_PER_TASK"])
    assert ranks == limits.gpus
    assert ranks * cores <= limits.threads
    gpus = keys.get("SBATCH_GPUS_PER_NODE") or keys.get("SBATCH_GRES", "").removeprefix("gpu:") or None
    assert gpus is None or int(gpus) == limits.gpus
    masks = [int(mask, 16) for mask in re.findall(r"0x[0-9a-f]+", keys.get("SLURM_CPU_BIND", ""))]
    assert all(mask.bit_count() == cores for mask in masks)
    assert len(masks) in (0, ranks)
    assert sum(masks).bit_count() == ranks * cores * bool(masks), "ranks share cores"


def test_values_of_derecho_are_within_its_limits() -> None:
    keys, limits = keys_of("derecho"), LIMITS["derecho"]
    walltime = re.search(r"-l walltime=(\S+)", keys["CLIMAX_HPC_QSUB_OPTIONS"])
    assert walltime
    assert hours(walltime[1]) <= limits.hours
    node = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", keys["CLIMAX_HPC_QSUB_NODE"])}
    assert node["mpiprocs"] == node["ngpus"] == limits.gpus
    assert node["mpiprocs"] * node["ompthreads"] <= node["ncpus"] <= limits.threads


def test_what_went_wrong_before() -> None:
    assert keys_of("perlmutter")["SBATCH_QOS"] == "regular"  # the default is debug
    assert not any("CUDA_VISIBLE_DEVICES" in keys_of(site) for site in LIMITS)  # Slurm overwrites it
    assert keys_of("frontier")["SBATCH_CONSTRAINT"] == "nvme"  # its disks are there only then
    assert keys_of("juwels_booster")["CLIMAX_HPC_HOST_SUFFIX"] == "i"


@pytest.mark.parametrize("page", ["slurm.md", "sites.md"])
def test_commands_of_the_pages_are_within_every_limit(page: str) -> None:
    """A command without a site in it must be accepted everywhere."""
    commands = re.findall(r"^ *sbatch .*(?:\\\n.*)*", (GUIDES / page).read_text(), re.MULTILINE)
    assert commands
    for command in commands:
        for time in re.findall(r"--time=(\S+)", command):
            assert hours(time) <= min(limits.hours for limits in LIMITS.values()), command
