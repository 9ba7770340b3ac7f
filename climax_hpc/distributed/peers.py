"""Whom a rank reports to in the heartbeat: one rank of each node speaks for the others of its node."""

from collections.abc import Sequence
from dataclasses import dataclass, field

Address = tuple[str, int]
_ANY = "0.0.0.0"
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Peers:
    """Ranks that this one exchanges heartbeats with."""

    superior: int = 0
    """Rank that it reports to: the first rank of its node, which reports to rank 0."""
    superior_address: Address
    first_address: Address
    """Address of rank 0."""
    members: frozenset[int] = frozenset()
    """Ranks that report to this one."""
    turn: float = 0.0
    """Place in the interval between beats, in [0, 1), so that the nodes send one after the other."""
    addresses: dict[int, Address] = field(default_factory=dict)
    """On rank 0, addresses of all other ranks, as they know them; it learns better ones."""


def find_peers(rank: int, nodes: Sequence[str], addresses: Sequence[Address], first_address: Address) -> Peers:
    """Peers of a rank.

    Args:
        nodes: name of the node of each rank.
        addresses: what each rank's socket is bound to.
        first_address: rank 0 as all others reach it.
    """
    speakers: dict[str, int] = {}
    for other, node in enumerate(nodes):
        speakers.setdefault(node, other)
    speaker = speakers[nodes[rank]]
    members = {other for other, node in enumerate(nodes) if node == nodes[rank]} if rank == speaker else set()
    members |= set(speakers.values()) if rank == 0 else set()
    superior = speaker if rank != speaker else 0
    host, port = addresses[superior]
    address = (_LOOPBACK if host == _ANY else host, port)
    return Peers(
        superior=superior,
        superior_address=address if superior else first_address,
        first_address=first_address,
        members=frozenset(members - {rank}),
        turn=list(speakers).index(nodes[rank]) / len(speakers) if rank == speaker else 0.0,
        addresses={other: a for other, a in enumerate(addresses) if other and a[0] != _ANY} if rank == 0 else {},
    )
