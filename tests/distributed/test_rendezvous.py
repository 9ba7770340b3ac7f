"""The rendezvous address of a job step, derived from Slurm's environment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from climax_hpc.distributed.launcher import World, first_host, reachable, slurm_rendezvous

STEP = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "nid[001234-001240,2],login1",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_PROCID": "9",
}
NINTH = World(rank=9, size=16, local_rank=1, launcher="Slurm")


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node1", "node1"),
        ("node[1-2]", "node1"),
        ("nid[001234-001240,77],login1", "nid001234"),
        ("a,b[1-2]", "a"),
        ("rack[3-4]node[07,09]", "rack3node07"),
        ("x[2,5]-ib,y", "x2-ib"),
        ("cn-3.cluster.org,cn-4.cluster.org", "cn-3.cluster.org"),
    ],
)
def test_first_host(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


def test_all_ranks_of_a_step_agree_and_steps_differ() -> None:
    first = World(rank=0, size=16, launcher="Slurm")
    meeting = slurm_rendezvous(NINTH, STEP)
    assert meeting == slurm_rendezvous(first, STEP | {"SLURM_PROCID": "0"})
    assert meeting is not None
    assert meeting[0] == "nid001234"
    assert meeting != slurm_rendezvous(NINTH, STEP | {"SLURM_STEP_ID": "1"})
    assert meeting != slurm_rendezvous(NINTH, STEP | {"SLURM_JOB_ID": "123457"})
    assert meeting != slurm_rendezvous(NINTH, STEP | {"SLURM_RESTART_COUNT": "1"})


def test_a_site_can_name_the_addresses_of_another_network() -> None:
    """JSC's machines: the names of InfiniBand addresses end in `i`."""
    suffixed = slurm_rendezvous(NINTH, STEP | {"CLIMAX_HPC_HOST_SUFFIX": "i"})
    assert suffixed is not None
    assert suffixed[0] == "nid001234i"
    assert reachable("jwb0001.juwels", {"CLIMAX_HPC_HOST_SUFFIX": "i"}) == "jwb0001i.juwels"
    assert reachable("node1.cluster", {}) == "node1.cluster"


@given(st.integers(1, 2**32), st.integers(0, 10_000))
def test_the_port_is_neither_privileged_nor_one_that_systems_give_away(job: int, step: int) -> None:
    meeting = slurm_rendezvous(NINTH, STEP | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})
    assert meeting is not None
    assert 1024 <= meeting[1] < 32768  # Linux assigns ephemeral ports from 32768


def test_a_step_with_pmi_counts_but_mpiexec_inside_a_step_does_not() -> None:
    pmi = World(rank=9, size=16, local_rank=1, launcher="MPICH")
    assert slurm_rendezvous(pmi, STEP) is not None
    assert slurm_rendezvous(pmi, STEP | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}) is None
    assert slurm_rendezvous(World(), {}) is None
